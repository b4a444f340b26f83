/**
 * Opens the replica of a session: takes the lock, asks the state what is true, refuses what would lose data, makes
 * the disk as large as production's if that is allowed, and decides what has to be compared.
 */

import { realpathSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { parseAddress } from '../disk/address.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { settleGeneration } from '../scan/generation.ts';
import type { DiskInfo } from '../wire/session-messages.ts';
import { ComparisonNotes } from './comparison-notes.ts';
import { StateKeeper } from './keeper.ts';
import { lock } from './lock.ts';
import { type DiskWriter, openReplicaDisk, resizeFile } from './replica-disk.ts';
import { type FirstComparison, infoOf, stampOf } from './replica-session.ts';
import { checkStatePath, loadState, type ReplicaState, statePath } from './state-file.ts';

export interface TargetOptions {
  /** A path, or a unit that can be written to and stays the caller's. */
  readonly replica: string | LogicalUnit;
  readonly format?: string | undefined;
  /** The state file; beside a file by default. A unit has none unless it is named. */
  readonly state?: string | undefined;
  readonly blockSize: ByteCount;
  readonly signature: string;
  /** Makes a raw file as large as production. */
  readonly resize?: boolean | undefined;
  /** Cuts a raw file that is longer; leaves the rest of a larger device alone. */
  readonly shrink?: boolean | undefined;
  /** Compares everything, whatever the state says. */
  readonly full?: boolean | undefined;
  /** Takes a replica of another disk. */
  readonly adopt?: boolean | undefined;
  /** Gives up what was written to the replica, or to a disk that production was a replica of. */
  readonly discard?: boolean | undefined;
}

export interface Target {
  readonly disk: VirtualDisk;
  readonly size: ByteCount;
  readonly writer: DiskWriter;
  readonly keeper: StateKeeper;
  /** Where a comparison that is interrupted is noted; null where it cannot be, or another one is gone on with. */
  readonly notes: ComparisonNotes | null;
  readonly compare: FirstComparison;
  readonly warnings: readonly string[];
  close(): Promise<void>;
}

/**
 * @throws DriftmapError `policy` (locked, failed over, split brain, of another disk), `mismatch` (sizes), and what
 *   opening throws
 */
export async function openTarget(options: TargetOptions, production: DiskInfo): Promise<Target> {
  const { replica } = options;
  if (typeof replica === 'string') checkThere(replica);
  const path = typeof replica === 'string' ? canonical(replica) : null;
  if (path !== null && options.state === undefined) refuseDevice(path);
  const stateAt = options.state ?? (path === null ? null : statePath(path));
  const unlock = stateAt === null ? () => undefined : lock(`${stateAt}.lock`);
  try {
    return await openLocked(options, production, path, stateAt, unlock);
  } catch (error) {
    unlock();
    throw error;
  }
}

/** Beside a device there is no place that survives a restart. */
function refuseDevice(path: string): void {
  if (!statSync(path, { throwIfNoEntry: false })?.isBlockDevice()) return;
  const reason =
    'a block device has no place for its state beside it: name a file that survives a restart (--state, or state= of a grant)';
  throw new DriftmapError('argument', reason, { path });
}

/** One disk has one state and one lock, whatever links lead to it. */
export function canonical(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    // Opening it says what is wrong.
    return resolve(path);
  }
}

/**
 * Before a lock or a state beside it is looked for: those would be told as missing.
 * @throws DriftmapError `not-found`, with the path that the user gave
 */
export function checkThere(path: string): void {
  if (parseAddress(path) !== null) return;
  try {
    statSync(path);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'open' });
  }
}

