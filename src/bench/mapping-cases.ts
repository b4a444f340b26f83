/** Suite `mapping`: building, looking up, walking and composing extent maps of scattered clusters. */

import { MIN_BLOCK_SIZE } from '../base/limits.ts';
import { KiB } from '../base/units.ts';
import { compose } from '../mapping/compose.ts';
import { Cursor } from '../mapping/cursor.ts';
import { ExtentMap, ExtentMapBuilder, Kind } from '../mapping/extent-map.ts';
import { planScan } from '../scan/plan.ts';
import { type BenchCase, type Suite, type SuiteOptions, shortDigest } from './bench-case.ts';
import { indexes } from './random.ts';

const CLUSTER = 64 * KiB;
const EXTENTS = { full: 1_000_000, gate: 40_000, smoke: 2_000 } as const;
const LOOKUPS = { full: 500_000, gate: 40_000, smoke: 2_000 } as const;

/** A worst case: no cluster goes on from the one before it; every eighth is a hole. */
export function scatteredMap(clusters: number): ExtentMap {
  const builder = new ExtentMapBuilder(clusters);
  for (let index = 0; index < clusters; index++) {
    const hole = index % 8 === 7;
    // Multiplying by a prime modulo the count visits places far apart.
    const place = ((index * 7919) % clusters) * CLUSTER;
    builder.append({
      offset: index * CLUSTER,
      length: CLUSTER,
      kind: hole ? Kind.unallocated : Kind.data,
      unit: 0,
      place: hole ? -1 : place,
      depth: 0,
    });
  }
  return builder.finish();
}

export async function openMappingSuite({ scale }: SuiteOptions): Promise<Suite> {
  const extents = EXTENTS[scale];
  const lookups = LOOKUPS[scale];
  const map = scatteredMap(extents);
  const below = ExtentMap.identity(map.size);
  const at = indexes(3);
  const offsets = Float64Array.from({ length: lookups }, () => at(map.size));
  const cases: BenchCase[] = [];
  const add = (what: string, operations: number, work: () => number | ExtentMap) => {
    let result: number | ExtentMap = 0;
    cases.push({
      name: `mapping/${what}`,
      suite: 'mapping',
      bytes: 0,
      operations,
      limit: null,
      threads: 1,
      clock: 'processor',
      run: (): undefined => {
        result = work();
      },
      digest: () => (typeof result === 'number' ? shortDigest(String(result)) : digestOfMap(result)),
    });
  };
  add('build', extents, () => scatteredMap(extents));
  add('lookup', lookups, () => {
    let sum = 0;
    for (let i = 0; i < lookups; i++) sum += map.indexAt(offsets[i]!);
    return sum;
  });
  add('cursor', extents, () => {
    const cursor = new Cursor(map);
    let sum = 0;
    for (let offset = 0; offset < map.size; offset += CLUSTER) sum += cursor.seek(offset);
    return sum;
  });
  add('compose', extents, () => compose(map, below));
  add('plan', extents, () => {
    // Granules smaller than a cluster: every hole ends a range.
    const geometry = { size: map.size, blockSize: MIN_BLOCK_SIZE, workers: 2 };
    const plan = planScan({ ...geometry, production: map, replica: map });
    return plan.blocks;
  });
  return { cases, close: async () => {} };
}

function digestOfMap(map: ExtentMap): string {
  return shortDigest(bytesOf(map.starts), bytesOf(map.places), bytesOf(map.tags));
}

function bytesOf(array: Float64Array | Uint32Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
