/**
 * Points in time: which there are, and which one is meant. A point is a sequence: the disks with all writes up to
 * it and none after. Clocks may jump, so time only helps to find a sequence; order is never taken from it.
 */

import { DriftmapError } from '../base/errors.ts';
import type { Core, Part } from './core.ts';
import { FLAG_APPLICATION, isWrite, RecordKind, type Sequence, type Time } from './record.ts';
import type { Notable } from './segment.ts';

export interface Point {
  readonly sequence: Sequence;
  /** What the clock read at the last write before it, in milliseconds since 1970. */
  readonly time: Time;
}

/** Every sequence from one to the other, both included, is a point. */
export interface PointRange {
  readonly from: Point;
  readonly to: Point;
}

export interface Bookmark extends Point {
  readonly name: string;
  /** `application`: the guest's programs had been brought to rest; `crash`: as if the power had failed. */
  readonly consistency: 'crash' | 'application';
  /** Whether it can be rolled to: false while the group is suspended around it. */
  readonly reachable: boolean;
}

/** The clock went back: it read `before`, then `after` at this sequence. */
export interface ClockStep {
  readonly sequence: Sequence;
  readonly before: Time;
  readonly after: Time;
}

/** Between these two sequences the disks were no moment of the production's: writes are missing. */
export interface Suspension {
  readonly from: Point;
  /** Null while it lasts. */
  readonly to: Point | null;
  readonly reason: string;
}

export interface Points {
  /** Ascending by sequence, apart from one another by suspensions. */
  readonly ranges: readonly PointRange[];
  /** Ascending by sequence. */
  readonly bookmarks: readonly Bookmark[];
  readonly suspensions: readonly Suspension[];
  readonly clockSteps: readonly ClockStep[];
}

/** What somebody may name a point by. */
export type Target =
  | { readonly sequence: Sequence }
  | { readonly bookmark: string }
  /** The last point at which the clock read no more than this. */
  | { readonly time: Time }
  | 'latest';

export interface Found extends Point {
  /** Other points at which the clock passed the same time, because it had been put back; the latest first. */
  readonly others: readonly Point[];
}

const MAX_OTHERS = 16;

export function listPoints(core: Core): Points {
  const reach = core.reach();
  if (reach === null) return { ranges: [], bookmarks: [], suspensions: [], clockSteps: [] };
  const pointAt = (sequence: Sequence): Point => ({ sequence, time: core.timeOf(sequence) });
  const ranges: PointRange[] = [];
  const suspensions: Suspension[] = [];
  const clockSteps: ClockStep[] = [];
  const marks = new Map<string, Omit<Bookmark, 'reachable'>>();
  /** Where the current range begins; null while the group is suspended. */
  let start: Sequence | null = core.suspendedAt(reach.from) ? null : reach.from;
  let began: { from: Point; reason: string } | null =
    start === null ? { from: pointAt(reach.from), reason: 'suspended before the first point' } : null;
  for (const { record, timeBefore } of notables(core)) {
    const { kind, sequence, time, text } = record;
    if (sequence > reach.to) break;
    // A bookmark stands for the point before and after it alike; others begin to count after the first point.
    if (sequence <= reach.from && kind !== RecordKind.bookmark) continue;
    if (sequence < reach.from) continue;
    if (isWrite(kind)) clockSteps.push({ sequence, before: timeBefore, after: time });
    if (kind === RecordKind.bookmark) {
      const consistency = record.flags === FLAG_APPLICATION ? 'application' : 'crash';
      marks.set(text, { name: text, sequence, time, consistency });
    }
    if (kind === RecordKind.forget) marks.delete(text);
    if (kind === RecordKind.suspend && start !== null) {
      ranges.push({ from: pointAt(start), to: { sequence, time } });
      began = { from: { sequence, time }, reason: text };
      start = null;
    }
    if (kind === RecordKind.resume && start === null) {
      suspensions.push({ from: began!.from, to: { sequence, time }, reason: began!.reason });
      start = sequence;
    }
  }
  if (start === null) suspensions.push({ from: began!.from, to: null, reason: began!.reason });
  else ranges.push({ from: pointAt(start), to: pointAt(reach.to) });
  const bookmarks = [...marks.values()]
    .map((mark) => ({ ...mark, reachable: ranges.some((range) => isIn(mark.sequence, range)) }))
    .sort((a, b) => a.sequence - b.sequence);
  return { ranges, bookmarks, suspensions, clockSteps };
}

function isIn(sequence: Sequence, { from, to }: PointRange): boolean {
  return from.sequence <= sequence && sequence <= to.sequence;
}

/** Marks and steps of the clock, each once, ascending. */
function* notables(core: Core): Generator<Notable, undefined> {
  let last = -1;
  for (const stream of [core.undo, core.redo]) {
    for (const { notables: marks } of stream.segments) {
      for (const mark of marks) {
        if (mark.record.sequence <= last) continue;
        last = mark.record.sequence;
        yield mark;
      }
    }
  }
}

