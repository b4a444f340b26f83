/**
 * Makes a replica equal to production, compares disks of two sites, and verifies: the client's side.
 *
 * At most one of the two disks is at another site. When both are here they are compared byte by byte by a scan and
 * copied; what needs more goes through the very protocol that goes over a network, within this process.
 */

import { DriftmapError } from '../base/errors.ts';
import { LOCAL_CHECKPOINT_BYTES } from '../base/limits.ts';
import type { BlockCount, ByteCount } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { defaultWorkers } from '../scan/pool.ts';
import { createScanner, type Scanner } from '../scan/scan.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import { Connection } from '../wire/connection.ts';
import { MessageType } from '../wire/message-types.ts';
import { openedShape } from '../wire/session-messages.ts';
import { memoryPair } from '../wire/transport.ts';
import { stopped, type Wire } from './connect.ts';
import type { LiveProduction } from './live.ts';
import { copyMarked } from './local-copy.ts';
import { type Origin, openOrigin } from './origin.ts';
import { type Compression, commonCodec } from './packer.ts';
import { ProductionSession } from './production-session.ts';
import { SyncTotals } from './progress.ts';
import { type FirstComparison, infoOf, ReplicaSession, stampOf } from './replica-session.ts';
import { openIndexes, type SessionIndexes } from './session-indexes.ts';
import {
  type Chosen,
  choose,
  type FarDisk,
  here,
  openMessage,
  type ReplicaFlags,
  refuseFarIndex,
  refuseTwoSites,
  type SessionOptions,
  type SessionResult,
  siteOf,
  totalsOf,
  withSite,
} from './session-options.ts';
import type { SiteDisk } from './site-connection.ts';
import { type OpenSource, openSource } from './sources.ts';
import { openTarget, type Target, type TargetOptions } from './target.ts';

export interface SyncOptions extends SessionOptions, ReplicaFlags {
  /** The disk that is right: a path, an address here or at another site, or one that is open. */
  readonly production: string | VirtualDisk | SiteDisk;
  /** A path, an address at another site, or a unit that can be written to. */
  readonly replica: string | LogicalUnit | SiteDisk;
  /** Where the replica's state is kept; beside it by default. Only for a replica here. */
  readonly state?: string | undefined;
  /** Asks the replica to place blocks that it holds already; by default when a network lies between. */
  readonly bySignature?: boolean | undefined;
  /** Compression of data; `auto` by default, and never when both disks are here. */
  readonly compression?: Compression | undefined;
  /** Disks, or `store:FOLDER`, beside a replica here, whose blocks may be copied. */
  readonly sources?: readonly string[] | undefined;
  /** Production is written to meanwhile: only for a production disk here. */
  readonly live?: LiveProduction | undefined;
}

export interface SyncResult extends SessionResult {
  /** The replica is equal to production, as it was when the comparison began. */
  readonly consistent: boolean;
  readonly placedBlocks: BlockCount;
  readonly placedBytes: ByteCount;
  /** Made equal by data, zeros included. */
  readonly dataBytes: ByteCount;
  readonly zeroBytes: ByteCount;
  /** Of blocks that differ: what was found equal in pieces, and left as it is. */
  readonly equalBytes: ByteCount;
  /** Data as it travelled. */
  readonly storedBytes: ByteCount;
  readonly passes: number;
}

/** Makes the replica equal to production. */
export async function sync(options: SyncOptions): Promise<SyncResult> {
  const { signal, live } = options;
  const lost = live?.lost;
  if (lost === undefined) return run(options);
  try {
    // What is compared and sent from then on is worth nothing: it ends as if it was stopped.
    return await run({ ...options, signal: signal === undefined ? lost : AbortSignal.any([signal, lost]) });
  } catch (cause) {
    throw lost.aborted && !signal?.aborted ? lost.reason : cause;
  }
}

async function run(options: SyncOptions): Promise<SyncResult> {
  const { production, replica } = options;
  const from = siteOf(production);
  const to = siteOf(replica);
  refuseTwoSites(from?.kind, to?.kind);
  if (options.signal?.aborted) throw stopped(options.signal);
  if (options.live && (options.productionIndex ?? []).length > 0)
    throw new DriftmapError(
      'argument',
      'an index is of a disk that nobody writes to: leave it out of a live sync',
    );
  if (to !== null && to.kind !== 'local') return pushTo(to, options);
  if (from !== null && from.kind !== 'local') return pullFrom(from, options);
  return syncHere(options);
}

// One of the disks at another site

