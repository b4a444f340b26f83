/**
 * The one place that makes shared WebAssembly memory.
 *
 * A `WebAssembly.Memory` reserves 8–10 GiB of address space however small it is, so a process should have a
 * handful: one for the slots of all workers, one for each bank of an array image; never one per task. Its
 * initial size is always its maximum: a shared memory that grows leaves stale views behind in every thread.
 * Pages cost memory only when they are first touched.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import { MAX_MEMORY_BYTES, PAGE_BYTES, WASM_PAGE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { alignUp, humanSize } from '../base/units.ts';

/** More than cache lines and vectors need: reads past the page cache end in whole pages. */
const ALIGNMENT = PAGE_BYTES;

/**
 * @param bytes at least so many; rounded up to whole 64 KiB pages
 * @param purpose for messages: what the memory is for and what to lower when it is too large
 * @throws DriftmapError `limit` past 4 GiB, or when the process has no address space left
 */
export function createSharedMemory(bytes: ByteCount, purpose: string): WebAssembly.Memory {
  assert(Number.isSafeInteger(bytes) && bytes >= 0, `${purpose}: a memory of ${bytes} bytes`);
  if (bytes > MAX_MEMORY_BYTES) {
    throw new DriftmapError(
      'limit',
      `${purpose}: ${humanSize(bytes)} is more than one WebAssembly memory holds (4 GiB)`,
    );
  }
  const pages = Math.max(1, Math.ceil(bytes / WASM_PAGE));
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (cause) {
    const advice =
      'the process has no address space left: close scanners or array images, or raise ulimit -v';
    throw new DriftmapError('limit', `${purpose}: cannot make a memory of ${humanSize(bytes)}; ${advice}`, {
      cause,
    });
  }
}

/** A part of a memory that is one worker's own. `pointer` is a multiple of 4096 and never 0. */
export interface Slot {
  readonly memory: WebAssembly.Memory;
  readonly pointer: number;
  readonly bytes: ByteCount;
}

/** One memory cut into equal slots. */
export class SlotArena {
  readonly memory: WebAssembly.Memory;
  readonly slots: number;
  private readonly stride: ByteCount;

  /** @throws DriftmapError `limit` when the slots together take more than 4 GiB, or no address space is left */
  constructor(slots: number, slotBytes: ByteCount) {
    assert(Number.isInteger(slots) && slots > 0, `${slots} slots`);
    assert(Number.isSafeInteger(slotBytes) && slotBytes > 0, `slots of ${slotBytes} bytes`);
    this.slots = slots;
    this.stride = alignUp(slotBytes, ALIGNMENT);
    // Address 0 stays free: a null pointer must never be somebody's slot.
    this.memory = createSharedMemory(
      ALIGNMENT + slots * this.stride,
      `${slots} workers with ${humanSize(slotBytes)} each (use fewer workers or smaller blocks)`,
    );
  }

  slot(index: number): Slot {
    assert(Number.isInteger(index) && index >= 0 && index < this.slots, `slot ${index} of ${this.slots}`);
    return { memory: this.memory, pointer: ALIGNMENT + index * this.stride, bytes: this.stride };
  }
}
