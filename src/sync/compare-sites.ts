/** Compares disks of two sites, and verifies: nothing is written. */

import { DriftmapError } from '../base/errors.ts';
import type { BlockCount } from '../base/units.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { openDisk } from '../disk/open.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { defaultWorkers } from '../scan/pool.ts';
import { scan } from '../scan/scan.ts';
import { MessageType } from '../wire/message-types.ts';
import { openedShape } from '../wire/session-messages.ts';
import type { Wire } from './connect.ts';
import { Narrowing } from './narrowing.ts';
import { ProductionSession } from './production-session.ts';
import type { SyncTotals } from './progress.ts';
import { infoOf, ReplicaSession } from './replica-session.ts';
import { openIndexes, type SessionIndexes } from './session-indexes.ts';
import {
  type Chosen,
  choose,
  type FarDisk,
  here,
  openMessage,
  refuseFarIndex,
  refuseTwoSites,
  type SessionOptions,
  type SessionResult,
  siteOf,
  totalsOf,
  withSite,
} from './session-options.ts';
import type { SiteDisk } from './site-connection.ts';

export interface CompareOptions extends SessionOptions {
  /** The disk that is right: a path, an address here or at another site, or one that is open. */
  readonly production: string | VirtualDisk | SiteDisk;
  readonly replica: string | VirtualDisk | SiteDisk;
  /** Look only at the blocks that this earlier bitmap of the same disks marks. */
  readonly within?: SyncBitmap | undefined;
  /** Go on from a comparison that ended early: keep its marks, skip the blocks it covers. */
  readonly resume?: SyncBitmap | undefined;
  /** Called before it rejects, whatever the cause, with what it had found by then: enough to go on from. */
  readonly onPartial?: ((bitmap: SyncBitmap) => void) | undefined;
}

export interface CompareResult extends SessionResult {
  readonly bitmap: SyncBitmap;
  readonly markedBlocks: BlockCount;
}

/** Compares two disks, of which one may be at another site. The bitmap is the one that a scan of both here gives. */
export function compareSites(options: CompareOptions): Promise<CompareResult> {
  return compareAs('scan', options);
}

/** As `compareSites`; what differs is looked at again before it counts, so blocks in flight raise no alarm. */
export function verify(options: CompareOptions): Promise<CompareResult> {
  return compareAs('verify', options);
}

// Comparing only

async function compareAs(job: 'scan' | 'verify', options: CompareOptions): Promise<CompareResult> {
  const { production, replica } = options;
  const from = siteOf(production);
  const to = siteOf(replica);
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
  site: FarDisk,
  chosen: Chosen,
  options: CompareOptions,
): Promise<CompareResult> {
  refuseFarIndex(options.replicaIndex, 'replica');
  const { disk, close } = await openToCompare(
    here(options.production),
    options.productionFormat,
    options.allowOutside,
  );
  let indexes = null;
  try {
    indexes = await openIndexes(options.productionIndex, disk, chosen);
    const { side, warnings } = indexes;
    return await withSite(site, options, async ({ connection, wire }) => {
      const open = openMessage(site.disk, 'replica', job, chosen, { replicaFormat: options.replicaFormat });
      const narrow = new Narrowing(options, chosen);
      const more = { production: infoOf(disk), narrow: narrow.todo !== null };
      await connection.sendControl(MessageType.open, { ...open, ...more });
      await connection.expect(MessageType.opened, openedShape);
      const totals = totalsOf(wire, options);
      const workers = options.workers ?? defaultWorkers();
      const common = { connection, disk, open, workers, totals, codec: null, compression: 'never' } as const;
      const session = new ProductionSession({
        ...{ ...common, indexes: side, marks: narrow.todo ?? undefined },
        onReady: (bitmap) => narrow.check(bitmap),
      });
      await narrow.watch(session);
      const all = [...disk.warnings, ...warnings, ...session.warnings, ...narrow.warnings];
      return compareResult(chosen, session.bitmap!, totals, wire, all);
    });
  } finally {
    indexes?.close();
    await close();
  }
}