async function pushTo(site: FarDisk, options: SyncOptions): Promise<SyncResult> {
  const chosen = choose(options, options.bySignature ?? true);
  if (options.state !== undefined || options.sources !== undefined)
    throw new DriftmapError('argument', 'state and sources are chosen where the replica is');
  refuseFarIndex(options.replicaIndex, 'replica');
  const origin = await openOrigin(here(options.production), {
    format: options.productionFormat,
    allowOutside: options.allowOutside,
  });
  const indexes = await openIndexes(options.productionIndex, origin.disk, chosen).catch(async (error) => {
    await origin.close();
    throw error;
  });
  try {
    return await withSite(site, options, async ({ connection, wire }) => {
      const open = openMessage(site.disk, 'replica', 'sync', chosen, options);
      await connection.sendControl(MessageType.open, { ...open, production: origin.info });
      const opened = await connection.expect(MessageType.opened, openedShape);
      const totals = totalsOf(wire, options);
      const session = new ProductionSession({
        connection,
        disk: origin.disk,
        open,
        codec: commonCodec(opened.codecs),
        compression: options.compression ?? 'auto',
        workers: options.workers ?? defaultWorkers(),
        totals,
        marks: origin.marks,
        indexes: indexes.side,
        live: options.live,
      });
      await session.run();
      const warnings = [
        ...origin.warnings,
        ...indexes.warnings,
        ...session.warnings,
        ...changed(session.consistent, origin.disk, options.live),
      ];
      return syncResult(chosen, session.bitmap!.size, totals, wire, session, warnings);
    });
  } finally {
    indexes.close();
    await origin.close();
  }
}

async function pullFrom(site: FarDisk, options: SyncOptions): Promise<SyncResult> {
  const chosen = choose(options, options.bySignature ?? true);
  if (options.live) throw new DriftmapError('argument', 'live marks are of a production disk here');
  refuseFarIndex(options.productionIndex, 'production disk');
  return withSite(site, options, async ({ connection, wire }) => {
    const open = openMessage(site.disk, 'production', 'sync', chosen, options);
    await connection.sendControl(MessageType.open, open);
    const { production, warnings } = await connection.expect(MessageType.opened, openedShape);
    if (production === null)
      throw new DriftmapError('malformed', 'the other site did not say which disk it has');
    const sources: OpenSource[] = [];
    let target: Target | null = null;
    let indexes = null;
    try {
      if (chosen.bySignature)
        for (const source of options.sources ?? []) sources.push(await openSource(source));
      target = await openTarget(targetOf(options, chosen), production);
      indexes = await openIndexes(options.replicaIndex, target.disk, chosen);
      const totals = totalsOf(wire, options);
      const { disk, size, compare } = target;
      const workers = options.workers ?? defaultWorkers();
      const common = { connection, disk, production, size, open, workers, totals, compare, sources, target };
      const session = new ReplicaSession({ ...common, indexes: indexes.side, warnings: target.warnings });
      await session.run();
      const more = session.consistent ? [] : [notConsistent];
      const result = { consistent: session.consistent, passes: 1 };
      const all = [...warnings, ...target.warnings, ...indexes.warnings, ...more];
      return syncResult(chosen, size, totals, wire, result, all);
    } finally {
      indexes?.close();
      for (const source of sources) await source.close();
      await target?.close();
    }
  });
}

function targetOf(options: SyncOptions, chosen: Chosen): TargetOptions {
  return { ...options, ...chosen, replica: here(options.replica), format: options.replicaFormat };
}

const notConsistent =
  'production was written to during the session: what was written meanwhile may be missing from the replica; synchronize again';

const notQuiet =
  'production was followed until little was left, and was not made quiet for the last pass: what is written now is missing from the replica; say how it is made quiet (--quiesce, --resume), or stop it and synchronize once more';

function changed(consistent: boolean, disk: VirtualDisk, live: LiveProduction | undefined): string[] {
  if (consistent) return [];
  return [`${disk.name}: ${live !== undefined && live.quiesce === undefined ? notQuiet : notConsistent}`];
}

// Both here

async function syncHere(options: SyncOptions): Promise<SyncResult> {
  const chosen = choose(options, options.bySignature ?? false);
  const startedAt = performance.now();
  // Threads start while the disks are opened.
  const threads = chosen.bySignature ? null : new ScanThreads(createScanner({ workers: options.workers }));
  try {
    const result = await openAndSync(options, chosen, threads);
    return { ...result, seconds: (performance.now() - startedAt) / 1000 };
  } finally {
    await threads?.end();
  }
}

