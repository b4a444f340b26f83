import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { compose } from '../../src/mapping/compose.ts';
import type { Extent, ExtentMap } from '../../src/mapping/extent-map.ts';
import { anyPart, fitted, mapOfParts, type Part, someParts } from '../model/extent-map.ts';

/** The extents, or null where a compressed cluster lies in pieces: the one refusal that fitted maps can meet. */
function tried(work: () => ExtentMap): Extent[] | null {
  try {
    return [...work().extents()];
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'unsupported') return null;
    throw error;
  }
}

function bothWays(aParts: readonly Part[], bParts: readonly Part[], cParts: readonly Part[]) {
  const c = mapOfParts(cParts);
  const b = mapOfParts(fitted(bParts, c.size));
  const a = mapOfParts(fitted(aParts, b.size));
  return {
    right: tried(() => compose(a, compose(b, c))),
    left: tried(() => compose(compose(a, b), c)),
  };
}

const longParts = fc.array(
  anyPart.map((part) => (part.stored === undefined ? { ...part, length: part.length * 5 } : part)),
  { minLength: 1, maxLength: 8 },
);

describe('composing three maps', () => {
  it('gives the same map in either order, extent for extent', () => {
    let compared = 0;
    let compressed = 0;
    fc.assert(
      fc.property(someParts, longParts, longParts, (a, b, c) => {
        const { left, right } = bothWays(a, b, c);
        if (left === null || right === null) return;
        compared++;
        if (left.some((extent) => extent.stored !== undefined)) compressed++;
        expect(left).toEqual(right);
      }),
      { numRuns: 3000 },
    );
    // The property would hold of nothing at all if every case were refused.
    expect(compared).toBeGreaterThan(300);
    expect(compressed).toBeGreaterThan(100);
  });

  it('is never refused without compressed clusters', () => {
    const plain = (parts: readonly Part[]) => parts.filter((part) => part.stored === undefined);
    fc.assert(
      fc.property(someParts, someParts, someParts, (a, b, c) => {
        const { left, right } = bothWays(plain(a), plain(b), plain(c));
        expect(left).not.toBeNull();
        expect(left).toEqual(right);
      }),
      { numRuns: 1000 },
    );
  });
});
