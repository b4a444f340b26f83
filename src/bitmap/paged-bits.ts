/**
 * A set of bits, as long as a disk has blocks, that costs memory only where it is neither all clear nor all
 * set. It belongs to one thread; `LiveMarks` is its sibling for many. `bit-tree.ts` tells the shape.
 *
 * The tree is kept canonical: whatever is all clear is the handle 0, whatever is all set is −1, up to the
 * length (bits past it do not exist; a word that reaches past it has zeros there, a node has handles 0).
 * So two sets are equal exactly when their trees are, and asking whether all is set is one comparison.
 */

import { DriftmapError } from '../base/errors.ts';
import type { BlockRun, ByteCount } from '../base/units.ts';
import { BitPool, ROOT_AT } from './bit-pool.ts';
import {
  bitsIn,
  CHAPTER_BITS,
  EMPTY,
  FULL,
  lowestBit,
  maskOf,
  NODE_SLOTS,
  PAGE_BITS,
  PAGE_WORDS,
  spanOf,
  topLevel,
  wordsAt,
} from './bit-tree.ts';

/** Chapters `[start, end)` (of 2^16 bits each) that are all set, or one chapter that is set in part. */
export interface ChapterRun {
  readonly start: number;
  readonly end: number;
  readonly full: boolean;
}

export type Combination = 'or' | 'and' | 'andNot';

export class PagedBits {
  /** Bits, set or not: 0 … 2^44. */
  readonly length: number;
  private readonly top: number;
  private pool = new BitPool();
  /** Of the whole set; null when it has to be counted anew. */
  private counted: number | null = 0;

  constructor(length: number) {
    if (!Number.isSafeInteger(length) || length < 0 || length > 2 ** 44) {
      throw new DriftmapError('argument', `expected a number of bits from 0 to 2^44, got ${length}`);
    }
    this.length = length;
    this.top = topLevel(length);
  }

  /** Memory held, set bits or not. */
  get bytes(): ByteCount {
    return this.pool.bytes;
  }

  get isEmpty(): boolean {
    return this.pool.words[ROOT_AT] === EMPTY;
  }

  /** Every bit is set; true of a set without bits. */
  get isFull(): boolean {
    return this.length === 0 || this.pool.words[ROOT_AT] === FULL;
  }

  get count(): number {
    this.counted ??= this.countBelow(this.pool.words[ROOT_AT]!, this.top, 0);
    return this.counted;
  }

  test(bit: number): boolean {
    this.check(bit, bit + 1);
    const { words } = this.pool;
    let handle = words[ROOT_AT]!;
    let rest = bit;
    for (let level = this.top; handle > 0 && level > 0; level--) {
      const span = spanOf(level - 1);
      const slot = Math.floor(rest / span);
      rest -= slot * span;
      handle = words[handle + slot]!;
    }
    if (handle <= 0) return handle === FULL;
    return ((words[handle + (rest >>> 5)]! >>> (rest & 31)) & 1) === 1;
  }

  set(bit: number): void {
    this.setRun({ start: bit, end: bit + 1 });
  }

  clear(bit: number): void {
    this.clearRun({ start: bit, end: bit + 1 });
  }

  setRun({ start, end }: BlockRun): void {
    this.check(start, end);
    if (start === end) return;
    this.counted = null;
    this.assign(ROOT_AT, this.top, 0, start, end, FULL);
  }

  clearRun({ start, end }: BlockRun): void {
    this.check(start, end);
    if (start === end) return;
    this.counted = null;
    this.assign(ROOT_AT, this.top, 0, start, end, EMPTY);
  }

  /**
   * Sets the bits that are set in `words`: bit i of word w is bit `first + 32 · w + i`. `first` is a
   * multiple of 32; a bit set past the length is an `argument` error and changes nothing.
   */
  orWords(first: number, words: Uint32Array | Int32Array): void {
    if (first % 32 !== 0)
      throw new DriftmapError('argument', `expected a multiple of 32 as first bit, got ${first}`);
    const used = lastNonzero(words) + 1;
    if (used === 0) return;
    this.check(first, first + 32 * used - Math.clz32(words[used - 1]!));
    this.counted = null;
    for (let at = 0; at < used; ) {
      const word = (first / 32 + at) % PAGE_WORDS;
      const end = Math.min(at + PAGE_WORDS - word, used);
      while (at < end && words[at] === 0) at++;
      if (at < end) {
        const bit = first + 32 * at;
        this.orPage(ROOT_AT, this.top, 0, bit, words, at, end);
      }
      at = end;
    }
  }

