/**
 * One segment of one direction: a data file and a metadata file that begin with the same sequence. A segment is
 * active while records are appended to it, and sealed when the next one begins: then a summary and a map of its
 * intervals stand at the end of its metadata, and it never changes again.
 *
 * Records have consecutive sequences, so the i-th of a segment that begins with `first` is `first + i`.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import {
  JOURNAL_CLOCK_STEP,
  JOURNAL_MAX_RECORD_BYTES,
  JOURNAL_MAX_STEPS,
} from '../base/protection-limits.ts';
import { isWithin } from '../base/ranges.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { JournalFolder } from './folder.ts';
import { IntervalMap, ZEROS } from './interval-map.ts';
import {
  CUT,
  type Direction,
  decodeRecord,
  encodeHeader,
  FRAME_BYTES,
  HEADER_BYTES,
  isWholeSlot,
  isWrite,
  type JournalRecord,
  metaBytesOf,
  RecordKind,
  type Sequence,
  SLOT_BYTES,
  saltOf,
  type Time,
  viewOf,
} from './record.ts';

/** What all segments of a journal share. */
export interface Place {
  readonly folder: JournalFolder;
  /** The journal's id, 32 hexadecimal digits. */
  readonly journal: string;
  /** Sizes of the group's disks, by number. */
  readonly sizes: readonly ByteCount[];
  readonly segmentBytes: ByteCount;
}

/** Records of a segment as columns, without texts. */
export class RecordTable {
  count = 0;
  kinds: Uint8Array;
  disks: Uint16Array;
  crcs: Uint32Array;
  offsets: Float64Array;
  lengths: Float64Array;
  times: Float64Array;
  positions: Float64Array;

  constructor(capacity = 256) {
    this.kinds = new Uint8Array(capacity);
    this.disks = new Uint16Array(capacity);
    this.crcs = new Uint32Array(capacity);
    this.offsets = new Float64Array(capacity);
    this.lengths = new Float64Array(capacity);
    this.times = new Float64Array(capacity);
    this.positions = new Float64Array(capacity);
  }

  push({ kind, disk, crc, offset, length, time, position }: JournalRecord): void {
    const i = this.count;
    if (i === this.kinds.length) this.grow();
    this.kinds[i] = kind;
    this.disks[i] = disk;
    this.crcs[i] = crc;
    this.offsets[i] = offset;
    this.lengths[i] = length;
    this.times[i] = time;
    this.positions[i] = position;
    this.count = i + 1;
  }

  private grow(): void {
    const capacity = 2 * this.kinds.length;
    const wider = <A extends { set(from: A): void }>(from: A, to: A): A => {
      to.set(from);
      return to;
    };
    this.kinds = wider(this.kinds, new Uint8Array(capacity));
    this.disks = wider(this.disks, new Uint16Array(capacity));
    this.crcs = wider(this.crcs, new Uint32Array(capacity));
    this.offsets = wider(this.offsets, new Float64Array(capacity));
    this.lengths = wider(this.lengths, new Float64Array(capacity));
    this.times = wider(this.times, new Float64Array(capacity));
    this.positions = wider(this.positions, new Float64Array(capacity));
  }
}

/** A record that is remembered apart: a mark, or one before which the clock went back. */
export interface Notable {
  readonly record: JournalRecord;
  readonly timeBefore: Time;
}

export interface Times {
  readonly first: Time;
  readonly last: Time;
  readonly min: Time;
  readonly max: Time;
}

/** What a sealed segment's metadata file ends with. */
export interface Seal {
  /** Where the summary and the map begin in the metadata file. */
  readonly offset: ByteOffset;
  readonly summaryBytes: ByteCount;
  readonly mapBytes: ByteCount;
  readonly mapCrc: number;
  /** Intervals of each disk that has any, ascending by disk. */
  readonly maps: readonly { readonly disk: number; readonly count: number }[];
}

