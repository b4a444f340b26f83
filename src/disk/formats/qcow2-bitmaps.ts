/**
 * Persistent bitmaps of qcow2 images (QEMU docs/interop/qcow2.txt, sections "Bitmaps extension" and "Bitmaps"): a
 * directory of named bitmaps, each with a table of clusters that hold one bit for each `granularity` bytes of the
 * virtual disk. A set bit says that the range was written to since the bitmap was begun.
 *
 * A bitmap that may lack a write is worse than none, so two kinds are told and never read: those of an image that a
 * program without knowledge of bitmaps has written to (autoclear bit 0 is not set), and one that is marked as in use,
 * which is how QEMU leaves it when it is killed, and how it stands while a virtual machine runs.
 */

import { DriftmapError } from '../../base/errors.ts';
import {
  MAX_DISK_SIZE,
  QCOW2_BITMAP_TABLE_READ,
  QCOW2_MAX_BITMAP_BYTES,
  QCOW2_MAX_BITMAP_DIRECTORY_BYTES,
  QCOW2_MAX_BITMAP_NAME,
  QCOW2_MAX_BITMAPS,
} from '../../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import { alignUp } from '../../base/units.ts';
import { type ByteSource, readName, readWhole, uint64, viewOf } from './byte-source.ts';
import type { Qcow2Header } from './qcow2-header.ts';

export interface Qcow2Bitmap {
  readonly name: string;
  /** Bytes of the disk that one bit stands for. */
  readonly granularity: ByteCount;
  /** It takes in every write (`auto`); else it stopped at some time, and later writes are not in it. */
  readonly enabled: boolean;
  readonly tableOffset: ByteOffset;
  readonly tableEntries: number;
  /** Why it must not be read; null where it may be. */
  readonly refusal: DriftmapError | null;
}

const EXTENSION_BYTES = 24;
const ENTRY_BYTES = 24;
const IN_USE = 1;
const AUTO = 2;
const EXTRA_DATA_COMPATIBLE = 4;
const KNOWN_FLAGS = IN_USE | AUTO | EXTRA_DATA_COMPATIBLE;
const DIRTY_TRACKING = 1;
/** What QEMU supports; the specification allows 0 to 63. */
const [MIN_GRANULARITY_BITS, MAX_GRANULARITY_BITS] = [9, 31];

/** Of a table entry's upper half: reserved bits 56 … 63. Of the lower one: bits 1 … 8. */
const RESERVED_HIGH = 0xff000000;
const RESERVED_LOW = 0x1fe;
const ALL_ONES = 1;

/**
 * The bitmaps of an image, in the order of its directory; none where it has no such extension.
 * @throws DriftmapError `malformed` or `limit` for a directory that is damaged, with the offset
 */
export async function readQcow2Bitmaps(source: ByteSource, header: Qcow2Header): Promise<Qcow2Bitmap[]> {
  if (header.bitmaps === null) return [];
  const { count, offset, length } = directoryPlace(source.name, header);
  const bytes = new Uint8Array(length);
  await readWhole(source, 'the bitmap directory', offset, bytes);
  const found: Qcow2Bitmap[] = [];
  const names = new Set<string>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    const { bitmap, length: used } = readEntry(source.name, header, bytes.subarray(at), offset + at);
    if (names.has(bitmap.name))
      throw malformed(source.name, offset + at, 'two bitmaps of the directory have one name');
    names.add(bitmap.name);
    found.push(bitmap);
    at += used;
  }
  if (at !== length) {
    const reason = `expected ${count} bitmaps in ${length} bytes of directory, got ${length - at} bytes more`;
    throw malformed(source.name, offset + at, reason);
  }
  return found;
}

function malformed(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `qcow2 bitmaps: ${reason}`, { path, offset });
}

function directoryPlace(path: string, { bitmaps, clusterSize }: Qcow2Header) {
  const { offset: at, data } = bitmaps!;
  if (data.length !== EXTENSION_BYTES)
    throw malformed(path, at, `expected ${EXTENSION_BYTES} bytes of extension, got ${data.length}`);
  const view = viewOf(data);
  const count = view.getUint32(0);
  const length = uint64(view, 8);
  const offset = uint64(view, 16);
  if (count < 1 || count > QCOW2_MAX_BITMAPS)
    throw malformed(path, at, `expected 1 to ${QCOW2_MAX_BITMAPS} bitmaps, got ${count}`);
  if (view.getUint32(4) !== 0) throw malformed(path, at + 4, 'expected four zero bytes');
  if (length < count * ENTRY_BYTES || length > QCOW2_MAX_BITMAP_DIRECTORY_BYTES) {
    const reason = `expected a directory of ${count * ENTRY_BYTES} to ${QCOW2_MAX_BITMAP_DIRECTORY_BYTES} bytes, got ${length}`;
    throw malformed(path, at + 8, reason);
  }
  if (offset === 0 || offset % clusterSize !== 0 || offset > MAX_DISK_SIZE - length)
    throw malformed(path, at + 16, `expected the directory at a cluster boundary, got offset ${offset}`);
  return { count, offset, length };
}

