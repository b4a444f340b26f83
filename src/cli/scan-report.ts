/** A scan's result for people and for machines. */

import type { ByteRange } from '../base/units.ts';
import { exactSize, humanSize } from '../base/units.ts';
import type { ScanResult } from '../scan/scan-options.ts';
import { drawDriftMap, driftMapLegend } from './drift-map.ts';
import { columns, paint, printable } from './terminal.ts';

export interface ScanNames {
  readonly production: string;
  readonly replica: string;
  readonly productionFormat: string;
  readonly replicaFormat: string;
}

/** How many ranges are printed without `--all`. */
const FIRST_RANGES = 20;

/** One JSON object, in pieces: of millions of ranges no string is made. */
export function* scanAsJson(
  result: ScanResult,
  names: ScanNames,
  warnings: readonly string[],
): Generator<string, undefined> {
  const { bitmap, size, blockSize, signature, blocks, markedBlocks } = result;
  const { comparedBytes, skippedBytes, readBytes, seconds, workers } = result;
  const front = {
    production: { path: names.production, format: names.productionFormat, size: result.productionSize },
    replica: { path: names.replica, format: names.replicaFormat, size: result.replicaSize },
    size,
    blockSize,
    signature,
    blocks,
    markedBlocks,
    coveredBlocks: bitmap.coveredBlocks,
    comparedBytes,
    skippedBytes,
    readBytes,
    indexedBytes: result.indexedBytes,
    sampledBlocks: result.sampledBlocks,
    seconds,
    workers,
    warnings: [...warnings, ...result.warnings],
  };
  // Without its closing brace: the ranges come last.
  yield `${JSON.stringify(front, null, 2).slice(0, -2)},\n  "ranges": `;
  yield* rangesAsJson(bitmap.ranges(), '\n    ');
  yield '\n}\n';
}

/** `[{"offset": …, "length": …}, …]`, in pieces. */
export function* rangesAsJson(ranges: Iterable<ByteRange>, separator = ''): Generator<string, undefined> {
  let piece = '[';
  let first = true;
  for (const range of ranges) {
    piece += `${first ? '' : ','}${separator}${JSON.stringify(range)}`;
    first = false;
    if (piece.length < 65536) continue;
    yield piece;
    piece = '';
  }
  yield `${piece}]`;
}

export interface ReportOptions {
  /** Every range, not only the first twenty. */
  readonly all?: boolean | undefined;
  /** Which indexes the scan was given. */
  readonly productionIndex?: readonly string[] | undefined;
  readonly replicaIndex?: readonly string[] | undefined;
}

export function describeScan(
  result: ScanResult,
  names: ScanNames,
  { all = false, ...options }: ReportOptions,
): string {
  const { size, blockSize, blocks, markedBlocks, bitmap } = result;
  const rate =
    result.seconds > 0 ? `, ${humanSize(Math.round(result.comparedBytes / result.seconds))}/s` : '';
  const lines = [
    line(
      'production',
      `${printable(names.production)}  ${paint('dim', `${names.productionFormat}, ${humanSize(result.productionSize)}`)}`,
    ),
    line(
      'replica',
      `${printable(names.replica)}  ${paint('dim', `${names.replicaFormat}, ${humanSize(result.replicaSize)}`)}`,
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
  if (options.productionIndex || options.replicaIndex) lines.push(line('indexes', fromIndexes(result)));
  if (!bitmap.complete) lines.push(line('looked at', `${bitmap.coveredBlocks} of ${blocks} blocks`));
  if (markedBlocks === 0) {
    lines.push(line('result', paint('green', bitmap.complete ? 'equal' : 'equal where looked at')));
    return `${lines.join('\n')}\n`;
  }
  const ranges = firstRanges(bitmap.ranges(), all);
  const share = `${markedBlocks} of ${blocks} blocks (${humanSize(bitmap.markedBytes)} of ${humanSize(size)}) in ${ranges.count} ${ranges.count === 1 ? 'range' : 'ranges'}`;
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

function fromIndexes({ indexedBytes, sampledBlocks, readBytes }: ScanResult): string {
  const verified = sampledBlocks > 0 ? `, ${sampledBlocks} blocks of them verified` : '';
  return `signatures of ${humanSize(indexedBytes)}${verified}; bytes read: ${readBytes}`;
}

function sizesDiffer({ productionSize, replicaSize }: ScanResult): string {
  const difference = humanSize(Math.abs(productionSize - replicaSize));
  const longer = productionSize > replicaSize ? 'production' : 'replica';
  return paint('yellow', `differ: ${longer} is longer by ${difference}; the shorter counts as zeros there`);
}
