import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';

const KIB = 1024;

/** Clusters that never go on from one another; some compressed, where `packed` says so. */
function fill(builder: ExtentMapBuilder, count: number, packed = -1): ExtentMap {
  for (let i = 0; i < count; i++) {
    const plain = { offset: i * KIB, length: KIB, unit: 0, place: (count - i) * 4 * KIB, depth: 0 };
    if (i === packed) builder.append({ ...plain, kind: Kind.deflate, stored: 9, cluster: KIB, skip: 0 });
    else builder.append({ ...plain, kind: Kind.data });
  }
  return builder.finish();
}

function arraysOf({ size, count, starts, places, tags, packed }: ExtentMap) {
  const lists = [starts, places, tags].map((array) => [...array]);
  return { size, count, lists, packed: packed && [...packed] };
}

describe('a builder that was told a count', () => {
  it('makes the same map as one that was not: for fewer, as many, more, and compressed extents', () => {
    const input = fc.record({
      told: fc.integer({ min: 0, max: 40 }),
      count: fc.integer({ min: 0, max: 60 }),
    });
    fc.assert(
      fc.property(input, fc.integer({ min: -1, max: 59 }), ({ told, count }, packed) => {
        const map = fill(ExtentMapBuilder.ofCount(told), count, packed);
        expect(arraysOf(map)).toEqual(arraysOf(fill(new ExtentMapBuilder(), count, packed)));
        for (const array of [map.starts, map.places, map.tags])
          expect(array.buffer).toBeInstanceOf(SharedArrayBuffer);
      }),
    );
  });

  it('is the map in the memory that it began with', () => {
    const count = 1000;
    const builder = ExtentMapBuilder.ofCount(count);
    const map = fill(builder, count);
    // Only memory that was laid down before has room for what was not told.
    expect(map.starts.buffer.byteLength).toBe(8 * (count + 1));
    const half = fill(ExtentMapBuilder.ofCount(count), count / 2);
    expect(half.tags.buffer.byteLength).toBe(4 * count);
    expect(half.count).toBe(count / 2);
  });
});
