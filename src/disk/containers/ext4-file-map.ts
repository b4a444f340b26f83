/**
 * An extent map made of the runs of blocks that an inode's tree or table gives, in rising order. What lies
 * between runs are holes; what lies past the file's size is cut. Where the journal brings a newer copy of a
 * block of data (`data=journal`), the map leads to that copy, which lies on the same unit.
 */

import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import type { Inode } from './ext4-inode.ts';
import type { Metadata } from './ext4-metadata.ts';
import type { ReplayedBlocks } from './ext4-replayed.ts';

export class FileMapBuilder {
  private readonly metadata: Metadata;
  private readonly inode: Inode;
  private readonly replayed: ReplayedBlocks;
  private readonly builder = new ExtentMapBuilder();
  private readonly blockSize: ByteCount;

  /** The run being joined, in blocks; of no length at first. */
  private logical = 0;
  private physical = 0;
  private count = 0;
  private unwritten = false;

  /** @param replayed what the journal brings; nothing, for who reads through `Metadata` anyway */
  constructor(metadata: Metadata, inode: Inode, replayed: ReplayedBlocks) {
    this.metadata = metadata;
    this.inode = inode;
    this.replayed = replayed;
    this.blockSize = metadata.superblock.blockSize;
  }

  /**
   * Adds a run of blocks, which begins where the last one ended or later.
   * @param unwritten allocated and never written: reads as zeros, whatever is there
   */
  add(logical: number, physical: number, count: number, unwritten: boolean): void {
    const continues =
      unwritten === this.unwritten &&
      logical === this.logical + this.count &&
      physical === this.physical + this.count;
    if (continues) {
      this.count += count;
      return;
    }
    this.flush();
    this.logical = logical;
    this.physical = physical;
    this.count = count;
    this.unwritten = unwritten;
  }

  /** Exactly as long as the file is said to be. */
  finish(): ExtentMap {
    this.flush();
    this.hole(this.inode.size);
    return this.builder.finish();
  }

  private flush(): void {
    const { logical, physical, count } = this;
    this.count = 0;
    if (count === 0 || logical * this.blockSize >= this.inode.size) return;
    this.hole(logical * this.blockSize);
    if (this.unwritten) {
      this.append(Kind.zero, count * this.blockSize, physical * this.blockSize);
      return;
    }
    const { replayed } = this;
    let done = physical;
    for (let i = replayed.indexFrom(physical); i < replayed.count; i++) {
      const block = replayed.blockOf(i);
      if (block >= physical + count) break;
      this.append(Kind.data, (block - done) * this.blockSize, done * this.blockSize);
      if (replayed.isEscaped(i)) this.refuseEscaped(block);
      this.append(Kind.data, this.blockSize, replayed.placeOf(i));
      done = block + 1;
    }
    this.append(Kind.data, (physical + count - done) * this.blockSize, done * this.blockSize);
  }

  private hole(end: ByteOffset): void {
    this.append(Kind.zero, end - this.builder.size, -1);
  }

  private append(kind: Kind, length: ByteCount, place: ByteOffset): void {
    const offset = this.builder.size;
    const inside = Math.min(length, this.inode.size - offset);
    if (inside > 0) this.builder.append({ offset, length: inside, kind, unit: 0, place, depth: 0 });
  }

  private refuseEscaped(block: number): void {
    if (this.builder.size >= this.inode.size) return;
    const reason = `inode ${this.inode.number}: the newest contents of its block ${block} lie in the journal, begin as the journal's own blocks do and are not stored there as they are: let e2fsck or a mount replay the journal`;
    throw this.metadata.unsupported(block * this.blockSize, reason);
  }
}