/** A scanner that is ended once, by whoever is first: while what it found is copied, its threads end. */
class ScanThreads {
  readonly scanner: Scanner;
  private ended: Promise<void> | null = null;

  constructor(scanner: Scanner) {
    this.scanner = scanner;
  }

  end(): Promise<void> {
    this.ended ??= this.scanner.close();
    return this.ended;
  }
}

async function openAndSync(
  options: SyncOptions,
  chosen: Chosen,
  threads: ScanThreads | null,
): Promise<SyncResult> {
  const origin = await openOrigin(here(options.production), {
    format: options.productionFormat,
    allowOutside: options.allowOutside,
  });
  try {
    const sources: OpenSource[] = [];
    const indexes: SessionIndexes[] = [];
    let target: Target | null = null;
    try {
      // The replica comes last: it may be resized, which whatever is refused here must come before.
      if (chosen.bySignature)
        for (const source of options.sources ?? []) sources.push(await openSource(source));
      indexes.push(await openIndexes(options.productionIndex, origin.disk, chosen));
      target = await openTarget(targetOf(options, chosen), origin.info);
      if (origin.disk.identity === target.disk.identity)
        throw new DriftmapError('argument', 'production and replica are the same disk', {
          path: target.disk.name,
        });
      indexes.push(await openIndexes(options.replicaIndex, target.disk, chosen));
      const local = new LocalSession(options, chosen, origin, target, sources, threads, indexes);
      return await local.run();
    } finally {
      for (const index of indexes) index.close();
      for (const source of sources) await source.close();
      await target?.close();
    }
  } finally {
    await origin.close();
  }
}

class LocalSession {
  private readonly options: SyncOptions;
  private readonly chosen: Chosen;
  private readonly origin: Origin;
  private readonly target: Target;
  private readonly sources: readonly OpenSource[];
  /** Of production, and of the replica. */
  private readonly indexes: readonly SessionIndexes[];
  private readonly threads: ScanThreads | null;
  private readonly totals: SyncTotals;
  private signature: AlgorithmName | 'bytes';

  constructor(
    options: SyncOptions,
    chosen: Chosen,
    origin: Origin,
    target: Target,
    sources: readonly OpenSource[],
    threads: ScanThreads | null,
    indexes: readonly SessionIndexes[],
  ) {
    this.threads = threads;
    this.indexes = indexes;
    this.options = options;
    this.chosen = chosen;
    this.origin = origin;
    this.target = target;
    this.sources = sources;
    this.totals = new SyncTotals(() => 0, options.onProgress);
    this.signature = chosen.signature;
  }

  async run(): Promise<SyncResult> {
    const { options, origin, target } = this;
    const compare = await this.compare();
    if (this.signature !== 'bytes' || compare.what !== 'known' || options.live || options.refine)
      return this.session(compare);
    const release = [origin.disk, target.disk].map((disk) => disk.retain());
    try {
      const { totals } = this;
      const since = origin.info.generation;
      const copy = { production: origin.disk, since, target, marks: compare.bits, totals };
      const consistent = await copyMarked({ ...copy, signal: options.signal });
      return this.result({ consistent, passes: 1 });
    } finally {
      for (const letGo of release) await letGo();
    }
  }

  private result(ended: { readonly consistent: boolean; readonly passes: number }): SyncResult {
    const { chosen, origin, target, totals } = this;
    const told = [
      ...origin.warnings,
      ...target.warnings,
      ...this.indexes.flatMap((one) => one.warnings),
      ...changed(ended.consistent, origin.disk, this.options.live),
    ];
    return { ...syncResult(chosen, target.size, totals, null, ended, told), signature: this.signature };
  }

