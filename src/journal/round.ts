/** A round of a roll forwards: as much new data as is held in memory at one time. */

import { assert } from '../base/errors.ts';
import { JOURNAL_BATCH_BYTES, JOURNAL_BATCH_RECORDS } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { KiB, MiB } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { Core } from './core.ts';
import type { IntervalMap } from './interval-map.ts';
import type { Pace } from './pace.ts';
import type { SegmentReader } from './reader.ts';
import { FRAME_BYTES, RecordKind, type Sequence } from './record.ts';
import { mapRecords, type RecordTable, type Segment } from './segment.ts';

/** Bytes of the data file that are read at a time. */
const PIECE = 1 * MiB;
/** A round of large records gains nothing from more of them than the processor's caches hold. */
const CACHED = 4 * MiB;
const LARGE = 32 * KiB;

/** Memory that is used again by each round: fresh memory costs more than what is read into it. */
export class Scratch {
  private bytes: Uint8Array = new Uint8Array(0);

  /** So many bytes, of any contents; those taken before are taken back. */
  take(count: ByteCount): Uint8Array {
    if (count > this.bytes.length) this.bytes = new Uint8Array(Buffer.allocUnsafeSlow(count).buffer);
    return this.bytes.subarray(0, count);
  }
}

/** Some consecutive records of one segment and their data. */
export interface Round {
  readonly segment: Segment;
  readonly table: RecordTable;
  /** Indexes in the table. */
  readonly start: number;
  readonly end: number;
  /** Sequence of the last. */
  readonly to: Sequence;
  /** Their frames, as they lie in the data file from `base` on. */
  readonly data: Uint8Array;
  readonly base: ByteOffset;
  /** Where in the data file the newest bytes of each disk lie. */
  readonly maps: ReadonlyMap<number, IntervalMap>;
}

export interface RoundOptions {
  /** The next records after `at`, up to `to`. */
  readonly at: Sequence;
  readonly to: Sequence;
  /** Whether what it overwrites is to be kept, durably: then fewer and longer rounds are better. */
  readonly keeps: boolean;
  readonly memory: Scratch;
  readonly pace: Pace;
}

export async function readRound(core: Core, options: RoundOptions): Promise<Round> {
  const { at, to, keeps, memory, pace } = options;
  const { redo } = core;
  const segment = redo.segments[redo.indexOf(at + 1)];
  assert(segment !== undefined, `new data of sequence ${at + 1} is there`);
  const reader = redo.readers.of(segment);
  const table = reader.records();
  const start = at + 1 - segment.first;
  const { end, base, dataEnd } = extentOf(table, {
    start,
    last: Math.min(to, segment.last) - segment.first,
    keeps,
  });
  const data = memory.take(dataEnd - base);
  for (let done = 0; done < data.length; done += PIECE) {
    if (pace.did(Math.min(PIECE, data.length - done))) await pace.next();
    // Asked for anew after others were let in: the cache may have closed the file.
    redo.readers.of(segment).raw(base + done, data.subarray(done, done + PIECE));
  }
  const maps = new Map<number, IntervalMap>();
  const round = { segment, table, start, end, to: segment.first + end - 1, data, base, maps };
  for (let i = start; i < end; i++) {
    if (pace.did(table.lengths[i]! / 4)) await pace.next();
    if (table.kinds[i] === RecordKind.data) check(round, i, reader);
    mapRecords(table, i, i + 1, 'do', maps);
  }
  return round;
}

/** How far a round from a record goes, and where its frames lie. */
function extentOf(
  table: RecordTable,
  { start, last, keeps }: { readonly start: number; readonly last: number; readonly keeps: boolean },
) {
  let end = start;
  let base = 0;
  let dataEnd = 0;
  let sum = 0;
  while (end <= last && end - start < JOURNAL_BATCH_RECORDS) {
    const length = table.lengths[end]!;
    if (end > start && sum + length > JOURNAL_BATCH_BYTES) break;
    if (!keeps && sum >= CACHED && sum >= LARGE * (end - start)) break;
    if (table.kinds[end] === RecordKind.data) {
      const position = table.positions[end]!;
      // A file that was made anew by a roll backwards may have holes.
      if (dataEnd > 0 && position + FRAME_BYTES + length - base > 2 * JOURNAL_BATCH_BYTES) break;
      if (dataEnd === 0) base = position;
      dataEnd = position + FRAME_BYTES + length;
    }
    sum += length;
    end++;
  }
  return { end, base, dataEnd };
}

function check(round: Round, i: number, reader: SegmentReader): void {
  const { positions, lengths, crcs } = round.table;
  const data = lent(round, positions[i]! + FRAME_BYTES, lengths[i]!);
  if (checksum(data) !== crcs[i]) throw reader.damaged(positions[i]!, lengths[i]!);
}

/** Bytes that lie at a place of the data file. */
export function lent({ data, base }: Round, place: ByteOffset, length: ByteCount): Uint8Array {
  return data.subarray(place - base, place - base + length);
}

/** Bytes that the records of a round write. */
export function bytesOf({ table, start, end }: Round): ByteCount {
  let sum = 0;
  for (let i = start; i < end; i++) sum += table.lengths[i]!;
  return sum;
}
