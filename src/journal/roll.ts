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
import { JOURNAL_FLUSH_BYTES } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { Core } from './core.ts';
import { DiskWriter } from './disk-writer.ts';
import { Flusher } from './flusher.ts';
import { type IntervalMap, type Intervals, ZEROS } from './interval-map.ts';
import { mirror } from './mirror.ts';
import { keepOverwritten } from './overwritten.ts';
import { Pace } from './pace.ts';
import type { Sequence } from './record.ts';
import { bytesOf, lent, type Round, readRound, Scratch } from './round.ts';
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
  const rolling = { core, disks, flusher: new Flusher(disks), pace: new Pace(), ...options };
  try {
    if (point > low) await forwards(rolling, { from: low, to: point });
    if (point < core.high) await backwards(rolling, point);
  } finally {
    // Nothing of ours may be under way when others are told how it ended.
    await rolling.flusher.idle();
  }
  await rolling.flusher.finish();
  core.low = core.high = point;
  await core.savePositionAside(point, point);
}

interface Rolling extends RollOptions {
  readonly core: Core;
  readonly disks: readonly LogicalUnit[];
  readonly flusher: Flusher;
  readonly pace: Pace;
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

/**
 * While what one round overwrites becomes durable, the next is read, and what it overwrites; so that round is read
 * over disks that lack the one before it, which is laid over them.
 */
async function forwards(rolling: Rolling, { from, to }: Span): Promise<undefined> {
  const { core, signal, pace } = rolling;
  const { undo } = core;
  const memories = [new Scratch(), new Scratch()];
  const old = new Scratch();
  /** Up to here what is overwritten is kept already. */
  const kept = undo.last;
  /** The round that waits to be written, and for what. */
  let waiting: { readonly round: Round; readonly durable: Promise<undefined> } | null = null;
  const written = { since: 0, kept };
  try {
    for (let at = from; at < to; ) {
      checkSignal(signal);
      const memory = memories.reverse()[0]!;
      const keeps = at >= kept;
      const end = keeps ? to : Math.min(to, kept);
      const round = await readRound(core, { at, to: end, keeps, memory, pace });
      let durable: Promise<undefined> = Promise.resolve(undefined);
      if (keeps) {
        const before = waiting?.round ?? null;
        await keepOverwritten(core, round, { disks: rolling.disks, before, memory: old, pace });
        durable = undo.commit();
        durable.catch(() => undefined);
      }
      if (waiting !== null) await writeKept(rolling, waiting, written);
      waiting = { round, durable };
      at = round.to;
    }
    if (waiting !== null) await writeKept(rolling, waiting, written);
    await rolling.flusher.settle();
  } finally {
    // Of a roll that failed: a round may be on its way into the UNDO direction.
    await undo.settled();
  }
}

/** Writes a round once what it overwrites is durable. */
async function writeKept(
  rolling: Rolling,
  { round, durable }: { readonly round: Round; readonly durable: Promise<undefined> },
  written: { since: ByteCount; readonly kept: Sequence },
): Promise<undefined> {
  const { core, flusher } = rolling;
  await durable;
  core.high = Math.max(core.high, round.to);
  await writeRound(rolling, round);
  written.since += bytesOf(round);
  if (!(await mayFlush(flusher, written.since))) return;
  written.since = 0;
  flusher.start(() => advance(core, round.to, written.kept));
}

/** Whether so much has been written that it is to be flushed now; waits where too much is not durable yet. */
async function mayFlush(flusher: Flusher, written: ByteCount): Promise<boolean> {
  if (written < JOURNAL_FLUSH_BYTES) return false;
  if (flusher.isBusy && written >= 2 * JOURNAL_FLUSH_BYTES) await flusher.settle();
  return !flusher.isBusy;
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new DriftmapError('aborted', 'the roll was stopped', { operation: 'roll', cause: signal.reason });
}

/** All writes up to here are in the disks, durably. */
async function advance(core: Core, at: Sequence, kept: Sequence): Promise<undefined> {
  await core.savePositionAside(at, highest(core, kept));
  core.low = at;
}

/**
 * No write after this is in the disks, or gets there before another position is saved: a round that was kept in
 * this roll may be written at any moment, and no opening would take it for news once the position tells of it.
 */
function highest({ high, undo }: Core, kept: Sequence): Sequence {
  return undo.last > kept ? Math.max(high, undo.last) : high;
}

async function writeRound({ disks, pace }: Rolling, round: Round): Promise<undefined> {
  for (const [disk, map] of round.maps) {
    await writeIntervals({ disk: disks[disk]!, pace }, map, {
      lend: (place, length) => lent(round, place, length),
      fetch: (place, _head, target) => target.set(lent(round, place, target.length)),
    });
  }
}

/** Where bytes to be written come from. */
interface Source {
  /** Fills `target` with the bytes that lie at a place. */
  fetch(place: ByteOffset, head: ByteOffset, target: Uint8Array): void;
  /** The bytes themselves, where they are in memory and stay there. */
  lend?(place: ByteOffset, length: ByteCount): Uint8Array;
}

async function writeIntervals(
  { disk, pace }: { readonly disk: LogicalUnit; readonly pace: Pace },
  intervals: Intervals,
  source: Source,
): Promise<ByteCount> {
  const found: number[] = [];
  intervals.each(0, disk.size, (start, end, place, head) => {
    found.push(start, end, place, head);
  });
  const writer = new DiskWriter(disk);
  for (let i = 0; i < found.length; i += 4) {
    const [start, end, place, head] = [found[i]!, found[i + 1]!, found[i + 2]!, found[i + 3]!];
    if (pace.did(end - start)) await pace.next();
    if (place === ZEROS) {
      await writer.zero(start, end);
      continue;
    }
    const lending = source.lend ? writer.lend(start, source.lend(place, end - start)) : null;
    if (lending !== null) {
      await lending;
      continue;
    }
    for (let at = start; at < end; ) {
      const target = writer.room(at, end - at);
      const bytes = target instanceof Uint8Array ? target : await target;
      source.fetch(place + (at - start), head, bytes);
      at += bytes.length;
    }
  }
  await writer.finish();
  return writer.written;
}

async function backwards(rolling: Rolling, point: Sequence): Promise<undefined> {
  const { core, disks, flusher, pace, signal } = rolling;
  const { undo } = core;
  let written = 0;
  for (let index = undo.indexOf(core.high); core.high > point; index--) {
    checkSignal(signal);
    const segment = undo.segments[index];
    assert(segment !== undefined, `overwritten data of sequence ${core.high} is there`);
    const from = Math.max(point, segment.first - 1);
    for (const [number, disk] of disks.entries()) {
      const intervals = overwritten(core, segment, from, number);
      if (intervals === null) continue;
      written += await writeIntervals({ disk, pace }, intervals, {
        fetch: (place, head, target) => undo.readers.of(segment).read(place, head, target),
      });
    }
    if (from === point) return;
    core.high = from;
    if (!(await mayFlush(flusher, written))) continue;
    written = 0;
    flusher.start(() => core.savePositionAside(core.low, from));
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
