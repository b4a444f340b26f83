import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { decodeBitmap, encodeBitmap } from '../../src/bitmap/drift-file.ts';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';
import { decodeRoaring, encodeRoaring } from '../../src/bitmap/roaring.ts';
import { checksum } from '../../src/codec/checksum.ts';
import { encodeControl } from '../../src/codec/control.ts';
import { PREAMBLE_BYTES } from '../../src/codec/preamble.ts';
import { bitmapOf, headerOf } from './bitmaps.ts';
import { bitsOf } from './sets.ts';

const small = encodeBitmap(bitmapOf(headerOf(100_000), [1, 2, 3, 90, 150], [0, 1, 2, 3, 4]));

function errorOf(action: () => unknown): DriftmapError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(DriftmapError);
    return error as DriftmapError;
  }
  throw new Error('expected an error, got none');
}

/** Makes the checksums right again, as somebody who means harm would. */
function resealed(bytes: Uint8Array, { headerLength }: { headerLength?: number } = {}): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = headerLength ?? view.getUint32(12, true);
  view.setUint32(12, length, true);
  view.setBigUint64(16, BigInt(bytes.length), true);
  view.setUint32(24, checksum(bytes.subarray(32, 32 + length)), true);
  view.setUint32(28, checksum(bytes.subarray(0, 28)), true);
  for (let at = 32 + length; at + 16 <= bytes.length; ) {
    const size = Number(view.getBigUint64(at + 4, true));
    if (at + 16 + size > bytes.length) break;
    const set = bytes.subarray(at + 16, at + 16 + size);
    view.setUint32(at + 12, checksum(set, checksum(bytes.subarray(at, at + 12))), true);
    at += 16 + size;
  }
  return bytes;
}

function withHeader(fields: unknown): Uint8Array {
  const header = encodeControl(fields);
  const old = new DataView(small.buffer).getUint32(12, true);
  const body = small.subarray(32 + old);
  const bytes = new Uint8Array(32 + header.length + body.length);
  bytes.set(small.subarray(0, 32));
  bytes.set(header, 32);
  bytes.set(body, 32 + header.length);
  return resealed(bytes, { headerLength: header.length });
}

const fields = {
  ...headerOf(100_000),
  blocks: 196,
  marked: 5,
  covered: 5,
};

