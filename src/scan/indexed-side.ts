/**
 * One side of a scan that has indexes: the signatures of its blocks, from the cheapest source that is sure.
 *
 *   known zero (map, holes)                     the constant signature of zeros
 *   an index of this very disk                  the index's
 *   one aligned run of data on an indexed unit  the index's, at the physical block
 *   anything else                               read and signed
 *
 * A physical block counts only when it is the whole virtual block: one plain extent, a place that is a multiple of
 * the block size, and as many bytes in the index's block as in the virtual one (the last block of either may be
 * short). A block that is gathered from pieces, compressed or shifted is read.
 */

import { INDEX_PAGES_KEPT } from '../base/limits.ts';
import type { BlockIndex, ByteCount, ByteOffset } from '../base/units.ts';
import type { Completion } from '../lu/logical-unit.ts';
import { Cursor } from '../mapping/cursor.ts';
import { Kind } from '../mapping/extent-map.ts';
import { IndexReader } from '../signature/index-file.ts';
import { INDEX_DIGEST } from '../signature/index-table.ts';
import type { Bench } from './benches.ts';
import { verificationFailed } from './page-signer.ts';
import { isSampled, type Sampling } from './sampling.ts';
import type { SideIndexes } from './scan-indexes.ts';
import type { Side } from './side.ts';
import type { SlotLayout } from './slot-layout.ts';

export interface IndexedSideParts {
  readonly side: Side;
  readonly indexes: SideIndexes;
  readonly sampling: Sampling;
  /** Tells the two sides' samples apart. */
  readonly salt: number;
  readonly blockSize: ByteCount;
  /** Of the comparison: the larger disk's. */
  readonly size: ByteCount;
  readonly bench: Bench;
  readonly layout: SlotLayout;
}

/** In the gap of the slot before the flags: room for one signature that belongs to no piece. */
const LONE_SIGNATURE = 64;

export class IndexedSide {
  /** Bytes of blocks whose signature came from an index. */
  indexedBytes: ByteCount = 0;
  sampledBlocks = 0;
  readonly side: Side;
  private readonly parts: IndexedSideParts;
  private readonly cursor: Cursor;
  private readonly ofDisk: IndexReader | null;
  private readonly ofUnits: readonly (IndexReader | null)[];
  /** The slot's memory in words, for signatures to be copied into. */
  private readonly words: Uint32Array;
  /** Signatures of so many zeros. */
  private readonly zeroSignatures = new Map<ByteCount, Uint32Array>();
  /** What `lookUp` found: an index, and the number of the block in it. */
  private reader: IndexReader | null = null;
  private indexBlock: BlockIndex = 0;

  constructor(parts: IndexedSideParts) {
    const { ofDisk, ofUnits } = parts.indexes;
    this.parts = parts;
    this.side = parts.side;
    this.cursor = new Cursor(parts.side.disk.map);
    const readers = ofUnits.filter((handle) => handle !== null).length + (ofDisk ? 1 : 0);
    const most = Math.max(2, Math.floor(INDEX_PAGES_KEPT / Math.max(1, readers)));
    this.ofDisk = ofDisk ? new IndexReader(ofDisk, most) : null;
    this.ofUnits = ofUnits.map((handle) => (handle ? new IndexReader(handle, most) : null));
    this.words = new Uint32Array(parts.bench.bytes.buffer);
  }

  /**
   * Puts the signatures of `count` blocks from `first` on, at most a piece of the slot, to `out` in the slot. A
   * promise only where something has to be read, or a unit has to wait.
   */
  signatures(first: BlockIndex, count: number, out: number): Completion {
    const { blockSize, size } = this.parts;
    for (let i = 0; i < count; i++) {
      const offset = (first + i) * blockSize;
      const isThere = this.put(offset, Math.min(blockSize, size - offset), out + i * INDEX_DIGEST);
      if (isThere !== true) return this.signRest(first, count, out, i, isThere);
    }
    return undefined;
  }

  /** The rest of `signatures`, from the block `from` on, of which is known already whether its signature is there. */
  private async signRest(
    first: BlockIndex,
    count: number,
    out: number,
    from: number,
    isThere: boolean | Promise<boolean>,
  ): Promise<undefined> {
    const { blockSize, size } = this.parts;
    let unsigned = -1;
    for (let i = from, there = isThere; ; ) {
      if (await there) {
        if (unsigned >= 0) await this.sign(first + unsigned, i - unsigned, out + unsigned * INDEX_DIGEST);
        unsigned = -1;
      } else if (unsigned < 0) {
        unsigned = i;
      }
      i++;
      if (i === count) break;
      const offset = (first + i) * blockSize;
      there = this.put(offset, Math.min(blockSize, size - offset), out + i * INDEX_DIGEST);
    }
    if (unsigned >= 0) await this.sign(first + unsigned, count - unsigned, out + unsigned * INDEX_DIGEST);
  }

