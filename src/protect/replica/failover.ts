/**
 * The replica becomes the production side: its disks go to a point, all later points are gone, and the record says so,
 * so that a stream from the old production is refused. The way back is a group file with the sites exchanged
 * (`reversed-group.ts`), and `failBack`, by which a site becomes a replica again.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteRange } from '../../base/units.ts';
import { MiB } from '../../base/units.ts';
import type { JournalWrite } from '../../journal/journal.ts';
import type { Point } from '../../journal/points.ts';
import type { Sequence } from '../../journal/record.ts';
import type { RollOptions } from '../../journal/roll.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { OpenAccess, ReplicaGroup } from './replica-group.ts';
import { newHistory } from './state-file.ts';

export interface FailoverOptions extends RollOptions {
  /** As `ReplicaGroup.find`; the latest point by default. */
  readonly at?: string | undefined;
  /** Although production still streams. */
  readonly force?: boolean | undefined;
}

export interface FailedOverTo extends Point {
  /** The newest write that had come, whether or not it is in the point. */
  readonly newest: Point;
  /** Whether production had said that its writes were whole then. */
  readonly wasConsistent: boolean;
}

/** @throws DriftmapError `policy` while production streams or an access is open, and as `ReplicaGroup.find` and `Journal.rollTo` */
export async function failOver(
  group: ReplicaGroup,
  { at = 'latest', force = false, signal }: FailoverOptions,
): Promise<FailedOverTo> {
  if (group.isFollowed && !force) {
    const reason = `production streams to this group (${group.state().stream}): stop its virtual machine and 'driftmap protect' first, so that nothing is lost; or take what is here with --force`;
    throw new DriftmapError('policy', reason, { path: group.side.journal });
  }
  checkMayBecomeProduction(group, null);
  return group.exclusively('failing over', () =>
    // Nothing more is taken in: what is there is what there will be.
    group.withoutStream('it is being failed over', async () => {
      if (group.journal.state().failure === null) await group.journal.commit();
      const { last, suspended } = group.journal.state();
      const newest = { sequence: last, time: group.journal.timeOf(last) };
      const { sequence, time } = group.find(at);
      await becomeProduction(group, sequence, [], { signal });
      return { sequence, time, newest, wasConsistent: !suspended };
    }),
  );
}

/** @throws DriftmapError `policy` */
export function checkMayBecomeProduction(group: ReplicaGroup, but: OpenAccess | null): void {
  group.checkReplica();
  const others = [...group.accesses].filter((access) => access !== but);
  if (others.length === 0) return;
  const ids = others.map(({ id }) => String(id)).join(', ');
  const reason = `others work on points of this group (access ${ids}): end them first`;
  throw new DriftmapError('policy', reason, { path: group.side.journal });
}

/** What somebody wrote to a disk as of a point. */
export interface Written {
  readonly disk: string;
  /** Where it is read. */
  readonly unit: LogicalUnit;
  readonly ranges: readonly ByteRange[];
}

/**
 * The disks go to the point, what was written there follows it, and the group is production. It may be done again after
 * it was stopped. Until then what is written is no point, and the history is another already: production, should it
 * come back, compares everything.
 */
export async function becomeProduction(
  group: ReplicaGroup,
  sequence: Sequence,
  written: readonly Written[],
  options: RollOptions = {},
): Promise<void> {
  // Should it be stopped in the middle, the disks wait at the point for the next try.
  const hold = { sequence, why: `a failover to ${sequence} was begun` };
  group.update({ hold });
  await group.journal.rollTo({ sequence }, options);
  group.update({ hold, history: newHistory() });
  await group.journal.promote();
  await appendWritten(group, written);
  await nowProduction(group, sequence);
}

const APPEND_BYTES = 1 * MiB;

/** Puts it into the journal, durably, with some memory at a time. A part of it is no point. */
export async function appendWritten(group: ReplicaGroup, written: readonly Written[]): Promise<void> {
  if (written.every(({ ranges }) => ranges.length === 0)) return;
  await group.journal.suspend('what an access wrote is being kept');
  for (const { disk, unit, ranges } of written) {
    let writes: JournalWrite[] = [];
    let bytes = 0;
    for (const { offset, length } of ranges) {
      const contents = new Uint8Array(length);
      await unit.read(offset, contents);
      const isZero = contents.every((byte) => byte === 0);
      writes.push(isZero ? { disk, offset, zeros: length } : { disk, offset, bytes: contents });
      bytes += length;
      if (bytes < APPEND_BYTES) continue;
      await group.journal.append(writes).durable;
      writes = [];
      bytes = 0;
    }
    if (writes.length > 0) await group.journal.append(writes).durable;
  }
  await group.journal.resume('what an access wrote is kept');
}

/** The disks take what the journal has, and the record says that they are production's. */
export async function nowProduction(group: ReplicaGroup, sequence: Sequence): Promise<void> {
  await group.journal.apply();
  const generations = Object.fromEntries([...group.disks].map(([name, disk]) => [name, disk.generation()]));
  const time = group.journal.timeOf(sequence);
  group.update({
    hold: null,
    rolled: null,
    failedOver: { sequence, time, since: group.clock(), generations },
  });
  group.claims.release();
}

export interface FailedBack {
  /** Whether the points of the journal are still there: nothing had been written to the disks meanwhile. */
  readonly keptPoints: boolean;
}

/**
 * A site that was failed over becomes a replica again. Where its disks were used, the journal says nothing of what was
 * written then: it is made anew at the next opening. The disks stay as they are: production compares them by
 * signature and sends what differs.
 * @throws DriftmapError `policy` when it is no production, or when a splitter still uses the disks
 */
export async function failBack(group: ReplicaGroup): Promise<FailedBack> {
  if (group.record.failedOver === null) {
    const reason = 'this site is a replica already';
    throw new DriftmapError('policy', reason, { path: group.side.journal });
  }
  group.claims.claim([...group.disks.values()].map(({ name }) => name));
  if (group.pointsHold()) {
    group.update({ history: newHistory(), failedOver: null });
    return { keptPoints: true };
  }
  group.update({ renewing: true });
  return { keptPoints: false };
}
