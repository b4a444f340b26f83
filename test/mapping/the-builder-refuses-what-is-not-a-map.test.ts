import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError, type ErrorKind } from '../../src/base/errors.ts';
import { MAX_DISK_SIZE } from '../../src/base/limits.ts';
import { type Extent, ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';

const data: Extent = { offset: 0, length: 8, kind: Kind.data, unit: 0, place: 0, depth: 0 };
const packed: Extent = { ...data, kind: Kind.deflate, stored: 5, cluster: 64, skip: 8 };

function refusal(...extents: Extent[]): ErrorKind | 'none' {
  const builder = new ExtentMapBuilder();
  try {
    for (const extent of extents) builder.append(extent);
    return 'none';
  } catch (error) {
    if (error instanceof DriftmapError) return error.kind;
    throw error;
  }
}

describe('the builder', () => {
  it('refuses every gap and every overlap', () => {
    fc.assert(
      fc.property(fc.integer({ min: -20, max: 20 }), fc.integer({ min: 1, max: 20 }), (jump, length) => {
        const next = { ...data, offset: 8 + jump, length };
        expect(refusal(data, next)).toBe(jump === 0 ? 'none' : 'internal');
        expect(refusal(next)).toBe(next.offset === 0 ? 'none' : 'internal');
      }),
    );
    expect(() => new ExtentMapBuilder().append({ ...data, offset: 1 })).toThrow(
      'expected an extent at 0, got one at 1',
    );
  });

  it.each<[string, Extent]>([
    ['a negative length', { ...data, length: -1 }],
    ['half a byte', { ...data, length: 1.5 }],
    ['data that lies nowhere', { ...data, place: -1 }],
    ['a place before the beginning', { ...data, place: -2 }],
    ['a place that is no number', { ...data, place: Number.NaN }],
    ['an unallocated extent with a place', { ...data, kind: Kind.unallocated }],
    ['a compressed extent that lies nowhere', { ...packed, place: -1 }],
    ['a compressed extent that does not say how it is stored', { ...data, kind: Kind.zstd }],
    ['no stored bytes', { ...packed, stored: 0 }],
    ['more stored bytes than are counted', { ...packed, stored: 2 ** 32 }],
    ['a cluster that is no power of two', { ...packed, cluster: 96 }],
    ['an extent past the end of its cluster', { ...packed, skip: 57 }],
    ['a negative skip', { ...packed, skip: -1 }],
  ])('refuses %s', (_, extent) => {
    expect(refusal(extent)).toBe('internal');
  });

  it('takes what is just within', () => {
    expect(refusal({ ...packed, skip: 56 })).toBe('none');
    expect(refusal({ ...packed, stored: 2 ** 32 - 1 })).toBe('none');
    expect(refusal({ ...data, length: 0 })).toBe('none');
    expect(refusal({ ...data, kind: Kind.zero })).toBe('none');
    expect(refusal({ ...data, kind: Kind.zero, place: -1 })).toBe('none');
    expect(refusal({ ...data, unit: 4095, depth: 4095 })).toBe('none');
    expect(refusal({ ...data, length: MAX_DISK_SIZE })).toBe('none');
    expect(refusal({ ...data, place: MAX_DISK_SIZE - 8 })).toBe('none');
  });

  it('counts what is past a cap as a limit', () => {
    expect(refusal({ ...data, length: MAX_DISK_SIZE }, { ...data, offset: MAX_DISK_SIZE, length: 1 })).toBe(
      'limit',
    );
    expect(refusal({ ...data, place: MAX_DISK_SIZE - 7 })).toBe('limit');
    expect(refusal({ ...data, unit: 4096 })).toBe('limit');
    expect(refusal({ ...data, depth: 4096 })).toBe('limit');
  });

  it('holds as many extents as it may and not one more', () => {
    for (const most of [1, 7, 100]) {
      const builder = new ExtentMapBuilder(3, most);
      const apart = (index: number) => ({ ...data, offset: 8 * index, place: 1000 * index });
      for (let index = 0; index < most; index++) builder.append(apart(index));
      expect(() => builder.append(apart(most))).toThrow(
        `expected at most ${most} extents in one map (at offset ${8 * most})`,
      );
      const { count, size } = builder.finish();
      expect({ count, size }).toEqual({ count: most, size: 8 * most });
    }
  });

  it('is spent after finish', () => {
    const builder = new ExtentMapBuilder();
    builder.append(data);
    builder.finish();
    expect(() => builder.append({ ...data, offset: 8 })).toThrow(DriftmapError);
    expect(() => builder.finish()).toThrow(DriftmapError);
  });
});
