/** Where the marks of a live sync come from: see `live.ts` for what they must be. */

import { DriftmapError } from '../base/errors.ts';
import type { ByteRange } from '../base/units.ts';
import { blockCount, blocksTouching } from '../base/units.ts';
import type { LiveMarks } from '../bitmap/live-marks.ts';
import { PagedBits } from '../bitmap/paged-bits.ts';
import { importBitmap } from '../disk/persistent-bitmaps.ts';
import { openNbdUnit } from '../lu/nbd/nbd-unit.ts';
import { isNbdUrl } from '../lu/nbd/url.ts';
import { BitmapTurns, type BitmapTurnsOptions } from '../lu/qemu/bitmap-turns.ts';
import type { LiveGeometry, LiveProduction } from './live.ts';

/** How a live sync ends. */
export type LiveEnding = Pick<
  LiveProduction,
  'threshold' | 'thresholdSeconds' | 'quiesce' | 'resume' | 'onPass'
>;

export interface OpenLive extends LiveProduction {
  close(): Promise<void>;
}

/**
 * Marks of a splitter in this process. They are shared memory that only grows; make new ones for each sync, and give
 * them to the splitter before `sync` is called.
 */
export function liveFromMarks(marks: LiveMarks, ending: LiveEnding): OpenLive {
  const take = ({ size, blockSize }: LiveGeometry) => {
    if (marks.blockSize !== blockSize || marks.size !== size)
      throw new DriftmapError(
        'mismatch',
        `expected live marks of ${size} bytes in blocks of ${blockSize}, got ${marks.size} in ${marks.blockSize}`,
      );
    return marks.snapshot();
  };
  return { ...ending, keeps: true, take, close: async () => undefined };
}

/**
 * A dirty bitmap that somebody else keeps: of an NBD server (`qemu:dirty-bitmap:NAME`), which must take in writes
 * already; or a persistent one of a qcow2 image, which can be read only while nobody has the image open to write.
 * @param image a URL of an NBD export, or a path
 */
export async function liveFromBitmap(image: string, name: string, ending: LiveEnding): Promise<OpenLive> {
  return isNbdUrl(image) ? servedMarks(image, name, ending) : imageMarks(image, name, ending);
}

async function servedMarks(url: string, name: string, ending: LiveEnding): Promise<OpenLive> {
  const unit = await openNbdUnit(url);
  try {
    // A name that is not there is told before hours of comparing.
    await unit.readDirtyBitmap(name);
  } catch (error) {
    await unit.close();
    throw error;
  }
  const take = async (geometry: LiveGeometry) => {
    if (unit.size !== geometry.size) {
      const reason = `expected a bitmap of the production disk's ${geometry.size} bytes, got one of ${unit.size}: it is of another disk`;
      throw new DriftmapError('mismatch', reason, { path: unit.name });
    }
    return bitsOf(await unit.readDirtyBitmap(name), geometry);
  };
  const close = async () => {
    await unit.close();
  };
  return { ...ending, keeps: true, take, close };
}

async function imageMarks(image: string, name: string, ending: LiveEnding): Promise<OpenLive> {
  const read = async (blockSize: number) => {
    try {
      const { bitmap } = await importBitmap({ image, name, blockSize });
      return bitmap;
    } catch (cause) {
      if (!(cause instanceof DriftmapError) || cause.kind !== 'policy') throw cause;
      const reason = `${cause.message}; while QEMU runs, its marks are in its memory only: name its NBD export (nbd://…:bitmap=${name}), or its monitor (--qmp)`;
      const error = new DriftmapError('policy', '', { path: cause.path, cause });
      error.message = reason;
      throw error;
    }
  };
  await read(64 * 1024);
  const take = async ({ size, blockSize }: LiveGeometry) => {
    const { marks, header, blocks } = await read(blockSize);
    if (header.signature === 'disabled')
      throw new DriftmapError('policy', `the bitmap '${name}' is disabled: it may lack writes`, {
        path: image,
      });
    if (blocks !== blockCount(size, blockSize))
      throw new DriftmapError('mismatch', `expected a bitmap of the production disk's ${size} bytes`, {
        path: image,
      });
    return marks;
  };
  return { ...ending, keeps: true, take, close: async () => undefined };
}

/** Marks that a running QEMU is asked for through its monitor, and that it forgets as they are taken. */
export async function liveFromQemu(options: BitmapTurnsOptions, ending: LiveEnding): Promise<OpenLive> {
  const turns = await BitmapTurns.begin(options);
  const take = async (geometry: LiveGeometry) => bitsOf(await turns.take(), geometry);
  return { ...ending, take, close: () => turns.close() };
}

/** The blocks of a session that marks touch, whatever these are in. */
export function bitsOf(ranges: Iterable<ByteRange>, { size, blockSize }: LiveGeometry): PagedBits {
  const bits = new PagedBits(blockCount(size, blockSize));
  for (const { offset, length } of ranges) {
    // Bitmaps mark in units of their own, the last of which may reach past the end.
    const inside = Math.min(length, size - offset);
    if (inside > 0) bits.setRun(blocksTouching({ offset, length: inside }, blockSize));
  }
  return bits;
}
