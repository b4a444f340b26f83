/**
 * What is kept of a journal. New data that is in the disks already can be made anew, so it goes first; then the
 * oldest overwritten data, and with it the oldest points. What a promised point needs is never removed: bookmarks,
 * the promised window, points that open views read; nor what the disks have not yet.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { Core } from './core.ts';
import { listPoints, type Point } from './points.ts';
import type { Sequence, Time } from './record.ts';

export interface RetentionPolicy {
  /** Points older than so many milliseconds are let go. */
  readonly age?: Time;
  /** The oldest points are let go until the files take no more than this. */
  readonly bytes?: ByteCount;
  /** All points of the last so many milliseconds are promised, whatever `bytes` says. */
  readonly window?: Time;
  /** Whether bookmarks are promised (the default); otherwise they go with the points around them. */
  readonly bookmarks?: 'keep' | 'drop';
}

export interface Retained {
  readonly removedBytes: ByteCount;
  /** What the files take now. */
  readonly bytes: ByteCount;
  /** The oldest point that is left; null where there is none. */
  readonly oldest: Point | null;
  /** Why more could not be removed, where the policy asked for it. */
  readonly held: string | null;
}

/** What must stay, and why. */
interface Hold {
  /** Everything after this point must stay. */
  readonly after: Sequence;
  readonly why: string;
}

export function checkPolicy(policy: RetentionPolicy): void {
  for (const [name, value] of Object.entries(policy)) {
    if (
      name === 'bookmarks' ? value === 'keep' || value === 'drop' : Number.isSafeInteger(value) && value >= 0
    ) {
      continue;
    }
    throw new DriftmapError('argument', `expected a policy, got ${name} = ${String(value)}`);
  }
}

/** @param now the clock; a journal's newest record counts where it is older */
export function retain(core: Core, policy: RetentionPolicy, now: Time): Retained {
  checkPolicy(policy);
  const { redo, undo } = core;
  const before = redo.bytes + undo.bytes;
  // A clock that jumped forward must not make everything old at once.
  const latest = Math.min(now, Math.max(redo.lastTime, undo.lastTime));
  const hold = strongest(core, policy, latest);
  const tooOld = policy.age === undefined ? 0 : oldSegments(core, latest - policy.age);
  const most = policy.bytes ?? Number.POSITIVE_INFINITY;
  const takes = () => redo.bytes + undo.bytes;
  core.savePosition();
  while (takes() > most && redo.segments.length > 0 && isSpent(core)) redo.dropOldest();
  let held: string | null = null;
  for (let dropped = 0; dropped < tooOld || takes() > most; dropped++) {
    const oldest = undo.segments[0];
    if (oldest === undefined || oldest.seal === null) {
      held =
        dropped < tooOld || takes() > most ? 'what is left is of the segment that is being written' : null;
      if (takes() > most && redo.last > core.low)
        held = 'the disks have not taken the newest writes yet: apply them';
      break;
    }
    if (oldest.last > hold.after) {
      held = hold.why;
      break;
    }
    undo.dropOldest();
    // New data from before the oldest point leads nowhere.
    while (redo.segments.length > 0 && isSpent(core) && redo.segments[0]!.last < undo.first)
      redo.dropOldest();
  }
  const reach = core.reach();
  return {
    removedBytes: before - takes(),
    bytes: takes(),
    oldest: reach === null ? null : { sequence: reach.from, time: core.timeOf(reach.from) },
    held,
  };
}

/** Whether the oldest new data is whole in the disks. */
function isSpent({ redo, low, isClean }: Core): boolean {
  const oldest = redo.segments[0]!;
  return isClean && oldest.seal !== null && oldest.last <= low;
}

/** How many of the oldest segments end before a time, as do all before them. */
function oldSegments({ undo }: Core, before: Time): number {
  return undo.segments.findLastIndex(({ times, count }) => count > 0 && times.last < before) + 1;
}

function strongest(core: Core, policy: RetentionPolicy, latest: Time): Hold {
  const holds: Hold[] = [{ after: core.low, why: 'the disks have not taken the newer writes yet' }];
  for (const sequence of core.held.values())
    holds.push({ after: sequence, why: `a view reads point ${sequence}` });
  if (policy.bookmarks !== 'drop') {
    for (const { name, sequence } of listPoints(core).bookmarks) {
      // The record itself must stay, or nobody would know of it.
      holds.push({ after: sequence - 1, why: `the bookmark '${name}' is promised` });
    }
  }
  if (policy.window !== undefined && policy.window > 0) {
    const promised = latest - policy.window;
    const first = core.undo.segments.findIndex(({ times }) => times.max >= promised);
    if (first >= 0) {
      const { first: sequence } = core.undo.segments[first]!;
      holds.push({ after: sequence - 1, why: `the last ${policy.window} ms are promised` });
    }
  }
  return holds.reduce((least, hold) => (hold.after < least.after ? hold : least));
}
