/**
 * Rolled access: the disks themselves, rolled to a point, with what each block held kept in an undo log. The record
 * says how far it has come, so that whoever opens the group after a crash finishes it:
 *
 *   open        what was written is discarded: the log is written back
 *   promoting   what was written is taken into the journal (once more, where that had begun): the disks still have it
 *   restoring   the journal has it; the log is written back, unless that was done (then there is no log any more),
 *               and the disks follow the journal
 *
 * The journal itself knows nothing of all this: it sees the disks through the log, as they were at the point.
 */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import type { Sequence } from '../../journal/record.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { appendWritten, nowProduction } from './failover.ts';
import type { ReplicaGroup } from './replica-group.ts';
import { newHistory } from './state-file.ts';
import { removeUndoLog, UndoLog } from './undo-log.ts';
import { RolledDisk } from './worked-disk.ts';

export interface Rolled {
  readonly units: ReadonlyMap<string, LogicalUnit>;
  readonly log: UndoLog;
  discard(): Promise<void>;
}

export function undoLogPath(journal: string): string {
  return join(journal, 'access.undo');
}

const rawUnits = (group: ReplicaGroup) => [...group.disks.values()].map(({ unit }) => unit);

/** @throws DriftmapError `policy` while there is one, and as `Journal.rollTo` */
export function openRolled(group: ReplicaGroup, sequence: Sequence): Promise<Rolled> {
  group.checkReplica();
  group.checkUnused();
  return group.exclusively('rolling the disks for an access', async () => {
    await group.journal.rollTo({ sequence });
    const units = rawUnits(group);
    const log = UndoLog.create(undoLogPath(group.side.journal), units, {
      journal: group.journal.id,
      sequence,
    });
    try {
      group.update({ rolled: { sequence, stage: 'open' } });
    } catch (error) {
      log.remove();
      throw error;
    }
    for (const [number, disk] of [...group.disks.values()].entries()) disk.shieldBy(log.shieldOf(number));
    const names = [...group.disks.keys()];
    return {
      units: new Map(names.map((name, number) => [name, new RolledDisk(units[number]!, log, number)])),
      log,
      discard: () => group.exclusively('bringing the disks back', () => discard(group, log)),
    };
  });
}

/** May be done again after it failed. */
async function discard(group: ReplicaGroup, log: UndoLog): Promise<void> {
  const { hold, rolled } = group.record;
  if (rolled !== null && rolled.stage !== 'open') {
    const reason =
      'keeping what was written had begun, and did not come to its end: it is finished when the group is opened next';
    throw new DriftmapError('policy', reason, { path: group.side.journal });
  }
  // Once it is noted, the disks may have followed.
  if (rolled !== null) {
    await log.restore();
    unshield(group);
    group.update({ rolled: null });
  }
  log.remove();
  // Where the disks were held before: there they are held again.
  if (hold !== null) await group.journal.rollTo({ sequence: hold.sequence });
}

function unshield(group: ReplicaGroup): void {
  for (const disk of group.disks.values()) disk.shieldBy(null);
}

/** What was written becomes the group's: everything after the point is gone, and the group is production. */
export function keepRolled(group: ReplicaGroup, log: UndoLog): Promise<void> {
  const what = 'what an access wrote is being kept';
  return group.exclusively(what, () => group.withoutStream(what, () => promote(group, log)));
}

/** From whichever stage it is at; may be done again after it failed. @param log null when it is removed already */
async function promote(group: ReplicaGroup, log: UndoLog | null): Promise<void> {
  const { sequence, stage } = group.record.rolled!;
  if (stage !== 'restoring') {
    // Production, should it come back, is to compare everything: its writes after the point are gone.
    group.update({ rolled: { sequence, stage: 'promoting' }, history: newHistory() });
    await group.journal.promote();
    const names = [...group.disks.keys()];
    const units = rawUnits(group);
    await appendWritten(
      group,
      names.map((disk, number) => ({ disk, unit: units[number]!, ranges: log!.blocksOf(number) })),
    );
    group.update({ rolled: { sequence, stage: 'restoring' } });
  }
  // Without it they have been brought back, and may have followed.
  if (log !== null && existsSync(log.path)) {
    await log.restore();
    unshield(group);
    log.remove();
  }
  await nowProduction(group, sequence);
}

/** Finishes what a process left in the middle. @param warn is told of it */
export async function recoverAccess(group: ReplicaGroup, warn: (line: string) => void): Promise<void> {
  const { rolled } = group.record;
  const path = undoLogPath(group.side.journal);
  if (rolled === null) {
    removeUndoLog(path);
    return;
  }
  const { sequence, stage } = rolled;
  const owner = { journal: group.journal.id, sequence };
  const log = stage === 'restoring' && !existsSync(path) ? null : UndoLog.open(path, rawUnits(group), owner);
  await group.exclusively('finishing an access', async () => {
    if (stage === 'open') {
      warn(`an access to the disks as of ${sequence} had not been ended: what it wrote is discarded`);
      await discard(group, log!);
      return;
    }
    warn(`keeping what an access to the disks as of ${sequence} wrote had not been finished: it is now`);
    await promote(group, log);
  });
}