async function openLocked(
  options: TargetOptions,
  production: DiskInfo,
  path: string | null,
  stateAt: string | null,
  unlock: () => void,
): Promise<Target> {
  if (stateAt !== null) checkStatePath(stateAt);
  const prior = stateAt === null ? null : loadState(stateAt);
  checkDirection(prior, production, options.discard ?? false);
  const format = options.format ?? prior?.format;
  let opened = await openReplicaDisk(path ?? options.replica, { format });
  if (path !== null && mayFit(opened.disk, production.size, options)) {
    await opened.close();
    resizeFile(path, production.size);
    opened = await openReplicaDisk(path, { format });
  }
  try {
    const { disk, writer } = opened;
    await settleGeneration(disk);
    const size = production.size;
    if (disk.size < size || (disk.size > size && !options.shrink))
      throw wrongSize(disk.name, disk.size, size);
    const { belongs, warnings } = checkBelongs(prior, production, disk, options);
    checkSplit(production, disk, options.discard ?? false);
    const bitmap = new SyncBitmap({
      size,
      blockSize: options.blockSize,
      signature: options.signature,
      production: stampOf(production),
      replica: stampOf(infoOf(disk), size),
    });
    const state = belongs ? prior : null;
    const decided = decide(state, production, disk, bitmap, options.full ?? false);
    const beside = stateAt === null ? null : ComparisonNotes.beside(stateAt, bitmap.header);
    const notes = decided.what === 'all' ? beside : null;
    const compare = options.full ? decided : goOn(decided, notes);
    if (compare.what !== 'all') bitmap.cover({ start: 0, end: bitmap.blocks });
    if (compare.what === 'some') bitmap.marks.add(compare.bits);
    const epoch = Math.max(state?.epoch ?? 1, production.lineage?.epoch ?? 1);
    const keeper = new StateKeeper({
      path: stateAt,
      writer,
      bitmap,
      format: disk.format,
      prior: state,
      epoch,
      // What was noted is in the state then.
      onStored: () => beside?.forget(),
    });
    const close = async () => {
      try {
        await opened.close();
      } finally {
        unlock();
      }
    };
    return { disk, size, writer, keeper, notes, compare, warnings: [...disk.warnings, ...warnings], close };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** A disk that was failed over is production now. Only a younger history may be written over it. */
function checkDirection(prior: ReplicaState | null, production: DiskInfo, discard: boolean): void {
  if (prior?.status !== 'failed-over' || discard) return;
  const { lineage } = production;
  const replica = prior.bitmap.header.replica.identity;
  if (lineage && lineage.epoch > prior.epoch && sameDisk(lineage.partner, replica)) return;
  const reason = `the replica was failed over (${prior.since}) and is the production side since: synchronize in the other direction, or give up what was written to it (--discard)`;
  throw new DriftmapError('policy', reason);
}

/** Production was this disk's replica once, and was failed over. Was this disk written to since both were equal? */
function checkSplit({ lineage }: DiskInfo, disk: VirtualDisk, discard: boolean): void {
  if (!lineage || discard || !sameDisk(lineage.partner, disk.identity)) return;
  if (disk.generation() === lineage.partnerGeneration) return;
  const both = lineage.written ? 'both disks were written to' : 'this disk was written to';
  const reason = `${both} since they were last equal (a split brain): choose the side whose contents are kept, and give up the other's with --discard`;
  throw new DriftmapError('policy', reason, { path: disk.name });
}

/** An identity without the size, which may change. */
export function sameDisk(a: string, b: string): boolean {
  return withoutSize(a) === withoutSize(b);
}

function withoutSize(identity: string): string {
  return identity.replace(/^([a-z0-9]+):\d+:/, '$1:');
}

function checkBelongs(
  prior: ReplicaState | null,
  production: DiskInfo,
  disk: VirtualDisk,
  { adopt = false }: TargetOptions,
): { belongs: boolean; warnings: string[] } {
  if (prior === null) return { belongs: false, warnings: [] };
  const { header } = prior.bitmap;
  if (!sameDisk(header.replica.identity, disk.identity)) {
    const warning = `${disk.name}: the state beside it is about another file that had this name: everything is compared`;
    return { belongs: false, warnings: [warning] };
  }
  if (sameDisk(header.production.identity, production.identity) || prior.status === 'failed-over')
    return { belongs: true, warnings: [] };
  if (adopt) return { belongs: false, warnings: [] };
  const reason = `it is the replica of another disk (${header.production.identity}): to overwrite it say --adopt`;
  throw new DriftmapError('policy', reason, { path: disk.name });
}

function decide(
  prior: ReplicaState | null,
  production: DiskInfo,
  disk: VirtualDisk,
  bitmap: SyncBitmap,
  full: boolean,
): FirstComparison {
  if (full) return { what: 'all' };
  const { lineage } = production;
  if (
    lineage?.marked &&
    sameDisk(lineage.partner, disk.identity) &&
    disk.generation() === lineage.partnerGeneration
  )
    return { what: 'yours' };
  if (prior?.status !== 'synchronizing' || !prior.bitmap.complete) return { what: 'all' };
  const then = prior.bitmap;
  const same =
    then.size === bitmap.size &&
    then.blockSize === bitmap.blockSize &&
    then.header.production.generation === production.generation;
  // What cannot tell of writes vouches for nothing.
  if (!same || /(?:^| )(?:device|live)(?: |$)/.test(production.generation)) return { what: 'all' };
  return { what: 'some', bits: then.marks };
}

/** Where an interrupted comparison left off. */
function goOn(decided: FirstComparison, notes: ComparisonNotes | null): FirstComparison {
  const bits = notes?.load() ?? null;
  return bits === null ? decided : { what: 'some', bits };
}

/** Only a raw disk is as large as its file. */
function mayFit(disk: VirtualDisk, size: ByteCount, { resize, shrink }: TargetOptions): boolean {
  if (disk.format !== 'raw' || !statSync(disk.name).isFile()) return false;
  return (disk.size < size && resize === true) || (disk.size > size && shrink === true);
}

function wrongSize(path: string, got: ByteCount, expected: ByteCount): DriftmapError {
  const advice = got < expected ? 'make it larger (--resize)' : 'cut it (--shrink)';
  return new DriftmapError(
    'mismatch',
    `expected a replica of ${expected} bytes like production, got ${got}: ${advice}`,
    { path },
  );
}
