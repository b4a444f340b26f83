/**
 * Where a block of a given signature may lie: a table in flat arrays, 9 bytes a place, half of the places free.
 *
 * It keeps 4 bytes of a signature beside the place that 4 others choose, so it may answer with a block that has
 * another signature (one answer in 2^56 or so), and with one that was overwritten since. Whoever asks reads the
 * block and computes its signature before using it.
 */

import { MAX_TABLE_ENTRIES } from '../base/limits.ts';
import type { BlockIndex, ByteCount } from '../base/units.ts';

export interface Holder {
  /** Which disk or store, by the caller's numbering, 0 … 254. */
  readonly source: number;
  readonly block: BlockIndex;
}

export class SignatureTable {
  /** Signatures that found no room. */
  refused = 0;
  private readonly mask: number;
  private readonly most: number;
  private readonly prints: Uint32Array;
  private readonly blocks: Uint32Array;
  /** Source + 1; 0 where the place is free. */
  private readonly sources: Uint8Array;
  private used = 0;

  /** @param expected about how many blocks will be added; more are refused from the next power of two on */
  constructor(expected: number) {
    const entries = Math.min(Math.max(expected, 1024), MAX_TABLE_ENTRIES);
    const places = 2 ** Math.ceil(Math.log2(entries * 2));
    this.mask = places - 1;
    this.most = Math.min(places / 2, MAX_TABLE_ENTRIES);
    this.prints = new Uint32Array(places);
    this.blocks = new Uint32Array(places);
    this.sources = new Uint8Array(places);
  }

  get count(): number {
    return this.used;
  }

  get bytes(): ByteCount {
    return this.prints.byteLength + this.blocks.byteLength + this.sources.byteLength;
  }

  /** Adds a block; of several with one signature the first is kept. */
  add(signatures: Uint8Array, at: number, source: number, block: BlockIndex): void {
    if (this.used === this.most || block > 0xffffffff) {
      this.refused++;
      return;
    }
    const print = word(signatures, at + 4);
    let place = word(signatures, at) & this.mask;
    while (this.sources[place] !== 0) {
      if (this.prints[place] === print) return;
      place = (place + 1) & this.mask;
    }
    this.prints[place] = print;
    this.blocks[place] = block;
    this.sources[place] = source + 1;
    this.used++;
  }

  /** The block that may have this signature; null when none has. */
  find(signatures: Uint8Array, at: number): Holder | null {
    const print = word(signatures, at + 4);
    for (
      let place = word(signatures, at) & this.mask;
      this.sources[place] !== 0;
      place = (place + 1) & this.mask
    ) {
      if (this.prints[place] === print)
        return { source: this.sources[place]! - 1, block: this.blocks[place]! };
    }
    return null;
  }
}

/** Four bytes as a number; signatures are as good as random, so any four will do. */
function word(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}