export interface SegmentParts {
  readonly direction: Direction;
  readonly first: Sequence;
  readonly timeBefore: Time;
  readonly suspendedBefore: boolean;
}

export class Segment {
  readonly direction: Direction;
  readonly first: Sequence;
  readonly timeBefore: Time;
  readonly suspendedBefore: boolean;
  /** Whether its files are there. */
  created = false;
  metaSalt = 0;
  dataSalt = 0;
  /** Durable records, and the bytes that they take. */
  count = 0;
  dataEnd: ByteOffset = HEADER_BYTES;
  metaEnd: ByteOffset = HEADER_BYTES;
  times: Times;
  suspendedAfter: boolean;
  notables: Notable[] = [];
  seal: Seal | null = null;
  /** Of the active segment: its records, those that are not durable yet among them. */
  table: RecordTable | null = null;
  private steps = 0;
  private live: Map<number, IntervalMap> | null = null;
  private mapped = 0;

  constructor({ direction, first, timeBefore, suspendedBefore }: SegmentParts) {
    this.direction = direction;
    this.first = first;
    this.timeBefore = timeBefore;
    this.suspendedBefore = suspendedBefore;
    this.suspendedAfter = suspendedBefore;
    this.times = { first: timeBefore, last: timeBefore, min: timeBefore, max: timeBefore };
  }

  /** The last durable sequence; the one before the first where there is none. */
  get last(): Sequence {
    return this.first + this.count - 1;
  }

  get metaName(): string {
    return segmentName(`${this.direction}.meta`, this.first);
  }
  get dataName(): string {
    return segmentName(`${this.direction}.data`, this.first);
  }

  /** Bytes on disk. */
  get bytes(): ByteCount {
    const { seal } = this;
    const sealBytes = seal === null ? 0 : seal.summaryBytes + seal.mapBytes + SLOT_BYTES;
    return this.dataEnd + this.metaEnd + sealBytes;
  }

  /** Takes the next `count` records of the table in, which are durable now. */
  admit(count: number, notables: readonly Notable[], dataEnd: ByteOffset, metaEnd: ByteOffset): void {
    const { times } = this.table!;
    let { first, min, max } = this.times;
    for (let i = this.count; i < this.count + count; i++) {
      const time = times[i]!;
      if (i === 0) first = min = max = time;
      else if (time < min) min = time;
      else if (time > max) max = time;
    }
    this.count += count;
    if (this.count > 0) this.times = { first, last: times[this.count - 1]!, min, max };
    this.dataEnd = dataEnd;
    this.metaEnd = metaEnd;
    for (const notable of notables) this.note(notable);
  }

  private note(notable: Notable): void {
    const { kind } = notable.record;
    if (isWrite(kind) && ++this.steps > JOURNAL_MAX_STEPS) return;
    if (kind === RecordKind.suspend) this.suspendedAfter = true;
    if (kind === RecordKind.resume) this.suspendedAfter = false;
    this.notables.push(notable);
  }

  /**
   * Of the active segment: where the bytes of each disk lie, of the first `through` records. New data: the newest
   * wins; overwritten data: the oldest.
   */
  maps(through = this.count): ReadonlyMap<number, IntervalMap> {
    this.live ??= new Map();
    mapRecords(this.table!, this.mapped, through, this.direction, this.live);
    this.mapped = Math.max(this.mapped, through);
    return this.live;
  }

  /** Forgets what a seal said that is not whole. */
  unseal(): void {
    this.seal = null;
    this.count = 0;
    this.dataEnd = HEADER_BYTES;
    this.metaEnd = HEADER_BYTES;
    this.notables = [];
    this.suspendedAfter = this.suspendedBefore;
  }

  /** Forgets what was staged and never became durable. */
  forgetStaged(): void {
    if (this.table !== null) this.table.count = this.count;
    this.forgetMaps();
  }

