/** `driftmap scan PRODUCTION REPLICA` */

import { accessSync, constants } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { type Command, Option } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { CompareMethod, Scanner, ScanOptions, ScanResult } from '../scan/scan.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { SignatureIndex } from '../signature/index-file.ts';
import { loadMarks } from './bitmap-source.ts';
import { Exit, explainExits, warn } from './exit.ts';
import { withPartial } from './keep-partial.ts';
import {
  allowOutsideOption,
  blockSizeOption,
  explainSignatures,
  formatOption,
  repeatedOption,
  sampleOption,
  seedOption,
  signatureOption,
  workersOption,
} from './options.ts';
import { createProgressBar } from './progress-bar.ts';
import { isRemote, runRemoteScan } from './remote-scan.ts';
import { describeScan, scanAsJson } from './scan-report.ts';
import { addSiteOptions, explainSites, type SiteFlags } from './site-options.ts';
import { stopOnSignals } from './stop.ts';
import { print } from './terminal.ts';

interface ScanCommandOptions extends SiteFlags {
  blockSize: number;
  signature: AlgorithmName;
  compare: CompareMethod;
  workers?: number;
  bitmap?: string;
  within?: string;
  resume?: string;
  productionIndex?: string[];
  replicaIndex?: string[];
  sample?: number;
  seed?: number;
  json?: boolean;
  all?: boolean;
  quiet?: boolean;
  productionFormat?: string;
  replicaFormat?: string;
  allowOutside?: boolean;
  direct?: boolean;
}

export function defineScan(program: Command): void {
  const command = program
    .command('scan')
    .summary('find where two disks differ')
    .description('Compares two virtual disks block by block and prints where they differ.')
    .argument('<production>', 'the disk that is right: an image, a block device, or an address')
    .argument('<replica>', 'the disk that is to become equal to it')
    .addOption(blockSizeOption())
    .addOption(signatureOption('nh128'))
    .addOption(
      new Option(
        '--compare <method>',
        'by signatures, or byte by byte: exact, and faster when both disks are here',
      )
        .choices(['signatures', 'bytes'])
        .default('signatures'),
    )
    .addOption(workersOption())
    .option(
      '-o, --bitmap <file>',
      'write the result as a sync bitmap; what a stopped scan had found is kept there too',
    )
    .option(
      '--within <bitmap>',
      'look only at the blocks that this bitmap marks: a .drift file, IMAGE.qcow2:bitmap=NAME or NBD-URL:bitmap=NAME',
    )
    .option('--resume <file>', 'go on from the bitmap of a scan that was stopped')
    .addOption(
      repeatedOption(
        '--production-index <file>',
        'use the signatures of this index of the production disk, or of a unit it lies on; may be repeated',
      ),
    )
    .addOption(repeatedOption('--replica-index <file>', 'the same for the replica'))
    .addOption(sampleOption('verify this share of the blocks taken from indexes against the bytes'))
    .addOption(seedOption())
    .option('--all', 'print every range, not only the first twenty')
    .option('--json', 'print the result as one JSON object')
    .option('-q, --quiet', 'no progress bar');
  addSiteOptions(command)
    .addOption(formatOption('--production-format <format>', 'the production disk'))
    .addOption(formatOption('--replica-format <format>', 'the replica disk'))
    .addOption(allowOutsideOption())
    .option(
      '--direct',
      'read past the page cache (O_DIRECT): for disks that are not in it and should not fill it',
    )
    .addHelpText(
      'after',
      `${explainSignatures()}
Examples:
  driftmap scan vm.qcow2 copy.raw
  driftmap scan vm.qcow2 copy.raw --block-size 4K --signature blake3
  driftmap scan vm.qcow2 copy.raw --bitmap vm.drift     Ctrl-C, and later:
  driftmap scan vm.qcow2 copy.raw --bitmap vm.drift --resume vm.drift
  driftmap scan vm.qcow2 copy.raw --within vm.drift     check only what differed before
  driftmap scan vm.qcow2 copy.raw --within vm.qcow2:bitmap=since-monday    … or what QEMU saw written
  driftmap scan /dev/vg/vm copy.raw --production-format raw --json

Signature indexes (driftmap index) spare the reading of what they hold. They are blake3, and with one the scan
is too, in blocks of the index's size. One that is of another disk, older than the last write, or damaged is refused:
  driftmap scan vm.qcow2 copy.raw --production-index vm.sig --replica-index copy.sig --sample 1%

Addresses name a disk inside logical units: UNIT[,UNIT…]:STEP/STEP, where a step is gptN, mbrN,
lvm:GROUP/VOLUME or, last, a file: ext4:/PATH, xfs:/PATH, vmfs:/PATH, ntfs:/PATH (driftmap disks finds them):
  driftmap scan vm.raw lu0.img,lu1.img:gpt2/lvm:vg/vm --replica-format raw
  driftmap scan /dev/mapper/lun0:gpt1/vmfs:/vm/vm.vmdk lu0.img:gpt2/ext4:/vm.qcow2
${explainSites}${explainExits}`,
    )
    .action(runScan);
}

