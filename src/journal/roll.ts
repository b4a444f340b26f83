/**
 * Rolling the disks of a group to a point. One procedure for all cases, a crash in an earlier roll included:
 *
 *   1. say durably between which points the disks will be,
 *   2. forwards: new data from `low` to the point, in rounds: read what a round overwrites, append that to the
 *      UNDO direction and make it durable, then write the disks,
 *   3. backwards: overwritten data from `high` down to the point, segment by segment,
 *   4. flush the disks, say durably that they are at the point.
 *
 * A round and a segment each write every byte once, in the order of the disk: of several writes to a byte within
 * it only the one that counts is carried out. What a roll backwards needs to be gone forward again is there, or
 * is made first (`mirror.ts`).
 */

import { assert, DriftmapError } from '../base/errors.ts';
import { JOURNAL_FLUSH_BYTES } from '../base/limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { Core } from './core.ts';
import { DiskWriter } from './disk-writer.ts';
import { type IntervalMap, type Intervals, ZEROS } from './interval-map.ts';
import { mirror } from './mirror.ts';
import { keepOverwritten } from './overwritten.ts';
import type { Sequence } from './record.ts';
import { type Memory, type Round, readRound, Scratch } from './round.ts';
import { mapRecords, type Segment } from './segment.ts';

/** Nothing of the disk is written between these when a roll is told to stop. */
export interface RollOptions {
  readonly signal?: AbortSignal | undefined;
}

/**
 * Brings all disks to the point, which must be within reach.
 * @throws DriftmapError what disks and files throw, `aborted`; the disks are then between `core.low` and
 *   `core.high`, and the same or another roll goes on from there
 */
export async function roll(core: Core, point: Sequence, options: RollOptions = {}): Promise<undefined> {
  const disks = core.writableDisks();
  if (core.isClean && core.low === point) return;
  const { low, high } = core;
  if (core.undo.failure !== null) await core.undo.rewind();
  if (point < high) await mirror(core, point);
  await enter(core, Math.min(low, point), Math.max(high, Math.min(point, core.undo.last)));
  if (point > low) await forwards(core, disks, { from: low, to: point }, options);
  if (point < core.high) await backwards(core, disks, point, options);
  for (const disk of disks) await disk.flush();
  core.low = core.high = point;
  core.savePosition();
}

/** The disks are between these from now on; durable before the first of them is written. */
async function enter(core: Core, low: Sequence, high: Sequence): Promise<undefined> {
  if (low === core.low && high === core.high) return;
  core.savePosition(low, high);
  // A lower `low` alone would make views read more of the journal than they must; it is set by who needs it.
  core.low = low;
  core.high = high;
}

interface Span {
  readonly from: Sequence;
  readonly to: Sequence;
}

async function forwards(
  core: Core,
  disks: readonly LogicalUnit[],
  { from, to }: Span,
  { signal }: RollOptions,
): Promise<undefined> {
  /** Where a later roll backwards from here ends: bytes of `(to, high]` are put right by it. */
  const target = to;
  let at = from;
  let unflushed = 0;
  const memory: Memory = { data: new Scratch(), before: new Scratch() };
  while (at < target) {
    checkSignal(signal);
    const round = readRound(core, { at, to: target }, memory);
    if (at >= core.undo.last) {
      await keepOverwritten(core, disks, round, memory.before);
      core.high = Math.max(core.high, round.to);
    }
    await writeRound(disks, round);
    at = round.to;
    unflushed += round.data.length;
    if (unflushed < JOURNAL_FLUSH_BYTES || at === target) continue;
    for (const disk of disks) await disk.flush();
    unflushed = 0;
    advance(core, at);
  }
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new DriftmapError('aborted', 'the roll was stopped', { operation: 'roll', cause: signal.reason });
}

/** All writes up to here are in the disks, durably. */
function advance(core: Core, at: Sequence): void {
  const clean = at >= core.high;
  core.savePosition(at, clean ? at : core.high);
  core.low = at;
  if (clean) core.high = at;
}

async function writeRound(disks: readonly LogicalUnit[], round: Round): Promise<undefined> {
  const maps = new Map<number, IntervalMap>();
  mapRecords(round.table, round.start, round.end, 'do', maps);
  for (const [disk, map] of maps) {
    await writeIntervals(disks[disk]!, map, (place, _head, target) => {
      const from = place - round.base;
      target.set(round.data.subarray(from, from + target.length));
    });
  }
}

/** Fills `target` with the bytes that lie at a place. */
type Fetch = (place: ByteOffset, head: ByteOffset, target: Uint8Array) => void;

async function writeIntervals(disk: LogicalUnit, intervals: Intervals, fetch: Fetch): Promise<ByteCount> {
  const found: number[] = [];
  intervals.each(0, disk.size, (start, end, place, head) => {
    found.push(start, end, place, head);
  });
  const writer = new DiskWriter(disk);
  for (let i = 0; i < found.length; i += 4) {
    const [start, end, place, head] = [found[i]!, found[i + 1]!, found[i + 2]!, found[i + 3]!];
    const wait = place === ZEROS ? writer.zero(start, end) : null;
    if (wait !== null) {
      await wait;
      continue;
    }
    for (let at = start; at < end; ) {
      const target = await writer.room(at, end - at);
      fetch(place + (at - start), head, target);
      at += target.length;
    }
  }
  await writer.finish();
  return writer.written;
}

async function backwards(
  core: Core,
  disks: readonly LogicalUnit[],
  point: Sequence,
  { signal }: RollOptions,
): Promise<undefined> {
  const { undo } = core;
  let unflushed = 0;
  for (let index = undo.indexOf(core.high); core.high > point; index--) {
    checkSignal(signal);
    const segment = undo.segments[index];
    assert(segment !== undefined, `overwritten data of sequence ${core.high} is there`);
    const from = Math.max(point, segment.first - 1);
    for (const [number, disk] of disks.entries()) {
      const intervals = overwritten(core, segment, from, number);
      if (intervals === null) continue;
      unflushed += await writeIntervals(disk, intervals, (place, head, target) =>
        undo.readers.of(segment).read(place, head, target),
      );
    }
    if (from === point) return;
    if (unflushed >= JOURNAL_FLUSH_BYTES) {
      for (const disk of disks) await disk.flush();
      unflushed = 0;
      core.savePosition(core.low, from);
    }
    core.high = from;
  }
}

/** What was in a disk as of `from`, where records of a segment after it overwrote it. */
function overwritten(core: Core, segment: Segment, from: Sequence, disk: number): Intervals | null {
  const reader = core.undo.readers.of(segment);
  const through = Math.min(segment.last, core.high);
  if (from < segment.first && through === segment.last) return reader.intervals(disk);
  const maps = new Map<number, IntervalMap>();
  mapRecords(reader.records(), from + 1 - segment.first, through + 1 - segment.first, 'undo', maps);
  return maps.get(disk) ?? null;
}
