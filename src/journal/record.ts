/**
 * The bytes of a journal. Four streams (new data, its metadata, overwritten data, its metadata) lie in segment
 * files, a data file and a metadata file to each segment. Metadata is made of slots of 64 bytes, so that a reader
 * that lost its way finds the next one; data is made of frames, each with a head of 32 bytes that says whose bytes
 * follow and what their checksum is. All integers are little end first; `docs/FORMATS.md` has the tables.
 *
 * Every checksum of a slot or a head starts from that of its file's header, which names the journal, the stream
 * and the first sequence: what belongs to another file never passes for a part of this one.
 */

import { DriftmapError } from '../base/errors.ts';
import { JOURNAL_MAX_RECORD_BYTES, JOURNAL_MAX_TEXT_BYTES } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { alignUp } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';

/** Order in the group: every record has the next number. */
export type Sequence = number & { readonly __unit?: 'sequence' };
/** Milliseconds since 1970, as the clock of whoever wrote said. */
export type Time = number & { readonly __unit?: 'milliseconds' };

export type Direction = 'do' | 'undo';
export type StreamName = 'do.data' | 'do.meta' | 'undo.data' | 'undo.meta';

/** What a record is: the first two change a disk, the others are marks. */
export const RecordKind = { data: 1, zero: 2, bookmark: 3, forget: 4, suspend: 5, resume: 6 } as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];
/** The last slot of a finished metadata file; no record. */
export const SEAL = 9;
const NEWEST_KIND = RecordKind.resume;

/** Flag of a bookmark: the guest's programs had been brought to rest. */
export const FLAG_APPLICATION = 1;

export interface JournalRecord {
  readonly kind: RecordKind;
  readonly flags: number;
  /** Number of the disk in the group; 0 for marks. */
  readonly disk: number;
  readonly sequence: Sequence;
  readonly time: Time;
  readonly offset: ByteOffset;
  readonly length: ByteCount;
  /** Where the frame lies in the data file of the same segment; 0 where there is none. */
  readonly position: ByteOffset;
  /** All records of this stream up to here were durable when this one was written. */
  readonly committed: Sequence;
  /** CRC-32 of the data or of the text; 0 where there is neither. */
  readonly crc: number;
  /** A mark's name or reason; empty for writes. */
  readonly text: string;
}

export const HEADER_BYTES = 64;
export const SLOT_BYTES = 64;
export const FRAME_BYTES = 32;
const SLOT_CRC_AT = 60;
const FRAME_CRC_AT = 28;
/** `DATA`, little end first. */
const FRAME_MAGIC = 0x41544144;
const VERSION = 1;
const magic = new TextEncoder().encode('DRJSEG\r\n');
const streamNumbers: Readonly<Record<StreamName, number>> = {
  'do.data': 1,
  'do.meta': 2,
  'undo.data': 3,
  'undo.meta': 4,
};

export function isWrite(kind: number): boolean {
  return kind === RecordKind.data || kind === RecordKind.zero;
}

export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Numbers past 2^53−1 come out larger than that, and are refused by whoever checks them. */
export function getU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** What a segment file says of itself. */
export interface SegmentHeader {
  readonly stream: StreamName;
  /** 32 hexadecimal digits: the journal that it belongs to. */
  readonly journal: string;
  readonly first: Sequence;
  /** Time of the record before the first. */
  readonly timeBefore: Time;
  /** Whether the group was suspended when the segment began. */
  readonly suspendedBefore: boolean;
}

export function encodeHeader(header: SegmentHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint16(8, VERSION, true);
  bytes[10] = streamNumbers[header.stream];
  bytes[11] = header.suspendedBefore ? 1 : 0;
  bytes.set(Buffer.from(header.journal, 'hex'), 16);
  putU64(view, 32, header.first);
  putU64(view, 40, header.timeBefore);
  view.setUint32(SLOT_CRC_AT, checksum(bytes.subarray(0, SLOT_CRC_AT)), true);
  return bytes;
}

/** The checksum that all slots and heads of a file start from. */
export function saltOf(header: Uint8Array): number {
  return viewOf(header).getUint32(SLOT_CRC_AT, true);
}

/**
 * @param expected what the file's name and the journal say that it is
 * @throws DriftmapError `malformed` for damage, `mismatch` for another journal's or stream's file, `unsupported`
 *   for a newer version
 */
export function decodeHeader(
  bytes: Uint8Array,
  expected: Pick<SegmentHeader, 'stream' | 'journal' | 'first'>,
  path: string,
): SegmentHeader {
  const fail = (offset: number, reason: string): never => {
    throw new DriftmapError('malformed', reason, { path, offset });
  };
  if (bytes.length < HEADER_BYTES) fail(bytes.length, `expected ${HEADER_BYTES} bytes of header`);
  if (!magic.every((byte, i) => bytes[i] === byte)) fail(0, 'this is no segment of a journal: no magic');
  const view = viewOf(bytes);
  const got = checksum(bytes.subarray(0, SLOT_CRC_AT));
  if (got !== view.getUint32(SLOT_CRC_AT, true)) fail(0, 'the header of the segment is damaged: checksum');
  const version = view.getUint16(8, true);
  if (version !== VERSION) {
    const reason = `expected a journal of version ${VERSION}, got ${version}: use a newer driftmap`;
    throw new DriftmapError('unsupported', reason, { path, offset: 8 });
  }
  const journal = Buffer.from(bytes.subarray(16, 32)).toString('hex');
  const first = getU64(view, 32);
  if (
    bytes[10] !== streamNumbers[expected.stream] ||
    journal !== expected.journal ||
    first !== expected.first
  ) {
    const what = `stream ${bytes[10]} of journal ${journal} from sequence ${first}`;
    const reason = `expected a segment of ${expected.stream} of journal ${expected.journal} from ${expected.first}, got one of ${what}: put back the right file`;
    throw new DriftmapError('mismatch', reason, { path, offset: 10 });
  }
  const timeBefore = getU64(view, 40);
  if (!Number.isSafeInteger(timeBefore)) fail(40, 'expected a time in milliseconds');
  return { ...expected, timeBefore, suspendedBefore: bytes[11] === 1 };
}

