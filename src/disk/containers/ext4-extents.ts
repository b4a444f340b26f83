/**
 * Extent trees (Linux kernel, Documentation/filesystems/ext4/ifork.rst, "Extent Tree"). The root is in the
 * inode, with up to four entries; every other node fills a block and ends with a checksum. Entries of an index
 * node lead to nodes one level lower; those of a leaf are runs of up to 32,768 blocks.
 *
 * Levels fall by one from node to node, so a tree that leads back into itself ends; and the entries of a node
 * stay within what its parent gave it, so no node with entries is walked twice.
 */

import { EXT4_MAX_MAP_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { viewOf } from '../formats/byte-source.ts';
import { ext4Crc } from './ext4-checksum.ts';
import type { FileMapBuilder } from './ext4-file-map.ts';
import { I_BLOCK_AT, I_BLOCK_BYTES, type Inode } from './ext4-inode.ts';
import { type Metadata, mapTooLarge } from './ext4-metadata.ts';
import { hex } from './ext4-superblock.ts';

const MAGIC = 0xf30a;
const ENTRY = 12;
const HEADER = 12;
/** EXT4_MAX_EXTENT_DEPTH */
const MOST_DEPTH = 5;
/** Lengths above this are those of unwritten runs. */
const MOST_WRITTEN = 32768;
/** Logical blocks are counted in 32 bits. */
const END_OF_BLOCKS = 2 ** 32;

/** Hands all runs of an inode with the `extents` flag to `to`. @throws DriftmapError `malformed`, `limit` */
export async function readExtentTree(metadata: Metadata, inode: Inode, to: FileMapBuilder): Promise<void> {
  const bytes = inode.bytes.subarray(I_BLOCK_AT, I_BLOCK_AT + I_BLOCK_BYTES);
  const walker = new TreeWalker(metadata, inode, to);
  const root: Node = { bytes, offset: inode.offset + I_BLOCK_AT, depth: null, from: 0, to: END_OF_BLOCKS };
  await walker.walk(root);
}

interface Node {
  readonly bytes: Uint8Array;
  /** In the file system. */
  readonly offset: ByteOffset;
  /** What its parent makes it; null at the root. */
  readonly depth: number | null;
  /** The logical blocks that its parent gave it. */
  readonly from: number;
  readonly to: number;
}

class TreeWalker {
  private readonly metadata: Metadata;
  private readonly inode: Inode;
  private readonly to: FileMapBuilder;
  private bytesRead: ByteCount = 0;

  constructor(metadata: Metadata, inode: Inode, to: FileMapBuilder) {
    this.metadata = metadata;
    this.inode = inode;
    this.to = to;
  }

  async walk(node: Node): Promise<void> {
    const view = viewOf(node.bytes);
    const depth = this.checkHeader(node, view);
    if (depth === 0) this.addRuns(node, view);
    else await this.descend(node, view, depth);
  }

  private checkHeader({ bytes, offset, depth }: Node, view: DataView): number {
    const magic = view.getUint16(0, true);
    if (magic !== MAGIC) throw this.fault(offset, `expected an extent header (f30a), got ${hex(magic)}`);
    const entries = view.getUint16(2, true);
    const most = view.getUint16(4, true);
    const fits = Math.floor((bytes.length - HEADER) / ENTRY);
    if (most === 0 || most > fits || entries > most) {
      throw this.fault(offset + 2, `expected at most ${fits} extents in a node, got ${entries} of ${most}`);
    }
    const got = view.getUint16(6, true);
    if (depth === null ? got > MOST_DEPTH : got !== depth) {
      const expected = depth === null ? `at most ${MOST_DEPTH}` : String(depth);
      throw this.fault(offset + 6, `expected an extent node of depth ${expected}, got ${got}`);
    }
    if (entries === 0 && got > 0) throw this.fault(offset + 2, 'expected entries in an index node, got none');
    if (depth !== null) this.checkChecksum(bytes, view, offset, HEADER + most * ENTRY);
    return got;
  }

  /** checksums.rst, "Extents": of the node up to its tail, which follows the last entry that there could be. */
  private checkChecksum(bytes: Uint8Array, view: DataView, offset: ByteOffset, tail: ByteCount): void {
    if (!this.metadata.superblock.hasChecksums) return;
    if (tail + 4 > bytes.length) throw this.fault(offset + 4, 'expected room for a checksum, got none');
    const expected = ext4Crc(this.inode.seed, bytes.subarray(0, tail));
    const got = view.getUint32(tail, true);
    if (got === expected) return;
    throw this.fault(
      offset + tail,
      `expected an extent node with checksum ${hex(expected)}, got ${hex(got)}`,
    );
  }

  private addRuns({ offset, from, to }: Node, view: DataView): void {
    const { blockCount, firstDataBlock } = this.metadata.superblock;
    const entries = view.getUint16(2, true);
    let end = from;
    for (let i = 0; i < entries; i++) {
      const at = HEADER + i * ENTRY;
      const logical = view.getUint32(at, true);
      const length = view.getUint16(at + 4, true);
      const unwritten = length > MOST_WRITTEN;
      const count = unwritten ? length - MOST_WRITTEN : length;
      const physical = view.getUint16(at + 6, true) * 2 ** 32 + view.getUint32(at + 8, true);
      if (count === 0) throw this.fault(offset + at + 4, 'expected a run of blocks, got an empty one');
      if (logical < end || logical + count > to) {
        const reason = `expected a run within blocks ${end} to ${to} of the file, got ${count} at ${logical}`;
        throw this.fault(offset + at, reason);
      }
      if (physical <= firstDataBlock || physical + count > blockCount) {
        const reason = `expected blocks within ${firstDataBlock + 1} to ${blockCount}, got ${count} at ${physical}`;
        throw this.fault(offset + at + 6, reason);
      }
      this.to.add(logical, physical, count, unwritten);
      end = logical + count;
    }
  }

  private async descend({ offset, from, to }: Node, view: DataView, depth: number): Promise<void> {
    const { metadata } = this;
    const { blockSize, firstDataBlock } = metadata.superblock;
    const entries = view.getUint16(2, true);
    let least = from;
    for (let i = 0; i < entries; i++) {
      const at = HEADER + i * ENTRY;
      const logical = view.getUint32(at, true);
      const next = i + 1 < entries ? view.getUint32(at + ENTRY, true) : to;
      if (logical < least || logical >= next || next > to) {
        const reason = `expected rising blocks within ${least} to ${to} in an index node, got ${logical} and ${next}`;
        throw this.fault(offset + at, reason);
      }
      least = next;
      const child = view.getUint16(at + 8, true) * 2 ** 32 + view.getUint32(at + 4, true);
      if (child <= firstDataBlock) throw this.fault(offset + at + 4, `expected a node, got block ${child}`);
      this.bytesRead += blockSize;
      if (this.bytesRead > EXT4_MAX_MAP_BYTES) throw mapTooLarge(metadata, this.inode.number);
      const bytes = await metadata.block(`an extent node of inode ${this.inode.number}`, child);
      await this.walk({ bytes, offset: child * blockSize, depth: depth - 1, from: logical, to: next });
    }
  }

  private fault(offset: ByteOffset, reason: string) {
    return this.metadata.fault(offset, `inode ${this.inode.number}: ${reason}`);
  }
}
