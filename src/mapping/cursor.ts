/**
 * A place in an extent map that moves mostly forward: what the scan's hot path uses in place of a binary
 * search for every block. Nothing is allocated after construction.
 *
 * Two things make it cheap. A seek gallops: it doubles its stride from the current extent until it has
 * passed the offset, so a step to the next extent costs one or two comparisons and a jump costs the
 * logarithm of its distance. And the run of zero or of other extents that was walked last is remembered:
 * a disk whose data lies in ten million pieces is one run, and asking for its end at every block must not
 * walk it again.
 */

import type { ByteOffset } from '../base/units.ts';
import { type ExtentMap, isZero } from './extent-map.ts';

export class Cursor {
  readonly map: ExtentMap;
  /** The extent that holds the offset last sought; 0 at first. */
  index = 0;
  /** What is known of one run `[runFrom, runTo)`: all of it is zero or unallocated, or none of it is. */
  private runFrom: ByteOffset = 0;
  private runTo: ByteOffset = 0;
  private runIsZero = false;

  constructor(map: ExtentMap) {
    this.map = map;
  }

  /** Moves to the extent that holds `offset`, which must lie in `[0, size)`, and returns its index. */
  seek(offset: ByteOffset): number {
    const { starts } = this.map;
    let low = this.index;
    if (starts[low]! > offset) {
      low = this.map.indexAt(offset);
    } else if (starts[low + 1]! <= offset) {
      low = this.gallop(low + 1, offset);
    }
    this.index = low;
    return low;
  }

  /**
   * End of the run of zero and unallocated extents that holds `offset`; `offset` itself when it is not in
   * one, or not below the disk's size.
   */
  zeroUntil(offset: ByteOffset): ByteOffset {
    if (!(offset >= this.runFrom && offset < this.runTo) && !this.findRun(offset)) return offset;
    return this.runIsZero ? this.runTo : offset;
  }

  /**
   * End of the run of extents that have to be read and that holds `offset`; `offset` itself when it is not
   * in one, or not below the disk's size.
   */
  dataUntil(offset: ByteOffset): ByteOffset {
    if (!(offset >= this.runFrom && offset < this.runTo) && !this.findRun(offset)) return offset;
    return this.runIsZero ? offset : this.runTo;
  }

  /** Last extent at or after `low` that begins at or before `offset`; `low` must begin there or before. */
  private gallop(low: number, offset: ByteOffset): number {
    const { starts, count } = this.map;
    let stride = 1;
    let high = low + 1;
    while (high < count && starts[high]! <= offset) {
      low = high;
      stride *= 2;
      high = low + stride;
    }
    if (high > count) high = count;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle;
    }
    return low;
  }

  private findRun(offset: ByteOffset): boolean {
    const { map } = this;
    if (offset < 0 || offset >= map.size) return false;
    const first = this.seek(offset);
    const zero = isZero(map.kindOf(first));
    let end = first + 1;
    while (end < map.count && isZero(map.kindOf(end)) === zero) end++;
    this.runFrom = map.startOf(first);
    this.runTo = map.startOf(end);
    this.runIsZero = zero;
    return true;
  }
}
