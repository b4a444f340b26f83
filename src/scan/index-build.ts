/**
 * Makes signature indexes, from nothing or from an older one. Workers sign page after page (`page-signer.ts`); the
 * pages are written here in ascending order, aside, and the file takes its place only when it is whole.
 *
 * A refresh signs only what a bitmap says may have changed and keeps the older index's signatures elsewhere. What it
 * checks: the older index is whole, of the same unit or disk, of the same size; the bitmap is about it too and marks
 * writes, not differences; and it was not written to since the bitmap was taken. What it has to trust: that the bitmap marks every write since the
 * older index was made. A sample of the kept signatures can be verified against the bytes.
 */

import { MessageChannel } from 'node:worker_threads';
import { DriftmapError, systemError } from '../base/errors.ts';
import { DEFAULT_BLOCK_SIZE, MAX_INDEX_PAGES } from '../base/limits.ts';
import type { BlockRun, ByteCount } from '../base/units.ts';
import { blockCount, blocksTouching, bytesOfBlocks } from '../base/units.ts';
import {
  type BitmapHeader,
  COMBINED,
  MIXED_GENERATION,
  NO_SIGNATURE,
  type SyncBitmap,
} from '../bitmap/sync-bitmap.ts';
import { openDisk } from '../disk/open.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { Cursor } from '../mapping/cursor.ts';
import { SignatureIndex } from '../signature/index-file.ts';
import { type IndexHeader, type IndexSubject, PAGE_BLOCKS } from '../signature/index-table.ts';
import { IndexWriter } from '../signature/index-writer.ts';
import {
  checkStillTracking,
  checkUnchangedSinceOpened,
  settleGeneration,
  vouchesForNothing,
} from './generation.ts';
import { IndexControl, type PageReport } from './index-task.ts';
import { checkBlockSize } from './plan.ts';
import { defaultWorkers, ScanPool } from './pool.ts';
import { ProgressTotals, type ScanProgress } from './progress.ts';
import { makeSampling, type Sampling } from './sampling.ts';
import type { TaskOutcome } from './task.ts';

export interface BuildIndexOptions {
  /** What to sign: a logical unit (its bytes, at physical offsets) or a virtual disk (its bytes, at virtual ones). */
  readonly of: LogicalUnit | VirtualDisk;
  /** Where the index goes; an older one there is replaced when the new one is whole. */
  readonly path: string;
  /** Bytes of a block: a power of two, 512 … 16 MiB; 64 KiB by default. A scan uses the index in blocks of this size. */
  readonly blockSize?: ByteCount | undefined;
  readonly workers?: number | undefined;
  /** Stops it: it rejects with an `aborted` error, and nothing is written. */
  readonly signal?: AbortSignal | undefined;
  /** Called at most ten times a second, and once at the end. */
  readonly onProgress?: ((progress: ScanProgress) => void) | undefined;
}

export interface RefreshIndexOptions extends Omit<BuildIndexOptions, 'blockSize'> {
  /** The path of the older index; `path` may be the same. */
  readonly old: string;
  /**
   * Marks every block that was written since the older index was made; what it does not cover counts as written.
   * A bitmap of writes (`signature: 'none'`, as `importBitmap` makes them), not the result of a scan.
   */
  readonly within: SyncBitmap;
  /** 0 … 1: the share of the kept signatures that is verified against the bytes. 0 by default. */
  readonly sample?: number | undefined;
  /** Which blocks that are: 0 … 2^32−1; random by default. */
  readonly sampleSeed?: number | undefined;
}

export interface IndexResult {
  readonly path: string;
  readonly header: IndexHeader;
  readonly blocks: number;
  /** Blocks that are not zero. */
  readonly signatures: number;
  readonly fileLength: ByteCount;
  /** Bytes that were signed, or read and found to be zero. */
  readonly signedBytes: ByteCount;
  readonly readBytes: ByteCount;
  /** Blocks whose signature (or zero) was taken over from the older index. */
  readonly keptBlocks: number;
  readonly sampledBlocks: number;
  readonly seconds: number;
  readonly workers: number;
  readonly warnings: readonly string[];
}

/**
 * Signs every block and writes the index.
 * @throws DriftmapError `io` when what is signed changes meanwhile, `policy` when something else than an index is at
 *   the path, `aborted`, `argument`, `limit`, and what reading and writing throws
 */
export async function buildIndex(options: BuildIndexOptions): Promise<IndexResult> {
  const { blockSize = DEFAULT_BLOCK_SIZE } = options;
  checkBlockSize(blockSize);
  return new IndexRun(options, await subjectOf(options.of), blockSize, null).run();
}

/**
 * Writes the index anew, with the older one's signatures where the bitmap says that nothing was written. Errors as
 * `buildIndex`, and `mismatch` when index, bitmap and unit do not belong together or a sampled block is not as it says.
 */
