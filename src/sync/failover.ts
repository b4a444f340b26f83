/**
 * Failover: the replica becomes the production side. Nothing is copied; its state says so from now on, under a
 * higher epoch, and keeps what the way back needs: with which disk it was equal, and that disk's generation then.
 *
 * The way back is a sync in the other direction. It compares only what was marked since, where every write went
 * through `openMarked`; else it compares everything, and sends what differs. A disk that was written to on both
 * sides is a split brain, which the generations show.
 */

import { DriftmapError } from '../base/errors.ts';
import { MiB } from '../base/units.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { openDisk } from '../disk/open.ts';
import { openFileUnit } from '../lu/file-unit.ts';
import { settleGeneration } from '../scan/generation.ts';
import { claimReplica } from './claim.ts';
import { MarkedUnit } from './marked-unit.ts';
import { loadState, type ReplicaState, saveState, statePath } from './state-file.ts';
import { canonical, checkThere, sameDisk } from './target.ts';

export interface FailoverOptions {
  readonly replica: string;
  readonly state?: string | undefined;
  /** Takes a replica that is not consistent: its marked blocks hold old data, new data, or a mixture. */
  readonly force?: boolean | undefined;
}

/**
 * @returns the new state
 * @throws DriftmapError `not-found` (no state), `policy` (not consistent, in use, failed over already), `mismatch`
 */
export async function failover({ replica, state, force = false }: FailoverOptions): Promise<ReplicaState> {
  checkThere(replica);
  const path = canonical(replica);
  const stateAt = state ?? statePath(path);
  const unlock = claimReplica(path, stateAt);
  try {
    const prior = loadState(stateAt);
    if (prior === null)
      throw new DriftmapError('not-found', `has never been a replica: there is no ${stateAt}`, {
        path: replica,
      });
    if (prior.status === 'failed-over')
      throw new DriftmapError('policy', `it was failed over already, ${prior.since}`, { path });
    if (prior.status !== 'consistent' && !force) {
      const then =
        prior.consistentAt === null ? 'never was consistent' : `was consistent last at ${prior.consistentAt}`;
      const reason = `the replica is not consistent (synchronizing since ${prior.since}; it ${then}): finish the sync, or take it as it is with --force`;
      throw new DriftmapError('policy', reason, { path });
    }
    const disk = await openDisk(path, { format: prior.format });
    try {
      // Stores through a mapping that come later must show in the generation.
      await settleGeneration(disk);
      if (!sameDisk(prior.bitmap.header.replica.identity, disk.identity))
        throw new DriftmapError('mismatch', 'the state is about another file that had this name', { path });
      const next = promoted(prior, disk.identity, disk.generation());
      saveState(next, stateAt);
      return next;
    } finally {
      await disk.close();
    }
  } finally {
    unlock();
  }
}

function promoted(prior: ReplicaState, identity: string, generation: string): ReplicaState {
  const { header, marks } = prior.bitmap;
  const production = { ...header.production, generation: prior.generation ?? header.production.generation };
  const replica = { ...header.replica, identity, generation };
  const bitmap = new SyncBitmap({ ...header, production, replica }, marks.clone());
  bitmap.cover({ start: 0, end: bitmap.blocks });
  const since = new Date().toISOString();
  return { ...prior, status: 'failed-over', since, epoch: prior.epoch + 1, generation, bitmap };
}

/** What is marked at a time: the marks are stored before the first write to each such part of the disk. */
const MARKED_AT_A_TIME = 4 * MiB;

/**
 * Opens a disk that was failed over, for whoever writes to it from now on: every write is marked in its state,
 * durably, before it is made. Close it, so that the state can vouch for its marks.
 * @throws DriftmapError `policy` unless the disk was failed over; `unsupported` for anything but a raw file
 */
export async function openMarked(
  path: string,
  options: { readonly state?: string | undefined } = {},
): Promise<MarkedUnit> {
  checkThere(path);
  const real = canonical(path);
  const stateAt = options.state ?? statePath(real);
  const unlock = claimReplica(real, stateAt);
  try {
    const state = loadState(stateAt);
    if (state?.status !== 'failed-over')
      throw new DriftmapError('policy', 'only a disk that was failed over is opened so', { path });
    if (state.format !== 'raw')
      throw new DriftmapError('unsupported', `expected a raw disk, got ${state.format}`, { path });
    const unit = openFileUnit(real, { write: true });
    return new MarkedUnit({ unit, state, stateAt, unlock, atATime: MARKED_AT_A_TIME });
  } catch (error) {
    unlock();
    throw error;
  }
}
