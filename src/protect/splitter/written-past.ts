/**
 * Whether somebody wrote to a disk after its splitter was killed: what `stamp.ts` left is held against the times that
 * the disk's file has now. To be wrong on the safe side costs a comparison.
 *
 * While the system runs on, what a killed process wrote to files is all there, times and stamp alike. So
 *
 *   idle      the times must be exactly those that were noted
 *   writing   they are those, where the kill came before the write, or both lie about when it was noted: not later than
 *             LATE_MS, because a write that comes later than PERIOD_MS notes itself first; and not earlier than
 *             EARLY_MS, which is as coarse as the times of any file system are
 *
 * A write past the splitter therefore shows from LATE_MS after the kill on, however the clock was set in between, unless
 * it was put back by just as much as makes that write fall into the few seconds of the stamp.
 *
 * When the system was started anew, what was not flushed may be gone: of the disk's times, of the stamp, or of both.
 * Times older than the stamp are what a loss of power leaves, and the intents are about that; but never older than what
 * a flush of the disk made durable, else somebody has put back an earlier disk. Later than the stamp that is left they
 * are by as much as was written since it became durable: it is flushed every FLUSH_MS, beside all else. To allow nothing
 * there would compare whole disks after every loss of power; so LATE_RESTARTED_MS are allowed, in which nobody starts a
 * system anew and writes to the disk by other means. This holds after a kill and an orderly restart as well.
 *
 * Where the system does not tell whether it was started anew, it counts as running on, which is stricter throughout.
 */

import type { FileTimes } from '../../lu/file-unit.ts';
import type { StampRecord } from './stamp-file.ts';

/** A stamp that is older is renewed before the next write. */
export const PERIOD_MS = 50;
/** Besides the period: a tick of the kernel's clock (10 ms at most), and a write that the system holds up. */
export const LATE_MS = 200;
/** FAT keeps whole seconds by two, ext4 with small inodes and ext3 whole seconds; and a tick. */
export const EARLY_MS = 2100;
/** Between two flushes of the stamps. */
export const FLUSH_MS = 2000;
/** A flush, and what a busy disk makes it wait. */
export const LATE_RESTARTED_MS = 10_000;

/**
 * @param record null where nothing was left, or nothing that can be read
 * @returns why the disk is suspected, for people; null where nobody wrote to it
 */
export function writtenPast(
  record: StampRecord | null,
  times: FileTimes,
  isSameSystem: boolean,
): string | null {
  if (record === null)
    return 'the splitter was killed, and nothing tells whether somebody else wrote to it since';
  const { state, at, durable } = record;
  if (times.modified === record.times.modified && times.changed === record.times.changed) return null;
  const past = 'somebody wrote to it past the splitter, after that was killed';
  if (isSameSystem && state === 'idle') return past;
  const earliest = isSameSystem ? nanoseconds(at - EARLY_MS) : durable;
  const latest = nanoseconds(at + (isSameSystem ? LATE_MS : LATE_RESTARTED_MS));
  if (times.modified > latest || times.changed > latest) return past;
  if (earliest !== null && times.changed < earliest)
    return 'the splitter was killed, and the disk is older than it was then';
  return null;
}

function nanoseconds(milliseconds: number): bigint {
  return BigInt(milliseconds) * 1_000_000n;
}
