/** The words that pages and nodes of one private tree lie in: one flat array that grows and reuses what is given back. */

import { DriftmapError } from '../base/errors.ts';
import { MAX_BITS_BYTES } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { PAGE_WORDS, wordsAt } from './bit-tree.ts';

/** Where the handle of the whole tree lies. The first line holds nothing else, so that no page has position 0. */
export const ROOT_AT = 0;

export class BitPool {
  /** Replaced when it grows: take it anew after every `allocate`. */
  words = new Int32Array(PAGE_WORDS);
  private used = PAGE_WORDS;
  /** Heads of the lists of pages and of nodes given back; each links to the next by its first word. */
  private freePage = 0;
  private freeNode = 0;

  get bytes(): ByteCount {
    return this.words.byteLength;
  }

  /** Position of a zeroed page (level 0) or node. */
  allocate(level: number): number {
    const size = wordsAt(level);
    const reused = level === 0 ? this.freePage : this.freeNode;
    if (reused > 0) {
      const next = this.words[reused]!;
      if (level === 0) this.freePage = next;
      else this.freeNode = next;
      this.words.fill(0, reused, reused + size);
      return reused;
    }
    if (this.used + size > this.words.length) this.grow(this.used + size);
    const position = this.used;
    this.used += size;
    return position;
  }

  /** Gives back the page or node below a handle, and all that is below it. Handles 0 and −1 own nothing. */
  release(handle: number, level: number): void {
    if (handle <= 0) return;
    if (level === 0) {
      this.words[handle] = this.freePage;
      this.freePage = handle;
      return;
    }
    for (let slot = 0; slot < wordsAt(level); slot++) this.release(this.words[handle + slot]!, level - 1);
    this.words[handle] = this.freeNode;
    this.freeNode = handle;
  }

  private grow(needed: number): void {
    const most = MAX_BITS_BYTES / 4;
    if (needed > most) {
      throw new DriftmapError(
        'limit',
        `more scattered marks than ${MAX_BITS_BYTES} bytes of memory hold: use a larger block size`,
      );
    }
    const words = new Int32Array(
      Math.min(most, Math.max(needed, Math.ceil(this.words.length * 1.25) + 1024)),
    );
    words.set(this.words.subarray(0, this.used));
    this.words = words;
  }
}