/**
 * The point that is meant.
 * @throws DriftmapError `not-found` (operation `find`) when there is none, saying which there are; `argument` when it lies in a
 *   suspension
 */
export function findPoint(core: Core, target: Target): Found {
  const points = listPoints(core);
  if (points.ranges.length === 0) {
    const reason = 'no point can be rolled to: the replica must be synchronized anew';
    throw new DriftmapError('not-found', reason, { path: core.path, operation: 'find' });
  }
  if (target === 'latest') return { ...points.ranges.at(-1)!.to, others: [] };
  if ('bookmark' in target) return findBookmark(core, points, target.bookmark);
  if ('time' in target) return findTime(core, points, target.time);
  checkReachable(core, points, target.sequence);
  return { sequence: target.sequence, time: core.timeOf(target.sequence), others: [] };
}

function findBookmark(core: Core, points: Points, name: string): Found {
  const mark = points.bookmarks.find((bookmark) => bookmark.name === name);
  if (mark === undefined) {
    const names = points.bookmarks.map((bookmark) => `'${bookmark.name}'`).join(', ') || 'none';
    const reason = `no bookmark is called '${name}'; there are: ${names}`;
    throw new DriftmapError('not-found', reason, { path: core.path, operation: 'find' });
  }
  checkReachable(core, points, mark.sequence);
  return { sequence: mark.sequence, time: mark.time, others: [] };
}

function checkReachable(core: Core, points: Points, sequence: Sequence): void {
  if (points.ranges.some((range) => isIn(sequence, range))) return;
  const gap = points.suspensions.find(
    ({ from, to }) => from.sequence < sequence && (to === null || sequence < to.sequence),
  );
  if (gap !== undefined) {
    const reason = `sequence ${sequence} is no point: the group was suspended there (${gap.reason})`;
    throw new DriftmapError('argument', reason, { path: core.path });
  }
  throw new DriftmapError('not-found', `no point has sequence ${sequence}; there are ${told(points)}`, {
    path: core.path,
    operation: 'find',
  });
}

function told({ ranges }: Points): string {
  return ranges.map(({ from, to }) => `${from.sequence} to ${to.sequence}`).join(', ');
}

function findTime(core: Core, points: Points, time: Time): Found {
  if (!Number.isSafeInteger(time)) {
    throw new DriftmapError('argument', `expected a time in milliseconds, got ${time}`, { path: core.path });
  }
  const from = points.ranges[0]!.from;
  const to = points.ranges.at(-1)!.to.sequence;
  const chosen = lastAtOrBefore(core, time, from.sequence, to);
  if (chosen === null) {
    const earliest = new Date(from.time).toISOString();
    const reason = `no point is as old as ${new Date(time).toISOString()}; the oldest is of ${earliest}`;
    throw new DriftmapError('not-found', reason, { path: core.path, operation: 'find' });
  }
  const others: Point[] = [];
  for (const step of points.clockSteps.toReversed()) {
    if (others.length === MAX_OTHERS) break;
    // Before it the clock had passed this time, after it once more.
    if (step.before <= time || step.after > time) continue;
    const runStart = points.clockSteps.findLast(({ sequence }) => sequence < step.sequence)?.sequence;
    const other = lastAtOrBefore(core, time, runStart ?? from.sequence, step.sequence - 1);
    if (other !== null && other < chosen) others.push(consistent(core, points, other));
  }
  return { ...consistent(core, points, chosen), others };
}

/** The point itself, or where it lies in a suspension the last one before that. */
function consistent(core: Core, { ranges }: Points, sequence: Sequence): Point {
  const range = ranges.findLast(({ from }) => from.sequence <= sequence) ?? ranges[0]!;
  const clamped = Math.min(Math.max(sequence, range.from.sequence), range.to.sequence);
  return { sequence: clamped, time: core.timeOf(clamped) };
}

/** The last sequence of `[from, to]` at which the clock read no more than `time`; null where there is none. */
function lastAtOrBefore(core: Core, time: Time, from: Sequence, to: Sequence): Sequence | null {
  const parts = [...core.history(from, to)];
  for (const part of parts.reverse()) {
    const found = lastIn(part, time);
    if (found !== null) return found;
  }
  return core.timeOf(from) <= time ? from : null;
}

function lastIn({ stream, segment, first, last }: Part, time: Time): Sequence | null {
  const { times } = segment;
  if (times.min > time) return null;
  if (times.max <= time) return last;
  const table = stream.readers.of(segment).records();
  for (let sequence = last; sequence >= first; sequence--) {
    if (table.times[sequence - segment.first]! <= time) return sequence;
  }
  return null;
}
