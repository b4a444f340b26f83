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

import type { BlockIndex, ByteCount, ByteOffset } from '../base/units.ts';
import { Cursor } from '../mapping/cursor.ts';
import { Kind } from '../mapping/extent-map.ts';
import { type IndexedSignature, IndexReader } from '../signature/index-file.ts';
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

/** A signature that an index has, and where in it. */
interface Found {
  reader: IndexReader;
  block: BlockIndex;
  signature: IndexedSignature;
}

export class IndexedSide {
  /** Bytes of blocks whose signature came from an index. */
  indexedBytes: ByteCount = 0;
  sampledBlocks = 0;
  readonly side: Side;
  private readonly parts: IndexedSideParts;
  private readonly cursor: Cursor;
  private readonly ofDisk: IndexReader | null;
  private readonly ofUnits: readonly (IndexReader | null)[];
  private readonly zeroSignatures = new Map<ByteCount, Uint8Array>();
  private readonly found: Found | null;

  constructor(parts: IndexedSideParts) {
    const { ofDisk, ofUnits } = parts.indexes;
    this.parts = parts;
    this.side = parts.side;
    this.cursor = new Cursor(parts.side.disk.map);
    this.ofDisk = ofDisk ? new IndexReader(ofDisk) : null;
    this.ofUnits = ofUnits.map((handle) => (handle ? new IndexReader(handle) : null));
    const some = this.ofDisk ?? this.ofUnits.find((reader) => reader !== null);
    this.found = some ? { reader: some, block: 0, signature: 'zero' } : null;
  }

  /** Puts the signatures of `count` blocks from `first` on, at most a piece of the slot, to `out` in the slot. */
  async signatures(first: BlockIndex, count: number, out: number): Promise<void> {
    const { blockSize, size, bench } = this.parts;
    let unsigned = -1;
    for (let i = 0; i < count; i++) {
      const offset = (first + i) * blockSize;
      const length = Math.min(blockSize, size - offset);
      const pending = this.known(offset, length);
      const known = pending instanceof Promise ? await pending : pending;
      if (known === null) {
        if (unsigned < 0) unsigned = i;
        continue;
      }
      if (unsigned >= 0) await this.sign(first + unsigned, i - unsigned, out + unsigned * INDEX_DIGEST);
      unsigned = -1;
      bench.bytes.set(known, out + i * INDEX_DIGEST);
    }
    if (unsigned >= 0) await this.sign(first + unsigned, count - unsigned, out + unsigned * INDEX_DIGEST);
  }

  /** The signature of a block as far as it need not be computed; a promise only where something has to be waited for. */
  private known(offset: ByteOffset, length: ByteCount): Uint8Array | null | Promise<Uint8Array | null> {
    const zero = this.side.zeroUntil(offset, offset + length);
    if (typeof zero === 'number') return this.knownFrom(zero, offset, length);
    return zero.then((until) => this.knownFrom(until, offset, length));
  }

  private knownFrom(
    zeroUntil: ByteOffset,
    offset: ByteOffset,
    length: ByteCount,
  ): Uint8Array | null | Promise<Uint8Array> {
    const { blockSize, sampling, salt } = this.parts;
    if (zeroUntil >= offset + length) return this.zeros(length);
    const found = this.lookUp(offset, length);
    if (found === null) return null;
    const signature = found.signature === 'zero' ? this.zeros(length) : found.signature;
    this.indexedBytes += length;
    if (!isSampled(sampling, offset / blockSize, salt)) return signature;
    return this.verified(offset, length, signature.slice(), found);
  }

  private lookUp(offset: ByteOffset, length: ByteCount): Found | null {
    const { ofDisk, ofUnits, found, cursor } = this;
    const { blockSize } = this.parts;
    const { disk } = this.side;
    if (found === null || offset + length > disk.size) return null;
    if (ofDisk && length === Math.min(blockSize, disk.size - offset))
      return look(found, ofDisk, offset / blockSize);
    const { map } = disk;
    const index = cursor.seek(offset);
    if (map.kindOf(index) !== Kind.data || map.endOf(index) < offset + length) return null;
    const reader = ofUnits[map.unitOf(index)] ?? null;
    if (reader === null) return null;
    const place = map.placeOf(index) + (offset - map.startOf(index));
    const unitSize = reader.handle.header.size;
    if (place % blockSize !== 0 || length !== Math.min(blockSize, unitSize - place)) return null;
    return look(found, reader, place / blockSize);
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

  /** Reads a block that was sampled; returns the index's signature when the bytes have it too. */
  private async verified(
    offset: ByteOffset,
    length: ByteCount,
    expected: Uint8Array,
    { reader, block }: Found,
  ): Promise<Uint8Array> {
    await this.bring(offset, length);
    this.sampledBlocks++;
    if (Buffer.compare(this.signedAlone(length), expected) === 0) return expected;
    throw verificationFailed(reader.handle.path, block, { offset, length }, this.side.disk.name);
  }

  /** The signature of the one block that is in the buffer. */
  private signedAlone(length: ByteCount): Uint8Array {
    const { bench, layout } = this.parts;
    const out = layout.flags - LONE_SIGNATURE;
    bench.signer!.sign(layout.buffer, length, 1, out);
    return bench.bytes.slice(out, out + INDEX_DIGEST);
  }

  /** The constant signature of so many zeros. */
  private zeros(length: ByteCount): Uint8Array {
    let signature = this.zeroSignatures.get(length);
    if (signature === undefined) {
      const { bench, layout } = this.parts;
      bench.bytes.fill(0, layout.buffer, layout.buffer + length);
      signature = this.signedAlone(length);
      this.zeroSignatures.set(length, signature);
    }
    return signature;
  }
}

/** `found` with the index's word on a block; it is used again from block to block. */
function look(found: Found, reader: IndexReader, block: BlockIndex): Found {
  found.reader = reader;
  found.block = block;
  found.signature = reader.signature(block);
  return found;
}
