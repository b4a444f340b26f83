import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { KERNEL_SCRATCH_BYTES } from '../../src/base/limits.ts';
import { SlotArena } from '../../src/memory/shared-memory.ts';
import { algorithmByName, algorithms } from '../../src/signature/algorithm.ts';
import { Kernels, loadKernels } from '../../src/signature/kernels.ts';

const folder = fileURLToPath(new URL('../../dist/wasm/', import.meta.url));
const files = readdirSync(folder).filter((file) => file.endsWith('.wasm'));

/** Section ids of a module, in order (WebAssembly core specification, 5.5.2). */
function sections(bytes: Uint8Array): number[] {
  const found: number[] = [];
  for (let at = 8; at < bytes.length; ) {
    found.push(bytes[at++]!);
    let [size, shift] = [0, 0];
    for (let byte = 0x80; byte & 0x80; shift += 7) {
      byte = bytes[at++]!;
      size |= (byte & 0x7f) << shift;
    }
    at += size;
  }
  return found;
}

describe.each(files)('%s', (file) => {
  it('has no memory and no data of its own: instantiating it changes nothing', () => {
    const bytes = readFileSync(join(folder, file));
    const [memorySection, startSection, dataSection] = [5, 8, 11];
    for (const section of [memorySection, startSection, dataSection])
      expect(sections(bytes)).not.toContain(section);
    const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
    new Uint8Array(memory.buffer).fill(0x5a);
    new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
    expect(new Uint8Array(memory.buffer).every((byte) => byte === 0x5a)).toBe(true);
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

describe('the libraries', () => {
  const published = [
    // FIPS 180-4 examples; RFC 3174; RFC 1321 A.5; RFC 3720 B.4.
    ['sha256', 'abc', 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
    ['sha1', 'abc', 'a9993e364706816aba3e25717850c26c9cd0d89d'],
    ['md5', 'abc', '900150983cd24fb0d6963f7d28e17f72'],
    ['crc32c', '\0'.repeat(32), '8a9136aa'],
    ['crc32c', '\xff'.repeat(32), '62a8ab43'],
    ['crc32c', String.fromCharCode(...Array.from({ length: 32 }, (_, i) => i)), '46dd794e'],
  ] as const;

  it.each(published)('give the published %s of %j', async (name, text, expected) => {
    const { kernels, memory, at } = await kernelsOn(1000);
    const algorithm = algorithmByName(name);
    memory.set(Buffer.from(text, 'latin1'), at);
    (await kernels.signer(algorithm)).sign(at, text.length, 1, at + 500);
    expect(Buffer.from(memory.slice(at + 500, at + 500 + algorithm.digestLength)).toString('hex')).toBe(
      expected,
    );
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
