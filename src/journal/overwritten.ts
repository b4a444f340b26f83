/** What a roll forwards overwrites: read from the disks, and kept in the UNDO direction, before they are written. */

import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { Core } from './core.ts';
import { IN_FLIGHT, PIECE } from './disk-writer.ts';
import { type IntervalMap, ZEROS } from './interval-map.ts';
import type { Pace } from './pace.ts';
import { isWrite, RecordKind } from './record.ts';
import { bytesOf, lent, type Round, type Scratch } from './round.ts';
import { mapRecords, type RecordTable } from './segment.ts';
import { isZero } from './zeros.ts';

export interface Keeping {
  readonly disks: readonly LogicalUnit[];
  /** The round before, when the disks do not have it yet. */
  readonly before: Round | null;
  readonly memory: Scratch;
  readonly pace: Pace;
}

/** Stages in the UNDO direction what the records of a round overwrite; `undo.commit` makes it durable. */
export async function keepOverwritten(core: Core, round: Round, keeping: Keeping): Promise<undefined> {
  const { table, start, end, segment } = round;
  const { pace } = keeping;
  const { undo } = core;
  const first = segment.first + start;
  if (undo.next !== first) await undo.restart(core.beginningAt(first));
  const old = await readOld(round, keeping);
  const marks = new Map(segment.notables.map(({ record }) => [record.sequence, record]));
  for (let i = start; i < end; i++) {
    if (pace.did(table.lengths[i]!)) await pace.next();
    // The round before this one may have failed to become durable.
    if (undo.failure !== null) throw undo.failure;
    const sequence = segment.first + i;
    const kind = table.kinds[i] as RecordKind;
    const mark = marks.get(sequence);
    const bytes = isWrite(kind) ? asOf(round, i, old) : null;
    undo.stage({
      kind: !isWrite(kind) ? kind : bytes === null ? RecordKind.zero : RecordKind.data,
      flags: mark?.flags ?? 0,
      disk: table.disks[i]!,
      sequence,
      time: table.times[i]!,
      offset: table.offsets[i]!,
      length: table.lengths[i]!,
      bytes,
      text: mark?.text ?? '',
    });
  }
}

/** What the bytes of a record were before it; null where all were zeros. Records are asked for in their order. */
function asOf(round: Round, i: number, old: Old): Uint8Array | null {
  const { table } = round;
  const from = old.places[i - round.start]!;
  const bytes = old.bytes.subarray(from, from + table.lengths[i]!);
  const disk = table.disks[i]!;
  const offset = table.offsets[i]!;
  if (old.before !== null) overlay(old.before, old.before.maps.get(disk), offset, bytes);
  overlay(round, old.own.get(disk), offset, bytes);
  mapRecords(table, i, i + 1, 'do', old.own);
  return isZero(bytes) ? null : bytes;
}

/** Puts over bytes of a disk, from `offset` on, what a round has of them. */
function overlay(round: Round, map: IntervalMap | undefined, offset: ByteOffset, bytes: Uint8Array): void {
  map?.each(offset, offset + bytes.length, (from, to, place) => {
    const target = bytes.subarray(from - offset, to - offset);
    if (place === ZEROS) target.fill(0);
    else target.set(lent(round, place, target.length));
  });
}

/** What is under the records of a round. */
interface Old {
  /** What the disks had. */
  readonly bytes: Uint8Array;
  /** Where in `bytes` the range of each record begins. */
  readonly places: Float64Array;
  /** The round before, when the disks do not have it yet. */
  readonly before: Round | null;
  /** Records of this round that came before the one that is asked for. */
  readonly own: Map<number, IntervalMap>;
}

/** Reads it in the order of the disks: ranges that adjoin are one read. */
async function readOld(round: Round, { disks, before, memory, pace }: Keeping): Promise<Old> {
  const { table, start, end } = round;
  const bytes = memory.take(bytesOf(round));
  const places = new Float64Array(end - start);
  const order = inOrderOfDisks(table, start, end);
  let waits: Promise<unknown>[] = [];
  let at = 0;
  for (let k = 0; k < order.length; ) {
    const i = order[k]!;
    if (pace.did(table.lengths[i]!)) await pace.next();
    const disk = disks[table.disks[i]!]!;
    const range = { offset: table.offsets[i]!, length: table.lengths[i]! };
    places[i - start] = at;
    k++;
    if (table.kinds[i] === RecordKind.zero && (await isHole(disk, range))) {
      bytes.fill(0, at, at + range.length);
      at += range.length;
      continue;
    }
    let { length } = range;
    for (; k < order.length && adjoins(table, order[k]!, i, length); k++) {
      places[order[k]! - start] = at + length;
      length += table.lengths[order[k]!]!;
    }
    const pending = disk.read(range.offset, bytes.subarray(at, at + length));
    at += length;
    if (pending && waits.push(pending) >= IN_FLIGHT) {
      await allOf(waits);
      waits = [];
    }
  }
  await allOf(waits);
  return { bytes, places, before, own: new Map() };
}

/** Indexes of the writes among some records, by disk and offset. */
function inOrderOfDisks({ kinds, disks, offsets }: RecordTable, start: number, end: number): number[] {
  const order: number[] = [];
  for (let i = start; i < end; i++) if (isWrite(kinds[i]!)) order.push(i);
  return order.sort((a, b) => disks[a]! - disks[b]! || offsets[a]! - offsets[b]!);
}

/** Whether record `i` goes on where a read of `length` bytes from the offset of record `first` ends. */
function adjoins(table: RecordTable, i: number, first: number, length: ByteCount): boolean {
  const { disks, offsets, lengths, kinds } = table;
  return (
    disks[i] === disks[first] &&
    offsets[i] === offsets[first]! + length &&
    kinds[i] === RecordKind.data &&
    length + lengths[i]! <= PIECE
  );
}

/** Waits for all, also when one fails: they read into memory that is used again. */
async function allOf(waits: readonly Promise<unknown>[]): Promise<undefined> {
  for (const result of await Promise.allSettled(waits)) if (result.status === 'rejected') throw result.reason;
}

async function isHole(disk: LogicalUnit, range: ByteRange): Promise<boolean> {
  const [extent] = await disk.extents(range, 1);
  return extent !== undefined && extent.kind !== 'data' && extent.length === range.length;
}
