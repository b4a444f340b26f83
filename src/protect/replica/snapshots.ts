/**
 * Snapshots of a replica group into an object store: on command, and by schedule. All disks are read as of one point
 * through views of the journal, while everything else goes on; what changed since the snapshot before is known from
 * the journal, so nothing else is read.
 */

import { DriftmapError, systemError } from '../../base/errors.ts';
import { SNAPSHOT_MAX_CONFIGURATION_BYTES } from '../../base/protection-limits.ts';
import { readBounded } from '../../codec/atomic-file.ts';
import type { Point } from '../../journal/points.ts';
import type { Sequence, Time } from '../../journal/record.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { listSnapshots } from '../../snapshots/catalog.ts';
import { readKeyFile } from '../../snapshots/keys.ts';
import type { SnapshotInfo } from '../../snapshots/manifest.ts';
import { pruneRepository } from '../../snapshots/prune.ts';
import { createRepository, openRepository, type Repository } from '../../snapshots/repository.ts';
import { chooseKept } from '../../snapshots/retention.ts';
import { type SnapshotProgress, type TakenSnapshot, takeSnapshot } from '../../snapshots/take.ts';
import { openObjectStore } from '../../store/open-object-store.ts';
import { RateLimiter } from '../../wire/limiter.ts';
import type { SnapshotSchedule } from '../group/group-file.ts';
import type { ReplicaGroup } from './replica-group.ts';

export interface TakeOptions {
  /** As `ReplicaGroup.find`; the latest point by default. */
  readonly at?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: SnapshotProgress) => void) | undefined;
}

export interface SnapshotsState {
  /** Milliseconds between two; null when they are taken on command alone. */
  readonly every: number | null;
  readonly running: boolean;
  /** The last that this process took. */
  readonly last: {
    readonly id: string;
    readonly point: Point;
    readonly taken: Time;
    readonly bytesSent: number;
  } | null;
  /** Why the last one failed; null when it did not. */
  readonly trouble: string | null;
}

/** While one is due and nothing was written since the last. */
const NEWS_MS = 10_000;
const FIRST_RETRY_MS = 30_000;
/** Pruning looks at all that the store has. */
const PRUNE_EVERY_MS = 3_600_000;

export class Snapshots {
  private readonly group: ReplicaGroup;
  private readonly schedule: SnapshotSchedule | null;
  private last: SnapshotsState['last'] = null;
  private trouble: DriftmapError | null = null;
  private running = false;
  private timer: NodeJS.Timeout | null = null;
  private prunedAt = Number.NEGATIVE_INFINITY;
  private failures = 0;
  private readonly stop = new AbortController();
  private turn: Promise<unknown> = Promise.resolve();

  constructor(group: ReplicaGroup) {
    this.group = group;
    this.schedule = group.side.snapshots;
  }

  /** Takes them by the schedule from now on, where there is one. */
  start(): void {
    if (this.schedule?.every != null) this.plan(0);
  }

  state(): SnapshotsState {
    const { schedule, running, last, trouble } = this;
    return { every: schedule?.every ?? null, running, last, trouble: trouble?.message ?? null };
  }

  /**
   * Takes one, after those that are under way; keeps as many as the group file says.
   * @throws DriftmapError `argument` when the group file names no store; as `ReplicaGroup.find`, `takeSnapshot`
   */
  take(options: TakeOptions = {}): Promise<TakenSnapshot> {
    const run = this.turn.catch(() => undefined).then(() => this.takeNow(options));
    this.turn = run;
    run.catch(() => undefined);
    return run;
  }

  /** Stops what is under way; what was sent of it is not sent again. */
  async close(): Promise<void> {
    if (this.timer !== null) clearTimeout(this.timer);
    this.stop.abort('closed');
    await this.turn.catch(() => undefined);
  }

  private plan(ms: number): void {
    if (this.stop.signal.aborted) return;
    this.timer = setTimeout(() => {
      this.due()
        .then((next) => this.plan(next))
        .catch(() => this.plan(FIRST_RETRY_MS));
    }, ms);
    this.timer.unref();
  }

  /** @returns milliseconds until it is to be asked again */
  private async due(): Promise<number> {
    const every = this.schedule!.every!;
    try {
      const newest = this.last?.taken ?? (await this.newestInStore())?.taken ?? 0;
      const wait = newest + every - this.group.clock();
      if (wait > 0) return wait;
      const hasNews = this.hasNews();
      if (hasNews) await this.take();
      this.failures = 0;
      return hasNews ? every : Math.min(every, NEWS_MS);
    } catch (cause) {
      if (this.stop.signal.aborted) return every;
      this.trouble = systemError(cause, { operation: 'snapshot' });
      return Math.min(every, FIRST_RETRY_MS * 2 ** Math.min(this.failures++, 8));
    }
  }

  /** Whether there is a point that the last snapshot does not hold. */
  private hasNews(): boolean {
    const { group, last } = this;
    if (group.record.failedOver !== null) return false;
    const { ranges } = group.points();
    const newest = ranges.at(-1)?.to.sequence;
    return newest !== undefined && newest !== last?.point.sequence;
  }

  private newestInStore(): Promise<SnapshotInfo | null> {
    return this.withRepository(async (repository, signal) => {
      const snapshots = await listSnapshots(repository, { group: this.group.name, signal });
      return snapshots.reduce<SnapshotInfo | null>((a, b) => (a !== null && a.taken > b.taken ? a : b), null);
    }, this.stop.signal);
  }

