/**
 * The file that describes a consistency group: its disks at production and at the replica, how the two find each
 * other, and what is kept. It is JSON, the same on both sites, and each side reads its own half.
 * `docs/PROTECTION.md` explains the fields.
 */

import { dirname, resolve } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import { GROUP_MAX_FILE_BYTES, JOURNAL_MAX_DISKS } from '../../base/protection-limits.ts';
import type { ByteCount } from '../../base/units.ts';
import { readBounded, readStart } from '../../codec/atomic-file.ts';
import type { RetentionPolicy } from '../../journal/retention.ts';
import { parseSite, type Site } from '../../wire/site.ts';
import type { NbdListen } from '../nbd/server.ts';
import { Fields } from './fields.ts';

export interface GroupFile {
  /** Where the file lies, in full. */
  readonly path: string;
  /** The group's name. */
  readonly group: string;
  /** Null in a file that is only for the replica. */
  readonly production: ProductionSide | null;
  /** Null in a file that is only for production. */
  readonly replica: ReplicaSide | null;
}

export interface ProductionSide {
  /** A folder: write intents, marks, the lock, the control socket. */
  readonly state: string;
  /** In the order of the file. */
  readonly disks: readonly ProductionDisk[];
  /** Where the replica is reached; null when it is a child process on this host. */
  readonly replica: ReplicaAddress | null;
  /** A file that describes the virtual machine, kept with snapshots. */
  readonly configuration: string | null;
}

export interface ProductionDisk {
  readonly name: string;
  /** Path of a raw file or block device. */
  readonly disk: string;
  /** Where its NBD export is served. */
  readonly listen: NbdListen;
}

export interface ReplicaAddress {
  /** As it is written, for messages. */
  readonly address: string;
  /** Its `disk` is what the other side calls the group: the path of its group file, or a name that it grants. */
  readonly site: Exclude<Site, { readonly kind: 'local' }>;
  /** PEM files; null where nothing is said of them. */
  readonly tls: GroupTls | null;
  /** The file of a secret that both sites share. */
  readonly token: string | null;
}

export interface GroupTls {
  readonly cert: string | undefined;
  readonly key: string | undefined;
  readonly ca: string | undefined;
  /** The name in the server's certificate, when it is not its host's. */
  readonly servername: string | undefined;
}

export interface ReplicaSide {
  /** The journal's folder. */
  readonly journal: string;
  /** In the order of the file. */
  readonly disks: readonly ReplicaDiskPlace[];
  readonly keep: RetentionPolicy;
  readonly snapshots: SnapshotSchedule | null;
}

export interface ReplicaDiskPlace {
  readonly name: string;
  /** Path of a raw file or block device. A file is made where there is none. */
  readonly path: string;
}

export interface SnapshotSchedule {
  /** A folder, or what begins with `s3://`. */
  readonly store: string;
  /** Milliseconds between two; null when they are taken on command alone. */
  readonly every: number | null;
  /** How many are kept of each kind; null keeps all. */
  readonly keep: SnapshotKeep | null;
  /** The file of the key that blocks are encrypted with. */
  readonly key: string | null;
  /** Bytes a second that are sent at most. */
  readonly limit: ByteCount | null;
}

export interface SnapshotKeep {
  readonly last?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly yearly?: number;
}

const KEEP_KINDS = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;

/** @throws DriftmapError `argument` with the field's name, and what reading the file throws */
export function readGroupFile(path: string): GroupFile {
  const text = new TextDecoder().decode(readBounded(path, GROUP_MAX_FILE_BYTES));
  return parseGroupFile(text, resolve(path));
}

/**
 * Whether a file may be a group's, by its beginning: a JSON object. Disks are told from groups so; neither a file
 * system nor a partition table begins with a brace.
 */
export function looksLikeGroupFile(path: string): boolean {
  const start = readStart(path, 256);
  if (start === null) return false;
  return /^\uFEFF?\s*\{\s*"/.test(new TextDecoder().decode(start));
}

/** @param path in full: relative paths in it start from its folder */
export function parseGroupFile(text: string, path: string): GroupFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    const reason = `expected JSON: ${cause instanceof Error ? cause.message : String(cause)}`;
    throw new DriftmapError('argument', reason, { path, cause });
  }
  const fields = new Fields(value, path);
  const folder = dirname(path);
  const group = fields.text('group');
  if (group.length > 255) throw fields.wrong('group', 'a name of 1 … 255 characters');
  const production = fields.optional('production', () => readProduction(fields.object('production'), folder));
  const replica = fields.optional('replica', () => readReplica(fields.object('replica'), folder));
  fields.done();
  if (production === null && replica === null)
    throw fields.wrong('production', "a 'production' or a 'replica'");
  if (production !== null && replica !== null) checkSameDisks(production, replica, path);
  return { path, group, production, replica };
}

