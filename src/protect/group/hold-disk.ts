/** One at a time for a disk: a splitter that its guest writes through, or a replica that follows its journal. */

import { constants, realpathSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { lock } from '../../sync/lock.ts';

/** A block device is claimed from the kernel, which knows of mounts and volumes too; a file has a lock beside it. */
export async function holdDisk(path: string): Promise<() => void> {
  if (!statSync(path).isBlockDevice())
    return lockOr(`${path}.splitter-lock`, 'this disk is used by another splitter, or by a replica');
  try {
    const claim = await open(path, constants.O_RDWR | constants.O_EXCL);
    return () => void claim.close().catch(() => undefined);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EBUSY')
      throw systemError(cause, { path, operation: 'open' });
    const reason =
      'this device is in use: by another splitter, a replica, a mounted file system, or a volume on it';
    throw new DriftmapError('policy', reason, { path, cause });
  }
}

/** @throws DriftmapError `policy` with the reason and who it is */
export function lockOr(path: string, reason: string): () => void {
  try {
    return lock(path);
  } catch (cause) {
    if (!(cause instanceof DriftmapError) || cause.kind !== 'policy') throw cause;
    const holder =
      /(process \d+ on \S+|another session of this process)/.exec(cause.message)?.[1] ?? 'another';
    throw new DriftmapError('policy', `${reason}: ${holder}; if it is gone, remove this file`, {
      path,
      cause,
    });
  }
}

/** The disks of a replica, while it is one. */
export class DiskClaims {
  private undo: (() => void)[] = [];

  /** Does nothing while they are claimed. @throws DriftmapError `policy` when somebody else uses one of them */
  async claim(paths: readonly string[]): Promise<void> {
    if (this.undo.length > 0) return;
    try {
      for (const path of paths) this.undo.push(await holdDisk(realpathSync(path)));
    } catch (error) {
      this.release();
      throw error;
    }
  }

  release(): void {
    for (const act of this.undo.splice(0).reverse()) act();
  }
}
