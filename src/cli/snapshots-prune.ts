/** `driftmap snapshots prune` */

import { humanSize } from '../base/units.ts';
import type { Pruned } from '../snapshots/prune.ts';
import type { RetentionRules } from '../snapshots/retention.ts';
import { Exit } from './exit.ts';
import { createLineBar } from './snapshots-bar.ts';
import {
  pickSnapshot,
  type StoreFlags,
  snapshotJson,
  snapshotLine,
  withRepository,
} from './snapshots-store.ts';
import { stopOnSignals } from './stop.ts';
import { print } from './terminal.ts';

export interface PruneFlags extends StoreFlags {
  keepLast?: number;
  keepHourly?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
  keepYearly?: number;
  keepWithin?: number;
  forget?: string[];
  grace?: number;
  dryRun?: boolean;
  quiet?: boolean;
}

export async function runPrune(store: string, flags: PruneFlags): Promise<void> {
  const signal = stopOnSignals();
  const bar = createLineBar(flags.quiet === true || flags.json === true);
  const { dryRun, grace } = flags;
  const pruned = await withRepository(store, flags, signal, async (repository, group) => {
    const { pruneRepository } = await import('../snapshots/prune.ts');
    const forget: string[] = [];
    for (const text of flags.forget ?? [])
      forget.push((await pickSnapshot(repository, text, { group, signal })).id);
    try {
      return await pruneRepository(repository, {
        rules: rulesOf(flags),
        forget,
        grace,
        dryRun,
        signal,
        onProgress: ({ phase, objects, removed }) =>
          bar.show(`${phase}  ${objects} objects  ${removed} removed`),
      });
    } finally {
      bar.stop();
    }
  });
  await print(flags.json ? `${JSON.stringify(pruneJson(pruned))}\n` : report(pruned, dryRun === true));
  process.exitCode = Exit.equal;
}

function rulesOf(flags: PruneFlags): RetentionRules | undefined {
  const rules: RetentionRules = {
    last: flags.keepLast,
    hourly: flags.keepHourly,
    daily: flags.keepDaily,
    weekly: flags.keepWeekly,
    monthly: flags.keepMonthly,
    yearly: flags.keepYearly,
    within: flags.keepWithin,
  };
  return Object.values(rules).some((value) => value !== undefined) ? rules : undefined;
}

function report(pruned: Pruned, isDry: boolean): string {
  const would = isDry ? 'would ' : '';
  const lines = [
    ...pruned.kept.map(
      ({ snapshot, reasons }) =>
        `keep    ${snapshotLine(snapshot)}${reasons.length ? `  (${reasons.join(', ')})` : ''}`,
    ),
    ...pruned.forgotten.map((snapshot) => `forget  ${snapshotLine(snapshot)}`),
    `${would}remove ${pruned.removedObjects} objects, ${humanSize(pruned.removedBytes)}, of earlier lists`,
    `${would}list ${pruned.listedObjects} objects, ${humanSize(pruned.listedBytes)}, that a later run removes; ${pruned.heldObjects} are in use`,
  ];
  return `${lines.join('\n')}\n`;
}

function pruneJson({ kept, forgotten, ...counts }: Pruned): object {
  return {
    kept: kept.map(({ snapshot, reasons }) => ({ ...snapshotJson(snapshot), reasons })),
    forgotten: forgotten.map(snapshotJson),
    ...counts,
  };
}
