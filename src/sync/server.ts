/**
 * The server's side of a session: greets, opens the disk that is asked for if it is granted, and plays the part
 * that the client does not. What a stranger sends before the greeting is over reaches no disk.
 */

import { DriftmapError, systemError } from '../base/errors.ts';
import { GREETING_MS, MAX_WIRE_TEXT_BYTES } from '../base/limits.ts';
import { SESSION_IDLE_MS } from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import { openDisk } from '../disk/open.ts';
import { defaultWorkers } from '../scan/pool.ts';
import { Connection } from '../wire/connection.ts';
import { welcome } from '../wire/greeting.ts';
import type { RateLimiter } from '../wire/limiter.ts';
import { MessageType } from '../wire/message-types.ts';
import { type DiskInfo, type OpenMessage, openShape } from '../wire/session-messages.ts';
import type { Transport } from '../wire/transport.ts';
import { grantedFormat } from './granted-format.ts';
import { openOrigin } from './origin.ts';
import { type Compression, codecs, commonCodec } from './packer.ts';
import { ProductionSession } from './production-session.ts';
import { SyncTotals } from './progress.ts';
import { ReplicaSession } from './replica-session.ts';
import { openGranted, type SessionIndexes } from './session-indexes.ts';
import { type OpenSource, openSource } from './sources.ts';
import { canonical, checkFormat, openTarget, type Target } from './target.ts';

/** A disk that peers may use. */
export interface Grant {
  /** A path or an address. */
  readonly disk: string;
  readonly readOnly?: boolean | undefined;
  /** Its format. Without one the file's name says it, and never its contents or a client: see `granted-format.ts`. */
  readonly format?: string | undefined;
  /** Lets clients say the format: only where whoever connects may read every file of this user anyway, as over ssh. */
  readonly anyFormat?: boolean | undefined;
  readonly state?: string | undefined;
  /** Disks and stores whose blocks may be copied when this one is written by signature. */
  readonly sources?: readonly string[] | undefined;
  /** Files of signature indexes of this disk, used where they fit the session and the disk as it is. */
  readonly indexes?: readonly string[] | undefined;
}

export interface ServeOptions {
  /** By the name that the client says; undefined refuses it. */
  readonly grant: (name: string) => Grant | undefined;
  /** Called when the client has proved who it is; throws to refuse it. */
  readonly admit?: (() => void) | undefined;
  readonly token?: Uint8Array | undefined;
  readonly workers?: number | undefined;
  readonly compression?: Compression | undefined;
  readonly limiter?: RateLimiter | undefined;
  readonly deadAfterMs?: number | undefined;
  /** Ends the session. */
  readonly signal?: AbortSignal | undefined;
  readonly onTraffic?: ((received: ByteCount, sent: ByteCount) => void) | undefined;
  /** Called with what the client was to be told and could not be: it hears no more. */
  readonly onUntold?: ((message: string) => void) | undefined;
  /** Called at the end of each session that ended well: one connection may carry several. */
  readonly onServed?: ((session: ServedSession) => void) | undefined;
}

export interface ServedSession {
  readonly peer: string;
  readonly disk: string;
  readonly job: OpenMessage['job'];
  readonly role: OpenMessage['role'];
  readonly totals: SyncTotals;
  readonly consistent: boolean;
}

/**
 * Serves the sessions of one connection, one after another, until the client leaves.
 * @returns the last of them
 * @throws DriftmapError what ended it early; the peer has been told
 */
