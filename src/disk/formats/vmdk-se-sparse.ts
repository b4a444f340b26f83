/**
 * The sparse extent of ESX from version 6.5 on: seSparse ("space efficient"). VMware has published nothing of
 * it; the layout is the one that QEMU reads (block/vmdk.c, `VMDKSESparseConstHeader`), and as there every field
 * that has only ever been seen with one value must have that value. Little-endian, 64 bits, in sectors.
 *
 * Header, volatile header and journal come first, then one region for the directory, one for all grain tables
 * and one for all grains, so that tables and grains are numbered. The top four bits of an entry say what it is:
 *
 *   directory  0 none, 1 table (its number below)
 *   table      0 never written, 1 unmapped by the guest, 2 zeros, 3 grain; 1 and 2 read as zeros
 *
 * A grain's number is turned by twelve bits: bits 48–59 of the entry are its low, bits 0–47 its high bits.
 *
 * A journal that has to be replayed makes the tables old: the image is refused.
 */

import { DriftmapError, type ErrorKind } from '../../base/errors.ts';
import { MAX_DISK_SIZE, VMDK_MAX_DIRECTORY_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';
import { SECTOR } from './vmdk-descriptor.ts';
import { type GrainLayout, NO_GRAIN, type WideEntries, ZERO_GRAIN } from './vmdk-grains.ts';

const CONST_MAGIC = 0xcafebabe;
const VOLATILE_MAGIC = 0xcafecafe;
const GRAIN_BYTES = 4096;
const TABLE_BYTES = 32_768;
const ENTRIES = TABLE_BYTES / 8;
/** High word of a directory entry that has a table. */
const TABLE_HIGH = 0x10000000;

export interface SeSparseHeader {
  readonly capacity: ByteCount;
  readonly volatile: ByteRange;
  readonly directory: ByteRange;
  readonly tables: ByteRange;
  readonly grains: ByteRange;
}

export function isSeSparse(head: Uint8Array): boolean {
  return head.length >= 8 && littleUint64(viewOf(head), 0) === CONST_MAGIC;
}

/** Makes places of grain entries. */
class SeGrains implements WideEntries {
  private readonly path: string;
  private readonly region: ByteRange;

  constructor(path: string, region: ByteRange) {
    this.path = path;
    this.region = region;
  }

  placeOf(high: number, low: number, at: ByteOffset): ByteOffset {
    const type = high >>> 28;
    if (type === 1 || type === 2) return ZERO_GRAIN;
    if (type === 0 && high === 0 && low === 0) return NO_GRAIN;
    const number = ((high & 0xffff) * 2 ** 32 + low) * 4096 + ((high >>> 16) & 0xfff);
    if (type === 3 && (number + 1) * GRAIN_BYTES <= this.region.length) {
      return this.region.offset + number * GRAIN_BYTES;
    }
    const entry = high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0');
    const reason = `expected a grain within the ${this.region.length / GRAIN_BYTES} of its region, or none, got ${entry}`;
    throw error('malformed', this.path, at, reason);
  }
}

function error(kind: ErrorKind, path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError(kind, `seSparse: ${reason}`, { path, offset });
}

/** @throws DriftmapError `malformed`, `unsupported`, with the offset of the field */
export async function readSeSparseHeader(source: ByteSource): Promise<SeSparseHeader> {
  const path = source.name;
  const bytes = new Uint8Array(SECTOR);
  await readWhole(source, 'the header of an seSparse extent', 0, bytes);
  const view = viewOf(bytes);
  if (!isSeSparse(bytes)) throw error('malformed', path, 0, 'expected the magic number cafebabe');
  const fixed: readonly (readonly [number, string, number])[] = [
    [8, 'version', 0x200000001],
    [24, 'grain size in sectors', GRAIN_BYTES / SECTOR],
    [32, 'grain table size in sectors', TABLE_BYTES / SECTOR],
    [40, 'flags', 0],
  ];
  for (const [at, what, value] of fixed) {
    const got = littleUint64(view, at);
    if (got !== value) throw error('unsupported', path, at, `expected ${what} ${value}, got ${got}`);
  }
  const used = bytes.findIndex((byte, i) => byte !== 0 && ((i >= 48 && i < 80) || i >= 208));
  if (used >= 0) throw error('unsupported', path, used, 'expected zeros in a reserved field');
  const capacity = littleUint64(view, 16) * SECTOR;
  if (capacity === 0 || capacity > MAX_DISK_SIZE) {
    throw error('malformed', path, 16, `expected a capacity of 1 to 2^53 bytes, got ${capacity}`);
  }
  const header = {
    capacity,
    volatile: regionAt(path, view, 80),
    directory: regionAt(path, view, 128),
    tables: regionAt(path, view, 144),
    grains: regionAt(path, view, 192),
  };
  await checkVolatile(source, header.volatile.offset);
  return header;
}

/** Offset and size in sectors; what they hold is checked against the file where it is read. */
function regionAt(path: string, view: DataView, at: number): ByteRange {
  const offset = littleUint64(view, at) * SECTOR;
  const length = littleUint64(view, at + 8) * SECTOR;
  if (offset >= SECTOR && offset + length <= MAX_DISK_SIZE) return { offset, length };
  throw error('malformed', path, at, `expected a region after the header, got ${length} bytes at ${offset}`);
}

async function checkVolatile(source: ByteSource, at: ByteOffset): Promise<void> {
  const path = source.name;
  const bytes = new Uint8Array(SECTOR);
  await readWhole(source, 'the volatile header of an seSparse extent', at, bytes);
  const view = viewOf(bytes);
  if (littleUint64(view, 0) !== VOLATILE_MAGIC) {
    throw error('malformed', path, at, 'expected the magic number cafecafe in the volatile header');
  }
  if (littleUint64(view, 24) !== 0) {
    const reason = 'its journal has to be replayed: open and close it in ESX, then copy it again';
    throw error('unsupported', path, at + 24, reason);
  }
  const used = bytes.findIndex((byte, i) => byte !== 0 && i >= 32);
  if (used >= 0) throw error('unsupported', path, at + used, 'expected zeros in a reserved field');
}

export async function seSparseLayout(source: ByteSource, header: SeSparseHeader): Promise<GrainLayout> {
  const { directory, tables, grains } = header;
  const count = Math.ceil(header.capacity / (ENTRIES * GRAIN_BYTES));
  const length = 8 * count;
  if (length > directory.length) {
    const reason = `expected a directory of at least ${length} bytes for the disk, got ${directory.length}`;
    throw error('malformed', source.name, 136, reason);
  }
  if (length > VMDK_MAX_DIRECTORY_BYTES) {
    const reason = `a grain directory of ${length} bytes: expected at most ${VMDK_MAX_DIRECTORY_BYTES}`;
    throw error('limit', source.name, 136, reason);
  }
  const bytes = new Uint8Array(length);
  await readWhole(source, 'the grain directory of an seSparse extent', directory.offset, bytes);
  return {
    source,
    format: 'sesparse',
    zeroGrains: false,
    grainBytes: GRAIN_BYTES,
    entriesPerTable: ENTRIES,
    tableBytes: TABLE_BYTES,
    directory: tablesOf(source.name, viewOf(bytes), count, directory.offset, tables),
    redundant: null,
    metadata: [
      { offset: 0, length: SECTOR },
      { offset: header.volatile.offset, length: SECTOR },
      { offset: directory.offset, length },
    ],
    wide: new SeGrains(source.name, grains),
  };
}

function tablesOf(
  path: string,
  view: DataView,
  count: number,
  at: ByteOffset,
  region: ByteRange,
): Float64Array {
  const offsets = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const low = view.getUint32(8 * i, true);
    const high = view.getUint32(8 * i + 4, true);
    if (high === 0 && low === 0) continue;
    if (high !== TABLE_HIGH || (low + 1) * TABLE_BYTES > region.length) {
      const entry = high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0');
      const reason = `directory entry ${i}: expected a table within the ${region.length / TABLE_BYTES} of its region, or none, got ${entry}`;
      throw error('malformed', path, at + 8 * i, reason);
    }
    offsets[i] = region.offset + low * TABLE_BYTES;
  }
  return offsets;
}
