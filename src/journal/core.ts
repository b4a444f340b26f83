/**
 * What all parts of an open journal work on: its two directions, where the disks stand, and the disks themselves.
 *
 * A journal remembers facts, and a fact never changes: record s of the DO direction says what write s put where,
 * record s of the UNDO direction what was there before it. Where the disks stand is apart from that, two numbers:
 * all writes up to `low` are in them, none after `high`. For every byte the contents as of a point p follow:
 *
 *   the first UNDO record after p, up to `high`, that touches the byte; else
 *   the last DO record after `low`, up to p, that touches it; else
 *   the disk.
 *
 * That holds whatever the disk has of the writes between, so it holds in the middle of a roll, after a crash in
 * it, and for a smaller `low` or a larger `high` than the true ones. Everything here stands on it.
 */

import { DriftmapError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { RecordKind, type Sequence, type Time } from './record.ts';
import type { Place, Segment } from './segment.ts';
import { type Group, type Position, savePosition, savePositionAside } from './state.ts';
import type { Beginning, Stream } from './stream.ts';

/** From which to which point the disks can be brought; both included. */
export interface Reach {
  readonly from: Sequence;
  readonly to: Sequence;
}

/** Records `[first, last]` of a segment. */
export interface Part {
  readonly stream: Stream;
  readonly segment: Segment;
  readonly first: Sequence;
  readonly last: Sequence;
}

export class Core {
  readonly place: Place;
  readonly group: Group;
  readonly redo: Stream;
  readonly undo: Stream;
  /** Where the disks stand. `savePosition` keeps it. */
  low: Sequence;
  high: Sequence;
  /** Of the record `low`, as far as it is known. */
  private lowTime: Time;
  private lowSuspended: boolean;
  /** Points that open views read: not to be removed. */
  readonly held = new Map<object, Sequence>();
  /**
   * Of a journal that is open for reading: throws `mismatch` once a writer may have touched the disks. A writer appends
   * to the UNDO direction or replaces the position before it does.
   */
  checkStill: (() => void) | null = null;
  private disks: readonly (LogicalUnit | null)[];
  private readonly numbers: ReadonlyMap<string, number>;

  constructor(place: Place, group: Group, redo: Stream, undo: Stream, position: Position) {
    this.place = place;
    this.group = group;
    this.redo = redo;
    this.undo = undo;
    this.low = position.low;
    this.high = position.high;
    this.lowTime = position.time;
    this.lowSuspended = position.suspended;
    this.lowSuspended = position.suspended;
    this.disks = group.disks.map(() => null);
    this.numbers = new Map(group.disks.map(({ name }, number) => [name, number]));
  }

  get path(): string {
    return this.place.folder.path;
  }

  /** From now on `checkStill` compares the named files with their stamp, which was taken before they were read. */
  watch(names: readonly string[], stamp: string): void {
    const { folder } = this.place;
    this.checkStill = () => {
      if (folder.stamp(names) === stamp) return;
      const reason = 'a writer has used this journal since it was opened for reading: open it again';
      throw new DriftmapError('mismatch', reason, { path: this.path });
    };
  }

  /** Whether the disks are exactly at one point. */
  get isClean(): boolean {
    return this.low === this.high;
  }

  /** @throws DriftmapError `argument` for a name that is no disk's, `mismatch` for another disk than the group's */
  attach(units: ReadonlyMap<string, LogicalUnit>): void {
    const disks = [...this.disks];
    for (const [name, unit] of units) {
      const number = this.diskNumber(name);
      const { size, identity } = this.group.disks[number]!;
      if (unit.size !== size) {
        const reason = `expected a disk of ${size} bytes as '${name}' of group '${this.group.group}', got ${unit.size}`;
        throw new DriftmapError('mismatch', reason, { path: unit.name });
      }
      if (identity !== null && unit.identity !== identity) {
        const reason = `expected the disk ${identity} as '${name}' of group '${this.group.group}', got ${unit.identity}`;
        throw new DriftmapError('mismatch', reason, { path: unit.name });
      }
      disks[number] = unit;
    }
    this.disks = disks;
  }

  diskNumber(name: string): number {
    const number = this.numbers.get(name);
    if (number !== undefined) return number;
    const names = this.group.disks.map((disk) => `'${disk.name}'`).join(', ');
    const reason = `expected a disk of group '${this.group.group}' (${names}), got '${name}'`;
    throw new DriftmapError('argument', reason, { path: this.path });
  }

  disk(number: number): LogicalUnit {
    const unit = this.disks[number];
    if (unit) return unit;
    const reason = `expected the disk '${this.group.disks[number]!.name}' to be attached first`;
    throw new DriftmapError('argument', reason, { path: this.path });
  }

  /** All disks of the group, for writing. */
  writableDisks(): readonly LogicalUnit[] {
    return this.disks.map((_, number) => {
      const unit = this.disk(number);
      if (unit.canWrite) return unit;
      throw new DriftmapError('permission', 'expected a disk opened for writing', { path: unit.name });
    });
  }

  /** The last point that can be rolled to forwards, seen from `low`. */
  get forward(): Sequence {
    const { redo, low } = this;
    return redo.first <= low + 1 ? Math.max(low, redo.last) : low;
  }

  /** From which to which point the disks can be brought; null when to none. */
  reach(): Reach | null {
    const { undo, low, high, forward } = this;
    const hasUndo = undo.last >= high && undo.first - 1 <= high;
    const floor = undo.first - 1;
    if (low === high) return { from: hasUndo ? Math.min(low, floor) : low, to: forward };
    if (hasUndo && floor <= forward) {
      return { from: floor, to: forward >= high ? forward : Math.max(low, forward) };
    }
    return forward >= high ? { from: high, to: forward } : null;
  }

  /** Time of a record, or of the one before the first that is there. */
  timeOf(sequence: Sequence): Time {
    for (const stream of [this.undo, this.redo]) {
      const index = stream.indexOf(sequence);
      const segment = stream.segments[index];
      if (segment !== undefined) {
        if (sequence === segment.last) return segment.times.last;
        return stream.readers.of(segment).records().times[sequence - segment.first]!;
      }
      const after = stream.segments[stream.indexOf(sequence + 1)];
      if (after !== undefined && after.first === sequence + 1) return after.timeBefore;
      if (stream.segments.length === 0 && stream.beginning.next === sequence + 1)
        return stream.beginning.time;
    }
    return this.lowTime;
  }

  /**
   * The records of `(from, to]`, each once, in parts of segments: of overwritten data as far as there is some, of new
   * data beyond.
   */
  *history(from: Sequence, to: Sequence): Generator<Part, undefined> {
    let at = from;
    for (const stream of [this.undo, this.redo]) {
      for (let i = Math.max(0, stream.indexOf(at + 1)); i < stream.segments.length && at < to; i++) {
        const segment = stream.segments[i]!;
        // One that was begun and has nothing durable yet says nothing of the sequences before it either: those are on
        // their way in the segment before, and are in the other stream.
        if (segment.count === 0 || segment.last <= at || segment.first > to) continue;
        if (segment.first > at + 1) break;
        const end = Math.min(segment.last, to);
        yield { stream, segment, first: Math.max(at + 1, segment.first), last: end };
        at = end;
      }
    }
  }

  /** Says durably where the disks stand. */
  savePosition(low: Sequence = this.low, high: Sequence = this.high, cut: Sequence | null = null): void {
    const position = this.positionAt(low, high, cut);
    savePosition(this.place.folder, position);
    this.lowTime = position.time;
    this.lowSuspended = position.suspended;
  }

  /** The same, without holding up the thread. Of whoever rolls: nobody else may save one meanwhile. */
  async savePositionAside(low: Sequence, high: Sequence): Promise<undefined> {
    const position = this.positionAt(low, high, null);
    await savePositionAside(this.place.folder, position);
    this.lowTime = position.time;
    this.lowSuspended = position.suspended;
  }

  private positionAt(low: Sequence, high: Sequence, cut: Sequence | null): Position {
    return {
      low,
      high,
      durableDo: this.redo.last,
      durableUndo: this.undo.last,
      time: this.timeOf(low),
      suspended: this.suspendedAt(low),
      cut,
    };
  }

  /** Whether the group is suspended right after a record. */
  suspendedAt(sequence: Sequence): boolean {
    for (const stream of [this.undo, this.redo]) {
      const index = stream.indexOf(sequence);
      const segment = stream.segments[index];
      if (segment === undefined) {
        const after = stream.segments[stream.indexOf(sequence + 1)];
        if (after !== undefined && after.first === sequence + 1) return after.suspendedBefore;
        if (stream.segments.length === 0 && stream.beginning.next === sequence + 1)
          return stream.beginning.suspended;
        continue;
      }
      const mark = segment.notables.findLast(
        ({ record }) => record.sequence <= sequence && isConsistencyMark(record.kind),
      );
      return mark === undefined ? segment.suspendedBefore : mark.record.kind === RecordKind.suspend;
    }
    return this.lowSuspended;
  }

  /** Where a stream begins whose first record is `next`. */
  beginningAt(next: Sequence): Beginning {
    return { next, time: this.timeOf(next - 1), suspended: this.suspendedAt(next - 1) };
  }

  /** Removes all records after `sequence` for good; once begun, a crash does not stop it. Nothing may be staged. */
  async cutAfter(sequence: Sequence): Promise<undefined> {
    this.savePosition(this.low, this.high, sequence);
    await this.undo.cutAfter(sequence);
    await this.redo.cutAfter(sequence);
    this.savePosition();
  }

  /**
   * Whether new data that the disks may have is lost, so that nothing can follow it: until the disks are rolled to
   * one of the points that are left.
   */
  get isStuck(): boolean {
    return this.forward < this.high && !this.isClean;
  }

  /**
   * Makes the next write possible after something was cut off: the two directions must agree on what comes next.
   * Does nothing when they do, and nothing while the disks are stuck.
   */
  async settle(): Promise<undefined> {
    const { redo, undo } = this;
    if (this.isStuck) return;
    const last = Math.max(this.forward, this.high);
    if (undo.last > last) await this.cutAfter(last);
    if (redo.next > last && redo.first <= last + 1) return;
    const beginning = this.beginningAt(last + 1);
    if (redo.segments.length === 0) redo.beginAt(beginning);
    else await redo.restart(beginning);
  }
}

function isConsistencyMark(kind: RecordKind): boolean {
  return kind === RecordKind.suspend || kind === RecordKind.resume;
}
