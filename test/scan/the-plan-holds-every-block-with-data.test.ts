import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BlockRun } from '../../src/base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';
import {
  blocksOfRange,
  blocksOutside,
  GRANULE_BLOCKS,
  planScan,
  type ScanPlan,
} from '../../src/scan/plan.ts';

const BLOCK = 512;

/** A map from alternating kinds: `true` is data. Lengths are in bytes. */
function mapOf(runs: readonly (readonly [boolean, number])[]): ExtentMap {
  const builder = new ExtentMapBuilder();
  for (const [data, length] of runs) {
    const offset = builder.size;
    builder.append({
      offset,
      length,
      kind: data ? Kind.data : Kind.zero,
      unit: 0,
      place: data ? offset : -1,
      depth: 0,
    });
  }
  return builder.finish();
}

const runs = fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 60_000 })), {
  minLength: 1,
  maxLength: 30,
});

function hasData(map: ExtentMap, from: number, to: number): boolean {
  if (from >= map.size) return false;
  return [...map.extents({ offset: from, length: Math.min(to, map.size) - from })].some(
    ({ kind }) => kind === Kind.data,
  );
}

function blocksOf(runsOfBlocks: Iterable<BlockRun>): number[] {
  return [...runsOfBlocks].flatMap(({ start, end }) =>
    Array.from({ length: end - start }, (_, i) => start + i),
  );
}

function plannedRuns(plan: ScanPlan): BlockRun[] {
  return Array.from(plan.starts, (_, range) => blocksOfRange(plan, range));
}

