/**
 * Persistent bitmaps of images as sync bitmaps. Only qcow2 has them. What QEMU marks in units of its granularity is
 * marked here in blocks, always outward: a block is marked when any byte of it is.
 */

import { DriftmapError } from '../base/errors.ts';
import { DEFAULT_BLOCK_SIZE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { DISABLED, NO_SIGNATURE, SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { openFileUnit } from '../lu/file-unit.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { openNbdUnit } from '../lu/nbd/nbd-unit.ts';
import { isNbdUrl } from '../lu/nbd/url.ts';
import { parseAddress } from './address.ts';
import { dirtyRanges, type Qcow2Bitmap, readQcow2Bitmaps } from './formats/qcow2-bitmaps.ts';
import { type Qcow2Header, readQcow2Header } from './formats/qcow2-header.ts';
import { closeAll } from './mapped-disk.ts';
import { openDisk } from './open.ts';
import { openPlace } from './places.ts';
import type { VirtualDisk } from './virtual-disk.ts';

export interface PersistentBitmap {
  readonly name: string;
  /** Bytes of the disk that one mark stands for. */
  readonly granularity: ByteCount;
  /** It takes in every write; else it stopped at some time, and later writes are not in it. */
  readonly enabled: boolean;
  /** Why it is not read: it may lack writes (`policy`), or is of a kind that is not known (`unsupported`). */
  readonly refusal: DriftmapError | null;
}

export interface ImportBitmapOptions {
  /** A qcow2 image: a path or an address; or the URL of an NBD export that offers dirty bitmaps. */
  readonly image: string;
  readonly name: string;
  /** The two disks that the bitmap is to be about; one of them must be the image. Both are the image by default. */
  readonly production?: VirtualDisk | undefined;
  readonly replica?: VirtualDisk | undefined;
  /** Of the sync bitmap; 64 KiB by default. */
  readonly blockSize?: ByteCount | undefined;
  /** As for `openDisk`. */
  readonly allowOutside?: boolean | undefined;
}

export interface ImportedBitmap {
  readonly bitmap: SyncBitmap;
  readonly warnings: readonly string[];
}

/**
 * The persistent bitmaps of a qcow2 image.
 * @param image a path or an address
 * @throws DriftmapError `malformed` or `limit` for a damaged header or directory, and what opening throws
 */
export async function listBitmaps(image: string): Promise<PersistentBitmap[]> {
  return withImage(image, async (unit, header) => {
    const bitmaps = await readQcow2Bitmaps(unit, header);
    return bitmaps.map(({ name, granularity, enabled, refusal }) => ({
      name,
      granularity,
      enabled,
      refusal,
    }));
  });
}

/**
 * Reads a persistent bitmap of a qcow2 image, or a dirty bitmap of an NBD export. Every block counts as covered: one that is not marked is equal if the two
 * disks were equal when the bitmap was begun, which nothing here can check. Where the other disk is longer than the
 * image, nobody has tracked the rest, and it is marked. One that is disabled is for looking at: its header says so
 * (`signature: 'disabled'`), and no scan or refresh takes it.
 * @throws DriftmapError `not-found` where the image has no such bitmap, naming those it has; `policy` for one that may
 *   lack writes; `mismatch` where neither disk is the image; `malformed`, `unsupported`, `limit`, `io`
 */
export async function importBitmap(options: ImportBitmapOptions): Promise<ImportedBitmap> {
  const { image, name, allowOutside } = options;
  if (isNbdUrl(image)) return importServedBitmap(options);
  const disk = await openDisk(image, { format: 'qcow2', allowOutside });
  try {
    const { production = disk, replica = disk } = options;
    checkIsOneOf(disk, production, replica);
    const generation = disk.generation();
    const imported = await withImage(image, (unit, header) =>
      readMarks(unit, header, { ...options, production, replica }),
    );
    if (disk.sources.some(({ below }) => below)) {
      const warning = `${image}: has a backing file: writes to that one are not in the bitmap '${name}'`;
      imported.warnings.push(warning);
    }
    if (disk.generation() !== generation) {
      const reason = `was written to while its bitmap '${name}' was read: read it when nobody writes`;
      throw new DriftmapError('io', reason, { path: image, operation: 'read' });
    }
    return imported;
  } finally {
    await disk.close();
  }
}

/**
 * A dirty bitmap that an NBD server offers (`qemu:dirty-bitmap:NAME`) for the disk that it serves. The server says
 * neither whether the bitmap still takes writes in nor whether it ever lacked some: that is the user's to know.
 */
async function importServedBitmap(options: ImportBitmapOptions): Promise<ImportedBitmap> {
  const { image, name, blockSize = DEFAULT_BLOCK_SIZE } = options;
  const unit = await openNbdUnit(image);
  try {
    const disk = await openDisk(unit, { format: 'raw' });
    const { production = disk, replica = disk } = options;
    checkIsOneOf(disk, production, replica);
    const size = Math.max(production.size, replica.size);
    const stamps = { production: stampOf(production), replica: stampOf(replica) };
    const bitmap = new SyncBitmap({ size, blockSize, signature: NO_SIGNATURE, ...stamps });
    for (const range of await unit.readDirtyBitmap(name)) bitmap.markRange(range);
    if (size > unit.size) bitmap.markRange({ offset: unit.size, length: size - unit.size });
    bitmap.cover({ start: 0, end: bitmap.blocks });
    const warning = `${image}: the server does not say whether its bitmap '${name}' has every write: it is taken for all that was written`;
    return { bitmap, warnings: [warning] };
  } finally {
    await unit.close();
  }
}

async function readMarks(
  unit: LogicalUnit,
  header: Qcow2Header,
  { name, blockSize = DEFAULT_BLOCK_SIZE, ...disks }: ImportBitmapOptions & Sides,
): Promise<{ bitmap: SyncBitmap; warnings: string[] }> {
  const found = pick(await readQcow2Bitmaps(unit, header), name, unit.name);
  const { production, replica } = disks;
  const size = Math.max(production.size, replica.size);
  const stamps = { production: stampOf(production), replica: stampOf(replica) };
  const bitmap = new SyncBitmap({
    size,
    blockSize,
    signature: found.enabled ? NO_SIGNATURE : DISABLED,
    ...stamps,
  });
  for await (const range of dirtyRanges(unit, header, found)) bitmap.markRange(range);
  if (size > header.size) bitmap.markRange({ offset: header.size, length: size - header.size });
  bitmap.cover({ start: 0, end: bitmap.blocks });
  const warnings = found.enabled
    ? []
    : [
        `${unit.name}: the bitmap '${name}' is disabled: it marks what was written until it was disabled, and nothing since; no scan or refresh takes it for all that was written`,
      ];
  return { bitmap, warnings };
}

interface Sides {
  readonly production: VirtualDisk;
  readonly replica: VirtualDisk;
}

function stampOf(disk: VirtualDisk) {
  return { identity: disk.identity, size: disk.size, generation: disk.generation() };
}

function pick(bitmaps: readonly Qcow2Bitmap[], name: string, path: string): Qcow2Bitmap {
  const found = bitmaps.find((bitmap) => bitmap.name === name);
  if (found === undefined) {
    const there = bitmaps.map((bitmap) => `'${bitmap.name}'`).join(', ');
    const reason = `no bitmap '${name}': ${there ? `there are ${there}` : 'the image has no bitmaps'}`;
    throw new DriftmapError('not-found', reason, { path });
  }
  if (found.refusal) throw found.refusal;
  return found;
}

/** A bitmap of a backing file, or of a copy, lacks the writes that went elsewhere. */
function checkIsOneOf(disk: VirtualDisk, production: VirtualDisk, replica: VirtualDisk): void {
  if ([production.identity, replica.identity].includes(disk.identity)) return;
  const reason = `expected a bitmap of the production disk (${production.name}) or of the replica (${replica.name}): this image is neither, so its bitmap does not tell what was written to them`;
  throw new DriftmapError('mismatch', reason, { path: disk.name });
}

async function withImage<T>(
  image: string,
  act: (unit: LogicalUnit, header: Qcow2Header) => Promise<T>,
): Promise<T> {
  const owned: LogicalUnit[] = [];
  try {
    const address = parseAddress(image);
    let unit: LogicalUnit;
    if (address === null) {
      unit = openFileUnit(image);
      owned.push(unit);
    } else {
      unit = (await openPlace(address, owned, [])).unit;
    }
    return await act(unit, await readQcow2Header(unit));
  } finally {
    await closeAll(owned);
  }
}
