/** The points of a group as plain data, for people's eyes and for machines. */

import { tellMoment } from '../../base/time.ts';
import type { ByteCount } from '../../base/units.ts';
import type { Journal } from '../../journal/journal.ts';
import type { Point } from '../../journal/points.ts';
import type { Sequence, Time } from '../../journal/record.ts';
import type { ReplicaRecord } from './state-file.ts';

export interface TimedPoint {
  readonly sequence: Sequence;
  /** Milliseconds since 1970, and the same in full, in the zone of the replica's machine. */
  readonly time: Time;
  readonly at: string;
}

export interface PointsReport {
  readonly group: string;
  readonly journal: string;
  /** What its files take. */
  readonly bytes: ByteCount;
  readonly disks: readonly { readonly name: string; readonly size: ByteCount }[];
  readonly role: 'replica' | 'production';
  /** Why none of the points holds any more; null while they do. */
  readonly stale: string | null;
  /** Where the disks stand. */
  readonly applied: { readonly low: Sequence; readonly high: Sequence };
  readonly ranges: readonly { readonly from: TimedPoint; readonly to: TimedPoint }[];
  readonly bookmarks: readonly (TimedPoint & {
    readonly name: string;
    readonly consistency: 'crash' | 'application';
    readonly reachable: boolean;
  })[];
  readonly suspensions: readonly {
    readonly from: TimedPoint;
    readonly to: TimedPoint | null;
    readonly reason: string;
  }[];
  readonly clockSteps: readonly {
    readonly sequence: Sequence;
    readonly before: string;
    readonly after: string;
  }[];
}

export function timed({ sequence, time }: Point): TimedPoint {
  return { sequence, time, at: tellMoment(time) };
}

/** @param stale see `PointsReport` */
export function reportPoints(
  journal: Journal,
  record: ReplicaRecord | null,
  stale: string | null,
): PointsReport {
  const { ranges, bookmarks, suspensions, clockSteps } = journal.points();
  const { bytes, applied } = journal.state();
  return {
    group: journal.group,
    journal: journal.path,
    bytes,
    disks: journal.disks.map(({ name, size }) => ({ name, size })),
    role: (record?.failedOver ?? null) === null ? 'replica' : 'production',
    stale,
    applied,
    ranges: ranges.map(({ from, to }) => ({ from: timed(from), to: timed(to) })),
    bookmarks: bookmarks.map(({ name, consistency, reachable, ...point }) => ({
      ...timed(point),
      name,
      consistency,
      reachable,
    })),
    suspensions: suspensions.map(({ from, to, reason }) => ({
      from: timed(from),
      to: to === null ? null : timed(to),
      reason,
    })),
    clockSteps: clockSteps.map(({ sequence, before, after }) => ({
      sequence,
      before: tellMoment(before),
      after: tellMoment(after),
    })),
  };
}