/** @throws DriftmapError `argument` when the file is for production alone */
export function replicaOf({ path, replica }: GroupFile): ReplicaSide {
  if (replica !== null) return replica;
  throw new DriftmapError('argument', "replica: expected a 'replica' with its journal and disks", { path });
}

/** @throws DriftmapError `argument` when the file is for the replica alone */
export function productionOf({ path, production }: GroupFile): ProductionSide {
  if (production !== null) return production;
  const reason = "production: expected a 'production' with its state folder and disks";
  throw new DriftmapError('argument', reason, { path });
}

function readProduction(fields: Fields, folder: string): ProductionSide {
  const state = resolve(folder, fields.text('state'));
  const disks = readDisks(fields, (disk, name) => readProductionDisk(disk.object(name), name, folder));
  checkPaths(
    fields,
    disks.map(({ disk }) => disk),
  );
  const replica = readAddress(fields, folder);
  const configuration = fields.optional('configuration', () => resolve(folder, fields.text('configuration')));
  fields.done();
  return { state, disks, replica, configuration };
}

/** `{ "disk": PATH, "socket": PATH | "listen": "HOST:PORT" }` */
function readProductionDisk(fields: Fields, name: string, folder: string): ProductionDisk {
  const disk = readPath(fields, 'disk', folder);
  const socket = fields.optional('socket', () => resolve(folder, fields.text('socket')));
  const address = fields.optional('listen', () => readListen(fields));
  fields.done();
  if ((socket === null) === (address === null)) {
    throw fields.wrong('socket', "either a 'socket' or a 'listen': where the virtual machine finds the disk");
  }
  return { name, disk, listen: socket === null ? address! : { socket } };
}

function readListen(fields: Fields): NbdListen {
  const match = /^(?:(\[[^\]]+\]|[^:[\]]+):)?(\d{1,5})$/.exec(fields.text('listen'));
  const port = Number(match?.[2] ?? Number.NaN);
  if (match === null || port > 65535) throw fields.wrong('listen', 'HOST:PORT or PORT');
  return { host: match[1]?.replace(/^\[(.*)\]$/, '$1') ?? 'localhost', port };
}

function readAddress(fields: Fields, folder: string): ReplicaAddress | null {
  const address = fields.optional('replica', () => fields.text('replica'));
  const tls = fields.optional('tls', () => readTls(fields.object('tls'), folder));
  const token = fields.optional('token', () => resolve(folder, fields.text('token')));
  if (address === null) {
    if (tls !== null || token !== null) {
      throw fields.wrong(tls === null ? 'token' : 'tls', "a 'replica' address that it is for");
    }
    return null;
  }
  const site = fields.reading('replica', () => parseSite(address));
  if (site.kind === 'local') {
    const forms = 'ssh://HOST/GROUPFILE or driftmaps://HOST:PORT/NAME';
    throw fields.wrong('replica', `${forms} (without it the replica is on this host), got '${address}'`);
  }
  if (site.kind === 'ssh' && (tls !== null || token !== null)) {
    throw fields.wrong(tls === null ? 'token' : 'tls', 'none with ssh, which proves who is there');
  }
  return { address, site, tls, token };
}

function readTls(fields: Fields, folder: string): GroupTls {
  const path = (name: string) => fields.optional(name, () => resolve(folder, fields.text(name))) ?? undefined;
  const tls = {
    cert: path('cert'),
    key: path('key'),
    ca: path('ca'),
    servername: fields.optional('servername', () => fields.text('servername')) ?? undefined,
  };
  fields.done();
  return tls;
}

function readReplica(fields: Fields, folder: string): ReplicaSide {
  const journal = readPath(fields, 'journal', folder);
  const disks = readDisks(fields, (disk, name) => ({ name, path: readPath(disk, name, folder) }));
  checkPaths(
    fields,
    disks.map((disk) => disk.path),
  );
  const keep = fields.optional('keep', () => readKeep(fields.object('keep'))) ?? {};
  const snapshots = fields.optional('snapshots', () => readSnapshots(fields.object('snapshots'), folder));
  fields.done();
  return { journal, disks, keep, snapshots };
}

