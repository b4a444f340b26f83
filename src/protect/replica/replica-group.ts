/**
 * The replica of a consistency group: the owner of its journal and of its disks. Production's stream is appended to
 * the journal; in the background the disks follow, old points are let go, and storage that failed is tried again.
 * Points are read, rolled to and worked on by `access.ts`, `roll.ts` and `failover.ts`.
 *
 * Nothing that comes in waits for the disks. When the journal cannot take it, whoever streams is told so and why, and
 * marks instead; once the journal takes writes again its group is suspended until production has made up for them.
 */

import { statfsSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { MAX_BLOCK_SIZE } from '../../base/limits.ts';
import {
  REPLICA_MAX_LAG_BYTES,
  REPLICA_MIN_FREE_BYTES,
  REPLICA_PROBE_BLOCKS,
} from '../../base/protection-limits.ts';
import { MiB } from '../../base/units.ts';
import type { Appended, Journal, JournalWrite } from '../../journal/journal.ts';
import type { Found, Point, Points } from '../../journal/points.ts';
import type { Time } from '../../journal/record.ts';
import type { Retained } from '../../journal/retention.ts';
import { BlockHasher } from '../../sync/block-hasher.ts';
import type { GroupFile, ReplicaSide } from '../group/group-file.ts';
import { DiskClaims } from '../group/hold-disk.ts';
import { Applier } from './applier.ts';
import type { Follower, OpenAccess, Probe, ReplicaGroupState } from './group-state.ts';
import type { ReplicaDisk } from './replica-disk.ts';
import { type ReplicaRecord, saveReplicaRecord } from './state-file.ts';
import { findTarget } from './target.ts';

export type { AccessState, Ending, Follower, OpenAccess, Probe, ReplicaGroupState } from './group-state.ts';

export interface ReplicaGroupParts {
  readonly file: GroupFile;
  readonly side: ReplicaSide;
  readonly journal: Journal;
  /** In the order of the journal. */
  readonly disks: ReadonlyMap<string, ReplicaDisk>;
  readonly record: ReplicaRecord;
  readonly warnings: readonly string[];
  readonly clock: () => Time;
}

const TICK_MS = 1000;
const RETAIN_EVERY_TICKS = 15;
const LONGEST_MEND_TICKS = 16;

export class ReplicaGroup {
  readonly file: GroupFile;
  readonly side: ReplicaSide;
  readonly journal: Journal;
  readonly disks: ReadonlyMap<string, ReplicaDisk>;
  readonly warnings: readonly string[];
  readonly applier: Applier;
  readonly clock: () => Time;
  /** Its disks are nobody else's while it is a replica. */
  readonly claims = new DiskClaims();
  readonly accesses = new Set<OpenAccess>();
  /** Takes a snapshot of the latest point, and tells of it in plain data; null where nobody can. */
  takeSnapshot: (() => Promise<unknown>) | null = null;
  /** What production said of its virtual machine when it began to stream. */
  configuration: string | null = null;
  private kept: ReplicaRecord;
  private follower: Follower | null = null;
  /** Why the journal is to take nothing more although it could: it is as large as it may be. */
  private full: DriftmapError | null = null;
  private failing = false;
  private retained: string | null = null;
  private busyWith: string | null = null;
  /** Why no stream is taken in, for a while. */
  private shut: string | null = null;
  private ticks = 0;
  private mendAt = 0;
  private mendStep = 1;
  private readonly timer: NodeJS.Timeout;
  private ticking: Promise<void> | null = null;
  private closing: Promise<undefined> | null = null;

  constructor({ file, side, journal, disks, record, warnings, clock }: ReplicaGroupParts) {
    this.file = file;
    this.side = side;
    this.journal = journal;
    this.disks = disks;
    this.kept = record;
    this.warnings = warnings;
    this.clock = clock;
    this.applier = new Applier(journal);
    if (standsStill(record)) void this.applier.hold();
    else this.applier.poke(0);
    this.timer = setInterval(() => {
      this.ticking ??= this.tick().finally(() => {
        this.ticking = null;
      });
    }, TICK_MS);
    this.timer.unref();
  }

  get name(): string {
    return this.file.group;
  }

  get record(): ReplicaRecord {
    return this.kept;
  }

  /** Durable when it returns. It also says whether the disks follow the journal. */
  update(change: Partial<ReplicaRecord>): void {
    const before = this.kept;
    const next = { ...before, ...change };
    saveReplicaRecord(this.side.journal, next);
    this.kept = next;
    if (standsStill(next) && !standsStill(before)) void this.applier.hold();
    if (!standsStill(next) && standsStill(before)) this.applier.release();
  }

  /**
   * Takes a stream in. One that is there is ended: a connection that was cut may look alive here.
   * @returns what to call when it is over
   * @throws DriftmapError `policy` after a failover
   */
  follow(follower: Follower): () => void {
    this.checkTakes();
    const reason = `${follower.peer} streams to this group now`;
    this.follower?.ended(new DriftmapError('policy', reason, { path: this.side.journal }));
    this.follower = follower;
    return () => {
      if (this.follower === follower) this.follower = null;
    };
  }

  /** Why nothing is taken in; null while it is. */
  get refusal(): DriftmapError | null {
    return this.journal.state().failure ?? this.full;
  }

  /** As `Journal.append`. @throws DriftmapError `policy` after a failover, `limit` when the journal is as large as it may be */
  append(writes: readonly JournalWrite[], time?: Time): Appended {
    this.checkTakes();
    if (this.full !== null) throw this.full;
    const appended = this.journal.append(writes, time);
    let bytes = 0;
    for (const write of writes) bytes += 'bytes' in write ? write.bytes.length : 0;
    this.applier.poke(bytes);
    appended.durable.catch((cause) => this.noteFailure(cause));
    return appended;
  }

  /** Resolves when the stream may be read further: the disks are not too far behind. */
  ready(): Promise<void> {
    return this.applier.below(REPLICA_MAX_LAG_BYTES);
  }

  /** As `Journal.suspend`. */
  suspend(reason: string): Promise<Point> {
    return this.mark(() => this.journal.suspend(reason));
  }

  /** As `Journal.resume`. */
  resume(reason?: string): Promise<Point> {
    return this.mark(() => this.journal.resume(reason));
  }

  /** As `Journal.bookmark`. */
  bookmark(name: string, consistency?: 'crash' | 'application'): Promise<Point> {
    return this.mark(() => this.journal.bookmark(name, consistency));
  }

  /** As `Journal.forget`. */
  forget(name: string): Promise<Point> {
    return this.mark(() => this.journal.forget(name));
  }

  private async mark(act: () => Promise<Point>): Promise<Point> {
    this.checkTakes();
    try {
      const point = await act();
      this.applier.poke(0);
      return point;
    } catch (cause) {
      if (this.journal.state().failure !== null) this.noteFailure(cause);
      throw cause;
    }
  }

  points(): Points {
    return this.journal.points();
  }

  /** The point that is meant. @throws DriftmapError as `findTarget`; `policy` when the points do not hold any more */
  find(target: string): Found {
    this.checkPoints();
    return findTarget(this.journal, target, this.clock());
  }

  /**
   * Which blocks differ from their signatures, as of all that was appended before.
   * @throws DriftmapError `argument`, `limit`, and what reading throws
   */
  async probe({ disk, blockSize, blocks, signatures }: Probe): Promise<boolean[]> {
    const isWhole = blockSize >= 1 && blockSize <= MAX_BLOCK_SIZE && signatures.length === blocks.length * 32;
    if (blocks.length > REPLICA_PROBE_BLOCKS || !isWhole) {
      const reason = `expected at most ${REPLICA_PROBE_BLOCKS} blocks of up to 16 MiB, with 32 bytes each`;
      throw new DriftmapError('limit', reason, { path: this.side.journal, length: blocks.length });
    }
    await this.journal.commit();
    const unit = this.journal.newest(disk);
    const hasher = await BlockHasher.create();
    try {
      const differs: boolean[] = [];
      let turn = 0;
      for (const [i, block] of blocks.entries()) {
        const length = Math.min(blockSize, unit.size - block * blockSize);
        if (!(Number.isSafeInteger(block) && block >= 0 && length > 0)) {
          const reason = `expected a block of the disk '${disk}', got ${block}`;
          throw new DriftmapError('argument', reason, { path: unit.name });
        }
        await unit.read(block * blockSize, hasher.buffer(length));
        differs.push(!hasher.matches(length, signatures.subarray(i * 32, i * 32 + 32)));
        turn += length;
        if (turn < 4 * MiB) continue;
        turn = 0;
        await setImmediate();
      }
      return differs;
    } finally {
      hasher.close();
      await unit.close();
    }
  }

  /** Lets go of what `keep` does not keep. */
  async retain(): Promise<Retained> {
    const retained = await this.journal.retain(this.side.keep);
    this.retained = retained.held;
    return retained;
  }

  state(): ReplicaGroupState {
    const { journal, applier, record, follower } = this;
    const { last, applied, bytes, suspended, failure } = journal.state();
    const { failedOver, history } = record;
    const trouble: string[] = [];
    if (failure !== null) trouble.push(`the journal takes nothing: ${failure.message}`);
    if (this.full !== null) trouble.push(this.full.message);
    if (applier.trouble !== null) trouble.push(`the disks do not follow: ${applier.trouble.message}`);
    return {
      group: this.name,
      role: failedOver === null ? 'replica' : 'production',
      history,
      journal: this.side.journal,
      bytes,
      last: { sequence: last, time: journal.timeOf(last) },
      consistent: !suspended,
      applied,
      lag: { records: last - applied.low, bytes: last === applied.low ? 0 : applier.lagBytes },
      held: this.whyHeld(),
      retained: this.retained,
      trouble,
      stream: follower?.peer ?? null,
      accesses: [...this.accesses].map((access) => access.state()),
      failedOver:
        failedOver === null
          ? null
          : { sequence: failedOver.sequence, time: failedOver.time, since: failedOver.since },
    };
  }

  private whyHeld(): string | null {
    const { hold, rolled, failedOver } = this.record;
    if (failedOver !== null) return 'failed over';
    if (this.busyWith !== null) return this.busyWith;
    if (rolled !== null) return `somebody works on the disks as of ${rolled.sequence}`;
    return hold?.why ?? null;
  }

  /** @throws DriftmapError `policy` after a failover */
  checkReplica(): void {
    const { failedOver } = this.record;
    if (failedOver === null) return;
    const since = new Date(failedOver.since).toISOString();
    const reason = `this site has been production since ${since} (failed over): it takes no stream until 'driftmap failback' makes it a replica again`;
    throw new DriftmapError('policy', reason, { path: this.side.journal });
  }

  /** @throws DriftmapError `policy` when the disks have been written to since a failover */
  checkPoints(): void {
    if (this.pointsHold()) return;
    const reason = 'the disks were used since the failover, so the points before it hold no longer';
    throw new DriftmapError('policy', reason, { path: this.side.journal });
  }

  /** @throws DriftmapError `policy` while somebody works on the disks themselves */
  checkUnused(): void {
    const { rolled } = this.record;
    if (rolled === null) return;
    const reason = `somebody works on the disks as of ${rolled.sequence} (rolled access): end that first, or open a virtual access`;
    throw new DriftmapError('policy', reason, { path: this.side.journal });
  }

  pointsHold(): boolean {
    const { failedOver } = this.record;
    if (failedOver === null) return true;
    return [...this.disks].every(([name, disk]) => {
      const generation = disk.generation();
      return generation !== 'device' && generation === failedOver.generations[name];
    });
  }

  /** One at a time of what moves the disks. @throws DriftmapError `policy` while another does */
  async exclusively<T>(what: string, act: () => Promise<T>): Promise<T> {
    if (this.closing !== null) throw closed(this.side.journal);
    if (this.busyWith !== null) {
      throw new DriftmapError('policy', `the group is busy: ${this.busyWith}`, { path: this.side.journal });
    }
    this.busyWith = what;
    await this.applier.hold();
    try {
      return await act();
    } finally {
      this.busyWith = null;
      this.applier.release();
    }
  }

  /** Ends the stream, and takes nothing in while this lasts: what it writes to the journal is all that comes. */
  async withoutStream<T>(what: string, act: () => Promise<T>): Promise<T> {
    this.shut = what;
    this.endStream(
      new DriftmapError('policy', `the group takes no stream: ${what}`, { path: this.side.journal }),
    );
    try {
      return await act();
    } finally {
      this.shut = null;
    }
  }

  private checkTakes(): void {
    this.checkReplica();
    if (this.shut === null) return;
    throw new DriftmapError('policy', `the group takes no stream: ${this.shut}`, { path: this.side.journal });
  }

  private endStream(why: DriftmapError): void {
    const { follower } = this;
    this.follower = null;
    follower?.ended(why);
  }

  get isClosing(): boolean {
    return this.closing !== null;
  }

  get isFollowed(): boolean {
    return this.follower !== null;
  }

  private noteFailure(cause: unknown): void {
    if (this.failing) return;
    this.failing = true;
    this.mendAt = this.ticks + this.mendStep;
    this.follower?.failed(systemError(cause, { path: this.side.journal, operation: 'append' }));
  }

  private async tick(): Promise<void> {
    this.ticks++;
    await this.checkSize();
    if (this.ticks % RETAIN_EVERY_TICKS === 0) await this.retain().catch(() => undefined);
    const { failure } = this.journal.state();
    if (failure !== null) this.noteFailure(failure);
    if (!this.failing || this.ticks < this.mendAt) return;
    await this.mend();
  }

  /** While the disks are held the journal only grows: to what it may take, and no further. */
  private async checkSize(): Promise<void> {
    const most = this.side.keep.bytes;
    if (most === undefined) return;
    if (this.journal.state().bytes > most) await this.retain().catch(() => undefined);
    const { bytes, last, applied } = this.journal.state();
    const isFull = bytes > most && this.applier.isHeld && applied.low < last;
    if (isFull === (this.full !== null)) return;
    if (isFull) {
      const reason = `the journal takes ${bytes} bytes, more than the ${most} that it may, and the disks are held: ${this.whyHeld() ?? 'by a roll'}`;
      this.full = new DriftmapError('limit', reason, { path: this.side.journal });
      this.follower?.failed(this.full);
      return;
    }
    this.full = null;
    this.follower?.recovered();
  }

  /** Tries a journal that failed again. */
  private async mend(): Promise<void> {
    this.mendStep = Math.min(this.mendStep * 2, LONGEST_MEND_TICKS);
    this.mendAt = this.ticks + this.mendStep;
    try {
      await this.retain().catch(() => undefined);
      const { bavail, bsize } = statfsSync(this.side.journal);
      if (bavail * bsize < REPLICA_MIN_FREE_BYTES) return;
      await this.journal.recover();
    } catch {
      // The cause lasts: `state()` tells it.
      return;
    }
    this.failing = false;
    this.mendStep = 1;
    this.follower?.recovered();
  }

  /** Ends accesses (what they wrote is discarded) and the stream, and closes everything. Idempotent. */
  close(): Promise<undefined> {
    this.closing ??= this.shutDown();
    return this.closing;
  }

  private async shutDown(): Promise<undefined> {
    clearInterval(this.timer);
    await this.ticking;
    this.endStream(closed(this.side.journal));
    for (const access of [...this.accesses]) await access.end('discard').catch(() => undefined);
    await this.applier.close();
    await this.journal.close();
    for (const disk of this.disks.values()) await disk.close();
    this.claims.release();
  }
}

function standsStill({ hold, rolled, failedOver }: ReplicaRecord): boolean {
  return hold !== null || rolled !== null || failedOver !== null;
}

function closed(path: string): DriftmapError {
  return new DriftmapError('aborted', 'the replica is being closed', { path });
}
