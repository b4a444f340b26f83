/** One at a time for a disk: a splitter that its guest writes through, or a replica that follows its journal. */

import { realpathSync } from 'node:fs';
import { DriftmapError } from '../../base/errors.ts';
import { claimDisk } from '../../sync/claim.ts';
import { lock } from '../../sync/lock.ts';

/** Kept from every other writer of driftmap's, a `driftmap sync` to it too: see `claim.ts`. */
export function holdDisk(path: string): () => void {
  return telling('this disk is used by another splitter, by a replica, or by a sync', () => claimDisk(path));
}

/** @throws DriftmapError `policy` with the reason and who it is */
export function lockOr(path: string, reason: string): () => void {
  return telling(reason, () => lock(path));
}

/** Where a lock names its holder, says what that means. */
function telling(reason: string, take: () => () => void): () => void {
  try {
    return take();
  } catch (cause) {
    if (!(cause instanceof DriftmapError) || cause.kind !== 'policy') throw cause;
    const holder = /(process \d+ on \S+|another session of this process)/.exec(cause.message)?.[1];
    if (holder === undefined) throw cause;
    throw new DriftmapError('policy', `${reason}: ${holder}; if it is gone, remove this file`, {
      path: cause.path,
      cause,
    });
  }
}

/** The disks of a replica, while it is one. */
export class DiskClaims {
  private undo: (() => void)[] = [];

  /** Does nothing while they are claimed. @throws DriftmapError `policy` when somebody else uses one of them */
  claim(paths: readonly string[]): void {
    if (this.undo.length > 0) return;
    try {
      for (const path of paths) this.undo.push(holdDisk(realpathSync(path)));
    } catch (error) {
      this.release();
      throw error;
    }
  }

  release(): void {
    for (const act of this.undo.splice(0).reverse()) act();
  }
}
