/**
 * Verifies a repository: every block and page of every snapshot is fetched, and its signature computed again. What is
 * wrong is told with the snapshots that it hits.
 */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_BYTES_IN_FLIGHT, SNAPSHOT_MAX_NAMES } from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import { listSnapshots } from './catalog.ts';
import { Crew } from './crew.ts';
import type { SnapshotInfo } from './manifest.ts';
import { NameSet } from './name-set.ts';
import { ObjectKind } from './object-format.ts';
import { MAX_PAGE_BYTES } from './page.ts';
import { folderOf, keyOf, nameOfKey, type Repository } from './repository.ts';
import { lengthOfBlock, walkTree } from './tree.ts';

export interface VerifyOptions {
  readonly connections?: number | undefined;
  /** Of these alone; of all when absent. */
  readonly snapshots?: readonly SnapshotInfo[] | undefined;
  /** Looks only whether blocks are there; pages are read either way. */
  readonly quick?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: VerifyProgress) => void) | undefined;
}

export interface VerifyProgress {
  readonly snapshots: number;
  readonly snapshotsDone: number;
  readonly objects: number;
  readonly bytes: ByteCount;
  readonly damaged: number;
}

export interface DamagedObject {
  readonly key: string;
  readonly reason: string;
  /** Ids of the snapshots that it is a part of. */
  readonly snapshots: readonly string[];
}

export interface Verified {
  readonly snapshots: number;
  readonly objects: number;
  /** Unpacked, of what was read. */
  readonly bytes: ByteCount;
  /** Empty: all is as it should be. */
  readonly damaged: readonly DamagedObject[];
}

/** @throws DriftmapError what the store throws, except where an object is missing or damaged: that is the result */
export async function verifyRepository(
  repository: Repository,
  options: VerifyOptions = {},
): Promise<Verified> {
  const run = new VerifyRun(repository, options);
  try {
    return await run.run();
  } catch (error) {
    await run.crew.abandon(error);
    throw error;
  }
}

class VerifyRun {
  readonly crew: Crew;
  private readonly repository: Repository;
  private readonly options: VerifyOptions;
  private readonly seen = { 2: new NameSet(SNAPSHOT_MAX_NAMES), 3: new NameSet(SNAPSHOT_MAX_NAMES) };
  /** Blocks there are, for a quick look; null when they are read. */
  private there: NameSet | null = null;
  /** Reasons by key. */
  private readonly damaged = new Map<string, string>();
  private readonly brokenManifests = new Set<string>();
  private objects = 0;
  private bytes: ByteCount = 0;
  private snapshotsDone = 0;
  private snapshots = 0;

  constructor(repository: Repository, options: VerifyOptions) {
    this.repository = repository;
    this.options = options;
    const { connections, signal } = options;
    this.crew = new Crew({ connections, signal, bytes: SNAPSHOT_BYTES_IN_FLIGHT });
  }

  async run(): Promise<Verified> {
    const { repository, crew } = this;
    const snapshots =
      this.options.snapshots ??
      (await listSnapshots(repository, {
        signal: crew.signal,
        onDamage: (id, error) => {
          const key = `${folderOf(ObjectKind.snapshot)}${id}`;
          this.damaged.set(key, error.message);
          this.brokenManifests.add(id);
        },
      }));
    this.snapshots = snapshots.length;
    if (this.options.quick === true) this.there = await this.listBlocks();
    for (const snapshot of snapshots) {
      await this.verifySnapshot(snapshot);
      this.snapshotsDone++;
      this.tell();
    }
    await crew.done();
    const hits = await this.hitsOf(snapshots);
    const damaged = [...this.damaged].map(([key, reason]) => ({
      key,
      reason,
      snapshots: hits.get(key) ?? [],
    }));
    return { snapshots: snapshots.length, objects: this.objects, bytes: this.bytes, damaged };
  }

  private async verifySnapshot({ disks }: SnapshotInfo): Promise<undefined> {
    const { repository, crew, seen } = this;
    for (const disk of disks) {
      await walkTree(
        repository,
        disk,
        {
          page: (signature) => {
            const isNew = seen[ObjectKind.page].add(repository.nameOf(signature));
            if (isNew) {
              this.objects++;
              this.bytes += MAX_PAGE_BYTES;
            }
            return isNew;
          },
          blocks: async (page, first, places) => {
            for (let i = 0; i < places; i++) {
              const signature = page.at(i);
              if (signature === null || !seen[ObjectKind.block].add(repository.nameOf(signature))) continue;
              this.objects++;
              await this.verifyBlock(signature, lengthOfBlock(first + i, repository.blockSize, disk.size));
            }
            this.tell();
          },
          lost: (signature, error) => this.blame(ObjectKind.page, signature, error),
        },
        { signal: crew.signal },
      );
    }
    return undefined;
  }

  private async verifyBlock(signature: Uint8Array, length: ByteCount): Promise<undefined> {
    const { repository, crew, there } = this;
    if (there !== null) {
      if (!there.has(repository.nameOf(signature)))
        this.blame(ObjectKind.block, signature, new DriftmapError('not-found', 'no such object'));
      return undefined;
    }
    return crew.add(length, async () => {
      try {
        await repository.block(signature, length, { signal: crew.signal });
        this.bytes += length;
      } catch (error) {
        this.blame(ObjectKind.block, signature, error);
      }
    });
  }

  /** What is about the object is a finding; what is about the store ends the run. */
  private blame(kind: ObjectKind, signature: Uint8Array, error: unknown): void {
    const isFinding =
      error instanceof DriftmapError && ['not-found', 'malformed', 'mismatch'].includes(error.kind);
    if (!isFinding) throw error;
    const reason = error.kind === 'not-found' ? 'is missing' : error.message;
    this.damaged.set(keyOf(kind, this.repository.nameOf(signature)), reason);
  }

  private async listBlocks(): Promise<NameSet> {
    const names = new NameSet(SNAPSHOT_MAX_NAMES);
    for await (const { key } of this.repository.store.list('blocks/', { signal: this.crew.signal })) {
      const name = nameOfKey(key);
      if (name !== null) names.add(name);
    }
    return names;
  }

  /** Which snapshots have damaged objects: they are walked once more, without their blocks. */
  private async hitsOf(snapshots: readonly SnapshotInfo[]): Promise<Map<string, string[]>> {
    const hits = new Map<string, string[]>();
    for (const id of this.brokenManifests) hits.set(`${folderOf(ObjectKind.snapshot)}${id}`, [id]);
    if (this.damaged.size === this.brokenManifests.size) return hits;
    const { repository, crew } = this;
    for (const { id, disks } of snapshots) {
      const look = (kind: ObjectKind, signature: Uint8Array): boolean => {
        const key = keyOf(kind, repository.nameOf(signature));
        if (!this.damaged.has(key)) return true;
        const known = hits.get(key) ?? [];
        if (known.at(-1) !== id) hits.set(key, [...known, id]);
        return false;
      };
      for (const disk of disks) {
        await walkTree(
          repository,
          disk,
          {
            page: (signature) => look(ObjectKind.page, signature),
            blocks: (page, _first, places) => {
              for (let i = 0; i < places; i++) {
                const signature = page.at(i);
                if (signature !== null) look(ObjectKind.block, signature);
              }
            },
          },
          { signal: crew.signal },
        );
      }
    }
    return hits;
  }

  private tell(): void {
    const { snapshots, objects, bytes, snapshotsDone } = this;
    this.options.onProgress?.({ snapshots, snapshotsDone, objects, bytes, damaged: this.damaged.size });
  }
}
