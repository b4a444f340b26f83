/**
 * The journal of a consistency group: every write of its disks, in one order, kept in four streams, so that all
 * disks can be brought to any point in time, forwards and backwards, or be read as of it.
 *
 *   append     writes and marks, in order; many share one flush
 *   apply      the disks follow the newest writes; what they lose is kept
 *   rollTo     the disks go to a point, in either direction
 *   view       one disk as of a point; nothing is rolled
 *   retain     what is kept, and for how long
 *
 * `core.ts` says on what it all stands, `docs/FORMATS.md` how it lies on disk.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import {
  JOURNAL_MAX_RECORD_BYTES,
  JOURNAL_MAX_STAGED_BYTES,
  JOURNAL_MAX_TEXT_BYTES,
} from '../base/protection-limits.ts';
import { checkWithin } from '../base/ranges.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { changedRanges } from './changes.ts';
import type { Core } from './core.ts';
import type { Lock } from './lock.ts';
import { overlayUnit } from './overlay.ts';
import { type Found, findPoint, listPoints, type Point, type Points, type Target } from './points.ts';
import { FLAG_APPLICATION, RecordKind, type Sequence, type Time } from './record.ts';
import { type Retained, type RetentionPolicy, retain } from './retention.ts';
import { type RollOptions, roll } from './roll.ts';
import type { JournalDisk } from './state.ts';
import { ViewUnit } from './view.ts';

/** What is written to a disk: bytes, or so many zeros. */
export type JournalWrite =
  | { readonly disk: string; readonly offset: ByteOffset; readonly bytes: Uint8Array }
  | { readonly disk: string; readonly offset: ByteOffset; readonly zeros: ByteCount };

export interface Appended {
  /** Sequence of the first and of the last record. A write of more than 8 MiB takes several. */
  readonly first: Sequence;
  readonly last: Sequence;
  /** Resolves when all of them, and all before them, are durable; rejects when they cannot be made so. */
  readonly durable: Promise<undefined>;
}

export interface JournalState {
  /** All records up to here are durable. */
  readonly last: Sequence;
  /** The disks have all writes up to `low` and none after `high`; they are equal while nothing is rolled. */
  readonly applied: { readonly low: Sequence; readonly high: Sequence };
  /** What the files take. */
  readonly bytes: ByteCount;
  /** Bytes that are appended and not durable yet. */
  readonly staged: ByteCount;
  readonly suspended: boolean;
  /** Why nothing can be appended until `recover`; null while something can. */
  readonly failure: DriftmapError | null;
}

export interface ViewOptions {
  /** A folder for writes to the view, which are discarded with it; without one the view cannot be written. */
  readonly overlay?: string;
}

export interface JournalParts {
  readonly lock: Lock | null;
  readonly clock: () => Time;
  readonly warnings: readonly string[];
}

export class Journal {
  /** What the user should know of what was found at opening, one line each. */
  readonly warnings: readonly string[];
  private readonly core: Core;
  private readonly lock: Lock | null;
  private readonly clock: () => Time;
  /** Rolls, retention and the like, one after the other. */
  private turn: Promise<unknown> = Promise.resolve();
  private readonly naming = new Set<string>();
  private closed = false;

  constructor(core: Core, { lock, clock, warnings }: JournalParts) {
    this.core = core;
    this.lock = lock;
    this.clock = clock;
    this.warnings = warnings;
  }

  get group(): string {
    return this.core.group.group;
  }
  get disks(): readonly JournalDisk[] {
    return this.core.group.disks;
  }
  get path(): string {
    return this.core.path;
  }
  /** Names this journal among all others: 32 hexadecimal digits. */
  get id(): string {
    return this.core.group.journal;
  }

  state(): JournalState {
    const { redo, undo, low, high } = this.core;
    return {
      last: Math.max(redo.last, high),
      applied: { low, high },
      bytes: redo.bytes + undo.bytes,
      staged: redo.stagedBytes,
      suspended: redo.segments.length > 0 ? redo.suspended : this.core.suspendedAt(Math.max(low, high)),
      failure: redo.failure,
    };
  }

  /** Gives the journal disks of its group, by name. @throws DriftmapError `argument`, `mismatch` */
  attach(disks: ReadonlyMap<string, LogicalUnit>): void {
    this.core.attach(disks);
  }