export async function refreshIndex(options: RefreshIndexOptions): Promise<IndexResult> {
  const subject = await subjectOf(options.of);
  const sampling = makeSampling(options.sample, options.sampleSeed);
  const old = SignatureIndex.open(options.old);
  try {
    checkIsOf(old, subject);
    const trusted = checkBitmap(options.within, subject);
    checkBelow(old, subject);
    const refresh: Refresh = { old, within: options.within, sampling, trusted };
    return await new IndexRun(options, subject, old.header.blockSize, refresh).run();
  } finally {
    old.close();
  }
}

interface Subject {
  readonly subject: IndexSubject;
  readonly identity: string;
  readonly disk: VirtualDisk;
  /** Of what its generation does not tell. */
  readonly warnings: readonly string[];
}

interface Refresh {
  readonly old: SignatureIndex;
  readonly within: SyncBitmap;
  readonly sampling: Sampling;
  /** What was taken on trust. */
  readonly trusted: readonly string[];
}

/** A unit is signed as the raw disk on it: the same bytes at the same offsets. */
async function subjectOf(of: LogicalUnit | VirtualDisk): Promise<Subject> {
  if (of === undefined || of === null || typeof of.generation !== 'function')
    throw new DriftmapError('argument', 'expected a logical unit or a disk from openDisk as of');
  if ('map' in of && 'openedGeneration' in of) {
    checkUnchangedSinceOpened(of, 'index');
    return { subject: 'disk', identity: of.identity, disk: of, warnings: await settleGeneration(of) };
  }
  const unit = of as LogicalUnit;
  const disk = await openDisk(unit, { format: 'raw' });
  return { subject: 'unit', identity: unit.identity, disk, warnings: await settleGeneration(disk) };
}

function checkIsOf({ header, path }: SignatureIndex, { subject, identity, disk }: Subject): void {
  if (header.subject === subject && header.identity === identity && header.size === disk.size) return;
  const what = (kind: IndexSubject, whose: string, size: number) => `the ${kind} ${whose} of ${size} bytes`;
  const reason = `expected an index of ${what(subject, identity, disk.size)}, got one of ${what(header.subject, header.identity, header.size)}: make the index anew`;
  throw new DriftmapError('mismatch', reason, { path, operation: 'refresh' });
}

/** Checks what can be checked of a bitmap; returns what has to be trusted. */
function checkBitmap({ header }: SyncBitmap, { disk }: Subject): string[] {
  const stamp = [header.production, header.replica].find(({ identity }) => identity === disk.identity);
  const operation = 'refresh';
  const { name: path } = disk;
  checkStillTracking(header, path, operation);
  checkTracked(header, path);
  if (stamp === undefined) {
    const reason = `expected a bitmap about the disk ${disk.identity}, got one about ${header.production.identity} and ${header.replica.identity}: use a bitmap of this disk`;
    throw new DriftmapError('mismatch', reason, { path, operation });
  }
  if (stamp.size !== disk.size) {
    const reason = `had ${stamp.size} bytes when the bitmap was taken and has ${disk.size}: make the index anew`;
    throw new DriftmapError('mismatch', reason, { path, operation });
  }
  const now = disk.generation();
  if (stamp.generation !== now && stamp.generation !== MIXED_GENERATION) {
    const reason = `was written to since the bitmap was taken (generation ${stamp.generation}, now ${now}): take the bitmap again, or make the index anew`;
    throw new DriftmapError('mismatch', reason, { path, operation });
  }
  const trusted = [
    `${path}: trusts that the bitmap marks every write since the older index was made; what it does not mark was not read`,
  ];
  if (stamp.generation === MIXED_GENERATION || vouchesForNothing(now))
    trusted.push(`${path}: cannot be checked for writes since the bitmap was taken`);
  return trusted;
}

/**
 * A bitmap of an image speaks of writes to that image. Its backing files and parents have to be as they were.
 * Where they share a unit with it, as files of one file system do, they cannot be told apart.
 */
function checkBelow({ header, path }: SignatureIndex, { disk }: Subject): void {
  const { sources } = disk;
  const then = header.generation.split(' ');
  const refuse = (what: string) => {
    const reason = `${what}, and the bitmap speaks of writes to the top image alone: make the index anew`;
    return new DriftmapError('mismatch', reason, { path, operation: 'refresh' });
  };
  const isAlone = sources.every(({ below }) => !below);
  if (isAlone) return;
  if (then.length !== sources.length)
    throw refuse(
      `${disk.name} lay on ${then.length} units when the index was made and lies on ${sources.length}`,
    );
  sources.forEach(({ unit, below }, i) => {
    if (below && unit.generation() !== then[i])
      throw refuse(
        `${unit.name}, which holds a backing file of ${disk.name}, was written to since the index was made`,
      );
  });
}

