/**
 * A disk as the guest sees it: an NBD export over a file or a block device, where each write goes to the disk and is
 * duplicated.
 *
 * The order of a write: its regions' intents are durable; then, in one turn of this thread with nothing awaited in
 * between, the disk is written and the write is handed to whoever duplicates it. So the order of the stream is the
 * order in which the disk was written, over all disks. A write to regions that are hot completes at once, which is
 * what makes the server fast.
 *
 * The guest waits for its own disk and for intents, which lie on this host, and for nothing else.
 *
 * What the journal has and the disk has not flushed, a power cut takes from the disk alone. So each region remembers
 * its last change, and each flush up to which change it vouches for: that with which it *began*. Only what is flushed
 * may lose its intent. Flushes do not overlap, because of two that do the system tells only one of a failure; and
 * after a failure no later flush vouches for what came before it: the system may have dropped it.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NBD_TURN_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import { alignDown, alignUp, GiB, KiB, MiB } from '../../base/units.ts';
import type { FileUnit } from '../../lu/file-unit.ts';
import type { Completion, UnitExtent } from '../../lu/logical-unit.ts';
import { punchHole } from '../../lu/posix.ts';
import type { NbdExport, ZeroManner } from '../nbd/nbd-export.ts';
import type { Intents } from './intents.ts';
import type { Marks } from './marks.ts';
import type { DiskStamp } from './stamp.ts';
import type { Watch } from './watches.ts';

/** Who duplicates writes. It never waits, and never throws. */
export interface Duplicator {
  /** The disk has these bytes now. @returns the order number; that of the last one when it was marked instead */
  wrote(disk: SplitDisk, offset: ByteOffset, source: Uint8Array): number;
  zeroed(disk: SplitDisk, offset: ByteOffset, length: ByteCount): number;
  /** A write failed: what the disk has there nobody knows. */
  spoilt(disk: SplitDisk, offset: ByteOffset, length: ByteCount): void;
}

export interface SplitDiskParts {
  readonly number: number;
  readonly name: string;
  readonly unit: FileUnit;
  readonly intents: Intents;
  readonly duplicator: Duplicator;
  readonly marks: Marks;
  /** Told of writes and flushes; null of a block device. */
  readonly stamp: DiskStamp | null;
}

/** What file systems give back. */
const PAGE = 4 * KiB;
const ZEROS = new Uint8Array(1 * MiB);
/** A hole that is punched at a time: others are served in between. */
const PUNCH_BYTES = 1 * GiB;
/** Regions that are made hot ahead of a writer that goes through the disk: 64 MiB in regions of 4 MiB. */
const REGIONS_AHEAD = 16;
/** Regions that are made hot together at most, for a writer that goes all over the disk: 256 MiB of 4 MiB each. */
const REGIONS_TOGETHER = 64;
const SAME_WAIT_MS = 2;
const NEXT_WAIT_MS = 1000;

export class SplitDisk implements NbdExport {
  readonly number: number;
  readonly name: string;
  readonly unit: FileUnit;
  readonly size: ByteCount;
  readonly canWrite = true;
  readonly description = 'protected disk';
  readonly marks: Marks;
  readonly region: ByteCount;
  /** Who follows what is written here: see `watches.ts`. */
  readonly watches: Watch[] = [];
  /** For each region, the order number up to which the journal must be durable before its intent is cleared. */
  readonly touched: Float64Array;
  /** Changes of the disk so far; for each region its last; and up to which of them all is durable in the disk. */
  private changes = 0;
  private readonly changed: Float64Array;
  private durable = -1;
  /** Regions of which a flush failed: what the disk will have there nobody knows. */
  private readonly doubtful = new Set<number>();
  private owed: unknown = null;
  private flushing: Promise<undefined> | null = null;
  private nextFlush: Promise<undefined> | null = null;
  writes = 0;
  writtenBytes = 0;
  failedWrites = 0;
  private readonly intents: Intents;
  private readonly duplicator: Duplicator;
  private readonly stamp: DiskStamp | null;
  private readonly fd: number;
  private readonly regions: number;
  private lastRegion = -1;
  private width = 1;
  private missedAt = Number.NEGATIVE_INFINITY;

  constructor({ number, name, unit, intents, duplicator, marks, stamp }: SplitDiskParts) {
    this.number = number;
    this.name = name;
    this.unit = unit;
    this.size = unit.size;
    this.intents = intents;
    this.duplicator = duplicator;
    this.marks = marks;
    this.stamp = stamp;
    const handle = unit.handle();
    if (handle.kind !== 'file') throw new DriftmapError('internal', 'a file unit with another handle');
    this.fd = handle.fd;
    this.region = intents.image.table.disks[number]!.region;
    this.regions = Math.ceil(this.size / this.region);
    this.touched = new Float64Array(this.regions);
    this.changed = new Float64Array(this.regions);
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.unit.read(offset, target);
  }

