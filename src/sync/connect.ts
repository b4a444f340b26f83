/** Reaches another site: by ssh, by TCP, and greets it. */

import { DriftmapError, systemError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { Connection } from '../wire/connection.ts';
import { greet } from '../wire/greeting.ts';
import type { RateLimiter } from '../wire/limiter.ts';
import { isLoopback, type Place, type Site } from '../wire/site.ts';
import { overSsh, type SshOptions } from '../wire/stdio.ts';
import { connectTcp, type TlsFiles } from '../wire/tcp.ts';
import type { Transport } from '../wire/transport.ts';

export interface SiteOptions extends SshOptions {
  readonly tls?: (TlsFiles & { readonly servername?: string | undefined }) | undefined;
  readonly token?: Uint8Array | undefined;
  /** Allows plain TCP to other machines. */
  readonly insecure?: boolean | undefined;
  readonly limiter?: RateLimiter | undefined;
  /** Silence after which the other site counts as dead; 60 s by default. */
  readonly deadAfterMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export type RemoteSite = Exclude<Site, { kind: 'local' }>;

/** What a session has sent and received: a connection may have carried others before it. */
export interface Wire {
  readonly bytesSent: ByteCount;
  readonly bytesReceived: ByteCount;
}

/** A connection that has been greeted, and what to do when it is no longer needed. */
export interface Reached {
  readonly connection: Connection;
  readonly wire: Wire;
  /** Turns the loss of a connection into what its carrier knows about it. */
  explain(cause: unknown): Promise<unknown>;
  close(): Promise<void>;
}

/** @throws DriftmapError `io`, `permission`, `unsupported` (no common version), `policy` (plain TCP) */
export async function reach(site: Place, options: SiteOptions): Promise<Reached> {
  const carrier = site.kind === 'ssh' ? overSsh(site, options) : null;
  const transport: Transport = carrier ?? (await overTcp(site as Extract<Place, { kind: 'tcp' }>, options));
  const { limiter, deadAfterMs, signal, token } = options;
  const connection = new Connection(transport, { limiter, deadAfterMs });
  const stop = () => void connection.abandon(stopped(signal));
  const explain = async (cause: unknown) => {
    if (connection.ending === 'said') return cause;
    const why = carrier === null ? null : await carrier.ending();
    if (why === null || !(cause instanceof DriftmapError) || cause.kind !== 'io') return cause;
    return new DriftmapError('io', why, { path: transport.name, cause });
  };
  const close = async () => {
    signal?.removeEventListener('abort', stop);
    await connection.close();
  };
  if (signal?.aborted) stop();
  signal?.addEventListener('abort', stop, { once: true });
  try {
    // ssh and a secure channel with certificates have proved who is there.
    await greet(connection, site.kind === 'ssh' ? {} : { token });
    return { connection, wire: connection, explain, close };
  } catch (cause) {
    const error = await explain(systemError(cause, { path: transport.name, operation: 'connect' }));
    await connection.abandon(error as DriftmapError);
    await close();
    throw error;
  }
}

function overTcp(site: Extract<Place, { kind: 'tcp' }>, options: SiteOptions): Promise<Transport> {
  const { host, port, tls } = site;
  if (!tls && !isLoopback(host) && !options.insecure) {
    const reason = 'expected TLS to another machine: use driftmaps://, or say --insecure';
    throw new DriftmapError('policy', reason, { path: `driftmap://${host}:${port}` });
  }
  return connectTcp({ host, port, tls: tls ? (options.tls ?? {}) : null });
}

export function stopped(signal: AbortSignal | undefined): DriftmapError {
  return new DriftmapError('aborted', 'the session was stopped', {
    operation: 'sync',
    cause: signal?.reason,
  });
}
