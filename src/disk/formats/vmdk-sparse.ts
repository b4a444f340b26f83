/**
 * The header of a hosted sparse extent (VMware, "Virtual Disk Format 5.0", section "Hosted Sparse Extents"), and
 * its footer in a stream-optimized one (section "Stream-Optimized Compressed Sparse Extents"). Little-endian;
 * offsets and sizes are in sectors of 512 bytes.
 *
 * A stream is written from start to end, so its header cannot say where the grain directory will be
 * (`GD_AT_END`): a second header, the footer, says it. The stream ends with three sectors, the footer's marker,
 * the footer, and the end-of-stream marker. The footer then counts, and must be of the same disk as the header.
 */

import { DriftmapError } from '../../base/errors.ts';
import {
  MAX_DISK_SIZE,
  VMDK_MAX_DIRECTORY_BYTES,
  VMDK_MAX_GRAIN_BYTES,
  VMDK_MAX_PACKED_GRAIN_BYTES,
} from '../../base/limits.ts';
import { alignUp, type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';
import { SECTOR } from './vmdk-descriptor.ts';
import type { GrainLayout } from './vmdk-grains.ts';

export interface VmdkSparseHeader {
  /** Bytes of the disk that the extent can show; 0 in a file that holds nothing but a descriptor. */
  readonly capacity: ByteCount;
  /** Of the embedded descriptor; null where there is none. */
  readonly descriptor: { readonly offset: ByteOffset; readonly length: ByteCount } | null;
  /** Of the header itself, where its fields are (the footer's, in a stream). */
  readonly at: ByteOffset;
  readonly grainBytes: ByteCount;
  readonly entriesPerTable: number;
  readonly directoryOffset: ByteOffset;
  /** Null where the header says that there is none. */
  readonly redundantOffset: ByteOffset | null;
  /** An entry of 1 is a grain of zeros. */
  readonly zeroGrains: boolean;
  readonly packed: boolean;
  readonly unclean: boolean;
}

const MAGIC = 0x564d444b;
const NEWLINE_TEST = 1;
const REDUNDANT = 2;
const ZERO_GRAINS = 4;
const PACKED = 0x10000;
const MARKERS = 0x20000;
const KNOWN_FLAGS = NEWLINE_TEST | REDUNDANT | ZERO_GRAINS | PACKED | MARKERS;
const NEWLINES = [0x0a, 0x20, 0x0d, 0x0a] as const;
const DEFLATE = 1;
const MOST_ENTRIES = 512;
const FOOTER_MARKER = 3;

function malformed(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `VMDK header: ${reason}`, { path, offset });
}

function unsupported(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('unsupported', `VMDK header: ${reason}`, { path, offset });
}

/** Is this the start of a hosted sparse extent? */
export function isSparse(head: Uint8Array): boolean {
  return head.length >= 4 && viewOf(head).getUint32(0, true) === MAGIC;
}

/**
 * Reads and checks the header, and the footer where there is one.
 * @throws DriftmapError `malformed`, `unsupported`, `limit`, with the offset of the field
 */
export async function readSparseHeader(source: ByteSource): Promise<VmdkSparseHeader> {
  const view = await readHeaderAt(source, 0);
  const descriptor = descriptorOf(source.name, view);
  const capacity = capacityOf(source.name, view, 0);
  if (capacity === 0 && descriptor !== null) return holderOf(descriptor);
  if (!isAtEnd(view)) return decode(source, view, 0, descriptor);
  const at = source.size - 2 * SECTOR;
  const footer = await readFooter(source, at);
  for (const [field, what] of [
    [12, 'capacity'],
    [20, 'grain size'],
  ] as const) {
    const [above, below] = [littleUint64(view, field), littleUint64(footer, field)];
    if (above === below) continue;
    throw malformed(source.name, at + field, `the footer says a ${what} of ${below}, the header ${above}`);
  }
  return decode(source, footer, at, descriptor);
}

async function readHeaderAt(source: ByteSource, at: ByteOffset): Promise<DataView> {
  const bytes = new Uint8Array(SECTOR);
  await readWhole(source, 'the header of a VMDK', at, bytes);
  const view = viewOf(bytes);
  const path = source.name;
  if (!isSparse(bytes)) {
    const reason = `expected 'KDMV', got ${view.getUint32(0).toString(16).padStart(8, '0')}`;
    throw malformed(path, at, reason);
  }
  const version = view.getUint32(4, true);
  if (version < 1 || version > 3) {
    throw unsupported(path, at + 4, `expected version 1, 2 or 3, got ${version}`);
  }
  checkFlags(path, view, at);
  return view;
}

