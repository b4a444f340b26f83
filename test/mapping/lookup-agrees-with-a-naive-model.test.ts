import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { ExtentMap, ExtentMapBuilder } from '../../src/mapping/extent-map.ts';
import {
  anyParts,
  cellsOfMap,
  cellsOfParts,
  extentsOfCells,
  mapOfParts,
  naiveExtents,
} from '../model/extent-map.ts';

describe('an extent map', () => {
  it('says of every byte what was appended, in as few extents as there can be', () => {
    fc.assert(
      fc.property(anyParts, (parts) => {
        const map = mapOfParts(parts);
        const cells = cellsOfParts(parts);
        expect(map.size).toBe(cells.length);
        expect(cellsOfMap(map)).toEqual(cells);
        expect([...map.extents()]).toEqual(extentsOfCells(cells));
        expect(map.count).toBe(extentsOfCells(cells).length);
      }),
      { numRuns: 1000 },
    );
  });

  it('is the same however its extents were cut before', () => {
    fc.assert(
      fc.property(anyParts, (parts) => {
        const byByte = mapOfParts(cellsOfParts(parts).map((cell) => ({ ...cell, length: 1 })));
        const whole = mapOfParts(parts);
        expect([...byByte.extents()]).toEqual([...whole.extents()]);
      }),
      { numRuns: 500 },
    );
  });

  it('finds by binary search the extent that a walk finds', () => {
    fc.assert(
      fc.property(anyParts, (parts) => {
        const map = mapOfParts(parts);
        for (let offset = 0; offset < map.size; offset++) {
          const walked = Array.from({ length: map.count }, (_, index) => index).filter(
            (index) => map.startOf(index) <= offset && offset < map.endOf(index),
          );
          expect(walked).toEqual([map.indexAt(offset)]);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('clips the extents of a range to it, moving places and skips along', () => {
    fc.assert(
      fc.property(anyParts, fc.nat(100), fc.nat(100), (parts, a, b) => {
        const map = mapOfParts(parts);
        const from = Math.min(a, b, map.size);
        const to = Math.min(Math.max(a, b), map.size);
        const range = { offset: from, length: to - from };
        const got = [...map.extents(range)];
        const cells = cellsOfParts(parts);
        expect(got).toEqual(naiveExtents(extentsOfCells(cells), from, to));
        expect(got).toEqual(extentsOfCells(cells.slice(from, to), from));
      }),
      { numRuns: 1000 },
    );
  });

  it('refuses a range that is not within the disk, at once', () => {
    const map = ExtentMap.identity(100);
    for (const range of [
      { offset: -1, length: 2 },
      { offset: 99, length: 2 },
      { offset: 101, length: 0 },
      { offset: 0.5, length: 1 },
      { offset: 0, length: Number.NaN },
      { offset: 0, length: -1 },
    ]) {
      expect(() => map.extents(range)).toThrow(DriftmapError);
    }
    expect(() => map.explain(100)).toThrow(/within the disk's 100 bytes.*at offset 100/);
    expect([...map.extents({ offset: 100, length: 0 })]).toEqual([]);
  });

  it('may be of no size at all', () => {
    for (const map of [ExtentMap.identity(0), new ExtentMapBuilder(0).finish()]) {
      expect(map.size).toBe(0);
      expect(map.count).toBe(0);
      expect([...map.extents()]).toEqual([]);
      expect(() => map.explain(0)).toThrow(DriftmapError);
      expect(ExtentMap.fromHandle(structuredClone(map.handle())).size).toBe(0);
    }
  });
});
