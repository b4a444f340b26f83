/**
 * Reading segments: records, maps and data, kept in memory up to a bound; what was not used lately goes first. Data is
 * checked against its checksum when a record of it is first touched; which records were is kept as bits.
 */

import { DriftmapError } from '../base/errors.ts';
import { JOURNAL_CACHE_BYTES } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { KiB } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { JournalFile } from './folder.ts';
import { FILTER_BYTES, type Intervals } from './interval-map.ts';
import { decodeFrame, FRAME_BYTES, type FrameHead } from './record.ts';
import { readMaps } from './seal.ts';
import { malformed, type Place, type RecordTable, readSlots, type Segment } from './segment.ts';

/** Two frames never begin within so many bytes of one another. */
const FRAME_GRANULE = FRAME_BYTES;
const TABLE_BYTES_PER_RECORD = 39;

/** Data that is read together with the head of its frame. */
const SOME = 16 * KiB;
const scratch = new Uint8Array(FRAME_BYTES + SOME);

export class SegmentReader {
  /** Whether it was asked for since the cache looked at it last. */
  used = true;
  private readonly place: Place;
  private readonly segment: Segment;
  private file: JournalFile | null = null;
  private maps: ReadonlyMap<number, Intervals> | null = null;
  private table: RecordTable | null = null;
  /** One bit a granule of the data file: a frame that begins there has been checked. */
  private checked = new Uint32Array(0);

  constructor(place: Place, segment: Segment) {
    this.place = place;
    this.segment = segment;
  }

  /** Memory that is held, about. */
  get weight(): ByteCount {
    const { table, segment, maps } = this;
    const tableBytes = table === null ? 0 : TABLE_BYTES_PER_RECORD * table.count;
    const { seal } = segment;
    const mapBytes = maps === null || seal === null ? 0 : seal.mapBytes + FILTER_BYTES * seal.maps.length;
    return 1024 + tableBytes + mapBytes + this.checked.byteLength;
  }

  records(): RecordTable {
    if (this.segment.table !== null) return this.segment.table;
    this.table ??= loadTable(this.place, this.segment);
    return this.table;
  }

  /** Where the bytes of a disk lie, of the whole segment; null where it has none of that disk. */
  intervals(disk: number): Intervals | null {
    const { segment } = this;
    if (segment.seal === null) return segment.maps().get(disk) ?? null;
    if (this.maps === null) {
      const meta = this.place.folder.open(segment.metaName, 'read');
      try {
        this.maps = readMaps(segment, segment.seal, meta, this.place.sizes);
      } finally {
        meta.close();
      }
    }
    return this.maps.get(disk) ?? null;
  }

  /** Bytes of the data file as they are there, unchecked. */
  raw(offset: ByteOffset, target: Uint8Array): void {
    this.opened().read(offset, target);
  }

  /**
   * Fills `target` with bytes that lie at `place`, in the frame that begins at `head`.
   * @throws DriftmapError `malformed` when the frame's data is not what was written
   */
  read(place: ByteOffset, head: ByteOffset, target: Uint8Array): void {
    const granule = Math.floor(head / FRAME_GRANULE);
    if (this.isChecked(granule)) {
      this.opened().read(place, target);
      return;
    }
    const file = this.opened();
    const from = place - head - FRAME_BYTES;
    // What is wanted ends in the frame or before it ends. A little is read with the head, in one call.
    const some = scratch.subarray(0, FRAME_BYTES + (from + target.length <= SOME ? from + target.length : 0));
    if (from >= 0) file.read(head, some);
    const frame = from < 0 ? null : this.frameOf(some, head);
    if (frame === null || from + target.length > frame.length) {
      throw malformed('the map leads out of the data of its record', file.path, head);
    }
    let data = target;
    if (some.length === FRAME_BYTES + frame.length) data = some.subarray(FRAME_BYTES);
    else {
      if (target.length !== frame.length) data = new Uint8Array(frame.length);
      file.read(head + FRAME_BYTES, data);
    }
    if (checksum(data) !== frame.crc) throw this.damaged(head, frame.length);
    if (data !== target) target.set(data.subarray(from, from + target.length));
    this.setChecked(granule);
  }

  private frameOf(bytes: Uint8Array, head: ByteOffset): FrameHead {
    const frame = decodeFrame(bytes, 0, this.segment.dataSalt);
    if (frame !== null) return frame;
    throw malformed('expected the data of a record, got something else', this.opened().path, head);
  }

  damaged(head: ByteOffset, length: ByteCount): DriftmapError {
    const context = { path: this.opened().path, offset: head, length };
    return new DriftmapError('malformed', 'the data of this record is damaged: checksum', context);
  }

  private opened(): JournalFile {
    this.file ??= this.place.folder.open(this.segment.dataName, 'read');
    return this.file;
  }

  private isChecked(granule: number): boolean {
    const word = this.checked[granule >>> 5];
    return word !== undefined && ((word >>> (granule & 31)) & 1) === 1;
  }

  private setChecked(granule: number): void {
    const word = granule >>> 5;
    if (word >= this.checked.length) {
      const wider = new Uint32Array(Math.max(64, 2 * word));
      wider.set(this.checked);
      this.checked = wider;
    }
    this.checked[word] = this.checked[word]! | (1 << (granule & 31));
  }

  close(): void {
    this.file?.close();
    this.file = null;
  }
}

function loadTable(place: Place, segment: Segment): RecordTable {
  const meta = place.folder.open(segment.metaName, 'read');
  try {
    const bytes = new Uint8Array(segment.metaEnd);
    meta.read(0, bytes);
    const { table, stopped } = readSlots(bytes, segment, place.sizes);
    if (stopped !== null) throw malformed(stopped.reason, meta.path, stopped.at);
    if (table.count !== segment.count) {
      throw malformed(`expected ${segment.count} records, got ${table.count}`, meta.path);
    }
    return table;
  } finally {
    meta.close();
  }
}

export class ReaderCache {
  private readonly place: Place;
  private readonly most: ByteCount;
  private readonly readers = new Map<Segment, SegmentReader>();
  /** Files are few however small the segments are. */
  private readonly mostOpen = 256;

  constructor(place: Place, most: ByteCount = JOURNAL_CACHE_BYTES) {
    this.place = place;
    this.most = most;
  }

  /** To be asked for anew at each use: what it holds may be given up at the next call. */
  of(segment: Segment): SegmentReader {
    let reader = this.readers.get(segment);
    if (reader === undefined) {
      this.trim();
      reader = new SegmentReader(this.place, segment);
      this.readers.set(segment, reader);
    }
    reader.used = true;
    return reader;
  }

  drop(segment: Segment): void {
    this.readers.get(segment)?.close();
    this.readers.delete(segment);
  }

  close(): void {
    for (const reader of this.readers.values()) reader.close();
    this.readers.clear();
  }

  /** Gives up readers that were not used since they were looked at last, then others, until there is room. */
  private trim(): void {
    let sum = 0;
    for (const reader of this.readers.values()) sum += reader.weight;
    for (let round = 0; round < 2; round++) {
      for (const [segment, reader] of this.readers) {
        if (sum <= this.most && this.readers.size < this.mostOpen) return;
        if (reader.used) {
          reader.used = false;
          continue;
        }
        sum -= reader.weight;
        reader.close();
        this.readers.delete(segment);
      }
    }
  }
}
