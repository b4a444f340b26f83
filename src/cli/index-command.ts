/** `driftmap index LU|DISK -o FILE.sig` */

import type { Command } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { IndexResult } from '../scan/index-build.ts';
import { loadMarks, parseBitmapSource } from './bitmap-source.ts';
import { Exit, explainExits, warn } from './exit.ts';
import {
  allowOutsideOption,
  blockSizeOption,
  formatOption,
  sampleOption,
  seedOption,
  workersOption,
} from './options.ts';
import { createProgressBar } from './progress-bar.ts';
import { line } from './scan-report.ts';
import { stopOnSignals } from './stop.ts';
import { paint, print, printable } from './terminal.ts';

interface IndexCommandOptions {
  output: string;
  blockSize: number;
  unit?: boolean;
  refresh?: string;
  within?: string;
  sample?: number;
  seed?: number;
  workers?: number;
  json?: boolean;
  quiet?: boolean;
  format?: string;
  allowOutside?: boolean;
}

export function defineIndex(program: Command): void {
  program
    .command('index')
    .summary('keep the signatures of a unit or a disk, so that scans need not read it')
    .description(
      'Signs every block (blake3) and writes a signature index, which scans use in place of the bytes. A raw file or a device is indexed as a logical unit, at physical offsets: the index serves every disk that lies on it. An image or an address is indexed as a virtual disk.',
    )
    .argument('<source>', 'a logical unit or a disk: a file, a block device, an image, an address')
    .requiredOption('-o, --output <file>', 'where the index goes')
    .addOption(blockSizeOption())
    .option('--unit', 'index the bytes of the file itself, at physical offsets, whatever image is in it')
    .option('--refresh <file>', 'keep the signatures of this older index where --within marks nothing')
    .option(
      '--within <bitmap>',
      'with --refresh: what was written since: IMAGE.qcow2:bitmap=NAME, or a .drift file imported from one',
    )
    .addOption(sampleOption('with --refresh: verify this share of the kept signatures against the bytes'))
    .addOption(seedOption())
    .addOption(workersOption())
    .option('--json', 'print one JSON object')
    .option('-q, --quiet', 'no progress bar')
    .addOption(formatOption('-f, --format <format>', 'the disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `
What a scan checks before it uses an index: that it is whole, that it is of this very unit or disk, and that
nothing was written there since (size and times of a file; block devices do not tell of writes, and a warning
says so). What a refresh trusts: that --within marks every write since the older index was made. What a scan
found is refused there: it marks differences, and a write may have made two disks equal.

Examples:
  driftmap index lu0.img -o lu0.sig
  driftmap index vm.qcow2 -o vm.sig --block-size 1M
  driftmap index vm.qcow2 -o vm.sig --refresh vm.sig --within vm.qcow2:bitmap=since-monday --sample 1%
  driftmap scan vm.qcow2 copy.raw --production-index vm.sig --replica-index copy.sig
${explainExits}`,
    )
    .action(runIndex);
}

async function runIndex(source: string, options: IndexCommandOptions, command: Command): Promise<void> {
  checkTogether(options, command);
  const stop = stopOnSignals();
  const { checkIndexReplaceable } = await import('../signature/index-writer.ts');
  checkIndexReplaceable(options.output);
  const { disk, unit } = await openSource(source, options);
  const bar = await createProgressBar(options.quiet === true || options.json === true, false);
  try {
    for (const warning of disk.warnings) warn(warning);
    const result = await makeIndex({ disk, unit }, options, stop, (progress) => bar.show(progress));
    bar.stop();
    for (const warning of result.warnings) warn(warning);
    process.exitCode = Exit.equal;
    await print(options.json ? asJson(result) : describe(result, source));
  } finally {
    bar.stop();
    await disk.close();
    await unit?.close();
  }
}

function checkTogether(options: IndexCommandOptions, command: Command): void {
  const { refresh, within, sample } = options;
  if ((refresh === undefined) !== (within === undefined))
    throw new DriftmapError('argument', '--refresh and --within go together');
  if (refresh === undefined && sample !== undefined)
    throw new DriftmapError('argument', '--sample verifies what --refresh keeps: it goes with --refresh');
  if (options.unit && within !== undefined && parseBitmapSource(within) !== null) {
    const reason = `${within}: a bitmap of an image speaks of virtual offsets and cannot refresh the index of a unit, which has physical ones: index the disk (without --unit), or make the unit's index anew`;
    throw new DriftmapError('argument', reason);
  }
  if (refresh !== undefined && command.getOptionValueSource('blockSize') !== 'default')
    throw new DriftmapError(
      'argument',
      '--refresh keeps the block size of the older index: leave --block-size out',
    );
}

/** The disk, and the unit itself where it is the unit that is indexed. */
async function openSource(
  source: string,
  options: IndexCommandOptions,
): Promise<{ disk: VirtualDisk; unit: LogicalUnit | null }> {
  const { openDisk } = await import('../disk/open.ts');
  const { openFileUnit } = await import('../lu/file-unit.ts');
  if (options.unit) {
    const unit = openFileUnit(source);
    return { unit, disk: await openDisk(unit, { format: 'raw' }) };
  }
  const disk = await openDisk(source, { format: options.format, allowOutside: options.allowOutside });
  const isWholeUnit = disk.format === 'raw' && disk.units.length === 1 && disk.map.count <= 1;
  if (!isWholeUnit || disk.units[0]!.size !== disk.size) return { disk, unit: null };
  return { disk, unit: disk.units[0]! };
}

async function makeIndex(
  { disk, unit }: { disk: VirtualDisk; unit: LogicalUnit | null },
  options: IndexCommandOptions,
  signal: AbortSignal,
  onProgress: Parameters<typeof import('../scan/index-build.ts').buildIndex>[0]['onProgress'],
): Promise<IndexResult> {
  const { buildIndex, refreshIndex } = await import('../scan/index-build.ts');
  const { output: path, workers, refresh, within, sample, seed: sampleSeed, blockSize } = options;
  const common = { of: unit ?? disk, path, workers, signal, onProgress };
  if (refresh === undefined || within === undefined) return buildIndex({ ...common, blockSize });
  const bitmap = await loadMarks(within, {
    production: disk,
    replica: disk,
    allowOutside: options.allowOutside,
  });
  return refreshIndex({ ...common, old: refresh, within: bitmap, sample, sampleSeed });
}

function asJson(result: IndexResult): string {
  const { path, header, blocks, signatures, fileLength, signedBytes, readBytes } = result;
  const { keptBlocks, sampledBlocks, seconds, workers, warnings } = result;
  const figures = { signedBytes, readBytes, keptBlocks, sampledBlocks, seconds, workers, warnings };
  return `${JSON.stringify({ path, ...header, blocks, nonzeroBlocks: signatures, fileLength, ...figures }, null, 2)}\n`;
}

function describe(result: IndexResult, source: string): string {
  const { header, blocks, signatures, signedBytes, readBytes, keptBlocks, sampledBlocks, seconds } = result;
  const what = header.subject === 'unit' ? 'logical unit, physical offsets' : 'virtual disk, virtual offsets';
  const rate = seconds > 0 ? `, ${humanSize(Math.round(signedBytes / seconds))}/s` : '';
  const lines = [
    line('of', `${printable(source)}  ${paint('dim', `${what}, ${humanSize(header.size)}`)}`),
    line('blocks', `${blocks} of ${exactSize(header.blockSize)}, ${signatures} of them not zero`),
    line(
      'signed',
      `${humanSize(signedBytes)}, read ${humanSize(readBytes)}, ${seconds.toFixed(2)} s on ${result.workers} workers${rate}`,
    ),
  ];
  if (keptBlocks > 0) {
    const verified = sampledBlocks > 0 ? `; ${sampledBlocks} of them verified` : '';
    lines.push(line('kept', `${keptBlocks} blocks of the older index${verified}`));
  }
  lines.push(line('index', `${printable(result.path)}  ${paint('dim', humanSize(result.fileLength))}`));
  return `${lines.join('\n')}\n`;
}
