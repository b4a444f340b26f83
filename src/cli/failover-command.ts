/** `driftmap failover REPLICA|GROUP` and `driftmap state REPLICA` */

import type { Command } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { humanSize } from '../base/units.ts';
import type { ReplicaState } from '../sync/state-file.ts';
import { Exit, explainExits } from './exit.ts';
import { line } from './scan-report.ts';
import { paint, print, printable } from './terminal.ts';

interface StateFlags {
  state?: string;
  at?: string;
  force?: boolean;
  json?: boolean;
}

export function defineFailover(program: Command): void {
  program
    .command('failover')
    .summary('make a replica the production side')
    .description(
      'Says that this replica is production from now on: a sync over it, or a stream to it, is refused. Of a group, all disks are brought to one point first.',
    )
    .argument('<replica>', "a disk here that `driftmap sync` made, or a group's file")
    .option('--at <point>', "of a group: a time, a bookmark, a sequence (default: 'latest')")
    .option('--state <file>', "a disk's state file (default: REPLICA.driftstate)")
    .option('--force', 'take it although it is not consistent, or although production still streams to it')
    .option('--json', 'print the new state as one JSON object')
    .addHelpText(
      'after',
      `
Example: the production site is lost, its VM is started here, and later goes back:
  driftmap failover replica.raw
  driftmap sync replica.raw ssh://production.example/srv/vm.raw     as often as you like, then stop the VM
  driftmap sync replica.raw ssh://production.example/srv/vm.raw     once more
  ssh production.example driftmap failover /srv/vm.raw              and start the VM there

Of a group (docs/PROTECTION.md), and back by 'driftmap failback':
  driftmap failover web.json
  driftmap failover web.json --at 14:02:07
${explainExits}`,
    )
    .action(runFailover);
}

export function defineState(program: Command): void {
  program
    .command('state')
    .summary('say whether a replica is consistent, and as of when')
    .description('Prints what the state file of a replica says.')
    .argument('<replica>', 'a disk here that `driftmap sync` made')
    .option('--state <file>', 'its state file (default: REPLICA.driftstate)')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `\nExample:\n  driftmap state replica.raw\n${explainExits}`)
    .action(runState);
}

async function runFailover(replica: string, flags: StateFlags): Promise<void> {
  const { looksLikeGroupFile } = await import('../protect/group/group-file.ts');
  if (looksLikeGroupFile(replica)) {
    if (flags.state !== undefined)
      throw new DriftmapError('argument', "--state is for a disk: a group's state is in its journal");
    const { failOverGroup } = await import('./failback-command.ts');
    return failOverGroup(replica, flags);
  }
  if (flags.at !== undefined)
    throw new DriftmapError('argument', '--at is for a group: a disk has no points in time', {
      path: replica,
    });
  const { failover } = await import('../sync/failover.ts');
  const state = await failover({ replica, state: flags.state, force: flags.force });
  await print(flags.json ? asJson(state) : describe(replica, state));
  process.exitCode = Exit.equal;
}

async function runState(replica: string, flags: StateFlags): Promise<void> {
  const { loadState, statePath } = await import('../sync/state-file.ts');
  const { canonical } = await import('../sync/target.ts');
  const path = flags.state ?? statePath(canonical(replica));
  const state = loadState(path);
  if (state === null) throw new DriftmapError('not-found', 'no state: this disk is no replica', { path });
  await print(flags.json ? asJson(state) : describe(replica, state));
  process.exitCode = state.status === 'synchronizing' ? Exit.different : Exit.equal;
}

function asJson({ bitmap, ...state }: ReplicaState): string {
  const { size, blockSize, count, header } = bitmap;
  const { production, replica } = header;
  const object = { ...state, size, blockSize, markedBlocks: count, production, replica };
  return `${JSON.stringify(object, null, 2)}\n`;
}

function describe(name: string, state: ReplicaState): string {
  const { status, since, consistentAt, epoch, bitmap, format } = state;
  const colors = { consistent: 'green', synchronizing: 'yellow', 'failed-over': 'cyan' } as const;
  const lines = [
    line('replica', `${printable(name)}  ${paint('dim', `${printable(format)}, ${humanSize(bitmap.size)}`)}`),
    line('status', `${paint(colors[status], status)} since ${printable(since)}`),
  ];
  if (status !== 'consistent' && consistentAt !== null)
    lines.push(line('consistent', `last at ${printable(consistentAt)}`));
  lines.push(line('marked', `${bitmap.count} of ${bitmap.blocks} blocks (${humanSize(bitmap.markedBytes)})`));
  lines.push(line('of', paint('dim', printable(bitmap.header.production.identity))));
  lines.push(line('epoch', String(epoch)));
  return `${lines.join('\n')}\n`;
}
