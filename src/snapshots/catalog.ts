/** Which snapshots a repository has, and which one is meant. */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_BYTES_IN_FLIGHT } from '../base/protection-limits.ts';
import { tellMoment } from '../base/time.ts';
import type { Time } from '../journal/record.ts';
import type { StoreOptions } from '../store/object-store.ts';
import { Crew } from './crew.ts';
import type { SnapshotInfo } from './manifest.ts';
import { ObjectKind } from './object-format.ts';
import { folderOf, nameOfKey, type Repository } from './repository.ts';

export interface ListOptions extends StoreOptions {
  /** Of this group alone. */
  readonly group?: string | undefined;
  /** Told of manifests that cannot be read; without it the first one throws. */
  readonly onDamage?: ((id: string, error: DriftmapError) => void) | undefined;
}

/** What somebody may name a snapshot by. */
export type SnapshotTarget =
  | 'latest'
  /** The first digits of its id, at least four. */
  | { readonly id: string }
  /** The last one whose point is not after it. */
  | { readonly time: Time };

const MANIFEST_BYTES = 1024 * 1024;
/** Fewer digits would name by accident. */
const MIN_ID_DIGITS = 4;

/** Ids of all snapshots, in any order. */
export async function snapshotIds(repository: Repository, options: StoreOptions = {}): Promise<string[]> {
  const ids: string[] = [];
  for await (const { key } of repository.store.list(folderOf(ObjectKind.snapshot), options)) {
    const name = nameOfKey(key);
    if (name !== null) ids.push(Buffer.from(name).toString('hex'));
  }
  return ids;
}

/** All snapshots, by their points' times, the oldest first. One that is removed meanwhile may be told or not. */
export async function listSnapshots(
  repository: Repository,
  { group, onDamage, signal }: ListOptions = {},
): Promise<SnapshotInfo[]> {
  const found: SnapshotInfo[] = [];
  const crew = new Crew({ bytes: SNAPSHOT_BYTES_IN_FLIGHT, signal });
  try {
    for (const id of await snapshotIds(repository, { signal })) {
      await crew.add(MANIFEST_BYTES, async () => {
        try {
          const info = await repository.snapshot(id, { signal: crew.signal });
          if (group === undefined || info.group === group) found.push(info);
        } catch (error) {
          const isOurs = error instanceof DriftmapError;
          if (isOurs && error.kind === 'not-found') return;
          if (!isOurs || onDamage === undefined || !['malformed', 'mismatch'].includes(error.kind))
            throw error;
          onDamage(id, error);
        }
      });
    }
    await crew.done();
  } catch (error) {
    await crew.abandon(error);
    throw error;
  }
  return found.sort(byTime);
}

/** By the moment that they hold; of one moment, by when they were taken. */
export function byTime(a: SnapshotInfo, b: SnapshotInfo): number {
  const order = a.point.time - b.point.time || a.point.sequence - b.point.sequence || a.taken - b.taken;
  return order || (a.id < b.id ? -1 : 1);
}

/**
 * The snapshot that is meant, of those that are there.
 * @param snapshots oldest first
 * @throws DriftmapError `not-found`; `argument` for digits that begin several ids
 */
export function findSnapshot(
  snapshots: readonly SnapshotInfo[],
  target: SnapshotTarget,
  store: string,
): SnapshotInfo {
  const none = (reason: string, kind: 'not-found' | 'argument' = 'not-found') =>
    new DriftmapError(kind, reason, { path: store });
  const last = snapshots.at(-1);
  if (last === undefined) throw none('there is no snapshot');
  if (target === 'latest') return last;
  if ('time' in target) {
    const found = snapshots.findLast(({ point }) => point.time <= target.time);
    if (found !== undefined) return found;
    const first = tellMoment(snapshots[0]!.point.time);
    throw none(`there is no snapshot of ${tellMoment(target.time)} or before: the first is of ${first}`);
  }
  const digits = target.id.toLowerCase();
  const found = digits.length < MIN_ID_DIGITS ? [] : snapshots.filter(({ id }) => id.startsWith(digits));
  if (found.length === 1) return found[0]!;
  if (found.length === 0)
    throw none(
      `there is no snapshot '${target.id}': name it by four digits of its id or more, by a time, or latest`,
    );
  throw none(`${found.length} snapshots begin with '${target.id}': give more digits`, 'argument');
}
