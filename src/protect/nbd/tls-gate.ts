/**
 * Where connections become encrypted: a TLS server of `node:tls` that does not listen, and is handed the sockets whose
 * clients said STARTTLS.
 */

import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { DriftmapError } from '../../base/errors.ts';
import { PSK_CIPHERS, type ServerCredentials, TLS_MINIMUM } from '../../lu/nbd/credentials.ts';

export interface TlsGate {
  /**
   * Waits until both sides trust one another.
   * @throws DriftmapError `permission` where they do not, `io` where the client leaves
   */
  enter(socket: Socket): Promise<TLSSocket>;
  close(): void;
}

export function createTlsGate(credentials: ServerCredentials, handshakeMs: number): TlsGate {
  const { certificate, psk } = credentials;
  const server = createServer({
    minVersion: TLS_MINIMUM,
    handshakeTimeout: handshakeMs,
    ...(certificate && {
      cert: certificate.cert,
      key: certificate.key,
      ...(certificate.ca && { ca: certificate.ca }),
      requestCert: certificate.verifyPeer,
      rejectUnauthorized: certificate.verifyPeer,
    }),
    ...(psk && {
      ciphers: PSK_CIPHERS,
      pskCallback: (_socket: TLSSocket, identity: string) => psk.get(identity) ?? null,
    }),
  });
  const waiting = new WeakMap<object, (error: DriftmapError | null, socket: TLSSocket) => void>();
  const settle = (socket: TLSSocket, cause: Error | null) => {
    const raw = rawOf(socket);
    const waiter = waiting.get(raw);
    if (waiter === undefined) return;
    waiting.delete(raw);
    const reason = `TLS failed: ${cause?.message ?? ''}`;
    waiter(
      cause === null ? null : new DriftmapError('permission', reason, { operation: 'handshake', cause }),
      socket,
    );
  };
  server.on('secureConnection', (socket) => settle(socket, null));
  server.on('tlsClientError', (cause, socket) => settle(socket, cause));
  return {
    enter: (raw) =>
      new Promise((resolve, reject) => {
        const left = () =>
          reject(new DriftmapError('io', 'the client left during TLS', { operation: 'handshake' }));
        raw.once('close', left);
        waiting.set(raw, (error, socket) => {
          raw.off('close', left);
          if (error === null) resolve(socket);
          else reject(error);
        });
        server.emit('connection', raw);
      }),
    // It never listened: nothing is to be closed but what it keeps of sessions.
    close: () => server.removeAllListeners(),
  };
}

/** The socket that a TLS socket stands on; node:tls keeps it in `_parent`, and tells nobody else. */
function rawOf(socket: TLSSocket): object {
  return (socket as TLSSocket & { readonly _parent?: object })._parent ?? socket;
}
