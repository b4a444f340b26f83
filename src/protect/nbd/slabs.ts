/**
 * Memory for large requests, used again and again: fresh memory costs more to touch for the first time than to fill
 * from the page cache. Small requests have memory of their own.
 */

import { NBD_KEPT_SLAB_BYTES } from '../../base/limits.ts';
import { KiB } from '../../base/units.ts';

const SMALLEST = 32 * KiB;

export class Slabs {
  private readonly free = new Map<number, ArrayBuffer[]>();
  private freeBytes = 0;

  /** Memory of exactly `length` bytes, with anything in it. */
  take(length: number): Buffer {
    if (length < SMALLEST) return Buffer.allocUnsafe(length);
    const size = slabSize(length);
    const slab = this.free.get(size)?.pop();
    if (slab === undefined) return Buffer.allocUnsafeSlow(size).subarray(0, length);
    this.freeBytes -= size;
    return Buffer.from(slab, 0, length);
  }

  /** Gives memory back that came from `take`: nobody may look at it any more. */
  give(memory: Buffer): void {
    const size = slabSize(memory.length);
    // Other memory is the garbage collector's: what a socket brought, what `take` gave for a small request.
    if (memory.byteOffset !== 0 || memory.buffer.byteLength !== size || memory.length < SMALLEST) return;
    if (this.freeBytes + size > NBD_KEPT_SLAB_BYTES) return;
    const slabs = this.free.get(size) ?? [];
    slabs.push(memory.buffer as ArrayBuffer);
    this.free.set(size, slabs);
    this.freeBytes += size;
  }
}

/** The next power of two, and a little: a reply is its data and a header. */
function slabSize(length: number): number {
  const data = Math.max(length - HEADER_ROOM, 1);
  return 2 ** Math.ceil(Math.log2(data)) + HEADER_ROOM;
}

const HEADER_ROOM = 64;
