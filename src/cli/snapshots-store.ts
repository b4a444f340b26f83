/** What the commands about snapshots share: the repository, which snapshot is meant, and how either is told. */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { DriftmapError } from '../base/errors.ts';
import { humanDuration, parseDuration, parseMoment, tellMoment } from '../base/time.ts';
import { humanSize } from '../base/units.ts';
import type { SnapshotTarget } from '../snapshots/catalog.ts';
import type { SnapshotInfo } from '../snapshots/manifest.ts';
import type { Repository } from '../snapshots/repository.ts';
import { printable } from './terminal.ts';

export interface StoreFlags {
  key?: string;
  connections?: number;
  json?: boolean;
}

export const explainStores = `
STORE is a folder, s3://BUCKET/PREFIX, or a group's file, whose replica names its store and key.
SNAPSHOT is the beginning of an id, a time (the nearest snapshot not after it), or latest.
`;

export function addStoreOptions(command: Command): Command {
  return command
    .option('--key <file>', 'the key of an encrypted repository: 32 bytes, or 64 hexadecimal digits')
    .addOption(
      new Option('--connections <count>', 'requests to the store at a time (default: 16)').argParser(
        readCount,
      ),
    );
}

export function readCount(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1)
    throw new InvalidArgumentError('Expected a whole number from 1 up.');
  return count;
}

export function readDuration(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof DriftmapError ? error.message : String(error));
  }
}

/** The store's address and its key, of what a user named as a store. */
export async function storeOf(
  store: string,
  { key }: StoreFlags,
): Promise<{ readonly address: string; readonly key: Uint8Array | null; readonly group: string | null }> {
  const { readKeyFile } = await import('../snapshots/keys.ts');
  const read = (path: string | null | undefined) => (path == null ? null : readKeyFile(path));
  const { statSync } = await import('node:fs');
  const isFile =
    !/^[a-z0-9+.-]+:\/\//i.test(store) && statSync(store, { throwIfNoEntry: false })?.isFile() === true;
  if (!isFile) return { address: store, key: read(key), group: null };
  const { looksLikeGroupFile, readGroupFile } = await import('../protect/group/group-file.ts');
  if (!looksLikeGroupFile(store))
    throw new DriftmapError('argument', "expected a folder, an address, or a group's file", { path: store });
  const group = readGroupFile(store);
  const snapshots = group.replica?.snapshots;
  if (snapshots == null)
    throw new DriftmapError('argument', 'the replica of this group has no snapshots', { path: store });
  return { address: snapshots.store, key: read(key ?? snapshots.key), group: group.group };
}

/** Opens the repository, does something with it, and closes it. */
export async function withRepository<T>(
  store: string,
  flags: StoreFlags & { readonly group?: string },
  signal: AbortSignal | undefined,
  act: (repository: Repository, group: string | undefined) => Promise<T>,
): Promise<T> {
  const { openObjectStore } = await import('../store/open-object-store.ts');
  const { openRepository } = await import('../snapshots/repository.ts');
  const { address, key, group } = await storeOf(store, flags);
  const objects = await openObjectStore(address);
  try {
    return await act(await openRepository(objects, { key, signal }), flags.group ?? group ?? undefined);
  } finally {
    await objects.close();
  }
}

export function readTarget(text: string, now = Date.now()): SnapshotTarget {
  if (text === 'latest') return 'latest';
  return /^[0-9a-f]{4,64}$/i.test(text) ? { id: text } : { time: parseMoment(text, now) };
}

/** The snapshot that is meant. @throws DriftmapError `not-found`, `argument` */
export async function pickSnapshot(
  repository: Repository,
  text: string,
  { group, signal }: { readonly group: string | undefined; readonly signal: AbortSignal | undefined },
): Promise<SnapshotInfo> {
  const { findSnapshot, listSnapshots } = await import('../snapshots/catalog.ts');
  const target = readTarget(text);
  const snapshots = await listSnapshots(repository, { group, signal });
  const groups = new Set(snapshots.map((snapshot) => snapshot.group));
  if (groups.size > 1 && (target === 'latest' || 'time' in target)) {
    const names = [...groups].map(printable).join(', ');
    const reason = `there are snapshots of several groups (${names}): say which with --group`;
    throw new DriftmapError('argument', reason, { path: repository.store.name });
  }
  return findSnapshot(snapshots, target, repository.store.name);
}

export const shortId = (id: string): string => id.slice(0, 8);

/** One line of a listing. */
export function snapshotLine(info: SnapshotInfo): string {
  const { id, group, point, disks, counts } = info;
  const size = disks.reduce((sum, disk) => sum + disk.size, 0);
  const data = disks.reduce((sum, disk) => sum + disk.blocks, 0) * info.blockSize;
  const name = point.bookmark === null ? '' : `  '${printable(point.bookmark)}'`;
  const what = `${disks.length} ${disks.length === 1 ? 'disk' : 'disks'}, ${humanSize(size)}`;
  return `${shortId(id)}  ${tellMoment(point.time)}  ${printable(group)}  ${what}, ${humanSize(data)} of data, ${humanSize(counts.bytesSent)} sent${name}`;
}

/** What `--json` says of a snapshot. */
export function snapshotJson(info: SnapshotInfo): object {
  const { disks, taken, point, ...rest } = info;
  return {
    ...rest,
    taken: new Date(taken).toISOString(),
    point: { ...point, time: new Date(point.time).toISOString() },
    disks: disks.map(({ name, size, blocks }) => ({ name, size, blocks })),
  };
}

/** How far a snapshot is from the time that was asked for. */
export function tellDistance(info: SnapshotInfo, text: string): string {
  const target = readTarget(text);
  if (target === 'latest' || 'id' in target) return '';
  const gap = target.time - info.point.time;
  return gap <= 0 ? '' : `, ${humanDuration(gap)} before the time asked for`;
}