/**
 * A comparison marks where two disks differed. A write that made them equal, or that came before the comparison
 * and after the older index, is not among its marks.
 */
function checkTracked({ signature }: BitmapHeader, path: string): void {
  if (signature === NO_SIGNATURE) return;
  const found = signature === COMBINED ? 'a combination of bitmaps' : `a comparison by '${signature}'`;
  const reason = `expected a bitmap that marks every write since the older index was made (QEMU's: IMAGE.qcow2:bitmap=NAME, or one imported from there), got ${found}, which tells nothing of what was written: make the index anew`;
  throw new DriftmapError('mismatch', reason, { path, operation: 'refresh' });
}

class IndexRun {
  private readonly options: BuildIndexOptions;
  private readonly disk: VirtualDisk;
  private readonly header: IndexHeader;
  private readonly refresh: Refresh | null;
  private readonly warnings: readonly string[];
  private readonly pages: Uint32Array;
  private readonly control = new Int32Array(new SharedArrayBuffer(4 * IndexControl.cells));
  private readonly totals: ProgressTotals;
  private readonly writer: IndexWriter;
  /** Pages that came before their turn, by their position. */
  private readonly early = new Map<number, Uint8Array | null>();
  private keptBlocks = 0;
  private sampledBlocks = 0;

  constructor(
    options: BuildIndexOptions,
    { subject, identity, disk, warnings }: Subject,
    blockSize: ByteCount,
    refresh: Refresh | null,
  ) {
    checkAborted(options.signal);
    this.options = options;
    this.disk = disk;
    this.refresh = refresh;
    this.warnings = warnings;
    this.header = { subject, identity, generation: disk.generation(), size: disk.size, blockSize };
    this.pages = pagesWithData(disk, blockSize);
    const bytes = this.pages.length * PAGE_BLOCKS * blockSize;
    const startedAt = performance.timeOrigin + performance.now();
    this.totals = new ProgressTotals(Math.min(bytes, disk.size), blockSize, startedAt);
    this.writer = new IndexWriter(options.path, this.header);
  }

  async run(): Promise<IndexResult> {
    const { options, writer, disk, header } = this;
    const stop = () => this.stop();
    options.signal?.addEventListener('abort', stop, { once: true });
    const release = disk.retain();
    try {
      const pool = new ScanPool(options.workers ?? defaultWorkers());
      try {
        await this.runWorkers(pool);
      } finally {
        await pool.close();
      }
      checkAborted(options.signal);
      if (disk.generation() !== header.generation) {
        const reason = 'was written to while it was signed: sign a snapshot of it, or stop the writes';
        throw new DriftmapError('io', reason, { path: disk.name, operation: 'index' });
      }
      return this.result(writer.commit(), pool.workers);
    } finally {
      options.signal?.removeEventListener('abort', stop);
      writer.discard();
      await release();
    }
  }

  private stop(): void {
    Atomics.store(this.control, IndexControl.stop, 1);
    Atomics.notify(this.control, IndexControl.written);
  }

  private async runWorkers(pool: ScanPool): Promise<void> {
    const { control, pages, disk, header } = this;
    const refresh = this.refresh && {
      old: this.refresh.old.handle(),
      dirty: dirtyWords(pages, this.refresh.within, header),
      sampling: this.refresh.sampling,
    };
    const slots = pool.slots(header.blockSize).slice(0, Math.max(1, Math.min(pool.workers, pages.length)));
    const failures: unknown[] = [];
    await Promise.all(
      slots.map(async (slot) => {
        const { port1, port2 } = new MessageChannel();
        const inbox = new PageInbox((report) => this.take(report));
        port1.on('message', (report: PageReport) => inbox.receive(report));
        try {
          const { blockSize } = header;
          const { modules } = pool;
          const shared = { control, disk: disk.handle(), blockSize, pages, refresh, modules };
          const task = { ...shared, slot, reports: port2 };
          const outcome: TaskOutcome = await pool.run(task);
          if (outcome.error) throw DriftmapError.fromPlain(outcome.error);
          await inbox.received(outcome.reports);
        } catch (cause) {
          this.stop();
          failures.push(cause);
        } finally {
          port1.close();
        }
      }),
    );
    if (failures.length > 0) throw systemError(failures[0], { operation: 'index' });
  }

