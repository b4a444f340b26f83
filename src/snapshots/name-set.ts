/**
 * A set of names in flat memory, 16 bytes each at a load of up to three quarters: a JavaScript set of as many strings
 * takes ten times as much. Names are (keyed) BLAKE3, so their first words are as good as random, and 128 bits of a
 * name stand for it: that two of a million million names share them has a probability of 2^-49.
 */

import { DriftmapError } from '../base/errors.ts';

const WORDS = 4;
const LOAD = 0.75;

export class NameSet {
  count = 0;
  private slots = 1024;
  private words = new Uint32Array(this.slots * WORDS);
  private readonly most: number;

  /** @param most names; one more is refused */
  constructor(most: number) {
    this.most = most;
  }

  get isFull(): boolean {
    return this.count >= this.most;
  }

  has(name: Uint8Array): boolean {
    return this.words[this.find(this.words, this.slots, read(name)) * WORDS] !== 0;
  }

  /** Whether it was not there. @throws DriftmapError `limit` */
  add(name: Uint8Array): boolean {
    const word = read(name);
    let at = this.find(this.words, this.slots, word) * WORDS;
    if (this.words[at] !== 0) return false;
    if (this.isFull)
      throw new DriftmapError('limit', `expected at most ${this.most} objects: use larger blocks`);
    if (this.count + 1 > this.slots * LOAD) {
      this.grow();
      at = this.find(this.words, this.slots, word) * WORDS;
    }
    this.words.set(word, at);
    this.count++;
    return true;
  }

  clear(): void {
    this.count = 0;
    this.slots = 1024;
    this.words = new Uint32Array(this.slots * WORDS);
  }

  private grow(): void {
    const slots = this.slots * 2;
    const words = new Uint32Array(slots * WORDS);
    for (let at = 0; at < this.words.length; at += WORDS) {
      if (this.words[at] === 0) continue;
      const word = this.words.subarray(at, at + WORDS);
      words.set(word, this.find(words, slots, word) * WORDS);
    }
    this.words = words;
    this.slots = slots;
  }

  /** The slot of a name, or the free one where it would lie. */
  private find(words: Uint32Array, slots: number, word: Uint32Array): number {
    for (let slot = word[1]! % slots; ; slot = (slot + 1) % slots) {
      const at = slot * WORDS;
      if (words[at] === 0) return slot;
      if (
        words[at] === word[0] &&
        words[at + 1] === word[1] &&
        words[at + 2] === word[2] &&
        words[at + 3] === word[3]
      )
        return slot;
    }
  }
}

/** A first word of zero marks a free slot, so it is told as one. */
function read(name: Uint8Array): Uint32Array {
  const view = new DataView(name.buffer, name.byteOffset, 16);
  const first = view.getUint32(0, true);
  return Uint32Array.of(
    first === 0 ? 1 : first,
    view.getUint32(4, true),
    view.getUint32(8, true),
    view.getUint32(12, true),
  );
}
