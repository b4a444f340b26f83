import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { compose } from '../../src/mapping/compose.ts';
import { ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import {
  anyParts,
  type Cell,
  cellsOfParts,
  extentsOfCells,
  fitted,
  mapOfParts,
  naiveComposeCell,
  type Part,
  someParts,
} from '../model/extent-map.ts';

const data = { kind: Kind.data, unit: 0, depth: 0 };
const packed = { kind: Kind.zstd, unit: 0, depth: 0, cluster: 65536 };

/** The model's answer, or the first byte's error. */
function naive(outer: readonly Cell[], inner: readonly (readonly Cell[] | null)[], view: number | null) {
  const cells = outer.map((cell) => naiveComposeCell(cell, inner, view));
  const error = cells.find((cell) => typeof cell === 'string');
  return error ?? extentsOfCells(cells.filter((cell) => typeof cell !== 'string'));
}

function tried(work: () => ExtentMap) {
  try {
    return [...work().extents()];
  } catch (error) {
    if (error instanceof DriftmapError) return error.kind;
    throw error;
  }
}

describe('compose', () => {
  it('agrees byte by byte with the model: one inner map for every unit', () => {
    fc.assert(
      fc.property(anyParts, someParts, fc.option(fc.nat(9)), (parts, innerParts, view) => {
        const cells = cellsOfParts(innerParts);
        const outer = fitted(parts, cells.length);
        const got = tried(() => compose(mapOfParts(outer), mapOfParts(innerParts), { view }));
        expect(got).toEqual(naive(cellsOfParts(outer), [cells, cells, cells], view));
      }),
      { numRuns: 1500 },
    );
  });

  it('agrees with the model for a map per unit, some left as they are, and places anywhere', () => {
    const inner = fc.array(fc.option(anyParts), { minLength: 3, maxLength: 3 });
    const views = fc.array(fc.option(fc.nat(9)), { minLength: 3, maxLength: 3 });
    fc.assert(
      fc.property(anyParts, inner, views, (parts, innerParts, view) => {
        const maps = innerParts.map((list) => list && mapOfParts(list));
        const models = innerParts.map((list) => list && cellsOfParts(list));
        const expected = cellsOfParts(parts).map((cell) => naiveComposeCell(cell, models, view[cell.unit]!));
        const error = expected.find((cell) => typeof cell === 'string');
        const got = tried(() => compose(mapOfParts(parts), maps, { view }));
        expect(got).toEqual(error ?? extentsOfCells(expected as Cell[]));
      }),
      { numRuns: 1500 },
    );
  });

  it('changes nothing when the inner map is a whole unit', () => {
    fc.assert(
      fc.property(anyParts, (parts) => {
        const outer = mapOfParts(parts.map((part) => ({ ...part, unit: 0 })));
        expect(compose(outer, ExtentMap.identity(1000)).handle()).toEqual(outer.handle());
        expect(compose(outer, [null]).handle()).toEqual(outer.handle());
      }),
    );
  });

  it('keeps a data extent over an unallocated run from showing a backing image: it is zero', () => {
    const file = mapOfParts([{ kind: Kind.unallocated, length: 50, unit: 0, place: -1, depth: 0 }]);
    expect(compose(mapOfParts([{ ...data, length: 20, place: 10 }]), file).extent(0).kind).toBe(Kind.zero);
  });

  it('says where data lies past the end of what it lies in', () => {
    const outer = mapOfParts([
      { ...data, length: 100, place: 0 },
      { ...data, length: 100, place: 101 },
    ]);
    expect(() => compose(outer, ExtentMap.identity(200))).toThrow(
      'expected data within the 200 bytes of unit 0, got a place of 101 (at offset 100, length 100)',
    );
  });

  it('moves a compressed cluster whose stored bytes go on over extents of different depth', () => {
    const inner = mapOfParts([
      { ...data, length: 100, place: 1000, depth: 0 },
      { ...data, length: 100, place: 1100, depth: 1 },
    ]);
    expect(inner.count).toBe(2);
    const outer = mapOfParts([{ ...packed, length: 65536, place: 50, stored: 100, skip: 0 }]);
    expect(compose(outer, inner).extent(0)).toMatchObject({ place: 1050, stored: 100 });
  });

  it('cuts stored bytes at the end of the file, and refuses a cluster that begins past it', () => {
    const file = mapOfParts([{ ...data, length: 1000, place: 4096 }]);
    const cluster = (place: number): Part => ({ ...packed, length: 65536, place, stored: 512, skip: 0 });
    expect(compose(mapOfParts([cluster(900)]), file).extent(0)).toMatchObject({ place: 4996, stored: 100 });
    expect(tried(() => compose(mapOfParts([cluster(1000)]), file))).toBe('malformed');
  });

  it('sends a compressed cluster in pieces to the view, and names it where there is none', () => {
    const file = mapOfParts([
      { ...data, length: 1000, place: 8192 },
      { ...data, length: 1000, place: 4096 },
    ]);
    const outer = mapOfParts([{ ...packed, length: 65536, place: 900, stored: 512, skip: 0 }]);
    expect(compose(outer, file, { view: 7 }).extent(0)).toEqual({ ...outer.extent(0), unit: 7 });
    expect(() => compose(outer, file)).toThrow(/512 bytes at 900 of unit 0 in one run.*at offset 0/);
    expect(tried(() => compose(outer, file))).toBe('unsupported');
  });

  it('asks for an inner map of every unit that is used', () => {
    expect(tried(() => compose(mapOfParts([{ ...data, length: 1, place: 0, unit: 2 }]), [null]))).toBe(
      'internal',
    );
  });
});
