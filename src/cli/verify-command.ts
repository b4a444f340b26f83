/** `driftmap verify PRODUCTION REPLICA` */

import type { Command } from 'commander';
import { exactSize, humanSize } from '../base/units.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { CompareResult } from '../sync/compare-sites.ts';
import { Exit, explainExits, warn } from './exit.ts';
import {
  allowOutsideOption,
  blockSizeOption,
  formatOption,
  signatureOption,
  workersOption,
} from './options.ts';
import { firstRanges, line, listRanges } from './scan-report.ts';
import {
  addIndexOptions,
  addSiteOptions,
  chosenBlockSize,
  chosenSignature,
  explainSites,
  type IndexFlags,
  type SiteFlags,
  siteOptions,
} from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { createSyncBar } from './sync-bar.ts';
import { paint, print, printable } from './terminal.ts';

interface VerifyFlags extends SiteFlags, IndexFlags {
  blockSize: number;
  signature: AlgorithmName;
  workers?: number;
  json?: boolean;
  all?: boolean;
  quiet?: boolean;
  productionFormat?: string;
  replicaFormat?: string;
  allowOutside?: boolean;
}

export function defineVerify(program: Command): void {
  const command = program
    .command('verify')
    .summary('check that a replica is equal, and change nothing')
    .description(
      'Compares two disks, of which one may be at another site. What differs is looked at again before it counts, so blocks that are just on their way raise no alarm. Nothing is written.',
    )
    .argument('<production>', 'the disk that is right')
    .argument('<replica>', 'the disk that should be equal')
    .addOption(blockSizeOption())
    .addOption(signatureOption('nh128'));
  addIndexOptions(command);
  addSiteOptions(command)
    .addOption(workersOption())
    .option('--all', 'print every range, not only the first twenty')
    .option('--json', 'print the result as one JSON object')
    .option('-q, --quiet', 'no progress bar')
    .addOption(formatOption('--production-format <format>', 'the production disk'))
    .addOption(formatOption('--replica-format <format>', 'the replica disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `${explainSites}
Examples:
  driftmap verify vm.qcow2 replica.raw
  driftmap verify vm.raw ssh://replica.example/srv/vm.raw
${explainExits}`,
    )
    .action(runVerify);
}

async function runVerify(
  production: string,
  replica: string,
  flags: VerifyFlags,
  command: Command,
): Promise<void> {
  const signal = stopOnSignals();
  const { verify } = await import('../sync/compare-sites.ts');
  const bar = await createSyncBar(flags.quiet === true || flags.json === true);
  let result: CompareResult;
  try {
    result = await verify({
      ...siteOptions(flags, signal),
      production,
      replica,
      blockSize: chosenBlockSize(command, flags),
      signature: chosenSignature(command, flags),
      productionIndex: flags.productionIndex,
      replicaIndex: flags.replicaIndex,
      workers: flags.workers,
      productionFormat: flags.productionFormat,
      replicaFormat: flags.replicaFormat,
      allowOutside: flags.allowOutside,
      onProgress: (progress) => bar.show(progress),
    });
  } finally {
    bar.stop();
  }
  for (const warning of result.warnings) warn(warning);
  process.exitCode = result.markedBlocks === 0 ? Exit.equal : Exit.different;
  await print(
    flags.json
      ? asJson(production, replica, result)
      : describe(production, replica, result, flags.all === true),
  );
}

export function asJson(production: string, replica: string, { bitmap, ...result }: CompareResult): string {
  return `${JSON.stringify({ production, replica, ...result, ranges: [...bitmap.ranges()] }, null, 2)}\n`;
}

export function describe(production: string, replica: string, result: CompareResult, all: boolean): string {
  const { bitmap, comparedBytes, signature, blockSize, markedBlocks, sentBytes, receivedBytes } = result;
  const lines = [
    line('production', printable(production)),
    line('replica', printable(replica)),
    line(
      'compared',
      `${humanSize(comparedBytes)} by ${signature} in blocks of ${exactSize(blockSize)}, ${result.seconds.toFixed(2)} s`,
    ),
  ];
  if (sentBytes + receivedBytes > 0)
    lines.push(line('network', `${humanSize(sentBytes)} out, ${humanSize(receivedBytes)} in`));
  if (markedBlocks === 0) lines.push(line('result', paint('green', 'equal')));
  else {
    const ranges = firstRanges(bitmap.ranges(), all);
    const share = `${markedBlocks} of ${bitmap.blocks} blocks (${humanSize(bitmap.markedBytes)})`;
    lines.push(line('result', paint('red', `different: ${share}`)), listRanges(ranges));
  }
  return `${lines.join('\n')}\n`;
}