  write(offset: ByteOffset, source: Uint8Array): Completion {
    const first = Math.floor(offset / this.region);
    const last = Math.floor((offset + source.length - 1) / this.region);
    if (this.isHot(first, last)) {
      this.writeNow(offset, source, first, last);
      return undefined;
    }
    return this.whenHot(first, last, () => {
      this.writeNow(offset, source, first, last);
      return undefined;
    });
  }

  zero({ offset, length }: ByteRange, { mayPunch, fast }: ZeroManner): Completion {
    const first = Math.floor(offset / this.region);
    const last = Math.floor((offset + length - 1) / this.region);
    const act = () => {
      if (mayPunch && length <= PUNCH_BYTES && this.punch(offset, length, first, last)) return undefined;
      if (mayPunch && length > PUNCH_BYTES) return this.zeroInTurns(offset, length, true, fast);
      if (fast) throw this.notFast(offset, length);
      return this.zeroInTurns(offset, length, false, fast);
    };
    return this.isHot(first, last) ? act() : this.whenHot(first, last, act);
  }

  /** Whole pages are given back, and read as zeros then; what cannot be given back is left as it is. */
  trim({ offset, length }: ByteRange): Completion {
    const from = alignUp(offset, PAGE);
    const to = alignDown(offset + length, PAGE);
    if (to <= from) return undefined;
    const first = Math.floor(from / this.region);
    const last = Math.floor((to - 1) / this.region);
    const act = () => {
      this.punch(from, to - from, first, last);
      return undefined;
    };
    return this.isHot(first, last) ? act() : this.whenHot(first, last, act);
  }

  /** As the guest asks its own disk, and nobody else. */
  async flush(): Promise<undefined> {
    const { owed } = this;
    this.owed = null;
    if (owed !== null) throw owed;
    return this.flushShared();
  }

  /** The splitter's own. A failure, which the system tells once, is passed on to the guest's next flush. */
  async flushOwn(): Promise<undefined> {
    try {
      return await this.flushShared();
    } catch (error) {
      this.owed = error;
      throw error;
    }
  }

  /** Those who ask while one is under way share the next. */
  private flushShared(): Promise<undefined> {
    this.nextFlush ??= (this.flushing ?? Promise.resolve(undefined))
      .catch(() => undefined)
      .then(() => {
        this.nextFlush = null;
        this.flushing = this.flushNow().finally(() => {
          this.flushing = null;
        });
        return this.flushing;
      });
    return this.nextFlush;
  }

  private async flushNow(): Promise<undefined> {
    const { changes } = this;
    const times = this.stamp?.flushBegins() ?? null;
    try {
      await this.unit.flushAside();
    } catch (error) {
      for (let region = 0; region < this.regions; region++)
        if (this.changed[region]! > this.durable) this.doubtful.add(region);
      this.durable = this.changes;
      throw error;
    }
    this.durable = changes;
    this.stamp?.flushed(times);
  }

  /** Whether the disk has durably what it was given in a region. */
  isDurable(region: number): boolean {
    return this.changed[region]! <= this.durable && !this.doubtful.has(region);
  }

  /** Whether a flush would make it so. */
  needsFlush(region: number): boolean {
    return this.changed[region]! > this.durable && !this.doubtful.has(region);
  }

  /** What nobody knows is compared at the next start. */
  suspectDoubtful(): void {
    for (const region of this.doubtful) {
      const offset = region * this.region;
      this.marks.suspect(offset, Math.min(this.region, this.size - offset));
    }
  }

  extents(range: ByteRange, limit: number): readonly UnitExtent[] {
    return this.unit.extents(range, limit);
  }

  private isHot(first: number, last: number): boolean {
    for (let region = first; region <= last; region++) {
      if (!this.intents.isHot(this.number, region)) return false;
    }
    return true;
  }

  /** Acts in the turn in which the regions have become hot. */
  private async whenHot(first: number, last: number, act: () => Completion): Promise<undefined> {
    // A region may be cleared again between the flush and this turn; the bound is for a disk of intents that is broken.
    for (let tries = 0; tries < 10; tries++) {
      const ahead = first === this.lastRegion || first === this.lastRegion + 1 ? REGIONS_AHEAD : 0;
      const width = this.widthNow();
      const from = first - (first % width);
      const end = Math.min(Math.max(last + 1 + ahead, from + width), this.regions);
      const heating = this.intents.heatUp(this.number, from, end);
      if (heating) await heating;
      if (this.isHot(first, last)) {
        const acting = act();
        if (acting) await acting;
        return;
      }
    }
    throw new DriftmapError('io', 'its write intents are cleared as soon as they are set', {
      path: this.name,
    });
  }

