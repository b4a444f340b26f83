import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_DISK_SIZE } from '../../src/base/limits.ts';
import { compose } from '../../src/mapping/compose.ts';
import { Cursor } from '../../src/mapping/cursor.ts';
import { ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import { overlay } from '../../src/mapping/overlay.ts';
import {
  cellOf,
  cellsOfParts,
  extentsOfCells,
  mapOfParts,
  naiveExtents,
  type Part,
  someParts,
} from '../model/extent-map.ts';

/** Starts so that the parts end at 2^53−1, and moves half of the places up there too. */
function atTheEnd(parts: readonly Part[]): { from: number; high: Part[] } {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const high = parts.map((part) =>
    part.place >= 0 && part.unit > 0 ? { ...part, place: MAX_DISK_SIZE - 60 + part.place } : part,
  );
  return { from: MAX_DISK_SIZE - length, high };
}

describe('a map that ends at 2^53−1', () => {
  it('looks up, clips and explains as a small one does', () => {
    fc.assert(
      fc.property(someParts, (parts) => {
        const { from, high } = atTheEnd(parts);
        const map = mapOfParts(high, from);
        const cells = cellsOfParts(high);
        expect(map.size).toBe(MAX_DISK_SIZE);
        const cursor = new Cursor(map);
        for (const [index, cell] of cells.entries()) {
          expect(cellOf(map.explain(from + index))).toEqual(cell);
          expect(cursor.seek(from + index)).toBe(map.indexAt(from + index));
        }
        const expected = extentsOfCells(cells, from);
        const range = { offset: from, length: cells.length };
        expect([...map.extents(range)]).toEqual(naiveExtents(expected, from, MAX_DISK_SIZE));
      }),
      { numRuns: 300 },
    );
  });

  it('overlays and composes without losing a byte', () => {
    fc.assert(
      fc.property(someParts, (parts) => {
        const { from, high } = atTheEnd(parts);
        const map = mapOfParts(high, from);
        const hole = { kind: Kind.unallocated, length: MAX_DISK_SIZE, unit: 0, place: -1, depth: 0 };
        expect(overlay(mapOfParts([hole]), map, { units: 0, depth: 0 }).handle()).toEqual(map.handle());
        expect(compose(ExtentMap.identity(MAX_DISK_SIZE), allHeld(map)).handle()).toEqual(
          allHeld(map).handle(),
        );
        expect(compose(oneUnit(map), ExtentMap.identity(MAX_DISK_SIZE)).handle()).toEqual(
          oneUnit(map).handle(),
        );
      }),
      { numRuns: 300 },
    );
  });
});

/** What an identity over the map must give: nothing is unallocated, and depths are the outer's. */
function allHeld(map: ExtentMap): ExtentMap {
  const kind = (of: Kind) => (of === Kind.unallocated ? Kind.zero : of);
  return mapOfParts([...map.extents()].map((extent) => ({ ...extent, kind: kind(extent.kind), depth: 0 })));
}

function oneUnit(map: ExtentMap): ExtentMap {
  return mapOfParts([...map.extents()].map((extent) => ({ ...extent, unit: 0 })));
}