  /** Puts a block's signature to `out` where it need not be computed; false where it must be. */
  private put(offset: ByteOffset, length: ByteCount, out: number): boolean | Promise<boolean> {
    const zero = this.side.zeroUntil(offset, offset + length);
    if (typeof zero === 'number') return this.putFrom(zero, offset, length, out);
    return zero.then((until) => this.putFrom(until, offset, length, out));
  }

  private putFrom(
    zeroUntil: ByteOffset,
    offset: ByteOffset,
    length: ByteCount,
    out: number,
  ): boolean | Promise<boolean> {
    const { blockSize, sampling, salt } = this.parts;
    if (zeroUntil >= offset + length) {
      this.words.set(this.zeros(length), out / 4);
      return true;
    }
    if (!this.lookUp(offset, length)) return false;
    const isNonzero = this.reader!.copySignature(this.indexBlock, this.words, out / 4);
    if (!isNonzero) this.words.set(this.zeros(length), out / 4);
    this.indexedBytes += length;
    return isSampled(sampling, offset / blockSize, salt) ? this.verify(offset, length, out) : true;
  }

  /** Finds the index that has a block as one of its own. */
  private lookUp(offset: ByteOffset, length: ByteCount): boolean {
    const { ofDisk, ofUnits, cursor } = this;
    const { blockSize } = this.parts;
    const { disk } = this.side;
    if (offset + length > disk.size) return false;
    if (ofDisk && length === Math.min(blockSize, disk.size - offset)) {
      this.reader = ofDisk;
      this.indexBlock = offset / blockSize;
      return true;
    }
    const { map } = disk;
    const index = cursor.seek(offset);
    if (map.kindOf(index) !== Kind.data || map.endOf(index) < offset + length) return false;
    const reader = ofUnits[map.unitOf(index)] ?? null;
    if (reader === null) return false;
    const place = map.placeOf(index) + (offset - map.startOf(index));
    const unitSize = reader.handle.header.size;
    if (place % blockSize !== 0 || length !== Math.min(blockSize, unitSize - place)) return false;
    this.reader = reader;
    this.indexBlock = place / blockSize;
    return true;
  }

  private async sign(first: BlockIndex, count: number, out: number): Promise<void> {
    const { blockSize, size, layout, bench } = this.parts;
    const offset = first * blockSize;
    const length = Math.min(count * blockSize, size - offset);
    await this.bring(offset, length);
    const full = Math.floor(length / blockSize);
    const tail = length - full * blockSize;
    const { buffer } = layout;
    if (full) bench.signer!.sign(buffer, blockSize, full, out);
    if (tail) bench.signer!.sign(buffer + full * blockSize, tail, 1, out + full * INDEX_DIGEST);
  }

  private async bring(offset: ByteOffset, length: ByteCount): Promise<void> {
    const { bench, layout } = this.parts;
    const pending = this.side.read(offset, bench.bytes.subarray(layout.buffer, layout.buffer + length));
    if (pending) await pending;
  }

  /** Reads a block that was sampled, whose signature by the index is at `out`. */
  private async verify(offset: ByteOffset, length: ByteCount, out: number): Promise<boolean> {
    const { reader, indexBlock } = this;
    const { bench, layout } = this.parts;
    await this.bring(offset, length);
    this.sampledBlocks++;
    const alone = layout.flags - LONE_SIGNATURE;
    bench.signer!.sign(layout.buffer, length, 1, alone);
    if (bench.kernels.differing(alone, out, INDEX_DIGEST, 1, layout.flags) === 0) return true;
    throw verificationFailed(reader!.handle.path, indexBlock, { offset, length }, this.side.disk.name);
  }

  /** The constant signature of so many zeros. */
  private zeros(length: ByteCount): Uint32Array {
    let signature = this.zeroSignatures.get(length);
    if (signature === undefined) {
      const { bench, layout } = this.parts;
      const alone = layout.flags - LONE_SIGNATURE;
      bench.bytes.fill(0, layout.buffer, layout.buffer + length);
      bench.signer!.sign(layout.buffer, length, 1, alone);
      signature = this.words.slice(alone / 4, (alone + INDEX_DIGEST) / 4);
      this.zeroSignatures.set(length, signature);
    }
    return signature;
  }
}
