import { describe, expect, it } from 'vitest';
import { type Extent, ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';

type Fields = Omit<Extent, 'offset' | 'length'>;

const data: Fields = { kind: Kind.data, unit: 1, place: 100, depth: 0 };
const zero: Fields = { kind: Kind.zero, unit: 0, place: -1, depth: 0 };
const packed: Fields = { kind: Kind.deflate, unit: 1, place: 100, depth: 0, stored: 9, cluster: 16, skip: 0 };

/** How many extents two neighbours of 8 bytes become. */
function extents(first: Fields, second: Fields): number {
  const builder = new ExtentMapBuilder();
  builder.append({ ...first, offset: 0, length: 8 });
  builder.append({ ...second, offset: 8, length: 8 });
  const map = builder.finish();
  expect([...map.extents()].reduce((sum, { length }) => sum + length, 0)).toBe(16);
  return map.count;
}

describe('neighbouring extents', () => {
  it.each<[string, Fields, Fields]>([
    ['data that goes on', data, { ...data, place: 108 }],
    ['zeros without a place', zero, zero],
    ['unallocated runs', { ...zero, kind: Kind.unallocated }, { ...zero, kind: Kind.unallocated }],
    ['zeros whose places go on', { ...data, kind: Kind.zero }, { ...data, kind: Kind.zero, place: 108 }],
    ['two parts of one compressed cluster', packed, { ...packed, skip: 8 }],
    ['zeros that name units but no place', { ...zero, unit: 1 }, { ...zero, unit: 2 }],
  ])('merge: %s', (_, first, second) => {
    expect(extents(first, second)).toBe(1);
  });

  it.each<[string, Fields, Fields]>([
    ['data at the same place twice', data, data],
    ['data with a gap between', data, { ...data, place: 109 }],
    ['data on another unit', data, { ...data, unit: 2, place: 108 }],
    ['data of another depth', data, { ...data, depth: 1, place: 108 }],
    ['zeros and unallocated', zero, { ...zero, kind: Kind.unallocated }],
    ['data that ends at place 0 and zeros', zero, { ...data, kind: Kind.zero, place: 0 }],
    ['zeros with a place, then without', { ...data, kind: Kind.zero, place: 100 }, zero],
    ['one compressed cluster twice', packed, packed],
    ['compressed clusters that lie side by side', packed, { ...packed, place: 108 }],
    ['compressed clusters where a part would follow', packed, { ...packed, place: 108, skip: 8 }],
    ['compressed clusters of different stored sizes', packed, { ...packed, stored: 10, skip: 8 }],
    ['compressed clusters of different sizes', packed, { ...packed, cluster: 32, skip: 8 }],
    ['compressed clusters of different codecs', packed, { ...packed, kind: Kind.zstd, skip: 8 }],
  ])('do not merge: %s', (_, first, second) => {
    expect(extents(first, second)).toBe(2);
  });

  it('are found again behind compressed ones, piece after piece', () => {
    const builder = new ExtentMapBuilder(2);
    const expected: Extent[] = [];
    for (let index = 0; index < 100; index++) {
      const fields =
        index % 3 === 0 ? { ...packed, place: 7 * index, skip: index % 8 } : { ...data, place: 50 * index };
      const extent = { ...fields, offset: 8 * index, length: 8 };
      builder.append(extent);
      expected.push(extent);
    }
    expect([...builder.finish().extents()]).toEqual(expected);
  });
});
