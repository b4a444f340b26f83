/**
 * Makes a replica equal to production, compares disks of two sites, and verifies: the client's side.
 *
 * At most one of the two disks is at another site. When both are here they are compared byte by byte by a scan,
 * and the rest goes through the very protocol that goes over a network, within this process.
 */

import { DriftmapError } from '../base/errors.ts';
import { DEFAULT_BLOCK_SIZE } from '../base/limits.ts';
import type { BlockCount, ByteCount } from '../base/units.ts';
import { type PagedBits } from '../bitmap/paged-bits.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { openDisk } from '../disk/open.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { checkBlockSize } from '../scan/plan.ts';
import { defaultWorkers } from '../scan/pool.ts';
import { scan } from '../scan/scan.ts';
import { type AlgorithmName, algorithmByName } from '../signature/algorithm.ts';
import { Connection } from '../wire/connection.ts';
import { MessageType } from '../wire/message-types.ts';
import { type OpenMessage, openedShape } from '../wire/session-messages.ts';
import { parseSite } from '../wire/site.ts';
import { memoryPair } from '../wire/transport.ts';
import { type Reached, type RemoteSite, reach, type SiteOptions, stopped } from './connect.ts';
import { type Origin, openOrigin } from './origin.ts';
import { codecs, commonCodec, type Compression } from './packer.ts';
import { type LiveProduction, ProductionSession } from './production-session.ts';
import { type SyncProgress, SyncTotals } from './progress.ts';
import { type FirstComparison, infoOf, ReplicaSession, stampOf } from './replica-session.ts';
import { type OpenSource, openSource } from './sources.ts';
import { openTarget, type Target } from './target.ts';

export interface CompareOptions extends SiteOptions {
  /** The disk that is right: a path, an address here or at another site, or one that is open. */
  readonly production: string | VirtualDisk;
  readonly replica: string | VirtualDisk;
  readonly productionFormat?: string | undefined;
  readonly replicaFormat?: string | undefined;
  readonly allowOutside?: boolean | undefined;
  /** A power of two, 512 … 16 MiB; 64 KiB by default. */
  readonly blockSize?: ByteCount | undefined;
  readonly signature?: AlgorithmName | undefined;
  readonly workers?: number | undefined;
  readonly onProgress?: ((progress: SyncProgress) => void) | undefined;
}

export interface SyncOptions extends Omit<CompareOptions, 'replica'> {
  /** A path, an address at another site, or a unit that can be written to. */
  readonly replica: string | LogicalUnit;
  /** Where the replica's state is kept; beside it by default. Only for a replica here. */
  readonly state?: string | undefined;
  /** Asks the replica to place blocks that it holds already; by default when a network lies between. */
  readonly bySignature?: boolean | undefined;
  /** Compression of data; `auto` by default, and never when both disks are here. */
  readonly compression?: Compression | undefined;
  /** Disks, or `store:FOLDER`, beside a replica here, whose blocks may be copied. */
  readonly sources?: readonly string[] | undefined;
  readonly resize?: boolean | undefined;
  readonly shrink?: boolean | undefined;
  readonly full?: boolean | undefined;
  readonly adopt?: boolean | undefined;
  readonly discard?: boolean | undefined;
  /** Production is written to meanwhile: only for a production disk here. */
  readonly live?: LiveProduction | undefined;
}

export interface SessionResult {
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly signature: AlgorithmName | 'bytes';
  readonly comparedBytes: ByteCount;
  /** On the wire: frames, both directions; 0 when both disks are here. */
  readonly sentBytes: ByteCount;
  readonly receivedBytes: ByteCount;
  readonly seconds: number;
  readonly warnings: readonly string[];
}

export interface CompareResult extends SessionResult {
  readonly bitmap: SyncBitmap;
  readonly markedBlocks: BlockCount;
}

export interface SyncResult extends SessionResult {
  /** The replica is equal to production, as it was when the comparison began. */
  readonly consistent: boolean;
  readonly placedBlocks: BlockCount;
  readonly placedBytes: ByteCount;
  /** Made equal by data, zeros included. */
  readonly dataBytes: ByteCount;
  readonly zeroBytes: ByteCount;
  /** Data as it travelled. */
  readonly storedBytes: ByteCount;
  readonly passes: number;
}