/** Where slots and heads are made before they are put where they belong: views of their own would cost more. */
const slot = new Uint8Array(SLOT_BYTES);
const slotView = viewOf(slot);
const slotBody = slot.subarray(0, SLOT_CRC_AT);
const frame = new Uint8Array(FRAME_BYTES);
const frameView = viewOf(frame);
const frameBody = frame.subarray(0, FRAME_CRC_AT);

/** Bytes that a record takes in the metadata: its slot, and whole slots for its text. */
export function metaBytesOf(textBytes: ByteCount): ByteCount {
  return SLOT_BYTES + alignUp(textBytes, SLOT_BYTES);
}

/** Writes a record's slot, and the slots of its text, at `at` of `target`. @returns bytes written */
export function encodeRecord(
  record: JournalRecord,
  text: Uint8Array,
  salt: number,
  target: Uint8Array,
  at: number,
): ByteCount {
  const size = metaBytesOf(text.length);
  const view = slotView;
  slot[0] = record.kind;
  slot[1] = record.flags;
  view.setUint16(2, record.disk, true);
  view.setUint32(4, text.length, true);
  putU64(view, 8, record.sequence);
  putU64(view, 16, record.time);
  putU64(view, 24, record.offset);
  putU64(view, 32, record.length);
  putU64(view, 40, record.position);
  putU64(view, 48, record.committed);
  view.setUint32(56, record.crc, true);
  view.setUint32(SLOT_CRC_AT, checksum(slotBody, salt), true);
  target.set(slot, at);
  if (text.length === 0) return size;
  target.set(text, at + SLOT_BYTES);
  target.fill(0, at + SLOT_BYTES + text.length, at + size);
  return size;
}

/** What `decodeRecord` says of a record that the end of the file cuts. */
export const CUT = 'the file ends in the middle of a record';

/** Whether the slot at `at` is whole and belongs to this file. */
export function isWholeSlot(bytes: Uint8Array, view: DataView, at: number, salt: number): boolean {
  return checksum(bytes.subarray(at, at + SLOT_CRC_AT), salt) === view.getUint32(at + SLOT_CRC_AT, true);
}

/**
 * The record at `at`; a string that says what is wrong when it is not whole. Whether it suits its disk and its
 * neighbours is the caller's to check.
 */
export function decodeRecord(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  salt: number,
): JournalRecord | string {
  if (at + SLOT_BYTES > bytes.length) return CUT;
  if (!isWholeSlot(bytes, view, at, salt)) return 'the record is damaged: checksum';
  const kind = bytes[at]!;
  if (kind === 0 || kind > NEWEST_KIND) return `expected a kind of record up to ${NEWEST_KIND}, got ${kind}`;
  const textBytes = view.getUint32(at + 4, true);
  if (textBytes > (isWrite(kind) ? 0 : JOURNAL_MAX_TEXT_BYTES)) return `a text of ${textBytes} bytes`;
  const end = at + metaBytesOf(textBytes);
  if (end > bytes.length) return CUT;
  const crc = view.getUint32(at + 56, true);
  let text = '';
  if (textBytes > 0) {
    const raw = bytes.subarray(at + SLOT_BYTES, at + SLOT_BYTES + textBytes);
    if (checksum(raw) !== crc) return 'the text of the record is damaged: checksum';
    text = new TextDecoder().decode(raw);
  }
  return {
    kind: kind as RecordKind,
    flags: bytes[at + 1]!,
    disk: view.getUint16(at + 2, true),
    sequence: getU64(view, at + 8),
    time: getU64(view, at + 16),
    offset: getU64(view, at + 24),
    length: getU64(view, at + 32),
    position: getU64(view, at + 40),
    committed: getU64(view, at + 48),
    crc,
    text,
  };
}

/** What stands before the data of one record. */
export interface FrameHead {
  readonly length: ByteCount;
  readonly sequence: Sequence;
  readonly disk: number;
  /** CRC-32 of the data. */
  readonly crc: number;
}

export function encodeFrame(head: FrameHead, salt: number, target: Uint8Array, at: number): void {
  const view = frameView;
  view.setUint32(0, FRAME_MAGIC, true);
  view.setUint32(4, head.length, true);
  putU64(view, 8, head.sequence);
  view.setUint32(16, head.crc, true);
  view.setUint32(20, head.disk, true);
  view.setUint32(FRAME_CRC_AT, checksum(frameBody, salt), true);
  target.set(frame, at);
}

/** @returns null when there is no whole head */
export function decodeFrame(bytes: Uint8Array, at: number, salt: number): FrameHead | null {
  if (at + FRAME_BYTES > bytes.length) return null;
  const head = bytes.subarray(at, at + FRAME_BYTES);
  const view = viewOf(head);
  if (view.getUint32(0, true) !== FRAME_MAGIC) return null;
  if (checksum(head.subarray(0, FRAME_CRC_AT), salt) !== view.getUint32(FRAME_CRC_AT, true)) return null;
  const length = view.getUint32(4, true);
  if (length === 0 || length > JOURNAL_MAX_RECORD_BYTES) return null;
  return {
    length,
    sequence: getU64(view, 8),
    crc: view.getUint32(16, true),
    disk: view.getUint32(20, true),
  };
}