function checkFlags(path: string, view: DataView, at: ByteOffset): void {
  const flags = view.getUint32(8, true);
  const unknown = (flags & ~KNOWN_FLAGS) >>> 0;
  if (unknown !== 0) throw unsupported(path, at + 8, `unknown flags ${unknown.toString(16)}`);
  // Bytes that a transfer as text would have changed.
  const intact = NEWLINES.every((byte, i) => view.getUint8(73 + i) === byte);
  if ((flags & NEWLINE_TEST) !== 0 && !intact) {
    const reason =
      'expected LF, space, CR, LF: the file was changed by a transfer as text; transfer it again';
    throw malformed(path, at + 73, reason);
  }
  const algorithm = view.getUint16(77, true);
  const packed = (flags & PACKED) !== 0;
  if (algorithm > DEFLATE) throw unsupported(path, at + 77, `unknown compression ${algorithm}`);
  if (packed !== (algorithm === DEFLATE)) {
    const reason = `the flags say ${packed ? '' : 'not '}compressed, and the compression is ${algorithm}`;
    throw malformed(path, at + 77, reason);
  }
  if (packed !== ((flags & MARKERS) !== 0)) {
    const reason = `expected grain markers in a compressed extent and nowhere else, got flags ${flags.toString(16)}`;
    throw unsupported(path, at + 8, reason);
  }
}

function descriptorOf(path: string, view: DataView): VmdkSparseHeader['descriptor'] {
  const sector = littleUint64(view, 28);
  const sectors = littleUint64(view, 36);
  if (sector === 0 || sectors === 0) return null;
  const offset = sector * SECTOR;
  const length = sectors * SECTOR;
  if (offset + length <= MAX_DISK_SIZE) return { offset, length };
  throw malformed(path, 28, `expected a descriptor within the file, got ${sectors} sectors at ${sector}`);
}

function capacityOf(path: string, view: DataView, at: ByteOffset): ByteCount {
  const capacity = littleUint64(view, 12) * SECTOR;
  if (capacity <= MAX_DISK_SIZE) return capacity;
  const sectors = view.getBigUint64(12, true);
  throw malformed(path, at + 12, `expected a capacity below 2^53 bytes, got ${sectors} sectors`);
}

function holderOf(descriptor: VmdkSparseHeader['descriptor']): VmdkSparseHeader {
  return {
    capacity: 0,
    descriptor,
    at: 0,
    grainBytes: 0,
    entriesPerTable: 0,
    directoryOffset: 0,
    redundantOffset: null,
    zeroGrains: false,
    packed: false,
    unclean: false,
  };
}

function isAtEnd(view: DataView): boolean {
  return view.getUint32(56, true) === 0xffffffff && view.getUint32(60, true) === 0xffffffff;
}

async function readFooter(source: ByteSource, at: ByteOffset): Promise<DataView> {
  const cut = 'the stream is cut short, or something follows it';
  if (at < 2 * SECTOR) throw malformed(source.name, 56, `expected a footer, the file is too short: ${cut}`);
  const bytes = new Uint8Array(3 * SECTOR);
  await readWhole(source, 'the footer of a VMDK', at - SECTOR, bytes);
  const view = viewOf(bytes);
  // A marker that is not a grain has size 0 and a type; the end of the stream has type 0.
  const end = bytes.subarray(2 * SECTOR);
  if (view.getUint32(8, true) !== 0 || view.getUint32(12, true) !== FOOTER_MARKER) {
    throw malformed(source.name, at - SECTOR, `expected the marker of the footer: ${cut}`);
  }
  if (end.subarray(0, 16).some((byte) => byte !== 0)) {
    throw malformed(source.name, at + SECTOR, `expected the end-of-stream marker: ${cut}`);
  }
  return readHeaderAt(source, at);
}