  /**
   * Takes writes in, in this order. Their bytes are copied before it returns; nothing is waited for.
   * @param time of all of them; now, when absent
   * @throws DriftmapError `argument` for what is no write to the group, `limit` while too much waits to be made
   *   durable, and whatever made the journal fail (`state().failure`) until `recover`
   */
  append(writes: readonly JournalWrite[], time: Time = this.clock()): Appended {
    const { redo } = this.core;
    this.checkAppend();
    checkTime(time);
    // All are looked at before the first is taken.
    let bytes = 0;
    for (const write of writes) bytes += this.checkWrite(write);
    if (redo.stagedBytes > 0 && redo.stagedBytes + bytes > JOURNAL_MAX_STAGED_BYTES) {
      const reason = `expected at most ${JOURNAL_MAX_STAGED_BYTES} bytes that wait to be durable: the journal's storage is too slow`;
      throw new DriftmapError('limit', reason, { path: this.path, length: bytes });
    }
    const first = redo.next;
    for (const write of writes) this.stage(write, time);
    return { first, last: redo.next - 1, durable: this.commit() };
  }

  /** @returns bytes that have to be kept */
  private checkWrite(write: JournalWrite): ByteCount {
    const disk = this.core.diskNumber(write.disk);
    const length = 'bytes' in write ? write.bytes.length : write.zeros;
    const { size } = this.disks[disk]!;
    const { offset } = write;
    checkWithin({ offset, length }, size, "the disk's", { path: write.disk, operation: 'append' });
    return 'bytes' in write ? length : 0;
  }

  private stage(write: JournalWrite, time: Time): void {
    const { redo } = this.core;
    const disk = this.core.diskNumber(write.disk);
    const whole = 'bytes' in write ? write.bytes : null;
    const total = 'bytes' in write ? write.bytes.length : write.zeros;
    const kind = whole === null ? RecordKind.zero : RecordKind.data;
    for (let done = 0; done < total; done += JOURNAL_MAX_RECORD_BYTES) {
      const length = Math.min(total - done, JOURNAL_MAX_RECORD_BYTES);
      const bytes = whole === null || length === total ? whole : whole.subarray(done, done + length);
      const offset = write.offset + done;
      redo.stage({ kind, flags: 0, disk, sequence: redo.next, time, offset, length, bytes, text: '' });
    }
  }

  /** Names the point after all that was appended. @throws DriftmapError `argument` when the name is taken */
  async bookmark(name: string, consistency: 'crash' | 'application' = 'crash'): Promise<Point> {
    this.checkOpen('bookmark');
    if (this.naming.has(name) || this.points().bookmarks.some((bookmark) => bookmark.name === name)) {
      throw new DriftmapError('argument', `a bookmark is called '${name}' already: choose another name`, {
        path: this.path,
      });
    }
    this.naming.add(name);
    try {
      return await this.mark(RecordKind.bookmark, name, consistency === 'application' ? FLAG_APPLICATION : 0);
    } finally {
      this.naming.delete(name);
    }
  }

  /** A bookmark that is promised no more. @throws DriftmapError `not-found` */
  forget(name: string): Promise<Point> {
    this.checkOpen('forget');
    if (!this.points().bookmarks.some((bookmark) => bookmark.name === name)) {
      throw new DriftmapError('not-found', `no bookmark is called '${name}'`, { path: this.path });
    }
    return this.mark(RecordKind.forget, name, 0);
  }

  /**
   * From here on writes are missing: what is appended until `resume` makes up for them, and no sequence between is a
   * point. @param reason one line for people
   */
  suspend(reason: string): Promise<Point> {
    return this.mark(RecordKind.suspend, reason, 0);
  }

  /** The disks, with all that was appended, are a moment of the production's again. */
  resume(reason = 'consistent again'): Promise<Point> {
    return this.mark(RecordKind.resume, reason, 0);
  }

