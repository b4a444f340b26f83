/** Opens connections to NBD servers: the socket, TLS where the address asks for it, and the handshake. */

import { connect, type Socket } from 'node:net';
import { userInfo } from 'node:os';
import { connect as connectTls } from 'node:tls';
import { DriftmapError } from '../../base/errors.ts';
import { NBD_HANDSHAKE_SECONDS } from '../../base/limits.ts';
import { KiB } from '../../base/units.ts';
import { ByteStream } from './byte-stream.ts';
import { ClientHandshake } from './client-handshake.ts';
import { NbdConnection } from './connection.ts';
import { PSK_CIPHERS, readClientCertificates, readPskFile, TLS_MINIMUM } from './credentials.ts';
import { DIRTY_BITMAP } from './protocol.ts';
import type { NbdAddress, NbdTls } from './url.ts';

/** The system fills it at each read: more than it holds ready at a time. */
const RECEIVE_BYTES = 256 * KiB;
const KEEPALIVE_MS = 60_000;

/**
 * @param contexts metadata contexts to ask for; the server may grant none
 * @throws DriftmapError what connecting, TLS and the handshake throw, all with the address
 */
export function openConnection(address: NbdAddress, contexts: readonly string[]): Promise<NbdConnection> {
  return inTime(address, async (stream) => {
    const handshake = new ClientHandshake(stream);
    await begin(handshake, address);
    await handshake.askFor(address.exportName, contexts);
    return new NbdConnection(await handshake.go(address.exportName));
  });
}

/** Names of the dirty bitmaps that an export offers, without QEMU's prefix. */
export function listDirtyBitmaps(address: NbdAddress): Promise<string[]> {
  return inTime(address, async (stream) => {
    const handshake = new ClientHandshake(stream);
    await begin(handshake, address);
    await handshake.askFor(address.exportName, []);
    const found = await handshake.listContexts(address.exportName, [DIRTY_BITMAP]);
    await handshake.abort();
    return found
      .filter((name) => name.startsWith(DIRTY_BITMAP))
      .map((name) => name.slice(DIRTY_BITMAP.length));
  });
}

async function begin(handshake: ClientHandshake, { tls, name }: NbdAddress): Promise<void> {
  await handshake.greet();
  if (tls !== null) await handshake.secure((plain) => encrypt(plain, tls, name));
}

/** Ends the socket when the work on it fails, or takes too long. */
async function inTime<T>(address: NbdAddress, work: (stream: ByteStream) => Promise<T>): Promise<T> {
  const { socket, stream } = openSocket(address);
  const deadline = setTimeout(() => {
    const reason = `the server did not finish the handshake within ${NBD_HANDSHAKE_SECONDS} s: it may be busy, or serve fewer clients at a time (qemu-nbd --shared=N)`;
    socket.destroy(new DriftmapError('io', reason, { path: address.name, operation: 'open' }));
  }, NBD_HANDSHAKE_SECONDS * 1000);
  try {
    return await work(stream);
  } catch (cause) {
    socket.destroy();
    throw cause;
  } finally {
    clearTimeout(deadline);
  }
}

function openSocket({ socket: path, host, port, name, tls }: NbdAddress): {
  socket: Socket;
  stream: ByteStream;
} {
  const place = path === null ? { host, port } : { path };
  const common = { ...place, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_MS };
  if (tls !== null) {
    const socket = connect(common);
    return { socket, stream: new ByteStream(socket, name) };
  }
  // Without TLS the bytes come in memory that is used again and again, rather than in fresh memory each time.
  const buffer = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
  const callback = (count: number) => {
    stream.push(buffer.subarray(0, count), true);
    return true;
  };
  const socket = connect({ ...common, onread: { buffer, callback } });
  const stream = new ByteStream(socket, name);
  return { socket, stream };
}

/** @throws DriftmapError `permission` where the server is not trusted, or does not trust us */
async function encrypt(plain: ByteStream, tls: NbdTls, name: string): Promise<ByteStream> {
  const credentials = credentialsOf(tls, name);
  const socket = connectTls({ socket: plain.detach(), minVersion: TLS_MINIMUM, ...credentials });
  await new Promise<void>((resolve, reject) => {
    const fail = (cause?: Error) => {
      if (cause instanceof DriftmapError) return reject(cause);
      const reason = `TLS failed: ${cause?.message ?? 'the server closed the connection'}`;
      reject(new DriftmapError('permission', reason, { path: name, operation: 'open', cause }));
    };
    socket.once('error', fail);
    socket.once('close', () => fail());
    socket.once('secureConnect', () => {
      socket.off('error', fail);
      resolve();
    });
  });
  return new ByteStream(socket, name);
}

function credentialsOf(tls: NbdTls, name: string) {
  const { pskFile, certificates, hostname, verifyPeer, user } = tls;
  if (pskFile !== null) {
    const identity = user ?? userInfo().username;
    const psk = readPskFile(pskFile).get(identity);
    if (psk === undefined) {
      const reason = `no key of user '${identity}' in ${pskFile}: name the user as in nbds://USER@HOST/`;
      throw new DriftmapError('not-found', reason, { path: name, operation: 'open' });
    }
    // Whoever holds the key is the server: there is no certificate to check.
    return {
      pskCallback: () => ({ psk, identity }),
      ciphers: PSK_CIPHERS,
      checkServerIdentity: () => undefined,
    };
  }
  const { ca, cert, key } =
    certificates === null ? { ca: null, cert: null, key: null } : readClientCertificates(certificates);
  return {
    servername: hostname,
    rejectUnauthorized: verifyPeer,
    ...(ca !== null && { ca }),
    ...(cert !== null && key !== null && { cert, key }),
  };
}
