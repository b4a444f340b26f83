/**
 * A draft says what an upload under way refers to, or what is being read, so that pruning leaves it alone; `prune.ts` argues why that is
 * enough. It is no snapshot and nobody reads it as one. An upload that died leaves its draft; pruning removes it
 * after days.
 */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_DRAFT_DAYS, SNAPSHOT_MAX_MANIFEST_BYTES } from '../base/limits.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import type { StoreOptions } from '../store/object-store.ts';
import { decodeRoots, encodeRoots, type SnapshotInfo } from './manifest.ts';
import { ObjectKind } from './object-format.ts';
import { treeShape } from './page.ts';
import { folderOf, keyOf, type Repository, randomName } from './repository.ts';
import type { Tree } from './tree.ts';

const DAY = 86_400_000;
/** An upload that was asleep for longer than this may have been taken for dead. */
const LONGEST_SLEEP = (SNAPSHOT_DRAFT_DAYS - 2) * DAY;
const RENEW = 3_600_000;
const LONGEST_GOODBYE = 10_000;

export class Draft {
  private readonly repository: Repository;
  private readonly name = randomName();
  private readonly signal: AbortSignal | undefined;
  private trees: readonly Tree[] = [];
  private ended: readonly Uint8Array[] = [];
  private renewedAt = Date.now();

  constructor(repository: Repository, signal: AbortSignal | undefined) {
    this.repository = repository;
    this.signal = signal;
  }

  /** From when it returns, pruning that begins keeps what these trees have. */
  async hold(trees: readonly Tree[]): Promise<undefined> {
    this.trees = trees;
    return this.put();
  }

  /** Sweeps that the upload knows to have ended: when all drafts say so of one, it is forgotten. */
  async tellEnded(sweeps: readonly Uint8Array[]): Promise<undefined> {
    this.ended = sweeps;
    return this.put();
  }

  private async put(): Promise<undefined> {
    const { signal, ended, trees } = this;
    this.checkAwake();
    const disks = trees.map(({ size, roots }) => ({ size, roots: encodeRoots(roots) }));
    await this.repository.put(ObjectKind.draft, this.name, encodeControl({ ended, disks }), {
      signal,
    });
    this.renewedAt = Date.now();
    return undefined;
  }

  async renew(): Promise<undefined> {
    if (Date.now() - this.renewedAt > RENEW) await this.put();
    return undefined;
  }

  /** What the store's clock says: that of a put just now. */
  async storeTime(): Promise<number> {
    await this.put();
    const key = keyOf(ObjectKind.draft, this.name);
    for await (const { modified } of this.repository.store.list(key, { signal: this.signal }))
      return modified;
    throw new DriftmapError('io', 'an object that was just put is not listed: the store is not consistent', {
      path: this.repository.pathOf(ObjectKind.draft, this.name),
    });
  }

  /** Nothing is lost when it stays. */
  async remove(): Promise<undefined> {
    // Whoever stopped the upload does not wait for a store that is silent.
    const signal = AbortSignal.timeout(LONGEST_GOODBYE);
    const key = keyOf(ObjectKind.draft, this.name);
    await this.repository.store.remove([key], { signal }).catch(() => undefined);
    return undefined;
  }

  private checkAwake(): void {
    if (Date.now() - this.renewedAt < LONGEST_SLEEP) return;
    const reason = 'slept for days in the middle of an upload: take the snapshot again';
    throw new DriftmapError('aborted', reason, { path: this.repository.store.name });
  }
}

/**
 * Keeps a snapshot's objects while they are read, also when it is forgotten meanwhile and pruning sweeps. Where only
 * reading is allowed, nothing is held.
 * @returns ends it; never throws
 * @throws DriftmapError `not-found` when the snapshot is forgotten already; what the store throws
 */
export async function holdSnapshot(
  repository: Repository,
  snapshot: SnapshotInfo,
  signal?: AbortSignal,
): Promise<() => Promise<undefined>> {
  const draft = new Draft(repository, signal);
  try {
    await draft.hold(snapshot.disks);
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'permission') return async () => undefined;
    throw error;
  }
  // As an upload makes sure of its parent.
  const key = `${folderOf(ObjectKind.snapshot)}${snapshot.id}`;
  const isThere = await repository.store.has(key, { signal });
  if (!isThere) {
    await draft.remove();
    const path = repository.pathOf(ObjectKind.snapshot, new Uint8Array(Buffer.from(snapshot.id, 'hex')));
    throw new DriftmapError('not-found', 'the snapshot was forgotten meanwhile', { path });
  }
  // A renewal that fails has a week of others after it.
  const timer = setInterval(() => void draft.renew().catch(() => undefined), RENEW / 4).unref();
  return () => {
    clearInterval(timer);
    return draft.remove();
  };
}

export interface DraftContents {
  /** Names of sweeps that its upload knows to have ended. */
  readonly ended: readonly Uint8Array[];
  readonly trees: readonly Tree[];
}

/** Null when it is gone. @throws DriftmapError `malformed` … */
export async function readDraft(
  repository: Repository,
  name: Uint8Array,
  options: StoreOptions = {},
): Promise<DraftContents | null> {
  const path = repository.pathOf(ObjectKind.draft, name);
  let bytes: Uint8Array;
  try {
    bytes = await repository.get(ObjectKind.draft, name, SNAPSHOT_MAX_MANIFEST_BYTES, options);
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'not-found') return null;
    throw error;
  }
  const limits = { bytes: SNAPSHOT_MAX_MANIFEST_BYTES, text: SNAPSHOT_MAX_MANIFEST_BYTES };
  const value = decodeControl(bytes, 'the draft', limits, { path }) as {
    readonly ended: readonly Uint8Array[];
    readonly disks: readonly { readonly size: number; readonly roots: Uint8Array }[];
  } | null;
  const { ended, disks } = value ?? { ended: undefined, disks: undefined };
  const isRight =
    Array.isArray(ended) &&
    ended.every((name) => name instanceof Uint8Array && name.length === 32) &&
    Array.isArray(disks) &&
    disks.every(
      ({ size, roots }) =>
        Number.isSafeInteger(size) &&
        size >= 0 &&
        roots instanceof Uint8Array &&
        roots.length === 32 * treeShape(size, repository.blockSize).roots,
    );
  if (!isRight) throw new DriftmapError('malformed', 'the draft is not one', { path });
  const trees = disks!.map(({ size, roots }) => ({ size, roots: decodeRoots(roots) }));
  return { ended: ended!, trees };
}
