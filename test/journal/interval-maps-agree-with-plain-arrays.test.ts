import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { IntervalMap, type Intervals, ZEROS } from '../../src/journal/interval-map.ts';

const SIZE = 4000;

/** Where each byte lies, one by one: null for nothing known. */
class Naive {
  readonly places: (number | null)[] = Array(SIZE).fill(null);
  readonly heads: (number | null)[] = Array(SIZE).fill(null);

  set(start: number, end: number, place: number, head: number, absentOnly: boolean): void {
    for (let at = start; at < end; at++) {
      if (absentOnly && this.places[at] !== null) continue;
      this.places[at] = place === ZEROS ? ZEROS : place + (at - start);
      this.heads[at] = head;
    }
  }
}

function expand(map: Intervals, from: number, to: number): Naive {
  const naive = new Naive();
  let before = from;
  map.each(from, to, (start, end, place, head) => {
    expect(start).toBeGreaterThanOrEqual(before);
    expect(end).toBeGreaterThan(start);
    expect(end).toBeLessThanOrEqual(to);
    before = end;
    naive.set(start, end, place, head, false);
  });
  return naive;
}

const insertion = fc.record({
  start: fc.nat(SIZE - 1),
  length: fc.oneof(fc.nat(8), fc.nat(200), fc.nat(SIZE)),
  isZero: fc.boolean(),
  absentOnly: fc.boolean(),
});

describe('an interval map', () => {
  it('says of every byte what an array of places says, after any insertions', () => {
    fc.assert(
      fc.property(fc.array(insertion, { maxLength: 60 }), fc.nat(SIZE), fc.nat(SIZE), (insertions, a, b) => {
        const map = new IntervalMap();
        const naive = new Naive();
        for (const [i, { start, length, isZero, absentOnly }] of insertions.entries()) {
          const end = Math.min(SIZE, start + length);
          const [place, head] = isZero ? [ZEROS, 0] : [100_000 * i + 32, 100_000 * i];
          if (absentOnly) map.setAbsent(start, end, place, head);
          else map.set(start, end, place, head);
          naive.set(start, end, place, head, absentOnly);
        }
        expect(expand(map, 0, SIZE)).toEqual(naive);
        const flat = map.flatten();
        expect(flat.count).toBe(map.count);
        expect(expand(flat, 0, SIZE)).toEqual(naive);
        const [from, to] = [Math.min(a, b), Math.max(a, b)];
        for (const intervals of [map, flat]) {
          const part = expand(intervals, from, to);
          expect(part.places.slice(from, to)).toEqual(naive.places.slice(from, to));
        }
      }),
      { numRuns: 150 },
    );
  });

  it('stays right over thousands of intervals, which fill many chunks', () => {
    const map = new IntervalMap();
    const naive = new Naive();
    let seed = 7;
    const random = (below: number) => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed % below;
    };
    for (let i = 0; i < 6000; i++) {
      const start = random(SIZE);
      const end = Math.min(SIZE, start + 1 + random(i % 500 === 0 ? 900 : 3));
      const absentOnly = random(3) === 0;
      if (absentOnly) map.setAbsent(start, end, 50 * i + 32, 50 * i);
      else map.set(start, end, 50 * i + 32, 50 * i);
      naive.set(start, end, 50 * i + 32, 50 * i, absentOnly);
    }
    expect(map.count).toBeGreaterThan(1000);
    expect(expand(map, 0, SIZE)).toEqual(naive);
  });

  it('makes one interval of neighbours that continue one another', () => {
    const map = new IntervalMap();
    for (let at = 0; at < 1000; at += 10) map.set(at, at + 10, at, 0);
    expect(map.count).toBe(1);
    map.set(500, 510, ZEROS, 0);
    expect(map.count).toBe(3);
    map.clear();
    expect(map.count).toBe(0);
  });
});
