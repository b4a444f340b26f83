/**
 * One direction of a journal (new data, or overwritten data): its data and metadata streams as a row of segments.
 *
 * Records are staged in memory at once and made durable together: `commit` writes all that is staged and flushes,
 * and whatever is staged meanwhile waits for the next round, so that many writes share one flush. Data and
 * metadata are flushed side by side; recovery (`recover.ts`) checks data against the metadata's checksums.
 *
 * A write or flush that fails leaves the durable part as it was. Nothing is appended after it until `rewind` has cut
 * the files back to that part: what a failed flush did to the rest nobody knows.
 */

import { assert, DriftmapError, systemError } from '../base/errors.ts';
import {
  JOURNAL_MAX_SEGMENTS,
  JOURNAL_SEGMENT_META_BYTES,
  JOURNAL_SEGMENT_RECORDS,
} from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import { type Batch, newBatch, Pool } from './batch.ts';
import type { JournalFile } from './folder.ts';
import { ReaderCache } from './reader.ts';
import {
  type Direction,
  encodeFrame,
  encodeRecord,
  FRAME_BYTES,
  isWrite,
  metaBytesOf,
  RecordKind,
  type Sequence,
  type Time,
} from './record.ts';
import { encodeSeal } from './seal.ts';
import { headerOf, isStep, newSegment, type Place, RecordTable, type Segment, shortened } from './segment.ts';

/** A record to be appended. `bytes` are copied. */
export interface Entry {
  readonly kind: RecordKind;
  readonly flags: number;
  readonly disk: number;
  readonly sequence: Sequence;
  readonly time: Time;
  readonly offset: ByteOffset;
  readonly length: ByteCount;
  /** Of a data record. */
  readonly bytes: Uint8Array | null;
  readonly text: string;
}

/** Where an empty stream begins. */
export interface Beginning {
  readonly next: Sequence;
  readonly time: Time;
  readonly suspended: boolean;
}

const NO_TEXT = new Uint8Array(0);

interface Files {
  readonly segment: Segment;
  readonly data: JournalFile;
  readonly meta: JournalFile;
}

export class Stream {
  readonly direction: Direction;
  readonly readers: ReaderCache;
  segments: Segment[];
  /** Another number whenever `segments` has changed. */
  shape = 0;
  private readonly place: Place;
  /** Where it begins when it has no segment. */
  beginning: Beginning;
  private pending: Batch[] = [];
  private inFlight: readonly Batch[] = [];
  private files: Files | null = null;
  private flushing: Promise<undefined> | null = null;
  private waiting: Promise<undefined> | null = null;
  private broken: DriftmapError | null = null;
  private stagedSum = 0;
  private readonly pool = new Pool();

  constructor(place: Place, direction: Direction, segments: Segment[], beginning: Beginning) {
    this.place = place;
    this.direction = direction;
    this.segments = segments;
    this.beginning = beginning;
    this.readers = new ReaderCache(place);
  }

  /** The first sequence that is there; the next one where none is. */
  get first(): Sequence {
    return this.segments[0]?.first ?? this.beginning.next;
  }
  /** The last durable sequence; the one before the first where there is none. */
  get last(): Sequence {
    for (let i = this.segments.length - 1; i >= 0; i--) {
      if (this.segments[i]!.count > 0) return this.segments[i]!.last;
    }
    return this.first - 1;
  }
  /** The sequence that is staged next. */
  get next(): Sequence {
    const segment = this.segments.at(-1);
    return segment === undefined ? this.beginning.next : segment.first + stagedCount(segment);
  }
  /** Time of the last record, durable or not. */
  get lastTime(): Time {
    const segment = this.segments.at(-1);
    if (segment === undefined) return this.beginning.time;
    const count = stagedCount(segment);
    if (count === 0) return segment.timeBefore;
    return segment.table === null ? segment.times.last : segment.table.times[count - 1]!;
  }
  get suspended(): boolean {
    return this.segments.at(-1)?.suspendedAfter ?? this.beginning.suspended;
  }
  /** Bytes on disk. */
  get bytes(): ByteCount {
    return this.segments.reduce((sum, segment) => sum + segment.bytes, 0);
  }
  /** Data that is staged or being written. */
  get stagedBytes(): ByteCount {
    return this.stagedSum;
  }
  /** Why nothing can be appended; null while something can. */
  get failure(): DriftmapError | null {
    return this.broken;
  }

