/**
 * A replica that is run over standard input and output outlives its stream while an access is open through it, and the
 * journal has room for one process. So whoever has the journal open takes streams at `JOURNAL/stream.sock` too, and a
 * replica that is started meanwhile only passes its standard input and output on to there.
 */

import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { systemError } from '../../base/errors.ts';
import type { Transport } from '../../wire/transport.ts';
import { removeSocket, throughFolder } from '../group/control.ts';
import { type GroupFile, replicaOf } from '../group/group-file.ts';

/** Where the process that has a journal open takes streams. */
export function streamSocket(file: GroupFile): string {
  return join(replicaOf(file).journal, 'stream.sock');
}

export interface StreamSocket {
  /** Takes no more; streams that are there go on. Idempotent. */
  close(): void;
}

/**
 * Listens at a path, for the user who runs this process alone. Whoever calls this holds the journal's lock: a socket
 * that is in the way is that of a process which was killed.
 */
export async function listenForStreams(
  path: string,
  onTransport: (transport: Transport) => void,
): Promise<StreamSocket> {
  const server = createServer((socket) => onTransport(transportOf(socket)));
  server.maxConnections = 16;
  removeSocket(path);
  await throughFolder(
    path,
    (reachable) =>
      new Promise<void>((resolve, reject) => {
        server.once('error', (cause) => reject(systemError(cause, { path, operation: 'listen' })));
        const before = process.umask(0o177);
        try {
          server.listen(reachable, () => {
            server.removeAllListeners('error');
            server.on('error', () => undefined);
            resolve();
          });
        } finally {
          process.umask(before);
        }
      }),
  );
  let isClosed = false;
  return {
    close() {
      if (isClosed) return;
      isClosed = true;
      server.close();
      removeSocket(path);
    },
  };
}

function transportOf(socket: Socket): Transport {
  return {
    name: '<standard input of another process>',
    readable: socket,
    writable: socket,
    secure: true,
    binding: null,
    copies: true,
    destroy: () => socket.destroy(),
  };
}

/** Null where nobody listens. */
export function reachLiving(path: string): Promise<Socket | null> {
  return throughFolder(
    path,
    (reachable) =>
      new Promise<Socket | null>((resolve) => {
        const socket = connect(reachable);
        socket.once('error', () => resolve(null));
        socket.once('connect', () => resolve(socket));
      }),
  ).catch(() => null);
}

/** Passes a stream on in both directions, until either end has ended. */
export function relay(socket: Socket, near: Pick<Transport, 'readable' | 'writable'>): Promise<void> {
  const { readable, writable } = near;
  return new Promise((resolve) => {
    socket.on('error', () => undefined);
    writable.on('error', () => socket.destroy());
    readable.on('error', () => socket.end());
    socket.once('close', () => resolve());
    readable.pipe(socket);
    socket.pipe(writable, { end: false });
  });
}
