import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { buildIndex } from '../../src/scan/index-build.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { openIndex, type SignatureIndex } from '../../src/signature/index-file.ts';
import { unpack } from '../disk/images.ts';
import { corpus, describeWith, temporary } from '../tools.ts';
import {
  changeByte,
  contentsOfSpec,
  type DiskSpec,
  diskSpec,
  type Indexing,
  indexesOf,
  writeSpec,
} from './indexes.ts';
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
      { numRuns: 20 },
    );
    // Else the property would say nothing of indexes, or nothing of mixtures.
    expect(fromIndexes).toBeGreaterThan(0);
    expect(fromBytes).toBeGreaterThan(0);
  }, 60_000);

  it('of a partition uses the index of its unit where blocks lie on blocks, and reads where they do not', async () => {
    const blockSize = 4096;
    for (const [sector, isRead] of [
      [2048, false],
      [63, true],
    ] as const) {
      const unit = new Uint8Array(2 ** 21 + 300 * 512);
      const partition = new Uint8Array(2 ** 20).map((_, i) => (Math.imul(i, 2654435761) >>> 24) | 1);
      unit.set(partition, sector * 512);
      // One entry of an MBR: type 83, first sector, sectors (UEFI Specification 2.10, section 5.2.1).
      const entry = new DataView(unit.buffer, 446, 16);
      entry.setUint8(4, 0x83);
      entry.setUint32(8, sector, true);
      entry.setUint32(12, partition.length / 512, true);
      unit.set([0x55, 0xaa], 510);
      writeFileSync(join(root, 'lu.img'), unit);
      partition[77_777]! ^= 1;
      writeFileSync(join(root, 'copy.raw'), partition);
      const [lu, copy] = [openFileUnit(join(root, 'lu.img')), openFileUnit(join(root, 'copy.raw'))];
      await buildIndex({ of: lu, path: join(root, 'lu.sig'), blockSize, workers: 1 });
      await buildIndex({ of: copy, path: join(root, 'copy.sig'), blockSize, workers: 1 });
      const production = await openDisk(`${join(root, 'lu.img')}:mbr1`, { format: 'raw' });
      const replica = await openDisk(join(root, 'copy.raw'), { format: 'raw' });
      const [productionIndex, replicaIndex] = [
        openIndex(join(root, 'lu.sig')),
        openIndex(join(root, 'copy.sig')),
      ];
      const common = { production, replica, blockSize, signature: 'blake3' } as const;
      const result = await scanner.scan({ ...common, productionIndex, replicaIndex });
      expect(blocksOf(result.bitmap.runs())).toEqual([Math.floor(77_777 / blockSize)]);
      expect(result.readBytes).toBe(isRead ? partition.length : 0);
      for (const thing of [productionIndex, replicaIndex, production, replica, lu, copy]) await thing.close();
    }
  });

  it('goes on from a scan that was stopped, and looks only within a bitmap, as one without', async () => {
    const blockSize = 512;
    const bytes = new Uint8Array(2 ** 20).map((_, i) => (Math.imul(i, 2654435761) >>> 24) | 1);
    writeFileSync(join(root, 'a.raw'), bytes);
    for (let at = 5; at < bytes.length; at += 100_000) bytes[at]! ^= 1;
    writeFileSync(join(root, 'b.raw'), bytes);
    const production = await openDisk(join(root, 'a.raw'), { format: 'raw' });
    const replica = await openDisk(join(root, 'b.raw'), { format: 'raw' });
    const names = { blockSize, folder: root };
    const productionIndex = await indexesOf(production, 'units', { ...names, name: 'resumed-a' });
    const replicaIndex = await indexesOf(replica, 'disk', { ...names, name: 'resumed-b' });
    const common = {
      production,
      replica,
      blockSize,
      signature: 'blake3',
      productionIndex,
      replicaIndex,
    } as const;
    const whole = await scanner.scan(common);
    const half = new SyncBitmap(whole.bitmap.header);
    half.cover({ start: 300, end: 900 });
    for (const { start, end } of whole.bitmap.runs())
      for (let block = Math.max(start, 300); block < Math.min(end, 900); block++) half.mark(block);
    const resumed = await scanner.scan({ ...common, resume: half });
    expect(resumed.bitmap.equals(whole.bitmap)).toBe(true);
    expect(resumed.indexedBytes).toBe(2 * (2048 - 600) * blockSize);
    const within = await scanner.scan({ ...common, within: whole.bitmap });
    expect(blocksOf(within.bitmap.runs())).toEqual(blocksOf(whole.bitmap.runs()));
    expect(within.bitmap.coveredBlocks).toBe(whole.markedBlocks);
    expect([resumed.readBytes, within.readBytes]).toEqual([0, 0]);
    for (const thing of [...productionIndex, ...replicaIndex, production, replica]) await thing.close();
  });
});

describeWith(['corpus'], 'a scan of a qcow2 image in a file system on a volume on two units', () => {
  it('reads nothing where both units and the copy have an index, and finds the one block that differs', async () => {
    const blockSize = 4096;
    const names = ['lu0.img', 'lu1.img', 'base.raw'];
    for (const name of names)
      unpack(join(corpus!, 'generated', name === 'base.raw' ? '' : 'lu', `${name}.gz`), join(root, name));
    changeByte(join(root, 'base.raw'), 5_000_000);
    const indexes: SignatureIndex[] = [];
    for (const name of names) {
      const of = openFileUnit(join(root, name));
      await buildIndex({ of, path: join(root, `${name}.sig`), blockSize, workers: 2 });
      indexes.push(openIndex(join(root, `${name}.sig`)));
      of.close();
    }
    const address = `${join(root, 'lu0.img')},${join(root, 'lu1.img')}:gpt2/lvm:vglu/lin/ext4:/disk.qcow2`;
    const production = await openDisk(address);
    const replica = await openDisk(join(root, 'base.raw'), { format: 'raw' });
    const common = { production, replica, blockSize, signature: 'blake3' } as const;
    const [lu0, lu1, copy] = indexes as [SignatureIndex, SignatureIndex, SignatureIndex];
    const result = await scanner.scan({ ...common, productionIndex: [lu0, lu1], replicaIndex: copy });
    expect(blocksOf(result.bitmap.runs())).toEqual([Math.floor(5_000_000 / blockSize)]);
    expect(result.readBytes).toBe(0);
    expect(result.bitmap.equals((await scanner.scan(common)).bitmap)).toBe(true);
    for (const thing of [...indexes, production, replica]) await thing.close();
  });
});