  /** First set bit at or after `from`; the length when there is none. */
  nextSet(from: number): number {
    return this.next(from, FULL);
  }

  /** First clear bit at or after `from`; the length when there is none. */
  nextClear(from: number): number {
    return this.next(from, EMPTY);
  }

  /** The set bits as half-open runs: ascending, none touching the next. The set must not change meanwhile. */
  *runs(): Generator<BlockRun, undefined> {
    for (let end = 0; ; ) {
      const start = this.nextSet(end);
      if (start >= this.length) return;
      end = this.nextClear(start);
      yield { start, end };
    }
  }

  /** The chapters that are not empty, ascending; neighbours that are all set come as one run. */
  *chapters(): Generator<ChapterRun, undefined> {
    for (let from = 0; ; ) {
      const bit = this.nextSet(from);
      if (bit >= this.length) return;
      const start = Math.floor(bit / CHAPTER_BITS);
      const full = this.handleAt(start * CHAPTER_BITS, 1) === FULL;
      const clear = full ? this.nextClear(bit) : 0;
      const end = full ? Math[clear === this.length ? 'ceil' : 'floor'](clear / CHAPTER_BITS) : start + 1;
      yield { start, end, full };
      from = Math.min(end * CHAPTER_BITS, this.length);
    }
  }

  /** Copies one chapter into 2048 words; bits past the length are zero. */
  copyChapter(chapter: number, target: Uint32Array): void {
    const base = chapter * CHAPTER_BITS;
    this.check(base, Math.min(base + CHAPTER_BITS, this.length));
    const { words } = this.pool;
    const node = this.handleAt(base, 1);
    target.fill(0);
    if (node === EMPTY) return;
    for (let page = 0; page < NODE_SLOTS; page++) {
      const handle = node > 0 ? words[node + page]! : FULL;
      if (handle === EMPTY) continue;
      const at = page * PAGE_WORDS;
      const size = this.length - base - page * PAGE_BITS;
      for (let w = 0; w < PAGE_WORDS; w++)
        target[at + w] = handle > 0 ? words[handle + w]! : validBits(w, size);
    }
  }

  /** Sets every bit that is set in `other`, which has the same length. */
  add(other: PagedBits): void {
    const sum = this.or(other);
    this.pool = sum.pool;
    this.counted = sum.counted;
  }

  clone(): PagedBits {
    return this.or(this);
  }

  /** A new set: the bits of either. Sets of different lengths are an `argument` error, here and below. */
  or(other: PagedBits): PagedBits {
    return this.combined(other, 'or');
  }

  /** A new set: the bits of both. */
  and(other: PagedBits): PagedBits {
    return this.combined(other, 'and');
  }

  /** A new set: the bits of this one that `other` does not have. */
  andNot(other: PagedBits): PagedBits {
    return this.combined(other, 'andNot');
  }

  /** A new set: the bits that this one does not have. */
  complement(): PagedBits {
    const all = new PagedBits(this.length);
    all.setRun({ start: 0, end: this.length });
    return all.andNot(this);
  }

  equals(other: PagedBits): boolean {
    return this.length === other.length && this.sameBelow(other, ROOT_AT, ROOT_AT, this.top);
  }

  private check(start: number, end: number): void {
    if (
      Number.isSafeInteger(start) &&
      Number.isSafeInteger(end) &&
      start >= 0 &&
      start <= end &&
      end <= this.length
    ) {
      return;
    }
    throw new DriftmapError('argument', `expected bits within [0, ${this.length}), got [${start}, ${end})`);
  }

  /** The handle that covers a bit at a level, or the 0 or −1 that stands above it. */
  private handleAt(bit: number, level: number): number {
    const { words } = this.pool;
    let handle = words[ROOT_AT]!;
    let rest = bit;
    for (let above = this.top; handle > 0 && above > level; above--) {
      const span = spanOf(above - 1);
      const slot = Math.floor(rest / span);
      rest -= slot * span;
      handle = words[handle + slot]!;
    }
    return handle;
  }

