/** Opening a replica group, and making one. */

import { existsSync, readdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError, systemError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import { makeFolder, realFolder } from '../../journal/folder.ts';
import type { Journal } from '../../journal/journal.ts';
import { createJournal, openJournal } from '../../journal/open.ts';
import type { Time } from '../../journal/record.ts';
import { GROUP_FILE, POSITION_FILE } from '../../journal/state.ts';
import { openFileUnit } from '../../lu/file-unit.ts';
import { type GroupFile, type ReplicaSide, replicaOf } from '../group/group-file.ts';
import { makeDisk, ReplicaDisk, sizeOfDisk } from './replica-disk.ts';
import { ReplicaGroup } from './replica-group.ts';
import { recoverAccess } from './rolled-access.ts';
import { loadReplicaRecord, newRecord, saveReplicaRecord } from './state-file.ts';

export interface OpenReplicaOptions {
  /** Sizes of production's disks, by name: with them a replica is made where there is none. */
  readonly sizes?: ReadonlyMap<string, ByteCount> | undefined;
  readonly clock?: (() => Time) | undefined;
  /** Of a new journal; for tests. */
  readonly segmentBytes?: ByteCount | undefined;
}

/** Whether there is a journal for the group. */
export function hasReplica(file: GroupFile): boolean {
  return existsSync(join(replicaOf(file).journal, GROUP_FILE));
}

/**
 * Opens the replica of a group for writing: one opening at a time. Where there is none it is made: with disks of
 * zeros where there are none, suspended until production says that it is whole. What an unfinished rolled access left
 * is finished first, and told in `warnings`.
 * @throws DriftmapError `policy` while another process has it open, `not-found` when there is none and no sizes are
 *   known, `mismatch` for disks of other sizes or names, `malformed` …
 */
export async function openReplicaGroup(
  file: GroupFile,
  { sizes, clock = Date.now, segmentBytes }: OpenReplicaOptions = {},
): Promise<ReplicaGroup> {
  const side = replicaOf(file);
  const isRenewed = loadReplicaRecord(side.journal)?.renewing === true;
  if (isRenewed) removeJournal(side);
  if (!hasReplica(file)) {
    // Whoever only asks for a point must not be given an empty journal in the place of one that is lost.
    if (sizes === undefined && !isRenewed) throw noJournal(file, side);
    await makeReplica(file, side, { sizes, clock, segmentBytes });
  }
  if (sizes !== undefined) checkSizes(side, sizes);
  const disks = new Map<string, ReplicaDisk>();
  let journal: Journal | null = null;
  try {
    // The lock first: a disk that another process works on is not even opened for writing.
    journal = await openJournal(side.journal, { clock });
    checkGroup(file, side, journal);
    for (const { name } of journal.disks) {
      const { path } = side.disks.find((disk) => disk.name === name)!;
      disks.set(name, new ReplicaDisk(openFileUnit(path, { write: true })));
    }
    journal.attach(disks);
    let record = loadReplicaRecord(side.journal);
    if (record === null) {
      record = newRecord();
      saveReplicaRecord(side.journal, record);
    }
    const warnings = [...journal.warnings];
    const group = new ReplicaGroup({ file, side, journal, disks, record, warnings, clock });
    try {
      if (record.failedOver === null) group.claims.claim(side.disks.map(({ path }) => path));
      await recoverAccess(group, (line) => warnings.push(line));
    } catch (error) {
      await group.close();
      throw error;
    }
    return group;
  } catch (error) {
    await journal?.close();
    for (const disk of disks.values()) await disk.close();
    throw error;
  }
}

async function makeReplica(
  file: GroupFile,
  side: ReplicaSide,
  { sizes, clock, segmentBytes }: OpenReplicaOptions,
): Promise<void> {
  const disks: { name: string; size: ByteCount; identity: string }[] = [];
  for (const { name, path } of side.disks) {
    const size = sizes?.get(name) ?? sizeOfDisk(path);
    if (size === null) throw noJournal(file, side);
    makeDisk(path, size);
    const unit = openFileUnit(path);
    disks.push({ name, size, identity: unit.identity });
    unit.close();
  }
  makeFolder(side.journal);
  // Whatever the disks hold, it is no moment of production's until production has said so.
  const journal = await createJournal(
    side.journal,
    { group: file.group, disks, suspended: true, ...(segmentBytes !== undefined && { segmentBytes }) },
    clock === undefined ? {} : { clock },
  );
  await journal.close();
  const { snapshots } = loadReplicaRecord(side.journal) ?? {};
  saveReplicaRecord(side.journal, { ...newRecord(), ...(snapshots && { snapshots }) });
}

/** Its operation is `find`: where there is no journal, no point is in it. */
export function noJournal({ group }: GroupFile, { journal }: ReplicaSide): DriftmapError {
  const reason = `there is no journal of group '${group}': 'driftmap protect' at production makes one`;
  return new DriftmapError('not-found', reason, { path: journal, operation: 'find' });
}

function checkGroup(file: GroupFile, side: ReplicaSide, journal: Journal): void {
  if (journal.group !== file.group) {
    const reason = `expected the journal of group '${file.group}', got that of '${journal.group}'`;
    throw new DriftmapError('mismatch', reason, { path: side.journal });
  }
  const names = new Set(journal.disks.map(({ name }) => name));
  const odd = side.disks.find(({ name }) => !names.delete(name))?.name ?? [...names][0];
  if (odd === undefined) return;
  const has = journal.disks.map(({ name }) => `'${name}'`).join(', ');
  const reason = `expected the disks of the group file in the journal, which has ${has}: a journal's disks cannot change; name a new journal`;
  throw new DriftmapError('mismatch', reason, { path: side.journal });
}

function checkSizes(side: ReplicaSide, sizes: ReadonlyMap<string, ByteCount>): void {
  for (const { name, path } of side.disks) {
    const size = sizes.get(name);
    if (size === undefined) {
      const has = [...sizes.keys()].map((known) => `'${known}'`).join(', ');
      const reason = `expected a disk '${name}' at production, which has ${has}: use the same group file on both sites`;
      throw new DriftmapError('mismatch', reason, { path: side.journal });
    }
    const here = sizeOfDisk(path);
    if (here === size || here === null) continue;
    const reason = `expected a disk of ${size} bytes, as production's, got ${here}`;
    throw new DriftmapError('mismatch', reason, { path });
  }
}

/** Removes all files of a journal, and what says that it is being removed at the end. */
export function removeJournal({ journal }: ReplicaSide): void {
  const lock = realFolder(journal).lock();
  try {
    const ours = /^(?:(?:do|undo)\.(?:data|meta)\.|\.driftmap-)/;
    // Without this one it is no journal any more.
    const names = readdirSync(journal).sort((a, b) => Number(b === GROUP_FILE) - Number(a === GROUP_FILE));
    for (const name of names)
      if (name === GROUP_FILE || name === POSITION_FILE || ours.test(name)) unlinkSync(join(journal, name));
    realFolder(journal).sync();
    // Where its snapshots are is true of the group, whatever its journal.
    const { snapshots } = loadReplicaRecord(journal) ?? {};
    saveReplicaRecord(journal, { ...newRecord(), ...(snapshots && { snapshots }) });
  } catch (cause) {
    throw systemError(cause, { path: journal, operation: 'remove' });
  } finally {
    lock.release();
  }
}
