/**
 * Blocks of a file system whose newest contents lie in its journal: what a replay would copy. They are not
 * copied here but read where they are, so a replay costs memory for two numbers a block, whatever it brings.
 */

import type { ByteOffset } from '../../base/units.ts';

export class ReplayedBlocks {
  /** Blocks of the file system, ascending, each once. */
  private readonly blocks: Float64Array;
  /** Offset on the unit of each block's contents. */
  private readonly places: Float64Array;
  /** 1 where the journal holds zeros for the block's first four bytes, because they are its own magic number. */
  private readonly escapes: Uint8Array;

  /** @param entries block, then its place and whether it is escaped */
  constructor(entries: ReadonlyMap<number, { readonly place: ByteOffset; readonly escaped: boolean }>) {
    this.blocks = Float64Array.from(entries.keys()).sort();
    this.places = new Float64Array(this.blocks.length);
    this.escapes = new Uint8Array(this.blocks.length);
    for (let i = 0; i < this.blocks.length; i++) {
      const { place, escaped } = entries.get(this.blocks[i]!)!;
      this.places[i] = place;
      this.escapes[i] = Number(escaped);
    }
  }

  get count(): number {
    return this.blocks.length;
  }

  /** Index of the first block that is `block` or comes after it; `count` where there is none. */
  indexFrom(block: number): number {
    const { blocks } = this;
    let low = 0;
    let high = blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (blocks[middle]! < block) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  blockOf(index: number): number {
    return this.blocks[index]!;
  }
  placeOf(index: number): ByteOffset {
    return this.places[index]!;
  }
  isEscaped(index: number): boolean {
    return this.escapes[index] === 1;
  }
}

/** Without a journal, or with one that was closed. */
export const NOTHING_REPLAYED = new ReplayedBlocks(new Map());
