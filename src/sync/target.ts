/**
 * Opens the replica of a session: claims the disk, asks the state what is true, refuses what would lose data, makes
 * the disk as large as production's if that is allowed, and decides what has to be compared. Whatever is refused is
 * refused before the disk is touched; and the state says that it is no longer what it was before it is cut or grown.
 */

import { realpathSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { parseAddress } from '../disk/address.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { settleGeneration, vouchesForNothing } from '../scan/generation.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import type { DiskInfo } from '../wire/session-messages.ts';
import { claimReplica } from './claim.ts';
import { ComparisonNotes } from './comparison-notes.ts';
import { hostId } from './host.ts';
import { BEING_WRITTEN, StateKeeper } from './keeper.ts';
import { type DiskWriter, openReplicaDisk, type ReplicaDisk, resizeFile } from './replica-disk.ts';
import { type FirstComparison, infoOf, stampOf } from './replica-session.ts';
import { writtenSinceSign } from './sign-of-life.ts';
import { checkStatePath, loadState, type ReplicaState, statePath } from './state-file.ts';

export interface TargetOptions {
  /** A path, or a unit that can be written to and stays the caller's. */
  readonly replica: string | LogicalUnit;
  readonly format?: string | undefined;
  /** The format that it must turn out to have: that of a grant. */
  readonly mustBe?: string | undefined;
  /** The state file; beside a file by default. A unit has none unless it is named. */
  readonly state?: string | undefined;
  readonly blockSize: ByteCount;
  readonly signature: string;
  /** Indexes of it that are to be used. */
  readonly replicaIndex?: readonly unknown[] | undefined;
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
  const unlock = claimReplica(path, stateAt);
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
  algorithmByName(options.signature);
  if (stateAt !== null) checkStatePath(stateAt);
  const prior = stateAt === null ? null : loadState(stateAt);
  checkDirection(prior, production, options.discard ?? false);
  const format = options.format ?? prior?.format;
  let opened = await openReplicaDisk(path ?? options.replica, { format });
  try {
    const unsettled = await settleGeneration(opened.disk);
    const { belongs, warnings } = checkAll(prior, production, opened.disk, options);
    let state = belongs ? prior : null;
    const resizes = opened.disk.size !== production.size && mayFit(opened.disk, production.size, options);
    if (resizes) {
      state = storeUnequal(opened, production, options, { stateAt, state });
      await opened.close();
      resizeFile(path!, production.size);
      opened = await openReplicaDisk(path!, { format });
      await settleGeneration(opened.disk);
    }
    const { disk, writer } = opened;
    const bitmap = bitmapOf(disk, production, options);
    const decided: Decided =
      resizes || options.full
        ? { compare: { what: 'all' }, warnings: [] }
        : decide(state, production, disk, bitmap, stateAt);
    const beside = stateAt === null ? null : ComparisonNotes.beside(stateAt, bitmap.header);
    const notes = decided.compare.what === 'all' ? beside : null;
    const compare = options.full ? decided.compare : goOn(decided.compare, notes);
    if (compare.what !== 'all') bitmap.cover({ start: 0, end: bitmap.blocks });
    if (compare.what === 'some') bitmap.marks.add(compare.bits);
    const keeper = new StateKeeper({
      path: stateAt,
      writer,
      bitmap,
      format: disk.format,
      prior: state,
      epoch: epochOf(state, production),
      // What was noted is in the state then.
      onStored: () => beside?.forget(),
    });
    const close = async () => {
      try {
        await keeper.conclude();
        await opened.close();
      } finally {
        unlock();
      }
    };
    const all = [...disk.warnings, ...unsettled, ...warnings, ...decided.warnings];
    return { disk, size: production.size, writer, keeper, notes, compare, warnings: all, close };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** Everything that may be refused once the disk is open. */
function checkAll(
  prior: ReplicaState | null,
  production: DiskInfo,
  disk: VirtualDisk,
  options: TargetOptions,
): { belongs: boolean; warnings: string[] } {
  checkFormat(disk, options);
  checkOther(production, disk);
  const checked = checkBelongs(prior, production, disk, options);
  checkSplit(production, disk, options.discard ?? false);
  checkSize(disk, production.size, options);
  return checked;
}

/** Before the disk is cut or made longer: nothing of it counts as equal from now on. Durable when it returns. */
function storeUnequal(
  { disk, writer }: ReplicaDisk,
  production: DiskInfo,
  options: TargetOptions,
  { stateAt, state }: { readonly stateAt: string | null; readonly state: ReplicaState | null },
): ReplicaState | null {
  if (stateAt === null) return state;
  const bitmap = bitmapOf(disk, production, options);
  bitmap.cover({ start: 0, end: bitmap.blocks });
  bitmap.markRun({ start: 0, end: bitmap.blocks });
  const epoch = epochOf(state, production);
  new StateKeeper({
    path: stateAt,
    writer,
    bitmap,
    format: disk.format,
    prior: state,
    epoch,
  }).beforeWriting();
  return loadState(stateAt);
}

function bitmapOf(
  disk: VirtualDisk,
  production: DiskInfo,
  { blockSize, signature }: Pick<TargetOptions, 'blockSize' | 'signature'>,
): SyncBitmap {
  const { size } = production;
  return new SyncBitmap({
    size,
    blockSize,
    signature,
    production: stampOf(production),
    replica: stampOf(infoOf(disk), size),
  });
}

function epochOf(state: ReplicaState | null, production: DiskInfo): number {
  return Math.max(state?.epoch ?? 1, production.lineage?.epoch ?? 1);
}

/** Another name, or an address that leads back here. */
function checkOther({ identity, host }: DiskInfo, disk: VirtualDisk): void {
  if (identity !== disk.identity || host === null || host !== hostId()) return;
  throw new DriftmapError('argument', 'production and replica are the same disk', { path: disk.name });
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

interface Decided {
  readonly compare: FirstComparison;
  readonly warnings: readonly string[];
}

/** What has to be compared: less than all only where it is certain that the rest is equal. */
function decide(
  prior: ReplicaState | null,
  production: DiskInfo,
  disk: VirtualDisk,
  bitmap: SyncBitmap,
  stateAt: string | null,
): Decided {
  const all: Decided = { compare: { what: 'all' }, warnings: [] };
  const generation = disk.generation();
  const { lineage } = production;
  if (
    lineage?.marked &&
    sameDisk(lineage.partner, disk.identity) &&
    generation === lineage.partnerGeneration &&
    // A device is as it was by its word whatever was written to it.
    !vouchesForNothing(generation)
  )
    return { compare: { what: 'yours' }, warnings: [] };
  if (prior?.status !== 'synchronizing' || !prior.bitmap.complete) return all;
  const then = prior.bitmap;
  const same =
    then.size === bitmap.size &&
    then.blockSize === bitmap.blockSize &&
    then.header.production.generation === production.generation;
  if (!same || vouchesForNothing(production.generation) || then.count === then.blocks) return all;
  const left = then.header.replica.generation;
  const others =
    left === BEING_WRITTEN ? stateAt !== null && writtenSinceSign(generation, stateAt) : left !== generation;
  if (others) {
    const warning = `${disk.name}: was written to, by somebody else, since its last sync was interrupted: everything is compared`;
    return { compare: { what: 'all' }, warnings: [warning] };
  }
  return { compare: { what: 'some', bits: then.marks }, warnings: [] };
}

/** Where an interrupted comparison left off. */
function goOn(decided: FirstComparison, notes: ComparisonNotes | null): FirstComparison {
  const bits = notes?.load() ?? null;
  return bits === null ? decided : { what: 'some', bits };
}

/** Only a raw disk is as large as its file. */
function mayFit(disk: VirtualDisk, size: ByteCount, { replica, resize, shrink }: TargetOptions): boolean {
  if (typeof replica !== 'string' || disk.format !== 'raw' || !statSync(disk.name).isFile()) return false;
  return (disk.size < size && resize === true) || (disk.size > size && shrink === true);
}

/** @throws DriftmapError `policy` when the contents are not what a grant says */
export function checkFormat(
  { format, name }: VirtualDisk,
  { mustBe }: { readonly mustBe?: string | undefined },
): void {
  if (mustBe === undefined || format === mustBe) return;
  const reason = `its contents look like ${format}, and its name does not: grant it with format=${format}, or with format=raw to take its bytes as they are`;
  throw new DriftmapError('policy', reason, { path: name });
}

/** @throws DriftmapError `mismatch` for a replica that has another size and is not to be resized */
function checkSize(disk: VirtualDisk, size: ByteCount, options: TargetOptions): void {
  if (disk.size === size || (disk.size > size && options.shrink)) return;
  if (!mayFit(disk, size, options)) throw wrongSize(disk.name, disk.size, size);
  if ((options.replicaIndex ?? []).length === 0) return;
  const reason = 'it is to be resized, and an index of it as it is would not fit then: leave the index out';
  throw new DriftmapError('mismatch', reason, { path: disk.name });
}

function wrongSize(path: string, got: ByteCount, expected: ByteCount): DriftmapError {
  const advice = got < expected ? 'make it larger (--resize)' : 'cut it (--shrink)';
  return new DriftmapError(
    'mismatch',
    `expected a replica of ${expected} bytes like production, got ${got}: ${advice}`,
    { path },
  );
}
