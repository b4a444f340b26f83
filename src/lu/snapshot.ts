/**
 * A frozen copy of a file that shares its storage: `snapshotFile`. It takes no time and no space, on file
 * systems that can share (XFS with reflink, btrfs, and some others): Linux's ioctl FICLONE, ioctl_ficlone(2).
 * The copy holds one moment: writes to the file come before it or after it, never in part.
 *
 * The copy is made aside, without a name that anybody would take for it, and made durable; then it is linked to
 * its name, which fails where there is something, so that nothing is ever overwritten nor half there.
 */

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { constants as system } from 'node:os';
import { dirname, join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { cloneFile } from './posix.ts';

/** What to do where files cannot be shared. */
export const snapshotAdvice =
  'take the snapshot where the unit lives: LVM (lvcreate --snapshot), ZFS (zfs snapshot), the storage array; docs/SNAPSHOTS.md shows how';

/**
 * Makes `target` a snapshot of `source`; returns when it is durable.
 * @returns its size
 * @throws DriftmapError `unsupported` where storage cannot be shared, with advice; `policy` where `target` is there;
 *   `argument` for what is no regular file; `not-found`, `permission`, `io`
 */
export function snapshotFile(source: string, target: string): ByteCount {
  if (statSync(target, { throwIfNoEntry: false }) !== undefined) throw there(target);
  const from = openFile(source);
  try {
    const folder = openFolder(target);
    try {
      const aside = join(dirname(target), `.driftmap-${randomBytes(8).toString('hex')}.tmp`);
      try {
        cloneAside(from, aside, source, fstatSync(from).mode);
        linkSync(aside, target);
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'EEXIST') throw there(target);
        throw systemError(cause, { path: target, operation: 'snapshot' });
      } finally {
        removeQuietly(aside);
      }
      syncFolder(folder, target);
    } finally {
      closeSync(folder);
    }
    return fstatSync(from).size;
  } finally {
    closeSync(from);
  }
}

function openFile(path: string): number {
  try {
    // Asked first: opening a FIFO would wait for somebody to write to it.
    const stat = statSync(path);
    if (!stat.isFile()) {
      const device = stat.isBlockDevice();
      const reason = `expected a regular file, got ${device ? 'a block device' : 'something else'}: ${snapshotAdvice}`;
      throw new DriftmapError(device ? 'unsupported' : 'argument', reason, { path });
    }
    return openSync(path, constants.O_RDONLY);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'snapshot' });
  }
}

function openFolder(target: string): number {
  try {
    return openSync(dirname(target), constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (cause) {
    throw systemError(cause, { path: dirname(target), operation: 'snapshot' });
  }
}

function cloneAside(from: number, aside: string, source: string, mode: number): void {
  const to = openSync(aside, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, mode & 0o777);
  try {
    const error = cloneFile(from, to);
    if (error !== 0) throw cannotShare(error, source);
    fsyncSync(to);
  } finally {
    closeSync(to);
  }
}

function cannotShare(error: number | null, path: string): DriftmapError {
  if (error === null) {
    const reason = `expected the optional library koffi on 64-bit Linux, which makes reflinks: install it, or ${snapshotAdvice}`;
    return new DriftmapError('unsupported', reason, { path });
  }
  const { EXDEV, EOPNOTSUPP, ENOTTY, EINVAL, ENOSYS } = system.errno;
  if (error === EXDEV) {
    const reason =
      'a reflink shares storage and so stays within one file system: name a file beside this one';
    return new DriftmapError('unsupported', reason, { path });
  }
  if ([EOPNOTSUPP, ENOTTY, EINVAL, ENOSYS].includes(error)) {
    const reason = `its file system cannot make reflinks (XFS and btrfs can): ${snapshotAdvice}`;
    return new DriftmapError('unsupported', reason, { path });
  }
  const code = Object.entries(system.errno).find(([, number]) => number === error)?.[0];
  const reason = `making the reflink failed: ${code ?? `error ${error}`}`;
  return new DriftmapError('io', reason, { path, operation: 'snapshot' });
}

/** The name itself becomes durable. Some file systems cannot flush a folder and say EINVAL; they order it themselves. */
function syncFolder(folder: number, target: string): void {
  try {
    fsyncSync(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EINVAL' || code === 'ENOTSUP') return;
    removeQuietly(target);
    throw systemError(cause, { path: dirname(target), operation: 'snapshot' });
  }
}

function there(path: string): DriftmapError {
  const reason = 'is there already and is not overwritten: remove it first, or name another file';
  return new DriftmapError('policy', reason, { path });
}

/** The error that brought us here is the one to report. */
function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It was never made.
  }
}
