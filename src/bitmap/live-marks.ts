/**
 * Marks that any thread may set while a scan runs, so that a write that arrives meanwhile is not missed.
 *
 * Situation: many threads set bits, none clears any, none may wait, and the memory is fixed because a shared
 * buffer does not grow. Method: the tree of `bit-tree.ts` in a SharedArrayBuffer, changed only by atomic
 * operations that add marks.
 *
 *   a bit            Atomics.or on its word
 *   a page or node   taken from the end of the pool by Atomics.add; it is zero because nothing is ever given
 *                    back. Then its handle changes from 0 by compareExchange. Whoever loses that race uses the
 *                    winner's, and what it took itself is lost: a few bytes, no marks
 *   all below        Atomics.store of −1 over the handle. It is final: a thread that is still writing into the
 *                    page that was there writes where nobody looks, but its block is marked by the −1
 *
 * When the pool is used up, −1 also stands in for the page or node that cannot be had. That marks up to 512
 * blocks, or up to 2^16, where one was written. Marking too much costs a comparison; losing a mark would cost
 * the replica its equality, and never happens. To keep the damage that small, the upper levels of the tree are
 * laid out beforehand, as far down as an eighth of the memory allows: with 64 MiB down to the chapters of any
 * disk of 2^36 blocks; a disk of more may have 2^23 blocks marked for one.
 */

import { DriftmapError } from '../base/errors.ts';
import {
  LIVE_MARKS_BYTES,
  MAX_BLOCK_SIZE,
  MAX_DISK_SIZE,
  MAX_LIVE_MARKS_BYTES,
  MIN_BLOCK_SIZE,
  MIN_LIVE_MARKS_BYTES,
} from '../base/limits.ts';
import { checkWithin } from '../base/ranges.ts';
import type { BlockCount, BlockRun, ByteCount, ByteOffset } from '../base/units.ts';
import { blockCount, blocksTouching } from '../base/units.ts';
import {
  EMPTY,
  FULL,
  maskOf,
  NODE_SLOTS,
  PAGE_BITS,
  PAGE_WORDS,
  spanOf,
  topLevel,
  wordsAt,
} from './bit-tree.ts';
import { PagedBits } from './paged-bits.ts';

/** Live marks as plain data for another thread of this process; the buffer is shared, not copied. */
export interface LiveMarksHandle {
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly buffer: SharedArrayBuffer;
}

/** What is copied where: a page of words is lent. */
interface Copy {
  readonly run: BlockRun;
  readonly target: PagedBits;
  readonly page: Int32Array;
}

/** The first words, each on a cache line of its own. */
const ROOT_AT = 0;
const USED_AT = 16;
const GENERATION_AT = 32;
const OVERMARKED_AT = 48;
const FIRST_PAGE = 64;

export class LiveMarks {
  /** Of the disk, in bytes; the larger of both when it accompanies a scan. */
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly blocks: BlockCount;
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly top: number;

  private constructor({ size, blockSize, buffer }: LiveMarksHandle) {
    this.size = size;
    this.blockSize = blockSize;
    this.blocks = blockCount(size, blockSize);
    this.words = new Int32Array(buffer);
    this.top = topLevel(this.blocks);
  }

  /**
   * No marks yet. `capacity` is the memory in bytes, 64 MiB by default and never more than the disk can use:
   * a scattered write takes at most 576 bytes, and the operating system lends memory only when it is touched.
   */
  static create(size: ByteCount, blockSize: ByteCount, capacity: ByteCount = LIVE_MARKS_BYTES): LiveMarks {
    if (!Number.isSafeInteger(size) || size < 0 || size > MAX_DISK_SIZE) {
      throw new DriftmapError('argument', `expected a size from 0 to ${MAX_DISK_SIZE}, got ${size}`);
    }
    if (!Number.isSafeInteger(blockSize) || blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE) {
      throw new DriftmapError(
        'argument',
        `expected a block size from ${MIN_BLOCK_SIZE} to ${MAX_BLOCK_SIZE}, got ${blockSize}`,
      );
    }
    if (
      !Number.isSafeInteger(capacity) ||
      capacity < MIN_LIVE_MARKS_BYTES ||
      capacity > MAX_LIVE_MARKS_BYTES
    ) {
      throw new DriftmapError(
        'argument',
        `expected from ${MIN_LIVE_MARKS_BYTES} to ${MAX_LIVE_MARKS_BYTES} bytes for live marks, got ${capacity}`,
      );
    }
    const whole = Math.min(wordsOfWholeTree(blockCount(size, blockSize)), Math.floor(capacity / 4));
    const marks = new LiveMarks({ size, blockSize, buffer: new SharedArrayBuffer(4 * whole) });
    Atomics.store(marks.words, USED_AT, FIRST_PAGE);
    marks.layOut(whole / 8);
    return marks;
  }

  /** The same marks, in another thread. */
  static attach(handle: LiveMarksHandle): LiveMarks {
    return new LiveMarks(handle);
  }

  handle(): LiveMarksHandle {
    return { size: this.size, blockSize: this.blockSize, buffer: this.words.buffer };
  }