  /** What a network would carry, within this process. */
  private async session(compare: FirstComparison): Promise<SyncResult> {
    const { options, chosen, origin, target, totals, sources } = this;
    const { signal, live } = options;
    const [there, here] = memoryPair().map((transport) => new Connection(transport)) as [
      Connection,
      Connection,
    ];
    const stop = () => {
      for (const connection of [there, here]) connection.fail(stopped(signal));
    };
    signal?.addEventListener('abort', stop, { once: true });
    const open = { ...chosen, job: 'sync', refine: options.refine ?? null } as const;
    const workers = options.workers ?? defaultWorkers();
    const { disk, size } = target;
    const quiet = new SyncTotals(() => 0, undefined);
    const replica = new ReplicaSession({
      ...{ connection: here, disk, production: origin.info, size, open, workers, compare, sources, target },
      totals: quiet,
      indexes: this.indexes[1]!.side,
      warnings: [],
    });
    const production = new ProductionSession({
      ...{ connection: there, disk: origin.disk, open, codec: null, compression: 'never', workers, totals },
      checkpointBytes: LOCAL_CHECKPOINT_BYTES,
      since: origin.info.generation,
      marks: origin.marks,
      indexes: this.indexes[0]!.side,
      live,
    });
    try {
      there.trust();
      here.trust();
      await both(production.run(), replica.run(), (cause) => {
        for (const connection of [there, here]) connection.fail(cause as DriftmapError);
      });
    } catch (cause) {
      throw signal?.aborted ? stopped(signal) : cause;
    } finally {
      signal?.removeEventListener('abort', stop);
      await Promise.all([there.close(), here.close()]);
    }
    return this.result(production);
  }

  /** Byte by byte, or by indexes, by a scan's threads, where both disks have one size and nothing is placed by signature. */
  private async compare(): Promise<FirstComparison> {
    const { options, chosen, origin, target, totals, threads } = this;
    if (threads === null || origin.disk.size !== target.disk.size) return target.compare;
    const { blockSize } = chosen;
    const [productionIndex, replicaIndex] = this.indexes.map((one) => one.list);
    // Bytes are compared faster than signatures are made; with an index nothing is made.
    const byIndex = this.indexes.some((one) => one.list.length > 0);
    const header = {
      size: target.size,
      blockSize,
      signature: byIndex ? 'blake3' : 'bytes',
      production: stampOf(origin.info),
      replica: stampOf(infoOf(target.disk)),
    };
    const marks = target.compare.what === 'yours' ? origin.marks : bitsOf(target.compare);
    const within = marks === undefined ? undefined : new SyncBitmap(header, marks);
    totals.begin('comparing', within?.markedBytes ?? target.size);
    let told = 0;
    const onPartial = ({ marks: found, coverage: settled, header: { signature } }: SyncBitmap) =>
      target.notes?.note({ found, settled }, marks ?? null, signature, true);
    const result = await threads.scanner.scan({
      onPartial,
      production: origin.disk,
      replica: target.disk,
      blockSize,
      compare: byIndex ? 'signatures' : 'bytes',
      signature: byIndex ? 'blake3' : undefined,
      productionIndex,
      replicaIndex,
      within,
      signal: options.signal,
      onProgress: ({ doneBytes }) => {
        totals.add(doneBytes - told);
        told = doneBytes;
      },
    });
    threads.end().catch(() => undefined);
    totals.comparedBytes = result.comparedBytes + result.skippedBytes;
    this.signature = byIndex ? 'blake3' : 'bytes';
    const { keeper } = target;
    const everything = { start: 0, end: keeper.bitmap.blocks };
    // The comparison is over: what is not marked is equal.
    keeper.compared(result.bitmap.marks);
    keeper.bitmap.cover(everything);
    return { what: 'known', bits: result.bitmap.marks };
  }
}

function bitsOf(compare: FirstComparison): PagedBits | undefined {
  return compare.what === 'some' || compare.what === 'known' ? compare.bits : undefined;
}

/** Waits for both; the first failure is made known at once, so that neither waits for the other. */
async function both(a: Promise<void>, b: Promise<void>, onFailure: (cause: unknown) => void): Promise<void> {
  let first: { cause: unknown } | null = null;
  const watched = [a, b].map((run) =>
    run.catch((cause) => {
      if (first === null) {
        first = { cause };
        onFailure(cause);
      }
    }),
  );
  await Promise.all(watched);
  if (first !== null) throw (first as { cause: unknown }).cause;
}

function syncResult(
  { blockSize, signature }: Chosen,
  size: ByteCount,
  totals: SyncTotals,
  wire: Wire | null,
  { consistent, passes }: { readonly consistent: boolean; readonly passes: number },
  warnings: readonly string[],
): SyncResult {
  return {
    ...{ size, blockSize, signature, consistent, passes, warnings },
    comparedBytes: totals.comparedBytes,
    sentBytes: wire?.bytesSent ?? 0,
    receivedBytes: wire?.bytesReceived ?? 0,
    seconds: totals.seconds,
    placedBlocks: totals.placedBlocks,
    placedBytes: totals.placedBytes,
    dataBytes: totals.sentBytes,
    zeroBytes: totals.zeroBytes,
    equalBytes: totals.equalBytes,
    storedBytes: totals.storedBytes,
  };
}
