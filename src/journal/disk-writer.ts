/**
 * Writes runs of a disk in ascending order: runs that adjoin become one write, and a disk that waits is given
 * several at a time.
 */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import { KiB, MiB } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';

/** Reads or writes of a disk that waits, at one time. */
export const IN_FLIGHT = 64;
/** The largest write, and the memory that is taken at first. */
const PIECE = 1 * MiB;
const FIRST_PIECE = 16 * KiB;
/** Zeros from so many on are made by a hole; making a smaller one takes longer than writing it. */
const PUNCHED = 256 * KiB;

export class DiskWriter {
  written: ByteCount = 0;
  private readonly disk: LogicalUnit;
  private piece = Buffer.allocUnsafeSlow(FIRST_PIECE);
  private start: ByteOffset = 0;
  private used: ByteCount = 0;
  private waits: Promise<unknown>[] = [];

  constructor(disk: LogicalUnit) {
    this.disk = disk;
  }

  /** Memory to be filled with bytes from `offset` on before the next call: `length` of them, fewer where the piece ends. */
  async room(offset: ByteOffset, length: ByteCount): Promise<Uint8Array> {
    if (offset !== this.start + this.used || this.used === PIECE) {
      await this.put();
      this.start = offset;
    }
    const from = this.used;
    const to = Math.min(PIECE, from + length);
    if (to > this.piece.length) {
      const larger = Buffer.allocUnsafeSlow(Math.min(PIECE, Math.max(to, 4 * this.piece.length)));
      larger.set(this.piece.subarray(0, from));
      this.piece = larger;
    }
    this.used = to;
    return this.piece.subarray(from, to);
  }

  async zero(start: ByteOffset, end: ByteOffset): Promise<undefined> {
    if (end - start < PUNCHED) {
      for (let at = start; at < end; ) {
        const target = await this.room(at, end - at);
        target.fill(0);
        at += target.length;
      }
      return;
    }
    await this.put();
    await this.disk.zero({ offset: start, length: end - start });
  }

  async finish(): Promise<undefined> {
    await this.put();
    await this.settle();
  }

  private async put(): Promise<undefined> {
    if (this.used === 0) return;
    const wait = this.disk.write(this.start, this.piece.subarray(0, this.used));
    this.written += this.used;
    this.used = 0;
    if (!wait) return;
    // One that fails before it is waited for must not end the process.
    wait.catch(() => undefined);
    this.waits.push(wait);
    // The piece belongs to the write until it is done.
    this.piece = Buffer.allocUnsafeSlow(this.piece.length);
    if (this.waits.length >= IN_FLIGHT) await this.settle();
  }

  /** Waits for all, also when one fails: nothing of ours may be written after the error is told. */
  private async settle(): Promise<undefined> {
    const results = await Promise.allSettled(this.waits);
    this.waits = [];
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}