  /**
   * Marks every block that the range touches; when it returns, every thread sees them. Call it before the
   * write is acknowledged. A range that does not lie within the disk is an `argument` error and marks nothing.
   */
  markDirty(offset: ByteOffset, length: ByteCount): void {
    checkWithin({ offset, length }, this.size, "the disk's", { operation: 'mark dirty' });
    if (length === 0) return;
    const { start, end } = blocksTouching({ offset, length }, this.blockSize);
    this.mark(ROOT_AT, this.top, 0, start, end);
    Atomics.add(this.words, GENERATION_AT, 1);
  }

  /** Counts writes that have been marked, modulo 2^32: unequal before and after means that something was written. */
  get generation(): number {
    return Atomics.load(this.words, GENERATION_AT) >>> 0;
  }

  /** How often the memory did not suffice and a whole page or chapter was marked instead. */
  get overmarked(): number {
    return Atomics.load(this.words, OVERMARKED_AT) >>> 0;
  }

  /**
   * A copy that holds every mark that was set before the call, and maybe some that are set during it.
   * @param run of these blocks alone, whose first is the copy's bit 0; it begins at a multiple of 512. A large disk
   *   takes a fifth of a second, and whoever has others to serve copies it piece by piece
   */
  snapshot(run: BlockRun = { start: 0, end: this.blocks }): PagedBits {
    if (run.start % PAGE_BITS !== 0 || run.end < run.start || run.end > this.blocks) {
      const reason = `expected blocks within [0, ${this.blocks}) from a multiple of ${PAGE_BITS}, got [${run.start}, ${run.end})`;
      throw new DriftmapError('argument', reason);
    }
    const copy: Copy = { run, target: new PagedBits(run.end - run.start), page: new Int32Array(PAGE_WORDS) };
    this.copy(Atomics.load(this.words, ROOT_AT), this.top, 0, copy);
    return copy.target;
  }

  /** Marks blocks `[start, end)` below the handle at `at`, which spans its level from block `base`. */
  private mark(at: number, level: number, base: number, start: number, end: number): void {
    const { words } = this;
    const limit = Math.min(base + spanOf(level), this.blocks);
    if (start <= base && end >= limit) {
      Atomics.store(words, at, FULL);
      return;
    }
    const position = this.open(at, level);
    if (position === FULL) return;
    const from = Math.max(start, base) - base;
    const to = Math.min(end, limit) - base;
    if (level === 0) {
      for (let w = from >>> 5; w * 32 < to; w++) Atomics.or(words, position + w, maskOf(w, from, to));
      return;
    }
    const span = spanOf(level - 1);
    for (let slot = Math.floor(from / span); slot * span < to; slot++) {
      this.mark(position + slot, level - 1, base + slot * span, start, end);
    }
  }

  /** The page or node below a handle, made if there is none; −1 when all is marked there, or is now for want of room. */
  private open(at: number, level: number): number {
    const { words } = this;
    const handle = Atomics.load(words, at);
    if (handle !== EMPTY) return handle;
    const made = this.allocate(level);
    if (made === FULL) {
      Atomics.store(words, at, FULL);
      Atomics.add(words, OVERMARKED_AT, 1);
      return FULL;
    }
    const found = Atomics.compareExchange(words, at, EMPTY, made);
    return found === EMPTY ? made : found;
  }

  /** Position of a zeroed page or node; −1 when there is no room. */
  private allocate(level: number): number {
    const { words } = this;
    const size = wordsAt(level);
    for (;;) {
      const used = Atomics.load(words, USED_AT);
      // A plain add could run past 2^31 when threads go on asking a pool that is used up.
      if (used + size > words.length) return FULL;
      if (Atomics.compareExchange(words, USED_AT, used, used + size) === used) return used;
    }
  }

  /** Makes the nodes of the upper levels, level by level, while a level fits into `room` words. */
  private layOut(room: number): void {
    let handles = [ROOT_AT];
    for (let level = this.top; level > 1; level--) {
      const span = spanOf(level - 1);
      const below = Math.ceil(this.blocks / span);
      room -= handles.length * NODE_SLOTS;
      if (room < 0) return;
      const next: number[] = [];
      for (const at of handles) {
        const position = this.open(at, level);
        for (let slot = 0; slot < NODE_SLOTS && next.length < below; slot++) next.push(position + slot);
      }
      handles = next;
    }
  }

  private copy(handle: number, level: number, base: number, copy: Copy): void {
    const { run, target, page } = copy;
    const end = Math.min(base + spanOf(level), run.end);
    if (handle === EMPTY || base >= run.end || end <= run.start) return;
    if (handle === FULL) {
      target.setRun({ start: Math.max(base, run.start) - run.start, end: end - run.start });
      return;
    }
    if (level === 0) {
      for (let w = 0; w < PAGE_WORDS; w++)
        page[w] = Atomics.load(this.words, handle + w) & maskOf(w, 0, end - base);
      target.orWords(base - run.start, page);
      return;
    }
    const span = spanOf(level - 1);
    const first = Math.max(0, Math.floor((run.start - base) / span));
    for (let slot = first; slot < NODE_SLOTS && base + slot * span < end; slot++)
      this.copy(Atomics.load(this.words, handle + slot), level - 1, base + slot * span, copy);
  }
}

/** Words of a tree that has every page and every node. */
function wordsOfWholeTree(blocks: BlockCount): number {
  let words = FIRST_PAGE;
  for (let level = topLevel(blocks); level >= 0; level--)
    words += Math.ceil(blocks / spanOf(level)) * wordsAt(level);
  // Threads that lose a race lose what they took: leave them some.
  return words + 64 * NODE_SLOTS;
}
