import { deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskReader } from '../../src/disk/reader.ts';
import { ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';

/** A disk made of random extents over two units, and the bytes that it must read as. */
interface Model {
  readonly pieces: readonly {
    readonly kind: Kind;
    readonly unit: number;
    readonly length: number;
    readonly skip: number;
  }[];
  readonly seed: number;
}

const model: fc.Arbitrary<Model> = fc.record({
  pieces: fc.array(
    fc.record({
      kind: fc.constantFrom<Kind>(Kind.data, Kind.data, Kind.zero, Kind.unallocated, Kind.deflate),
      unit: fc.constantFrom(0, 1),
      length: fc.integer({ min: 1, max: 9000 }),
      skip: fc.nat(2000),
    }),
    { minLength: 1, maxLength: 12 },
  ),
  seed: fc.nat(),
});

const CLUSTER = 16384;

function build({ pieces, seed }: Model, { wait = false, holes = false } = {}) {
  const builder = new ExtentMapBuilder();
  const stores: number[][] = [[], []];
  const contents: number[] = [];
  let state = seed | 1;
  const noise = () => {
    state = Math.imul(state, 1664525) + 1013904223;
    // Long stretches of zeros too, which are not known to be zeros.
    return (state >>> 28) % 5 === 0 ? 0 : state >>> 24;
  };
  for (const { kind, unit, length, skip } of pieces) {
    const store = stores[unit]!;
    const offset = contents.length;
    const place = store.length + (skip % 7);
    for (let i = 0; i < skip % 7; i++) store.push(0xee);
    if (kind === Kind.data) {
      const hollow = skip % 3 === 0;
      for (let i = 0; i < length; i++) store.push(hollow ? 0 : noise());
      contents.push(...store.slice(place));
      builder.append({ offset, length, kind, unit, place, depth: 0 });
    } else if (kind === Kind.deflate) {
      const cluster = Uint8Array.from({ length: CLUSTER }, (_, i) => (i % 50 === 0 ? noise() : i));
      const packed = deflateRawSync(cluster, { windowBits: 12 });
      store.push(...packed, 1, 2, 3);
      contents.push(...cluster.subarray(skip, skip + length));
      const stored = packed.length + 3;
      builder.append({ offset, length, kind, unit, place, depth: 0, stored, cluster: CLUSTER, skip });
    } else {
      for (let i = 0; i < length; i++) contents.push(0);
      builder.append({ offset, length, kind, unit: 0, place: -1, depth: 0 });
    }
  }
  const units = stores.map(
    (store, i) => new BytesUnit(Uint8Array.from(store), { name: `unit ${i}`, wait, holes }),
  );
  const map = builder.finish();
  return {
    reader: new DiskReader({ name: 'model', map, units }),
    units,
    contents: Uint8Array.from(contents),
    map,
  };
}

const range = fc.tuple(
  fc.double({ min: 0, max: 1, noNaN: true }),
  fc.double({ min: 0, max: 1, noNaN: true }),
);

function at([a, b]: [number, number], size: number): [number, number] {
  const ends = [Math.floor(a * size), Math.floor(b * size)].sort((x, y) => x - y);
  return [ends[0]!, ends[1]!];
}

describe('reading through a map', () => {
  it('gives the bytes, touches nothing beside the target, and makes no promise while units complete at once', () => {
    fc.assert(
      fc.property(model, fc.array(range, { minLength: 1, maxLength: 10 }), (spec, ranges) => {
        const { reader, contents } = build(spec);
        for (const each of ranges) {
          const [from, to] = at(each, contents.length);
          const around = new Uint8Array(to - from + 20).fill(0xaa);
          expect(reader.readInto(from, around.subarray(10, 10 + to - from))).toBeUndefined();
          expect(Buffer.from(around.subarray(10, 10 + to - from)).equals(contents.subarray(from, to))).toBe(
            true,
          );
          expect(around.subarray(0, 10).every((byte) => byte === 0xaa)).toBe(true);
          expect(around.subarray(10 + to - from).every((byte) => byte === 0xaa)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('gives the same from units that answer later, also to reads at once', async () => {
    await fc.assert(
      fc.asyncProperty(model, fc.array(range, { minLength: 1, maxLength: 6 }), async (spec, ranges) => {
        const { reader, contents } = build(spec, { wait: true });
        const reads = ranges.map(async (each) => {
          const [from, to] = at(each, contents.length);
          const target = new Uint8Array(to - from);
          await reader.readInto(from, target);
          expect(Buffer.from(target).equals(contents.subarray(from, to))).toBe(true);
        });
        await Promise.all(reads);
      }),
      { numRuns: 100 },
    );
  });

  it('runs of zeros and of data are true, cover the disk, and end at the limit', async () => {
    await fc.assert(
      fc.asyncProperty(model, fc.boolean(), range, async (spec, wait, limits) => {
        const { reader, contents, map } = build(spec, { wait, holes: true });
        const [from, to] = at(limits, map.size);
        for (let offset = from; offset < to; ) {
          const zero = await reader.zeroUntil(offset, to);
          const data = await reader.dataUntil(offset, to);
          expect(zero).toBeLessThanOrEqual(to);
          expect(data).toBeLessThanOrEqual(to);
          // Exactly one of the two goes on.
          expect(zero > offset).toBe(data === offset);
          expect(contents.subarray(offset, zero).every((byte) => byte === 0)).toBe(true);
          offset = Math.max(zero, data);
        }
      }),
      { numRuns: 300 },
    );
  });

  it.each([
    [-1, 1],
    [0.5, 1],
    [Number.NaN, 1],
    [2 ** 53, 1],
  ])('refuses a range from %d of %d bytes', (offset, length) => {
    const { reader } = build({ pieces: [{ kind: Kind.data, unit: 0, length: 100, skip: 0 }], seed: 1 });
    expect(() => reader.readInto(offset, new Uint8Array(length))).toThrow(/within the disk's 100 bytes/);
  });

  it('refuses a range past the end, by a byte', () => {
    const { reader } = build({ pieces: [{ kind: Kind.zero, unit: 0, length: 100, skip: 0 }], seed: 1 });
    expect(reader.readInto(99, new Uint8Array(1))).toBeUndefined();
    expect(() => reader.readInto(99, new Uint8Array(2))).toThrow(/within the disk's 100 bytes/);
    expect(reader.readInto(100, new Uint8Array(0))).toBeUndefined();
  });

  it('unpacks a compressed cluster once for a walk through it', () => {
    const { reader, units, contents } = build({
      pieces: [{ kind: Kind.deflate, unit: 0, length: 9000, skip: 7 }],
      seed: 9,
    });
    const bytes = new Uint8Array(9000);
    for (let offset = 0; offset < 9000; offset += 100)
      reader.readInto(offset, bytes.subarray(offset, offset + 100));
    expect(Buffer.from(bytes).equals(contents)).toBe(true);
    expect(units[0]!.reads).toBe(1);
    expect(reader.bytesRead).toBe(units[0]!.size);
  });
});

describe('compressed clusters that are damaged', () => {
  const good = deflateRawSync(new Uint8Array(CLUSTER).fill(7), { windowBits: 12 });

  function readerOf(stored: Uint8Array): DiskReader {
    const builder = new ExtentMapBuilder();
    const cluster = { unit: 0, place: 0, depth: 0, stored: stored.length, cluster: CLUSTER, skip: 0 };
    builder.append({ offset: 0, length: CLUSTER, kind: Kind.deflate, ...cluster });
    return new DiskReader({
      name: 'disk',
      map: builder.finish(),
      units: [new BytesUnit(stored, { name: 'image' })],
    });
  }

  it.each<[string, Uint8Array, RegExp]>([
    [
      'too short when unpacked',
      deflateRawSync(new Uint8Array(CLUSTER - 1)),
      /expected 16384 bytes unpacked, got 16383/,
    ],
    ['too long when unpacked', deflateRawSync(new Uint8Array(2 ** 26)), /damaged/],
    ['cut', good.subarray(0, good.length - 4), /damaged/],
    ['noise', Uint8Array.from({ length: 512 }, (_, i) => i * 37 + 255), /damaged/],
  ])('%s', (_, stored, reason) => {
    const target = new Uint8Array(CLUSTER);
    expect(() => readerOf(stored).readInto(0, target)).toThrow(
      expect.objectContaining({ kind: 'malformed', path: 'image', offset: 0 }),
    );
    expect(() => readerOf(stored).readInto(0, target)).toThrow(reason);
  });

  it('trailing bytes of another cluster do not matter', () => {
    const target = new Uint8Array(CLUSTER);
    readerOf(Buffer.concat([good, good, good])).readInto(0, target);
    expect(target.every((byte) => byte === 7)).toBe(true);
  });
});
