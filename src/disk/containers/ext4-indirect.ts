/**
 * Block maps of ext2 and ext3 (Linux kernel, Documentation/filesystems/ext4/ifork.rst, "Direct/Indirect Block
 * Addressing"): twelve block numbers in the inode, then one block of numbers, one block of those, and one of
 * those again. A number of zero is a hole, at any level.
 */

import { EXT4_MAX_MAP_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { viewOf } from '../formats/byte-source.ts';
import type { FileMapBuilder } from './ext4-file-map.ts';
import { I_BLOCK_AT, I_BLOCK_BYTES, type Inode } from './ext4-inode.ts';
import { type Metadata, mapTooLarge } from './ext4-metadata.ts';

const DIRECT = 12;
const LEVELS = 3;

/** Hands all runs of an inode without the `extents` flag to `to`. @throws DriftmapError `malformed`, `limit` */
export async function readIndirectBlocks(
  metadata: Metadata,
  inode: Inode,
  to: FileMapBuilder,
): Promise<void> {
  const walker = new IndirectWalker(metadata, inode, to);
  await walker.walkInode();
}

class IndirectWalker {
  private readonly metadata: Metadata;
  private readonly inode: Inode;
  private readonly to: FileMapBuilder;
  /** Numbers in one block. */
  private readonly perBlock: number;
  /** The file's length in blocks. */
  private readonly length: number;
  /** Blocks of numbers that were read: a file has none twice, and a loop has. */
  private readonly seen = new Set<number>();
  private bytesRead: ByteCount = 0;

  constructor(metadata: Metadata, inode: Inode, to: FileMapBuilder) {
    const { blockSize } = metadata.superblock;
    this.metadata = metadata;
    this.inode = inode;
    this.to = to;
    this.perBlock = blockSize / 4;
    this.length = Math.ceil(inode.size / blockSize);
  }

  async walkInode(): Promise<void> {
    const { inode, perBlock } = this;
    const view = viewOf(inode.bytes.subarray(I_BLOCK_AT, I_BLOCK_AT + I_BLOCK_BYTES));
    const offset = inode.offset + I_BLOCK_AT;
    this.addNumbers(view, offset, 0, DIRECT);
    let first = DIRECT;
    for (let level = 1; level <= LEVELS; level++) {
      const at = 4 * (DIRECT + level - 1);
      if (first < this.length) await this.descend(view.getUint32(at, true), offset + at, first, level);
      first += perBlock ** level;
    }
    if (first < this.length) {
      const most = first * this.metadata.superblock.blockSize;
      throw this.fault(inode.offset + 4, `expected a size of at most ${most} bytes, got ${inode.size}`);
    }
  }

  /** What one number leads to at a level above the blocks of data: all of that is the file's from `first` on. */
  private async descend(block: number, at: ByteOffset, first: number, level: number): Promise<void> {
    if (block === 0) return;
    this.check(block, at);
    if (this.seen.has(block)) throw this.fault(at, `block ${block} of numbers is used twice`);
    this.seen.add(block);
    const { metadata, perBlock, length } = this;
    const { blockSize } = metadata.superblock;
    this.bytesRead += blockSize;
    if (this.bytesRead > EXT4_MAX_MAP_BYTES) throw mapTooLarge(metadata, this.inode.number);
    const view = viewOf(await metadata.block(`a block of numbers of inode ${this.inode.number}`, block));
    const offset = block * blockSize;
    if (level === 1) {
      this.addNumbers(view, offset, first, perBlock);
      return;
    }
    const step = perBlock ** (level - 1);
    for (let i = 0; i < perBlock && first + i * step < length; i++) {
      await this.descend(view.getUint32(4 * i, true), offset + 4 * i, first + i * step, level - 1);
    }
  }

  private addNumbers(view: DataView, offset: ByteOffset, first: number, count: number): void {
    const within = Math.min(count, this.length - first);
    for (let i = 0; i < within; i++) {
      const block = view.getUint32(4 * i, true);
      if (block === 0) continue;
      this.check(block, offset + 4 * i);
      this.to.add(first + i, block, 1, false);
    }
  }

  private check(block: number, at: ByteOffset): void {
    const { firstDataBlock, blockCount } = this.metadata.superblock;
    if (block > firstDataBlock && block < blockCount) return;
    throw this.fault(at, `expected a block within ${firstDataBlock + 1} to ${blockCount}, got ${block}`);
  }

  private fault(offset: ByteOffset, reason: string) {
    return this.metadata.fault(offset, `inode ${this.inode.number}: ${reason}`);
  }
}