  /** The segment that holds a durable sequence; −1 where there is none. */
  indexOf(sequence: Sequence): number {
    let low = 0;
    let high = this.segments.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.segments[middle]!.first <= sequence) low = middle + 1;
      else high = middle;
    }
    const segment = this.segments[low - 1];
    return segment !== undefined && sequence <= segment.last ? low - 1 : -1;
  }

  /** Takes a record in memory; the next `commit` makes it durable. Sequences must follow one another. */
  stage(entry: Entry): void {
    assert(this.broken === null, 'nothing is staged after a failure');
    assert(entry.sequence === this.next, `expected sequence ${this.next}, got ${entry.sequence}`);
    const { kind, flags, disk, sequence, time, offset, length, bytes } = entry;
    const text = entry.text === '' ? NO_TEXT : new TextEncoder().encode(entry.text);
    const timeBefore = this.lastTime;
    const batch = this.batchFor();
    const { segment } = batch;
    const crc = bytes !== null ? checksum(bytes) : text.length > 0 ? checksum(text) : 0;
    const position = bytes === null ? 0 : batch.dataAt + batch.data.length;
    const committed = this.last;
    const record = {
      kind,
      flags,
      disk,
      sequence,
      time,
      offset,
      length,
      position,
      committed,
      crc,
      text: entry.text,
    };
    if (bytes !== null) {
      const at = batch.data.take(FRAME_BYTES);
      encodeFrame({ length, sequence, disk, crc }, segment.dataSalt, batch.data.bytes, at);
      batch.data.put(bytes);
      this.stagedSum += FRAME_BYTES + bytes.length;
    }
    const at = batch.meta.take(metaBytesOf(text.length));
    encodeRecord(record, text, segment.metaSalt, batch.meta.bytes, at);
    segment.table!.push(record);
    batch.records++;
    if (!isWrite(kind) || isStep(time, timeBefore)) batch.notables.push({ record, timeBefore });
  }

  /** Resolves when all that is staged now is durable. Rejects with `io` … when it cannot be. */
  commit(): Promise<undefined> {
    if (this.broken !== null) return Promise.reject(this.broken);
    if (this.pending.length === 0) return this.flushing ?? Promise.resolve(undefined);
    this.waiting ??= (this.flushing ?? Promise.resolve(undefined))
      .catch(() => undefined)
      .then(() => {
        this.waiting = null;
        if (this.broken !== null) throw this.broken;
        this.flushing = this.flush().finally(() => {
          this.flushing = null;
        });
        return this.flushing;
      });
    return this.waiting;
  }

  /** After a failure: cuts the files back to what was durable, so that appending can go on. */
  async rewind(): Promise<undefined> {
    await this.settled();
    const { folder } = this.place;
    this.closeFiles();
    for (const name of folder.list().filter((name) => this.isBeyond(name))) folder.remove(name);
    folder.sync();
    const segment = this.segments.at(-1);
    if (segment !== undefined && segment.seal === null) {
      const { data, meta } = this.open(segment);
      data.truncate(segment.dataEnd);
      meta.truncate(segment.metaEnd);
      await Promise.all([data.sync(), meta.sync()]);
    }
    this.broken = null;
  }

  /**
   * Removes the oldest segment. Its metadata goes first, durably: data without metadata is nothing, and is removed
   * at the next opening.
   */
  dropOldest(): void {
    const segment = this.segments[0];
    assert(segment !== undefined && segment.seal !== null, 'only a sealed segment is dropped');
    const after: Beginning = {
      next: segment.last + 1,
      time: segment.times.last,
      suspended: segment.suspendedAfter,
    };
    this.removeFiles(segment);
    this.segments.shift();
    this.shape++;
    if (this.segments.length === 0) this.beginning = after;
  }

  /** Removes all, and begins anew at another sequence. Nothing may be staged. */
  async restart(beginning: Beginning): Promise<undefined> {
    await this.settled();
    this.closeFiles();
    while (this.segments.length > 0) {
      this.removeFiles(this.segments.at(-1)!);
      this.segments.pop();
    }
    this.shape++;
    this.beginning = beginning;
  }

  /**
   * Removes all records after `sequence`, from the newest on: wherever it is stopped, what is left is the start of
   * what there was. Nothing may be staged.
   */
  async cutAfter(sequence: Sequence): Promise<undefined> {
    await this.settled();
    this.closeFiles();
    this.shape++;
    while (this.segments.length > 0 && this.segments.at(-1)!.first > sequence) {
      const segment = this.segments.at(-1)!;
      this.removeFiles(segment);
      this.segments.pop();
      this.beginning = beginningOf(segment);
    }
    const last = this.segments.at(-1);
    if (last === undefined || last.last <= sequence) return;
    const shorter = await shortened(this.place, last, sequence);
    this.readers.drop(last);
    this.segments[this.segments.length - 1] = shorter;
  }

  /** Puts a sealed segment before all others, whose files are there. */
  prepend(segment: Segment): void {
    const { first } = this;
    assert(segment.seal !== null && segment.last + 1 === first, `a segment that ends at ${first}`);
    this.segments.unshift(segment);
    this.shape++;
  }

  /** An empty stream begins there. */
  beginAt(beginning: Beginning): void {
    assert(this.segments.length === 0, 'a stream with segments has begun');
    this.beginning = beginning;
  }

  /** Waits for what is being written; never rejects. */
  async settled(): Promise<undefined> {
    while (this.flushing !== null || this.waiting !== null) {
      await (this.waiting ?? this.flushing)?.catch(() => undefined);
    }
  }

  close(): void {
    this.closeFiles();
    this.readers.close();
  }

  /** The batch that takes the next record; seals the active segment when it is full. */
  private batchFor(): Batch {
    const active = this.segments.at(-1);
    if (active === undefined || active.seal !== null) return this.begin();
    const last = this.pending.at(-1);
    const open = last?.segment === active ? last : null;
    const { dataEnd, metaEnd } = this.stagedEnds(active);
    const full =
      dataEnd >= this.place.segmentBytes ||
      metaEnd >= JOURNAL_SEGMENT_META_BYTES ||
      active.table!.count >= JOURNAL_SEGMENT_RECORDS;
    if (!full) return open ?? this.add(active, dataEnd, metaEnd);
    (open ?? this.add(active, dataEnd, metaEnd)).seals = true;
    return this.begin();
  }

  /** Where the active segment's files will end when all that is staged is written. */
  private stagedEnds(active: Segment): { dataEnd: ByteOffset; metaEnd: ByteOffset } {
    const isOf = ({ segment }: Batch) => segment === active;
    const batch = this.pending.findLast(isOf) ?? this.inFlight.findLast(isOf);
    if (batch === undefined) return active;
    return { dataEnd: batch.dataAt + batch.data.length, metaEnd: batch.metaAt + batch.meta.length };
  }

  private begin(): Batch {
    const { next, direction } = this;
    if (this.segments.length >= JOURNAL_MAX_SEGMENTS) {
      const reason = `expected at most ${JOURNAL_MAX_SEGMENTS} segments: let retention remove old points`;
      throw new DriftmapError('limit', reason, { path: this.place.folder.path });
    }
    const segment = newSegment(this.place, {
      direction,
      first: next,
      timeBefore: this.lastTime,
      suspendedBefore: this.suspendedStaged(),
    });
    segment.table = new RecordTable();
    this.segments.push(segment);
    this.shape++;
    return this.add(segment, segment.dataEnd, segment.metaEnd);
  }

  /** Whether the group is suspended after all that is staged. */
  private suspendedStaged(): boolean {
    const marks = [...this.inFlight, ...this.pending].flatMap(({ notables }) => notables);
    const last = marks.findLast(
      ({ record: { kind } }) => kind === RecordKind.suspend || kind === RecordKind.resume,
    );
    return last === undefined ? this.suspended : last.record.kind === RecordKind.suspend;
  }

  private add(segment: Segment, dataAt: ByteOffset, metaAt: ByteOffset): Batch {
    const batch = newBatch(segment, dataAt, metaAt, this.pool);
    this.pending.push(batch);
    return batch;
  }

  private async flush(): Promise<undefined> {
    this.inFlight = this.pending;
    this.pending = [];
    const staged = this.inFlight.reduce((sum, { data }) => sum + data.length, 0);
    try {
      for (const batch of this.inFlight) await this.write(batch);
      this.stagedSum -= staged;
    } catch (cause) {
      this.fail(systemError(cause, { path: this.place.folder.path, operation: 'write' }));
      throw this.broken!;
    } finally {
      for (const { data, meta } of this.inFlight) {
        data.release();
        meta.release();
      }
      this.inFlight = [];
    }
  }

  private async write(batch: Batch): Promise<undefined> {
    const { segment } = batch;
    const { data, meta } = await this.filesOf(segment);
    const dataEnd = batch.dataAt + batch.data.length;
    const metaEnd = batch.metaAt + batch.meta.length;
    await both(
      writeParts(data, batch.dataAt, batch.data.parts()),
      writeParts(meta, batch.metaAt, batch.meta.parts()),
    );
    if (!batch.seals) {
      await both(batch.data.length > 0 ? data.sync() : Promise.resolve(undefined), meta.sync());
      segment.admit(batch.records, batch.notables, dataEnd, metaEnd);
      // Bit by bit, so that sealing does not hold up the thread.
      segment.maps();
      return;
    }
    await both(data.sync(), meta.sync());
    segment.admit(batch.records, batch.notables, dataEnd, metaEnd);
    // The records are durable by now: a seal that fails takes nothing with it.
    const { bytes, seal } = encodeSeal(segment, segment.maps());
    await meta.write(metaEnd, bytes);
    await meta.sync();
    segment.seal = seal;
    segment.table = null;
    segment.forgetMaps();
    this.readers.drop(segment);
    this.closeFiles();
  }

  private fail(error: DriftmapError): void {
    this.shape++;
    this.broken = error;
    this.pending = [];
    this.stagedSum = 0;
    while (this.segments.length > 0 && this.segments.at(-1)!.count === 0) {
      const segment = this.segments.pop()!;
      this.readers.drop(segment);
      this.beginning = beginningOf(segment);
    }
    this.segments.at(-1)?.forgetStaged();
  }

  /** Whether a name is a file of this stream that no segment of it has. */
  private isBeyond(name: string): boolean {
    if (!name.startsWith(`${this.direction}.`)) return false;
    return !this.segments.some(({ dataName, metaName }) => name === dataName || name === metaName);
  }

  private async filesOf(segment: Segment): Promise<Files> {
    if (this.files?.segment === segment) return this.files;
    this.closeFiles();
    if (segment.created) return this.open(segment);
    const { folder } = this.place;
    // Data first: metadata without its data is damage, data without metadata is nothing yet.
    const data = folder.create(segment.dataName);
    const meta = folder.create(segment.metaName);
    this.files = { segment, data, meta };
    await both(
      data.write(0, headerOf(this.place, segment, 'data')),
      meta.write(0, headerOf(this.place, segment, 'meta')),
    );
    await both(data.sync(), meta.sync());
    folder.sync();
    segment.created = true;
    return this.files;
  }

  private open(segment: Segment): Files {
    const { folder } = this.place;
    const data = folder.open(segment.dataName, 'write');
    const meta = folder.open(segment.metaName, 'write');
    this.files = { segment, data, meta };
    return this.files;
  }

  private closeFiles(): void {
    this.files?.data.close();
    this.files?.meta.close();
    this.files = null;
  }

  private removeFiles(segment: Segment): void {
    const { folder } = this.place;
    this.readers.drop(segment);
    if (!segment.created) return;
    folder.remove(segment.metaName);
    folder.sync();
    folder.remove(segment.dataName);
  }
}

/** Where a stream begins when this segment is not there. */
export function beginningOf({ first, timeBefore, suspendedBefore }: Segment): Beginning {
  return { next: first, time: timeBefore, suspended: suspendedBefore };
}

/** Records of a segment, durable or not. */
function stagedCount(segment: Segment): number {
  return segment.table === null ? segment.count : segment.table.count;
}

async function writeParts(
  file: JournalFile,
  offset: ByteOffset,
  parts: readonly Uint8Array[],
): Promise<undefined> {
  if (parts.length > 1 && file.writeAll) return file.writeAll(offset, parts);
  let at = offset;
  for (const part of parts) {
    await file.write(at, part);
    at += part.length;
  }
}

/** Waits for both, also when one fails: a write that goes on would meet what comes after it. */
async function both(one: Promise<undefined>, other: Promise<undefined>): Promise<undefined> {
  const results = await Promise.allSettled([one, other]);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
