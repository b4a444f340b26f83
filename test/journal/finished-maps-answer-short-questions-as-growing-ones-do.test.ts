import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { IntervalMap, type Intervals } from '../../src/journal/interval-map.ts';

const GRANULE = 4096;
/** Past the point from which two granules of a filter share a bit. */
const SIZE = 3 * 4 * 1024 ** 3;

function answer(map: Intervals, start: number, end: number): number[] {
  const found: number[] = [];
  map.each(start, end, (...interval) => {
    found.push(...interval);
  });
  return found;
}

describe('a finished map', () => {
  it('finds what a growing one finds, at and around every interval, whatever its filter says', () => {
    const interval = fc.record({
      at: fc.nat(SIZE / 512 - 1),
      length: fc.oneof(fc.constant(GRANULE), fc.integer({ min: 1, max: 3 * GRANULE })),
    });
    fc.assert(
      fc.property(fc.array(interval, { minLength: 64, maxLength: 200 }), (intervals) => {
        const map = new IntervalMap();
        for (const [i, { at, length }] of intervals.entries()) {
          map.set(at * 512, Math.min(SIZE, at * 512 + length), 100_000 * i + 32, 100_000 * i);
        }
        const flat = map.flatten();
        for (const { at, length } of intervals) {
          const start = at * 512;
          const questions = [
            [start, start + 1],
            [Math.max(0, start - GRANULE), start],
            [Math.max(0, start - 1), start + 1],
            [start + length - 1, start + length],
            [start + length, start + length + GRANULE],
            [(start + 2 ** 32) % SIZE, ((start + 2 ** 32) % SIZE) + 512],
            [start, start + 20 * GRANULE],
          ] as const;
          for (const [from, to] of questions) {
            expect(answer(flat, from, to)).toEqual(answer(map, from, to));
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});