  forgetMaps(): void {
    this.live = null;
    this.mapped = 0;
  }
}

export function segmentName(stream: string, first: Sequence): string {
  return `${stream}.${String(first).padStart(16, '0')}`;
}

/** Adds records `[from, to)` of a table to the maps of their disks. */
export function mapRecords(
  table: RecordTable,
  from: number,
  to: number,
  direction: Direction,
  maps: Map<number, IntervalMap>,
): void {
  for (let i = from; i < to; i++) {
    const kind = table.kinds[i]!;
    if (!isWrite(kind)) continue;
    const disk = table.disks[i]!;
    let map = maps.get(disk);
    if (map === undefined) {
      map = new IntervalMap();
      maps.set(disk, map);
    }
    const start = table.offsets[i]!;
    const end = start + table.lengths[i]!;
    const head = kind === RecordKind.data ? table.positions[i]! : 0;
    const place = kind === RecordKind.data ? head + FRAME_BYTES : ZEROS;
    if (direction === 'do') map.set(start, end, place, head);
    else map.setAbsent(start, end, place, head);
  }
}

/** Whether the clock went back before this record. */
export function isStep(time: Time, timeBefore: Time): boolean {
  return timeBefore - time >= JOURNAL_CLOCK_STEP;
}

/** What reading a run of slots found. */
export interface Slots {
  readonly table: RecordTable;
  readonly notables: readonly Notable[];
  /** Where the metadata of each record ends, and the data so far. */
  readonly metaEnds: readonly ByteOffset[];
  /** Why it ended before the bytes did. */
  readonly stopped: { readonly at: ByteOffset; readonly reason: string; readonly cut: boolean } | null;
  /** Everything up to here was durable once, as the records themselves say. */
  readonly committed: Sequence;
  /** The last sequence that the bytes after that may have had a record of. */
  readonly lastAfter: Sequence;
}

/**
 * Reads records from the bytes of a metadata file, from its header on, until they end or one is not whole or does
 * not follow the one before it.
 */
export function readSlots(bytes: Uint8Array, segment: Segment, sizes: readonly ByteCount[]): Slots {
  const view = viewOf(bytes);
  const table = new RecordTable();
  const notables: Notable[] = [];
  const metaEnds: number[] = [];
  let committed = 0;
  let timeBefore = segment.timeBefore;
  let dataEnd = HEADER_BYTES;
  let at = HEADER_BYTES;
  let stopped: Slots['stopped'] = null;
  while (at < bytes.length) {
    const record = decodeRecord(bytes, view, at, segment.metaSalt);
    const reason =
      typeof record === 'string' ? record : unfit(record, segment.first + table.count, dataEnd, sizes);
    if (typeof record === 'string' || reason !== null) {
      stopped = { at, reason: reason ?? '', cut: reason === CUT };
      break;
    }
    table.push(record);
    if (!isWrite(record.kind) || isStep(record.time, timeBefore)) notables.push({ record, timeBefore });
    if (record.kind === RecordKind.data) dataEnd = record.position + FRAME_BYTES + record.length;
    timeBefore = record.time;
    committed = Math.max(committed, record.committed);
    at += metaBytesOf(Buffer.byteLength(record.text));
    metaEnds.push(at);
  }
  let after = { end: at, sequence: segment.first + table.count - 1 };
  // Records after the one that is not whole tell what had been durable before it.
  for (let later = at + SLOT_BYTES; stopped && later + SLOT_BYTES <= bytes.length; later += SLOT_BYTES) {
    if (!isWholeSlot(bytes, view, later, segment.metaSalt)) continue;
    const record = decodeRecord(bytes, view, later, segment.metaSalt);
    if (typeof record !== 'string' && record.sequence > segment.first + table.count) {
      committed = Math.max(committed, record.committed);
      const end = later + metaBytesOf(Buffer.byteLength(record.text));
      if (record.sequence > after.sequence) after = { end, sequence: record.sequence };
    }
  }
  // What is not whole at the very end may have been records too, each of a slot at least.
  const lastAfter = after.sequence + Math.max(0, Math.ceil((bytes.length - after.end) / SLOT_BYTES));
  return { table, notables, metaEnds, stopped, committed, lastAfter };
}

