/**
 * Addresses of disks at other sites.
 *
 *   ssh://[user@]host[:port]/path      `driftmap serve --stdio` is run there by ssh; /~/path is in the home folder
 *   driftmaps://host[:port]/name       a server with TLS; the name is that of a grant
 *   driftmap://host[:port]/name        a server without TLS
 *
 * Whatever has no such scheme is a disk here.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_WIRE_TEXT_BYTES } from '../base/limits.ts';

/** Unassigned by IANA. */
export const DEFAULT_PORT = 7117;

export type Site =
  | { readonly kind: 'local'; readonly disk: string }
  | {
      readonly kind: 'ssh';
      readonly host: string;
      readonly user: string | null;
      readonly port: number | null;
      readonly disk: string;
    }
  | {
      readonly kind: 'tcp';
      readonly tls: boolean;
      readonly host: string;
      readonly port: number;
      readonly disk: string;
    };

const remote = /^(ssh|driftmaps?):\/\/(?:([^@/]*)@)?(\[[0-9A-Fa-f:.%]+\]|[^:/@[\]]*)(?::(\d{1,5}))?\/(.*)$/s;
/** Never with a dash in front: ssh would take it for an option. */
const hostName = /^(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%]+\])$/;
const userName = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

/** Another site, without a disk. */
export type Place =
  | Omit<Extract<Site, { kind: 'ssh' }>, 'disk'>
  | Omit<Extract<Site, { kind: 'tcp' }>, 'disk'>;

/**
 * `ssh://host`, `driftmaps://host:port`; what an address says of a disk is passed over.
 * @throws DriftmapError `argument`
 */
export function parsePlace(text: string): Place {
  const site = parseSite(/^[a-z]+:\/\/[^/]*\/?$/.test(text) ? `${text.replace(/\/$/, '')}/any` : text);
  if (site.kind === 'local')
    throw new DriftmapError('argument', 'expected ssh://host or driftmaps://host:port', { path: text });
  const { disk: _, ...place } = site;
  return place;
}

/** @throws DriftmapError `argument` for an address with one of the schemes that is none */
export function parseSite(text: string): Site {
  if (!/^(?:ssh|driftmaps?):\/\//.test(text)) return { kind: 'local', disk: text };
  const refuse = (reason: string) => new DriftmapError('argument', reason, { path: text });
  const match = remote.exec(text);
  if (match === null) throw refuse('expected ssh://host/path or driftmaps://host:port/name');
  const [, scheme, user, host = '', portText, rest = ''] = match;
  if (!hostName.test(host)) throw refuse(`expected a host name, got '${host}'`);
  if (user !== undefined && !userName.test(user)) throw refuse(`expected a user name, got '${user}'`);
  const port = portText === undefined ? null : Number(portText);
  if (port !== null && (port < 1 || port > 65535))
    throw refuse(`expected a port from 1 to 65535, got ${port}`);
  if (Buffer.byteLength(rest) > MAX_WIRE_TEXT_BYTES - 1 || rest.includes('\0'))
    throw refuse('the name is too long');
  if (rest === '') throw refuse('expected the name of a disk after the host');
  if (scheme === 'ssh') {
    const disk = rest.startsWith('~/') ? rest.slice(2) : `/${rest}`;
    return { kind: 'ssh', host, user: user ?? null, port, disk };
  }
  if (user !== undefined) throw refuse('a server knows no users: leave the name out');
  return { kind: 'tcp', tls: scheme === 'driftmaps', host, port: port ?? DEFAULT_PORT, disk: rest };
}

/** `[::1]` as the system takes it. */
export function bareHost(host: string): string {
  return host.startsWith('[') ? host.slice(1, -1) : host;
}

/** Whether only this machine can reach it. */
export function isLoopback(host: string): boolean {
  const bare = bareHost(host);
  return bare === 'localhost' || bare === '::1' || /^127(?:\.\d{1,3}){3}$/.test(bare);
}