describe('a damaged .drift file', () => {
  it('is an error when it is cut off anywhere', () => {
    for (let length = 0; length < small.length; length++) {
      const error = errorOf(() => decodeBitmap(small.slice(0, length), 'cut.drift'));
      expect(error.kind).toBe('malformed');
      expect(error.path).toBe('cut.drift');
      expect(error.offset).toBeLessThanOrEqual(small.length);
    }
  });

  it('is an error when any byte of it is another', () => {
    for (let at = 0; at < small.length; at++) {
      for (const flip of [0x01, 0x80, 0xff]) {
        const bytes = small.slice();
        bytes[at]! ^= flip;
        const error = errorOf(() => decodeBitmap(bytes, 'bad.drift'));
        expect(error.kind).toBe('malformed');
        expect(error.offset).toBeDefined();
      }
    }
  });

  it('is an error when something follows it', () => {
    const bytes = new Uint8Array(small.length + 1);
    bytes.set(small);
    expect(errorOf(() => decodeBitmap(bytes)).message).toMatch(/expected a file of \d+ bytes, got/);
    expect(errorOf(() => decodeBitmap(resealed(bytes))).message).toMatch(
      /expected the end of the file, got 1 more/,
    );
  });

  it('is told from another kind of file and from a newer version', () => {
    expect(errorOf(() => decodeBitmap(new TextEncoder().encode('QFI\xfb and so on'))).message).toMatch(
      /not a driftmap bitmap/,
    );
    const newer = small.slice();
    newer[8] = 2;
    const error = errorOf(() => decodeBitmap(resealed(newer)));
    expect(error.kind).toBe('unsupported');
    expect(error.message).toMatch(/version 2; .* up to version 1: use a newer driftmap/);
    newer[8] = 0;
    expect(errorOf(() => decodeBitmap(resealed(newer))).kind).toBe('malformed');
  });

  it('is an error when its header contradicts itself, with right checksums', () => {
    expect(decodeBitmap(withHeader(fields)).count).toBe(5);
    const wrong: [unknown, RegExp][] = [
      [{ ...fields, marked: 6 }, /expected 6 marked blocks/],
      [{ ...fields, covered: 4 }, /expected 4 covered blocks/],
      [{ ...fields, blocks: 197 }, /expected 196 blocks/],
      [{ ...fields, size: 99_999 }, /larger disk's size/],
      [{ ...fields, size: -1 }, /whole number as size/],
      [{ ...fields, size: 2 ** 60 }, /whole number as size/],
      [{ ...fields, blockSize: 1000 }, /power of two/],
      [{ ...fields, blockSize: 256 }, /power of two/],
      [{ ...fields, signature: 3 }, /text as signature/],
      [{ ...fields, extra: 1 }, /expected the keys/],
      [{ ...fields, replica: [] }, /expected a map as replica/],
      [{ ...fields, replica: { identity: 'x', size: 1 } }, /expected the keys/],
      [[], /expected a map/],
      [null, /expected a map/],
      ['header', /expected a map/],
    ];
    for (const [header, message] of wrong) {
      const error = errorOf(() => decodeBitmap(withHeader(header), 'x.drift'));
      expect(error.message).toMatch(message);
      expect(error).toMatchObject({ kind: 'malformed', path: 'x.drift', offset: PREAMBLE_BYTES });
    }
  });

  it('never takes more memory than its bytes bear out', () => {
    const huge = 2 ** 53 - 1;
    const claims = {
      ...fields,
      size: huge,
      production: { ...fields.production, size: huge },
      blocks: 2 ** 44,
      marked: 2 ** 44,
    };
    const before = process.memoryUsage.rss();
    expect(errorOf(() => decodeBitmap(withHeader(claims))).kind).toBe('malformed');
    const counts = new Uint8Array(100).fill(0xff);
    expect(errorOf(() => decodeRoaring(counts, new PagedBits(2 ** 44), { offset: 0 })).kind).toBe(
      'malformed',
    );
    expect(process.memoryUsage.rss() - before).toBeLessThan(30e6);
  });
});

describe('a set that breaks the roaring layout', () => {
  const runs = encodeRoaring(bitsOf(200_000, [{ kind: 'set', start: 10, length: 500 }]));
  const array = encodeRoaring(
    bitsOf(200_000, [
      { kind: 'set', start: 10, length: 1 },
      { kind: 'set', start: 20, length: 1 },
      { kind: 'set', start: 70_000, length: 1 },
    ]),
  );
  const dense = new PagedBits(200_000);
  for (let bit = 0; bit < 65536; bit += 2) dense.set(bit);
  const bitmap = encodeRoaring(dense);

  /** Changes 16-bit words by their offset. */
  const changed = (bytes: Uint8Array, changes: Record<number, number>) => {
    const copy = bytes.slice();
    for (const [at, value] of Object.entries(changes))
      new DataView(copy.buffer).setUint16(Number(at), value, true);
    return copy;
  };

  it.each([
    // buckets 0–8, bucket 8–12, cookie 12–16, count 16–20, descriptions 20–28, offsets 28–36, arrays 36–42
    ['a cookie that is none', changed(array, { 12: 1 }), /Roaring cookie/, 12],
    ['no containers', changed(array, { 16: 0 }), /1 to 65536 containers/, 12],
    ['too many containers', changed(array, { 16: 0xffff }), /container descriptions/, 20],
    ['containers that descend', changed(array, { 20: 1 }), /ascending order, got 1 after 1/, 24],
    ['a container past the length', changed(array, { 24: 9 }), /expected bits below 200000/, 24],
    ['an offset that is wrong', changed(array, { 32: 5 }), /expected a container at 28, got offset 5/, 32],
    ['an array that descends', changed(array, { 36: 30 }), /ascending bits, got 20 after 30/, 38],
    ['an array that repeats', changed(array, { 38: 10 }), /ascending bits, got 10 after 10/, 38],
    ['a cardinality that is too large', changed(array, { 26: 1 }), /expected 4 bytes of an array/, 40],
    ['a cardinality that is too small', changed(array, { 22: 0 }), /got offset 28/, 32],
    ['buckets that are not there', changed(array, { 0: 2 }), /number of a bucket/, 42],
    ['a bucket past the length', changed(array, { 8: 1 }), /expected bits below 200000/, 20],
    // cookie 12–16, flags 16, description 17–21, runs 21–23, run 23–27
    [
      'runs that hold another number of bits',
      changed(runs, { 19: 5 }),
      /expected a container of 6 bits, got 500/,
      21,
    ],
    ['a run past the chapter', changed(runs, { 23: 65500 }), /run within 65536 bits/, 23],
    ['no runs', changed(runs, { 21: 0 }), /container of 500 bits, got 0/, 21],
    ['more runs than bytes', changed(runs, { 21: 2 }), /expected 8 bytes of a run container/, 23],
    // description 20–24, offsets 24–28, bitmap 28
    [
      'a bitmap with another number of bits',
      changed(bitmap, { 28: 0 }),
      /expected a container of 32768 bits, got 32760/,
      28,
    ],
    ['something after it', new Uint8Array([...array, 0]), /expected the end of the set/, 42],
  ])('is refused: %s', (_, bytes, message, offset) => {
    const error = errorOf(() => decodeRoaring(bytes, new PagedBits(200_000), { path: 'p', offset: 1000 }));
    expect(error.message).toMatch(message);
    expect(error).toMatchObject({ kind: 'malformed', path: 'p', offset: 1000 + offset });
  });

  it('is refused: bits past the length, in every kind of container', () => {
    for (const [bytes, length] of [
      [array, 70_000],
      [runs, 509],
      [bitmap, 65_534],
    ] as const) {
      expect(errorOf(() => decodeRoaring(bytes, new PagedBits(length), { offset: 0 })).message).toMatch(
        /expected bits below/,
      );
      decodeRoaring(bytes, new PagedBits(length + 1), { offset: 0 });
    }
  });

  it('is refused: runs that touch or overlap', () => {
    const two = encodeRoaring(
      bitsOf(200_000, [
        { kind: 'set', start: 10, length: 500 },
        { kind: 'set', start: 600, length: 10 },
      ]),
    );
    decodeRoaring(two, new PagedBits(200_000), { offset: 0 });
    for (const start of [509, 510, 5]) {
      const bytes = changed(two, { 27: start });
      expect(errorOf(() => decodeRoaring(bytes, new PagedBits(200_000), { offset: 0 })).message).toMatch(
        /do not touch/,
      );
    }
  });
});
