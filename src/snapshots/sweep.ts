/**
 * What an upload has to know of sweeps. A sweep is one run of pruning that removes objects; while it does, and until
 * no upload that began before its end is under way, it has an object of its own in the store:
 *
 *   sweeps/ID    {state: running | done, beat, lists: names of the lists of garbage that it removes from}
 *   garbage/ID   {blocks, pages: names of objects that nobody referred to}
 *   ends/ID      somebody took the sweep of that name for dead: it removes nothing any more. It is an object of its own,
 *                which the sweep never puts, so that no renewal that was under way can replace it
 *
 * `prune.ts` argues what they are good for.
 */

import { setTimeout as pause } from 'node:timers/promises';
import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_LIST_NAMES, SNAPSHOT_MAX_LISTS, SNAPSHOT_MAX_NAMES } from '../base/protection-limits.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import type { StoredObject, StoreOptions } from '../store/object-store.ts';
import { checkAborted } from './crew.ts';
import type { Draft } from './draft.ts';
import { NAME_BYTES } from './hasher.ts';
import { NameSet } from './name-set.ts';
import { ObjectKind } from './object-format.ts';
import { folderOf, keyOf, nameOfKey, type Repository } from './repository.ts';
import { type Tree, walkTree } from './tree.ts';

export interface SweepTimes {
  /** A sweep removes nothing when it could not renew its object for so long, by its own clocks. */
  readonly alive: number;
  /** For so long a sweep may remove without looking whether somebody took it for dead. */
  readonly fresh: number;
  /** Renewed after so long. */
  readonly beat: number;
  /** One that was not renewed for so long, by the store's clock, is dead. Far more than `alive`: clocks run unevenly. */
  readonly dead: number;
  /** Between two looks at a sweep that is waited for. */
  readonly poll: number;
  /** Whoever takes a sweep for dead waits so long, in which what it had under way comes to its end. */
  readonly settle: number;
  /**
   * In milliseconds. The one on which most has passed counts: some stand still while the machine sleeps
   * (CLOCK_MONOTONIC does), others are put back.
   */
  readonly clocks: readonly (() => number)[];
}

export const defaultSweepTimes: SweepTimes = {
  alive: 300_000,
  beat: 60_000,
  dead: 1_800_000,
  poll: 5_000,
  fresh: 5_000,
  settle: 60_000,
  clocks: [() => performance.now(), () => Date.now()],
};

/** A moment, from which it is told how much time has passed. */
export class Since {
  private readonly clocks: SweepTimes['clocks'];
  private readonly began: readonly number[];

  constructor({ clocks }: SweepTimes) {
    this.clocks = clocks;
    this.began = clocks.map((now) => now());
  }

  get milliseconds(): number {
    return Math.max(...this.clocks.map((now, i) => now() - this.began[i]!));
  }
}

export interface SweepState {
  readonly state: 'running' | 'done';
  /** Another one at each renewal. */
  readonly beat: number;
  readonly lists: readonly Uint8Array[];
}

const MAX_SWEEP_BYTES = 64 * 1024;
const MAX_LIST_BYTES = SNAPSHOT_LIST_NAMES * NAME_BYTES + 1024;

export function encodeSweep(sweep: SweepState): Uint8Array {
  return encodeControl(sweep);
}

/** Null when it is gone. @throws DriftmapError `malformed`, and what the store throws */
export async function readSweep(
  repository: Repository,
  name: Uint8Array,
  options: StoreOptions = {},
): Promise<SweepState | null> {
  const bytes = await ifThere(repository.get(ObjectKind.sweep, name, MAX_SWEEP_BYTES, options));
  if (bytes === null) return null;
  const path = repository.pathOf(ObjectKind.sweep, name);
  const value = decodeControl(bytes, 'the sweep', { bytes: MAX_SWEEP_BYTES }, { path }) as SweepState;
  const isRight =
    typeof value === 'object' &&
    value !== null &&
    (value.state === 'running' || value.state === 'done') &&
    Array.isArray(value.lists) &&
    value.lists.length <= SNAPSHOT_MAX_LISTS &&
    value.lists.every((list) => list instanceof Uint8Array && list.length === NAME_BYTES);
  if (!isRight) throw new DriftmapError('malformed', 'the sweep is not one', { path });
  return value;
}

/**
 * Ends a sweep that was not renewed for too long. Durable when it returns; then the sweep removes nothing any more but
 * what it had under way.
 */
export async function declareDead(
  repository: Repository,
  name: Uint8Array,
  options: StoreOptions = {},
): Promise<undefined> {
  await repository.put(ObjectKind.end, name, encodeControl({}), options);
  return undefined;
}

export function isDeclaredDead(
  repository: Repository,
  name: Uint8Array,
  options: StoreOptions = {},
): Promise<boolean> {
  return repository.store.has(keyOf(ObjectKind.end, name), options);
}

export interface GarbageList {
  readonly blocks: Uint8Array;
  readonly pages: Uint8Array;
}

export function encodeGarbage(list: GarbageList): Uint8Array {
  return encodeControl(list);
}

