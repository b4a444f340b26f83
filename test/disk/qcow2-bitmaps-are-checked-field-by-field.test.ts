import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { dirtyRanges, readQcow2Bitmaps } from '../../src/disk/formats/qcow2-bitmaps.ts';
import { readQcow2Header } from '../../src/disk/formats/qcow2-header.ts';
import { BytesUnit } from './images.ts';
import { type BitmapImageSpec, type BitmapSpec, buildBitmapImage } from './qcow2-bitmap-builder.ts';

interface Told {
  readonly name: string;
  readonly refusal: DriftmapError | null;
  readonly ranges: [number, number][];
}

async function toldOf(image: Uint8Array): Promise<Told[]> {
  const unit = new BytesUnit(image, { name: 'image.qcow2' });
  const header = await readQcow2Header(unit);
  const told: Told[] = [];
  for (const bitmap of await readQcow2Bitmaps(unit, header)) {
    const ranges: [number, number][] = [];
    let end = 0;
    if (bitmap.refusal === null)
      for await (const { offset, length } of dirtyRanges(unit, header, bitmap)) {
        // Ascending, merged, on the disk.
        const fits = length > 0 && (ranges.length === 0 || offset > end) && offset + length <= header.size;
        if (!fits) throw new Error(`a range of ${length} bytes at ${offset} after ${end}`);
        end = offset + length;
        ranges.push([offset, length]);
      }
    else await expect(dirtyRanges(unit, header, bitmap).next()).rejects.toBe(bitmap.refusal);
    told.push({ name: bitmap.name, refusal: bitmap.refusal, ranges });
  }
  return told;
}

const size = 2 ** 20;

async function one(bitmap: BitmapSpec, image: Partial<BitmapImageSpec> = {}): Promise<Told> {
  const told = await toldOf(buildBitmapImage({ size, ...image, bitmaps: [bitmap] }));
  expect(told).toHaveLength(1);
  return told[0]!;
}

async function failure(image: Uint8Array): Promise<DriftmapError> {
  const error = await toldOf(image).then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(DriftmapError);
  return error as DriftmapError;
}

describe('a bitmap', () => {
  it('agrees with a plain list of bits, over clusters of zeros, of ones and of data', async () => {
    const cluster = fc.oneof(
      fc.constant('zeros' as const),
      fc.constant('ones' as const),
      fc.uint8Array({ minLength: 512, maxLength: 512 }),
      fc.array(fc.nat(4095), { maxLength: 5 }).map((bits) => {
        const bytes = new Uint8Array(512);
        for (const bit of bits) bytes[bit >>> 3]! |= 1 << (bit & 7);
        return bytes;
      }),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(cluster, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 9, max: 12 }),
        fc.nat(4095),
        fc.nat(511),
        async (table, granularityBits, missing, odd) => {
          const granularity = 2 ** granularityBits;
          const bits = table.length * 4096 - missing;
          const bytes = bits * granularity - odd;
          const model: [number, number][] = [];
          for (let bit = 0; bit < bits; bit++) {
            const piece = table[Math.floor(bit / 4096)]!;
            const within = bit % 4096;
            const set =
              typeof piece === 'string' ? piece === 'ones' : (piece[within >>> 3]! >> (within & 7)) & 1;
            if (!set) continue;
            const length = Math.min(granularity, bytes - bit * granularity);
            const last = model.at(-1);
            if (last && last[0] + last[1] === bit * granularity) last[1] += length;
            else model.push([bit * granularity, length]);
          }
          const told = await one({ table, granularityBits }, { size: bytes });
          expect(told.ranges).toEqual(model);
        },
      ),
      { numRuns: 60, endOnFailure: true },
    );
  });

  it('of a disk of no bytes has no table', async () => {
    const told = await one({ table: [] }, { size: 0 });
    expect(told).toMatchObject({ refusal: null, ranges: [] });
  });

  it.each<[string, BitmapSpec, Partial<BitmapImageSpec>, 'policy' | 'unsupported', RegExp]>([
    ['in use', { flags: 3 }, {}, 'policy', /marked as in use/],
    ['of an image that lost its autoclear bit', {}, { autoclear: 0n }, 'policy', /knows nothing of bitmaps/],
    [
      'of an image that has another autoclear bit',
      {},
      { autoclear: 2n },
      'policy',
      /knows nothing of bitmaps/,
    ],
    ['of version 2, which has no such bit', {}, { version: 2 }, 'policy', /knows nothing of bitmaps/],
    ['with a flag that is not known', { flags: 8 }, {}, 'unsupported', /flags/],
    ['of another type', { type: 2 }, {}, 'unsupported', /type 1/],
    ['too fine', { granularityBits: 8 }, {}, 'unsupported', /granularity/],
    ['too coarse', { granularityBits: 63 }, {}, 'unsupported', /granularity/],
    ['with extra data that must be known', { extra: 16 }, {}, 'unsupported', /extra data/],
  ])('%s is listed, and not read', async (_what, bitmap, image, kind, reason) => {
    const { name, refusal } = await one(bitmap, image);
    expect(name).toBe('marks');
    expect(refusal).toMatchObject({ kind, path: 'image.qcow2' });
    expect(refusal!.message).toMatch(reason);
  });

  it('in use is listed even where its table is out of date, and others are read beside it', async () => {
    const image = buildBitmapImage({
      size,
      bitmaps: [
        { name: 'broken', flags: 1, tableEntries: 77, tableOffset: 5n },
        { name: 'disabled', flags: 0, table: ['ones'] },
        { name: 'extra', flags: 6, extra: 9, table: ['ones'] },
      ],
    });
    const told = await toldOf(image);
    expect(told.map(({ name, refusal }) => [name, refusal?.kind])).toEqual([
      ['broken', 'policy'],
      ['disabled', undefined],
      ['extra', undefined],
    ]);
    expect(told[1]!.ranges).toEqual([[0, size]]);
    expect(told[2]!.ranges).toEqual([[0, size]]);
  });

  it.each<[string, BitmapSpec, RegExp]>([
    ['has too few entries', { table: [], granularityBits: 9 }, /expected 1 entries/],
    ['has too many entries', { table: ['zeros', 'zeros'] }, /expected 1 entries/],
    ['lies nowhere', { tableOffset: 0n }, /cluster boundary/],
    ['lies off a cluster boundary', { tableOffset: 513n }, /cluster boundary/],
    ['lies past the end', { tableOffset: 2n ** 40n }, /past the end/],
    ['has reserved low bits', { table: [2n] }, /table entry/],
    ['has reserved high bits', { table: [2n ** 56n] }, /table entry/],
    ['says ones and a place', { table: [513n] }, /table entry/],
    ['leads past the end', { table: [2n ** 40n] }, /past the end/],
  ])('whose table %s is malformed', async (_what, bitmap, reason) => {
    const error = await failure(buildBitmapImage({ size, bitmaps: [bitmap] }));
    expect(error).toMatchObject({ kind: 'malformed', path: 'image.qcow2' });
    expect(error.offset).toBeGreaterThan(0);
    expect(error.message).toMatch(reason);
  });

  it('of more data than QEMU makes is a limit', async () => {
    // Only the header is read of so large a disk.
    const image = buildBitmapImage({ size: 2 ** 43, clusterBits: 16, bitmaps: [{ tableEntries: 2 ** 15 }] });
    const unit = new BytesUnit(image, { name: 'image.qcow2' });
    await expect(readQcow2Bitmaps(unit, await readQcow2Header(unit))).rejects.toMatchObject({
      kind: 'limit',
    });
  });
});

