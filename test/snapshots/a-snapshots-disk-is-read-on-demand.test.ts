import { readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ObjectCache } from '../../src/snapshots/object-cache.ts';
import { openRepository, type Repository } from '../../src/snapshots/repository.ts';
import { openSnapshotDisk } from '../../src/snapshots/snapshot-unit.ts';
import type { ObjectStore } from '../../src/store/object-store.ts';
import { failPut, slowStore, wrapStore } from '../store/filters.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { temporary } from '../tools.ts';
import { BLOCK, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const BLOCKS = 64;
const disk = noise(BLOCKS * BLOCK - 100, 3);
disk.fill(0, 10 * BLOCK, 20 * BLOCK);

async function filled(bytes = disk) {
  const store = memoryObjects();
  const repository = await makeRepository(store);
  const info = await take(repository, [source('a', new MemoryUnit(bytes))]);
  const gets = { blocks: 0, pages: 0, most: 0 };
  let now = 0;
  const counted = wrapStore(store, {
    async before({ verb, key }) {
      if (verb !== 'get') return undefined;
      if (key.startsWith('blocks/')) gets.blocks++;
      if (key.startsWith('pages/')) gets.pages++;
      gets.most = Math.max(gets.most, ++now);
      await new Promise((resolve) => setTimeout(resolve, 1));
      now--;
      return undefined;
    },
  });
  return { store, info, gets, counted: await openRepository(counted) };
}

async function readAll(
  repository: Repository,
  ...[info, options]: [Parameters<typeof openSnapshotDisk>[1], object?]
) {
  const unit = openSnapshotDisk(repository, info, 'a', options);
  const bytes = new Uint8Array(unit.size);
  for (let at = 0; at < unit.size; at += BLOCK)
    await unit.read(at, bytes.subarray(at, Math.min(at + BLOCK, unit.size)));
  unit.close();
  return bytes;
}

describe('a disk of a snapshot', () => {
  it('reads any range, asks for nothing but what is read, and nothing for zeros', async () => {
    const { info, gets, counted } = await filled();
    const unit = openSnapshotDisk(counted, info, 'a', { readAheadBytes: 0 });
    await unit.read(12 * BLOCK, new Uint8Array(3 * BLOCK));
    expect(gets).toMatchObject({ blocks: 0, pages: 2 });
    await unit.read(5 * BLOCK + 7, new Uint8Array(10));
    expect(gets.blocks).toBe(1);
    await fc.assert(
      fc.asyncProperty(fc.nat(disk.length), fc.nat(5 * BLOCK), async (from, length) => {
        const count = Math.min(length, disk.length - from);
        const target = new Uint8Array(count);
        await unit.read(from, target);
        expect(Buffer.compare(target, disk.subarray(from, from + count))).toBe(0);
      }),
    );
    // All of it is in memory by now, fetched once.
    expect(gets.blocks).toBeLessThanOrEqual(BLOCKS - 10);
    await expect(unit.read(disk.length, new Uint8Array(1))).rejects.toMatchObject({ kind: 'argument' });
    unit.close();
    await expect(unit.read(0, new Uint8Array(1))).rejects.toThrow(/after close/);
  });

  it('has many blocks on their way at a time, and a bound on them', async () => {
    const { info, gets, counted } = await filled();
    const unit = openSnapshotDisk(counted, info, 'a', { connections: 8 });
    await unit.read(20 * BLOCK, new Uint8Array(40 * BLOCK));
    expect(gets.most).toBe(8);
    expect(gets.blocks).toBe(40);
    unit.close();
  });

  it('reads ahead of a reader in order, and not of one who jumps', async () => {
    const { info, gets, counted } = await filled();
    const unit = openSnapshotDisk(counted, info, 'a');
    for (let block = 20; block < 26; block++) await unit.read(block * BLOCK, new Uint8Array(BLOCK));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(gets.blocks).toBeGreaterThan(12);
    unit.close();
    const before = gets.blocks;
    const other = openSnapshotDisk(counted, info, 'a');
    for (const block of [40, 30, 50, 22, 60]) await other.read(block * BLOCK + 1, new Uint8Array(10));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(gets.blocks - before).toBe(5);
    other.close();
  });

  it('says what is zero, in extents that adjoin and cover', async () => {
    const { info, counted } = await filled();
    const unit = openSnapshotDisk(counted, info, 'a');
    const model = new MemoryUnit(disk);
    for (const limit of [1, 2, 100]) {
      for (let at = 0; at < disk.length; ) {
        const found = await unit.extents({ offset: at, length: disk.length - at }, limit);
        expect(found.length).toBeGreaterThan(0);
        expect(found.length).toBeLessThanOrEqual(limit);
        for (const extent of found) {
          expect(extent.offset).toBe(at);
          const [known] = model.extents(extent, 1);
          expect(known).toEqual(extent);
          at += extent.length;
        }
      }
    }
    unit.close();
  });

  it('holds no more in memory than it may, and reads right all the same', async () => {
    const { info, gets, counted } = await filled();
    const unit = openSnapshotDisk(counted, info, 'a', { memoryBytes: 2 * BLOCK, readAheadBytes: 0 });
    const all = new Uint8Array(disk.length);
    for (let round = 0; round < 2; round++) await unit.read(0, all);
    expect(Buffer.compare(all, disk)).toBe(0);
    expect(gets.blocks).toBeGreaterThan(BLOCKS);
    unit.close();
  });

  it('ends what is on its way when it is closed', async () => {
    const { store, info } = await filled();
    const unit = openSnapshotDisk(await openRepository(slowStore(store, 20)), info, 'a');
    const reading = unit.read(20 * BLOCK, new Uint8Array(10 * BLOCK));
    setTimeout(() => unit.close(), 50);
    await expect(reading).rejects.toMatchObject({ kind: 'aborted' });
  });

  it('that lost a block fails there, names the object, and reads on elsewhere', async () => {
    const { store, info, counted } = await filled();
    const name = [...store.objects.keys()].find((key) => key.startsWith('blocks/'))!;
    store.objects.delete(name);
    const unit = openSnapshotDisk(counted, info, 'a', { readAheadBytes: 0 });
    let failed = 0;
    for (let block = 0; block < BLOCKS - 1; block++) {
      const target = new Uint8Array(BLOCK);
      await Promise.resolve(unit.read(block * BLOCK, target)).then(
        () => expect(Buffer.compare(target, disk.subarray(block * BLOCK, (block + 1) * BLOCK))).toBe(0),
        (error) => {
          failed++;
          expect(error).toMatchObject({ kind: 'not-found', path: expect.stringContaining(name) });
        },
      );
    }
    expect(failed).toBe(1);
    unit.close();
  });
});

describe('a cache on this host', () => {
  const folder = temporary();
  const place = () => join(folder, String(Math.random()).slice(2));

  it('answers what was fetched before, also after it was closed', async () => {
    const { info, gets, counted } = await filled();
    const at = place();
    expect(Buffer.compare(await readAll(counted, info, { cache: new ObjectCache(at, 1 << 30) }), disk)).toBe(
      0,
    );
    const { blocks, pages } = gets;
    expect(blocks).toBe(BLOCKS - 10);
    expect(Buffer.compare(await readAll(counted, info, { cache: new ObjectCache(at, 1 << 30) }), disk)).toBe(
      0,
    );
    expect(gets).toMatchObject({ blocks, pages });
  });

  it('stays within its bytes', async () => {
    const { info, counted } = await filled();
    const at = place();
    const most = 10 * BLOCK;
    const used = () => readdirSync(at).reduce((sum, name) => sum + statSync(join(at, name)).size, 0);
    expect(Buffer.compare(await readAll(counted, info, { cache: new ObjectCache(at, most) }), disk)).toBe(0);
    expect(used()).toBeLessThanOrEqual(most);
    expect(used()).toBeGreaterThan(most / 2);
    new ObjectCache(at, most / 2);
    expect(used()).toBeLessThanOrEqual(most / 2);
  });

  it('that was damaged is no harm', async () => {
    const { info, gets, counted } = await filled();
    const at = place();
    await readAll(counted, info, { cache: new ObjectCache(at, 1 << 30) });
    for (const name of readdirSync(at)) writeFileSync(join(at, name), noise(50, 4));
    const { blocks } = gets;
    expect(Buffer.compare(await readAll(counted, info, { cache: new ObjectCache(at, 1 << 30) }), disk)).toBe(
      0,
    );
    expect(gets.blocks).toBe(2 * blocks);
  });
});

describe('reads of a snapshot while the store refuses everything else', () => {
  it('need no put', async () => {
    const { store, info } = await filled();
    const refusing: ObjectStore = failPut(store, { at: 1, forever: true, manner: 'refused' });
    expect(Buffer.compare(await readAll(await openRepository(refusing), info), disk)).toBe(0);
  });
});
