/** The NBD server: listens, shakes hands, and serves exports until it is closed. */

import { existsSync, lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { NBD_HANDSHAKE_SECONDS, NBD_MAX_CONNECTIONS } from '../../base/limits.ts';
import { ByteStream } from '../../lu/nbd/byte-stream.ts';
import type { ServerCredentials } from '../../lu/nbd/credentials.ts';
import { nbdUrl } from '../../lu/nbd/url.ts';
import { checkExports } from './check-exports.ts';
import { shakeHands } from './handshake.ts';
import type { NbdExport } from './nbd-export.ts';
import { createTlsGate, type TlsGate } from './tls-gate.ts';
import { Transmission } from './transmission.ts';

/** A Unix socket by its path, or a TCP port; port 0 takes one that is free, the host is loopback by default. */
export type NbdListen =
  | { readonly socket: string }
  | { readonly host?: string | undefined; readonly port: number };

export interface ServeNbdOptions {
  /** By name; a client that asks for no name gets the only one, where there is one, or that of the empty name. */
  readonly exports: Readonly<Record<string, NbdExport>>;
  readonly listen: NbdListen;
  /** With it, nobody is served without TLS. */
  readonly tls?: ServerCredentials | undefined;
  /** Serves every export for reading only. */
  readonly readOnly?: boolean | undefined;
  /** Clients at a time; further ones are turned away. */
  readonly maxConnections?: number | undefined;
  readonly handshakeSeconds?: number | undefined;
  /** Told of what goes wrong: failing exports, broken handshakes. Clients learn no more than the kind. */
  readonly onTrouble?: ((error: DriftmapError) => void) | undefined;
}

export interface NbdServer {
  /** Where clients find an export (doc/uri.md of NetworkBlockDevice/nbd). */
  uri(name: string): string;
  /** Port of TCP; null on a Unix socket. */
  readonly port: number | null;
  readonly connections: number;
  /** Takes no more clients, answers what is in flight, and ends all connections. */
  close(): Promise<void>;
}

/** Clients that do not let go are cut off after this. */
const CLOSING_SECONDS = 5;
/** So that a client whose host died is noticed. */
const KEEPALIVE_MS = 60_000;

/**
 * Listens, and returns once clients can connect.
 * @throws DriftmapError `argument` for exports that cannot be served, and what the system says about listening
 */
export async function serveNbd(options: ServeNbdOptions): Promise<NbdServer> {
  const exports = new Map(Object.entries(options.exports));
  checkExports(exports);
  const server = new ListeningServer(exports, options);
  await server.listen();
  return server;
}

class ListeningServer implements NbdServer {
  private readonly exports: ReadonlyMap<string, NbdExport>;
  private readonly options: ServeNbdOptions;
  private readonly tls: TlsGate | null;
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  /** Those of them whose handshake is done. */
  private readonly served = new WeakSet<Socket>();
  private readonly transmissions = new Set<Transmission>();
  private readonly sessions = new Set<Promise<void>>();
  private closing: Promise<void> | null = null;

  constructor(exports: ReadonlyMap<string, NbdExport>, options: ServeNbdOptions) {
    this.exports = exports;
    this.options = options;
    this.tls = options.tls ? createTlsGate(options.tls, this.handshakeMs) : null;
    // A client may end its side and still wait for answers.
    this.server = createServer({
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_MS,
    });
    this.server.on('connection', (socket) => this.welcome(socket));
    this.server.on('error', (cause) => this.tell(cause));
  }

  get connections(): number {
    return this.sockets.size;
  }

  get port(): number | null {
    const address = this.server.address();
    return address === null || typeof address === 'string' ? null : address.port;
  }

  uri(name: string): string {
    const { listen } = this.options;
    const place =
      'socket' in listen ? listen : { host: listen.host ?? 'localhost', port: this.port ?? listen.port };
    return nbdUrl(place, name, this.tls !== null);
  }

  async listen(): Promise<void> {
    const { listen } = this.options;
    const at =
      'socket' in listen ? { path: listen.socket } : { host: listen.host ?? 'localhost', port: listen.port };
    if ('socket' in listen) {
      checkFolder(listen.socket);
      await removeStale(listen.socket);
    }
    const name = 'socket' in listen ? listen.socket : `${at.host}:${at.port}`;
    await new Promise<void>((resolve, reject) => {
      const fail = (cause: Error) => reject(systemError(cause, { path: name, operation: 'listen' }));
      this.server.once('error', fail);
      this.server.listen(at, () => {
        this.server.off('error', fail);
        resolve();
      });
    });
  }

  close(): Promise<void> {
    this.closing ??= this.shutDown();
    return this.closing;
  }

  private async shutDown(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const transmission of this.transmissions) transmission.close();
    const cutOff = setTimeout(() => this.cutOff(), CLOSING_SECONDS * 1000);
    // Who is still shaking hands has nothing to lose.
    for (const socket of this.sockets) if (!this.served.has(socket)) socket.destroy();
    await Promise.all([...this.sessions]);
    clearTimeout(cutOff);
    this.cutOff();
    this.tls?.close();
    await closed;
    // The server counts a socket as gone a moment before the socket says so itself.
    await Promise.all(
      [...this.sockets].map((socket) => new Promise((resolve) => socket.once('close', resolve))),
    );
  }

  private cutOff(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  private get handshakeMs(): number {
    return (this.options.handshakeSeconds ?? NBD_HANDSHAKE_SECONDS) * 1000;
  }

  private welcome(socket: Socket): void {
    if (this.closing !== null || this.sockets.size >= (this.options.maxConnections ?? NBD_MAX_CONNECTIONS)) {
      socket.on('error', () => {});
      socket.destroy();
      return;
    }
    this.sockets.add(socket);
    socket.once('close', () => this.sockets.delete(socket));
    const session = this.serve(socket)
      .catch((error) => this.tell(error))
      .finally(() => this.sessions.delete(session));
    this.sessions.add(session);
  }

  private async serve(socket: Socket): Promise<void> {
    const name = `client ${socket.remoteAddress ?? 'on the socket'}`;
    const deadline = setTimeout(() => socket.destroy(), this.handshakeMs);
    const { tls } = this;
    try {
      const agreement = await shakeHands(new ByteStream(socket, name), {
        exports: this.exports,
        readOnly: this.options.readOnly ?? false,
        startTls:
          tls === null
            ? null
            : async (stream) => new ByteStream(await tls.enter(stream.detach() as Socket), name),
        isClosing: () => this.closing !== null,
      });
      if (agreement === null) {
        socket.end();
        return;
      }
      clearTimeout(deadline);
      this.served.add(socket);
      const transmission = new Transmission(agreement, { onTrouble: (error) => this.tell(error) });
      this.transmissions.add(transmission);
      transmission.start();
      if (this.closing !== null) transmission.close();
      await transmission.done.finally(() => this.transmissions.delete(transmission));
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(deadline);
    }
  }

  private tell(error: unknown): void {
    this.options.onTrouble?.(
      error instanceof DriftmapError ? error : systemError(error, { operation: 'serve' }),
    );
  }
}

/** Of a folder that is not there, libuv says EACCES, and nobody would look for that. */
function checkFolder(path: string): void {
  const folder = dirname(path);
  if (existsSync(folder)) return;
  const reason = `there is no folder ${folder} for the socket: make it first`;
  throw new DriftmapError('not-found', reason, { path, operation: 'listen' });
}

/** The socket of a server that was killed is in the way of the next one; that of one that runs is not touched. */
async function removeStale(path: string): Promise<void> {
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there === undefined || !there.isSocket()) return;
  const isStale = await new Promise<boolean>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (cause: NodeJS.ErrnoException) => resolve(cause.code === 'ECONNREFUSED'));
  });
  if (isStale) unlinkSync(path);
}