async function compareWithProduction(
  job: 'scan' | 'verify',
  site: FarDisk,
  chosen: Chosen,
  options: CompareOptions,
): Promise<CompareResult> {
  const replica = options.replica;
  refuseFarIndex(options.productionIndex, 'production disk');
  const { disk, close } = await openToCompare(here(replica), options.replicaFormat, options.allowOutside);
  let indexes = null;
  try {
    indexes = await openIndexes(options.replicaIndex, disk, chosen);
    const { side, warnings: own } = indexes;
    return await withSite(site, options, async ({ connection, wire }) => {
      const open = openMessage(site.disk, 'production', job, chosen, {
        productionFormat: options.productionFormat,
      });
      await connection.sendControl(MessageType.open, open);
      const { production, warnings } = await connection.expect(MessageType.opened, openedShape);
      if (production === null)
        throw new DriftmapError('malformed', 'the other site did not say which disk it has');
      const totals = totalsOf(wire, options);
      const size = Math.max(disk.size, production.size);
      const workers = options.workers ?? defaultWorkers();
      const common = { connection, disk, production, size, open, workers, totals, warnings: disk.warnings };
      const narrow = new Narrowing(options, chosen);
      const compare =
        narrow.todo === null ? { what: 'all' as const } : { what: 'some' as const, bits: narrow.todo };
      const session = new ReplicaSession({ ...common, indexes: side, compare });
      narrow.check(session.bitmap);
      await narrow.watch(session);
      const all = [...warnings, ...disk.warnings, ...own, ...narrow.warnings];
      return compareResult(chosen, session.bitmap, totals, wire, all);
    });
  } finally {
    indexes?.close();
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
  const a = await openToCompare(here(options.production), options.productionFormat, options.allowOutside);
  try {
    const b = await openToCompare(here(options.replica), options.replicaFormat, options.allowOutside);
    const indexes: SessionIndexes[] = [];
    try {
      const totals = totalsOf(null, options);
      const { signature, blockSize } = chosen;
      const { workers, signal } = options;
      const both = { production: a.disk, replica: b.disk, signature, blockSize, workers, signal };
      indexes.push(await openIndexes(options.productionIndex, a.disk, chosen));
      indexes.push(await openIndexes(options.replicaIndex, b.disk, chosen));
      const [productionIndex, replicaIndex] = indexes.map((one) => one.list);
      const { within, resume, onPartial } = options;
      const common = { ...both, productionIndex, replicaIndex, within, resume, onPartial };
      totals.begin('comparing', Math.max(a.disk.size, b.disk.size));
      let result = await scan(common);
      totals.comparedBytes += result.comparedBytes + result.skippedBytes;
      for (let look = 1; job === 'verify' && look < LOOKS && result.markedBlocks > 0; look++) {
        const before = result.markedBlocks;
        totals.begin('verifying', result.bitmap.markedBytes);
        await new Promise((resolve) => setTimeout(resolve, LOOK_PAUSE_MS));
        result = await scan({ ...common, within: result.bitmap, resume: undefined });
        if (result.markedBlocks === before) break;
      }
      const warnings = [...a.disk.warnings, ...b.disk.warnings, ...indexes.flatMap((one) => one.warnings)];
      return compareResult(chosen, result.bitmap, totals, null, warnings);
    } finally {
      for (const index of indexes) index.close();
      await b.close();
    }
  } finally {
    await a.close();
  }
}

function compareResult(
  { blockSize, signature }: Chosen,
  bitmap: SyncBitmap,
  totals: SyncTotals,
  wire: Wire | null,
  warnings: readonly string[],
): CompareResult {
  return {
    ...{ size: bitmap.size, blockSize, signature, bitmap, markedBlocks: bitmap.count, warnings },
    comparedBytes: totals.comparedBytes,
    sentBytes: wire?.bytesSent ?? 0,
    receivedBytes: wire?.bytesReceived ?? 0,
    seconds: totals.seconds,
  };
}