function readKeep(fields: Fields): RetentionPolicy {
  const age = fields.optional('age', () => fields.duration('age'));
  const bytes = fields.optional('bytes', () => fields.size('bytes'));
  const window = fields.optional('window', () => fields.duration('window'));
  const bookmarks = fields.optional('bookmarks', () => fields.choice('bookmarks', ['keep', 'drop'] as const));
  fields.done();
  return {
    ...(age !== null && { age }),
    ...(bytes !== null && { bytes }),
    ...(window !== null && { window }),
    ...(bookmarks !== null && { bookmarks }),
  };
}

function readSnapshots(fields: Fields, folder: string): SnapshotSchedule {
  const store = fields.text('store');
  const every = fields.optional('every', () => fields.duration('every'));
  if (every !== null && every < 1000) throw fields.wrong('every', 'a duration of a second or more');
  const keep = fields.optional('keep', () => readSnapshotKeep(fields.object('keep')));
  const key = fields.optional('key', () => resolve(folder, fields.text('key')));
  const limit = fields.optional('limit', () => fields.size('limit'));
  if (limit === 0) throw fields.wrong('limit', 'bytes a second, such as "50M"');
  fields.done();
  return {
    store: /^[a-z][a-z0-9+.-]*:\/\//i.test(store) ? store : resolve(folder, store),
    every,
    keep,
    key,
    limit,
  };
}

function readSnapshotKeep(fields: Fields): SnapshotKeep {
  const keep: Record<string, number> = {};
  for (const kind of KEEP_KINDS) {
    const count = fields.optional(kind, () => fields.count(kind));
    if (count !== null) keep[kind] = count;
  }
  fields.done();
  if (Object.values(keep).every((count) => count === 0)) {
    throw fields.wrong('last', 'at least one snapshot to be kept of some kind');
  }
  return keep;
}

/** Disks by name, in the order of the file. */
function readDisks<T>(fields: Fields, read: (disks: Fields, name: string) => T): T[] {
  const disks = fields.object('disks');
  const names = disks.names();
  if (names.length === 0 || names.length > JOURNAL_MAX_DISKS) {
    throw fields.wrong('disks', `1 … ${JOURNAL_MAX_DISKS} disks by name, got ${names.length}`);
  }
  return names.map((name) => {
    // A name is part of NBD addresses and of messages.
    if (!/^[\p{L}\p{N}_][\p{L}\p{N} ._-]{0,99}$/u.test(name)) {
      throw disks.wrong(name, 'a name of letters, digits, dots, dashes and underscores, 100 at most');
    }
    return read(disks, name);
  });
}

function checkPaths(fields: Fields, paths: readonly string[]): void {
  const twice = paths.find((path, at) => paths.indexOf(path) !== at);
  if (twice !== undefined) throw fields.wrong('disks', `each disk at a place of its own, got ${twice} twice`);
}

function readPath(fields: Fields, name: string, folder: string): string {
  const path = fields.text(name);
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(path)) {
    throw fields.wrong(name, `the path of a file or block device, got '${path}'`);
  }
  return resolve(folder, path);
}

function checkSameDisks(production: ProductionSide, replica: ReplicaSide, path: string): void {
  const here = new Set(production.disks.map(({ name }) => name));
  const there = new Set(replica.disks.map(({ name }) => name));
  const odd = [...here].find((name) => !there.has(name)) ?? [...there].find((name) => !here.has(name));
  if (odd !== undefined) {
    const [side, other] = here.has(odd) ? ['production', 'replica'] : ['replica', 'production'];
    const reason = `${other}.disks: expected a disk '${odd}', which ${side}.disks has`;
    throw new DriftmapError('argument', reason, { path });
  }
  // Of another host the same path is another disk.
  if (production.replica !== null) return;
  const paths = new Set(production.disks.map(({ disk }) => disk));
  const shared = replica.disks.find((disk) => paths.has(disk.path));
  if (shared === undefined) return;
  const reason = `replica.disks: expected each disk at a place of its own, got ${shared.path} twice`;
  throw new DriftmapError('argument', reason, { path });
}
