/** A round of a roll forwards: as much new data as is held in memory at one time. */

import { assert } from '../base/errors.ts';
import { JOURNAL_BATCH_BYTES, JOURNAL_BATCH_RECORDS } from '../base/limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { Core } from './core.ts';
import { FRAME_BYTES, RecordKind, type Sequence } from './record.ts';
import type { RecordTable, Segment } from './segment.ts';

/** Memory that is used again by each round: fresh memory costs more than what is read into it. */
export class Scratch {
  private bytes: Uint8Array = new Uint8Array(0);

  /** So many bytes, of any contents; those taken before are taken back. */
  take(count: ByteCount): Uint8Array {
    if (count > this.bytes.length) this.bytes = Buffer.allocUnsafeSlow(count);
    return this.bytes.subarray(0, count);
  }
}

export interface Memory {
  readonly data: Scratch;
  readonly before: Scratch;
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
}

/** The next records after `at`, up to `to`; on one side of the end of the UNDO direction. */
export function readRound(core: Core, { at, to }: { at: Sequence; to: Sequence }, memory: Memory): Round {
  const { redo, undo } = core;
  const segment = redo.segments[redo.indexOf(at + 1)];
  assert(segment !== undefined, `new data of sequence ${at + 1} is there`);
  const reader = redo.readers.of(segment);
  const table = reader.records();
  const last = Math.min(to, segment.last, at < undo.last ? undo.last : to);
  const start = at + 1 - segment.first;
  let end = start;
  let base = 0;
  let dataEnd = 0;
  let sum = 0;
  while (end <= last - segment.first && end - start < JOURNAL_BATCH_RECORDS) {
    const length = table.lengths[end]!;
    if (end > start && sum + length > JOURNAL_BATCH_BYTES) break;
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
  const data = memory.data.take(dataEnd - base);
  reader.raw(base, data);
  const round = { segment, table, start, end, to: segment.first + end - 1, data, base };
  for (let i = start; i < end; i++) {
    if (table.kinds[i] !== RecordKind.data) continue;
    if (checksum(dataOf(round, i)) !== table.crcs[i]) {
      throw reader.damaged(table.positions[i]!, table.lengths[i]!);
    }
  }
  return round;
}

function dataOf({ table, data, base }: Round, i: number): Uint8Array {
  const from = table.positions[i]! - base + FRAME_BYTES;
  return data.subarray(from, from + table.lengths[i]!);
}

/** Bytes that the records of a round write. */
export function bytesOf({ table, start, end }: Round): ByteCount {
  let sum = 0;
  for (let i = start; i < end; i++) sum += table.lengths[i]!;
  return sum;
}