describe('a directory', () => {
  it.each<[string, (extension: DataView) => void, RegExp]>([
    ['of no bitmaps', (view) => view.setUint32(0, 0), /1 to 65535 bitmaps/],
    ['of too many bitmaps', (view) => view.setUint32(0, 0xffffffff), /1 to 65535 bitmaps/],
    ['of more bitmaps than it has room for', (view) => view.setUint32(0, 3), /expected a directory of/],
    ['with reserved bytes', (view) => view.setUint32(4, 1), /four zero bytes/],
    ['that is too short', (view) => view.setBigUint64(8, 24n), /name/],
    ['that is too long', (view) => view.setBigUint64(8, 64n), /32 bytes more/],
    ['that is far too long', (view) => view.setBigUint64(8, 2n ** 40n), /expected a directory of/],
    ['that lies nowhere', (view) => view.setBigUint64(16, 0n), /cluster boundary/],
    ['that lies off a cluster boundary', (view) => view.setBigUint64(16, 2n ** 20n + 8n), /cluster boundary/],
    ['that lies past the end', (view) => view.setBigUint64(16, 2n ** 50n), /past the end/],
    ['that lies past every offset', (view) => view.setBigUint64(16, 2n ** 63n), /cluster boundary/],
  ])('%s is malformed', async (_what, patch, reason) => {
    const error = await failure(buildBitmapImage({ size, bitmaps: [{}], patch }));
    expect(error.kind).toBe('malformed');
    expect(error.message).toMatch(reason);
  });

  it('with two bitmaps of one name, or a name that is none, is malformed', async () => {
    const twice = await failure(buildBitmapImage({ size, bitmaps: [{}, {}] }));
    expect(twice.message).toMatch(/one name/);
    for (const name of [new Uint8Array(0), new Uint8Array([0xff]), new Uint8Array(1024).fill(65)]) {
      const error = await failure(buildBitmapImage({ size, bitmaps: [{ name }], clusterBits: 12 }));
      expect(error).toMatchObject({ kind: 'malformed', path: 'image.qcow2' });
    }
  });

  it('with any byte changed is read, or is an error of ours, and never more than the disk', async () => {
    const bytes = new Uint8Array(512).fill(0x5a);
    const whole = buildBitmapImage({
      size,
      bitmaps: [
        { name: 'first', table: [bytes] },
        { name: 'second', table: ['ones'] },
      ],
    });
    let errors = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
        const image = Uint8Array.from(whole);
        image[at]! ^= flip;
        try {
          await toldOf(image);
        } catch (error) {
          expect(error).toBeInstanceOf(DriftmapError);
          errors++;
        }
      }),
      { numRuns: 1500 },
    );
    expect(errors).toBeGreaterThan(10);
  });
});
