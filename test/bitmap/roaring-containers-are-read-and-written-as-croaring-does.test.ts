import fc from 'fast-check';
import { DeserializationFormat, RoaringBitmap32, SerializationFormat } from 'roaring-wasm';
import { describe, expect, it } from 'vitest';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';
import { decodeRoaring, encodeRoaring, roaringSize } from '../../src/bitmap/roaring.ts';
import { ascending, bitsOf, lengths, listed, modelOf, sequence, stepsWithin } from './sets.ts';

/** The 32-bit bitmaps in our 64-bit layout of one bucket, and the reverse. */
const BUCKET_HEAD = 12;
function bucketOf(bits: PagedBits): Uint8Array {
  return encodeRoaring(bits).subarray(BUCKET_HEAD);
}
function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
function inBucket(bitmap: Uint8Array, bucket = 0): Uint8Array {
  const bytes = new Uint8Array(BUCKET_HEAD + bitmap.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 1, true);
  view.setUint32(8, bucket, true);
  bytes.set(bitmap, BUCKET_HEAD);
  return bytes;
}

function withRoaring<T>(bitmap: RoaringBitmap32, use: (bitmap: RoaringBitmap32) => T): T {
  try {
    return use(bitmap);
  } finally {
    bitmap.dispose();
  }
}

/** What CRoaring makes of a set of numbers, with and without run containers. */
function theirs(numbers: Iterable<number>, optimize: boolean): Uint8Array {
  return withRoaring(new RoaringBitmap32(Uint32Array.from(numbers)), (bitmap) => {
    if (optimize) bitmap.runOptimize();
    else bitmap.removeRunCompression();
    return bitmap.serialize(SerializationFormat.portable).slice();
  });
}

function decoded(bytes: Uint8Array, length: number): PagedBits {
  const bits = new PagedBits(length);
  decodeRoaring(bytes, bits, { offset: 0 });
  return bits;
}

const sets = lengths.chain((length) =>
  fc.record({ length: fc.constant(length), steps: stepsWithin(length) }),
);

describe('roaring containers are read and written as CRoaring does', () => {
  it('ours, byte for byte what runOptimize gives', () => {
    fc.assert(
      fc.property(sets, ({ length, steps }) => {
        const bits = bitsOf(length, steps);
        expect(encodeRoaring(bits).length).toBe(roaringSize(bits));
        if (bits.isEmpty) {
          expect(encodeRoaring(bits)).toEqual(new Uint8Array(8));
          return;
        }
        const ours = bucketOf(bits);
        const numbers = ascending(modelOf(steps));
        expect(Buffer.compare(ours, theirs(numbers, true))).toBe(0);
        const back = RoaringBitmap32.deserialize(ours, DeserializationFormat.portable);
        expect(withRoaring(back, (bitmap) => bitmap.toArray())).toEqual(numbers);
      }),
      { numRuns: 100 },
    );
  });

  it('theirs, with run containers and without', () => {
    fc.assert(
      fc.property(sets, fc.boolean(), ({ length, steps }, optimize) => {
        const numbers = ascending(modelOf(steps));
        if (numbers.length === 0) return;
        expect(listed(decoded(inBucket(theirs(numbers, optimize)), length))).toEqual(numbers);
      }),
      { numRuns: 100 },
    );
  });

  it('every kind of container, in number enough for offsets', () => {
    const random = sequence(7);
    const bits = new PagedBits(2 ** 32);
    const add = (chapter: number, count: number) => {
      for (let i = 0; i < count; i++) bits.set(chapter * 65536 + (random() % 65536));
    };
    add(0, 3000);
    add(1, 40_000);
    bits.setRun({ start: 2 * 65536 + 5, end: 4 * 65536 - 5 });
    for (let bit = 9 * 65536; bit < 9 * 65536 + 8192; bit += 2) bits.set(bit);
    for (let bit = 10 * 65536; bit < 10 * 65536 + 8194; bit += 2) bits.set(bit);
    bits.setRun({ start: 2 ** 32 - 3, end: 2 ** 32 });
    const ours = bucketOf(bits);
    const numbers = Uint32Array.from(listed(bits));
    expect(Buffer.compare(ours, theirs(numbers, true))).toBe(0);
    for (const optimize of [true, false]) {
      expect(decoded(inBucket(theirs(numbers, optimize)), 2 ** 32).equals(bits)).toBe(true);
    }
  });

  it('bits of several 2^32, a bitmap for each', () => {
    const length = 3 * 2 ** 32 + 1000;
    const bits = new PagedBits(length);
    const places = [5, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 70_000, 3 * 2 ** 32 + 999];
    for (const place of places) bits.set(place);
    const bytes = encodeRoaring(bits);
    expect(bytes.length).toBe(roaringSize(bits));
    const view = new DataView(bytes.buffer);
    expect(view.getBigUint64(0, true)).toBe(3n);
    let at = 8;
    const found: number[] = [];
    for (const bucket of [0, 1, 3]) {
      expect(view.getUint32(at, true)).toBe(bucket);
      const here = places
        .filter((place) => Math.floor(place / 2 ** 32) === bucket)
        .map((place) => place % 2 ** 32);
      const expected = theirs(here, true);
      const ours = bytes.subarray(at + 4, at + 4 + expected.length);
      expect(Buffer.compare(ours, expected)).toBe(0);
      const back = RoaringBitmap32.deserialize(ours, DeserializationFormat.portable);
      found.push(...withRoaring(back, (bitmap) => bitmap.toArray()).map((bit) => bit + bucket * 2 ** 32));
      at += 4 + expected.length;
    }
    expect(at).toBe(bytes.length);
    expect(found).toEqual(places);
    expect(decoded(bytes, length).equals(bits)).toBe(true);
  });

  it('sets that are full, to their last short chapter', () => {
    for (const length of [1, 2, 3, 4096, 65535, 65536, 65537, 65538, 5 * 65536 + 2, 2 ** 32 + 3]) {
      const bits = new PagedBits(length);
      bits.setRun({ start: 0, end: length });
      const bytes = encodeRoaring(bits);
      expect(bytes.length).toBe(roaringSize(bits));
      expect(decoded(bytes, length).isFull).toBe(true);
      // CRoaring would need half a gigabyte for the last without run containers.
      if (length > 2 ** 32) continue;
      const all = RoaringBitmap32.fromRange(0, length);
      all.removeRunCompression();
      all.runOptimize();
      const expected = withRoaring(all, (bitmap) => bitmap.serialize(SerializationFormat.portable).slice());
      expect(hex(bytes.subarray(BUCKET_HEAD))).toBe(hex(expected));
    }
  });
});
