/** `driftmap points`, `bookmark` and `roll`: the points of a group in time. */

import type { Command } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { tellMoment } from '../base/time.ts';
import type { PointsReport, TimedPoint } from '../protect/replica/points-report.ts';
import { Exit, warn } from './exit.ts';
import { stopOnSignals } from './stop.ts';
import { paint, print, printable } from './terminal.ts';

export const explainGroup = `
GROUP is the file that describes a group of disks: docs/PROTECTION.md. While a process has the group open
(driftmap replica), it is asked through JOURNAL/control.sock; otherwise the journal is opened here.`;

export const explainTimes = `
A point is named by a time, a bookmark, a sequence number or 'latest'. Times: 2026-03-01T14:02:07 (add Z or
+01:00 for another zone than this machine's), 14:02:07 (today), -10m (back from now). The last moment at or
before that time is meant.`;

const exits = '\nExit status: 0 done, 2 trouble, 130 stopped by Ctrl-C.\n';

export function definePoints(program: Command): void {
  program
    .command('points')
    .summary('list the points in time of a group')
    .description('Lists to which points in time the disks of a group can be brought, and draws them.')
    .argument('<group>', "the group's file")
    .option('--all', 'list all bookmarks, suspensions and steps of the clock')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `${explainGroup}\n\nExample:\n  driftmap points web.json\n${exits}`)
    .action(runPoints);
}

async function runPoints(path: string, flags: { all?: boolean; json?: boolean }): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const { askReplica } = await import('../protect/replica/host.ts');
  const report = (await askReplica(
    readGroupFile(path),
    'GET /points',
    {},
    { onWarning: warn },
  )) as PointsReport;
  if (flags.json) {
    await print(`${JSON.stringify(report, null, 2)}\n`);
  } else {
    const { describePoints } = await import('./points-report.ts');
    await print(describePoints(report, { now: Date.now(), all: flags.all === true }));
  }
  process.exitCode = Exit.equal;
}

interface BookmarkFlags {
  application?: boolean;
  forget?: boolean;
  json?: boolean;
}

export function defineBookmark(program: Command): void {
  program
    .command('bookmark')
    .summary('name the present moment of a group')
    .description(
      'Names the present point, which is kept until it is forgotten. Where production runs on this host the name goes through it, and stands exactly where the writes before it end; else it stands after what has come to the replica.',
    )
    .argument('<group>', "the group's file")
    .argument('<name>', 'its name')
    .option(
      '--application',
      "the guest's programs were brought to rest (fsfreeze): not only as after a power cut",
    )
    .option('--forget', 'keep the bookmark of this name no longer')
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `${explainGroup}

Examples:
  driftmap bookmark web.json before-upgrade
  virsh domfsfreeze web && driftmap bookmark web.json nightly --application; virsh domfsthaw web
  driftmap bookmark web.json before-upgrade --forget
${exits}`,
    )
    .action(runBookmark);
}

async function runBookmark(path: string, name: string, flags: BookmarkFlags): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const { askReplica } = await import('../protect/replica/host.ts');
  const file = readGroupFile(path);
  if (flags.forget && flags.application)
    throw new DriftmapError('argument', 'expected either --forget or --application');
  const body = { name, consistency: flags.application ? 'application' : 'crash' };
  const onWarning = warn;
  const answer = flags.forget
    ? await askReplica(file, 'POST /forget', { name }, { onWarning })
    : ((await askProduction(file, body)) ?? (await askReplica(file, 'POST /bookmark', body, { onWarning })));
  if (flags.json) {
    await print(`${JSON.stringify(answer, null, 2)}\n`);
  } else {
    const { time, sequence } = answer as Partial<TimedPoint>;
    const where =
      sequence === undefined || time === undefined
        ? ''
        : paint('dim', `  ${tellMoment(time)}, sequence ${sequence}`);
    await print(`${flags.forget ? 'forgotten' : 'bookmarked'}: ${printable(name)}${where}\n`);
  }
  process.exitCode = Exit.equal;
}

/** Null where no production of this group runs on this host. */
async function askProduction(
  file: import('../protect/group/group-file.ts').GroupFile,
  body: object,
): Promise<unknown> {
  if (file.production === null) return null;
  const { join } = await import('node:path');
  const { askControl } = await import('../protect/group/control.ts');
  const socket = join(file.production.state, 'control.sock');
  const asked = await askControl(socket, 'POST /bookmark', body);
  return asked === null ? null : (asked.answer ?? {});
}

export function defineRoll(program: Command): void {
  program
    .command('roll')
    .summary('bring all disks of a replica to one point in time')
    .description(
      "Rolls the replica's disks to a point, forwards or backwards, where they stay; 'latest' lets them follow again. Nothing is lost by it: they can be rolled anywhere else afterwards, and writes that come in meanwhile wait in the journal.",
    )
    .argument('<group>', "the group's file")
    .requiredOption('--to <point>', "a time, a bookmark, a sequence, or 'latest'")
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `${explainTimes}
${explainGroup}

Stopped in the middle, by Ctrl-C or by a crash, the disks are between two points; roll them again.

Examples:
  driftmap roll web.json --to 14:02:07
  driftmap roll web.json --to before-upgrade
  driftmap roll web.json --to latest
${exits}`,
    )
    .action(runRoll);
}

async function runRoll(path: string, flags: { to: string; json?: boolean }): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const { askReplica } = await import('../protect/replica/host.ts');
  const showProgress = process.stderr.isTTY && !flags.json;
  const onProgress = (progress: unknown) => {
    const { to, low, high } = progress as { to: number; low: number; high: number };
    if (showProgress) process.stderr.write(`\r\u001b[Krolling to ${to}: between ${low} and ${high}`);
  };
  const signal = stopOnSignals();
  let answer: unknown;
  try {
    const options = { signal, onProgress, onWarning: warn };
    answer = await askReplica(readGroupFile(path), 'POST /roll', { to: flags.to }, options);
  } finally {
    if (showProgress) process.stderr.write('\r\u001b[K');
  }
  if (flags.json) {
    await print(`${JSON.stringify(answer, null, 2)}\n`);
  } else {
    const { at, sequence, others, follows } = answer as TimedPoint & {
      others: TimedPoint[];
      follows: boolean;
    };
    warnOfOthers(others);
    const then = follows
      ? 'the disks follow the journal'
      : "the disks stay there: 'roll --to latest' lets them follow again";
    await print(`rolled to ${at}  ${paint('dim', `sequence ${sequence}; ${then}`)}\n`);
  }
  process.exitCode = Exit.equal;
}

/** Of the latest point, when production is making up for writes, or cannot. */
export interface Missing extends TimedPoint {
  readonly reason: string;
}

export function warnOfMissing(missing: Missing | null | undefined): void {
  if (missing == null) return;
  warn(
    `this is not the present: writes of production after ${missing.at} are missing (${printable(missing.reason)})`,
  );
}

/** The clock passed the time more than once. */
export function warnOfOthers(others: readonly TimedPoint[]): void {
  if (others.length === 0) return;
  const told = others.map(({ sequence }) => String(sequence)).join(', ');
  warn(
    `the clock had been put back and passed this time more than once: the latest was taken; others end at sequences ${told}`,
  );
}
