/** What a generation is worth. */

import { DriftmapError } from '../base/errors.ts';
import { type BitmapHeader, DISABLED } from '../bitmap/sync-bitmap.ts';
import { isFileInside } from '../disk/view-unit.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';

/** Block devices (`device`) and memory (`live`) do not tell of writes; a disk on one of them does not either. */
export function vouchesForNothing(generation: string): boolean {
  return generation.split(' ').some((part) => part === 'device' || part === 'live');
}

/**
 * The map of an image, and that of a file inside a unit, was read when it was opened; writes since then may have
 * moved what it says.
 * @throws DriftmapError `mismatch`, with the disk's name and this operation
 */
export function checkUnchangedSinceOpened(disk: VirtualDisk, operation: string): void {
  const hasTables = disk.format !== 'raw' || disk.units.some(isFileInside);
  if (!hasTables || disk.generation() === disk.openedGeneration) return;
  const reason = 'changed since it was opened, so where its bytes lie may have changed too: open it again';
  throw new DriftmapError('mismatch', reason, { path: disk.name, operation });
}

/**
 * A bitmap that was disabled may lack writes, as one that is in use may.
 * @throws DriftmapError `policy`, with this path and operation
 */
export function checkStillTracking({ signature }: BitmapHeader, path: string, operation: string): void {
  if (signature !== DISABLED) return;
  const reason =
    'the bitmap was disabled: it stopped recording at some time and may lack writes; use one that is enabled, or look at the whole disk';
  throw new DriftmapError('policy', reason, { path, operation });
}
