/** `driftmap sync PRODUCTION REPLICA` */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { MAX_PAIRS_AT_ONCE } from '../base/protection-limits.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { Compression } from '../sync/packer.ts';
import type { SyncProgress } from '../sync/progress.ts';
import type { SyncOptions, SyncResult } from '../sync/sync.ts';
import type { PairResult } from '../sync/sync-all.ts';
import { Exit, explainExits, fail, warn } from './exit.ts';
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
import { createSyncBar, type SyncBar } from './sync-bar.ts';
import { type Pair, pairsOf } from './sync-pairs.ts';
import { paint, print, printable } from './terminal.ts';

interface SyncFlags extends SiteFlags, LiveFlags, IndexFlags {
  pairs?: string;
  atOnce: number;
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
    .usage('[options] <production> <replica> [<production> <replica> ...]')
    .argument(
      '[disks...]',
      'production, the disk that is right (an image, a block device, or an address), and the replica that becomes equal to it; further pairs may follow',
    )
    .option('--pairs <file>', 'pairs of disks, one a line, apart by a tab or blanks; - is standard input')
    .addOption(
      new Option('--at-once <count>', 'pairs that are synchronized at one time')
        .default(2)
        .argParser((text) => {
          const count = Number(text);
          if (Number.isInteger(count) && count >= 1 && count <= MAX_PAIRS_AT_ONCE) return count;
          throw new InvalidArgumentError(`expected 1 to ${MAX_PAIRS_AT_ONCE}`);
        }),
    )
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
  driftmap sync boot.raw ssh://replica.example/srv/boot.raw data.raw ssh://replica.example/srv/data.raw
  driftmap sync --pairs disks.txt --at-once 4 --limit 100M
  driftmap sync vm.raw driftmaps://replica.example/vm --tls-ca ca.pem --tls-cert me.pem --tls-key me.key
  driftmap sync 'nbd+unix:///vm?socket=/run/vm.nbd' ssh://replica.example/srv/vm.raw --qmp /run/vm.qmp \\
      --quiesce 'virsh suspend vm' --resume 'virsh resume vm'
  driftmap sync /srv/vm/system.raw ssh://replica.example/srv/vm.raw --live web.json \\
      --quiesce 'virsh suspend vm' --resume 'virsh resume vm'
${explainExits.replace('1 different', '1 not consistent (production was written to meanwhile)')}`,
    )
    .action(runSync);
}

async function runSync(disks: string[], flags: SyncFlags, command: Command): Promise<void> {
  const pairs = pairsOf(disks, flags.pairs);
  const signal = stopOnSignals();
  const bar = await createSyncBar(flags.quiet === true || flags.json === true);
  const options = { ...optionsOf(flags, command), ...siteOptions(flags, signal) };
  const [only] = pairs;
  if (pairs.length === 1) return runOne(only!, options, bar, flags);
  refuseOfOne(flags);
  const { syncAll } = await import('../sync/sync-all.ts');
  let results: PairResult[];
  try {
    results = await syncAll(
      pairs.map((pair) => ({ ...options, ...pair })),
      { atOnce: flags.atOnce, signal, onProgress: (progress) => bar.show(progress) },
    );
  } finally {
    bar.stop();
  }
  if (signal.aborted) throw results.find(({ error }) => error?.kind === 'aborted')?.error ?? signal.reason;
  await tellAll(pairs, results, flags.json === true);
}

async function runOne(
  { production, replica }: Pair,
  common: Omit<SyncOptions, keyof Pair>,
  bar: SyncBar,
  flags: SyncFlags,
): Promise<void> {
  const { sync } = await import('../sync/sync.ts');
  const tell = flags.quiet ? () => undefined : (line: string) => bar.say(line);
  const { blockSize, productionFormat: format, signal } = common;
  const live = await openLive(flags, { production, blockSize, format, signal, tell });
  const onProgress = (progress: SyncProgress) => bar.show(progress);
  let result: SyncResult;
  try {
    result = await sync({ ...common, production, replica, live, onProgress });
  } finally {
    bar.stop();
    await live?.close().catch((cause) => warn(`what was begun for it is still there: ${String(cause)}`));
  }
  for (const warning of result.warnings) warn(warning);
  process.exitCode = result.consistent ? Exit.equal : Exit.different;
  await print(
    flags.json
      ? `${JSON.stringify({ production, replica, ...result }, null, 2)}\n`
      : describe(production, replica, result),
  );
}

/** One after another in the order of the pairs; the worst of them is the exit status. */
async function tellAll(pairs: readonly Pair[], results: readonly PairResult[], json: boolean): Promise<void> {
  let status: number = Exit.equal;
  const objects: object[] = [];
  const texts: string[] = [];
  for (const [i, { production, replica }] of pairs.entries()) {
    const { result, error } = results[i]!;
    if (error !== null) {
      status = Exit.trouble;
      fail(error);
      objects.push({ production, replica, error: { kind: error.kind, message: error.message } });
      texts.push(
        [
          line('production', printable(production)),
          line('replica', printable(replica)),
          `${line('result', paint('red', `failed: ${printable(error.message)}`))}\n`,
        ].join('\n'),
      );
      continue;
    }
    for (const warning of result.warnings) warn(warning);
    if (!result.consistent) status = Math.max(status, Exit.different);
    objects.push({ production, replica, ...result });
    texts.push(describe(production, replica, result));
  }
  process.exitCode = status;
  await print(json ? `${JSON.stringify({ pairs: objects }, null, 2)}\n` : texts.join('\n'));
}

/** What is said of one disk cannot be true of several. */
function refuseOfOne(flags: SyncFlags): void {
  const ofOne = [
    'state',
    'live',
    'qmp',
    'node',
    'liveUntil',
    'quiesce',
    'resume',
    'productionIndex',
    'replicaIndex',
  ] as const;
  const given = ofOne.find((name) => flags[name] !== undefined);
  if (given === undefined) return;
  const option = given.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new DriftmapError(
    'argument',
    `--${option} is about one pair of disks: synchronize that one by itself`,
  );
}

function optionsOf(flags: SyncFlags, command: Command): Omit<SyncOptions, keyof Pair> {
  return {
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
  };
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
