import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KernelMemory, noise } from './xxh3-nh128-blocks-memory.ts';

type Zero = (pointer: number, length: number, count: number, flags: number) => number;
type Differ = (a: number, b: number, length: number, count: number, flags: number) => number;

const FLAGS = 4096;
const A = 65_536;
const B = 3 * 65_536;
const SPAN = 120_000;

const kernel = new KernelMemory(5 * 65_536);
const blocks = kernel.instance('blocks').exports;
const zero = blocks.zero as Zero;
const differ = blocks.differ as Differ;

interface Run {
  readonly length: number;
  readonly count: number;
  /** Distances of the two runs, and of the flags, from alignment. */
  readonly shifts: readonly [number, number, number];
  /** Bytes to change, as fractions of the run, and what is XORed into them. */
  readonly changes: readonly (readonly [number, number])[];
}

const lengths = fc.oneof(
  fc.integer({ min: 1, max: 48 }),
  fc.integer({ min: 1, max: 700 }),
  fc.constantFrom(16, 32, 512, 4096),
);
const runs: fc.Arbitrary<Run> = fc.record({
  length: lengths,
  count: fc.integer({ min: 1, max: 24 }),
  shifts: fc.tuple(fc.nat(31), fc.nat(31), fc.nat(15)),
  changes: fc.array(
    fc.tuple(fc.double({ min: 0, max: 0.999999, noNaN: true }), fc.integer({ min: 1, max: 255 })),
    {
      maxLength: 6,
    },
  ),
});

/** `count` flags from the kernel, with the number it returned. */
function flagsOf(
  count: number,
  at: number,
  call: (flags: number) => number,
): { flags: number[]; found: number } {
  let found = -1;
  const flags = kernel.output(at, count, () => {
    found = call(at);
  });
  return { flags: [...flags], found };
}

function changed(bytes: Uint8Array, changes: Run['changes']): Uint8Array {
  const copy = Uint8Array.from(bytes);
  for (const [where, mask] of changes) copy[Math.floor(where * copy.length)]! ^= mask;
  return copy;
}

function eachBlock(bytes: Uint8Array, { length, count }: Run): Uint8Array[] {
  return Array.from({ length: count }, (_, i) => bytes.subarray(i * length, (i + 1) * length));
}

function sum(flags: readonly number[]): number {
  return flags.reduce((total, flag) => total + flag, 0);
}

describe('zero', () => {
  it('flags exactly the blocks that are all zero', () => {
    fc.assert(
      fc.property(runs, (run) => {
        const bytes = changed(new Uint8Array(run.length * run.count), run.changes);
        const [shift, , flagShift] = run.shifts;
        // Surroundings that are not zero must not be seen.
        kernel.bytes.fill(0xff, A, A + SPAN);
        kernel.put(A + 64 + shift, bytes);
        const expected = eachBlock(bytes, run).map((block) => (block.every((byte) => byte === 0) ? 1 : 0));
        const { flags, found } = flagsOf(run.count, FLAGS + flagShift, (at) =>
          zero(A + 64 + shift, run.length, run.count, at),
        );
        expect(flags).toEqual(expected);
        expect(found).toBe(sum(expected));
      }),
      { numRuns: 1000 },
    );
  });

  it('sees a single byte wherever it is, the last one too', () => {
    for (const length of [
      1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 127, 128, 129, 143, 144, 145, 255, 256, 300, 512,
    ]) {
      const at = A + 5;
      kernel.bytes.fill(0, A, A + 1024);
      expect(zero(at, length, 1, FLAGS)).toBe(1);
      for (let i = 0; i < length; i++) {
        kernel.bytes[at + i] = 1;
        expect(zero(at, length, 1, FLAGS), `byte ${i} of ${length}`).toBe(0);
        kernel.bytes[at + i] = 0;
      }
    }
  });
});

describe('differ', () => {
  it('flags exactly the items that differ', () => {
    fc.assert(
      fc.property(runs, fc.nat(1_000_000), (run, seed) => {
        const first = noise(run.length * run.count, seed);
        const second = changed(first, run.changes);
        const [shiftA, shiftB, flagShift] = run.shifts;
        // Surroundings that differ must not be seen.
        kernel.bytes.fill(0x11, A, A + SPAN);
        kernel.bytes.fill(0x22, B, B + SPAN);
        kernel.put(A + 64 + shiftA, first);
        kernel.put(B + 64 + shiftB, second);
        const others = eachBlock(second, run);
        const expected = eachBlock(first, run).map((block, i) =>
          Buffer.compare(block, others[i]!) === 0 ? 0 : 1,
        );
        const { flags, found } = flagsOf(run.count, FLAGS + flagShift, (at) =>
          differ(A + 64 + shiftA, B + 64 + shiftB, run.length, run.count, at),
        );
        expect(flags).toEqual(expected);
        expect(found).toBe(sum(expected));
      }),
      { numRuns: 1000 },
    );
  });

  it('sees a single bit wherever it is', () => {
    for (const length of [1, 2, 3, 4, 7, 8, 15, 16, 17, 32, 33, 127, 128, 129, 144, 145, 300]) {
      const bytes = noise(length, length);
      kernel.put(A + 3, bytes);
      kernel.put(B + 6, bytes);
      expect(differ(A + 3, B + 6, length, 1, FLAGS)).toBe(0);
      for (let bit = 0; bit < 8 * length; bit++) {
        kernel.bytes[B + 6 + (bit >> 3)]! ^= 1 << (bit & 7);
        expect(differ(A + 3, B + 6, length, 1, FLAGS), `bit ${bit} of ${length} bytes`).toBe(1);
        kernel.bytes[B + 6 + (bit >> 3)]! ^= 1 << (bit & 7);
      }
    }
  });
});

describe('both', () => {
  it('read to the last byte of the memory and not beyond', () => {
    const end = kernel.bytes.length;
    for (let length = 1; length <= 400; length++) {
      kernel.bytes.fill(0, end - length, end);
      expect(zero(end - length, length, 1, FLAGS)).toBe(1);
      expect(differ(end - length, end - length, length, 1, FLAGS)).toBe(0);
    }
  });
});