  /**
   * Regions that are made hot together. Somebody who writes all over the disk would wait at each of them: while he goes
   * on, each wait takes in twice as many; what he does not write to then is cleared again in seconds.
   */
  private widthNow(): number {
    const now = performance.now();
    const since = now - this.missedAt;
    // Writes that wait for one flush are one wait.
    if (since < SAME_WAIT_MS) return this.width;
    this.width = since < NEXT_WAIT_MS ? Math.min(2 * this.width, REGIONS_TOGETHER) : 1;
    this.missedAt = now;
    return this.width;
  }

  private writeNow(offset: ByteOffset, source: Uint8Array, first: number, last: number): void {
    this.stamp?.beforeWrite();
    try {
      this.unit.write(offset, source);
    } catch (error) {
      this.spoil(offset, source.length);
      throw error;
    }
    this.show(offset, source.length);
    const order = this.duplicator.wrote(this, offset, source);
    this.touch(first, last, order);
    this.writes++;
    this.writtenBytes += source.length;
  }

  private touch(first: number, last: number, order: number): void {
    this.change(first, last);
    for (let region = first; region <= last; region++) this.touched[region] = order;
    if (last === this.lastRegion) return;
    // Somebody goes through the disk: what comes next is made ready, and not waited for.
    if (last === this.lastRegion + 1 && last + 1 < this.regions) this.prepare(last + 1);
    this.lastRegion = last;
  }

  private change(first: number, last: number): void {
    this.changes++;
    for (let region = first; region <= last; region++) this.changed[region] = this.changes;
  }

  private prepare(from: number): void {
    const end = Math.min(from + REGIONS_AHEAD, this.regions);
    // Half of it is ready: then there is time.
    if (this.intents.isHot(this.number, Math.min(from + REGIONS_AHEAD / 2, end - 1))) return;
    const heating = this.intents.heatUp(this.number, from, end);
    // Whoever writes there learns of the failure, if it lasts.
    heating?.catch(() => undefined);
  }

  /** Its marks keep the regions from being cleared. */
  private spoil(offset: ByteOffset, length: ByteCount): void {
    this.failedWrites++;
    this.show(offset, length);
    this.change(Math.floor(offset / this.region), Math.floor((offset + length - 1) / this.region));
    this.duplicator.spoilt(this, offset, length);
  }

  private punch(offset: ByteOffset, length: ByteCount, first: number, last: number): boolean {
    this.stamp?.beforeWrite();
    const punched = punchHole(this.fd, offset, length);
    // Also what failed in the middle.
    this.show(offset, length);
    if (!punched) return false;
    this.touch(first, last, this.duplicator.zeroed(this, offset, length));
    this.writes++;
    this.writtenBytes += length;
    return true;
  }

  private async zeroInTurns(
    offset: ByteOffset,
    length: ByteCount,
    mayPunch: boolean,
    fast: boolean,
  ): Promise<undefined> {
    const end = offset + length;
    let turn = 0;
    for (let at = offset; at < end; ) {
      const first = Math.floor(at / this.region);
      const hole = Math.min(end - at, PUNCH_BYTES);
      if (mayPunch && this.punch(at, hole, first, Math.floor((at + hole - 1) / this.region))) {
        at += hole;
        turn += NBD_TURN_BYTES;
      } else {
        // Once a hole was made it was fast so far: the first piece tells.
        if (fast && at === offset) throw this.notFast(offset, length);
        const piece = Math.min(end - at, ZEROS.length);
        this.writeZeros(at, piece, first, Math.floor((at + piece - 1) / this.region));
        at += piece;
        turn += piece;
      }
      if (turn < NBD_TURN_BYTES || at >= end) continue;
      turn = 0;
      await new Promise((resolve) => setImmediate(resolve));
      await this.stayHot(at, end);
    }
  }

  /** What comes in a later turn may have cooled down. */
  private async stayHot(at: ByteOffset, end: ByteOffset): Promise<void> {
    const first = Math.floor(at / this.region);
    const last = Math.floor((end - 1) / this.region);
    while (!this.isHot(first, last)) await this.intents.heatUp(this.number, first, last + 1);
  }

  private writeZeros(offset: ByteOffset, length: ByteCount, first: number, last: number): void {
    this.stamp?.beforeWrite();
    try {
      this.unit.write(offset, ZEROS.subarray(0, length));
    } catch (error) {
      this.spoil(offset, length);
      throw error;
    }
    this.show(offset, length);
    this.touch(first, last, this.duplicator.zeroed(this, offset, length));
    this.writes++;
    this.writtenBytes += length;
  }

  /** To those who watch, in the turn in which the disk was written. */
  private show(offset: ByteOffset, length: ByteCount): void {
    for (const watch of this.watches) watch.mark(offset, length);
  }

  private notFast(offset: ByteOffset, length: ByteCount): DriftmapError {
    const reason = 'cannot zero faster than by writing';
    return new DriftmapError('unsupported', reason, { path: this.name, offset, length, operation: 'zero' });
  }
}