/** Compares two disks, of which one may be at another site. The bitmap is the one that a scan of both here gives. */
export function compareSites(options: CompareOptions): Promise<CompareResult> {
  return compareAs('scan', options);
}

/** As `compareSites`; what differs is looked at again before it counts, so blocks in flight raise no alarm. */
export function verify(options: CompareOptions): Promise<CompareResult> {
  return compareAs('verify', options);
}

/** Makes the replica equal to production. */
export async function sync(options: SyncOptions): Promise<SyncResult> {
  const { production, replica } = options;
  const from = typeof production === 'string' ? parseSite(production) : null;
  const to = typeof replica === 'string' ? parseSite(replica) : null;
  refuseTwoSites(from?.kind, to?.kind);
  if (options.signal?.aborted) throw stopped(options.signal);
  if (to !== null && to.kind !== 'local') return pushTo(to, options);
  if (from !== null && from.kind !== 'local') return pullFrom(from, options);
  return syncHere(options);
}

function refuseTwoSites(from: string | undefined, to: string | undefined): void {
  const far = (kind: string | undefined) => kind !== undefined && kind !== 'local';
  if (!far(from) || !far(to)) return;
  const reason = 'both disks are at other sites: run driftmap at one of them';
  throw new DriftmapError('unsupported', reason);
}

interface Chosen {
  readonly blockSize: ByteCount;
  readonly signature: AlgorithmName;
  readonly bySignature: boolean;
}

/** Placing needs signatures that mean the same everywhere; comparing alone is quicker with keyed ones. */
function choose(options: Pick<CompareOptions, 'blockSize' | 'signature'>, bySignature: boolean): Chosen {
  const { blockSize = DEFAULT_BLOCK_SIZE, signature = bySignature ? 'blake3' : 'nh128' } = options;
  checkBlockSize(blockSize);
  algorithmByName(signature);
  return { blockSize, signature, bySignature };
}

function openMessage(
  disk: string,
  role: OpenMessage['role'],
  job: OpenMessage['job'],
  chosen: Chosen,
  options: Partial<SyncOptions>,
): OpenMessage {
  const { resize = false, shrink = false, full = false, adopt = false, discard = false } = options;
  const format = (role === 'production' ? options.productionFormat : options.replicaFormat) ?? null;
  const flags = { resize, shrink, full, adopt, discard };
  return { disk, role, job, ...chosen, ...flags, codecs: codecs(), production: null, format };
}

// One of the disks at another site

async function withSite<T>(
  site: RemoteSite,
  options: SiteOptions,
  act: (reached: Reached) => Promise<T>,
): Promise<T> {
  const reached = await reach(site, options);
  try {
    return await act(reached);
  } catch (cause) {
    const error = await reached.explain(options.signal?.aborted ? stopped(options.signal) : cause);
    if (error instanceof DriftmapError) await reached.connection.abandon(error);
    throw error;
  } finally {
    await reached.close();
  }
}

async function pushTo(site: RemoteSite, options: SyncOptions): Promise<SyncResult> {
  const chosen = choose(options, options.bySignature ?? true);
  if (options.state !== undefined || options.sources !== undefined)
    throw new DriftmapError('argument', 'state and sources are chosen where the replica is');
  const origin = await openOrigin(options.production, {
    format: options.productionFormat,
    allowOutside: options.allowOutside,
  });
  try {
    return await withSite(site, options, async ({ connection }) => {
      const open = openMessage(site.disk, 'replica', 'sync', chosen, options);
      await connection.sendControl(MessageType.open, { ...open, production: origin.info });
      const opened = await connection.expect(MessageType.opened, openedShape);
      const totals = totalsOf(connection, options);
      const session = new ProductionSession({
        connection,
        disk: origin.disk,
        open,
        codec: commonCodec(opened.codecs),
        compression: options.compression ?? 'auto',
        workers: options.workers ?? defaultWorkers(),
        totals,
        marks: origin.marks,
        live: options.live,
      });
      await session.run();
      const warnings = [...origin.disk.warnings, ...session.warnings, ...changed(session.consistent, origin.disk)];
      return syncResult(chosen, session.bitmap!.size, totals, connection, session, warnings);
    });
  } finally {
    await origin.close();
  }
}