/** Null when it is gone. @throws as `readSweep` */
export async function readGarbage(
  repository: Repository,
  name: Uint8Array,
  options: StoreOptions = {},
): Promise<GarbageList | null> {
  const bytes = await ifThere(repository.get(ObjectKind.garbage, name, MAX_LIST_BYTES, options));
  if (bytes === null) return null;
  const path = repository.pathOf(ObjectKind.garbage, name);
  const limits = { bytes: MAX_LIST_BYTES, text: MAX_LIST_BYTES };
  const value = decodeControl(bytes, 'the list of garbage', limits, { path }) as GarbageList;
  const isNames = (names: unknown) => names instanceof Uint8Array && names.length % NAME_BYTES === 0;
  if (typeof value !== 'object' || value === null || !isNames(value.blocks) || !isNames(value.pages))
    throw new DriftmapError('malformed', 'the list of garbage is not one', { path });
  return value;
}

export function* namesIn(names: Uint8Array): Generator<Uint8Array, undefined> {
  for (let at = 0; at < names.length; at += NAME_BYTES) yield names.subarray(at, at + NAME_BYTES);
}

export async function listNamed(
  repository: Repository,
  kind: ObjectKind,
  options: StoreOptions = {},
): Promise<(StoredObject & { readonly name: Uint8Array })[]> {
  const found: (StoredObject & { readonly name: Uint8Array })[] = [];
  for await (const object of repository.store.list(folderOf(kind), options)) {
    const name = nameOfKey(object.key);
    if (name !== null) found.push({ ...object, name });
  }
  return found;
}

async function ifThere<T>(wait: Promise<T>): Promise<T | null> {
  try {
    return await wait;
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'not-found') return null;
    throw error;
  }
}

interface WatchOptions {
  /** Of the upload: it says what is known, and by it the store's clock is read. */
  readonly draft: Draft;
  readonly signal: AbortSignal | undefined;
  readonly times: SweepTimes;
}

/** Tells an upload whether sweeps may have taken what it found in the store. */
export class SweepWatch {
  private readonly repository: Repository;
  private readonly options: WatchOptions;
  /** Sweeps whose effects are known: they ended before anything was looked at. */
  private readonly known = new Map<string, Uint8Array>();

  private constructor(repository: Repository, options: WatchOptions) {
    this.repository = repository;
    this.options = options;
  }

  /** To be called when the draft is there, and before the store is asked for any object. */
  static async begin(repository: Repository, options: WatchOptions): Promise<SweepWatch> {
    const watch = new SweepWatch(repository, options);
    const { signal } = options;
    for (const { key, name } of await listNamed(repository, ObjectKind.sweep, { signal })) {
      const sweep = await readSweep(repository, name, { signal });
      if (sweep?.state === 'done') watch.known.set(key, name);
    }
    await options.draft.tellEnded([...watch.known.values()]);
    return watch;
  }

  /**
   * Whether any object of these trees was on a list of a sweep since the watch began, or since it was last asked.
   * To be called when a draft holds the trees. Waits for sweeps that are running.
   */
  async mayHaveHit(trees: readonly Tree[]): Promise<boolean> {
    const { repository } = this;
    const { signal } = this.options;
    const lists: Uint8Array[] = [];
    for (const { key, name } of await listNamed(repository, ObjectKind.sweep, { signal })) {
      if (this.known.has(key)) continue;
      const ended = await this.ended(key, name);
      this.known.set(key, name);
      if (ended === null) return true;
      lists.push(...ended);
    }
    if (lists.length === 0) return false;
    const swept = new NameSet(SNAPSHOT_MAX_NAMES);
    for (const name of lists) {
      const list = await readGarbage(repository, name, { signal });
      // Nobody knows what was on it.
      if (list === null) return true;
      for (const names of [list.blocks, list.pages]) for (const one of namesIn(names)) swept.add(one);
    }
    return this.isAmong(trees, swept);
  }

  /** Waits until a sweep removes nothing any more. @returns its lists; null when nobody knows them any more */
  private async ended(key: string, name: Uint8Array): Promise<readonly Uint8Array[] | null> {
    const { repository } = this;
    const { draft, signal, times } = this.options;
    for (;;) {
      checkAborted(signal);
      const sweep = await readSweep(repository, name, { signal });
      if (sweep === null) return null;
      if (sweep.state === 'done') return sweep.lists;
      const now = await draft.storeTime();
      let modified = Number.NEGATIVE_INFINITY;
      for await (const object of repository.store.list(key, { signal })) modified = object.modified;
      if (now - modified > times.dead) {
        await declareDead(repository, name, { signal });
        await this.pause(times.settle);
        checkAborted(signal);
        return sweep.lists;
      }
      await this.pause(times.poll);
    }
  }

  private async pause(ms: number): Promise<void> {
    const { signal } = this.options;
    await pause(ms, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
  }

  private async isAmong(trees: readonly Tree[], swept: NameSet): Promise<boolean> {
    const { repository } = this;
    const { signal } = this.options;
    let isHit = false;
    const seen = new NameSet(SNAPSHOT_MAX_NAMES);
    const look = (signature: Uint8Array) => {
      const name = repository.nameOf(signature);
      if (swept.has(name)) isHit = true;
      return !isHit && seen.add(name);
    };
    const visitor = {
      page: look,
      blocks(page: { at(place: number): Uint8Array | null }, _first: number, places: number) {
        for (let i = 0; i < places && !isHit; i++) {
          const signature = page.at(i);
          if (signature !== null && swept.has(repository.nameOf(signature))) isHit = true;
        }
      },
    };
    for (const tree of trees) {
      try {
        await walkTree(repository, tree, visitor, { signal });
      } catch (error) {
        // A page that was swept: its name was on a list, and it is hit.
        if (!(error instanceof DriftmapError) || error.kind !== 'not-found') throw error;
        return true;
      }
      if (isHit) return true;
    }
    return false;
  }
}
