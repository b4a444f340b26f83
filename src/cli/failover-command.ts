/** `driftmap failover REPLICA` and `driftmap state REPLICA` */

import type { Command } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { humanSize } from '../base/units.ts';
import type { ReplicaState } from '../sync/state-file.ts';
import { Exit, explainExits } from './exit.ts';
import { line } from './scan-report.ts';
import { paint, print, printable } from './terminal.ts';

interface StateFlags {
  state?: string;
  force?: boolean;
  json?: boolean;
}

export function defineFailover(program: Command): void {
  program
    .command('failover')
    .summary('make a replica the production side')
    .description(
      'Says that this replica is production from now on: a sync over it is refused, and one from it back to the old production sends only what changed since.',
    )
    .argument('<replica>', 'a disk here that `driftmap sync` made')
    .option('--state <file>', 'its state file (default: REPLICA.driftstate)')
    .option('--force', 'take it although it is not consistent')
    .option('--json', 'print the new state as one JSON object')
    .addHelpText(
      'after',
      `
Example: the production site is lost, its VM is started here, and later goes back:
  driftmap failover replica.raw
  driftmap sync replica.raw ssh://production.example/srv/vm.raw     as often as you like, then stop the VM
  driftmap sync replica.raw ssh://production.example/srv/vm.raw     once more
  ssh production.example driftmap failover /srv/vm.raw              and start the VM there
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
  const { failover } = await import('../sync/failover.ts');
  const state = await failover({ replica, state: flags.state, force: flags.force });
  await print(flags.json ? asJson(state) : describe(replica, state));
  process.exitCode = Exit.equal;
}

async function runState(replica: string, flags: StateFlags): Promise<void> {
  const { loadState, statePath } = await import('../sync/state-file.ts');
  const { canonical, checkThere } = await import('../sync/target.ts');
  checkThere(replica);
  const path = flags.state ?? statePath(canonical(replica));
  const state = loadState(path);
  if (state === null)
    throw new DriftmapError('not-found', `is no replica: there is no ${path}`, { path: replica });
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
