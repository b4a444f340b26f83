/**
 * The plan of a scan: which ranges have to be looked at. A pure function of geometry, maps and what is
 * already known, so it can be tested without a thread.
 *
 * The disk is divided into granules of 32 blocks: one word of a bitmap, so two ranges never share a word.
 * A range is a run of granules of about `rangeBytes`, which a worker takes whole. Granules in which both
 * maps say zero are in no range: those blocks are equal without reading, and a mostly empty petabyte costs
 * what its data costs.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_BLOCK_SIZE, MAX_PLAN_BLOCKS, MIN_BLOCK_SIZE } from '../base/limits.ts';
import type { BlockCount, BlockRun, ByteCount } from '../base/units.ts';
import { blockCount, isPowerOfTwo, MiB } from '../base/units.ts';
import { Cursor } from '../mapping/cursor.ts';
import type { ExtentMap } from '../mapping/extent-map.ts';

/** Blocks of a granule: the bits of one bitmap word. */
export const GRANULE_BLOCKS = 32;
/** Default size of a range: one at a time per worker is a few milliseconds of work, and there are enough of them to share. */
const MAX_RANGE_BYTES = 32 * MiB;
const MIN_RANGE_BYTES = 2 * MiB;
const RANGES_PER_WORKER = 16;
/** More ranges than this are made larger instead: a sparse petabyte is planned in megabytes. */
const MAX_RANGES = 2 ** 20;

export interface ScanGeometry {
  /** The larger disk's size. */
  readonly size: ByteCount;
  /** A power of two, 512 … 16 MiB. */
  readonly blockSize: ByteCount;
}

export interface PlanInput extends ScanGeometry {
  readonly production: ExtentMap;
  readonly replica: ExtentMap;
  /** Look only at these blocks (ascending, disjoint runs, the same at every call); all of them when absent. */
  readonly todo?: (() => Iterable<BlockRun>) | undefined;
  /** How many bytes one range spans, about; chosen from the size when absent. */
  readonly rangeBytes?: ByteCount | undefined;
  readonly workers: number;
}

/** Plain arrays over shared memory: the same plan serves every worker. */
export interface ScanPlan extends ScanGeometry {
  /** First granule of each range, ascending. */
  readonly starts: Uint32Array;
  /** Granules of each range. */
  readonly counts: Uint32Array;
  /** With a `todo`: position of each range's words in `todo`. */
  readonly todoAt: Uint32Array | null;
  /** One bit per block of the planned ranges, least significant bit first; null when all are to be looked at. */
  readonly todo: Uint32Array | null;
  /** Blocks of all ranges (with a `todo`: those to be looked at). */
  readonly blocks: BlockCount;
}

export function checkBlockSize(blockSize: ByteCount): void {
  if (!isPowerOfTwo(blockSize) || blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE) {
    throw new DriftmapError(
      'argument',
      `expected a block size that is a power of two from 512 to 16M, got ${blockSize}`,
    );
  }
}

/**
 * @throws DriftmapError `argument` for a block size that is none, `limit` for more blocks than a plan can count
 */
export function planScan(input: PlanInput): ScanPlan {
  const { size, blockSize } = input;
  checkBlockSize(blockSize);
  if (blockCount(size, blockSize) > MAX_PLAN_BLOCKS) {
    const reason = `blocks of ${blockSize} bytes are too many for a disk of ${size} bytes: use larger ones`;
    throw new DriftmapError('limit', reason, { operation: 'plan' });
  }
  const granules = input.todo ? granulesOfRuns(input.todo()) : granulesOfMaps(input);
  const most = rangeGranules(input);
  const builder = new RangeBuilder(most, !input.todo && most * GRANULE_BLOCKS * blockSize > MAX_RANGE_BYTES);
  for (let run = granules.next(); !run.done; run = granules.next())
    builder.add(run.value.start, run.value.end);
  const { starts, counts } = builder.finish();
  const all = blocksOfRanges(starts, counts, blockCount(size, blockSize));
  const plan = { size, blockSize, starts, counts, todoAt: null, todo: null, blocks: all };
  return input.todo ? { ...plan, ...todoWords(input.todo(), starts, counts) } : plan;
}

/** The blocks of one range, clipped at the disk's end. */
export function blocksOfRange(plan: ScanPlan, range: number): BlockRun {
  const start = plan.starts[range]! * GRANULE_BLOCKS;
  const end = Math.min(start + plan.counts[range]! * GRANULE_BLOCKS, blockCount(plan.size, plan.blockSize));
  return { start, end };
}

/** The runs of blocks between the planned ranges: equal without reading, when there is no `todo`. */
export function* blocksOutside(plan: ScanPlan): Generator<BlockRun, undefined> {
  let from = 0;
  for (let range = 0; range < plan.starts.length; range++) {
    const { start, end } = blocksOfRange(plan, range);
    if (start > from) yield { start: from, end: start };
    from = end;
  }
  const blocks = blockCount(plan.size, plan.blockSize);
  if (blocks > from) yield { start: from, end: blocks };
}

function rangeGranules({ size, blockSize, rangeBytes, workers }: PlanInput): number {
  const granuleBytes = GRANULE_BLOCKS * blockSize;
  const share = size / (workers * RANGES_PER_WORKER);
  const wanted =
    rangeBytes ?? Math.max(Math.min(MAX_RANGE_BYTES, Math.max(MIN_RANGE_BYTES, share)), size / MAX_RANGES);
  return Math.max(1, Math.round(wanted / granuleBytes));
}

