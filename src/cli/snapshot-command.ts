/** `driftmap snapshot LU -o FILE` */

import type { Command } from 'commander';
import { humanSize } from '../base/units.ts';
import { Exit, explainExits } from './exit.ts';
import { print, printable } from './terminal.ts';

export function defineSnapshot(program: Command): void {
  program
    .command('snapshot')
    .summary('freeze a logical unit that is a file, sharing its storage')
    .description(
      'Makes a reflink copy of a file: it holds one moment, takes no time, and shares the storage until either is written. So a scan can run while production goes on.',
    )
    .argument('<unit>', 'a file on XFS, btrfs or another file system that makes reflinks')
    .requiredOption('-o, --output <file>', 'the snapshot, on the same file system; never overwrites')
    .addHelpText(
      'after',
      `
Units that are devices, and files elsewhere, are frozen by their own tools: LVM, ZFS, the storage array
(docs/SNAPSHOTS.md shows their commands). What driftmap needs is a unit that does not change under it.

Example:
  driftmap snapshot /srv/lu0.img -o /srv/lu0.frozen
  driftmap scan /srv/lu0.frozen:gpt2/xfs:/vm.qcow2 replica.raw; rm /srv/lu0.frozen
${explainExits}`,
    )
    .action(runSnapshot);
}

async function runSnapshot(unit: string, { output }: { output: string }): Promise<void> {
  const { snapshotFile } = await import('../lu/snapshot.ts');
  const size = snapshotFile(unit, output);
  process.exitCode = Exit.equal;
  await print(`${printable(output)}: a snapshot of ${printable(unit)}, ${humanSize(size)}\n`);
}