function readEntry(
  path: string,
  header: Qcow2Header,
  bytes: Uint8Array,
  at: ByteOffset,
): { bitmap: Qcow2Bitmap; length: ByteCount } {
  if (bytes.length < ENTRY_BYTES) throw malformed(path, at, 'the directory ends in the middle of an entry');
  const view = viewOf(bytes);
  const nameLength = view.getUint16(18);
  const extra = view.getUint32(20);
  const nameAt = ENTRY_BYTES + extra;
  const length = alignUp(nameAt + nameLength, 8);
  if (nameLength < 1 || nameLength > QCOW2_MAX_BITMAP_NAME || length > bytes.length) {
    const reason = `expected a name of 1 to ${QCOW2_MAX_BITMAP_NAME} bytes within the directory, got ${nameLength} after ${extra} bytes of extra data`;
    throw malformed(path, at + 18, reason);
  }
  const name = readName(bytes.subarray(nameAt, nameAt + nameLength), QCOW2_MAX_BITMAP_NAME, {
    path,
    offset: at + nameAt,
  });
  const flags = view.getUint32(12);
  const parts = {
    name,
    granularity: 2 ** view.getUint8(17),
    enabled: (flags & AUTO) !== 0,
    tableOffset: uint64(view, 0),
    tableEntries: view.getUint32(8),
  };
  const entry = { path, at, flags, type: view.getUint8(16), granularityBits: view.getUint8(17), extra };
  const refusal = distrusted(header, name, entry) ?? unknown(name, entry);
  if (refusal === null) checkTable(path, at, header, parts);
  return { bitmap: { ...parts, refusal }, length };
}

interface EntryFields {
  readonly path: string;
  readonly at: ByteOffset;
  readonly flags: number;
  readonly type: number;
  readonly granularityBits: number;
  readonly extra: ByteCount;
}

/** A bitmap that may lack a write. */
function distrusted(
  header: Qcow2Header,
  name: string,
  { path, at, flags }: EntryFields,
): DriftmapError | null {
  const refuse = (why: string) => {
    const reason = `the bitmap '${name}' is not consistent and may lack writes: ${why}; scan the whole disk instead`;
    return new DriftmapError('policy', reason, { path, offset: at });
  };
  if (!header.bitmapsConsistent)
    return refuse('a program that knows nothing of bitmaps has written to the image');
  if ((flags & IN_USE) === 0) return null;
  return refuse(
    'it is marked as in use: the virtual machine is running, or the program that had it open was killed',
  );
}

/** A bitmap of a kind that is not known. */
function unknown(
  name: string,
  { path, at, flags, type, granularityBits, extra }: EntryFields,
): DriftmapError | null {
  const refuse = (offset: ByteOffset, why: string) =>
    new DriftmapError('unsupported', `the bitmap '${name}' cannot be read: ${why}`, { path, offset });
  if ((flags & ~KNOWN_FLAGS) !== 0)
    return refuse(at + 12, `expected only flags 0 to 2, got 0x${flags.toString(16)}`);
  if (type !== DIRTY_TRACKING) return refuse(at + 16, `expected type 1 (dirty tracking), got ${type}`);
  if (granularityBits < MIN_GRANULARITY_BITS || granularityBits > MAX_GRANULARITY_BITS)
    return refuse(at + 17, `expected a granularity of 2^9 to 2^31 bytes, got 2^${granularityBits}`);
  if (extra > 0 && (flags & EXTRA_DATA_COMPATIBLE) === 0)
    return refuse(at + 20, 'it has extra data that is not known and that must be');
  return null;
}

/** The table lies where a table may lie and holds the bits of the whole disk. */
function checkTable(
  path: string,
  at: ByteOffset,
  { clusterSize, size }: Qcow2Header,
  { name, granularity, tableOffset, tableEntries }: Omit<Qcow2Bitmap, 'refusal' | 'enabled'>,
): void {
  const needed = Math.ceil(Math.ceil(size / granularity) / (8 * clusterSize));
  if (needed * clusterSize > QCOW2_MAX_BITMAP_BYTES) {
    const reason = `the bitmap '${name}' has more than ${QCOW2_MAX_BITMAP_BYTES} bytes of data`;
    throw new DriftmapError('limit', reason, { path, offset: at + 8 });
  }
  if (tableEntries !== needed)
    throw malformed(
      path,
      at + 8,
      `expected ${needed} entries in the table of '${name}', got ${tableEntries}`,
    );
  if (
    needed > 0 &&
    (tableOffset === 0 || tableOffset % clusterSize !== 0 || tableOffset > MAX_DISK_SIZE / 2)
  ) {
    const reason = `expected the table of '${name}' at a cluster boundary, got offset ${tableOffset}`;
    throw malformed(path, at, reason);
  }
}

