import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import {
  loadReplicaRecord,
  type ReplicaRecord,
  replicaStatePath,
  saveReplicaRecord,
} from '../../src/protect/replica/state-file.ts';
import { UndoLog } from '../../src/protect/replica/undo-log.ts';
import { RolledDisk } from '../../src/protect/replica/worked-disk.ts';
import { gunzip, temporary } from '../tools.ts';

/** Of version 1: the state of a replica, and the undo log of two disks. */
const frozenState = join(import.meta.dirname, 'replica-v1.state');
const frozenLog = join(import.meta.dirname, 'undo-v1.log.gz');

const record: ReplicaRecord = {
  history: '00112233445566778899aabbccddeeff',
  hold: { sequence: 41, why: 'rolled to 41' },
  rolled: { sequence: 42, stage: 'promoting' },
  failedOver: {
    sequence: 40,
    time: 1_700_000_000_000,
    since: 1_700_000_001_000,
    generations: { system: '70000@1700000000000000000', data: 'device' },
  },
  renewing: false,
};
const owner = { journal: 'ffeeddccbbaa99887766554433221100', sequence: 42 };
const SIZES = [70_000, 1000] as const;
/** What the disks held before: the first block of the first is zeros. */
const before = SIZES.map((size, disk) =>
  Buffer.from(Array.from({ length: size }, (_, i) => (disk === 0 && i < 65_536 ? 0 : (i * 31 + disk) % 251))),
);

function disksIn(folder: string) {
  return before.map((bytes, i) => {
    writeFileSync(join(folder, `${i}.raw`), bytes);
    return openFileUnit(join(folder, `${i}.raw`), { write: true });
  });
}

/** Lives the log's life again. */
async function rebuilt(folder: string): Promise<Buffer> {
  const units = disksIn(folder);
  const log = UndoLog.create(join(folder, 'access.undo'), units, owner);
  await new RolledDisk(units[0]!, log, 0).write(69_000, Buffer.alloc(10, 1));
  await new RolledDisk(units[1]!, log, 1).write(0, Buffer.alloc(10, 2));
  await new RolledDisk(units[0]!, log, 0).write(0, Buffer.alloc(10, 3));
  log.close();
  for (const unit of units) unit.close();
  return readFileSync(join(folder, 'access.undo'));
}

describe('version 1 of what a replica keeps', () => {
  it('is read: its state', () => {
    const journal = join(temporary(), 'journal');
    mkdirSync(journal);
    writeFileSync(replicaStatePath(journal), readFileSync(frozenState));
    expect(loadReplicaRecord(journal)).toEqual(record);
    const snapshots = { store: '/backup', repository: 'a'.repeat(32) };
    saveReplicaRecord(journal, { ...record, snapshots });
    expect(loadReplicaRecord(journal)).toEqual({ ...record, snapshots });
    // What is written today is the same.
    saveReplicaRecord(journal, record);
    expect(readFileSync(replicaStatePath(journal)).equals(readFileSync(frozenState))).toBe(true);
  });

  it.each([0, 9, 40, 80])('is refused when byte %i of it is another', (at) => {
    const journal = temporary();
    const bytes = readFileSync(frozenState);
    bytes[at] = bytes[at]! ^ 0x10;
    writeFileSync(replicaStatePath(journal), bytes);
    expect(() => loadReplicaRecord(journal)).toThrow(/damaged|magic|version/);
  });

  it('is read: its undo log, which brings the disks back', async () => {
    const folder = temporary();
    const bytes = gunzip(frozenLog);
    expect((await rebuilt(folder)).equals(bytes)).toBe(true);
    writeFileSync(join(folder, 'access.undo'), bytes);
    const units = before.map((_, i) => openFileUnit(join(folder, `${i}.raw`), { write: true }));
    expect(readFileSync(join(folder, '0.raw')).equals(before[0]!)).toBe(false);
    const log = UndoLog.open(join(folder, 'access.undo'), units, owner);
    expect(log.blocksOf(0)).toEqual([
      { offset: 0, length: 65_536 },
      { offset: 65_536, length: 4464 },
    ]);
    await log.restore();
    for (const [i, old] of before.entries())
      expect(readFileSync(join(folder, `${i}.raw`)).equals(old)).toBe(true);
    log.remove();
    for (const unit of units) unit.close();
  });
});
