/** How everything behind the superblock is read: by blocks, through what the journal brings, with a small cache. */

import { DriftmapError } from '../../base/errors.ts';
import { EXT4_CACHE_BYTES, EXT4_MAX_MAP_BYTES } from '../../base/limits.ts';
import type { ByteOffset } from '../../base/units.ts';
import type { ByteSource } from '../formats/byte-source.ts';
import { NOTHING_REPLAYED, type ReplayedBlocks } from './ext4-replayed.ts';
import { ext4Fault, type Superblock } from './ext4-superblock.ts';

/** The first bytes of a journal's own blocks, big-endian. */
export const JOURNAL_MAGIC = 0xc03b3998;

export class Metadata implements ByteSource {
  readonly name: string;
  readonly size: number;
  readonly superblock: Superblock;
  readonly replayed: ReplayedBlocks;
  private readonly source: ByteSource;
  private readonly cached = new Map<number, Uint8Array>();
  private readonly mostCached: number;

  constructor(source: ByteSource, superblock: Superblock, replayed: ReplayedBlocks = NOTHING_REPLAYED) {
    this.name = source.name;
    this.size = source.size;
    this.source = source;
    this.superblock = superblock;
    this.replayed = replayed;
    this.mostCached = Math.max(16, EXT4_CACHE_BYTES / superblock.blockSize);
  }

  /** Fills `target` from an offset of the file system, as it would be after the journal's replay. */
  read(offset: ByteOffset, target: Uint8Array): undefined | Promise<undefined> {
    const { replayed, superblock } = this;
    const first = Math.floor(offset / superblock.blockSize);
    const next = replayed.indexFrom(first);
    const end = offset + target.length;
    if (next === replayed.count || replayed.blockOf(next) * superblock.blockSize >= end) {
      return this.source.read(offset, target);
    }
    return this.readPatched(offset, target, next);
  }

  /** `next` is the first replayed block that the range meets. */
  private async readPatched(offset: ByteOffset, target: Uint8Array, next: number): Promise<undefined> {
    const { replayed, source } = this;
    const { blockSize } = this.superblock;
    const end = offset + target.length;
    const pending = source.read(offset, target);
    if (pending) await pending;
    for (let i = next; i < replayed.count; i++) {
      const start = replayed.blockOf(i) * blockSize;
      if (start >= end) break;
      const bytes = new Uint8Array(blockSize);
      const waiting = source.read(replayed.placeOf(i), bytes);
      if (waiting) await waiting;
      if (replayed.isEscaped(i)) new DataView(bytes.buffer).setUint32(0, JOURNAL_MAGIC);
      const from = Math.max(start, offset);
      const to = Math.min(start + blockSize, end);
      target.set(bytes.subarray(from - start, to - start), from - offset);
    }
    return undefined;
  }

  /** Reads `target.length` bytes from a block on, naming what is read. @throws DriftmapError `malformed` past the end */
  async readBlocks(what: string, block: number, target: Uint8Array): Promise<void> {
    const { blockSize, blockCount } = this.superblock;
    const count = Math.ceil(target.length / blockSize);
    if (block + count > blockCount) {
      const reason = `${what} in block ${block} lies past the file system's ${blockCount} blocks`;
      throw ext4Fault(this.name, block * blockSize, reason);
    }
    const pending = this.read(block * blockSize, target);
    if (pending) await pending;
  }

  /** One block. It stays in the cache: it is not the caller's to change. */
  async block(what: string, block: number): Promise<Uint8Array> {
    const known = this.cached.get(block);
    if (known !== undefined) {
      this.cached.delete(block);
      this.cached.set(block, known);
      return known;
    }
    const bytes = new Uint8Array(this.superblock.blockSize);
    await this.readBlocks(what, block, bytes);
    this.cached.set(block, bytes);
    if (this.cached.size > this.mostCached) this.cached.delete(this.cached.keys().next().value!);
    return bytes;
  }

  /** Damage, with the place where it is. */
  fault(offset: ByteOffset, reason: string): DriftmapError {
    return ext4Fault(this.name, offset, reason);
  }

  unsupported(offset: ByteOffset, reason: string): DriftmapError {
    return new DriftmapError('unsupported', `ext4: ${reason}`, { path: this.name, offset });
  }
}

/** A file's map cost more reading than any file's can. */
export function mapTooLarge(metadata: Metadata, inode: number): DriftmapError {
  const reason = `ext4: inode ${inode} has more than ${EXT4_MAX_MAP_BYTES} bytes of mapping metadata; e2fsck -n tells more`;
  return new DriftmapError('limit', reason, { path: metadata.name });
}