  /**
   * Makes `[start, end)` all set or all clear below the handle at `at`, which spans its level from `base`.
   * Returns whether the handle has become `value`: then the node above may have become uniform too.
   */
  private assign(
    at: number,
    level: number,
    base: number,
    start: number,
    end: number,
    value: number,
  ): boolean {
    const { pool } = this;
    const handle = pool.words[at]!;
    if (handle === value) return false;
    const limit = Math.min(base + spanOf(level), this.length);
    if (start <= base && end >= limit) {
      pool.release(handle, level);
      pool.words[at] = value;
      return true;
    }
    const position = handle > 0 ? handle : this.open(at, level, base);
    const from = Math.max(start, base) - base;
    const to = Math.min(end, limit) - base;
    if (level === 0) {
      const { words } = pool;
      for (let w = from >>> 5; w * 32 < to; w++) {
        const mask = maskOf(w, from, to);
        if (value === FULL) words[position + w]! |= mask;
        else words[position + w]! &= ~mask;
      }
      return this.settle(at, level, base, value);
    }
    const span = spanOf(level - 1);
    let uniform = false;
    for (let slot = Math.floor(from / span); slot * span < to; slot++) {
      uniform = this.assign(position + slot, level - 1, base + slot * span, start, end, value) || uniform;
    }
    return uniform && this.settle(at, level, base, value);
  }

  /** Sets the bits of `words[from … to)`, all of one page, the first at `bit`. Returns as `assign` does. */
  private orPage(
    at: number,
    level: number,
    base: number,
    bit: number,
    source: Uint32Array | Int32Array,
    from: number,
    to: number,
  ): boolean {
    const handle = this.pool.words[at]!;
    if (handle === FULL) return false;
    const position = handle > 0 ? handle : this.open(at, level, base);
    if (level === 0) {
      const { words } = this.pool;
      const first = position + (bit - base) / 32;
      for (let i = from; i < to; i++) words[first + i - from]! |= source[i]!;
      return this.settle(at, level, base, FULL);
    }
    const span = spanOf(level - 1);
    const slot = Math.floor((bit - base) / span);
    const uniform = this.orPage(position + slot, level - 1, base + slot * span, bit, source, from, to);
    return uniform && this.settle(at, level, base, FULL);
  }

  /** Puts a page or node where a handle is 0 or −1, saying the same. Returns its position. */
  private open(at: number, level: number, base: number): number {
    const { pool } = this;
    const value = pool.words[at]!;
    const position = pool.allocate(level);
    pool.words[at] = position;
    if (value === EMPTY) return position;
    const size = this.length - base;
    if (level === 0) for (let w = 0; w < PAGE_WORDS; w++) pool.words[position + w] = validBits(w, size);
    else
      pool.words.fill(FULL, position, position + Math.min(NODE_SLOTS, Math.ceil(size / spanOf(level - 1))));
    return position;
  }

  /** Puts `value` (0 or −1) in the place of a page or node that is all that; says whether it did. */
  private settle(at: number, level: number, base: number, value: number): boolean {
    const { pool } = this;
    const position = pool.words[at]!;
    const size = this.length - base;
    if (level === 0) {
      for (let w = 0; w < PAGE_WORDS; w++) {
        if (pool.words[position + w] !== (value & validBits(w, size))) return false;
      }
    } else {
      const slots = Math.min(NODE_SLOTS, Math.ceil(size / spanOf(level - 1)));
      for (let slot = 0; slot < slots; slot++) if (pool.words[position + slot] !== value) return false;
    }
    pool.release(position, level);
    pool.words[at] = value;
    return true;
  }

  private countBelow(handle: number, level: number, base: number): number {
    if (handle === EMPTY) return 0;
    if (handle === FULL) return Math.min(spanOf(level), this.length - base);
    const { words } = this.pool;
    let count = 0;
    if (level === 0) {
      for (let w = 0; w < PAGE_WORDS; w++) count += bitsIn(words[handle + w]!);
      return count;
    }
    const span = spanOf(level - 1);
    for (let slot = 0; slot < NODE_SLOTS; slot++) {
      const child = words[handle + slot]!;
      if (child !== EMPTY) count += this.countBelow(child, level - 1, base + slot * span);
    }
    return count;
  }

