/** Bitmaps as commands name them: a `.drift` file, or a persistent bitmap inside a qcow2 image. */

import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';

/** The two disks that a bitmap from an image is to be about. */
export interface MarkedDisks {
  readonly production: VirtualDisk;
  readonly replica: VirtualDisk;
}

/** Reads a bitmap by its name. */
export async function loadMarks(name: string, _disks: MarkedDisks): Promise<SyncBitmap> {
  const { loadBitmap } = await import('../bitmap/drift-file.ts');
  return loadBitmap(name);
}
