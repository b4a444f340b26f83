/**
 * The tree that says which blocks a snapshot's disk has. A page is 1024 places, each with a signature or with nothing,
 * encoded as a page of a signature index is (`signature/index-table.ts`). A page of the lower level holds the
 * signatures of 1024 blocks, one of the upper level those of 1024 pages: a root, which a manifest names. Nothing means
 * zeros at either level, so an empty disk of any size has no page at all; and pages are objects named by their
 * contents, so two snapshots share what did not change between them.
 */

import { DriftmapError } from '../base/errors.ts';
import type { BlockCount, ByteCount } from '../base/units.ts';
import { blockCount } from '../base/units.ts';
import {
  encodePage,
  INDEX_DIGEST,
  MAX_PAGE_BYTES,
  PAGE_BITS_BYTES,
  PAGE_BLOCKS,
  ranksOf,
} from '../signature/index-table.ts';

export { MAX_PAGE_BYTES, PAGE_BLOCKS };
/** Blocks below one root. */
export const ROOT_BLOCKS: BlockCount = PAGE_BLOCKS * PAGE_BLOCKS;

export class Page {
  /** 1 where there is a signature. */
  private readonly there: Uint8Array;
  private readonly signatures: Uint8Array;

  private constructor(there: Uint8Array, signatures: Uint8Array) {
    this.there = there;
    this.signatures = signatures;
  }

  static empty(): Page {
    return new Page(new Uint8Array(PAGE_BLOCKS), new Uint8Array(PAGE_BLOCKS * INDEX_DIGEST));
  }

  /** @param places how many of the 1024 lie on the disk @throws DriftmapError `malformed` */
  static decode(bytes: Uint8Array, places: number, path: string): Page {
    const count = (bytes.length - PAGE_BITS_BYTES) / INDEX_DIGEST;
    const ranks = Number.isInteger(count) && count > 0 ? ranksOf(bytes, places, count) : null;
    if (ranks === null) {
      const reason = `expected a page with 1 to ${places} signatures, got ${bytes.length} bytes that are none`;
      throw new DriftmapError('malformed', reason, { path });
    }
    const page = Page.empty();
    for (let i = 0; i < places; i++)
      if (ranks[i]! >= 0) page.set(i, bytes.subarray(ranks[i]!, ranks[i]! + INDEX_DIGEST));
    return page;
  }

  /** Null where nothing is there. */
  encode(): Uint8Array | null {
    return encodePage(this.there, this.signatures);
  }

  clone(): Page {
    return new Page(this.there.slice(), this.signatures.slice());
  }

  has(place: number): boolean {
    return this.there[place] === 1;
  }

  /** The signature at a place, as a view; null for zeros. */
  at(place: number): Uint8Array | null {
    if (this.there[place] === 0) return null;
    return this.signatures.subarray(place * INDEX_DIGEST, (place + 1) * INDEX_DIGEST);
  }

  set(place: number, signature: Uint8Array | null): void {
    this.there[place] = signature === null ? 0 : 1;
    if (signature === null) this.signatures.fill(0, place * INDEX_DIGEST, (place + 1) * INDEX_DIGEST);
    else this.signatures.set(signature, place * INDEX_DIGEST);
  }

  isAt(place: number, signature: Uint8Array | null): boolean {
    const own = this.at(place);
    return own === null || signature === null ? own === signature : Buffer.compare(own, signature) === 0;
  }

  get count(): number {
    let count = 0;
    for (const flag of this.there) count += flag;
    return count;
  }
}

/** The tree's measures for a disk. */
export interface TreeShape {
  readonly blocks: BlockCount;
  readonly pages: number;
  readonly roots: number;
}

export function treeShape(size: ByteCount, blockSize: ByteCount): TreeShape {
  const blocks = blockCount(size, blockSize);
  const pages = Math.ceil(blocks / PAGE_BLOCKS);
  return { blocks, pages, roots: Math.ceil(pages / PAGE_BLOCKS) };
}

/** Places of a page that lie on the disk. */
export function placesOfPage({ blocks }: TreeShape, page: number): number {
  return Math.min(PAGE_BLOCKS, blocks - page * PAGE_BLOCKS);
}

/** The same of a root. */
export function placesOfRoot({ pages }: TreeShape, root: number): number {
  return Math.min(PAGE_BLOCKS, pages - root * PAGE_BLOCKS);
}
