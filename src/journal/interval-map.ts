/**
 * Which bytes of a disk lie where in a journal's data: intervals that do not overlap, ascending, in chunks of
 * bounded size, so that an insertion moves a few hundred numbers at most. A later record over an earlier one
 * either hides it (`set`: the newest wins, as when writing) or is hidden by it (`setAbsent`: the oldest wins, as
 * when what was overwritten is looked for).
 */

import type { ByteOffset } from '../base/units.ts';

/** The place of bytes that are zeros and lie nowhere. */
export const ZEROS = -1;

/**
 * Told of each interval, clipped to what was asked for. `place` is where its first byte lies, or `ZEROS`; `head`
 * is where the frame that holds it begins.
 */
export type Visit = (start: ByteOffset, end: ByteOffset, place: ByteOffset, head: ByteOffset) => void;

/** What can be asked of any map of intervals. */
export interface Intervals {
  /** Visits the intervals that meet `[start, end)`, ascending. */
  each(start: ByteOffset, end: ByteOffset, visit: Visit): void;
}

const CAPACITY = 256;

interface Chunk {
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  readonly places: Float64Array;
  readonly heads: Float64Array;
  count: number;
}

function newChunk(): Chunk {
  return {
    starts: new Float64Array(CAPACITY),
    ends: new Float64Array(CAPACITY),
    places: new Float64Array(CAPACITY),
    heads: new Float64Array(CAPACITY),
    count: 0,
  };
}

/** Index of the first of `count` intervals that ends after `offset`. */
function firstEndingAfter(ends: Float64Array, count: number, offset: ByteOffset): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ends[middle]! > offset) high = middle;
    else low = middle + 1;
  }
  return low;
}

export class IntervalMap implements Intervals {
  private chunks: Chunk[] = [];
  private total = 0;

  /** How many intervals there are. */
  get count(): number {
    return this.total;
  }

  clear(): void {
    this.chunks = [];
    this.total = 0;
  }

  /** These bytes lie here now, whatever was known of them. */
  set(start: ByteOffset, end: ByteOffset, place: ByteOffset, head: ByteOffset): void {
    if (end <= start) return;
    this.erase(start, end);
    this.insert(start, end, place, head);
  }

  /** Those of these bytes of which nothing was known lie here. */
  setAbsent(start: ByteOffset, end: ByteOffset, place: ByteOffset, head: ByteOffset): void {
    let at = start;
    const gaps: number[] = [];
    this.each(start, end, (from, to) => {
      if (from > at) gaps.push(at, from);
      at = to;
    });
    if (at < end) gaps.push(at, end);
    for (let i = 0; i < gaps.length; i += 2) {
      const from = gaps[i]!;
      this.insert(from, gaps[i + 1]!, place < 0 ? ZEROS : place + (from - start), head);
    }
  }

  each(start: ByteOffset, end: ByteOffset, visit: Visit): void {
    if (end <= start) return;
    for (let c = this.chunkAt(start); c < this.chunks.length; c++) {
      const { starts, ends, places, heads, count } = this.chunks[c]!;
      for (let i = firstEndingAfter(ends, count, start); i < count; i++) {
        const from = starts[i]!;
        if (from >= end) return;
        const place = places[i]!;
        const clipped = Math.max(from, start);
        visit(clipped, Math.min(ends[i]!, end), place < 0 ? ZEROS : place + (clipped - from), heads[i]!);
      }
    }
  }

  /** The same intervals in four arrays. */
  flatten(): FlatMap {
    const flat = new FlatMap(new Float64Array(4 * this.total), this.total);
    let at = 0;
    for (const { starts, ends, places, heads, count } of this.chunks) {
      flat.starts.set(starts.subarray(0, count), at);
      flat.ends.set(ends.subarray(0, count), at);
      flat.places.set(places.subarray(0, count), at);
      flat.heads.set(heads.subarray(0, count), at);
      at += count;
    }
    return flat;
  }

