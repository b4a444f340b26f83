/**
 * NBD addresses as URLs (doc/uri.md of NetworkBlockDevice/nbd):
 *
 *   nbd://HOST[:PORT]/EXPORT   nbds://…  with TLS   nbd+unix:///EXPORT?socket=PATH   nbds+unix://…
 *
 * Parameters for TLS are those of the specification and of libnbd: `tls-certificates=FOLDER`, `tls-psk-file=FILE` (the
 * user before an `@` names the line), `tls-hostname=NAME`, `tls-verify-peer=0|1`. TLS is used with `nbds` and never
 * otherwise: a connection that is encrypted only where the server likes protects from nobody.
 */

import { resolve } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import { NBD_PORT } from './protocol.ts';

export interface NbdAddress {
  /** For messages: the URL without parameters of TLS. */
  readonly name: string;
  readonly socket: string | null;
  readonly host: string;
  readonly port: number;
  readonly exportName: string;
  /** Null without TLS. */
  readonly tls: NbdTls | null;
}

export interface NbdTls {
  readonly user: string | null;
  readonly certificates: string | null;
  readonly pskFile: string | null;
  /** Whom the server's certificate must name. */
  readonly hostname: string;
  readonly verifyPeer: boolean;
}

const scheme = /^nbds?(?:\+unix)?:\/\//;
const known = ['socket', 'tls-certificates', 'tls-psk-file', 'tls-hostname', 'tls-verify-peer', 'tls-type'];

export function isNbdUrl(text: string): boolean {
  return scheme.test(text);
}

/** @throws DriftmapError `argument` */
export function parseNbdUrl(text: string): NbdAddress {
  const bad = (reason: string) => new DriftmapError('argument', reason, { path: text });
  if (!isNbdUrl(text)) throw bad('expected nbd://HOST/EXPORT, nbds://…, or nbd+unix:///EXPORT?socket=PATH');
  let url: URL;
  let exportName: string;
  try {
    url = new URL(text);
    exportName = decodeURIComponent(url.pathname.replace(/^\//, ''));
  } catch (cause) {
    throw new DriftmapError('argument', 'this is no URL', { path: text, cause });
  }
  for (const key of url.searchParams.keys()) {
    if (!known.includes(key)) throw bad(`unknown parameter '${key}': expected ${known.join(', ')}`);
  }
  const isUnix = url.protocol.endsWith('+unix:');
  const socket = url.searchParams.get('socket');
  if (isUnix && !socket) throw bad('expected ?socket=PATH');
  if (!isUnix && (socket !== null || url.hostname === ''))
    throw bad('expected a host, or nbd+unix:// for a socket');
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const at = { socket: socket === null ? null : absolute(socket), host, port: Number(url.port || NBD_PORT) };
  const tls = url.protocol.startsWith('nbds') ? tlsOf(url, host, bad) : null;
  return { ...at, name: nameOf(at, exportName, tls !== null), exportName, tls };
}

/** An abstract socket begins with a NUL and is no path. */
function absolute(socket: string): string {
  return socket.startsWith('\0') ? socket : resolve(socket);
}

function tlsOf(url: URL, host: string, bad: (reason: string) => DriftmapError): NbdTls {
  const { searchParams: parameters } = url;
  const verify = parameters.get('tls-verify-peer') ?? '1';
  if (verify !== '0' && verify !== '1') throw bad('expected tls-verify-peer=0 or 1');
  const certificates = parameters.get('tls-certificates');
  const pskFile = parameters.get('tls-psk-file');
  if (certificates !== null && pskFile !== null)
    throw bad('expected tls-certificates or tls-psk-file, got both');
  return {
    user: url.username === '' ? null : decodeURIComponent(url.username),
    certificates,
    pskFile,
    hostname: parameters.get('tls-hostname') ?? (host || 'localhost'),
    verifyPeer: verify === '1',
  };
}

function nameOf(
  { socket, host, port }: Pick<NbdAddress, 'socket' | 'host' | 'port'>,
  exportName: string,
  secure: boolean,
): string {
  const path = encodePath(exportName);
  const prefix = secure ? 'nbds' : 'nbd';
  if (socket !== null) return `${prefix}+unix:///${path}?socket=${encodePath(socket)}`;
  const shown = host.includes(':') ? `[${host}]` : host.toLowerCase();
  return `${prefix}://${shown}${port === NBD_PORT ? '' : `:${port}`}/${path}`;
}

/** The URL of an export: the same for every way to write it. */
export function nbdUrl(
  place: { readonly socket: string } | { readonly host: string; readonly port: number },
  exportName: string,
  secure: boolean,
): string {
  const at =
    'socket' in place ? { socket: place.socket, host: '', port: NBD_PORT } : { socket: null, ...place };
  return nameOf(at, exportName, secure);
}

/** Slashes are harmless in paths and parameters, and people like to read them. */
function encodePath(text: string): string {
  return encodeURIComponent(text).replaceAll('%2F', '/');
}
