/** A server: listens, serves sessions side by side, counts, and ends cleanly. */

import { DriftmapError } from '../base/errors.ts';
import { MAX_SESSIONS } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { isLoopback } from '../wire/site.ts';
import { type Listener, listenTcp, type TlsFiles } from '../wire/tcp.ts';
import type { Transport } from '../wire/transport.ts';
import { ServerMetrics } from './metrics.ts';
import { type ServedSession, type ServeOptions, serveSession } from './server.ts';

export interface ListenServerOptions extends Omit<ServeOptions, 'signal' | 'onTraffic' | 'onServed'> {
  readonly host: string;
  /** 0 for one that is free. */
  readonly port: number;
  /** Null for plain TCP, which is for loopback. */
  readonly tls: TlsFiles | null;
  /** Allows plain TCP on other addresses. */
  readonly insecure?: boolean | undefined;
  readonly onSession?: ((session: ServedSession) => void) | undefined;
  readonly onError?: ((error: unknown, peer: string) => void) | undefined;
}

export interface DriftmapServer {
  readonly host: string;
  readonly port: number;
  readonly metrics: ServerMetrics;
  /** Sessions under way. */
  readonly sessions: number;
  /**
   * Takes no more sessions, waits for those under way for at most so long (30 s by default), and then ends them:
   * their replicas' states stay true.
   */
  close(graceMs?: number): Promise<void>;
}

/** @throws DriftmapError `policy` for a server that anybody could use; what listening throws */
export async function serve(options: ListenServerOptions): Promise<DriftmapServer> {
  checkSafe(options);
  const metrics = new ServerMetrics();
  const stop = new AbortController();
  const running = new Set<Promise<void>>();
  const carried = new Set<Transport>();
  const onTraffic = (received: ByteCount, sent: ByteCount) => metrics.traffic(received, sent);
  const take = (transport: Transport) => {
    metrics.begin();
    // Who has not proved who he is takes no place of those who have, and who has is told that there is none.
    const admit = () => {
      if (carried.size >= MAX_SESSIONS) {
        metrics.refused++;
        throw new DriftmapError('limit', `${MAX_SESSIONS} sessions are under way here: try again later`);
      }
      carried.add(transport);
    };
    const onServed = (served: ServedSession) => {
      metrics.served(served);
      options.onSession?.(served);
    };
    const session = serveSession(transport, { ...options, admit, signal: stop.signal, onTraffic, onServed })
      .then(() => metrics.end())
      .catch((error) => {
        metrics.failed();
        options.onError?.(error, transport.name);
      })
      .finally(() => {
        carried.delete(transport);
        running.delete(session);
      });
    running.add(session);
  };
  const { host, port, tls } = options;
  const onRefused = (reason: string) => {
    metrics.refused++;
    options.onError?.(new DriftmapError('permission', reason), 'a stranger');
  };
  const listener: Listener = await listenTcp({ host, port, tls, onTransport: take, onRefused });
  return {
    host,
    port: listener.port,
    metrics,
    get sessions() {
      return carried.size;
    },
    close: async (graceMs = 30_000) => {
      const closed = listener.close();
      const timer = setTimeout(() => stop.abort(), graceMs);
      await Promise.all(running);
      clearTimeout(timer);
      await closed;
    },
  };
}

/** @throws DriftmapError `policy` for a server that anybody could use, `argument` for half of a certificate */
export function checkSafe({
  host,
  tls,
  token,
  insecure,
}: Pick<ListenServerOptions, 'host' | 'tls' | 'token' | 'insecure'>): void {
  if (tls !== null && (tls.cert === undefined || tls.key === undefined))
    throw new DriftmapError('argument', 'TLS needs a certificate and its key: --tls-cert and --tls-key');
  if (tls === null && !isLoopback(host) && !insecure) {
    const reason = `expected TLS on an address that others can reach (${host}): give --tls-cert, --tls-key and --tls-ca, or say --insecure`;
    throw new DriftmapError('policy', reason);
  }
  if (tls?.ca === undefined && token === undefined && !insecure) {
    const reason =
      'nobody would have to prove who he is: give --tls-ca (certificates of both sides), or --token-file';
    throw new DriftmapError('policy', reason);
  }
}
