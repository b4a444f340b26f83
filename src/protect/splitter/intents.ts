/**
 * Write intents of a group while it is written to: which regions are *hot*, that is, may be written without asking,
 * because their bits are durable in the file.
 *
 * A write to a cold region waits for one flush of the file, together with every other such write: bits are set in the
 * file at once, and a flush that has begun before is never relied on. Where a flush fails nobody knows what became
 * of the file, so every bit that waited is written anew with the next try; the writes that waited fail.
 *
 * Bits are cleared lazily and never waited for. What was cleared must be durable in the journal, and the condition
 * that names the journal's sequence must be durable here before any bit goes: so a replica that has lost its newest
 * records is found out, whenever the power fails.
 */

import { closeSync, fdatasync, openSync, writeSync } from 'node:fs';
import { systemError } from '../../base/errors.ts';
import type { Completion } from '../../lu/logical-unit.ts';
import {
  type Condition,
  type IntentImage,
  placeOfRegion,
  putCondition,
  regionCount,
  SECTOR,
  sealSector,
} from './intents-file.ts';

export class Intents {
  readonly image: IntentImage;
  private readonly path: string;
  private readonly fd: number;
  /** By disk, then region: 1 hot, 2 set in the file and waiting for a flush, 0 cold. */
  private readonly heat: readonly Uint8Array[];
  private condition: Condition;
  /** Sectors whose newest bits are not known to be durable. */
  private readonly dirty = new Set<number>();
  /** Regions that wait for the next flush. */
  private waiting: (readonly [disk: number, region: number])[] = [];
  private next: Promise<undefined> | null = null;
  private running: Promise<undefined> | null = null;
  private closed = false;

  /** @param path of the file that `image` was read from or written to */
  constructor(path: string, image: IntentImage) {
    this.path = path;
    this.image = image;
    this.condition = image.condition;
    this.heat = image.table.disks.map((disk) => new Uint8Array(regionCount(disk)));
    for (const [disk, heat] of this.heat.entries()) {
      for (let region = 0; region < heat.length; region++) heat[region] = this.bit(disk, region) ? 1 : 0;
    }
    try {
      this.fd = openSync(path, 'r+');
    } catch (cause) {
      throw systemError(cause, { path, operation: 'open' });
    }
  }

  get state(): Condition {
    return this.condition;
  }

  isHot(disk: number, region: number): boolean {
    return this.heat[disk]![region] === 1;
  }

  /** Regions that are hot. */
  *hot(disk: number): Generator<number, undefined> {
    const heat = this.heat[disk]!;
    for (let region = heat.indexOf(1); region >= 0; region = heat.indexOf(1, region + 1)) yield region;
  }

  /**
   * Makes regions `[first, end)` hot; returns at once when they are.
   * @throws DriftmapError `io` when their bits cannot be made durable: then they must not be written
   */
  heatUp(disk: number, first: number, end: number): Completion {
    const heat = this.heat[disk]!;
    let cold = false;
    for (let region = first; region < end; region++) {
      if (heat[region] === 1) continue;
      cold = true;
      if (heat[region] === 2) continue;
      heat[region] = 2;
      this.set(disk, region, true);
      this.waiting.push([disk, region]);
    }
    return cold ? this.flush() : undefined;
  }

  /** Sets what it says of the whole group, durably. */
  async conclude(change: Partial<Omit<Condition, 'number'>>): Promise<undefined> {
    this.condition = { ...this.condition, ...change, number: this.condition.number + 1 };
    this.dirty.add(putCondition(this.image, this.condition));
    await this.flush();
  }

  /** Clears regions, in time: nothing waits for it. */
  coolDown(disk: number, regions: readonly number[]): void {
    const heat = this.heat[disk]!;
    for (const region of regions) {
      if (heat[region] !== 1) continue;
      heat[region] = 0;
      this.set(disk, region, false);
    }
    try {
      this.writeDirty();
    } catch {
      // The bits stay set in the file, and are written with the next flush.
    }
  }

  /** Waits for what is under way. Idempotent. */
  async close(): Promise<undefined> {
    if (this.closed) return;
    await this.next?.catch(() => undefined);
    await this.running?.catch(() => undefined);
    this.closed = true;
    closeSync(this.fd);
  }

  private bit(disk: number, region: number): boolean {
    const { byte, mask } = placeOfRegion(this.image.starts[disk]!, region);
    return (this.image.bytes[byte]! & mask) !== 0;
  }

  private set(disk: number, region: number, value: boolean): void {
    const { sector, byte, mask } = placeOfRegion(this.image.starts[disk]!, region);
    if (value) this.image.bytes[byte]! |= mask;
    else this.image.bytes[byte]! &= ~mask;
    this.dirty.add(sector);
  }

  /** The flush after the one that is running: it covers all that is set now. */
  private flush(): Promise<undefined> {
    this.next ??= (this.running ?? Promise.resolve(undefined))
      .catch(() => undefined)
      .then(() => {
        this.next = null;
        this.running = this.flushNow().finally(() => {
          this.running = null;
        });
        return this.running;
      });
    return this.next;
  }

  private async flushNow(): Promise<undefined> {
    const { waiting } = this;
    this.waiting = [];
    const written = [...this.dirty];
    try {
      this.writeDirty();
      await new Promise<void>((resolve, reject) => {
        fdatasync(this.fd, (cause) => (cause === null ? resolve() : reject(cause)));
      });
      for (const [disk, region] of waiting) if (this.heat[disk]![region] === 2) this.heat[disk]![region] = 1;
    } catch (cause) {
      for (const sector of written) this.dirty.add(sector);
      for (const [disk, region] of waiting) {
        if (this.heat[disk]![region] !== 2) continue;
        // It is set in memory, and stays so: to be set once too often costs a comparison.
        this.heat[disk]![region] = 0;
      }
      throw systemError(cause, { path: this.path, operation: 'write' });
    }
  }

  private writeDirty(): void {
    for (const sector of this.dirty) {
      sealSectorOf(this.image, sector);
      const at = sector * SECTOR;
      try {
        const count = writeSync(this.fd, this.image.bytes, at, SECTOR, at);
        if (count !== SECTOR) throw new Error('the system took only a part of a sector');
      } catch (cause) {
        throw systemError(cause, { path: this.path, offset: at, length: SECTOR, operation: 'write' });
      }
      this.dirty.delete(sector);
    }
  }
}

/** Conditions are sealed when they are made. */
function sealSectorOf(image: IntentImage, sector: number): void {
  if (sector > 2) sealSector(image, sector);
}
