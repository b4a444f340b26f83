import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { temporary } from '../tools.ts';
import { contentsOfSpec, type DiskSpec, diskSpec, type Indexing, indexesOf, writeSpec } from './indexes.ts';
import { blocksOf, differingBlocks } from './pairs.ts';

const root = temporary();
const scanner = createScanner({ workers: 2 });
afterAll(() => scanner.close());

/** The replica: the production disk with some clusters changed, moved or elsewhere, so that most blocks are equal. */
const pair = fc.record({
  production: diskSpec,
  changes: fc.array(fc.record({ at: fc.nat(), fill: fc.integer({ min: 0, max: 3 }) }), { maxLength: 4 }),
  shift: fc.integer({ min: 0, max: 3 }),
  order: fc.constantFrom(0, 1),
  cut: fc.constantFrom(0, 1),
});

function replicaOf(spec: DiskSpec, changes: readonly { at: number; fill: number }[]): DiskSpec['clusters'] {
  const clusters = [...spec.clusters];
  for (const { at, fill } of changes) clusters[at % clusters.length] = { placement: 'image', fill };
  return clusters;
}

const indexing = fc.constantFrom<Indexing>('none', 'disk', 'units', 'first unit');

describe('a scan with indexes', () => {
  it('marks the same blocks as one without, over qcow2 chains with clusters anywhere', async () => {
    let round = 0;
    let [fromIndexes, fromBytes] = [0, 0];
    await fc.assert(
      fc.asyncProperty(
        pair,
        fc.tuple(indexing, indexing),
        fc.constantFrom(512, 4096, 8192, 16384),
        fc.constantFrom(0, 0.3),
        async ({ production, changes, ...other }, [left, right], blockSize, sample) => {
          const folder = mkdtempSync(join(root, `round-${round++}-`));
          const replica = { ...production, ...other, clusters: replicaOf(production, changes) };
          const a = await openDisk(writeSpec(production, folder, 'a'));
          const b = await openDisk(writeSpec(replica, folder, 'b'));
          const productionIndex = await indexesOf(a, left, { blockSize, folder, name: 'a' });
          const replicaIndex = await indexesOf(b, right, { blockSize, folder, name: 'b' });
          const common = { production: a, replica: b, blockSize, signature: 'blake3' } as const;
          const used = productionIndex.length + replicaIndex.length > 0;
          const plain = await scanner.scan(common);
          const indexed = await scanner.scan({
            ...common,
            productionIndex,
            replicaIndex,
            ...(used ? { sample } : {}),
          });
          expect(indexed.bitmap.equals(plain.bitmap)).toBe(true);
          const contents = { production: contentsOfSpec(production), replica: contentsOfSpec(replica) };
          expect(blocksOf(indexed.bitmap.runs())).toEqual(differingBlocks(contents, blockSize));
          expect(indexed.comparedBytes + indexed.skippedBytes).toBe(indexed.size);
          if (left === 'disk' && right === 'disk' && sample === 0 && a.size === b.size)
            expect(indexed.readBytes).toBe(0);
          fromIndexes += indexed.indexedBytes;
          fromBytes += used ? indexed.readBytes : 0;
          for (const index of [...productionIndex, ...replicaIndex]) index.close();
          await a.close();
          await b.close();
          rmSync(folder, { recursive: true });
        },
      ),
      { numRuns: 40 },
    );
    // Else the property would say nothing of indexes, or nothing of mixtures.
    expect(fromIndexes).toBeGreaterThan(0);
    expect(fromBytes).toBeGreaterThan(0);
  }, 60_000);
});
