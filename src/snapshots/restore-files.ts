/**
 * Restores disks into files and devices. A file is filled beside its place (`NAME.part`) and takes it when it is whole
 * and durable; a restore that was stopped leaves the part, and the next one goes on from it. A device, and whatever
 * is reached by a URL, is written where it is.
 */

import { closeSync, existsSync, fsyncSync, openSync, renameSync, statSync, truncateSync } from 'node:fs';
import { dirname } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { isNbdUrl } from '../lu/nbd/url.ts';
import { openUnit } from '../lu/open-unit.ts';
import type { SnapshotDisk, SnapshotInfo } from './manifest.ts';
import type { Repository } from './repository.ts';
import { type Restored, type RestoreOptions, restoreSnapshot } from './restore.ts';
import { diskOf } from './snapshot-unit.ts';

export interface FileTarget {
  /** Name of a disk of the snapshot. */
  readonly disk: string;
  /** A path, or the URL of an NBD export. */
  readonly path: string;
}

export interface RestoreFilesOptions extends RestoreOptions {
  /** Lets what is there be replaced: files that are there, devices, exports. */
  readonly overwrite?: boolean | undefined;
}

interface Place {
  readonly target: FileTarget;
  readonly disk: SnapshotDisk;
  /** The file that is filled beside it; null where it is written in place. */
  readonly part: string | null;
}

/**
 * Nothing is written before all places are looked at.
 * @throws DriftmapError `policy` where something is there; as `restoreSnapshot`; what the system says of files
 */
export async function restoreFiles(
  repository: Repository,
  snapshot: SnapshotInfo,
  targets: readonly FileTarget[],
  options: RestoreFilesOptions = {},
): Promise<Restored> {
  const places = targets.map((target) => placeOf(target, diskOf(snapshot, target.disk), options));
  const paths = new Set(targets.map(({ path }) => path));
  if (paths.size < targets.length)
    throw new DriftmapError('argument', 'two disks are to be restored to one place');
  const opened: { disk: string; unit: LogicalUnit; isEmpty: boolean }[] = [];
  try {
    for (const place of places) opened.push(await openPlace(place));
    const restored = await restoreSnapshot(repository, snapshot, opened, options);
    for (const { unit } of opened.splice(0)) await unit.close();
    for (const place of places) putInPlace(place, options);
    return restored;
  } finally {
    for (const { unit } of opened) await unit.close();
  }
}

function placeOf(target: FileTarget, disk: SnapshotDisk, { overwrite = false }: RestoreFilesOptions): Place {
  const { path } = target;
  const isUrl = isNbdUrl(path);
  const there = isUrl ? undefined : statSync(path, { throwIfNoEntry: false });
  if ((isUrl || there !== undefined) && !overwrite) {
    const reason = 'is there already: it is overwritten only with --overwrite';
    throw new DriftmapError('policy', reason, { path, operation: 'restore' });
  }
  if (there?.isDirectory()) throw new DriftmapError('argument', 'expected a file or a device', { path });
  const inPlace = isUrl || there?.isBlockDevice() === true;
  return { target, disk, part: inPlace ? null : `${path}.part` };
}

async function openPlace({ target, disk, part }: Place) {
  if (part === null) {
    const unit = await openUnit(target.path, { write: true });
    return { disk: disk.name, unit, isEmpty: false };
  }
  try {
    const isThere = existsSync(part);
    if (!isThere) closeSync(openSync(part, 'wx', 0o600));
    // Another disk's part, or another snapshot's, is a beginning like any: what differs is written.
    if (!isThere || statSync(part).size !== disk.size) truncateSync(part, disk.size);
    return { disk: disk.name, unit: await openUnit(part, { write: true }), isEmpty: !isThere };
  } catch (cause) {
    throw systemError(cause, { path: part, operation: 'create' });
  }
}

function putInPlace({ target, part }: Place, { overwrite = false }: RestoreFilesOptions): void {
  if (part === null) return;
  const { path } = target;
  try {
    if (!overwrite && existsSync(path)) {
      const reason = `somebody made this file meanwhile: the restored disk is ${part}`;
      throw new DriftmapError('policy', reason, { path });
    }
    renameSync(part, path);
    const folder = openSync(dirname(path), 'r');
    try {
      fsyncSync(folder);
    } finally {
      closeSync(folder);
    }
  } catch (cause) {
    throw systemError(cause, { path, operation: 'restore' });
  }
}
