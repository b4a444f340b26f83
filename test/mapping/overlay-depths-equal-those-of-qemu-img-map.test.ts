import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { KiB } from '../../src/base/units.ts';
import { type ExtentMap, ExtentMapBuilder, isZero, Kind } from '../../src/mapping/extent-map.ts';
import { overlay } from '../../src/mapping/overlay.ts';
import { describeWith, temporary } from '../tools.ts';

const SECTOR = 512;
const CLUSTER = 64 * KiB;

/** One qcow2 image: its size, and per whole cluster what was written. */
interface Layer {
  readonly sectors: number;
  readonly clusters: readonly Kind[];
}

const layer: fc.Arbitrary<Layer> = fc.record({
  sectors: fc.oneof(
    fc.integer({ min: 1, max: 12 }).map((n) => n * 128),
    fc.integer({ min: 1, max: 1536 }),
  ),
  clusters: fc.array(fc.constantFrom(Kind.unallocated, Kind.unallocated, Kind.zero, Kind.data), {
    minLength: 12,
    maxLength: 12,
  }),
});

/** The written clusters of a layer, as far as it reaches: `[kind, offset, length]`. */
function runs({ sectors, clusters }: Layer): [Kind, number, number][] {
  const size = sectors * SECTOR;
  return clusters
    .map((kind, index): [Kind, number, number] => [
      kind,
      index * CLUSTER,
      Math.min(CLUSTER, size - index * CLUSTER),
    ])
    .filter(([, offset]) => offset < size);
}

function mapOf(of: Layer): ExtentMap {
  const builder = new ExtentMapBuilder();
  for (const [kind, offset, length] of runs(of)) {
    builder.append({ offset, length, kind, unit: 0, place: kind === Kind.data ? offset : -1, depth: 0 });
  }
  return builder.finish();
}

/** Depth and content of every sector. */
function ofMap(map: ExtentMap): string[] {
  const each: string[] = [];
  for (const { length, depth, kind } of map.extents()) {
    for (let sector = 0; sector < length / SECTOR; sector++)
      each.push(`${depth} ${isZero(kind) ? 'zero' : 'data'}`);
  }
  return each;
}

function ofQemu(path: string): string[] {
  const text = execFileSync('qemu-img', ['map', '--output=json', path], { encoding: 'utf8' });
  const each: string[] = [];
  for (const { length, depth, zero } of JSON.parse(text)) {
    for (let sector = 0; sector < length / SECTOR; sector++) each.push(`${depth} ${zero ? 'zero' : 'data'}`);
  }
  return each;
}

describeWith(['qemu-img', 'qemu-io'], 'the depths of an overlaid chain', () => {
  const folder = temporary();

  /** Makes the chain, its base first, and returns the path of the top. */
  function make(chain: readonly Layer[]): string {
    let below = '';
    for (const [index, of] of [...chain.entries()].reverse()) {
      const path = join(folder, `layer-${index}.qcow2`);
      const backing = below === '' ? [] : ['-b', below, '-F', 'qcow2'];
      execFileSync('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        ...backing,
        path,
        String(of.sectors * SECTOR),
      ]);
      const commands = runs(of)
        .filter(([kind]) => kind !== Kind.unallocated)
        .flatMap(([kind, offset, length]) => [
          '-c',
          `write ${kind === Kind.zero ? '-z' : ''} ${offset} ${length}`,
        ]);
      if (commands.length > 0) execFileSync('qemu-io', [...commands, path]);
      below = path;
    }
    return below;
  }

  it('equal those of qemu-img map, whatever the sizes of the layers', () => {
    for (const chain of fc.sample(fc.array(layer, { minLength: 2, maxLength: 4 }), {
      numRuns: 20,
      seed: 20,
    })) {
      const map = chain.map(mapOf).reduceRight((bottom, top) => overlay(top, bottom, { units: 1, depth: 1 }));
      expect(ofMap(map)).toEqual(ofQemu(make(chain)));
    }
  });
});