async function pullFrom(site: RemoteSite, options: SyncOptions): Promise<SyncResult> {
  const chosen = choose(options, options.bySignature ?? true);
  if (options.live) throw new DriftmapError('argument', 'live marks are of a production disk here');
  return withSite(site, options, async ({ connection }) => {
    const open = openMessage(site.disk, 'production', 'sync', chosen, options);
    await connection.sendControl(MessageType.open, open);
    const { production, warnings } = await connection.expect(MessageType.opened, openedShape);
    if (production === null) throw new DriftmapError('malformed', 'the other site did not say which disk it has');
    const target = await openTarget({ ...options, ...chosen, format: options.replicaFormat }, production);
    const sources: OpenSource[] = [];
    try {
      if (chosen.bySignature) for (const source of options.sources ?? []) sources.push(await openSource(source));
      const totals = totalsOf(connection, options);
      const { disk, size, compare } = target;
      const workers = options.workers ?? defaultWorkers();
      const common = { connection, disk, production, size, open, workers, totals, compare, sources, target };
      const session = new ReplicaSession({ ...common, warnings: target.warnings });
      await session.run();
      const more = session.consistent ? [] : [notConsistent];
      const result = { consistent: session.consistent, passes: 1 };
      return syncResult(chosen, size, totals, connection, result, [...warnings, ...target.warnings, ...more]);
    } finally {
      for (const source of sources) await source.close();
      await target.close();
    }
  });
}

const notConsistent =
  'production was written to during the session: what was written meanwhile may be missing from the replica; synchronize again';

function changed(consistent: boolean, disk: VirtualDisk): string[] {
  return consistent ? [] : [`${disk.name}: ${notConsistent}`];
}

// Both here

