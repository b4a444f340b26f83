/**
 * Takes a snapshot: all disks of a group as of one point, into a repository.
 *
 * Blocks and pages are sent in any order, many at a time; the manifest comes last, when all of them are in the store.
 * So whatever stops an upload leaves no snapshot that is half there, only objects without one, which the next run finds
 * and does not send again, and which pruning removes one day. Memory is bounded by what is under way and by the names
 * that are remembered, whatever the size of the disks.
 *
 * How an upload and pruning that run at one time do each other no harm is argued in `prune.ts`; what an upload has to
 * do for it is here: it holds its parent by a draft before it looks at anything, at the end it holds what it is about
 * to name, and then looks whether anything was swept meanwhile. If so, and if it concerned what is named, the disks are
 * gone over once more: they have not changed, and what is missing is sent again.
 */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_MAX_CONFIGURATION_BYTES } from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import type { Time } from '../journal/record.ts';
import type { RateLimiter } from '../wire/limiter.ts';
import { checkAborted, DEFAULT_CONNECTIONS } from './crew.ts';
import { DiskTaker, type SnapshotDiskSource } from './disk-taker.ts';
import { Draft } from './draft.ts';
import { hasher } from './hasher.ts';
import {
  encodeManifest,
  type SnapshotContents,
  type SnapshotDisk,
  type SnapshotInfo,
  type SnapshotPoint,
} from './manifest.ts';
import { ObjectKind } from './object-format.ts';
import { Pieces } from './pieces.ts';
import type { Repository } from './repository.ts';
import { defaultSweepTimes, type SweepTimes, SweepWatch } from './sweep.ts';
import { Uploader } from './uploader.ts';

export interface TakeRequest {
  readonly group: string;
  readonly disks: readonly SnapshotDiskSource[];
  readonly point: SnapshotPoint;
  /** An earlier snapshot of these disks, against which `changed` is; null to look at everything. */
  readonly parent: SnapshotInfo | null;
  /** Of the virtual machine; kept in the manifest. */
  readonly configuration?: string | null | undefined;
}

export interface SnapshotProgress {
  /** `finishing`: all is read, the last objects are on their way. */
  readonly phase: 'sending' | 'finishing';
  readonly totalBytes: ByteCount;
  readonly doneBytes: ByteCount;
  readonly bytesRead: ByteCount;
  readonly blocksSent: number;
  readonly blocksKnown: number;
  readonly bytesSent: ByteCount;
  /** Of `doneBytes`, since the beginning. */
  readonly bytesPerSecond: number;
  readonly secondsLeft: number | undefined;
}

export interface TakeOptions {
  /** Objects on their way at a time; 16 when absent. */
  readonly connections?: number | undefined;
  /**
   * Threads that read and sign the disks; one, or two on four processors and more, when absent. With 0, and of what is
   * small, all is done by the caller's thread.
   */
  readonly threads?: number | undefined;
  readonly limiter?: RateLimiter | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: SnapshotProgress) => void) | undefined;
  /** Milliseconds since 1970. */
  readonly now?: (() => Time) | undefined;
  /** For tests. */
  readonly sweepTimes?: SweepTimes | undefined;
}

export interface TakenSnapshot extends SnapshotInfo {
  readonly bytesRead: ByteCount;
  /** Bytes read of blocks that nobody had said to be changed: 0 where all changes were known. */
  readonly bytesScanned: ByteCount;
  /** Of the blocks that were said to be changed; null where that was not known of every disk. */
  readonly changedBytes: ByteCount | null;
  readonly blocksSent: number;
  /** Blocks that the store had. */
  readonly blocksKnown: number;
  readonly pagesSent: number;
  readonly bytesSent: ByteCount;
  readonly milliseconds: number;
}

const PROGRESS_MS = 100;
/** Sweeps that begin after the second time leave everything alone, so a third one finds nothing missing. */
const MAX_PASSES = 4;

/**
 * @throws DriftmapError `argument`, `not-found` (the parent is gone), `aborted`, and what disks and stores throw. What
 *   was sent until then stays, and is not sent again
 */
