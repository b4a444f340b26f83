/**
 * The messages of a journal stream (docs/PROTOCOL.md, "Journal streams"): production sends every write of its group,
 * in one order over all disks, and the replica says up to where its journal is durable. Bulk is fixed binary, little
 * end first; the rest is control. Whatever a peer counts is compared with the bytes that are there.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_BLOCK_SIZE, MAX_WIRE_TEXT_BYTES, MIN_BLOCK_SIZE } from '../../base/limits.ts';
import {
  JOURNAL_MAX_DISKS,
  JOURNAL_MAX_TEXT_BYTES,
  STREAM_MAX_ANSWER_BYTES,
  STREAM_MAX_CONFIGURATION_BYTES,
  STREAM_MAX_DATA_BYTES,
  STREAM_MAX_WRITES,
  STREAM_MAX_ZERO_BYTES,
  STREAM_PROBE_BLOCKS,
  STREAM_PROBE_ZERO_BLOCKS,
} from '../../base/protection-limits.ts';
import { isWithin } from '../../base/ranges.ts';
import type { ByteCount } from '../../base/units.ts';
import { blockCount, isPowerOfTwo } from '../../base/units.ts';
import type { JournalWrite } from '../../journal/journal.ts';
import type { Sequence, Time } from '../../journal/record.ts';
import { SIGNATURE_BYTES } from '../../wire/messages.ts';
import { type Checked, count, flag, list, oneOf, optional, record, text } from '../../wire/schema.ts';

export const STREAM_VERSION = 1;
/** Position in the stream: every write and every mark has the next number, over all disks and connections of a run. */
export type Order = number & { readonly __unit?: 'order' };

const hex32 = text(32);

/** Production → replica: the stream begins, with order number `next`. */
export const followShape = record({
  version: count(0xffff, 1),
  group: text(1024),
  disks: list(record({ name: text(1024), size: count() }), JOURNAL_MAX_DISKS),
  /** Of this run of the splitter: another splitter has another one. */
  run: hex32,
  next: count(),
  /** What describes the virtual machine, kept with snapshots. */
  configuration: optional(text(STREAM_MAX_CONFIGURATION_BYTES)),
});
export type Follow = Checked<typeof followShape>;

/** Replica → production. */
export const followingShape = record({
  version: count(0xffff, 1),
  /** The journal's identity: another journal knows nothing of what this one had. */
  journal: hex32,
  /** Its last durable sequence. */
  last: count(),
  suspended: flag,
});
export type Following = Checked<typeof followingShape>;

export const markShape = record({
  order: count(),
  kind: oneOf('suspend', 'resume', 'bookmark'),
  text: text(JOURNAL_MAX_TEXT_BYTES),
  consistency: oneOf('crash', 'application'),
});
export type Mark = Checked<typeof markShape>;

/** Replica → production: the mark is durable, or was refused, which only a bookmark can be. */
export const markedShape = record({
  order: count(),
  sequence: count(),
  time: count(),
  error: optional(record({ kind: text(40), message: text(MAX_WIRE_TEXT_BYTES) })),
});
export type Marked = Checked<typeof markedShape>;

/** Production → replica: what somebody asks production for and only the replica can answer. */
export const askShape = record({
  id: count(2 ** 32),
  what: text(100),
  /** JSON. */
  body: text(STREAM_MAX_ANSWER_BYTES),
});
export const answerShape = record({
  id: count(2 ** 32),
  ok: flag,
  /** JSON, or what went wrong. */
  body: text(STREAM_MAX_ANSWER_BYTES),
});

function viewOf(payload: Uint8Array): DataView<ArrayBuffer> {
  return new DataView(payload.buffer as ArrayBuffer, payload.byteOffset, payload.length);
}

function refuse(message: string, reason: string): never {
  throw new DriftmapError('malformed', `the message '${message}': ${reason}`);
}

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Numbers past 2^53−1 come out larger than that, and are refused by whoever checks them. */
export function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

