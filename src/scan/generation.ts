/** What a generation is worth. */

import { DriftmapError } from '../base/errors.ts';
import { type BitmapHeader, DISABLED, type SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { isFileInside } from '../disk/view-unit.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { FileUnit } from '../lu/file-unit.ts';

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

/** A scan that looks only where a bitmap marks. */
interface NarrowScan {
  readonly within?: SyncBitmap | undefined;
  readonly production: VirtualDisk;
  readonly replica: VirtualDisk;
}

/**
 * What was written since the bitmap was made is not among its marks, and nobody looks at it.
 * @param generations of production and replica when the scan began
 * @returns warnings, one line for each side that was written to since
 */
export function staleMarks(scan: NarrowScan, generations: readonly [string, string]): string[] {
  const { within } = scan;
  if (!within) return [];
  const sides = ['production', 'replica'] as const;
  const stale = sides.filter((side, i) => within.header[side].generation !== generations[i]);
  return stale.map(
    (side) =>
      `${scan[side].name}: was written to since the bitmap was made that says where to look: what was written since is not looked at, and may differ unseen`,
  );
}

/**
 * Makes a generation worth what an index takes it for. A store through a shared mapping moves a file's times only
 * where its page is clean: the kernel write-protects clean pages and sees the first store. So pages are made clean
 * before the generation is taken, and whatever is stored later is told.
 * @returns warnings, one line each, where that cannot be had
 */
export async function settleGeneration(disk: VirtualDisk): Promise<string[]> {
  const warnings: string[] = [];
  for (const { unit } of disk.sources) {
    if (vouchesForNothing(unit.generation())) continue;
    try {
      await unit.flush();
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      warnings.push(`${unit.name}: could not be flushed (${why}), so writes through a mapping may go unseen`);
    }
  }
  return [...warnings, ...unseenStores(disk)];
}

/** The generation, of which stores through a mapping that come later make another one. */
export async function settledGeneration(disk: VirtualDisk): Promise<string> {
  await settleGeneration(disk);
  return disk.generation();
}

function unseenStores(disk: VirtualDisk): string[] {
  const silent = disk.sources.filter(({ unit }) => unit instanceof FileUnit && !unit.tellsOfStores());
  return silent.map(
    ({ unit }) =>
      `${unit.name}: lies on tmpfs, where writes through a shared mapping do not change its times: neither an index nor a later sync notices them`,
  );
}