export async function serveSession(transport: Transport, options: ServeOptions): Promise<ServedSession> {
  const { signal, limiter, deadAfterMs, onTraffic } = options;
  const connection = new Connection(transport, { limiter, deadAfterMs, onTraffic });
  const stop = () =>
    void connection.abandon(
      new DriftmapError('aborted', 'the other site is shutting down', { path: connection.peer }),
    );
  signal?.addEventListener('abort', stop, { once: true });
  let about: { readonly grant: Grant | undefined; readonly name: string } = { grant: undefined, name: '' };
  try {
    await within(connection, GREETING_MS, 'no greeting came', () =>
      welcome(connection, { token: options.token }),
    );
    options.admit?.();
    for (let served: ServedSession | null = null; ; ) {
      const open = await nextOpen(connection, served === null);
      // The client leaves first: it has the last word to read.
      if (open === null) {
        await connection.close();
        return served!;
      }
      const grant = options.grant(open.disk);
      about = { grant, name: open.disk };
      if (grant === undefined)
        throw new DriftmapError('permission', `no disk is granted under the name '${open.disk}'`);
      served =
        open.role === 'production'
          ? await serveProduction(connection, open, grant, options)
          : await serveReplica(connection, open, grant, options);
      options.onServed?.(served);
    }
  } catch (cause) {
    const error = systemError(cause, { operation: 'serve' });
    const told = hideDisk(error.message, about.grant, about.name);
    await connection.abandon(error, told);
    if (!connection.toldPeer && !connection.endedByPeer) options.onUntold?.(told);
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

async function within<T>(
  connection: Connection,
  milliseconds: number,
  reason: string,
  act: () => Promise<T>,
): Promise<T> {
  const timer = setTimeout(
    () => connection.fail(new DriftmapError('io', reason, { path: connection.peer })),
    milliseconds,
  );
  try {
    return await act();
  } finally {
    clearTimeout(timer);
  }
}

/** What the client wants next; null when it has gone after a session that ended well. */
async function nextOpen(connection: Connection, first: boolean): Promise<OpenMessage | null> {
  const wait = first ? GREETING_MS : SESSION_IDLE_MS;
  const receive = () => within(connection, wait, 'no session was asked for', () => connection.receive());
  const frame = await (first ? receive() : receive().catch(() => null));
  if (frame === null) return null;
  if (frame.type !== MessageType.open) throw connection.unexpected(frame, 'open');
  return connection.control(frame, openShape);
}

/** A peer knows a disk by its name here, and has no need of the path behind it. */
function hideDisk(message: string, grant: Grant | undefined, name: string): string {
  if (grant === undefined) return message;
  const shown = message.replaceAll(canonical(grant.disk), name).replaceAll(grant.disk, name);
  return (grant.indexes ?? []).reduce((text, index) => text.replaceAll(index, `the index of ${name}`), shown);
}

/** A character takes at most three bytes of UTF-8, or two take four. */
const MAX_WARNING = Math.floor(MAX_WIRE_TEXT_BYTES / 3);

/** Warnings as they are sent: without paths, no more and no longer than a message may have. */
function hidden(warnings: readonly string[], grant: Grant, { disk }: OpenMessage): string[] {
  return warnings.slice(0, 64).map((warning) => hideDisk(warning, grant, disk).slice(0, MAX_WARNING));
}

async function serveProduction(
  connection: Connection,
  open: OpenMessage,
  grant: Grant,
  options: ServeOptions,
): Promise<ServedSession> {
  const as = grantedFormat(grant, open.format, open.disk);
  const origin = await openOrigin(grant.disk, { format: as.format, state: grant.state });
  const indexes = await openGranted(grant.indexes, origin.disk, open);
  try {
    checkFormat(origin.disk, as);
    await connection.sendControl(MessageType.opened, {
      production: origin.info,
      codecs: codecs(),
      warnings: hidden([...origin.warnings, ...indexes.warnings], grant, open),
    });
    const totals = new SyncTotals(() => connection.bytesSent + connection.bytesReceived, undefined);
    const session = new ProductionSession({
      connection,
      disk: origin.disk,
      open,
      codec: commonCodec(open.codecs),
      compression: options.compression ?? 'auto',
      workers: options.workers ?? defaultWorkers(),
      totals,
      marks: origin.marks,
      indexes: indexes.side,
    });
    await session.run();
    return servedOf(connection, open, totals, session.consistent);
  } finally {
    indexes.close();
    await origin.close();
  }
}

async function serveReplica(
  connection: Connection,
  open: OpenMessage,
  grant: Grant,
  options: ServeOptions,
): Promise<ServedSession> {
  const { production } = open;
  if (production === null)
    throw new DriftmapError('malformed', "the message 'open': a replica needs production's disk");
  await connection.sendControl(MessageType.opened, { production: null, codecs: codecs(), warnings: [] });
  const totals = new SyncTotals(() => connection.bytesSent + connection.bytesReceived, undefined);
  const common = { connection, production, open, totals, workers: options.workers ?? defaultWorkers() };
  if (open.job !== 'sync') return serveComparison(common, open, grant, production);
  if (grant.readOnly) throw new DriftmapError('permission', `'${open.disk}' is granted for reading only`);
  const sources: OpenSource[] = [];
  let target: Target | null = null;
  let indexes: SessionIndexes | null = null;
  try {
    if (open.bySignature) for (const source of grant.sources ?? []) sources.push(await openSource(source));
    const { blockSize, signature, resize, shrink, full, adopt, discard } = open;
    target = await openTarget(
      {
        ...grantedFormat(grant, open.format, open.disk),
        ...{ replica: grant.disk, state: grant.state, blockSize, signature },
        ...{ resize, shrink, full, adopt, discard },
      },
      production,
    );
    indexes = await openGranted(grant.indexes, target.disk, open);
    const { disk, size, compare, writer, keeper, notes } = target;
    const warnings = hidden([...target.warnings, ...indexes.warnings], grant, open);
    const session = new ReplicaSession({
      ...common,
      disk,
      size,
      compare,
      warnings,
      sources,
      indexes: indexes.side,
      target: { writer, keeper, notes },
    });
    await session.run();
    return servedOf(connection, open, totals, session.consistent);
  } finally {
    indexes?.close();
    for (const source of sources) await source.close();
    await target?.close();
  }
}

async function serveComparison(
  common: Omit<ConstructorParameters<typeof ReplicaSession>[0], 'disk' | 'size' | 'compare' | 'warnings'>,
  open: OpenMessage,
  grant: Grant,
  production: DiskInfo,
): Promise<ServedSession> {
  const as = grantedFormat(grant, open.format, open.disk);
  const disk = await openDisk(grant.disk, { format: as.format });
  const indexes = await openGranted(grant.indexes, disk, open);
  try {
    checkFormat(disk, as);
    const size = Math.max(disk.size, production.size);
    const warnings = hidden([...disk.warnings, ...indexes.warnings], grant, open);
    const own = { disk, size, warnings, indexes: indexes.side };
    const compare = { what: open.narrow === true ? 'yours' : 'all' } as const;
    const session = new ReplicaSession({ ...common, ...own, compare });
    await session.run();
    return servedOf(common.connection, open, common.totals, session.consistent);
  } finally {
    indexes.close();
    await disk.close();
  }
}

function servedOf(
  connection: Connection,
  { disk, job, role }: OpenMessage,
  totals: SyncTotals,
  consistent: boolean,
): ServedSession {
  return { peer: connection.peer, disk, job, role, totals, consistent };
}
