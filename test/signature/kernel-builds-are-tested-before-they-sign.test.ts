import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createBLAKE3, createXXHash128 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import {
  chooseKernels,
  compileKernels,
  kernelBuilds,
  signAsKnown,
  testDigests,
} from '../../src/signature/kernel-builds.ts';
import { root } from '../tools.ts';

/** The test's own blocks, signed by another library. */
async function independent(create: typeof createBLAKE3): Promise<string> {
  const input = Buffer.alloc(12 * 1024);
  for (let i = 0; i < input.length; i++) input[i] = (i * 7 + (i >> 8)) & 0xff;
  const blocks = [input, ...Array.from({ length: 11 }, (_, i) => input.subarray(i * 1111, (i + 1) * 1111))];
  const hash = await create();
  const digests = blocks.map((block) => Buffer.from(hash.init().update(block).digest('hex'), 'hex'));
  const over = await createBLAKE3();
  return over.init().update(Buffer.concat(digests)).digest('hex');
}

describe.each(kernelBuilds)('%s', (build) => {
  it('passes, and signs as an independent library does', async () => {
    const modules = compileKernels(build);
    expect(signAsKnown(modules)).toBe(true);
    const digests = testDigests(modules);
    expect(digests.blake3).toBe(await independent(createBLAKE3));
    expect(digests['xxh3-128']).toBe(await independent(createXXHash128 as typeof createBLAKE3));
  });

  it('can be forced', () => {
    expect(chooseKernels(build)).toMatchObject({ build, reason: 'DRIFTMAP_KERNEL', failed: [] });
  });

  it.each(['blake3', 'nh', 'xxh3', 'blocks'] as const)(
    'fails with a %s that is wrong in one constant',
    (name) => {
      const file = build === 'swizzle' && name === 'blake3' ? 'blake3-swizzle' : name;
      const bytes = readFileSync(join(root, 'dist', 'wasm', `${file}.wasm`));
      const good = compileKernels(build);
      // Every constant of the code is tried, until one is found that changes what is signed and still compiles.
      const spoiled = [...constantsOf(bytes)].some((at) => {
        const wrong = Uint8Array.from(bytes);
        wrong[at]! ^= 1;
        if (!WebAssembly.validate(wrong)) return false;
        try {
          return !signAsKnown({ ...good, [name]: new WebAssembly.Module(wrong) });
        } catch {
          return false;
        }
      });
      expect(spoiled).toBe(true);
    },
  );
});

/** Places of the first byte of `i32.const` operands of 16 or more: smaller ones count loops, which might not end. */
function* constantsOf(bytes: Uint8Array): Generator<number> {
  for (let at = 100; at + 3 < bytes.length; at++)
    if (bytes[at] === 0x41 && bytes[at + 1]! >= 16) yield at + 1;
}

describe('choosing', () => {
  it('takes the build that this V8 runs fastest', () => {
    const before13 = Number.parseInt(process.versions.v8, 10) < 13;
    expect(chooseKernels().build).toBe(before13 ? 'swizzle' : 'plain');
  });

  it('a build that there is not is named with those that there are', () => {
    expect(() => chooseKernels('avx512')).toThrow(/DRIFTMAP_KERNEL: expected plain or swizzle, got 'avx512'/);
  });

  it('DRIFTMAP_KERNEL reaches the command, and info shows it', () => {
    const run = (kernel: string) =>
      spawnSync(process.execPath, [join(root, 'dist', 'lib', 'main.js'), 'info', '--json'], {
        encoding: 'utf8',
        env: { ...process.env, DRIFTMAP_KERNEL: kernel },
      });
    expect(JSON.parse(run('plain').stdout).kernels).toMatchObject({
      build: 'plain',
      reason: 'DRIFTMAP_KERNEL',
    });
    const wrong = run('fast');
    expect(wrong.status).toBe(2);
    expect(wrong.stderr).toMatch(/expected plain or swizzle, got 'fast'/);
  });
});