  private next(from: number, wanted: number): number {
    this.check(from, this.length);
    if (from === this.length) return from;
    const found = this.seek(this.pool.words[ROOT_AT]!, this.top, 0, from, wanted);
    return found < 0 ? this.length : Math.min(found, this.length);
  }

  /** First bit at or after `from`, below a handle that spans its level from `base`, that is `wanted`; −1 without one. */
  private seek(handle: number, level: number, base: number, from: number, wanted: number): number {
    if (handle <= 0) return handle === wanted ? Math.max(base, from) : -1;
    const { words } = this.pool;
    const skip = Math.max(0, from - base);
    if (level === 0) {
      for (let w = skip >>> 5; w < PAGE_WORDS; w++) {
        const word = ~(words[handle + w]! ^ wanted) & maskOf(w, skip, PAGE_BITS);
        if (word !== 0) return base + 32 * w + lowestBit(word);
      }
      return -1;
    }
    const span = spanOf(level - 1);
    for (let slot = Math.floor(skip / span); slot < NODE_SLOTS; slot++) {
      const child = words[handle + slot]!;
      if (child <= 0 && child !== wanted) continue;
      const found = this.seek(child, level - 1, base + slot * span, from, wanted);
      if (found >= 0) return found;
    }
    return -1;
  }

  private sameBelow(other: PagedBits, at: number, otherAt: number, level: number): boolean {
    const handle = this.pool.words[at]!;
    const otherHandle = other.pool.words[otherAt]!;
    if (handle <= 0 || otherHandle <= 0) return handle === otherHandle;
    for (let i = 0; i < wordsAt(level); i++) {
      const same =
        level === 0
          ? this.pool.words[handle + i] === other.pool.words[otherHandle + i]
          : this.sameBelow(other, handle + i, otherHandle + i, level - 1);
      if (!same) return false;
    }
    return true;
  }

  private combined(other: PagedBits, how: Combination): PagedBits {
    if (this.length !== other.length) {
      throw new DriftmapError(
        'argument',
        `expected two sets of one length, got ${this.length} and ${other.length} bits`,
      );
    }
    const result = new PagedBits(this.length);
    result.counted = null;
    result.combine(
      ROOT_AT,
      this.top,
      0,
      this,
      this.pool.words[ROOT_AT]!,
      other,
      other.pool.words[ROOT_AT]!,
      how,
    );
    return result;
  }

  /** Builds below the empty handle at `at` the combination of what is below two handles of two other sets. */
  private combine(
    at: number,
    level: number,
    base: number,
    left: PagedBits,
    leftHandle: number,
    right: PagedBits,
    rightHandle: number,
    how: Combination,
  ): void {
    if (leftHandle <= 0 && rightHandle <= 0) {
      this.pool.words[at] = combineWords(leftHandle, rightHandle, how);
      return;
    }
    const position = this.open(at, level, base);
    const size = this.length - base;
    const count = level === 0 ? PAGE_WORDS : Math.min(NODE_SLOTS, Math.ceil(size / spanOf(level - 1)));
    for (let i = 0; i < count; i++) {
      const leftWord = leftHandle > 0 ? left.pool.words[leftHandle + i]! : leftHandle;
      const rightWord = rightHandle > 0 ? right.pool.words[rightHandle + i]! : rightHandle;
      if (level === 0)
        this.pool.words[position + i] = combineWords(leftWord, rightWord, how) & validBits(i, size);
      else {
        const childBase = base + i * spanOf(level - 1);
        this.combine(position + i, level - 1, childBase, left, leftWord, right, rightWord, how);
      }
    }
    if (!this.settle(at, level, base, EMPTY)) this.settle(at, level, base, FULL);
  }
}

function combineWords(left: number, right: number, how: Combination): number {
  if (how === 'or') return left | right;
  return how === 'and' ? left & right : left & ~right;
}

/** The bits of word `word` of a page that exist when the page has `size` bits or is whole. */
function validBits(word: number, size: number): number {
  return size >= PAGE_BITS ? -1 : maskOf(word, 0, size);
}

function lastNonzero(words: Uint32Array | Int32Array): number {
  let at = words.length - 1;
  while (at >= 0 && words[at] === 0) at--;
  return at;
}
