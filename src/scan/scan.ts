/**
 * The coordinator: compares two virtual disks block by block and marks in a sync bitmap where they differ.
 *
 * open → map → **plan → read → sign → compare → mark**. The plan is made here, from both maps; workers
 * pull its ranges, and what they report is merged here, range by range. A range counts when it was looked
 * at to its end: then its blocks are covered and its marks are set, both in one step. So whatever stops a
 * scan, the bitmap so far is true, and a later scan can resume from it.
 */

import { randomBytes } from 'node:crypto';
import { MessageChannel } from 'node:worker_threads';
import { DriftmapError, systemError } from '../base/errors.ts';
import { DEFAULT_BLOCK_SIZE } from '../base/limits.ts';
import type { BlockRun, ByteCount, ByteRange } from '../base/units.ts';
import { blockCount } from '../base/units.ts';
import { type DiskStamp, SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { type AlgorithmName, algorithmByName, type SignatureAlgorithm } from '../signature/algorithm.ts';
import {
  checkStillTracking,
  checkUnchangedSinceOpened,
  staleMarks,
  vouchesForNothing,
} from './generation.ts';
import {
  blocksOfRange,
  blocksOutside,
  checkBlockSize,
  GRANULE_BLOCKS,
  planScan,
  type ScanPlan,
} from './plan.ts';
import { defaultWorkers, ScanPool } from './pool.ts';
import { ProgressTotals } from './progress.ts';
import { ReportInbox } from './report-inbox.ts';
import { type PreparedIndexes, prepareIndexes, settleIndexed, usesIndexes } from './scan-indexes.ts';
import {
  checkLive,
  checkOptions,
  checkSameSignature,
  type ScanOptions,
  type ScanResult,
} from './scan-options.ts';
import { type CompareMethod, Control, type RangeReport, type TaskOutcome } from './task.ts';

/** A scan with threads of its own, made for it and ended with it. */
export async function scan(
  options: ScanOptions & { readonly workers?: number | undefined },
): Promise<ScanResult> {
  const scanner = createScanner({ workers: options.workers });
  try {
    return await scanner.scan(options);
  } finally {
    await scanner.close();
  }
}

/** A scanner that keeps its threads and memory warm from scan to scan. */
export function createScanner(options: { readonly workers?: number | undefined } = {}): Scanner {
  return new Scanner(new ScanPool(options.workers ?? defaultWorkers()));
}

export class Scanner {
  private readonly pool: ScanPool;
  private queue: Promise<unknown> = Promise.resolve();
  private closed = false;

  constructor(pool: ScanPool) {
    this.pool = pool;
  }

  get workers(): number {
    return this.pool.workers;
  }

  /** Scans one pair at a time: a call made during another waits for it. */
  async scan(options: ScanOptions): Promise<ScanResult> {
    if (this.closed) throw new DriftmapError('argument', 'this scanner is closed');
    const before = this.queue;
    const run = (async () => {
      await before;
      const calledAt = performance.timeOrigin + performance.now();
      checkOptions(options);
      const warnings = usesIndexes(options) ? await settleIndexed(options) : [];
      return new ScanRun(this.pool, options, calledAt, warnings).run();
    })();
    this.queue = run.catch(() => undefined);
    return run;
  }

  /** Waits for the scan under way, then ends the threads. */
  async close(): Promise<void> {
    this.closed = true;
    await this.queue;
    await this.pool.close();
  }
}

/** One scan, from plan to result. */
class ScanRun {
  private readonly pool: ScanPool;
  private readonly options: ScanOptions;
  private readonly calledAt: number;
  /** Of what the disks' generations do not tell. */
  private readonly warnings: readonly string[];
  private readonly compare: CompareMethod;
  private readonly algorithm: SignatureAlgorithm;
  private readonly plan: ScanPlan;
  private readonly bitmap: SyncBitmap;
  private readonly totals: ProgressTotals;
  private readonly control = new Int32Array(new SharedArrayBuffer(4 * Control.cells));
  private readonly generations: readonly [string, string];
  private readonly indexes: PreparedIndexes | null;
  private indexedBytes = 0;
  private sampledBlocks = 0;

  constructor(pool: ScanPool, options: ScanOptions, calledAt: number, warnings: readonly string[]) {
    const { production, replica, blockSize = DEFAULT_BLOCK_SIZE } = options;
    checkAborted(options.signal);
    checkBlockSize(blockSize);
    for (const disk of [production, replica]) checkUnchangedSinceOpened(disk, 'scan');
    this.pool = pool;
    this.options = options;
    this.calledAt = calledAt;
    this.warnings = warnings;
    this.compare = options.compare ?? 'signatures';
    this.algorithm = algorithmByName(options.signature ?? 'nh128');
    const size = Math.max(production.size, replica.size);
    this.generations = [production.generation(), replica.generation()];
    this.bitmap = new SyncBitmap({
      size,
      blockSize,
      signature: this.comparedBy,
      production: stamp(production),
      replica: stamp(replica),
    });
    checkLive(options.live, this.bitmap);
    this.indexes = prepareIndexes(options, this.comparedBy, blockSize);
    const todo = this.todo();
    this.plan = planScan({
      size,
      blockSize,
      production: production.map,
      replica: replica.map,
      todo,
      rangeBytes: options.rangeBytes,
      workers: pool.workers,
    });
    this.totals = new ProgressTotals(todo ? bytesOf(todo(), blockSize, size) : size, blockSize, calledAt);
  }

  private get comparedBy(): AlgorithmName | 'bytes' {
    return this.compare === 'bytes' ? 'bytes' : (this.algorithm.name as AlgorithmName);
  }

  /** The blocks to look at when not all of them; checks that what was handed in belongs to these disks. */
  private todo(): (() => Iterable<BlockRun>) | undefined {
    const { within, resume } = this.options;
    if (within) {
      this.bitmap.checkSameDisks(within, '--within');
      checkStillTracking(within.header, this.options.production.name, 'scan');
    }
    if (!resume) return within ? () => within.runs() : undefined;
    this.bitmap.checkSameDisks(resume, '--resume');
    this.bitmap.checkSameGeneration(resume, '--resume');
    checkSameSignature(resume, this.comparedBy);
    this.bitmap.adopt(resume);
    const { blocks } = this.bitmap;
    return () => uncovered(within ? within.runs() : [{ start: 0, end: blocks }], resume);
  }

  async run(): Promise<ScanResult> {
    const { signal } = this.options;
    const stop = () => Atomics.store(this.control, Control.stop, 1);
    signal?.addEventListener('abort', stop, { once: true });
    // A disk that is closed meanwhile stays open until nobody reads it: its descriptor must not become another file's.
    const release = [this.options.production, this.options.replica].map((disk) => disk.retain());
    const releaseIndexes = this.indexes?.retain();
    try {
      if (this.plan.todo === null) this.coverOutside();
      const outcomes = await this.runWorkers(stop);
      checkAborted(signal);
      return this.result(outcomes);
    } catch (cause) {
      // What was written meanwhile is as true of a part as of the whole.
      if (this.options.live) this.bitmap.markLive(this.options.live);
      // An index that was found to be wrong at one block may be wrong at others, which count as compared.
      if (!(cause instanceof DriftmapError && cause.operation === 'verify'))
        this.options.onPartial?.(this.bitmap);
      throw cause;
    } finally {
      for (const letGo of release) await letGo();
      releaseIndexes?.();
      signal?.removeEventListener('abort', stop);
    }
  }

  /** What no range holds is zero on both sides. */
  private coverOutside(): void {
    const { size, blockSize } = this.plan;
    for (const run of blocksOutside(this.plan)) {
      this.bitmap.cover(run);
      this.totals.skippedBytes += Math.min(run.end * blockSize, size) - run.start * blockSize;
    }
  }

  private async runWorkers(stop: () => void): Promise<TaskOutcome[]> {
    const { pool, plan, control, compare, algorithm } = this;
    const { production, replica } = this.options;
    const key = algorithm.keyed && compare === 'signatures' ? randomBytes(32) : null;
    const handles = { production: production.handle(), replica: replica.handle() };
    const slots = pool
      .slots(plan.blockSize)
      .slice(0, Math.max(1, Math.min(pool.workers, plan.starts.length)));
    const failures: unknown[] = [];
    const outcomes = await Promise.all(
      slots.map(async (slot) => {
        const { port1, port2 } = new MessageChannel();
        const inbox = new ReportInbox(port1, (report) => this.merge(report));
        try {
          const outcome = await pool.run({
            control,
            plan,
            compare,
            algorithm: algorithm.name,
            key,
            indexes: this.indexes?.task ?? null,
            modules: pool.modules,
            slot,
            reports: port2,
            ...handles,
          });
          await inbox.received(outcome.reports);
          if (outcome.error) failures.push(DriftmapError.fromPlain(outcome.error));
          return outcome;
        } catch (cause) {
          stop();
          failures.push(cause);
          return null;
        } finally {
          port1.close();
        }
      }),
    );
    key?.fill(0);
    if (failures.length > 0) throw systemError(failures[0], { operation: 'scan' });
    return outcomes.filter((outcome) => outcome !== null);
  }

  /** Makes finished ranges true: their marks, and that they were looked at. */
  private merge(report: RangeReport): void {
    const { plan, bitmap, totals } = this;
    let at = 0;
    for (const range of report.markedRanges) {
      const count = plan.counts[range]!;
      const words = report.words.subarray(at, at + count);
      bitmap.orWords(plan.starts[range]! * GRANULE_BLOCKS, words);
      for (const word of words) totals.markedBlocks += bitsOf(word);
      at += count;
    }
    for (const range of report.ranges) {
      if (plan.todo === null) bitmap.cover(blocksOfRange(plan, range));
      else {
        const words = plan.todo.subarray(plan.todoAt![range]!, plan.todoAt![range]! + plan.counts[range]!);
        bitmap.coverWords(plan.starts[range]! * GRANULE_BLOCKS, words);
      }
    }
    totals.comparedBytes += report.comparedBytes;
    totals.skippedBytes += report.skippedBytes;
    totals.readBytes += report.readBytes;
    this.indexedBytes += report.indexedBytes;
    this.sampledBlocks += report.sampledBlocks;
    if (totals.due()) this.options.onProgress?.(totals.snapshot());
  }

  private result(outcomes: readonly TaskOutcome[]): ScanResult {
    const { bitmap, totals, plan, options } = this;
    if (options.live) bitmap.markLive(options.live);
    const progress = totals.snapshot();
    options.onProgress?.(progress);
    let ranges: readonly ByteRange[] | undefined;
    return {
      bitmap,
      size: plan.size,
      productionSize: options.production.size,
      replicaSize: options.replica.size,
      blockSize: plan.blockSize,
      signature: this.comparedBy,
      blocks: blockCount(plan.size, plan.blockSize),
      markedBlocks: bitmap.count,
      get ranges() {
        ranges ??= [...bitmap.ranges()];
        return ranges;
      },
      comparedBytes: progress.comparedBytes,
      skippedBytes: progress.skippedBytes,
      readBytes: progress.readBytes,
      indexedBytes: this.indexedBytes,
      sampledBlocks: this.sampledBlocks,
      seconds: progress.seconds,
      startupSeconds: (Math.min(...outcomes.map((outcome) => outcome.begunAt)) - this.calledAt) / 1000,
      workers: this.pool.workers,
      warnings: [
        ...staleMarks(this.options, this.generations),
        ...this.resumedOnTrust(),
        ...(this.indexes?.warnings ?? []),
        ...this.warnings,
        ...this.changedMeanwhile(),
      ],
    };
  }

  /** Block devices and memory do not tell of writes: what an earlier scan saw of them is taken on trust. */
  private resumedOnTrust(): string[] {
    if (!this.options.resume) return [];
    const { production, replica } = this.options;
    return [production, replica]
      .filter((disk) => vouchesForNothing(disk.generation()))
      .map(
        (disk) =>
          `${disk.name}: does not tell whether it was written to since the scan that was resumed; blocks compared then are not compared again`,
      );
  }

  /** A disk that is written to while it is scanned, without live marks, may differ where nothing is marked. */
  private changedMeanwhile(): string[] {
    if (this.options.live) return [];
    const { production, replica } = this.options;
    const changed = [production, replica].filter((disk, i) => disk.generation() !== this.generations[i]);
    return changed.map(
      (disk) =>
        `${disk.name}: changed during the scan; blocks written meanwhile may be missing from the marks`,
    );
  }
}

function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new DriftmapError('aborted', 'the scan was stopped', { operation: 'scan', cause: signal.reason });
}

function stamp(disk: VirtualDisk): DiskStamp {
  return { identity: disk.identity, size: disk.size, generation: disk.generation() };
}

/** The parts of ascending runs that a bitmap does not cover. */
function* uncovered(runs: Iterable<BlockRun>, bitmap: SyncBitmap): Generator<BlockRun, undefined> {
  const covered = bitmap.coverageRuns()[Symbol.iterator]();
  let next = covered.next();
  for (const { start, end } of runs) {
    let from = start;
    while (from < end) {
      while (!next.done && next.value.end <= from) next = covered.next();
      const hole = next.done ? end : Math.min(end, next.value.start);
      if (hole > from) yield { start: from, end: hole };
      from = next.done ? end : Math.max(hole, Math.min(end, next.value.end));
    }
  }
}

function bytesOf(runs: Iterable<BlockRun>, blockSize: ByteCount, size: ByteCount): ByteCount {
  let bytes = 0;
  for (const { start, end } of runs) bytes += Math.min(end * blockSize, size) - start * blockSize;
  return bytes;
}

/** Set bits of a 32-bit word. */
function bitsOf(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return (((bits + (bits >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}
