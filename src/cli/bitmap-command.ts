/** `driftmap bitmap show|or|and|andnot|export` */

import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { systemError } from '../base/errors.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { drawDriftMap, driftMapLegend } from './drift-map.ts';
import { Exit, explainExits } from './exit.ts';
import { firstRanges, line, listRanges, rangesAsJson } from './scan-report.ts';
import { columns, paint, print, printable } from './terminal.ts';

export function defineBitmap(program: Command): void {
  const bitmap = program
    .command('bitmap')
    .summary('look at sync bitmaps and combine them')
    .description(
      'Works on sync bitmaps (.drift files), which say which blocks of a disk must be synchronized: what QEMU calls a dirty bitmap.',
    );
  bitmap
    .command('show')
    .description('Prints what a bitmap is about, where its marks are, and draws them.')
    .argument('<file>', "a .drift file, or a replica's .driftstate")
    .option('--json', 'print one JSON object')
    .option('--all', 'print every range, not only the first twenty')
    .option('--locate <disk>', 'print where the marked bytes lie on the units of this disk')
    .addHelpText(
      'after',
      '\nExample:\n  driftmap bitmap show vm.drift\n  driftmap bitmap show vm.raw.driftstate --locate vm.qcow2\n',
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

interface ShowOptions {
  json?: boolean;
  all?: boolean;
  locate?: string;
}

async function show(file: string, options: ShowOptions): Promise<void> {
  const bitmap = await load(file);
  if (options.locate !== undefined) return locate(bitmap, options.locate, options.json === true);
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

/** Where a site has to read, or write, what is marked: each run of a virtual disk with its place on a unit. */
async function locate(bitmap: SyncBitmap, name: string, json: boolean): Promise<void> {
  const { openDisk } = await import('../disk/open.ts');
  const { Kind } = await import('../mapping/extent-map.ts');
  const kinds = Object.fromEntries(Object.entries(Kind).map(([word, kind]) => [kind, word]));
  const disk = await openDisk(name);
  try {
    let first = true;
    if (json) await print('[');
    for (const { offset, length } of bitmap.ranges()) {
      const inside = Math.max(0, Math.min(length, disk.size - offset));
      for (const extent of disk.map.extents({ offset: Math.min(offset, disk.size), length: inside })) {
        const placed = extent.place >= 0;
        const unit = placed ? disk.units[extent.unit]!.name : null;
        const row = {
          offset: extent.offset,
          length: extent.length,
          kind: kinds[extent.kind],
          unit,
          place: extent.place,
        };
        if (json)
          await print(`${first ? '' : ','}\n  ${JSON.stringify(placed ? row : { ...row, place: null })}`);
        else
          await print(
            `${row.offset}  ${row.length}  ${placed ? `${printable(unit!)} at ${row.place}` : row.kind}\n`,
          );
        first = false;
      }
    }
    if (json) await print(first ? ']\n' : '\n]\n');
  } finally {
    await disk.close();
  }
  process.exitCode = Exit.equal;
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