  /** The last chunk that begins at or before `offset`; the first where none does. */
  private chunkAt(offset: ByteOffset): number {
    let low = 0;
    let high = this.chunks.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.chunks[middle]!.starts[0]! <= offset) low = middle;
      else high = middle;
    }
    return low;
  }

  private erase(from: ByteOffset, to: ByteOffset): void {
    let c = this.chunkAt(from);
    while (c < this.chunks.length) {
      const chunk = this.chunks[c]!;
      const { starts, ends, places, heads } = chunk;
      if (starts[0]! >= to) return;
      let i = firstEndingAfter(ends, chunk.count, from);
      if (i < chunk.count && starts[i]! < from) {
        const end = ends[i]!;
        ends[i] = from;
        if (end > to) {
          const place = places[i]!;
          this.insertAt(c, i + 1, to, end, place < 0 ? ZEROS : place + (to - starts[i]!), heads[i]!);
          return;
        }
        i++;
      }
      let j = i;
      while (j < chunk.count && ends[j]! <= to) j++;
      const rest = j < chunk.count;
      if (rest && starts[j]! < to) {
        if (places[j]! >= 0) places[j] = places[j]! + (to - starts[j]!);
        starts[j] = to;
      }
      this.remove(chunk, i, j);
      if (chunk.count === 0) this.chunks.splice(c, 1);
      else c++;
      if (rest) return;
    }
  }

  private remove(chunk: Chunk, from: number, to: number): void {
    if (to === from) return;
    for (const array of [chunk.starts, chunk.ends, chunk.places, chunk.heads]) {
      array.copyWithin(from, to, chunk.count);
    }
    chunk.count -= to - from;
    this.total -= to - from;
  }

  /** Of bytes of which nothing is known. */
  private insert(start: ByteOffset, end: ByteOffset, place: ByteOffset, head: ByteOffset): void {
    if (this.chunks.length === 0) this.chunks.push(newChunk());
    const c = this.chunkAt(start);
    const { starts, ends, places, heads, count } = this.chunks[c]!;
    const i = firstEndingAfter(ends, count, start);
    if (i > 0 && ends[i - 1] === start && heads[i - 1] === head) {
      const before = places[i - 1]!;
      if (place < 0 ? before < 0 : before >= 0 && before + (start - starts[i - 1]!) === place) {
        ends[i - 1] = end;
        return;
      }
    }
    this.insertAt(c, i, start, end, place, head);
  }

  private insertAt(
    c: number,
    i: number,
    start: ByteOffset,
    end: ByteOffset,
    place: ByteOffset,
    head: ByteOffset,
  ): void {
    const chunk = this.chunks[c]!;
    if (chunk.count === CAPACITY) {
      const half = CAPACITY / 2;
      const next = newChunk();
      for (const key of ['starts', 'ends', 'places', 'heads'] as const) {
        next[key].set(chunk[key].subarray(half));
      }
      next.count = CAPACITY - half;
      chunk.count = half;
      this.chunks.splice(c + 1, 0, next);
      if (i > half) {
        this.insertAt(c + 1, i - half, start, end, place, head);
        return;
      }
    }
    const { starts, ends, places, heads } = chunk;
    if (i < chunk.count) {
      starts.copyWithin(i + 1, i, chunk.count);
      ends.copyWithin(i + 1, i, chunk.count);
      places.copyWithin(i + 1, i, chunk.count);
      heads.copyWithin(i + 1, i, chunk.count);
    }
    starts[i] = start;
    ends[i] = end;
    places[i] = place;
    heads[i] = head;
    chunk.count++;
    this.total++;
  }
}

/** What one bit of a filter stands for: what guests mostly write. Granules that are 4 GiB apart share a bit. */
const GRANULE = 4096;
const FILTER_BITS = 1024 * 1024;
export const FILTER_BYTES = FILTER_BITS / 8;
/** Ranges of more granules are searched for. */
const SHORT = 8;
/** Maps of fewer intervals are searched faster than a filter is made. */
const FEW = 64;

/** The intervals of a finished map: starts, ends, places and heads, one array after the other. */
export class FlatMap implements Intervals {
  readonly count: number;
  readonly starts: Float64Array;
  readonly ends: Float64Array;
  readonly places: Float64Array;
  readonly heads: Float64Array;
  /** Which granules have an interval; null where that is not told. Made when it is first asked for. */
  private filter: Uint32Array | null | undefined = undefined;

  constructor(numbers: Float64Array, count: number) {
    this.count = count;
    this.starts = numbers.subarray(0, count);
    this.ends = numbers.subarray(count, 2 * count);
    this.places = numbers.subarray(2 * count, 3 * count);
    this.heads = numbers.subarray(3 * count, 4 * count);
  }

  each(start: ByteOffset, end: ByteOffset, visit: Visit): void {
    if (end <= start || !this.mayMeet(start, end)) return;
    const { starts, ends, places, heads, count } = this;
    for (let i = firstEndingAfter(ends, count, start); i < count; i++) {
      const from = starts[i]!;
      if (from >= end) return;
      const place = places[i]!;
      const clipped = Math.max(from, start);
      visit(clipped, Math.min(ends[i]!, end), place < 0 ? ZEROS : place + (clipped - from), heads[i]!);
    }
  }
  /**
   * False when nothing of a short range is here. A view asks every segment between it and the disk for each read, and
   * most have nothing: one bit tells it where a search would go through the whole map.
   */
  private mayMeet(start: ByteOffset, end: ByteOffset): boolean {
    const first = Math.floor(start / GRANULE);
    const last = Math.floor((end - 1) / GRANULE);
    if (last - first >= SHORT) return true;
    if (this.filter === undefined) this.filter = this.makeFilter();
    if (this.filter === null) return true;
    for (let granule = first; granule <= last; granule++) {
      const bit = granule % FILTER_BITS;
      if (((this.filter[bit >>> 5]! >>> (bit & 31)) & 1) === 1) return true;
    }
    return false;
  }

  /** Null where the map is too small to need one, or so large that making it takes longer than it saves. */
  private makeFilter(): Uint32Array | null {
    const { starts, ends, count } = this;
    if (count < FEW) return null;
    let granules = 0;
    for (let i = 0; i < count; i++) granules += Math.ceil((ends[i]! - starts[i]!) / GRANULE) + 1;
    if (granules > FILTER_BITS) return null;
    const filter = new Uint32Array(FILTER_BITS / 32);
    for (let i = 0; i < count; i++) {
      const last = Math.floor((ends[i]! - 1) / GRANULE);
      for (let granule = Math.floor(starts[i]! / GRANULE); granule <= last; granule++) {
        const bit = granule % FILTER_BITS;
        filter[bit >>> 5] = filter[bit >>> 5]! | (1 << (bit & 31));
      }
    }
    return filter;
  }
}