  private async mark(kind: RecordKind, text: string, flags: number): Promise<Point> {
    this.checkAppend();
    const length = Buffer.byteLength(text);
    if (length === 0 || length > JOURNAL_MAX_TEXT_BYTES || Buffer.from(text).toString() !== text) {
      const reason = `expected a text of 1 … ${JOURNAL_MAX_TEXT_BYTES} bytes, got ${length}`;
      throw new DriftmapError('argument', reason, { path: this.path });
    }
    const { redo } = this.core;
    const time = this.clock();
    const sequence = redo.next;
    redo.stage({ kind, flags, disk: 0, sequence, time, offset: 0, length: 0, bytes: null, text });
    await this.commit();
    return { sequence, time };
  }

  /** Resolves when all that was appended is durable. */
  commit(): Promise<undefined> {
    const durable = this.core.redo.commit();
    // Whoever does not wait for it learns of a failure at the next append.
    durable.catch(() => undefined);
    return durable;
  }

  /**
   * After a failure to append (a full disk, say): what was durable stays, what was not is gone, and the group is
   * suspended, because writes are missing from now on. Rejects while the cause lasts.
   */
  recover(): Promise<undefined> {
    this.checkOpen('recover');
    return this.exclusive(async () => {
      const { redo } = this.core;
      const { failure } = redo;
      if (failure === null) return undefined;
      await redo.rewind();
      const reason = `the journal failed: ${failure.message}`;
      await this.mark(RecordKind.suspend, clipped(reason), 0);
      return undefined;
    });
  }

  /** What the clock read at the last write up to a sequence that is there, in milliseconds since 1970. */
  timeOf(sequence: Sequence): Time {
    this.checkOpen('points');
    return this.core.timeOf(sequence);
  }

  points(): Points {
    return listPoints(this.core);
  }

  /** The point that is meant. @throws DriftmapError `not-found`, `argument`; see `findPoint` */
  find(target: Target): Found {
    return findPoint(this.core, target);
  }

  /**
   * The disks follow the writes up to a sequence, to the newest durable one when absent. What they lose is kept.
   * Passes through suspensions. @throws DriftmapError as `rollTo`
   */
  apply(upTo?: Sequence, options: RollOptions = {}): Promise<Point> {
    return this.exclusive(() => {
      const { forward, low } = this.core;
      const to = upTo ?? forward;
      if (to < low) {
        const reason = `expected a sequence from ${low} on, where the disks are, got ${to}: roll back instead`;
        throw new DriftmapError('argument', reason, { path: this.path });
      }
      return this.roll(to, options);
    });
  }

  /** All disks go back to a sequence. What they lose is kept. @throws DriftmapError as `rollTo` */
  rollBack(to: Sequence, options: RollOptions = {}): Promise<Point> {
    return this.exclusive(() => {
      const { high } = this.core;
      if (to > high) {
        const reason = `expected a sequence up to ${high}, where the disks are, got ${to}: apply instead`;
        throw new DriftmapError('argument', reason, { path: this.path });
      }
      return this.roll(to, options);
    });
  }

  /**
   * All disks go to a point, in whichever direction it lies. When it is stopped in the middle, by an error or by a
   * crash, the disks are between two points, views and the next roll work as ever, and so does the same roll.
   * @throws DriftmapError `not-found`, `argument` (a suspension; a disk that is not attached), `permission`,
   *   `aborted`, and what disks and files throw
   */
  rollTo(target: Target, options: RollOptions = {}): Promise<Point> {
    return this.exclusive(() => this.roll(findPoint(this.core, target).sequence, options));
  }

  private async roll(to: Sequence, options: RollOptions): Promise<Point> {
    const reach = this.core.reach();
    if (reach === null || !Number.isSafeInteger(to) || to < reach.from || to > reach.to) {
      const there = reach === null ? 'none' : `${reach.from} to ${reach.to}`;
      const reason = `sequence ${to} cannot be rolled to; there are: ${there}`;
      throw new DriftmapError('not-found', reason, { path: this.path });
    }
    await roll(this.core, to, options);
    await this.core.settle();
    return { sequence: to, time: this.core.timeOf(to) };
  }

  /**
   * A disk as of a point, at once, wherever the disks are and while they are rolled. Until it is closed retention
   * keeps its point. @throws DriftmapError as `find`; `argument` when the disk is not attached
   */
  view(disk: string, target: Target, { overlay }: ViewOptions = {}): LogicalUnit {
    this.checkOpen('view');
    const number = this.core.diskNumber(disk);
    this.core.disk(number);
    const view = new ViewUnit(this.core, number, findPoint(this.core, target).sequence);
    if (overlay === undefined) return view;
    try {
      return overlayUnit(view, overlay);
    } catch (error) {
      view.close();
      throw error;
    }
  }

