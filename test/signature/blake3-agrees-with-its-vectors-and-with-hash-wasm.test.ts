import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { createBLAKE3 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import vectors from '../vectors/blake3.json' with { type: 'json' };
import { hex, noise } from './xxh3-nh128-blocks-memory.ts';

/** Every build of the kernel passes the same suite. */
const builds = ['blake3'];

const MEMORY_PAGES = 512;
const SCRATCH_AT = 64;
/** As `wasm/blake3.ts` states it. */
const scratchBytes = 8192;
const GUARD = 0xa5;

type Hash = (pointer: number, length: number, count: number, out: number, scratch: number) => void;
type HashKeyed = (
  pointer: number,
  length: number,
  count: number,
  out: number,
  key: number,
  scratch: number,
) => void;

function instance(build: string, pages = MEMORY_PAGES) {
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const file = new URL(`../../dist/wasm/${build}.wasm`, import.meta.url);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(file)), {
    env: { memory },
  });
  return {
    bytes: new Uint8Array(memory.buffer),
    hash: exports.hash as Hash,
    hashKeyed: exports.hash_keyed as HashKeyed,
  };
}

const key = new TextEncoder().encode(vectors.key);

describe.each(builds)('%s', (build) => {
  const { bytes, hash, hashKeyed } = instance(build);

  /** Lays blocks, outputs and scratch apart, with guard bytes around; hashes; checks the guards. */
  function digests(
    input: Uint8Array,
    length: number,
    count: number,
    options: { at: number; keyed: Uint8Array | null },
  ): string[] {
    const scratchEnd = SCRATCH_AT + scratchBytes;
    const keyAt = scratchEnd + 64 + 3;
    const out = keyAt + 32 + 64 + options.at;
    const pointer = out + 32 * count + 64 + options.at;
    // Scratch holds whatever was there before: no call may count on it.
    bytes.fill(GUARD, 0, pointer);
    bytes.set(input, pointer);
    bytes.fill(GUARD, pointer + input.length, pointer + input.length + 64);
    if (options.keyed) bytes.set(options.keyed, keyAt);
    if (options.keyed) hashKeyed(pointer, length, count, out, keyAt, SCRATCH_AT);
    else hash(pointer, length, count, out, SCRATCH_AT);
    const untouched = [
      [0, SCRATCH_AT],
      [scratchEnd, keyAt],
      [keyAt + 32, out],
      [out + 32 * count, pointer],
      [pointer + input.length, pointer + input.length + 64],
    ] as const;
    for (const [from, to] of untouched)
      expect(bytes.subarray(from, to).every((byte) => byte === GUARD)).toBe(true);
    expect(Buffer.compare(bytes.subarray(pointer, pointer + input.length), input)).toBe(0);
    return Array.from({ length: count }, (_, i) => hex(bytes.subarray(out + 32 * i, out + 32 * (i + 1))));
  }

  it.each(vectors.cases)(
    'agrees with the official vector of $length bytes, plain and keyed',
    ({ length, hash: plain, keyed }) => {
      const input = Uint8Array.from({ length }, (_, i) => i % 251);
      expect(digests(input, length, 1, { at: 0, keyed: null })).toEqual([plain]);
      expect(digests(input, length, 1, { at: 1, keyed: key })).toEqual([keyed]);
      // The same block eleven times: full and partly filled lanes.
      const many = new Uint8Array(11 * length);
      for (let i = 0; i < 11; i++) many.set(input, i * length);
      expect(digests(many, length, 11, { at: 3, keyed: null })).toEqual(Array(11).fill(plain));
      expect(digests(many, length, 11, { at: 5, keyed: key })).toEqual(Array(11).fill(keyed));
    },
  );

  /** Around whole chunks trees change their shape. */
  const nearChunks = (most: number) =>
    fc
      .tuple(fc.integer({ min: 1, max: most }), fc.integer({ min: -1, max: 1 }))
      .map(([chunks, by]) => 1024 * chunks + by);
  const lengths = fc.oneof(
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 5000 }) },
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 70_000 }) },
    { weight: 3, arbitrary: nearChunks(68) },
    { weight: 2, arbitrary: fc.constantFrom(512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072) },
  );

  it('agrees with hash-wasm for random lengths, alignments, counts and keys', async () => {
    const plain = await createBLAKE3();
    await fc.assert(
      fc.asyncProperty(
        lengths,
        fc.integer({ min: 1, max: 40 }),
        fc.nat(63),
        fc.nat(2 ** 31),
        fc.boolean(),
        async (length, count, at, seed, isKeyed) => {
          const input = noise(length * count, seed);
          const ownKey = isKeyed ? noise(32, seed + 1) : null;
          const oracle = ownKey ? await createBLAKE3(256, ownKey) : plain;
          const expected = Array.from({ length: count }, (_, i) =>
            oracle
              .init()
              .update(input.subarray(i * length, (i + 1) * length))
              .digest('hex'),
          );
          expect(digests(input, length, count, { at, keyed: ownKey })).toEqual(expected);
        },
      ),
      { numRuns: 150 },
    );
  });

  it.each([2 ** 20 - 1, 2 ** 20, 3 * 2 ** 20 + 77, 16 * 2 ** 20 - 1, 16 * 2 ** 20])(
    'agrees with hash-wasm at %d bytes, plain and keyed',
    async (length) => {
      const input = noise(length, length);
      for (const keyed of [null, key]) {
        const oracle = await (keyed ? createBLAKE3(256, keyed) : createBLAKE3());
        expect(digests(input, length, 1, { at: 0, keyed })).toEqual([
          oracle.init().update(input).digest('hex'),
        ]);
      }
    },
  );

  it('agrees with hash-wasm for a few large blocks of random lengths', async () => {
    const oracle = await createBLAKE3();
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.integer({ min: 70_000, max: 8 * 2 ** 20 }), nearChunks(8 * 1024 - 1)),
        fc.integer({ min: 1, max: 3 }),
        fc.nat(63),
        async (length, count, at) => {
          const input = noise(length * count, length);
          const expected = Array.from({ length: count }, (_, i) =>
            oracle
              .init()
              .update(input.subarray(i * length, (i + 1) * length))
              .digest('hex'),
          );
          expect(digests(input, length, count, { at, keyed: null })).toEqual(expected);
        },
      ),
      { numRuns: 12 },
    );
  });

  it('keeps to its scratch where trees are deepest: eight lanes of 16 MiB', async () => {
    const [length, pointer] = [16 * 2 ** 20, 65536];
    const large = instance(build, 1 + (8 * length) / 65536);
    const input = noise(length, 16);
    large.bytes.fill(GUARD, 0, pointer);
    for (let lane = 0; lane < 8; lane++) large.bytes.set(input, pointer + lane * length);
    const out = pointer - 8 * 32;
    large.hash(pointer, length, 8, out, SCRATCH_AT);
    const oracle = await createBLAKE3();
    expect(hex(large.bytes.subarray(out, pointer))).toBe(oracle.init().update(input).digest('hex').repeat(8));
    const behind = large.bytes.subarray(SCRATCH_AT + scratchBytes, out);
    expect(behind.every((byte) => byte === GUARD)).toBe(true);
  });

  it('reads nothing past the last byte of memory', async () => {
    const oracle = await createBLAKE3();
    for (const [length, count] of [
      [1, 1],
      [63, 3],
      [1000, 8],
      [1024, 1],
      [1025, 9],
      [4096, 1],
      [4096, 9],
      [10_000, 2],
      [65536, 3],
    ] as const) {
      const input = noise(length * count, length);
      const pointer = bytes.length - input.length;
      bytes.set(input, pointer);
      const out = SCRATCH_AT + scratchBytes + 64;
      expect(() => hash(pointer, length, count, out, SCRATCH_AT)).not.toThrow();
      const last = input.subarray((count - 1) * length);
      expect(hex(bytes.subarray(out + 32 * (count - 1), out + 32 * count))).toBe(
        oracle.init().update(last).digest('hex'),
      );
    }
  });
});