/**
 * What a bitmap marks: ranges of the virtual disk, ascending, merged, clipped at the disk's end.
 * @throws DriftmapError the bitmap's refusal; `malformed` for a damaged table or a cluster past the end of the file
 */
export async function* dirtyRanges(
  source: ByteSource,
  header: Qcow2Header,
  bitmap: Qcow2Bitmap,
): AsyncGenerator<ByteRange, undefined> {
  if (bitmap.refusal) throw bitmap.refusal;
  const { granularity } = bitmap;
  const bits = Math.ceil(header.size / granularity);
  const bytesOf = (from: number, to: number): ByteRange => {
    const offset = from * granularity;
    return { offset, length: Math.min(to * granularity, header.size) - offset };
  };
  let open: { from: number; to: number } | null = null;
  for await (const run of setBits(source, header, bitmap)) {
    const to = Math.min(run.to, bits);
    if (open !== null && open.to === run.from) {
      open.to = to;
      continue;
    }
    if (open !== null) yield bytesOf(open.from, open.to);
    // Bits past the disk's end say nothing.
    if (run.from >= bits) return;
    open = { from: run.from, to };
  }
  if (open !== null) yield bytesOf(open.from, open.to);
}

/** Runs of set bits, ascending; a run that goes on in the next cluster is two. */
async function* setBits(
  source: ByteSource,
  { clusterSize }: Qcow2Header,
  { name, tableOffset, tableEntries }: Qcow2Bitmap,
): AsyncGenerator<{ from: number; to: number }, undefined> {
  const clusterBits = 8 * clusterSize;
  const cluster = new Uint8Array(clusterSize);
  const perRead = QCOW2_BITMAP_TABLE_READ / 8;
  for (let first = 0; first < tableEntries; first += perRead) {
    const table = new Uint8Array(8 * Math.min(perRead, tableEntries - first));
    await readWhole(source, `the table of the bitmap '${name}'`, tableOffset + 8 * first, table);
    const view = viewOf(table);
    for (let i = 0; i < table.length / 8; i++) {
      const start = (first + i) * clusterBits;
      const place = placeOf(source.name, tableOffset + 8 * (first + i), view, 8 * i, clusterSize);
      if (place === 'ones') yield { from: start, to: start + clusterBits };
      if (typeof place === 'string') continue;
      await readWhole(source, `a cluster of the bitmap '${name}'`, place, cluster);
      yield* runsOf(cluster, start);
    }
  }
}

/** What a table entry says of its cluster: where it lies, or what all its bits are. */
function placeOf(
  path: string,
  offset: ByteOffset,
  view: DataView,
  at: number,
  clusterSize: ByteCount,
): ByteOffset | 'zeros' | 'ones' {
  const [high, low] = [view.getUint32(at), view.getUint32(at + 4)];
  const place = uint64(view, at) - (low & (RESERVED_LOW | ALL_ONES));
  const ones = (low & ALL_ONES) !== 0;
  const reserved = (high & RESERVED_HIGH) !== 0 || (low & RESERVED_LOW) !== 0;
  if (reserved || (place !== 0 && (ones || place % clusterSize !== 0))) {
    const entry = view.getBigUint64(at).toString(16).padStart(16, '0');
    throw malformed(path, offset, `expected a table entry that leads to a cluster boundary, got ${entry}`);
  }
  if (place !== 0) return place;
  return ones ? 'ones' : 'zeros';
}

/** Runs of set bits in one cluster, low bit first; `start` is the number of its first bit. */
function* runsOf(cluster: Uint8Array, start: number): Generator<{ from: number; to: number }, undefined> {
  let from = -1;
  for (let at = 0; at < cluster.length; at++) {
    const byte = cluster[at]!;
    // Eight bits that go on as before.
    if (byte === (from < 0 ? 0 : 0xff)) continue;
    for (let bit = 0; bit < 8; bit++) {
      const isSet = ((byte >>> bit) & 1) === 1;
      if (isSet && from < 0) from = start + 8 * at + bit;
      if (isSet || from < 0) continue;
      yield { from, to: start + 8 * at + bit };
      from = -1;
    }
  }
  if (from >= 0) yield { from, to: start + 8 * cluster.length };
}
