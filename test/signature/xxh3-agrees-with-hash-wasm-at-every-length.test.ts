import fc from 'fast-check';
import { createXXHash128 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import { hex, KernelMemory, noise } from './xxh3-nh128-blocks-memory.ts';

type Hash = (pointer: number, length: number, count: number, out: number, scratch: number) => void;

const MiB = 1024 * 1024;
const SCRATCH = 0;
const SCRATCH_BYTES = 1024;
const OUT = 8192;
const DATA = 65_536;

const kernel = new KernelMemory(DATA + 16 * MiB + 4096);
const hash = kernel.instance('xxh3').exports.hash as Hash;
const reference = await createXXHash128();
const bytes = noise(16 * MiB + 256, 7);
kernel.put(DATA, bytes);

/** Digests of `count` blocks that begin `shift` bytes into the noise, from the kernel; out is `outShift` off alignment. */
function digests(shift: number, length: number, count: number, outShift = 0): string[] {
  const out = OUT + outShift;
  const found = kernel.output(out, 16 * count, () => hash(DATA + shift, length, count, out, SCRATCH));
  return Array.from({ length: count }, (_, i) => hex(found.subarray(16 * i, 16 * i + 16)));
}

function expected(shift: number, length: number, count: number): string[] {
  return Array.from({ length: count }, (_, i) => {
    const from = shift + i * length;
    return reference
      .init()
      .update(bytes.subarray(from, from + length))
      .digest('hex');
  });
}

describe('XXH3-128', () => {
  it('at every length from 0 to 2048', () => {
    for (let length = 0; length <= 2048; length++) {
      expect(digests(length % 64, length, 1), `length ${length}`).toEqual(expected(length % 64, length, 1));
    }
  });

  it('at any length, alignment and count', () => {
    const lengths = fc.oneof(fc.nat(300), fc.nat(20_000), fc.constantFrom(512, 4096, 65_536));
    fc.assert(
      fc.property(
        fc.nat(128),
        lengths,
        fc.integer({ min: 1, max: 40 }),
        fc.nat(15),
        (shift, length, count, off) => {
          expect(digests(shift, length, count, off)).toEqual(expected(shift, length, count));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('at lengths up to 16 MiB', () => {
    for (const length of [16 * MiB, 16 * MiB - 1, 9_999_999, 5 * MiB + 64, 3 * MiB + 1023, MiB + 1]) {
      expect(digests(3, length, 1), `length ${length}`).toEqual(expected(3, length, 1));
    }
  });

  it('without writing to its input or past the scratch it may use', () => {
    kernel.bytes.fill(0x5a, SCRATCH + SCRATCH_BYTES, OUT - 64);
    for (const length of [0, 3, 8, 16, 128, 240, 241, 4096, 100_000]) digests(1, length, 3);
    expect(
      kernel.take(SCRATCH + SCRATCH_BYTES, OUT - 64 - SCRATCH_BYTES).every((byte) => byte === 0x5a),
    ).toBe(true);
    expect(Buffer.compare(kernel.take(DATA, bytes.length), bytes)).toBe(0);
  });

  it('up to the last byte of the memory', () => {
    const end = kernel.bytes.length;
    for (let length = 1; length <= 600; length++) {
      const tail = noise(length, length);
      kernel.put(end - length, tail);
      const found = kernel.output(OUT, 16, () => hash(end - length, length, 1, OUT, SCRATCH));
      expect(hex(found), `length ${length}`).toBe(reference.init().update(tail).digest('hex'));
    }
  });
});