/** Why a record cannot stand here; null when it can. */
function unfit(
  record: JournalRecord,
  sequence: Sequence,
  dataEnd: ByteOffset,
  sizes: readonly ByteCount[],
): string | null {
  const { kind, disk, offset, length, position, time } = record;
  if (record.sequence !== sequence) return `expected sequence ${sequence}, got ${record.sequence}`;
  if (!Number.isSafeInteger(time)) return 'expected a time in milliseconds';
  if (!Number.isSafeInteger(record.committed)) return 'expected the sequence that was durable';
  if (!isWrite(kind)) return length === 0 && offset === 0 ? null : 'expected a mark without a range';
  const size = sizes[disk];
  if (size === undefined) return `expected a disk below ${sizes.length}, got ${disk}`;
  if (length < 1 || length > JOURNAL_MAX_RECORD_BYTES) {
    return `expected 1 … ${JOURNAL_MAX_RECORD_BYTES} bytes, got ${length}`;
  }
  if (!isWithin({ offset, length }, size)) return `expected a range within the disk's ${size} bytes`;
  if (kind === RecordKind.zero) return position === 0 ? null : 'expected zeros without a place';
  const end = position + FRAME_BYTES + length;
  return position >= dataEnd && Number.isSafeInteger(end) ? null : `expected data at ${dataEnd} or after it`;
}

export function malformed(reason: string, path: string, offset?: ByteOffset): DriftmapError {
  return new DriftmapError('malformed', reason, { path, offset });
}

/** A segment without files yet. */
export function newSegment(place: Place, parts: SegmentParts): Segment {
  const segment = new Segment(parts);
  segment.dataSalt = saltOf(headerOf(place, segment, 'data'));
  segment.metaSalt = saltOf(headerOf(place, segment, 'meta'));
  return segment;
}

export function headerOf({ journal }: Place, segment: Segment, part: 'data' | 'meta'): Uint8Array {
  const { direction, first, timeBefore, suspendedBefore } = segment;
  const bytes = encodeHeader({
    stream: `${direction}.${part}`,
    journal,
    first,
    timeBefore,
    suspendedBefore,
  });
  assert(bytes.length === HEADER_BYTES, 'a header has its size');
  return bytes;
}

/** The same segment without the records after `sequence`, and without its seal. */
export async function shortened(place: Place, from: Segment, sequence: Sequence): Promise<Segment> {
  const meta = place.folder.open(from.metaName, 'write');
  const data = place.folder.open(from.dataName, 'write');
  try {
    const bytes = new Uint8Array(from.metaEnd);
    meta.read(0, bytes);
    const { table, metaEnds, notables, stopped } = readSlots(bytes, from, place.sizes);
    if (stopped !== null) throw malformed(stopped.reason, meta.path, stopped.at);
    const count = sequence - from.first + 1;
    let dataEnd: ByteOffset = HEADER_BYTES;
    for (let i = 0; i < count; i++) {
      if (table.kinds[i] === RecordKind.data) {
        dataEnd = table.positions[i]! + FRAME_BYTES + table.lengths[i]!;
      }
    }
    const metaEnd = metaEnds[count - 1]!;
    meta.truncate(metaEnd);
    await meta.sync();
    data.truncate(dataEnd);
    await data.sync();
    const segment = newSegment(place, from);
    segment.created = true;
    table.count = count;
    segment.table = table;
    segment.admit(
      count,
      notables.filter(({ record }) => record.sequence <= sequence),
      dataEnd,
      metaEnd,
    );
    return segment;
  } finally {
    meta.close();
    data.close();
  }
}
