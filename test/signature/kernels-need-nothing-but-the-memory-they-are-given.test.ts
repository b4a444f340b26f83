import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { KERNEL_SCRATCH_BYTES } from '../../src/base/limits.ts';
import { SlotArena } from '../../src/memory/shared-memory.ts';
import { algorithmByName, algorithms } from '../../src/signature/algorithm.ts';
import { loadKernels } from '../../src/signature/kernel-builds.ts';
import { Kernels } from '../../src/signature/kernels.ts';

const folder = fileURLToPath(new URL('../../dist/wasm/', import.meta.url));
const files = readdirSync(folder).filter((file) => file.endsWith('.wasm'));

/** The sections of a module by their ids (WebAssembly core specification, 5.5.2). */
function sections(bytes: Uint8Array): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  for (let at = 8; at < bytes.length; ) {
    const id = bytes[at++]!;
    let [size, shift] = [0, 0];
    for (let byte = 0x80; byte & 0x80; shift += 7) {
      byte = bytes[at++]!;
      size |= (byte & 0x7f) << shift;
    }
    found.set(id, bytes.subarray(at, at + size));
    at += size;
  }
  return found;
}

describe.each(files)('%s', (file) => {
  it('has no memory and no data of its own: instantiating it changes nothing', () => {
    const bytes = readFileSync(join(folder, file));
    const [memorySection, startSection, dataSection] = [5, 8, 11];
    for (const section of [memorySection, startSection, dataSection])
      expect(sections(bytes).has(section)).toBe(false);
    const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
    new Uint8Array(memory.buffer).fill(0x5a);
    new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
    expect(new Uint8Array(memory.buffer).every((byte) => byte === 0x5a)).toBe(true);
  });

  it('imports one shared memory and nothing else', () => {
    const importSection = sections(readFileSync(join(folder, file))).get(2)!;
    // One import: two names, kind 2 (memory), limits 3 (with a maximum, and shared by the threads proposal).
    const expected = ['\x01', '\x03env', '\x06memory', '\x02', '\x03'].join('');
    expect(Buffer.from(importSection).toString('latin1').slice(0, expected.length)).toBe(expected);
  });

  it('is what its source was pinned to', () => {
    const sums = readFileSync(new URL('../../wasm/SHA256SUMS', import.meta.url), 'utf8');
    expect(sums).toContain(
      `${createHash('sha256')
        .update(readFileSync(join(folder, file)))
        .digest('hex')}  ${file}`,
    );
  });
});

async function kernelsOn(bytes: number) {
  const { memory, pointer } = new SlotArena(1, KERNEL_SCRATCH_BYTES + bytes).slot(0);
  const kernels = new Kernels(loadKernels(), memory, pointer);
  return { kernels, memory: new Uint8Array(memory.buffer), at: pointer + KERNEL_SCRATCH_BYTES };
}

describe('signers', () => {
  it('of two memories work side by side, and of one memory by turns', async () => {
    const [one, two] = [await kernelsOn(10_000), await kernelsOn(10_000)];
    const key = new Uint8Array(32).fill(9);
    one.memory.fill(1, one.at, one.at + 4096);
    two.memory.fill(1, two.at, two.at + 4096);
    for (const algorithm of algorithms) {
      const digests = await Promise.all(
        [one, two, one].map(async ({ kernels, memory, at }) => {
          (await kernels.signer(algorithm, key)).sign(at, 2048, 2, at + 5000);
          return Buffer.from(memory.slice(at + 5000, at + 5000 + 2 * algorithm.digestLength)).toString('hex');
        }),
      );
      expect(new Set(digests).size).toBe(1);
      expect(digests[0]!.slice(0, 2 * algorithm.digestLength)).toBe(
        digests[0]!.slice(2 * algorithm.digestLength),
      );
    }
  });

  it('write their digests and not a byte more', async () => {
    const { kernels, memory, at } = await kernelsOn(100_000);
    for (const algorithm of algorithms) {
      for (const [length, count] of [
        [1, 5],
        [513, 9],
        [4096, 3],
      ] as const) {
        memory.fill(0xcc, at, at + 100_000);
        (await kernels.signer(algorithm, new Uint8Array(32))).sign(at + 20_000, length, count, at + 1000);
        const end = at + 1000 + count * algorithm.digestLength;
        expect(memory.subarray(at, at + 1000).every((byte) => byte === 0xcc)).toBe(true);
        expect(memory.subarray(end, at + 100_000).every((byte) => byte === 0xcc)).toBe(true);
        expect(memory.subarray(at + 1000, end).every((byte) => byte === 0xcc)).toBe(false);
      }
    }
  });

  it('under a key refuse to work without one of 32 bytes, and never show it', async () => {
    const { kernels } = await kernelsOn(1000);
    const nh128 = algorithmByName('nh128');
    for (const key of [undefined, new Uint8Array(31).fill(0xab), new Uint8Array(33).fill(0xab)]) {
      const error = await (async () => kernels.signer(nh128, key))().then(
        () => null,
        (cause: Error) => cause,
      );
      expect(error).toMatchObject({ kind: 'argument' });
      expect(JSON.stringify(error) + error!.message + error!.stack).not.toMatch(/abab|171,171/i);
    }
  });
});

describe('loading', () => {
  /** Tries to load the kernels of a copy of the built code. @returns what was thrown, as that process saw it */
  function load(spoil: (wasm: string) => void): {
    name: string;
    kind: string;
    message: string;
    path: string;
  } {
    const copy = mkdtempSync(join(tmpdir(), 'driftmap-test-'));
    try {
      writeFileSync(join(copy, 'package.json'), '{"type":"module"}');
      for (const part of ['base', 'memory', 'signature', 'wasm'])
        cpSync(join(folder, '..', part), join(copy, part), { recursive: true });
      spoil(join(copy, 'wasm', 'xxh3.wasm'));
      const script = `
        const { loadKernels } = await import(process.argv[1]);
        try { loadKernels(); } catch ({ name, kind, message, path }) {
          console.log(JSON.stringify({ name, kind, message, path }));
        }`;
      const kernels = pathToFileURL(join(copy, 'signature', 'kernel-builds.js')).href;
      const { stdout, stderr } = spawnSync(
        process.execPath,
        ['--input-type=module', '--eval', script, kernels],
        { encoding: 'utf8' },
      );
      expect(stderr).toBe('');
      return JSON.parse(stdout);
    } finally {
      rmSync(copy, { recursive: true, force: true });
    }
  }

  it.each([
    ['a missing file', (wasm: string) => rmSync(wasm)],
    ['a file cut short', (wasm: string) => truncateSync(wasm, 1000)],
    ['an empty file', (wasm: string) => truncateSync(wasm, 0)],
  ])('ends for %s in an error that names it and says what to do', (_, spoil) => {
    const error = load(spoil);
    expect(error).toMatchObject({ name: 'DriftmapError', kind: 'internal' });
    expect(error.path).toMatch(/xxh3\.wasm$/);
    expect(error.message).toMatch(/npm run build/);
  });
});

describe('algorithms', () => {
  it('keep their ids for ever', () => {
    expect(algorithms.map(({ id, name, digestLength }) => [id, name, digestLength])).toEqual([
      [1, 'blake3', 32],
      [2, 'nh128', 16],
      [3, 'xxh3-128', 16],
      [4, 'sha256', 32],
      [5, 'sha1', 20],
      [6, 'md5', 16],
      [7, 'crc32c', 4],
    ]);
  });

  it('are known by name, and an unknown name lists them', () => {
    expect(() => algorithmByName('sha3')).toThrow(/expected one of blake3, nh128, xxh3-128/);
  });
});
