/** `driftmap sync PRODUCTION REPLICA` */

import { type Command, Option } from 'commander';
import { exactSize, humanSize } from '../base/units.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { Compression } from '../sync/packer.ts';
import type { SyncOptions, SyncResult } from '../sync/sync.ts';
import { Exit, explainExits, warn } from './exit.ts';
import { addLiveOptions, explainLive, type LiveFlags, openLive } from './live-options.ts';
import {
  allowOutsideOption,
  blockSizeOption,
  formatOption,
  signatureOption,
  sizeOption,
  workersOption,
} from './options.ts';
import { line } from './scan-report.ts';
import {
  addIndexOptions,
  addSiteOptions,
  chosenBlockSize,
  explainSites,
  type IndexFlags,
  type SiteFlags,
  siteOptions,
} from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { createSyncBar } from './sync-bar.ts';
import { paint, print, printable } from './terminal.ts';

interface SyncFlags extends SiteFlags, LiveFlags, IndexFlags {
  blockSize: number;
  signature?: AlgorithmName;
  bySignature?: boolean;
  refine?: number;
  compress: Compression;
  source?: string[];
  state?: string;
  workers?: number;
  resize?: boolean;
  shrink?: boolean;
  full?: boolean;
  adopt?: boolean;
  discard?: boolean;
  json?: boolean;
  quiet?: boolean;
  productionFormat?: string;
  replicaFormat?: string;
  allowOutside?: boolean;
}

export function defineSync(program: Command): void {
  const signature = signatureOption('nh128');
  signature.defaultValue = undefined;
  signature.description = 'how blocks are compared (default: blake3 when blocks are placed, else nh128)';
  const command = program
    .command('sync')
    .summary('make a replica equal to production')
    .description(
      'Compares two disks, of which one may be at another site, and makes the replica equal: by blocks that it holds already where it can, by data where it must. Stop it at any moment: the next run goes on.',
    )
    .argument('<production>', 'the disk that is right: an image, a block device, or an address')
    .argument('<replica>', 'the disk that becomes equal to it')
    .addOption(blockSizeOption())
    .addOption(signature)
    .option(
      '--by-signature',
      'ask the replica to place blocks that it holds already (default over a network)',
    )
    .option('--no-by-signature', 'send all that differs as data')
    .addOption(
      sizeOption('--refine <size>', 'compare blocks that differ again in pieces of this size, such as 4K'),
    )
    .addOption(
      new Option('--compress <when>', 'data on its way; auto: when it pays')
        .choices(['auto', 'always', 'never'])
        .default('auto'),
    )
    .option('--source <disk...>', 'another disk here, or store:FOLDER, whose blocks the replica may copy')
    .option('--state <file>', "where the replica's state is kept (default: REPLICA.driftstate)")
    .option('--resize', 'make a raw replica as large as production')
    .option('--shrink', 'cut a raw replica that is longer; leave the rest of a larger device alone')
    .option('--full', 'compare everything, whatever an earlier run found')
    .option('--adopt', 'take a replica that belongs to another disk')
    .option('--discard', 'give up what was written to the replica after a failover');
  addIndexOptions(command);
  addLiveOptions(command);
  addSiteOptions(command)
    .addOption(workersOption())
    .option('--json', 'print the result as one JSON object')
    .option('-q, --quiet', 'no progress bar')
    .addOption(formatOption('--production-format <format>', 'the production disk'))
    .addOption(formatOption('--replica-format <format>', 'the replica disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `${explainLive}${explainSites}
Examples:
  driftmap sync vm.qcow2 replica.raw
  driftmap sync vm.raw ssh://replica.example/srv/vm.raw --limit 50M
  driftmap sync ssh://production.example/srv/vm.raw vm.raw
  driftmap sync vm.raw driftmaps://replica.example/vm --tls-ca ca.pem --tls-cert me.pem --tls-key me.key
  driftmap sync 'nbd+unix:///vm?socket=/run/vm.nbd' ssh://replica.example/srv/vm.raw --qmp /run/vm.qmp \\
      --quiesce 'virsh suspend vm' --resume 'virsh resume vm'
${explainExits.replace('1 different', '1 not consistent (production was written to meanwhile)')}`,
    )
    .action(runSync);
}

async function runSync(
  production: string,
  replica: string,
  flags: SyncFlags,
  command: Command,
): Promise<void> {
  const signal = stopOnSignals();
  const { sync } = await import('../sync/sync.ts');
  const bar = await createSyncBar(flags.quiet === true || flags.json === true);
  const tell = flags.quiet ? () => undefined : (line: string) => bar.say(line);
  const live = await openLive(production, flags, tell);
  const options: SyncOptions = {
    ...siteOptions(flags, signal),
    production,
    replica,
    blockSize: chosenBlockSize(command, flags),
    signature: flags.signature,
    productionIndex: flags.productionIndex,
    replicaIndex: flags.replicaIndex,
    bySignature: flags.bySignature,
    refine: flags.refine,
    compression: flags.compress,
    sources: flags.source,
    state: flags.state,
    workers: flags.workers,
    resize: flags.resize,
    shrink: flags.shrink,
    full: flags.full,
    adopt: flags.adopt,
    discard: flags.discard,
    productionFormat: flags.productionFormat,
    replicaFormat: flags.replicaFormat,
    allowOutside: flags.allowOutside,
    live,
    onProgress: (progress) => bar.show(progress),
  };
  let result: SyncResult;
  try {
    result = await sync(options);
  } finally {
    bar.stop();
    await live?.close().catch((cause) => warn(`what was begun in QEMU is still there: ${String(cause)}`));
  }
  for (const warning of result.warnings) warn(warning);
  process.exitCode = result.consistent ? Exit.equal : Exit.different;
  await print(
    flags.json
      ? `${JSON.stringify({ production, replica, ...result }, null, 2)}\n`
      : describe(production, replica, result),
  );
}

function describe(production: string, replica: string, result: SyncResult): string {
  const { size, blockSize, signature, comparedBytes, placedBytes, dataBytes, zeroBytes, storedBytes } =
    result;
  const lines = [
    line('production', `${printable(production)}  ${paint('dim', humanSize(size))}`),
    line('replica', printable(replica)),
    line('compared', `${humanSize(comparedBytes)} by ${signature} in blocks of ${exactSize(blockSize)}`),
  ];
  if (placedBytes > 0)
    lines.push(line('placed', `${humanSize(placedBytes)} by signature: the replica held it already`));
  if (result.equalBytes > 0)
    lines.push(line('refined', `${humanSize(result.equalBytes)} of blocks that differ are equal in pieces`));
  if (dataBytes > 0) {
    const zeros = zeroBytes > 0 ? `, ${humanSize(zeroBytes)} of it zeros` : '';
    lines.push(line('sent', `${humanSize(dataBytes)}${zeros}, as ${humanSize(storedBytes)} of data`));
  }
  if (result.passes > 1) lines.push(line('passes', `${result.passes}, over what became dirty`));
  const wire = result.sentBytes + result.receivedBytes;
  if (wire > 0)
    lines.push(line('network', `${humanSize(result.sentBytes)} out, ${humanSize(result.receivedBytes)} in`));
  const done = result.consistent ? paint('green', 'consistent') : paint('yellow', 'not consistent');
  lines.push(line('result', `${done}, ${result.seconds.toFixed(2)} s`));
  return `${lines.join('\n')}\n`;
}
