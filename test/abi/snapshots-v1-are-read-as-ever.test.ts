/** Repositories of version 1, frozen as they were written: every later driftmap reads them, and goes on in them. */

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { ObjectKind } from '../../src/snapshots/object-format.ts';
import { pruneRepository } from '../../src/snapshots/prune.ts';
import { readDrafts } from '../../src/snapshots/references.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { listNamed, namesIn, readGarbage, readSweep } from '../../src/snapshots/sweep.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import { bytesOf, MemoryUnit, source, take } from '../snapshots/disks.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import frozen from './snapshots-v1.json' with { type: 'json' };

for (const [name, { key, repository: id, snapshots, objects }] of Object.entries(frozen)) {
  const open = async () => {
    const store = memoryObjects();
    for (const [object, bytes] of Object.entries(objects))
      await store.put(object, Buffer.from(bytes, 'base64'));
    return openRepository(store, { key: key === null ? null : Buffer.from(key, 'hex') });
  };

  describe(`a ${name} repository of version 1`, () => {
    it('opens, and all its snapshots have the bytes that were taken', async () => {
      const repository = await open();
      expect(repository).toMatchObject({
        id,
        blockSize: 4096,
        compression: 'deflate',
        isEncrypted: key !== null,
      });
      const found = await listSnapshots(repository);
      expect(found.map((info) => info.id)).toEqual(snapshots.map((info) => info.id));
      for (const [i, info] of found.entries()) {
        const { sequence, sha256 } = snapshots[i]!;
        expect(info.point.sequence).toBe(sequence);
        for (const [disk, digest] of Object.entries(sha256)) {
          const bytes = await bytesOf(repository, info, disk);
          expect(createHash('sha256').update(bytes).digest('hex')).toBe(digest);
        }
      }
      expect(found[0]).toMatchObject({
        group: 'web',
        taken: 1772373728000,
        parent: null,
        configuration: '<domain/>',
        point: {
          time: 1772373727250,
          consistency: 'application',
          bookmark: 'before the upgrade',
          journal: 'c'.repeat(32),
        },
      });
      expect(found[1]!.parent).toBe(found[0]!.id);
      expect((await verifyRepository(repository)).damaged).toEqual([]);
    });

    it('keeps its drafts, lists and sweeps, and its garbage goes', async () => {
      const repository = await open();
      const [draft] = await readDrafts(repository);
      expect(draft!.trees.map(({ size }) => size)).toEqual([5 * 4096 + 100, 3 * 4096]);
      const swept = (await listNamed(repository, ObjectKind.sweep)).map(({ name: one }) =>
        readSweep(repository, one),
      );
      for (const sweep of await Promise.all(swept)) expect(sweep).toMatchObject({ state: 'done' });
      const [list] = await listNamed(repository, ObjectKind.garbage);
      const { blocks, pages } = (await readGarbage(repository, list!.name))!;
      expect([[...namesIn(blocks)].length, [...namesIn(pages)].length]).toEqual([1, 2]);
      expect(await pruneRepository(repository, { grace: 0 })).toMatchObject({ removedObjects: 3 });
    });

    it('is added to: what is there is known by its name', async () => {
      const repository = await open();
      const [first] = await listSnapshots(repository);
      const unit = new MemoryUnit(await bytesOf(repository, first!, 'system'));
      expect(await take(repository, [source('other', unit)])).toMatchObject({ blocksSent: 0, pagesSent: 0 });
    });
  });
}
