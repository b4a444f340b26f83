/**
 * One writer for a disk: a sync to it, a splitter that its guest writes through, a replica that follows a journal, a
 * disk that was failed over. They meet at the disk itself, whatever state they keep and by whatever name they came:
 *
 *   a file    a lock beside it, by its real path, which names the process that holds it (`lock.ts`); and a lock of the
 *             kernel's on the file (flock(2)), which holds for its other names too: hard links, bind mounts
 *   a device  is opened exclusively (O_EXCL), which the kernel refuses for mounts and volumes as well
 *
 * Where there is no native door (`posix.ts`), or a file system without such locks, a file's other names are not noticed.
 * Where nobody may make a file beside the disk the kernel's lock must do.
 */

import { closeSync, constants, openSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { lockFile } from '../lu/posix.ts';
import { lock } from './lock.ts';
import { statePath } from './state-file.ts';

/**
 * @param path of a disk; what is neither a file nor a device is not claimed: opening it tells what is wrong
 * @param held locks that the caller has already, which may be the one beside the disk
 * @returns lets it go
 * @throws DriftmapError `policy` when somebody else has it, and what the system throws
 */
export function claimDisk(path: string, held: readonly string[] = []): () => void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat?.isBlockDevice()) return claimDevice(path);
  if (!stat?.isFile()) return () => undefined;
  const real = realpathSync(path);
  const beside = lockBeside(real);
  const unlock = held.includes(beside) ? () => undefined : lockIfPossible(beside);
  try {
    const release = claimFile(real);
    return () => {
      release();
      unlock();
    };
  } catch (error) {
    unlock();
    throw error;
  }
}

/**
 * The lock of a state, and the disk that it is about.
 * @param path null for a disk in memory
 * @param stateAt null for one without a state
 */
export function claimReplica(path: string | null, stateAt: string | null): () => void {
  const name = stateAt === null ? null : `${stateAt}.lock`;
  const unlock = name === null ? () => undefined : lock(name);
  if (path === null) return unlock;
  try {
    const release = claimDisk(path, name === null ? [] : [realName(name)]);
    return () => {
      release();
      unlock();
    };
  } catch (error) {
    unlock();
    throw error;
  }
}

/** The same that a replica's state has by default: then one lock is both. */
export function lockBeside(path: string): string {
  return `${statePath(path)}.lock`;
}

/** A file that is there, without links on the way to it. */
function realName(path: string): string {
  return join(realpathSync(dirname(path)), basename(path));
}

function lockIfPossible(path: string): () => void {
  try {
    return lock(path);
  } catch (cause) {
    if (cause instanceof DriftmapError && cause.kind === 'policy') throw cause;
    return () => undefined;
  }
}

function claimFile(path: string): () => void {
  const fd = opened(path, constants.O_RDWR | constants.O_NONBLOCK);
  if (fd === null) return () => undefined;
  if (lockFile(fd) !== false) return () => closeSync(fd);
  closeSync(fd);
  const reason =
    'this file is in use by another process of driftmap, or another session of this one, under another name or with another state: wait for it';
  throw new DriftmapError('policy', reason, { path, operation: 'lock' });
}

/** Null for a file that cannot be written: that is told when it is opened to be written. */
function opened(path: string, flags: number): number | null {
  try {
    return openSync(path, flags);
  } catch {
    return null;
  }
}

function claimDevice(path: string): () => void {
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_EXCL);
    return () => closeSync(fd);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EBUSY')
      throw systemError(cause, { path, operation: 'open' });
    const reason =
      'this device is in use: by another sync or splitter, a replica, a mounted file system, or a volume on it';
    throw new DriftmapError('policy', reason, { path, cause });
  }
}
