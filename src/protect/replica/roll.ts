/** Rolling all disks of a group to a point, where they stay, or to the latest, from where they follow again. */

import type { Point } from '../../journal/points.ts';
import type { Sequence } from '../../journal/record.ts';
import type { RollOptions } from '../../journal/roll.ts';
import type { ReplicaGroup } from './replica-group.ts';

export interface RollProgress {
  /** From which sequence to which the disks are rolled, and between which two they are. */
  readonly from: Sequence;
  readonly to: Sequence;
  readonly low: Sequence;
  readonly high: Sequence;
}

export interface RollGroupOptions extends RollOptions {
  /** As `ReplicaGroup.find`. */
  readonly to: string;
  readonly onProgress?: ((progress: RollProgress) => void) | undefined;
}

export interface Rolled extends Point {
  readonly from: Sequence;
  /** Other points of the same time, because the clock had been put back. */
  readonly others: readonly Point[];
  /** Whether the disks follow the journal from here on. */
  readonly follows: boolean;
}

const PROGRESS_MS = 200;

/**
 * The disks stay at the point until they are rolled to `latest`; what comes in meanwhile waits in the journal. When it
 * is stopped in the middle, by a crash too, the disks are held between two points, and the next roll goes on from there.
 * @throws DriftmapError `policy` while the disks are used or after a failover, and as `ReplicaGroup.find` and
 *   `Journal.rollTo`
 */
export async function rollGroup(group: ReplicaGroup, options: RollGroupOptions): Promise<Rolled> {
  group.checkReplica();
  group.checkUnused();
  const follows = options.to === 'latest';
  return group.exclusively(`rolling the disks to ${options.to}`, async () => {
    if (follows && group.journal.state().failure === null) await group.journal.commit();
    const { sequence, time, others } = group.find(options.to);
    const from = group.journal.state().applied.low;
    group.update({ hold: { sequence, why: `rolled to ${sequence}` } });
    const timer = setInterval(() => {
      const { low, high } = group.journal.state().applied;
      options.onProgress?.({ from, to: sequence, low, high });
    }, PROGRESS_MS);
    try {
      await group.journal.rollTo({ sequence }, { signal: options.signal });
    } finally {
      clearInterval(timer);
    }
    if (follows) group.update({ hold: null });
    return { sequence, time, from, others, follows };
  });
}
