/**
 * When a splitter last wrote to its disks, kept in its state folder (`stamp`) so that the next one sees whether somebody
 * wrote to them past it. After a clean stop the marks carry the disks' generations; who is killed cannot say how
 * it leaves them, so it says so all the while.
 *
 * Each disk that is a file has a record. It is *idle*, with the times that the file has, or *writing*, with the moment
 * of noting it. Writes ask for nothing but the clock: the first after a rest, and each that comes when the record is
 * older than PERIOD_MS, renews it first, in the same turn, by one small write. So no write of ours is later than
 * its record says, however long this thread was held up before; to note them by a timer alone would not do that. A
 * timer runs only while something was written: it sees that a disk has come to rest, reads its times and makes the record
 * idle; and it has the file flushed now and then, on another thread, for the sake of a loss of power. The guest waits
 * for none of it. Ages are told by the same clock that the file system takes its times from: should it be set, the next
 * write renews the record.
 *
 * A record that cannot be written stays as it was, and the disk's times soon are not those that it tells: then more is
 * compared at the next start. Nothing depends on it while the splitter runs.
 *
 * What it cannot tell: writes to a block device, which has no times; a write past a splitter that runs, or within
 * LATE_MS of its kill. `written-past.ts` has the rule, and what follows after a restart.
 */

import { closeSync, fdatasync, openSync, writeSync } from 'node:fs';
import { systemError } from '../../base/errors.ts';
import type { FileTimes, FileUnit } from '../../lu/file-unit.ts';
import { putRecord, recordAt, type StampImage, type StampRecord } from './stamp-file.ts';
import { FLUSH_MS, PERIOD_MS } from './written-past.ts';

/** The stamp of one disk. */
export class DiskStamp {
  private record: StampRecord;
  private readonly unit: Pick<FileUnit, 'times'>;
  private readonly put: (record: StampRecord) => void;
  /** When the record was renewed; nothing while it is idle. */
  private notedAt = Number.NEGATIVE_INFINITY;
  private wroteAt = 0;

  /** @param put writes a record into the file */
  constructor(unit: Pick<FileUnit, 'times'>, record: StampRecord, put: (record: StampRecord) => void) {
    this.unit = unit;
    this.record = record;
    this.put = put;
  }

  get isIdle(): boolean {
    return this.record.state === 'idle';
  }

  /** In the turn of a write, before it. */
  beforeWrite(): void {
    const now = Date.now();
    this.wroteAt = now;
    const age = now - this.notedAt;
    if (age >= 0 && age < PERIOD_MS) return;
    this.notedAt = now;
    // At rest the times are known: read anew they would take in what somebody else wrote meanwhile.
    const times = this.isIdle ? this.record.times : (this.timesNow() ?? this.record.times);
    this.note({ ...this.record, state: 'writing', at: now, times });
  }

  /** Makes the record idle where nothing was written for a while. @param now milliseconds since 1970 */
  rest(now: number): void {
    const since = now - this.wroteAt;
    if (!this.isIdle && (since >= PERIOD_MS || since < 0)) this.settle();
  }

  /** Nothing is written from now on, until `beforeWrite` is called. */
  settle(): void {
    const times = this.timesNow();
    if (times === null) return;
    this.notedAt = Number.NEGATIVE_INFINITY;
    this.note({ ...this.record, state: 'idle', at: Date.now(), times });
  }

  /** @returns what `flushed` is to be told when the flush that now begins has ended well */
  flushBegins(): FileTimes | null {
    return this.timesNow();
  }

  flushed(times: FileTimes | null): void {
    if (times === null || times.changed === this.record.durable) return;
    const record = { ...this.record, durable: times.changed };
    // While it is written to the next renewal tells of it.
    if (this.isIdle) this.note(record);
    else this.record = record;
  }

  /** Null where the system does not tell them: no write, and no flush, fails because of it. */
  private timesNow(): FileTimes | null {
    try {
      return this.unit.times();
    } catch {
      return null;
    }
  }

  private note(record: StampRecord): void {
    this.record = record;
    this.put(record);
  }
}

/** The stamps of a group. */
export class Stamps {
  /** By disk; null of a block device. */
  readonly disks: readonly (DiskStamp | null)[];
  private readonly fd: number;
  private readonly image: StampImage;
  private timer: NodeJS.Timeout | null = null;
  /** Whether the file has what is not durable. */
  private dirty = false;
  private flushing: Promise<void> | null = null;
  /** `performance.now()` at the end of the last flush. */
  private flushedAt = Number.NEGATIVE_INFINITY;
  private closed = false;

  /** @param path of the file that `image` was written to; `records` is what the image says, by disk */
  constructor(
    path: string,
    image: StampImage,
    units: readonly Pick<FileUnit, 'times'>[],
    records: readonly (StampRecord | null)[],
  ) {
    this.image = image;
    try {
      this.fd = openSync(path, 'r+');
    } catch (cause) {
      throw systemError(cause, { path, operation: 'open' });
    }
    this.disks = records.map(
      (record, disk) => record && new DiskStamp(units[disk]!, record, (changed) => this.write(disk, changed)),
    );
  }

  /** Nothing is written to any disk from now on. */
  settle(): void {
    for (const disk of this.disks) disk?.settle();
  }

  /** Leaves the file as it is. Idempotent. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.flushing;
    closeSync(this.fd);
  }

  private write(disk: number, record: StampRecord): void {
    if (this.closed) return;
    const bytes = putRecord(this.image, disk, record);
    try {
      writeSync(this.fd, bytes, 0, bytes.length, recordAt(disk));
      this.dirty = true;
    } catch {
      // The record before it stays, which no later write of ours fits.
    }
    this.watch();
  }

  private watch(): void {
    this.timer ??= setTimeout(() => this.look(), PERIOD_MS).unref();
  }

  private look(): void {
    this.timer = null;
    const now = Date.now();
    for (const disk of this.disks) disk?.rest(now);
    if (this.dirty && this.flushing === null && performance.now() - this.flushedAt >= FLUSH_MS)
      this.flushing = this.flush().finally(() => {
        this.flushing = null;
      });
    if (this.dirty || this.disks.some((disk) => disk !== null && !disk.isIdle)) this.watch();
  }

  private flush(): Promise<void> {
    this.dirty = false;
    return new Promise((resolve) => {
      fdatasync(this.fd, (cause) => {
        if (cause !== null) this.dirty = true;
        this.flushedAt = performance.now();
        resolve();
      });
    });
  }
}