export async function takeSnapshot(
  repository: Repository,
  request: TakeRequest,
  options: TakeOptions = {},
): Promise<TakenSnapshot> {
  checkRequest(repository, request);
  checkAborted(options.signal);
  const run = new TakeRun(repository, request, options);
  return run.run();
}

function checkRequest(repository: Repository, { disks, parent, configuration }: TakeRequest): void {
  const bad = (reason: string) => new DriftmapError('argument', reason, { path: repository.store.name });
  if (disks.length === 0) throw bad('expected disks to take a snapshot of');
  const names = new Set(disks.map(({ name }) => name));
  if (names.size < disks.length) throw bad('two disks have one name');
  if (configuration != null && Buffer.byteLength(configuration) > SNAPSHOT_MAX_CONFIGURATION_BYTES)
    throw bad(`expected a configuration of at most ${SNAPSHOT_MAX_CONFIGURATION_BYTES} bytes`);
  if (parent !== null && parent.repository !== repository.id)
    throw new DriftmapError('mismatch', 'the parent is in another repository', {
      path: repository.store.name,
    });
}

class TakeRun {
  private readonly repository: Repository;
  private readonly request: TakeRequest;
  private readonly options: TakeOptions;
  private readonly draft: Draft;
  private readonly began = performance.now();
  private toldAt = Number.NEGATIVE_INFINITY;
  private takers: DiskTaker[] = [];
  private uploader: Uploader;
  private pieces: Pieces | null = null;
  /** Of passes before this one. */
  private before = { bytesRead: 0, bytesScanned: 0, blocksSent: 0, pagesSent: 0, bytesSent: 0 };

  constructor(repository: Repository, request: TakeRequest, options: TakeOptions) {
    this.repository = repository;
    this.request = request;
    this.options = options;
    this.draft = new Draft(repository, options.signal);
    this.uploader = new Uploader(repository, options);
  }

  async run(): Promise<TakenSnapshot> {
    const { repository, draft } = this;
    const { signal, now = Date.now, sweepTimes = defaultSweepTimes } = this.options;
    try {
      await this.holdParent();
      const watch = await SweepWatch.begin(repository, { draft, signal, times: sweepTimes });
      let disks = await this.pass();
      await this.holdResult(disks);
      for (let passes = 1; await watch.mayHaveHit(disks); passes++) {
        if (passes === MAX_PASSES)
          throw new DriftmapError('io', 'the store loses what is put into it', {
            path: repository.store.name,
          });
        disks = await this.pass();
        await this.holdResult(disks);
      }
      const info = await this.putManifest(disks, now());
      await draft.remove();
      return this.result(info);
    } catch (error) {
      await this.uploader.abandon(error);
      await this.pieces?.close();
      await draft.remove();
      throw error;
    }
  }

  private async holdParent(): Promise<undefined> {
    const { repository, draft } = this;
    const { parent } = this.request;
    const { signal } = this.options;
    await draft.hold(parent?.disks ?? []);
    if (parent === null) return undefined;
    const key = `snapshots/${parent.id}`;
    if (await repository.store.has(key, { signal })) return undefined;
    const reason = 'the snapshot before was removed: take one without it';
    throw new DriftmapError('not-found', reason, { path: `${repository.store.name}/${key}` });
  }

  /** The parent as well: it is gone over again if something was swept. */
  private holdResult(disks: readonly SnapshotDisk[]): Promise<undefined> {
    return this.draft.hold([...(this.request.parent?.disks ?? []), ...disks]);
  }

  /** Goes over all disks; when it returns, all that they have is in the store. */
  private async pass(): Promise<SnapshotDisk[]> {
    const { repository, request } = this;
    const { signal } = this.options;
    this.keepCounts();
    const uploader = new Uploader(repository, this.options);
    this.uploader = uploader;
    this.takers = request.disks.map((source) => {
      const parent =
        request.parent?.disks.find(({ name, size }) => name === source.name && size === source.size) ?? null;
      return new DiskTaker({ repository, source, parent, uploader, signal, onStep: () => this.step() });
    });
    const pieces = this.makePieces();
    this.pieces = pieces;
    const disks: SnapshotDisk[] = [];
    for (const taker of this.takers) disks.push(await taker.take(pieces));
    this.tell('finishing');
    // All is read: the threads end while the last objects are sent.
    await Promise.all([uploader.done(), pieces.close()]);
    return disks;
  }