  private async takeNow({ at = 'latest', signal, onProgress }: TakeOptions): Promise<TakenSnapshot> {
    const stop = signal === undefined ? this.stop.signal : AbortSignal.any([signal, this.stop.signal]);
    this.running = true;
    try {
      const taken = await this.withRepository(
        (repository) => this.takeInto(repository, at, { signal: stop, onProgress }),
        stop,
      );
      const { sequence, time } = taken.point;
      this.last = { id: taken.id, point: { sequence, time }, taken: taken.taken, bytesSent: taken.bytesSent };
      this.trouble = null;
      return taken;
    } finally {
      this.running = false;
    }
  }

  private async takeInto(
    repository: Repository,
    at: string,
    { signal, onProgress }: { signal: AbortSignal; onProgress: TakeOptions['onProgress'] },
  ): Promise<TakenSnapshot> {
    const { group } = this;
    const { journal } = group;
    if (journal.state().failure === null) await journal.commit();
    const { sequence, time } = group.find(at);
    const mark = group.points().bookmarks.find((bookmark) => bookmark.sequence === sequence);
    const units: LogicalUnit[] = [];
    try {
      // They hold the point: retention leaves it alone until they are closed.
      for (const { name } of journal.disks) units.push(journal.view(name, { sequence }));
      const parent = await this.parentFor(repository, sequence, signal);
      const disks = journal.disks.map(({ name, size }, i) => ({
        name,
        size,
        unit: units[i]!,
        changed:
          parent === null ? null : journal.changes(name, { from: parent.point.sequence, to: sequence }),
      }));
      const { consistency = 'crash', name: bookmark = null } = mark ?? {};
      const point = { sequence, time, consistency, bookmark, journal: group.record.history };
      const limit = this.schedule!.limit;
      const taken = await takeSnapshot(
        repository,
        { group: group.name, disks, point, parent, configuration: this.configuration() },
        {
          limiter: limit === null ? undefined : new RateLimiter(limit),
          signal,
          onProgress,
          now: group.clock,
        },
      );
      await this.keep(repository, signal);
      return taken;
    } finally {
      for (const unit of units) await unit.close();
    }
  }

  /** The newest snapshot from which the journal knows all changes to the point; null when there is none. */
  private async parentFor(
    repository: Repository,
    sequence: Sequence,
    signal: AbortSignal,
  ): Promise<SnapshotInfo | null> {
    const { journal, record, name } = this.group;
    const snapshots = await listSnapshots(repository, { group: name, signal });
    // Another history may have had other writes under the same sequences.
    const known = snapshots.filter(
      ({ point }) => point.journal === record.history && point.sequence <= sequence,
    );
    const parent = known.reduce<SnapshotInfo | null>(
      (a, b) => (a !== null && a.point.sequence > b.point.sequence ? a : b),
      null,
    );
    if (parent === null) return null;
    const isSame = journal.disks.every(({ name: disk, size }) =>
      parent.disks.some((one) => one.name === disk && one.size === size),
    );
    return isSame && this.knowsChangesSince(parent.point.sequence, sequence) ? parent : null;
  }

  private knowsChangesSince(from: Sequence, to: Sequence): boolean {
    const { journal } = this.group;
    try {
      for (const { name } of journal.disks) journal.changes(name, { from, to }).next();
      return true;
    } catch (error) {
      if (error instanceof DriftmapError && error.kind === 'not-found') return false;
      throw error;
    }
  }

  /** The description of the virtual machine, as production told it, or where production is on this host. */
  private configuration(): string | null {
    if (this.group.configuration !== null) return this.group.configuration;
    const { production } = this.group.file;
    if (production === null || production.replica !== null || production.configuration === null) return null;
    const bytes = readBounded(production.configuration, SNAPSHOT_MAX_CONFIGURATION_BYTES);
    return Buffer.from(bytes).toString('utf8');
  }

  /** Of this group alone: others may share the store, and have rules of their own. */
  private async keep(repository: Repository, signal: AbortSignal): Promise<void> {
    const rules = this.schedule!.keep;
    const now = performance.now();
    if (rules === null || now < this.prunedAt + PRUNE_EVERY_MS) return;
    const { forget } = chooseKept(await listSnapshots(repository, { group: this.group.name, signal }), rules);
    if (forget.length === 0) return;
    this.prunedAt = now;
    await pruneRepository(repository, { forget: forget.map(({ id }) => id), signal });
  }

  private async withRepository<T>(
    act: (repository: Repository, signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const { schedule } = this;
    if (schedule === null) {
      const reason = "replica.snapshots: expected a 'store' to take snapshots into";
      throw new DriftmapError('argument', reason, { path: this.group.file.path });
    }
    const store = await openObjectStore(schedule.store);
    try {
      const key = schedule.key === null ? null : readKeyFile(schedule.key);
      const repository = await openRepository(store, { key, signal }).catch((error: unknown) => {
        if (!(error instanceof DriftmapError) || error.kind !== 'not-found') throw error;
        this.checkNew(store.name, schedule.store);
        return createRepository(store, { key, signal });
      });
      const { snapshots } = this.group.record;
      if (snapshots?.store !== schedule.store || snapshots.repository !== repository.id)
        this.group.update({ snapshots: { store: schedule.store, repository: repository.id } });
      return await act(repository, signal);
    } finally {
      await store.close();
    }
  }

  /**
   * A folder that was a repository and is none is most likely the one below a disk that is not mounted: what went there
   * would be found by nobody. @throws DriftmapError `not-found`
   */
  private checkNew(path: string, store: string): void {
    const known = this.group.record.snapshots;
    if (known?.store !== store) return;
    const reason = `there is no repository of snapshots here any more, and there was one (${known.repository.slice(0, 8)}): mount the disk that holds it, or begin a new one with 'driftmap snapshots init'`;
    throw new DriftmapError('not-found', reason, { path });
  }
}