async function runScan(
  production: string,
  replica: string,
  options: ScanCommandOptions,
  command: Command,
): Promise<void> {
  if (isRemote(production, replica)) return runRemoteScan(production, replica, options, command);
  if (options.compare === 'bytes' && command.getOptionValueSource('signature') !== 'default') {
    const reason = '--compare bytes signs nothing: leave out --signature, or --compare bytes';
    throw new DriftmapError('argument', reason);
  }
  const signal = stopOnSignals();
  if (options.bitmap) await checkWritable(options.bitmap);
  const resume = options.resume === undefined ? undefined : await loadEarlier(options.resume);
  const indexes = await openIndexes(options, command);
  // Threads start while the disks are opened.
  const { createScanner } = await import('../scan/scan.ts');
  const scanner = createScanner({
    workers: options.workers ?? (options.direct ? waitingWorkers() : undefined),
  });
  const disks: VirtualDisk[] = [];
  try {
    const { openDisk } = await import('../disk/open.ts');
    const { allowOutside, direct, productionFormat, replicaFormat } = options;
    disks.push(await openDisk(production, { format: productionFormat, allowOutside, direct }));
    disks.push(await openDisk(replica, { format: replicaFormat, allowOutside, direct }));
    const warnings = disks.flatMap((disk) => disk.warnings);
    for (const warning of warnings) warn(warning);
    const [first, second] = [disks[0]!, disks[1]!];
    const within =
      options.within === undefined
        ? undefined
        : await loadMarks(options.within, {
            production: first,
            replica: second,
            blockSize: options.blockSize,
            allowOutside,
          });
    const extra = { within, resume, signal, ...indexes };
    const result = await scanUntilStopped(scanner, [first, second], extra, options);
    for (const warning of result.warnings) warn(warning);
    // Before anything is printed: whoever reads it may leave early.
    process.exitCode = result.markedBlocks === 0 ? Exit.equal : Exit.different;
    const formats = { productionFormat: disks[0]!.format, replicaFormat: disks[1]!.format };
    const names = { production, replica, ...formats };
    const report = options.json
      ? scanAsJson(result, names, warnings)
      : [describeScan(result, names, options)];
    for (const piece of report) await print(piece);
    // Last: should there be no space for it, the answer is not lost.
    if (options.bitmap) await save(result.bitmap, options.bitmap);
  } finally {
    for (const disk of disks) await disk.close();
    for (const index of [...indexes.productionIndex, ...indexes.replicaIndex]) index.close();
    await scanner.close();
  }
}

interface OpenIndexes {
  readonly productionIndex: readonly SignatureIndex[];
  readonly replicaIndex: readonly SignatureIndex[];
}

/** Opens the indexes; with one, the defaults are its own: blake3, in blocks of its size. */
async function openIndexes(options: ScanCommandOptions, command: Command): Promise<OpenIndexes> {
  const { productionIndex = [], replicaIndex = [] } = options;
  if (productionIndex.length + replicaIndex.length === 0) return { productionIndex: [], replicaIndex: [] };
  const { openIndex } = await import('../signature/index-file.ts');
  const opened = {
    productionIndex: productionIndex.map(openIndex),
    replicaIndex: replicaIndex.map(openIndex),
  };
  const first = opened.productionIndex[0] ?? opened.replicaIndex[0]!;
  if (command.getOptionValueSource('signature') === 'default') options.signature = 'blake3';
  if (command.getOptionValueSource('blockSize') === 'default') options.blockSize = first.header.blockSize;
  return opened;
}

/** A direct read keeps its thread waiting: twice the threads keep both disks and processors busy. */
function waitingWorkers(): number {
  return 2 * availableParallelism();
}

async function loadEarlier(file: string): Promise<SyncBitmap> {
  const { loadBitmap } = await import('../bitmap/drift-file.ts');
  return loadBitmap(file);
}

async function save(bitmap: SyncBitmap, file: string): Promise<void> {
  const { saveBitmap } = await import('../bitmap/drift-file.ts');
  saveBitmap(bitmap, file);
}

/** Scans; Ctrl-C (or a failure) first keeps what was found in the bitmap file, when there is one. */
async function scanUntilStopped(
  scanner: Scanner,
  [production, replica]: [VirtualDisk, VirtualDisk],
  extra: Pick<ScanOptions, 'within' | 'resume' | 'signal' | 'productionIndex' | 'replicaIndex'>,
  options: ScanCommandOptions,
): Promise<ScanResult> {
  const bar = await createProgressBar(options.quiet === true || options.json === true);
  let partial: SyncBitmap | undefined;
  try {
    return await scanner.scan({
      production,
      replica,
      ...extra,
      blockSize: options.blockSize,
      signature: options.signature,
      compare: options.compare,
      sample: options.sample,
      sampleSeed: options.seed,
      onProgress: (progress) => bar.show(progress),
      onPartial: (bitmap) => {
        partial = bitmap;
      },
    });
  } catch (cause) {
    bar.stop();
    throw options.bitmap ? await withPartial(cause, partial, options.bitmap) : cause;
  } finally {
    bar.stop();
  }
}

/** An hour's scan must not end with "no such directory". */
async function checkWritable(file: string): Promise<void> {
  const { checkReplaceable } = await import('../bitmap/drift-file.ts');
  checkReplaceable(file);
  try {
    accessSync(dirname(file), constants.W_OK);
  } catch (cause) {
    throw systemError(cause, { path: dirname(file), operation: 'writing the bitmap' });
  }
}
