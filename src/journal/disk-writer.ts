/**
 * Writes runs of a disk in ascending order: runs that adjoin become one write, and a disk that waits is given
 * several at a time.
 */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import { KiB, MiB } from '../base/units.ts';
import type { Completion, LogicalUnit } from '../lu/logical-unit.ts';

/** Reads or writes of a disk that waits, at one time. */
export const IN_FLIGHT = 64;
/** The largest write, and the memory that is taken at first. */
export const PIECE = 1 * MiB;
const FIRST_PIECE = 16 * KiB;
/** Zeros from so many on are made by a hole; making a smaller one takes longer than writing it. */
const PUNCHED = 256 * KiB;
/** From so many bytes on it costs less to write them from where they are than to gather them with their neighbours. */
const LENT = 32 * KiB;

export class DiskWriter {
  written: ByteCount = 0;
  private readonly disk: LogicalUnit;
  private piece = newPiece(FIRST_PIECE);
  private start: ByteOffset = 0;
  private used: ByteCount = 0;
  private waits: Promise<unknown>[] = [];

  constructor(disk: LogicalUnit) {
    this.disk = disk;
  }

  /** Memory to be filled with bytes from `offset` on before the next call: `length` of them, fewer where the piece ends. */
  room(offset: ByteOffset, length: ByteCount): Uint8Array | Promise<Uint8Array> {
    if (offset === this.start + this.used && this.used < PIECE) return this.taken(length);
    const wait = this.put();
    this.start = offset;
    return wait ? wait.then(() => this.taken(length)) : this.taken(length);
  }

  private taken(length: ByteCount): Uint8Array {
    const from = this.used;
    const to = Math.min(PIECE, from + length);
    if (to > this.piece.length) {
      const larger = newPiece(Math.min(PIECE, Math.max(to, 4 * this.piece.length)));
      larger.set(this.piece.subarray(0, from));
      this.piece = larger;
    }
    this.used = to;
    return this.piece.subarray(from, to);
  }

  /**
   * Writes bytes that stay as they are until `finish` has returned.
   * @returns null when they are too few for it: they are to be put into `room`
   */
  lend(offset: ByteOffset, bytes: Uint8Array): Promise<undefined> | null {
    return bytes.length < LENT ? null : this.putLent(offset, bytes);
  }

  private async putLent(offset: ByteOffset, bytes: Uint8Array): Promise<undefined> {
    await this.put();
    const wait = this.disk.write(offset, bytes);
    this.written += bytes.length;
    if (wait) await this.defer(wait);
  }

  async zero(start: ByteOffset, end: ByteOffset): Promise<undefined> {
    if (end - start < PUNCHED) {
      for (let at = start; at < end; ) {
        const room = this.room(at, end - at);
        const target = room instanceof Uint8Array ? room : await room;
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

  private put(): Completion {
    if (this.used === 0) return undefined;
    const wait = this.disk.write(this.start, this.piece.subarray(0, this.used));
    this.written += this.used;
    this.used = 0;
    if (!wait) return undefined;
    // The piece belongs to the write until it is done.
    this.piece = newPiece(this.piece.length);
    return this.defer(wait);
  }

  /** A write that is waited for later. */
  private defer(wait: Promise<undefined>): Completion {
    // One that fails before it is waited for must not end the process.
    wait.catch(() => undefined);
    this.waits.push(wait);
    return this.waits.length >= IN_FLIGHT ? this.settle() : undefined;
  }

  /** Waits for all, also when one fails: nothing of ours may be written after the error is told. */
  private async settle(): Promise<undefined> {
    const results = await Promise.allSettled(this.waits);
    this.waits = [];
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}

/** Not a Buffer, whose pieces cost more to make. */
function newPiece(length: ByteCount): Uint8Array {
  return new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
}