  /** Writes the page, and those that waited for it. */
  private take(report: PageReport): void {
    const { control, early, totals, pages, header } = this;
    early.set(report.at, report.bytes);
    let written = Atomics.load(control, IndexControl.written);
    try {
      for (; early.has(written); written++) {
        const bytes = early.get(written)!;
        if (bytes) this.writer.add(pages[written]!, bytes);
        early.delete(written);
      }
    } catch (cause) {
      this.stop();
      throw cause;
    }
    Atomics.store(control, IndexControl.written, written);
    Atomics.notify(control, IndexControl.written);
    this.keptBlocks += report.keptBlocks;
    this.sampledBlocks += report.sampledBlocks;
    totals.readBytes += report.readBytes;
    totals.comparedBytes += report.signedBytes;
    const start = pages[report.at]! * PAGE_BLOCKS * header.blockSize;
    const pageBytes = Math.min(PAGE_BLOCKS * header.blockSize, header.size - start);
    totals.skippedBytes += pageBytes - report.signedBytes;
    if (totals.due()) this.options.onProgress?.(totals.snapshot());
  }

  private result(fileLength: ByteCount, workers: number): IndexResult {
    const { header, totals, options, keptBlocks, sampledBlocks, disk } = this;
    const progress = totals.snapshot();
    options.onProgress?.(progress);
    const silent = vouchesForNothing(header.generation)
      ? [`${disk.name}: does not tell whether it is written to; a scan takes this index on trust`]
      : [];
    return {
      path: options.path,
      header,
      blocks: blockCount(header.size, header.blockSize),
      signatures: this.writer.signatures,
      fileLength,
      signedBytes: progress.comparedBytes,
      readBytes: progress.readBytes,
      keptBlocks,
      sampledBlocks,
      seconds: progress.seconds,
      workers,
      warnings: [...(this.refresh?.trusted ?? []), ...silent, ...this.warnings],
    };
  }
}

/** Receives the pages of one worker: they travel apart from its outcome and may arrive after it. */
class PageInbox {
  private readonly take: (report: PageReport) => void;
  private count = 0;
  private failure: unknown;
  private settle: (() => void) | null = null;

  constructor(take: (report: PageReport) => void) {
    this.take = take;
  }

  receive(report: PageReport): void {
    try {
      if (this.failure === undefined) this.take(report);
    } catch (cause) {
      this.failure = cause ?? new DriftmapError('internal', 'a page could not be written');
    }
    this.count++;
    this.settle?.();
  }

  /** Resolves when that many have been taken; rejects with what taking one threw. */
  received(wanted: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.settle = () => {
        if (this.failure !== undefined) reject(this.failure);
        else if (this.count >= wanted) resolve();
      };
      this.settle();
    });
  }
}

function checkAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new DriftmapError('aborted', 'the index was stopped', { operation: 'index', cause: signal.reason });
}

/** The pages in which the map has anything but zeros. */
function pagesWithData({ map, size, name }: VirtualDisk, blockSize: ByteCount): Uint32Array {
  const pageBytes = PAGE_BLOCKS * blockSize;
  const cursor = new Cursor(map);
  const found: number[] = [];
  for (let offset = 0; offset < size; ) {
    const data = cursor.zeroUntil(offset);
    if (data >= size) break;
    const last = Math.ceil(cursor.dataUntil(data) / pageBytes);
    for (let page = Math.floor(data / pageBytes); page < last; page++) {
      if (found.length === MAX_INDEX_PAGES) {
        const reason = `blocks of ${blockSize} bytes are too many for so large a disk: use larger ones`;
        throw new DriftmapError('limit', reason, { path: name, operation: 'index' });
      }
      found.push(page);
    }
    offset = last * pageBytes;
  }
  const pages = new Uint32Array(new SharedArrayBuffer(4 * found.length));
  pages.set(found);
  return pages;
}

/** For each of the pages 32 words, a bit a block: set where the bitmap does not say that nothing was written. */
function dirtyWords(pages: Uint32Array, within: SyncBitmap, { size, blockSize }: IndexHeader): Uint32Array {
  const words = PAGE_BLOCKS / 32;
  const dirty = new Uint32Array(new SharedArrayBuffer(4 * words * pages.length));
  let at = 0;
  for (const run of blocksOf(within, size, blockSize)) {
    for (let block = run.start; block < run.end; block++) {
      const page = Math.floor(block / PAGE_BLOCKS);
      while (at < pages.length && pages[at]! < page) at++;
      if (at === pages.length) return dirty;
      if (pages[at]! > page) {
        block = Math.min(pages[at]! * PAGE_BLOCKS, run.end) - 1;
        continue;
      }
      const bit = block - page * PAGE_BLOCKS;
      dirty[at * words + (bit >>> 5)]! |= 1 << (bit & 31);
    }
  }
  return dirty;
}

/** The blocks that a bitmap's suspect bytes touch, where its blocks may be of another size. */
function* blocksOf(
  within: SyncBitmap,
  size: ByteCount,
  blockSize: ByteCount,
): Generator<BlockRun, undefined> {
  for (const run of within.suspectRuns()) {
    const { offset, length } = bytesOfBlocks(run, within.blockSize, within.size);
    if (offset >= size) return;
    yield blocksTouching({ offset, length: Math.min(length, size - offset) }, blockSize);
  }
}