describe('a plan', () => {
  it('holds every block that has data on either side, and no granule without any', () => {
    fc.assert(
      fc.property(runs, runs, fc.integer({ min: 1, max: 100_000 }), (a, b, rangeBytes) => {
        const [production, replica] = [mapOf(a), mapOf(b)];
        const size = Math.max(production.size, replica.size);
        const plan = planScan({ size, blockSize: BLOCK, production, replica, rangeBytes, workers: 2 });
        const planned = new Set(blocksOf(plannedRuns(plan)));
        const blocks = Math.ceil(size / BLOCK);
        for (let granule = 0; granule * GRANULE_BLOCKS < blocks; granule++) {
          const from = granule * GRANULE_BLOCKS * BLOCK;
          const to = Math.min(from + GRANULE_BLOCKS * BLOCK, size);
          const data = hasData(production, from, to) || hasData(replica, from, to);
          expect(planned.has(granule * GRANULE_BLOCKS)).toBe(data);
        }
        expect(plan.blocks).toBe(planned.size);
      }),
      { numRuns: 200 },
    );
  });

  it('has ranges that are whole granules, ascending and disjoint, and together with the rest are the disk', () => {
    fc.assert(
      fc.property(runs, runs, fc.integer({ min: 1, max: 100_000 }), (a, b, rangeBytes) => {
        const [production, replica] = [mapOf(a), mapOf(b)];
        const size = Math.max(production.size, replica.size);
        const plan = planScan({ size, blockSize: BLOCK, production, replica, rangeBytes, workers: 2 });
        const inside = plannedRuns(plan);
        for (const { start } of inside) expect(start % GRANULE_BLOCKS).toBe(0);
        for (let i = 1; i < inside.length; i++)
          expect(inside[i]!.start).toBeGreaterThanOrEqual(inside[i - 1]!.end);
        const all = [...blocksOf(inside), ...blocksOf(blocksOutside(plan))].sort((x, y) => x - y);
        expect(all).toEqual(Array.from({ length: Math.ceil(size / BLOCK) }, (_, i) => i));
      }),
      { numRuns: 200 },
    );
  });

  it('with blocks to look at, holds exactly their bits', () => {
    const todo = fc.array(fc.tuple(fc.integer({ min: 1, max: 90 }), fc.integer({ min: 1, max: 90 })), {
      minLength: 1,
      maxLength: 20,
    });
    fc.assert(
      fc.property(todo, fc.integer({ min: 1, max: 100_000 }), (steps, rangeBytes) => {
        const wanted: BlockRun[] = [];
        let at = 0;
        for (const [gap, length] of steps) {
          wanted.push({ start: at + gap, end: at + gap + length });
          at += gap + length;
        }
        const size = at * BLOCK + 77;
        const map = mapOf([[true, size]]);
        const plan = planScan({
          size,
          blockSize: BLOCK,
          production: map,
          replica: map,
          todo: () => wanted,
          rangeBytes,
          workers: 2,
        });
        const found: number[] = [];
        plan.starts.forEach((start, range) => {
          for (let bit = 0; bit < plan.counts[range]! * 32; bit++) {
            if ((plan.todo![plan.todoAt![range]! + (bit >>> 5)]! >>> (bit & 31)) & 1)
              found.push(start * 32 + bit);
          }
        });
        expect(found).toEqual(blocksOf(wanted));
        expect(plan.blocks).toBe(found.length);
      }),
      { numRuns: 200 },
    );
  });

  it('cuts one petabyte of mostly nothing by its data', () => {
    const PiB = 2 ** 50;
    const builder = new ExtentMapBuilder();
    for (let i = 0; i < 1000; i++) {
      const offset = builder.size;
      builder.append({ offset, length: 65536, kind: Kind.data, unit: 0, place: offset, depth: 0 });
      builder.append({
        offset: offset + 65536,
        length: PiB / 1000 - 65536 - ((PiB / 1000) % 1),
        kind: Kind.unallocated,
        unit: 0,
        place: -1,
        depth: 0,
      });
    }
    const map = builder.finish();
    const plan = planScan({ size: map.size, blockSize: 65536, production: map, replica: map, workers: 2 });
    expect(plan.starts.length).toBe(1000);
    expect(plan.blocks).toBeLessThanOrEqual(1000 * 2 * GRANULE_BLOCKS);
  });

  it('of a petabyte that may be all data has about a million ranges, not one for each 32 MiB', () => {
    const map = mapOf([[true, 2 ** 50]]);
    const plan = planScan({ size: map.size, blockSize: 65536, production: map, replica: map, workers: 2 });
    expect(plan.starts.length).toBeLessThanOrEqual(2 ** 20);
    expect(plan.blocks).toBe(2 ** 34);
  });

  it('of two empty disks has no ranges', () => {
    const empty = mapOf([[false, 1]]);
    const plan = planScan({ size: 1, blockSize: BLOCK, production: empty, replica: empty, workers: 2 });
    expect(plan.starts.length).toBe(0);
    expect(blocksOf(blocksOutside(plan))).toEqual([0]);
  });

  it('refuses more blocks than it can count, instead of counting wrongly', () => {
    const huge = (size: number) => {
      const builder = new ExtentMapBuilder();
      builder.append({ offset: 0, length: size - 65536, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
      builder.append({ offset: size - 65536, length: 65536, kind: Kind.data, unit: 0, place: 0, depth: 0 });
      return builder.finish();
    };
    const plan = (size: number, blockSize: number) =>
      planScan({ size, blockSize, production: huge(size), replica: huge(size), workers: 2 });
    const TiB = 2 ** 40;
    expect(() => plan(65 * TiB, 512)).toThrow(/use larger ones/);
    const found = plan(63 * TiB, 512);
    expect(blocksOfRange(found, 0)).toEqual({ start: (63 * TiB - 65536) / 512, end: (63 * TiB) / 512 });
    expect(blocksOfRange(plan(2 ** 53 - 2 ** 24, 2 ** 20), 0).end).toBe(2 ** 33 - 16);
  });

  it.each([0, 511, 1000, 65537, 2 ** 25, Number.NaN])('refuses a block size of %d', (blockSize) => {
    const map = mapOf([[true, 1000]]);
    expect(() => planScan({ size: 1000, blockSize, production: map, replica: map, workers: 1 })).toThrow(
      /power of two/,
    );
  });
});