  /**
   * A disk with all that is durable of what was appended, whether or not that is a point: for comparing. Close it.
   * @throws DriftmapError `argument` when the disk is not attached
   */
  newest(disk: string): LogicalUnit {
    this.checkOpen('view');
    const number = this.core.diskNumber(disk);
    this.core.disk(number);
    return new ViewUnit(this.core, number, this.state().last);
  }

  /** Ranges of a disk that were written between two points, by the journal alone; they may overlap. */
  changes(disk: string, between: { readonly from: Sequence; readonly to: Sequence }): Generator<ByteRange> {
    this.checkOpen('changes');
    return changedRanges(this.core, this.core.diskNumber(disk), between);
  }

  /** Lets go of what the policy does not keep. @throws DriftmapError `argument`, `io` … */
  retain(policy: RetentionPolicy): Promise<Retained> {
    return this.exclusive(() => retain(this.core, policy, this.clock()));
  }

  /**
   * The point that the disks are at becomes the newest: all points after it are gone, and what is appended from now
   * on follows it. @throws DriftmapError `policy` while views read later points or a roll is unfinished; whatever made the
   * journal fail
   */
  promote(): Promise<Point> {
    return this.exclusive(async () => {
      const { core } = this;
      const { redo, low } = core;
      await redo.settled();
      if (redo.failure !== null) throw redo.failure;
      const later = [...core.held.values()].some((point) => point > low);
      if (!core.isClean || later) {
        const reason = later
          ? 'views read points after this one: close them first'
          : 'expected disks at one point: finish the roll first';
        throw new DriftmapError('policy', reason, { path: this.path });
      }
      await core.cutAfter(low);
      await core.settle();
      return { sequence: low, time: core.timeOf(low) };
    });
  }

  /** Waits for what is being done, and lets others open it. Idempotent. Disks stay open. */
  async close(): Promise<undefined> {
    if (this.closed) return;
    this.closed = true;
    await this.turn.catch(() => undefined);
    const { redo, undo } = this.core;
    await redo.commit().catch(() => undefined);
    await redo.settled();
    await undo.settled();
    // What a failed flush left must not pass for durable at the next opening.
    for (const stream of [redo, undo])
      if (stream.failure !== null) await stream.rewind().catch(() => undefined);
    try {
      if (this.lock !== null && redo.failure === null && undo.failure === null) this.core.savePosition();
    } finally {
      redo.close();
      undo.close();
      this.lock?.release();
    }
  }

  private exclusive<T>(act: () => T | Promise<T>): Promise<T> {
    const run = this.turn
      .catch(() => undefined)
      .then(() => {
        this.checkOpen('use');
        this.checkWritable();
        return act();
      });
    this.turn = run;
    run.catch(() => undefined);
    return run;
  }

  private checkAppend(): void {
    this.checkOpen('append');
    this.checkWritable();
    const { core } = this;
    if (core.redo.failure !== null) throw core.redo.failure;
    if (!core.isStuck) return;
    const reason = 'new data that the disks may have is lost: roll them to one of the points that are left';
    throw new DriftmapError('mismatch', reason, { path: this.path });
  }

  private checkWritable(): void {
    if (this.lock !== null) return;
    throw new DriftmapError('permission', 'expected a journal opened for writing', { path: this.path });
  }

  private checkOpen(operation: string): void {
    if (!this.closed) return;
    throw new DriftmapError('argument', `${operation} after close`, { path: this.path, operation });
  }
}

function checkTime(time: Time): void {
  if (Number.isSafeInteger(time) && time >= 0) return;
  throw new DriftmapError('argument', `expected a time in milliseconds since 1970, got ${time}`);
}

/** As much of a text as a mark takes, in whole characters. */
function clipped(text: string): string {
  let short = text;
  while (Buffer.byteLength(short) > JOURNAL_MAX_TEXT_BYTES) short = [...short].slice(0, -1).join('');
  assert(short.length > 0, 'a reason has a beginning');
  return short;
}
