/** What a scan that ended early had found is kept in its bitmap file, for --resume. */

import { DriftmapError } from '../base/errors.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';

/** The error of a scan that ended early, which tells of what was kept too. */
export async function withPartial(
  cause: unknown,
  partial: SyncBitmap | undefined,
  file: string,
): Promise<unknown> {
  if (partial === undefined) return cause;
  const message = `${messageOf(cause)}; ${await keepPartial(partial, file)}`;
  return new DriftmapError(kindOf(cause), message, { cause });
}

/** Keeps what a scan had found, unless the file holds a bitmap of the same disks that looked at more. */
async function keepPartial(partial: SyncBitmap, file: string): Promise<string> {
  const { loadBitmap, saveBitmap } = await import('../bitmap/drift-file.ts');
  let earlier: SyncBitmap | undefined;
  try {
    earlier = loadBitmap(file);
    partial.checkSameDisks(earlier, file);
  } catch {
    // None there, or one of other disks: there is nothing to spare.
    earlier = undefined;
  }
  if (earlier && earlier.coveredBlocks > partial.coveredBlocks) {
    return `${file} keeps an earlier bitmap of these disks, which looked at more`;
  }
  saveBitmap(partial, file);
  return partialNote(partial, file);
}

function partialNote(partial: SyncBitmap, file: string): string {
  const percent = partial.blocks === 0 ? 100 : Math.floor((100 * partial.coveredBlocks) / partial.blocks);
  return `${percent} % was compared and is kept: go on with --resume ${file}`;
}

function kindOf(cause: unknown): DriftmapError['kind'] {
  return cause instanceof DriftmapError ? cause.kind : 'internal';
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
