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

/** RFC 3986, section 3, as far as an NBD address has parts; `URL` of WHATWG knows no user without a host. */
const shape =
  /^(nbds?)(\+unix)?:\/\/(?:([^/?#@]*)@)?(\[[0-9a-fA-F:.]+\]|[^/?#@:[\]]*)(?::(\d{0,5}))?(\/[^?#]*)?(?:\?([^#]*))?$/;
const known = ['socket', 'tls-certificates', 'tls-psk-file', 'tls-hostname', 'tls-verify-peer', 'tls-type'];

export function isNbdUrl(text: string): boolean {
  return /^nbds?(?:\+unix)?:\/\//.test(text);
}

/** @throws DriftmapError `argument` */
export function parseNbdUrl(text: string): NbdAddress {
  const bad = (reason: string, cause?: unknown) =>
    new DriftmapError('argument', reason, { path: text, cause });
  const match = shape.exec(text);
  if (match === null)
    throw bad('expected nbd://HOST[:PORT]/EXPORT, nbds://…, or nbd+unix:///EXPORT?socket=PATH');
  const [, scheme, unix, userinfo, bracketed, digits, path, query] = match;
  let parameters: ReadonlyMap<string, string>;
  let [exportName, host, user] = ['', '', ''];
  try {
    exportName = decodeURIComponent((path ?? '').slice(1));
    host = decodeURIComponent(bracketed!.replace(/^\[(.*)\]$/, '$1'));
    user = decodeURIComponent(userinfo ?? '');
    parameters = readQuery(query ?? '');
  } catch (cause) {
    throw bad('a percent sign that no two hexadecimal digits follow, or that makes no text', cause);
  }
  for (const key of parameters.keys()) {
    if (!known.includes(key)) throw bad(`unknown parameter '${key}': expected ${known.join(', ')}`);
  }
  const socket = parameters.get('socket') ?? null;
  if (unix && !socket) throw bad('expected ?socket=PATH');
  if (!unix && (socket !== null || host === '')) throw bad('expected a host, or nbd+unix:// for a socket');
  const port = Number(digits || NBD_PORT);
  if (port < 1 || port > 65535) throw bad(`expected a port up to 65535, got ${port}`);
  const at = { socket: socket === null ? null : absolute(socket), host, port };
  const tls = scheme === 'nbds' ? tlsOf(parameters, user || null, host, bad) : null;
  return { ...at, name: nameOf(at, exportName, tls !== null), exportName, tls };
}

/** A plus sign is a plus sign: this is no form. */
function readQuery(query: string): Map<string, string> {
  const pairs = query.split('&').filter((pair) => pair !== '');
  return new Map(
    pairs.map((pair) => {
      const at = pair.indexOf('=');
      const [key, value] = at < 0 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
      return [decodeURIComponent(key), decodeURIComponent(value)];
    }),
  );
}

/** An abstract socket begins with a NUL and is no path. */
function absolute(socket: string): string {
  return socket.startsWith('\0') ? socket : resolve(socket);
}

function tlsOf(
  parameters: ReadonlyMap<string, string>,
  user: string | null,
  host: string,
  bad: (reason: string) => DriftmapError,
): NbdTls {
  const verify = parameters.get('tls-verify-peer') ?? '1';
  if (verify !== '0' && verify !== '1') throw bad('expected tls-verify-peer=0 or 1');
  const certificates = parameters.get('tls-certificates') ?? null;
  const pskFile = parameters.get('tls-psk-file') ?? null;
  if (certificates !== null && pskFile !== null)
    throw bad('expected tls-certificates or tls-psk-file, got both');
  return {
    user,
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