function decode(
  source: ByteSource,
  view: DataView,
  at: ByteOffset,
  descriptor: VmdkSparseHeader['descriptor'],
): VmdkSparseHeader {
  const path = source.name;
  const flags = view.getUint32(8, true);
  const packed = (flags & PACKED) !== 0;
  const capacity = capacityOf(path, view, at);
  if (capacity === 0) throw malformed(path, at + 12, 'expected a capacity of at least one sector, got 0');
  const grainSectors = littleUint64(view, 20);
  const grainBytes = grainSectors * SECTOR;
  if (!isPowerOfTwo(grainSectors) || grainBytes > VMDK_MAX_GRAIN_BYTES) {
    const reason = `expected grains of a power of two sectors, at most ${VMDK_MAX_GRAIN_BYTES} bytes, got ${grainSectors} sectors`;
    throw malformed(path, at + 20, reason);
  }
  if (packed && grainBytes > VMDK_MAX_PACKED_GRAIN_BYTES) {
    const reason = `compressed grains of ${grainBytes} bytes: expected at most ${VMDK_MAX_PACKED_GRAIN_BYTES}`;
    throw new DriftmapError('limit', reason, { path, offset: at + 20 });
  }
  const entriesPerTable = view.getUint32(44, true);
  if (entriesPerTable < 1 || entriesPerTable > MOST_ENTRIES) {
    const reason = `expected 1 to ${MOST_ENTRIES} entries in a grain table, got ${entriesPerTable}`;
    throw malformed(path, at + 44, reason);
  }
  const overhead = littleUint64(view, 64) * SECTOR;
  if (overhead > source.size) {
    const reason = `expected ${overhead} bytes of metadata, the file has ${source.size}: it is cut short or damaged`;
    throw malformed(path, at + 64, reason);
  }
  return {
    capacity,
    descriptor,
    at,
    grainBytes,
    entriesPerTable,
    directoryOffset: directoryAt(path, view, at, 56),
    redundantOffset: (flags & REDUNDANT) === 0 ? null : littleUint64(view, 48) * SECTOR,
    zeroGrains: (flags & ZERO_GRAINS) !== 0,
    packed,
    unclean: view.getUint8(72) !== 0,
  };
}

function directoryAt(path: string, view: DataView, at: ByteOffset, field: number): ByteOffset {
  const offset = littleUint64(view, field) * SECTOR;
  if (offset > 0 && offset <= MAX_DISK_SIZE) return offset;
  const sector = view.getBigUint64(field, true);
  throw malformed(path, at + field, `expected the grain directory within the file, got sector ${sector}`);
}

/** What the walk over the grains needs of a hosted extent; its directories are read. */
export async function hostedLayout(source: ByteSource, header: VmdkSparseHeader): Promise<GrainLayout> {
  const { capacity, grainBytes, entriesPerTable, directoryOffset, redundantOffset, zeroGrains } = header;
  const count = Math.ceil(capacity / (grainBytes * entriesPerTable));
  const directory = await readDirectory32(source, directoryOffset, count);
  const metadata = [{ offset: 0, length: SECTOR }];
  if (header.descriptor !== null) metadata.push(header.descriptor);
  metadata.push({ offset: directoryOffset, length: 4 * count });
  if (header.at > 0) metadata.push({ offset: header.at - SECTOR, length: 3 * SECTOR });
  return {
    source,
    format: header.packed ? 'packed' : 'hosted',
    zeroGrains,
    grainBytes,
    entriesPerTable,
    tableBytes: alignUp(4 * entriesPerTable, SECTOR),
    directory,
    redundant: redundantOffset === null ? null : await redundantDirectory(source, redundantOffset, count),
    metadata,
  };
}

/** A directory of 32-bit sectors, as bytes. @throws DriftmapError `limit`, `malformed` past the end of the file */
export async function readDirectory32(
  source: ByteSource,
  offset: ByteOffset,
  count: number,
): Promise<Float64Array> {
  if (4 * count > VMDK_MAX_DIRECTORY_BYTES) {
    const reason = `a grain directory of ${4 * count} bytes: expected at most ${VMDK_MAX_DIRECTORY_BYTES}`;
    throw new DriftmapError('limit', reason, { path: source.name, offset });
  }
  const bytes = new Uint8Array(4 * count);
  await readWhole(source, 'the grain directory of a VMDK', offset, bytes);
  const view = viewOf(bytes);
  const tables = new Float64Array(count);
  for (let i = 0; i < count; i++) tables[i] = view.getUint32(4 * i, true) * SECTOR;
  return tables;
}

/** Nothing is read by it: where it lies past the end of the file, it only differs from the first everywhere. */
function redundantDirectory(source: ByteSource, offset: ByteOffset, count: number): Promise<Float64Array> {
  if (offset + 4 * count <= source.size) return readDirectory32(source, offset, count);
  return Promise.resolve(new Float64Array(count).fill(Number.POSITIVE_INFINITY));
}
