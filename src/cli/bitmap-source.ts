/** Bitmaps as commands name them: a `.drift` file, or `IMAGE.qcow2:bitmap=NAME`, a persistent bitmap of an image. */

import { existsSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { readStart } from '../codec/atomic-file.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { warn } from './exit.ts';

/** What a bitmap that is read from an image is to be about. */
export interface MarkedDisks {
  readonly production: VirtualDisk;
  readonly replica: VirtualDisk;
  readonly blockSize?: number | undefined;
  readonly allowOutside?: boolean | undefined;
}

/** The image and the bitmap that a name means; null where it is a file's. A file that is there is that file. */
export function parseBitmapSource(name: string): { image: string; bitmap: string } | null {
  if (existsSync(name)) return null;
  const match = /^(.+):bitmap=(.+)$/s.exec(name);
  return match ? { image: match[1]!, bitmap: match[2]! } : null;
}

/** Reads a bitmap by its name, and warns of what has to be known of it. */
export async function loadMarks(name: string, disks: MarkedDisks): Promise<SyncBitmap> {
  const source = parseBitmapSource(name);
  if (source === null) return loadFile(name);
  const { importBitmap } = await import('../disk/persistent-bitmaps.ts');
  const { image, bitmap: wanted } = source;
  const { bitmap, warnings } = await importBitmap({ image, name: wanted, ...disks });
  for (const warning of warnings) warn(warning);
  return bitmap;
}

async function loadFile(path: string): Promise<SyncBitmap> {
  const { loadBitmap } = await import('../bitmap/drift-file.ts');
  const start = readStart(path, 4);
  if (start?.toString() === '81,70,73,251') {
    const reason = `is a qcow2 image: name one of its bitmaps, as ${path}:bitmap=NAME (driftmap bitmap list ${path})`;
    throw new DriftmapError('argument', reason, { path });
  }
  return loadBitmap(path);
}