  private makePieces(): Pieces {
    const { repository, request } = this;
    const { connections = DEFAULT_CONNECTIONS, threads } = this.options;
    // Else the parent has most of what is read.
    const isNew = request.parent === null || request.disks.every(({ changed }) => changed !== null);
    return new Pieces({
      blockSize: repository.blockSize,
      plainAt: repository.plainAt,
      connections,
      threads,
      totalBytes: this.takers.reduce((sum, taker) => sum + taker.totalBytes, 0),
      wants: {
        checksums: isNew && !repository.isEncrypted,
        looks: isNew && repository.compression !== 'none',
      },
    });
  }

  private async putManifest(disks: readonly SnapshotDisk[], taken: Time): Promise<SnapshotInfo> {
    const { repository, request } = this;
    const { group, point, parent, configuration = null } = request;
    const { bytesRead, blocksSent, bytesSent } = this.counts();
    const contents: SnapshotContents = {
      repository: repository.id,
      group,
      taken,
      point: {
        sequence: point.sequence,
        time: point.time,
        consistency: point.consistency,
        bookmark: point.bookmark,
        journal: point.journal,
      },
      parent: parent?.id ?? null,
      configuration,
      blockSize: repository.blockSize,
      disks,
      counts: { bytesRead, blocksSent, bytesSent },
    };
    const bytes = encodeManifest(contents);
    const name = repository.nameOf(hasher().sign(bytes));
    checkAborted(this.options.signal);
    await repository.put(ObjectKind.snapshot, name, bytes, { signal: this.options.signal });
    return { ...contents, id: Buffer.from(name).toString('hex') };
  }

  /** Between two pieces: others have their turn, the draft its renewal, and who waits is told. */
  private async step(): Promise<undefined> {
    checkAborted(this.options.signal);
    this.tell('sending');
    await new Promise((resolve) => setImmediate(resolve));
    await this.draft.renew();
    return undefined;
  }

  private tell(phase: SnapshotProgress['phase']): void {
    const { onProgress } = this.options;
    const now = performance.now();
    if (onProgress === undefined || (phase === 'sending' && now - this.toldAt < PROGRESS_MS)) return;
    this.toldAt = now;
    const sum = (of: (taker: DiskTaker) => number) =>
      this.takers.reduce((total, taker) => total + of(taker), 0);
    const totalBytes = sum((taker) => taker.totalBytes);
    const doneBytes = sum((taker) => taker.doneBytes);
    const seconds = Math.max((now - this.began) / 1000, 1e-3);
    const bytesPerSecond = doneBytes / seconds;
    const { blocksKnown } = this.uploader;
    const secondsLeft = doneBytes === 0 ? undefined : (totalBytes - doneBytes) / bytesPerSecond;
    onProgress({ phase, totalBytes, doneBytes, ...this.counts(), blocksKnown, bytesPerSecond, secondsLeft });
  }

  private counts() {
    const { before, takers } = this;
    const { blocksSent, pagesSent, bytesSent } = this.uploader;
    return {
      bytesRead: takers.reduce((sum, taker) => sum + taker.bytesRead, before.bytesRead),
      bytesScanned: takers.reduce((sum, taker) => sum + taker.bytesScanned, before.bytesScanned),
      blocksSent: before.blocksSent + blocksSent,
      pagesSent: before.pagesSent + pagesSent,
      bytesSent: before.bytesSent + bytesSent,
    };
  }

  private keepCounts(): void {
    this.before = this.counts();
    this.takers = [];
  }

  private result(info: SnapshotInfo): TakenSnapshot {
    const changed = this.takers.map(({ changedBytes }) => changedBytes);
    const isKnown = changed.every((bytes) => bytes !== null);
    return {
      ...info,
      ...this.counts(),
      changedBytes: isKnown ? changed.reduce((sum, bytes) => sum + bytes!, 0) : null,
      blocksKnown: this.uploader.blocksKnown,
      milliseconds: performance.now() - this.began,
    };
  }
}
