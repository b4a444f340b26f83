/** Sessions over TCP: with TLS 1.3, where both sides show certificates or share a token; or plain, on loopback. */

import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { DriftmapError, systemError } from '../base/errors.ts';
import { GREETING_MS, MAX_GREETINGS, MAX_SESSIONS } from '../base/limits.ts';
import { Lobby, type LobbyPlace } from './lobby.ts';
import { bareHost } from './site.ts';
import { handshakeError, tlsError } from './tls-errors.ts';
import type { Transport } from './transport.ts';

// node:tls is loaded when it is first needed: a sync of two disks here, and plain TCP, start without it.

/** PEM files. */
export interface TlsFiles {
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** Who signs the certificates that the peer may show. */
  readonly ca?: string | undefined;
}

interface Pem {
  readonly cert?: Buffer;
  readonly key?: Buffer;
  readonly ca?: Buffer;
}

function read({ cert, key, ca }: TlsFiles): Pem {
  const file = (path: string | undefined) => {
    if (path === undefined) return undefined;
    try {
      return readFileSync(path);
    } catch (cause) {
      throw systemError(cause, { path, operation: 'read' });
    }
  };
  const given = { cert: file(cert), key: file(key), ca: file(ca) };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

const CONNECT_MS = 20_000;

export interface ConnectTcpOptions {
  readonly host: string;
  readonly port: number;
  /** Null for plain TCP. */
  readonly tls: (TlsFiles & { readonly servername?: string | undefined }) | null;
}

/** @throws DriftmapError `io`, `permission` (a certificate that is not trusted) */
export async function connectTcp({ host, port, tls }: ConnectTcpOptions): Promise<Transport> {
  const secure = tls === null ? null : await import('node:tls');
  const name = `${tls === null ? 'driftmap' : 'driftmaps'}://${host}:${port}`;
  const bare = bareHost(host);
  return new Promise((resolve, reject) => {
    const socket =
      tls === null || secure === null
        ? netConnect({ host: bare, port })
        : secure.connect({
            host: bare,
            port,
            minVersion: 'TLSv1.3',
            ...(/[:]|^[\d.]+$/.test(bare) && !tls.servername ? {} : { servername: tls.servername ?? bare }),
            ...read(tls),
          });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new DriftmapError('io', `no connection within ${CONNECT_MS / 1000} s`, { path: name }));
    }, CONNECT_MS);
    const failed = (cause: unknown) => {
      clearTimeout(timer);
      socket.destroy();
      reject(connectError(cause, name, tls?.ca !== undefined));
    };
    socket.once('error', failed);
    socket.once(tls === null ? 'connect' : 'secureConnect', () => {
      clearTimeout(timer);
      socket.off('error', failed);
      resolve(transportOf(socket, name, tls === null ? null : (socket as TLSSocket)));
    });
  });
}

function connectError(cause: unknown, path: string, ca: boolean): DriftmapError {
  const code = String((cause as NodeJS.ErrnoException).code ?? '');
  const secure = tlsError(cause, path, ca);
  if (secure !== null) return secure;
  const reasons: Readonly<Record<string, string>> = {
    ECONNREFUSED: 'nobody listens there',
    ENOTFOUND: 'no such host',
    EHOSTUNREACH: 'no route to the host',
  };
  if (reasons[code]) return new DriftmapError('io', `${reasons[code]} [${code}]`, { path, cause });
  return systemError(cause, { path, operation: 'connect' });
}

function transportOf(socket: Socket, name: string, tls: TLSSocket | null, lobby?: LobbyPlace): Transport {
  socket.setNoDelay(true);
  socket.setKeepAlive(true, 30_000);
  // RFC 9266: what both ends of this very channel know.
  const binding = tls?.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0)) ?? null;
  return {
    name,
    readable: socket,
    writable: socket,
    secure: tls !== null,
    binding,
    copies: true,
    lobby,
    meaningOf: (cause) => (tls === null ? null : tlsError(cause, name, true)),
    destroy: () => socket.destroy(),
  };
}

export interface ListenOptions {
  readonly host: string;
  /** 0 for one that is free. */
  readonly port: number;
  /** With `ca`, whoever connects must show a certificate that it signed. Null for plain TCP. */
  readonly tls: TlsFiles | null;
  readonly onTransport: (transport: Transport) => void;
  readonly onRefused?: ((reason: string) => void) | undefined;
}

export interface Listener {
  readonly host: string;
  readonly port: number;
  /** Takes no more connections; those that are there go on. */
  close(): Promise<void>;
}

export async function listenTcp({
  host,
  port,
  tls,
  onTransport,
  onRefused,
}: ListenOptions): Promise<Listener> {
  const lobby = new Lobby();
  /** By name: a TLS socket does not tell of the one below it. */
  const places = new Map<string, LobbyPlace>();
  const arrive = (socket: Socket) => {
    const name = nameOf(socket);
    const place = lobby.enter(String(socket.remoteAddress), () => socket.destroy());
    places.set(name, place);
    socket.once('close', () => {
      place.leave();
      if (places.get(name) === place) places.delete(name);
    });
  };
  const accept = (socket: Socket, secured: TLSSocket | null) => {
    try {
      const name = nameOf(socket);
      onTransport(transportOf(socket, name, secured, places.get(name)));
    } catch (cause) {
      // It was closed while it was accepted.
      socket.destroy();
      onRefused?.(cause instanceof Error ? cause.message : String(cause));
    }
  };
  let server: Server;
  if (tls === null)
    server = createServer((socket) => {
      arrive(socket);
      accept(socket, null);
    });
  else {
    const mutual = tls.ca !== undefined;
    const options = { minVersion: 'TLSv1.3', requestCert: mutual, rejectUnauthorized: mutual } as const;
    const { createServer: createTlsServer } = await import('node:tls');
    server = createTlsServer({ ...read(tls), ...options, handshakeTimeout: GREETING_MS }, (socket) =>
      accept(socket, socket),
    );
    server.on('connection', arrive);
    server.on('tlsClientError', (cause: Error, socket: TLSSocket) =>
      onRefused?.(handshakeError(cause, socket.authorizationError, knownName(socket)).message),
    );
  }
  // Twice as many as there can be: those who must go are told so first.
  server.maxConnections = 2 * (MAX_SESSIONS + MAX_GREETINGS);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(systemError(cause, { path: `${host}:${port}`, operation: 'listen' })),
    );
    server.listen(port, bareHost(host), resolve);
  });
  server.on('error', (cause) => onRefused?.(cause.message));
  return {
    host,
    port: (server.address() as AddressInfo).port,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

function nameOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress}:${remotePort}`;
}

/** A socket that has been closed has forgotten it. */
function knownName(socket: Socket): string | undefined {
  return socket.remoteAddress === undefined ? undefined : nameOf(socket);
}