interface GranuleRun {
  start: number;
  end: number;
}

/** Granules that hold data on at least one side. Yields one reused object: ten million runs make no garbage. */
function* granulesOfMaps({
  size,
  blockSize,
  production,
  replica,
}: PlanInput): Generator<GranuleRun, undefined> {
  const granuleBytes = GRANULE_BLOCKS * blockSize;
  const a = new Cursor(production);
  const b = new Cursor(replica);
  const run: GranuleRun = { start: 0, end: 0 };
  let offset = 0;
  while (offset < size) {
    const data = Math.min(zeroEnd(a, production, offset, size), zeroEnd(b, replica, offset, size));
    if (data >= size) return;
    const end = Math.max(dataEnd(a, production, data), dataEnd(b, replica, data));
    run.start = Math.floor(data / granuleBytes);
    run.end = Math.ceil(end / granuleBytes);
    yield run;
    offset = run.end * granuleBytes;
  }
}

/** Past its own end a disk reads as zeros. */
function zeroEnd(cursor: Cursor, map: ExtentMap, offset: number, size: number): number {
  if (offset >= map.size) return size;
  const end = cursor.zeroUntil(offset);
  return end >= map.size ? size : end;
}

function dataEnd(cursor: Cursor, map: ExtentMap, offset: number): number {
  return offset >= map.size ? offset : cursor.dataUntil(offset);
}

function* granulesOfRuns(runs: Iterable<BlockRun>): Generator<GranuleRun, undefined> {
  for (const { start, end } of runs) {
    yield { start: Math.floor(start / GRANULE_BLOCKS), end: Math.ceil(end / GRANULE_BLOCKS) };
  }
}

/**
 * Cuts ascending, possibly touching runs of granules into ranges; a granule is in one range only.
 *
 * Where ranges are large because the disk is huge, one takes in what lies between runs too, as far as it
 * reaches: walking over zeros costs less than five million ranges. (Not with a `todo`, which has bits for all.)
 */
class RangeBuilder {
  /** On shared memory from the start: a copy at the end would be the peak of a huge plan. */
  private starts: Uint32Array = sharedWords(256);
  private counts: Uint32Array = sharedWords(256);
  private length = 0;
  private next = 0;
  private readonly most: number;
  private readonly bridges: boolean;

  constructor(most: number, bridges: boolean) {
    this.most = most;
    this.bridges = bridges;
  }

  add(start: number, end: number): void {
    let from = Math.max(start, this.next);
    const last = this.length - 1;
    if (from < end && last >= 0 && (this.bridges || from === this.next)) {
      const reach = this.starts[last]! + this.most;
      if (reach > from) {
        from = Math.min(reach, end);
        this.counts[last] = from - this.starts[last]!;
      }
    }
    for (; from < end; from += this.most) this.push(from, Math.min(this.most, end - from));
    this.next = Math.max(this.next, end);
  }

  private push(start: number, count: number): void {
    if (this.length === this.starts.length) {
      this.starts = enlarged(this.starts);
      this.counts = enlarged(this.counts);
    }
    this.starts[this.length] = start;
    this.counts[this.length] = count;
    this.length++;
  }

  finish(): { starts: Uint32Array; counts: Uint32Array } {
    return { starts: this.starts.subarray(0, this.length), counts: this.counts.subarray(0, this.length) };
  }
}

function enlarged(array: Uint32Array): Uint32Array {
  const larger = sharedWords(array.length * 2);
  larger.set(array);
  return larger;
}

function sharedWords(length: number): Uint32Array {
  return new Uint32Array(new SharedArrayBuffer(length * 4));
}

function blocksOfRanges(starts: Uint32Array, counts: Uint32Array, diskBlocks: BlockCount): BlockCount {
  let blocks = 0;
  for (let range = 0; range < starts.length; range++) {
    const start = starts[range]! * GRANULE_BLOCKS;
    blocks += Math.min(start + counts[range]! * GRANULE_BLOCKS, diskBlocks) - start;
  }
  return blocks;
}

/** The blocks to look at as words beside the ranges, in the ranges' order. */
function todoWords(
  runs: Iterable<BlockRun>,
  starts: Uint32Array,
  counts: Uint32Array,
): Pick<ScanPlan, 'todo' | 'todoAt' | 'blocks'> {
  const todoAt = sharedWords(starts.length);
  let words = 0;
  for (let range = 0; range < starts.length; range++) {
    todoAt[range] = words;
    words += counts[range]!;
  }
  const todo = sharedWords(words);
  let range = 0;
  let blocks = 0;
  for (const run of runs) {
    blocks += run.end - run.start;
    let block = run.start;
    while (block < run.end) {
      const granule = Math.floor(block / GRANULE_BLOCKS);
      while (starts[range]! + counts[range]! <= granule) range++;
      const low = block - granule * GRANULE_BLOCKS;
      const high = Math.min(run.end - granule * GRANULE_BLOCKS, GRANULE_BLOCKS);
      todo[todoAt[range]! + granule - starts[range]!]! |= bitsBetween(low, high);
      block = (granule + 1) * GRANULE_BLOCKS;
    }
  }
  return { todo, todoAt, blocks };
}

/** Bits `[low, high)` of a word. */
function bitsBetween(low: number, high: number): number {
  const below = (bits: number) => (bits === 32 ? 0xffffffff : 2 ** bits - 1);
  return (below(high) & ~below(low)) >>> 0;
}