/*
 * `writes`: a head of 24 bytes, an entry of 24 bytes for each write, then the data of all of them.
 *
 *   0   8  order number of the first write         0   2  number of the disk in `follow`
 *   8   8  time of the first, ms since 1970        2   1  0 data, 1 zeros
 *  16   4  how many writes                         3   1  zero
 *  20   4  zero                                    4   4  length
 *                                                  8   8  offset
 *                                                 16   4  milliseconds after the first
 *                                                 20   4  zero
 */
export const WRITES_HEAD_BYTES = 24;
export const WRITE_ENTRY_BYTES = 24;
export const WriteKind = { data: 0, zeros: 1 } as const;

/** One write of the stream, as it was received: as a journal takes it. Bytes are a view of the message. */
export type StreamWrite = JournalWrite & { readonly time: Time };

export interface StreamDisk {
  readonly name: string;
  readonly size: ByteCount;
}

export interface Writes {
  readonly first: Order;
  readonly writes: readonly StreamWrite[];
}

/** @param disks by number */
export function decodeWrites(payload: Uint8Array, disks: readonly StreamDisk[]): Writes {
  if (payload.length < WRITES_HEAD_BYTES) refuse('writes', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const first = getU64(view, 0);
  const began = getU64(view, 8);
  const entries = view.getUint32(16, true);
  let dataAt = WRITES_HEAD_BYTES + entries * WRITE_ENTRY_BYTES;
  if (entries === 0 || entries > STREAM_MAX_WRITES || dataAt > payload.length)
    refuse('writes', `expected 1 to ${STREAM_MAX_WRITES} writes, got ${entries} in ${payload.length} bytes`);
  if (
    !Number.isSafeInteger(first + entries) ||
    !Number.isSafeInteger(began + 2 ** 32) ||
    view.getUint32(20, true) !== 0
  )
    refuse('writes', 'expected an order number and a time');
  const writes: StreamWrite[] = [];
  for (let i = 0; i < entries; i++) {
    const at = WRITES_HEAD_BYTES + i * WRITE_ENTRY_BYTES;
    const number = view.getUint16(at, true);
    const kind = view.getUint8(at + 2);
    const length = view.getUint32(at + 4, true);
    const offset = getU64(view, at + 8);
    if (kind > WriteKind.zeros || view.getUint8(at + 3) !== 0 || view.getUint32(at + 20, true) !== 0)
      refuse('writes', `expected data or zeros, got a write of kind ${kind}`);
    const known = disks[number];
    if (known === undefined || length === 0 || !isWithin({ offset, length }, known.size))
      refuse('writes', `expected a range within disk ${number}, got ${length} bytes at ${offset}`);
    const isData = kind === WriteKind.data;
    const dataEnd = isData ? dataAt + length : dataAt;
    if (length > (isData ? STREAM_MAX_DATA_BYTES : STREAM_MAX_ZERO_BYTES) || dataEnd > payload.length)
      refuse('writes', `got ${length} bytes in one write`);
    const time = began + view.getUint32(at + 16, true);
    const disk = known.name;
    if (isData) writes.push({ disk, offset, bytes: payload.subarray(dataAt, dataEnd), time });
    else writes.push({ disk, offset, zeros: length, time });
    dataAt = dataEnd;
  }
  if (dataAt !== payload.length) refuse('writes', `got ${payload.length - dataAt} bytes too many`);
  return { first, writes };
}

/** Replica → production: all up to `order` is durable; the journal's sequence there is `sequence`. */
export interface Journaled {
  readonly order: Order;
  readonly sequence: Sequence;
}

export function encodeJournaled({ order, sequence }: Journaled): Uint8Array {
  const payload = new Uint8Array(16);
  const view = viewOf(payload);
  putU64(view, 0, order);
  putU64(view, 8, sequence);
  return payload;
}

export function decodeJournaled(payload: Uint8Array): Journaled {
  if (payload.length !== 16) refuse('journaled', `expected 16 bytes, got ${payload.length}`);
  const view = viewOf(payload);
  const order = getU64(view, 0);
  const sequence = getU64(view, 8);
  if (!Number.isSafeInteger(order) || !Number.isSafeInteger(sequence))
    refuse('journaled', 'expected an order number and a sequence');
  return { order, sequence };
}

/** Production → replica: which of these blocks differ from what you have? */
export interface Probe {
  readonly id: number;
  readonly disk: number;
  readonly blockSize: ByteCount;
  readonly first: number;
  readonly count: number;
  /** BLAKE3 of each block, 32 bytes each; null asks which of them are not all zeros. */
  readonly signatures: Uint8Array | null;
}

const PROBE_HEAD = 24;

/** Layout: u32 id, u16 disk, u8 whether for zeros, u8 zero, u32 block size, u32 count, u64 first block; signatures. */
export function encodeProbe({ id, disk, blockSize, first, count, signatures }: Probe): Uint8Array[] {
  const front = new Uint8Array(PROBE_HEAD);
  const view = viewOf(front);
  view.setUint32(0, id, true);
  view.setUint16(4, disk, true);
  front[6] = signatures === null ? 1 : 0;
  view.setUint32(8, blockSize, true);
  view.setUint32(12, count, true);
  putU64(view, 16, first);
  return signatures === null ? [front] : [front, signatures];
}

/** @param disks by number */
export function decodeProbe(payload: Uint8Array, disks: readonly StreamDisk[]): Probe {
  if (payload.length < PROBE_HEAD) refuse('probe', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const disk = view.getUint16(4, true);
  const forZeros = payload[6] === 1;
  const blockSize = view.getUint32(8, true);
  const blocks = view.getUint32(12, true);
  const first = getU64(view, 16);
  if (payload[6]! > 1 || payload[7] !== 0) refuse('probe', `got a probe of kind ${payload[6]}`);
  if (!isPowerOfTwo(blockSize) || blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE)
    refuse('probe', `got blocks of ${blockSize}`);
  const most = forZeros ? STREAM_PROBE_ZERO_BLOCKS : STREAM_PROBE_BLOCKS;
  const size = disks[disk]?.size;
  if (size === undefined || blocks === 0 || blocks > most || !Number.isSafeInteger(first))
    refuse('probe', `expected 1 to ${most} blocks of a disk, got ${blocks} of disk ${disk}`);
  if (first + blocks > blockCount(size, blockSize))
    refuse('probe', `expected blocks of disk ${disk}, got ${blocks} from ${first}`);
  const signatures = forZeros ? null : payload.subarray(PROBE_HEAD);
  if (payload.length !== PROBE_HEAD + (forZeros ? 0 : blocks * SIGNATURE_BYTES))
    refuse('probe', `got ${payload.length} bytes for ${blocks} blocks`);
  return { id: view.getUint32(0, true), disk, blockSize, first, count: blocks, signatures };
}

/** Layout: u32 id, u32 count, then a bit for each block, low bit first: 1 where it differs. */
export function encodeProbed(id: number, differs: Uint8Array): Uint8Array {
  const payload = new Uint8Array(8 + Math.ceil(differs.length / 8));
  const view = viewOf(payload);
  view.setUint32(0, id, true);
  view.setUint32(4, differs.length, true);
  differs.forEach((one, i) => {
    if (one) payload[8 + (i >>> 3)]! |= 1 << (i & 7);
  });
  return payload;
}

export function decodeProbed(payload: Uint8Array): { readonly id: number; readonly differs: Uint8Array } {
  if (payload.length < 8) refuse('probed', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const blocks = view.getUint32(4, true);
  if (blocks > STREAM_PROBE_ZERO_BLOCKS || payload.length !== 8 + Math.ceil(blocks / 8))
    refuse('probed', `got ${payload.length} bytes for ${blocks} blocks`);
  const differs = Uint8Array.from({ length: blocks }, (_, i) => (payload[8 + (i >>> 3)]! >>> (i & 7)) & 1);
  return { id: view.getUint32(0, true), differs };
}
