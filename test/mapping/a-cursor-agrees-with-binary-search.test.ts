import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Cursor } from '../../src/mapping/cursor.ts';
import { ExtentMap, isZero } from '../../src/mapping/extent-map.ts';
import { anyPart, type Cell, cellsOfParts, mapOfParts, someParts } from '../model/extent-map.ts';

/** End of the run of cells like the first, from `offset` on, when the first is as `zero` says. */
function naiveUntil(cells: readonly Cell[], offset: number, zero: boolean): number {
  let end = offset;
  while (end < cells.length && isZero(cells[end]!.kind) === zero) end++;
  return end;
}

describe('a cursor', () => {
  it('seeks forward and backward to where binary search goes', () => {
    const parts = fc.array(anyPart, { minLength: 1, maxLength: 300 });
    fc.assert(
      fc.property(
        parts,
        fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { maxLength: 60 }),
        (list, at) => {
          const map = mapOfParts(list);
          const cursor = new Cursor(map);
          for (const share of at) {
            const offset = Math.floor(share * map.size);
            expect(cursor.seek(offset)).toBe(map.indexAt(offset));
            expect(cursor.index).toBe(map.indexAt(offset));
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it('seeks to every offset in turn', () => {
    fc.assert(
      fc.property(someParts, fc.integer({ min: 1, max: 20 }), (parts, stride) => {
        const map = mapOfParts(parts);
        const cursor = new Cursor(map);
        for (let offset = 0; offset < map.size; offset += stride) {
          expect(cursor.seek(offset)).toBe(map.indexAt(offset));
        }
      }),
      { numRuns: 500 },
    );
  });

  it('finds the ends of runs of zeros and of data, in whatever order it is asked', () => {
    const questions = fc.array(
      fc.record({
        what: fc.constantFrom('zero', 'data', 'seek'),
        share: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      }),
      { maxLength: 40 },
    );
    fc.assert(
      fc.property(someParts, questions, (parts, list) => {
        const map = mapOfParts(parts);
        const cells = cellsOfParts(parts);
        const cursor = new Cursor(map);
        for (const { what, share } of list) {
          const offset = Math.floor(share * map.size);
          if (what === 'seek') expect(cursor.seek(offset)).toBe(map.indexAt(offset));
          else if (what === 'zero') expect(cursor.zeroUntil(offset)).toBe(naiveUntil(cells, offset, true));
          else expect(cursor.dataUntil(offset)).toBe(naiveUntil(cells, offset, false));
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('knows neither zeros nor data at and past the end', () => {
    for (const size of [0, 10]) {
      const cursor = new Cursor(ExtentMap.identity(size));
      for (const offset of [size, size + 5]) {
        expect(cursor.zeroUntil(offset)).toBe(offset);
        expect(cursor.dataUntil(offset)).toBe(offset);
      }
      if (size > 0) expect(cursor.dataUntil(3)).toBe(10);
    }
  });
});
