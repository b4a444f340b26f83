/**
 * How many levels of a tree one message skips. Few levels at a time cost fewer bytes, since only nodes that
 * differ are looked below; many cost fewer waits. Which is better follows from the link and from how much is
 * expected to differ, so it is worked out, and both sides may choose each time.
 */

import { DIGEST_BYTES, FANOUT, nodesAt } from '../wire/messages.ts';

export interface Link {
  /** Seconds for a message there and its answer back. */
  readonly roundTrip: number;
  readonly bytesPerSecond: number;
  /** Share of the blocks that are expected to differ, 0 … 1. */
  readonly drift: number;
  /** Blocks of the window. */
  readonly leaves: number;
  /** Windows that descend at one time share the wait. */
  readonly together: number;
}

/** The level, below `parentLevel`, whose digests are sent next for the nodes that differ. */
export function nextLevel(parentLevel: number, link: Link): number {
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  for (let level = 0; level < parentLevel; level++) {
    const seconds = secondsFrom(parentLevel, level, link);
    if (seconds < least) [best, least] = [level, seconds];
  }
  return best;
}

/** Expected time to reach the leaves when `level` is sent next, and the best is done from there on. */
function secondsFrom(parentLevel: number, level: number, link: Link): number {
  const parents = differingAt(parentLevel, link);
  const bytes =
    Math.min(parents * FANOUT ** (parentLevel - level), nodesAt(level, link.leaves)) * DIGEST_BYTES;
  const now = bytes / link.bytesPerSecond + link.roundTrip / 2 / link.together;
  if (level === 0) return now;
  let rest = Number.POSITIVE_INFINITY;
  for (let below = 0; below < level; below++) rest = Math.min(rest, secondsFrom(level, below, link));
  return now + rest;
}

/** How many nodes of a window that differs are expected to differ at a level, when blocks differ independently. */
function differingAt(level: number, { drift, leaves }: Link): number {
  return Math.max(1, nodesAt(level, leaves) * (1 - (1 - drift) ** (FANOUT ** level)));
}
