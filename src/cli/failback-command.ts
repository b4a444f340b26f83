/** The group's half of `driftmap failover`, and `driftmap failback`. */

import { basename, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { humanDuration } from '../base/time.ts';
import type { TimedPoint } from '../protect/replica/points-report.ts';
import { Exit, warn } from './exit.ts';
import { explainGroup } from './points-command.ts';
import { stopOnSignals } from './stop.ts';
import { paint, print, printable } from './terminal.ts';

interface FailedOver extends TimedPoint {
  readonly newest: TimedPoint;
  readonly wasConsistent: boolean;
  readonly disks: readonly { readonly name: string; readonly path: string }[];
}

/** `driftmap failover GROUP` */
export async function failOverGroup(
  path: string,
  flags: { at?: string | undefined; force?: boolean | undefined; json?: boolean | undefined },
): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const { askReplica } = await import('../protect/replica/host.ts');
  const body = { ...(flags.at !== undefined && { at: flags.at }), ...(flags.force && { force: true }) };
  const options = { signal: stopOnSignals(), onWarning: warn };
  const done = (await askReplica(readGroupFile(path), 'POST /failover', body, options)) as FailedOver;
  if (!flags.json && done.newest.sequence > done.sequence) {
    const left = humanDuration(Math.max(0, done.newest.time - done.time));
    const why = done.wasConsistent
      ? 'as was asked for'
      : 'they were part of a resynchronization that had not ended';
    warn(
      `${done.newest.sequence - done.sequence} newer writes, of the ${left} after that point, are left out: ${why}`,
    );
  }
  await print(flags.json ? `${JSON.stringify(done, null, 2)}\n` : describeFailover(path, done));
  process.exitCode = Exit.equal;
}

function describeFailover(path: string, { at, sequence, disks }: FailedOver): string {
  const back = `${basename(path, '.json')}-back.json`;
  const lines = disks.map(({ name, path: disk }) => `  ${printable(name).padEnd(12)}${printable(disk)}`);
  return `production as of ${at}  ${paint('dim', `sequence ${sequence}`)}
${lines.join('\n')}
Start the virtual machine from these disks, or, so that it is protected back to the old production:
  driftmap failback ${printable(path)} --reverse ${printable(back)} --replica ssh://OLD-PRODUCTION/…/${printable(back)}
  driftmap protect ${printable(back)}
Where this ends a way back, the other site becomes a replica again: there 'driftmap failback … --finish'.
`;
}

interface FailbackFlags {
  reverse?: string;
  replica?: string;
  finish?: boolean;
  json?: boolean;
}

export function defineFailback(program: Command): void {
  program
    .command('failback')
    .summary('lead a group back after a failover')
    .description(
      'Writes the group file with the sites exchanged, by which the new production protects itself to the old one; and, at the end, makes the site that was failed over a replica again.',
    )
    .argument('<group>', "the group's file")
    .option(
      '--reverse <file>',
      'write the reversed group file there; both sites need it, beside the group file',
    )
    .addOption(
      new Option(
        '--replica <address>',
        'where the old production is reached: ssh://HOST/FILE or driftmaps://HOST:PORT/NAME (default: on this host)',
      ).conflicts('finish'),
    )
    .addOption(
      new Option('--finish', 'this site, which was failed over, is a replica again').conflicts('reverse'),
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `${explainGroup}

The whole way, with A the old production and B the site that was failed over:
  B  driftmap failover web.json
  B  driftmap failback web.json --reverse web-back.json --replica ssh://A/etc/driftmap/web-back.json
     copy web-back.json to A, beside web.json
  B  driftmap protect web-back.json          and start the virtual machine on its sockets
     A's disks are compared by signature, and what differs is sent. When it streams, and it suits you:
  B  stop the virtual machine, then protect (SIGTERM)
  A  driftmap failover web-back.json
  B  driftmap failback web.json --finish
  A  driftmap protect web.json               and start the virtual machine; again nothing equal is sent

Exit status: 0 done, 2 trouble.
`,
    )
    .action(runFailback);
}

async function runFailback(path: string, flags: FailbackFlags): Promise<void> {
  const { readGroupFile } = await import('../protect/group/group-file.ts');
  const file = readGroupFile(path);
  if (flags.finish) {
    const { askReplica } = await import('../protect/replica/host.ts');
    const done = (await askReplica(file, 'POST /failback', {}, { onWarning: warn })) as {
      keptPoints: boolean;
    };
    const how = done.keptPoints
      ? 'nobody used the disks meanwhile, so all its points are still there'
      : 'its disks were used meanwhile, so its journal is made anew (restart a driftmap replica that runs); the disks stay, and are compared by signature';
    await print(flags.json ? `${JSON.stringify(done)}\n` : `a replica again: ${how}\n`);
    process.exitCode = Exit.equal;
    return;
  }
  if (flags.reverse === undefined) {
    const reason = 'expected --reverse FILE (at the new production), or --finish (at the end): see --help';
    throw new DriftmapError('argument', reason);
  }
  const { writeReversed } = await import('../protect/group/reversed-group.ts');
  const reversed = writeReversed({ file, to: resolve(flags.reverse), replica: flags.replica ?? null });
  await print(
    flags.json
      ? `${JSON.stringify(reversed, null, 2)}\n`
      : `written: ${printable(flags.reverse)}; now 'driftmap protect ${printable(flags.reverse)}' here${flags.replica === undefined ? '' : ', once the old production has a copy of it'}\n`,
  );
  process.exitCode = Exit.equal;
}
