/**
 * What both sides prove who they are with, read from files laid out as QEMU and libnbd have them (QEMU, "TLS setup for
 * network services"; nbd_set_tls_certificates(3), nbd_set_tls_psk_file(3)):
 *
 *   a folder   ca-cert.pem, server-cert.pem and server-key.pem, client-cert.pem and client-key.pem
 *   a file     one line for each user, USER:KEY, the key in hexadecimal digits (psktool, RFC 4279)
 */

import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { NBD_MAX_KEY_FILE_BYTES } from '../../base/limits.ts';

export interface ServerCredentials {
  readonly certificate?: {
    readonly cert: string;
    readonly key: string;
    readonly ca?: string;
    /** Serves only clients whose certificate the authority has signed. */
    readonly verifyPeer: boolean;
  };
  /** Keys by user. */
  readonly psk?: ReadonlyMap<string, Uint8Array>;
}

export interface ClientCertificates {
  readonly ca: string | null;
  readonly cert: string | null;
  readonly key: string | null;
}

/** proto.md, "TLS versions". */
export const TLS_MINIMUM = 'TLSv1.2';
/** Ephemeral keys, so that a key that is stolen later opens nothing of what was recorded before. */
export const PSK_CIPHERS =
  'TLS_AES_128_GCM_SHA256:ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:ECDHE-PSK-AES256-CBC-SHA384';

/**
 * @param files a folder of certificates, or a file of pre-shared keys
 * @throws DriftmapError `not-found`, `permission`, `argument`, `malformed`, `limit`
 */
export function readServerCredentials(files: {
  readonly certificates?: string | undefined;
  readonly pskFile?: string | undefined;
  readonly verifyPeer?: boolean | undefined;
}): ServerCredentials {
  const { certificates, pskFile, verifyPeer = false } = files;
  if ((certificates === undefined) === (pskFile === undefined)) {
    throw new DriftmapError(
      'argument',
      'expected either a folder of certificates or a file of pre-shared keys',
    );
  }
  if (pskFile !== undefined) return { psk: readPskFile(pskFile) };
  const folder = certificates!;
  const ca = readOptional(join(folder, 'ca-cert.pem'));
  if (verifyPeer && ca === null) {
    const reason = 'expected ca-cert.pem there, whose certificates clients must show';
    throw new DriftmapError('not-found', reason, { path: folder });
  }
  const certificate = {
    cert: readKeyFile(join(folder, 'server-cert.pem')),
    key: readKeyFile(join(folder, 'server-key.pem')),
    ...(ca !== null && { ca }),
    verifyPeer,
  };
  return { certificate };
}

/** A client's own certificate is optional, as is the authority: then those that Node trusts count. */
export function readClientCertificates(folder: string): ClientCertificates {
  statFolder(folder);
  const [ca, cert, key] = ['ca-cert.pem', 'client-cert.pem', 'client-key.pem'].map((name) =>
    readOptional(join(folder, name)),
  ) as [string | null, string | null, string | null];
  return { ca, cert, key };
}

/** Keys by user. Empty lines, and those that begin with #, are passed over. */
export function readPskFile(path: string): ReadonlyMap<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of readKeyFile(path).split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const match = /^([^:]+):((?:[0-9a-fA-F]{2}){1,256})$/.exec(line.trimEnd());
    if (match === null) {
      const reason = `line ${index + 1}: expected USER:KEY, the key in hexadecimal digits, as psktool writes it`;
      throw new DriftmapError('malformed', reason, { path });
    }
    keys.set(match[1]!, Buffer.from(match[2]!, 'hex'));
  }
  if (keys.size === 0) throw new DriftmapError('malformed', 'expected at least one line USER:KEY', { path });
  return keys;
}

function readOptional(path: string): string | null {
  return statSync(path, { throwIfNoEntry: false }) === undefined ? null : readKeyFile(path);
}

function statFolder(folder: string): void {
  try {
    if (statSync(folder).isDirectory()) return;
  } catch (cause) {
    throw systemError(cause, { path: folder, operation: 'open' });
  }
  throw new DriftmapError('argument', 'expected a folder with ca-cert.pem and so on', { path: folder });
}

function readKeyFile(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > NBD_MAX_KEY_FILE_BYTES) {
      throw new DriftmapError('limit', `expected at most ${NBD_MAX_KEY_FILE_BYTES} bytes of keys`, {
        path,
        length: size,
      });
    }
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw systemError(cause, { path, operation: 'open' });
  }
}
