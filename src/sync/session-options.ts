/** What sessions of every kind share: their options, and how another site is reached. */

import { DriftmapError } from '../base/errors.ts';
import { DEFAULT_BLOCK_SIZE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { checkBlockSize } from '../scan/plan.ts';
import { type AlgorithmName, algorithmByName } from '../signature/algorithm.ts';
import type { OpenMessage } from '../wire/session-messages.ts';
import { parseSite, type Site } from '../wire/site.ts';
import { type Reached, type RemoteSite, reach, type SiteOptions, stopped, type Wire } from './connect.ts';
import { codecs } from './packer.ts';
import { type SyncProgress, SyncTotals } from './progress.ts';
import { blockSizeOf, type GivenIndex } from './session-indexes.ts';
import { type SiteConnection, SiteDisk } from './site-connection.ts';

export interface SessionOptions extends SiteOptions {
  readonly productionFormat?: string | undefined;
  readonly replicaFormat?: string | undefined;
  readonly allowOutside?: boolean | undefined;
  /** A power of two, 512 … 16 MiB; 64 KiB by default. */
  readonly blockSize?: ByteCount | undefined;
  readonly signature?: AlgorithmName | undefined;
  /**
   * Signature indexes of the disk that is here, or of units that it lies on: what they hold is not read. The session
   * compares by blake3 then, in blocks of their size. An index of a disk at another site belongs to its grant.
   */
  readonly productionIndex?: readonly GivenIndex[] | undefined;
  readonly replicaIndex?: readonly GivenIndex[] | undefined;
  readonly workers?: number | undefined;
  readonly onProgress?: ((progress: SyncProgress) => void) | undefined;
}

/** What the client asks of a replica at another site, beyond the comparison. */
export interface ReplicaFlags {
  /** Compares blocks that differ again in pieces of so many bytes, and sends only pieces that differ. */
  readonly refine?: ByteCount | undefined;
  readonly resize?: boolean | undefined;
  readonly shrink?: boolean | undefined;
  readonly full?: boolean | undefined;
  readonly adopt?: boolean | undefined;
  readonly discard?: boolean | undefined;
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

export function refuseTwoSites(from: string | undefined, to: string | undefined): void {
  const far = (kind: string | undefined) => kind !== undefined && kind !== 'local';
  if (!far(from) || !far(to)) return;
  const reason = 'both disks are at other sites: run driftmap at one of them';
  throw new DriftmapError('unsupported', reason);
}

export interface Chosen {
  readonly blockSize: ByteCount;
  readonly signature: AlgorithmName;
  readonly bySignature: boolean;
}

/** Placing needs signatures that mean the same everywhere; comparing alone is quicker with keyed ones. */
export function choose(options: SessionOptions & ReplicaFlags, bySignature: boolean): Chosen {
  if (options.refine !== undefined) checkBlockSize(options.refine);
  const given = [...(options.productionIndex ?? []), ...(options.replicaIndex ?? [])];
  const byIndex = given.length > 0;
  const {
    blockSize = blockSizeOf(given) ?? DEFAULT_BLOCK_SIZE,
    signature = bySignature || byIndex ? 'blake3' : 'nh128',
  } = options;
  checkBlockSize(blockSize);
  algorithmByName(signature);
  return { blockSize, signature, bySignature };
}

/** @throws DriftmapError `argument` for indexes of a disk that is not here */
export function refuseFarIndex(given: readonly GivenIndex[] | undefined, whose: string): void {
  if (given === undefined || given.length === 0) return;
  const reason = `the ${whose} is at another site: its index is used there (driftmap serve --grant NAME=DISK,index=FILE)`;
  throw new DriftmapError('argument', reason);
}

export function openMessage(
  disk: string,
  role: OpenMessage['role'],
  job: OpenMessage['job'],
  chosen: Chosen,
  options: SessionOptions & ReplicaFlags,
): OpenMessage {
  const { resize = false, shrink = false, full = false, adopt = false, discard = false } = options;
  const format = (role === 'production' ? options.productionFormat : options.replicaFormat) ?? null;
  const flags = { resize, shrink, full, adopt, discard };
  return {
    disk,
    role,
    job,
    ...chosen,
    ...flags,
    refine: options.refine ?? null,
    codecs: codecs(),
    production: null,
    format,
    narrow: null,
  };
}

/** A disk of another site, and the connection to it where there is one already. */
export type FarDisk = RemoteSite & { readonly via?: SiteConnection };

/** Where a disk is; null for one that is open here. */
export function siteOf(disk: unknown): FarDisk | Extract<Site, { kind: 'local' }> | null {
  if (disk instanceof SiteDisk) return disk.address;
  return typeof disk === 'string' ? parseSite(disk) : null;
}

/** A disk that `siteOf` found to be here. */
export function here<T>(disk: T | SiteDisk): T {
  if (disk instanceof SiteDisk) throw new DriftmapError('internal', 'a disk of another site, opened here');
  return disk;
}

export async function withSite<T>(
  site: FarDisk,
  options: SiteOptions,
  act: (reached: Reached) => Promise<T>,
): Promise<T> {
  if (site.via !== undefined) return site.via.session(options.signal, act);
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

export function totalsOf(wire: Wire | null, options: SessionOptions): SyncTotals {
  const bytes = () => (wire === null ? 0 : wire.bytesSent + wire.bytesReceived);
  return new SyncTotals(bytes, options.onProgress);
}
