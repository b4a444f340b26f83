import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal } from '../../src/journal/open.ts';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import type { SnapshotInfo } from '../../src/snapshots/manifest.ts';
import type { Repository } from '../../src/snapshots/repository.ts';
import { type TakenSnapshot, takeSnapshot } from '../../src/snapshots/take.ts';
import { Model, memoryDisks } from '../journal/disks.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { temporary } from '../tools.ts';
import { BLOCK, bytesOf, makeRepository, noise } from './disks.ts';
import { randomOf } from './store-scheduler.ts';

const shapes = [
  { name: 'system', size: 64 * BLOCK },
  { name: 'data', size: 100 * BLOCK + 5 },
];
const folder = temporary();

/** As the replica does it: views of all disks at one point, and what the journal says was written since the parent. */
async function takeAt(
  repository: Repository,
  journal: Journal,
  sequence: number,
  parent: SnapshotInfo | null,
): Promise<TakenSnapshot> {
  const disks = journal.disks.map(({ name, size }) => ({
    name,
    size,
    unit: journal.view(name, { sequence }),
    changed: parent === null ? null : journal.changes(name, { from: parent.point.sequence, to: sequence }),
  }));
  try {
    const { time } = journal.find({ sequence });
    const point = { sequence, time, consistency: 'crash', bookmark: null, journal: 'f'.repeat(32) } as const;
    return await takeSnapshot(repository, {
      group: journal.group,
      disks,
      point,
      parent,
      configuration: null,
    });
  } finally {
    for (const { unit } of disks) await unit.close();
  }
}

describe('snapshots at points of a journal', () => {
  it('hold every disk at that point, read only what was written, and let writes and rolls go on', async () => {
    const random = randomOf(5);
    const journal = await createJournal(
      join(folder, 'journal'),
      { group: 'web', disks: shapes, segmentBytes: 64 * 1024 },
      {
        disks: memoryDisks(shapes),
      },
    );
    const model = new Model(shapes);
    const write = () => {
      const { name: disk, size } = shapes[Math.floor(random() * 2)]!;
      const offset = Math.floor(random() * (size - 3 * BLOCK));
      const length = 1 + Math.floor(random() * 2 * BLOCK);
      const one =
        random() < 0.3
          ? { disk, offset, zeros: length }
          : { disk, offset, bytes: noise(length, Math.floor(random() * 50)) };
      journal.append([one]);
      model.write(one);
    };
    const repository = await makeRepository(memoryObjects(), { key: noise(32, 1) });
    const taken: TakenSnapshot[] = [];
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 12; i++) write();
      await journal.commit();
      if (round % 2 === 1) await journal.apply();
      const at = model.last - Math.floor(random() * 3);
      const taking = takeAt(repository, journal, at, taken.at(-1) ?? null);
      // Production and the disks do not wait for it.
      for (let i = 0; i < 5; i++) write();
      await journal.commit();
      await journal.apply();
      const info = await taking;
      if (round > 0) {
        expect(info.bytesScanned).toBe(0);
        expect(info.bytesRead).toBe(info.changedBytes);
        expect(info.bytesRead).toBeLessThan(164 * BLOCK);
      }
      taken.push(info);
    }
    expect((await listSnapshots(repository)).map(({ id }) => id)).toEqual(taken.map(({ id }) => id));
    for (const info of taken)
      for (const { name } of shapes)
        expect(
          Buffer.compare(await bytesOf(repository, info, name), model.at(info.point.sequence, name)),
        ).toBe(0);
    await journal.close();
  });
});
