/** A scan's result for people and for machines. */

import type { ByteRange } from '../base/units.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { ScanResult } from '../scan/scan.ts';
import { drawDriftMap, driftMapLegend } from './drift-map.ts';
import { columns, paint } from './terminal.ts';

export interface ScanNames {
  readonly production: string;
  readonly replica: string;
  readonly productionFormat: string;
  readonly replicaFormat: string;
}

/** How many ranges are printed without `--all`. */
const FIRST_RANGES = 20;

export function scanAsJson(result: ScanResult, names: ScanNames): Record<string, unknown> {
  const {
    size,
    blockSize,
    signature,
    blocks,
    markedBlocks,
    comparedBytes,
    skippedBytes,
    readBytes,
    seconds,
    workers,
  } = result;
  return {
    production: { path: names.production, format: names.productionFormat, size: result.productionSize },
    replica: { path: names.replica, format: names.replicaFormat, size: result.replicaSize },
    size,
    blockSize,
    signature,
    blocks,
    markedBlocks,
    coveredBlocks: result.bitmap.coveredBlocks,
    ranges: result.ranges,
    comparedBytes,
    skippedBytes,
    readBytes,
    seconds,
    workers,
    warnings: result.warnings,
  };
}

export function describeScan(
  result: ScanResult,
  names: ScanNames,
  { all = false }: { all?: boolean | undefined },
): string {
  const { size, blockSize, blocks, markedBlocks, bitmap } = result;
  const rate =
    result.seconds > 0 ? `, ${humanSize(Math.round(result.comparedBytes / result.seconds))}/s` : '';
  const lines = [
    line(
      'production',
      `${names.production}  ${paint('dim', `${names.productionFormat}, ${humanSize(result.productionSize)}`)}`,
    ),
    line(
      'replica',
      `${names.replica}  ${paint('dim', `${names.replicaFormat}, ${humanSize(result.replicaSize)}`)}`,
    ),
  ];
  if (result.productionSize !== result.replicaSize) lines.push(line('sizes', sizesDiffer(result)));
  lines.push(
    line(
      'compared',
      `${humanSize(result.comparedBytes)} by ${result.signature} in blocks of ${exactSize(blockSize)}, ${result.seconds.toFixed(2)} s on ${result.workers} workers${rate}`,
    ),
  );
  if (result.skippedBytes > 0)
    lines.push(line('skipped', `${humanSize(result.skippedBytes)} known to be zero on both sides`));
  if (!bitmap.complete) lines.push(line('looked at', `${bitmap.coveredBlocks} of ${blocks} blocks`));
  if (markedBlocks === 0) {
    lines.push(line('result', paint('green', bitmap.complete ? 'equal' : 'equal where looked at')));
    return `${lines.join('\n')}\n`;
  }
  const ranges = firstRanges(bitmap.ranges(), all);
  const share = `${markedBlocks} of ${blocks} blocks (${humanSize(bitmap.markedBytes)} of ${humanSize(size)}) in ${ranges.count} ranges`;
  lines.push(line('result', paint('red', `different: ${share}`)));
  const coverage = bitmap.complete ? {} : { coverage: bitmap.coverageRuns() };
  const drawn = drawDriftMap({ blocks, marks: bitmap.runs(), width: columns() - 14, ...coverage });
  lines.push(line('drift', `│${paint('cyan', drawn)}│`), line('', paint('dim', driftMapLegend)), '');
  lines.push(listRanges(ranges));
  return `${lines.join('\n')}\n`;
}

/** The ranges that are printed, and how many there are. */
export interface RangeList {
  readonly shown: readonly ByteRange[];
  readonly count: number;
}

/** The first twenty ranges, or all of them; the others are only counted. */
export function firstRanges(ranges: Iterable<ByteRange>, all: boolean): RangeList {
  const shown: ByteRange[] = [];
  let count = 0;
  for (const range of ranges) {
    if (all || count < FIRST_RANGES) shown.push(range);
    count++;
  }
  return { shown, count };
}

export function listRanges({ shown, count }: RangeList): string {
  const width = Math.max(6, String(shown.at(-1)?.offset ?? 0).length);
  const lines = [`  ${'offset'.padStart(width)}  length`];
  for (const { offset, length } of shown) lines.push(`  ${String(offset).padStart(width)}  ${length}`);
  if (shown.length < count) lines.push(`  … and ${count - shown.length} more (--all prints them)`);
  return lines.join('\n');
}

export function line(label: string, text: string): string {
  return `${paint('bold', label.padEnd(12))}${text}`;
}

function sizesDiffer({ productionSize, replicaSize }: ScanResult): string {
  const difference = humanSize(Math.abs(productionSize - replicaSize));
  const longer = productionSize > replicaSize ? 'production' : 'replica';
  return paint('yellow', `differ: ${longer} is longer by ${difference}; the shorter counts as zeros there`);
}
