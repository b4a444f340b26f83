/** `driftmap bitmap show|or|and|andnot|export|list|import` */

import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { DriftmapError, systemError } from '../base/errors.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { drawDriftMap, driftMapLegend } from './drift-map.ts';
import { Exit, explainExits, warn } from './exit.ts';
import type { LocateOptions } from './locate-report.ts';
import { allowOutsideOption, blockSizeOption, formatOption } from './options.ts';
import { firstRanges, line, listRanges, rangesAsJson } from './scan-report.ts';
import { columns, paint, print, printable } from './terminal.ts';

export function defineBitmap(program: Command): void {
  const bitmap = program
    .command('bitmap')
    .summary('look at sync bitmaps and combine them')
    .description(
      'Works on sync bitmaps (.drift files), which say which blocks of a disk must be synchronized: what QEMU calls a dirty bitmap.',
    )
    .addHelpText(
      'after',
      `
Examples:
  driftmap scan vm.raw copy.raw --bitmap vm.drift       makes one
  driftmap bitmap show vm.drift
  driftmap bitmap or monday.drift tuesday.drift -o both.drift
  driftmap bitmap list vm.qcow2                         those that QEMU keeps in an image
  driftmap bitmap import vm.qcow2 since-monday -o vm.drift
${explainExits}`,
    );
  bitmap
    .command('show')
    .description('Prints what a bitmap is about, where its marks are, and draws them.')
    .argument('<file>', "a .drift file, or a replica's .driftstate")
    .option('--json', 'print one JSON object')
    .option('--all', 'print every range, not only the first twenty')
    .option('--locate', 'print where every marked run lies on each disk: unit, offset there, length')
    .option('--production <disk>', 'the production disk, for --locate: a path or an address')
    .option('--replica <disk>', 'the replica disk, for --locate')
    .addOption(formatOption('--production-format <format>', 'the production disk'))
    .addOption(formatOption('--replica-format <format>', 'the replica disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `
Examples:
  driftmap bitmap show vm.drift
  driftmap bitmap show vm.drift --locate --production vm.qcow2 --replica lu0.img:gpt2/xfs:/vm.vmdk --json
`,
    )
    .action(show);
  for (const [name, what] of operations) {
    bitmap
      .command(name)
      .description(`Writes the blocks that are marked in ${what}. Both must be about the same two disks.`)
      .argument('<a>', 'a .drift file')
      .argument('<b>', 'another')
      .requiredOption('-o, --output <file>', 'where the result goes')
      .addHelpText(
        'after',
        `\nExample:\n  driftmap bitmap ${name} monday.drift tuesday.drift -o both.drift\n`,
      )
      .action((a: string, b: string, options: { output: string }) => combine(name, a, b, options.output));
  }
  bitmap
    .command('export')
    .description('Prints the marks as a JSON array of {offset, length}: bytes, merged, ascending.')
    .argument('<file>', 'a .drift file')
    .option('-o, --output <file>', 'write there instead of to standard output')
    .addHelpText('after', `\nExample:\n  driftmap bitmap export vm.drift | jq length\n${explainExits}`)
    .action(exportRanges);
  defineImageBitmaps(bitmap);
}

/** What reads the persistent bitmaps of images. */
function defineImageBitmaps(bitmap: Command): void {
  bitmap
    .command('list')
    .description('Lists the persistent bitmaps of a qcow2 image, and tells which of them can be trusted.')
    .argument('<image>', 'a qcow2 image, or the address of one')
    .option('--json', 'print a JSON array')
    .addHelpText('after', '\nExample:\n  driftmap bitmap list vm.qcow2\n')
    .action(list);
  bitmap
    .command('import')
    .description(
      'Writes a persistent bitmap of a qcow2 image as a sync bitmap: the blocks that QEMU saw written. One that may lack writes (in use, or not kept by a program that wrote to the image) is refused.',
    )
    .argument('<image>', 'a qcow2 image, or the address of one')
    .argument('<name>', 'the name of the bitmap')
    .requiredOption('-o, --output <file>', 'where the sync bitmap goes')
    .option('--production <disk>', 'the disk that is right (default: the image)')
    .option('--replica <disk>', 'the disk that is to become equal to it (default: the image)')
    .addOption(blockSizeOption())
    .addOption(formatOption('--production-format <format>', 'the production disk'))
    .addOption(formatOption('--replica-format <format>', 'the replica disk'))
    .addOption(allowOutsideOption())
    .addHelpText(
      'after',
      `
A block that is not marked counts as equal, which is true if the two disks were equal when the bitmap was begun.
Marks are widened to whole blocks. One of the two disks must be the image.
With --replica (or --production) the file is for scan --within of those two disks. Without, it is about the image
alone: good for index --refresh … --within and for bitmap show, export and or, and not for a scan of two disks.

Examples:
  driftmap bitmap import vm.qcow2 since-monday -o vm.drift
  driftmap bitmap import vm.qcow2 since-monday -o vm.drift --replica copy.raw --replica-format raw
${explainExits}`,
    )
    .action(importFrom);
}

const operations = [
  ['or', 'either'],
  ['and', 'both'],
  ['andnot', 'the first and not in the second'],
] as const;

/** A replica's state holds a bitmap too. */
async function load(file: string): Promise<SyncBitmap> {
  const { isState, loadState } = await import('../sync/state-file.ts');
  if (isState(file)) return loadState(file)!.bitmap;
  const { loadBitmap } = await import('../bitmap/drift-file.ts');
  return loadBitmap(file);
}

interface ShowOptions extends Partial<LocateOptions> {
  readonly locate?: boolean;
}

async function show(file: string, options: ShowOptions): Promise<void> {
  const { locate, production, replica } = options;
  if (locate !== true && (production !== undefined || replica !== undefined)) {
    throw new DriftmapError('argument', '--production and --replica go with --locate');
  }
  const bitmap = await load(file);
  if (locate !== true) return summarize(bitmap, options);
  if (production === undefined && replica === undefined) {
    const reason = 'expected a disk for --locate, or both: --production DISK --replica DISK';
    throw new DriftmapError('argument', reason);
  }
  const { showLocated } = await import('./locate-report.ts');
  await showLocated(bitmap, { ...options, production, replica });
  process.exitCode = Exit.equal;
}

async function summarize(bitmap: SyncBitmap, options: ShowOptions): Promise<void> {
  const { size, blockSize, blocks, count, coveredBlocks, header } = bitmap;
  process.exitCode = Exit.equal;
  if (options.json) {
    const { production, replica, signature } = header;
    const object = {
      size,
      blockSize,
      signature,
      blocks,
      markedBlocks: count,
      coveredBlocks,
      production,
      replica,
    };
    await print(`${JSON.stringify(object, null, 2).slice(0, -2)},\n  "ranges": `);
    for (const piece of rangesAsJson(bitmap.ranges(), '\n    ')) await print(piece);
    await print('\n}\n');
    return;
  }
  const ranges = firstRanges(bitmap.ranges(), options.all === true);
  const drawn = drawDriftMap({
    blocks,
    marks: bitmap.runs(),
    coverage: bitmap.coverageRuns(),
    width: columns() - 14,
  });
  const lines = [
    line('disks', `${humanSize(size)} in ${blocks} blocks of ${exactSize(blockSize)}`),
    line(
      'production',
      paint('dim', `${printable(header.production.identity)}, ${humanSize(header.production.size)}`),
    ),
    line('replica', paint('dim', `${printable(header.replica.identity)}, ${humanSize(header.replica.size)}`)),
    line(
      'compared',
      `by ${printable(header.signature)}; ${bitmap.complete ? 'every block' : `${coveredBlocks} of ${blocks} blocks`} looked at`,
    ),
    line('marked', `${count} blocks (${humanSize(bitmap.markedBytes)}) in ${ranges.count} ranges`),
    line('drift', `│${paint('cyan', drawn)}│`),
    line('', paint('dim', driftMapLegend)),
  ];
  if (ranges.count > 0) lines.push('', listRanges(ranges));
  await print(`${lines.join('\n')}\n`);
}

async function combine(
  operation: 'or' | 'and' | 'andnot',
  a: string,
  b: string,
  output: string,
): Promise<void> {
  const { saveBitmap } = await import('../bitmap/drift-file.ts');
  const [first, second] = [await load(a), await load(b)];
  const result =
    operation === 'or' ? first.or(second) : operation === 'and' ? first.and(second) : first.andNot(second);
  saveBitmap(result, output);
  await print(
    `${output}: ${result.count} of ${result.blocks} blocks marked (${humanSize(result.markedBytes)})\n`,
  );
  process.exitCode = Exit.equal;
}

async function exportRanges(file: string, options: { output?: string }): Promise<void> {
  const bitmap = await load(file);
  process.exitCode = Exit.equal;
  if (options.output === undefined) {
    for (const piece of rangesAsJson(bitmap.ranges())) await print(piece);
    return print('\n');
  }
  const text = `${[...rangesAsJson(bitmap.ranges())].join('')}\n`;
  try {
    // Never over something that is there: a name mistyped is a disk image lost.
    writeFileSync(options.output, text, { flag: 'wx' });
  } catch (cause) {
    throw systemError(cause, { path: options.output, operation: 'write' });
  }
}

async function list(image: string, options: { json?: boolean }): Promise<void> {
  const { listBitmaps } = await import('../disk/persistent-bitmaps.ts');
  const bitmaps = await listBitmaps(image);
  process.exitCode = Exit.equal;
  if (options.json) {
    const plain = bitmaps.map(({ refusal, ...bitmap }) => ({
      ...bitmap,
      trusted: refusal === null,
      reason: refusal?.message ?? null,
    }));
    return print(`${JSON.stringify(plain, null, 2)}\n`);
  }
  if (bitmaps.length === 0) return print('no bitmaps\n');
  const width = Math.max(4, ...bitmaps.map(({ name }) => printable(name).length));
  const row = (name: string, ...cells: string[]) =>
    `${name.padEnd(width)}  ${cells.map((cell) => cell.padEnd(11)).join('  ')}`.trimEnd();
  const lines = [paint('bold', row('name', 'granularity', 'state', 'trusted'))];
  for (const { name, granularity, enabled, refusal } of bitmaps) {
    const trusted = refusal === null ? 'yes' : 'no';
    lines.push(row(printable(name), exactSize(granularity), enabled ? 'enabled' : 'disabled', trusted));
  }
  await print(`${lines.join('\n')}\n`);
  for (const { refusal } of bitmaps) if (refusal) warn(refusal.message);
}

interface ImportCommandOptions {
  output: string;
  production?: string;
  replica?: string;
  blockSize: number;
  productionFormat?: string;
  replicaFormat?: string;
  allowOutside?: boolean;
}

const aboutImageAlone =
  'about the image alone: for index --refresh --within; for scan --within of two disks import it with --replica DISK\n';

async function importFrom(image: string, name: string, options: ImportCommandOptions): Promise<void> {
  const { openDisk } = await import('../disk/open.ts');
  const { importBitmap } = await import('../disk/persistent-bitmaps.ts');
  const { checkReplaceable, saveBitmap } = await import('../bitmap/drift-file.ts');
  const { output, blockSize, allowOutside } = options;
  checkReplaceable(output);
  const disks: VirtualDisk[] = [];
  const open = async (path: string | undefined, format: string | undefined) => {
    if (path === undefined) return undefined;
    const disk = await openDisk(path, { format, allowOutside });
    disks.push(disk);
    return disk;
  };
  try {
    const production = await open(options.production, options.productionFormat);
    const replica = await open(options.replica, options.replicaFormat);
    const sides = { production, replica, blockSize, allowOutside };
    const { bitmap, warnings } = await importBitmap({ image, name, ...sides });
    for (const warning of [...disks.flatMap((disk) => disk.warnings), ...warnings]) warn(warning);
    saveBitmap(bitmap, output);
    process.exitCode = Exit.equal;
    await print(
      `${output}: ${bitmap.count} of ${bitmap.blocks} blocks marked (${humanSize(bitmap.markedBytes)})\n`,
    );
    const isWhole = bitmap.header.signature !== 'disabled';
    if (isWhole && production === undefined && replica === undefined) await print(aboutImageAlone);
  } finally {
    for (const disk of disks) await disk.close();
  }
}