async function syncHere(options: SyncOptions): Promise<SyncResult> {
  const chosen = choose(options, options.bySignature ?? false);
  const startedAt = performance.now();
  const origin = await openOrigin(options.production, {
    format: options.productionFormat,
    allowOutside: options.allowOutside,
  });
  try {
    const target = await openTarget({ ...options, ...chosen, format: options.replicaFormat }, origin.info);
    const sources: OpenSource[] = [];
    try {
      if (origin.disk.identity === target.disk.identity)
        throw new DriftmapError('argument', 'production and replica are the same disk', { path: target.disk.name });
      if (chosen.bySignature) for (const source of options.sources ?? []) sources.push(await openSource(source));
      const local = new LocalSession(options, chosen, origin, target, sources);
      const result = await local.run();
      return { ...result, seconds: (performance.now() - startedAt) / 1000 };
    } finally {
      for (const source of sources) await source.close();
      await target.close();
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
  private readonly totals: SyncTotals;
  private signature: AlgorithmName | 'bytes';

  constructor(
    options: SyncOptions,
    chosen: Chosen,
    origin: Origin,
    target: Target,
    sources: readonly OpenSource[],
  ) {
    this.options = options;
    this.chosen = chosen;
    this.origin = origin;
    this.target = target;
    this.sources = sources;
    this.totals = new SyncTotals(() => 0, options.onProgress);
    this.signature = chosen.signature;
  }

  async run(): Promise<SyncResult> {
    const { options, chosen, origin, target, totals, sources } = this;
    const { signal, live } = options;
    const compare = await this.compare();
    const [there, here] = memoryPair().map((transport) => new Connection(transport)) as [Connection, Connection];
    const stop = () => {
      for (const connection of [there, here]) connection.fail(stopped(signal));
    };
    signal?.addEventListener('abort', stop, { once: true });
    const open = { ...chosen, job: 'sync' } as const;
    const workers = options.workers ?? defaultWorkers();
    const { disk, size } = target;
    const quiet = new SyncTotals(() => 0, undefined);
    const replica = new ReplicaSession({
      ...{ connection: here, disk, production: origin.info, size, open, workers, compare, sources, target },
      totals: quiet,
      warnings: [],
    });
    const production = new ProductionSession({
      ...{ connection: there, disk: origin.disk, open, codec: null, compression: 'never', workers, totals },
      marks: origin.marks,
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
    const warnings = [...origin.disk.warnings, ...target.warnings, ...changed(production.consistent, origin.disk)];
    const result = syncResult(chosen, size, totals, null, production, warnings);
    return { ...result, signature: this.signature };
  }

  /** Byte by byte, by a scan's threads, where both disks have one size and nothing is placed by signature. */
  private async compare(): Promise<FirstComparison> {
    const { options, chosen, origin, target, totals } = this;
    if (chosen.bySignature || origin.disk.size !== target.disk.size) return target.compare;
    const { blockSize } = chosen;
    const header = {
      size: target.size,
      blockSize,
      signature: 'bytes',
      production: stampOf(origin.info),
      replica: stampOf(infoOf(target.disk)),
    };
    const marks = target.compare.what === 'yours' ? origin.marks : bitsOf(target.compare);
    const within = marks === undefined ? undefined : new SyncBitmap(header, marks);
    totals.begin('comparing', within?.markedBytes ?? target.size);
    let told = 0;
    const result = await scan({
      production: origin.disk,
      replica: target.disk,
      blockSize,
      compare: 'bytes',
      within,
      workers: options.workers,
      signal: options.signal,
      onProgress: ({ doneBytes }) => {
        totals.add(doneBytes - told);
        told = doneBytes;
      },
    });
    totals.comparedBytes = result.comparedBytes + result.skippedBytes;
    this.signature = 'bytes';
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

// Comparing only

async function compareAs(job: 'scan' | 'verify', options: CompareOptions): Promise<CompareResult> {
  const { production, replica } = options;
  const from = typeof production === 'string' ? parseSite(production) : null;
  const to = typeof replica === 'string' ? parseSite(replica) : null;
  refuseTwoSites(from?.kind, to?.kind);
  const chosen = choose(options, false);
  if (to !== null && to.kind !== 'local') return compareWithReplica(job, to, chosen, options);
  if (from !== null && from.kind !== 'local') return compareWithProduction(job, from, chosen, options);
  return compareHere(job, chosen, options);
}

async function openToCompare(
  source: string | VirtualDisk,
  format: string | undefined,
  allowOutside: boolean | undefined,
): Promise<{ disk: VirtualDisk; close: () => Promise<void> }> {
  const disk = typeof source === 'string' ? await openDisk(source, { format, allowOutside }) : source;
  const close = async () => {
    if (typeof source === 'string') await disk.close();
  };
  return { disk, close };
}

async function compareWithReplica(
  job: 'scan' | 'verify',
  site: RemoteSite,
  chosen: Chosen,
  options: CompareOptions,
): Promise<CompareResult> {
  const { disk, close } = await openToCompare(options.production, options.productionFormat, options.allowOutside);
  try {
    return await withSite(site, options, async ({ connection }) => {
      const open = openMessage(site.disk, 'replica', job, chosen, { replicaFormat: options.replicaFormat });
      await connection.sendControl(MessageType.open, { ...open, production: infoOf(disk) });
      await connection.expect(MessageType.opened, openedShape);
      const totals = totalsOf(connection, options);
      const workers = options.workers ?? defaultWorkers();
      const common = { connection, disk, open, workers, totals, codec: null, compression: 'never' } as const;
      const session = new ProductionSession(common);
      await session.run();
      return compareResult(chosen, session.bitmap!, totals, connection, [...disk.warnings, ...session.warnings]);
    });
  } finally {
    await close();
  }
}

async function compareWithProduction(
  job: 'scan' | 'verify',
  site: RemoteSite,
  chosen: Chosen,
  options: CompareOptions,
): Promise<CompareResult> {
  const replica = options.replica;
  const { disk, close } = await openToCompare(replica, options.replicaFormat, options.allowOutside);
  try {
    return await withSite(site, options, async ({ connection }) => {
      const open = openMessage(site.disk, 'production', job, chosen, { productionFormat: options.productionFormat });
      await connection.sendControl(MessageType.open, open);
      const { production, warnings } = await connection.expect(MessageType.opened, openedShape);
      if (production === null) throw new DriftmapError('malformed', 'the other site did not say which disk it has');
      const totals = totalsOf(connection, options);
      const size = Math.max(disk.size, production.size);
      const workers = options.workers ?? defaultWorkers();
      const common = { connection, disk, production, size, open, workers, totals, warnings: disk.warnings };
      const session = new ReplicaSession({ ...common, compare: { what: 'all' } });
      await session.run();
      return compareResult(chosen, session.bitmap, totals, connection, [...warnings, ...disk.warnings]);
    });
  } finally {
    await close();
  }
}

/** Times that a mismatch is looked at again, and how long after. */
const LOOKS = 3;
const LOOK_PAUSE_MS = 300;

async function compareHere(
  job: 'scan' | 'verify',
  chosen: Chosen,
  options: CompareOptions,
): Promise<CompareResult> {
  const a = await openToCompare(options.production, options.productionFormat, options.allowOutside);
  try {
    const b = await openToCompare(options.replica, options.replicaFormat, options.allowOutside);
    try {
      const totals = totalsOf(null, options);
      const { signature, blockSize } = chosen;
      const { workers, signal } = options;
      const common = { production: a.disk, replica: b.disk, signature, blockSize, workers, signal };
      totals.begin('comparing', Math.max(a.disk.size, b.disk.size));
      let result = await scan(common);
      totals.comparedBytes += result.comparedBytes + result.skippedBytes;
      for (let look = 1; job === 'verify' && look < LOOKS && result.markedBlocks > 0; look++) {
        const before = result.markedBlocks;
        totals.begin('verifying', result.bitmap.markedBytes);
        await new Promise((resolve) => setTimeout(resolve, LOOK_PAUSE_MS));
        result = await scan({ ...common, within: result.bitmap });
        if (result.markedBlocks === before) break;
      }
      return compareResult(chosen, result.bitmap, totals, null, [...a.disk.warnings, ...b.disk.warnings]);
    } finally {
      await b.close();
    }
  } finally {
    await a.close();
  }
}

function totalsOf(connection: Connection | null, options: Pick<CompareOptions, 'onProgress'>): SyncTotals {
  const wire = () => (connection === null ? 0 : connection.bytesSent + connection.bytesReceived);
  return new SyncTotals(wire, options.onProgress);
}

function compareResult(
  { blockSize, signature }: Chosen,
  bitmap: SyncBitmap,
  totals: SyncTotals,
  connection: Connection | null,
  warnings: readonly string[],
): CompareResult {
  return {
    ...{ size: bitmap.size, blockSize, signature, bitmap, markedBlocks: bitmap.count, warnings },
    comparedBytes: totals.comparedBytes,
    sentBytes: connection?.bytesSent ?? 0,
    receivedBytes: connection?.bytesReceived ?? 0,
    seconds: totals.seconds,
  };
}

function syncResult(
  { blockSize, signature }: Chosen,
  size: ByteCount,
  totals: SyncTotals,
  connection: Connection | null,
  { consistent, passes }: { readonly consistent: boolean; readonly passes: number },
  warnings: readonly string[],
): SyncResult {
  return {
    ...{ size, blockSize, signature, consistent, passes, warnings },
    comparedBytes: totals.comparedBytes,
    sentBytes: connection?.bytesSent ?? 0,
    receivedBytes: connection?.bytesReceived ?? 0,
    seconds: totals.seconds,
    placedBlocks: totals.placedBlocks,
    placedBytes: totals.placedBytes,
    dataBytes: totals.sentBytes,
    zeroBytes: totals.zeroBytes,
    storedBytes: totals.storedBytes,
  };
}
