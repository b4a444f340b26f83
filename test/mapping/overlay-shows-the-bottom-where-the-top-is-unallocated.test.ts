import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { compose } from '../../src/mapping/compose.ts';
import { ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import { overlay } from '../../src/mapping/overlay.ts';
import {
  anyParts,
  cellsOfMap,
  cellsOfParts,
  extentsOfCells,
  fitted,
  mapOfParts,
  naiveOverlay,
} from '../model/extent-map.ts';

const hole = { kind: Kind.unallocated, unit: 0, place: -1, depth: 0 };

describe('overlay', () => {
  it('agrees byte by byte with the model, bottoms longer and shorter', () => {
    fc.assert(
      fc.property(anyParts, anyParts, fc.nat(5), fc.nat(5), (top, bottom, units, depth) => {
        const map = overlay(mapOfParts(top), mapOfParts(bottom), { units, depth });
        const expected = naiveOverlay(cellsOfParts(top), cellsOfParts(bottom), { units, depth });
        expect([...map.extents()]).toEqual(extentsOfCells(expected));
      }),
      { numRuns: 1000 },
    );
  });

  it('hides the base beyond the end of a short middle, when built upwards', () => {
    const base = ExtentMap.identity(300);
    const middle = mapOfParts([{ ...hole, length: 100 }]);
    const top = mapOfParts([{ ...hole, length: 300 }]);
    const shift = { units: 1, depth: 1 };
    expect([...overlay(top, overlay(middle, base, shift), shift).extents()]).toEqual([
      { offset: 0, length: 100, kind: Kind.data, unit: 2, place: 0, depth: 2 },
      { offset: 100, length: 200, ...hole },
    ]);
  });

  it('may be done before or after composing', () => {
    fc.assert(
      fc.property(anyParts, anyParts, anyParts, anyParts, (topParts, bottomParts, topFile, bottomFile) => {
        // One unit each: the top image lies in file 0, the bottom one in file 1.
        const fileOfTop = mapOfParts(topFile.map((part) => ({ ...part, kind: plain(part.kind) })));
        const fileOfBottom = mapOfParts(bottomFile.map((part) => ({ ...part, kind: plain(part.kind) })));
        const top = mapOfParts(unpacked(fitted(topParts, fileOfTop.size)));
        const bottom = mapOfParts(unpacked(fitted(bottomParts, fileOfBottom.size)));
        const after = compose(overlay(top, bottom, { units: 1, depth: 3 }), [fileOfTop, fileOfBottom]);
        const before = overlay(compose(top, fileOfTop), compose(bottom, fileOfBottom), {
          units: 0,
          depth: 3,
        });
        expect(cellsOfMap(before)).toEqual(cellsOfMap(after));
      }),
      { numRuns: 500 },
    );
  });

  it('refuses units and depths past their caps', () => {
    const top = mapOfParts([{ ...hole, length: 8 }]);
    const bottom = ExtentMap.identity(8);
    const kinds = [
      { units: 4096, depth: 1 },
      { units: 1, depth: 4096 },
    ].map((shift) => {
      try {
        overlay(top, bottom, shift);
        return 'none';
      } catch (error) {
        return error instanceof DriftmapError ? error.kind : error;
      }
    });
    expect(kinds).toEqual(['limit', 'limit']);
    expect(overlay(top, bottom, { units: 4095, depth: 4095 }).extent(0)).toMatchObject({
      unit: 4095,
      depth: 4095,
    });
  });
});

function plain(kind: Kind): Kind {
  return kind === Kind.deflate || kind === Kind.zstd ? Kind.data : kind;
}

/** All on one unit, and no compressed parts. */
function unpacked(parts: ReturnType<typeof fitted>): ReturnType<typeof fitted> {
  return parts.filter((part) => part.stored === undefined).map((part) => ({ ...part, unit: 0 }));
}
