/** Inodes as what they hold: maps of regular files, contents of directories, targets of symbolic links. */

import { DriftmapError } from '../../base/errors.ts';
import { EXT4_MAX_SYMLINK_BYTES } from '../../base/limits.ts';
import type { ByteOffset } from '../../base/units.ts';
import { type ExtentMap, Kind } from '../../mapping/extent-map.ts';
import { type DirectoryEntry, readDirectory } from './ext4-directory.ts';
import { readExtentTree } from './ext4-extents.ts';
import { FileMapBuilder } from './ext4-file-map.ts';
import { readIndirectBlocks } from './ext4-indirect.ts';
import { inlineMap, readInline } from './ext4-inline.ts';
import { I_BLOCK_AT, I_BLOCK_BYTES, type Inode, InodeFlag, InodeReader } from './ext4-inode.ts';
import type { Metadata } from './ext4-metadata.ts';
import { NOTHING_REPLAYED, type ReplayedBlocks } from './ext4-replayed.ts';
import { has, Incompat } from './ext4-superblock.ts';

export class Files {
  readonly metadata: Metadata;
  private readonly inodes: InodeReader;

  constructor(metadata: Metadata) {
    this.metadata = metadata;
    this.inodes = new InodeReader(metadata);
  }

  /** @param from where the number stands, for messages */
  inode(number: number, from: ByteOffset): Promise<Inode> {
    return this.inodes.read(number, from);
  }

  /**
   * Where a regular file's bytes are on the unit, the journal's copies among them.
   * @param path for messages
   * @throws DriftmapError `unsupported` for an encrypted file and for one that cannot be mapped before the
   *   journal is replayed; `malformed`, `limit`
   */
  async map(inode: Inode, path: string): Promise<ExtentMap> {
    if (has(inode.flags, InodeFlag.encrypted)) {
      const reason = `${path} is encrypted: its contents cannot be read without its key`;
      throw this.metadata.unsupported(inode.offset, reason);
    }
    if (this.isInline(inode)) {
      this.checkSize(inode);
      return inlineMap(this.metadata, inode);
    }
    return this.blockMap(inode, this.metadata.replayed);
  }

  /** Where the bytes of a directory, a symbolic link or the journal are in the file system. */
  async innerMap(inode: Inode): Promise<ExtentMap> {
    return this.blockMap(inode, NOTHING_REPLAYED);
  }

  private async blockMap(inode: Inode, replayed: ReplayedBlocks): Promise<ExtentMap> {
    const { metadata } = this;
    this.checkSize(inode);
    const builder = new FileMapBuilder(metadata, inode, replayed);
    if (!has(inode.flags, InodeFlag.extents)) await readIndirectBlocks(metadata, inode, builder);
    else if (has(metadata.superblock.incompat, Incompat.extents)) {
      await readExtentTree(metadata, inode, builder);
    } else {
      const reason = `inode ${inode.number} has extents, and the file system does not have that feature`;
      throw metadata.fault(inode.offset + 0x20, reason);
    }
    return builder.finish();
  }

  /** Blocks of a file are counted in 32 bits. */
  private checkSize({ number, size, offset }: Inode): void {
    const most = Math.min(2 ** 32 * this.metadata.superblock.blockSize, Number.MAX_SAFE_INTEGER);
    if (size <= most) return;
    const reason = `inode ${number}: expected a size of at most ${most} bytes, got ${size}`;
    throw this.metadata.fault(offset + 4, reason);
  }

  private isInline(inode: Inode): boolean {
    if (!has(inode.flags, InodeFlag.inlineData)) return false;
    if (has(this.metadata.superblock.incompat, Incompat.inlineData)) return true;
    const reason = `inode ${inode.number} has inline data, and the file system does not have that feature`;
    throw this.metadata.fault(inode.offset + 0x20, reason);
  }

  /** The names in a directory, in pieces. */
  async *entries(directory: Inode): AsyncGenerator<readonly DirectoryEntry[], undefined> {
    const map = this.isInline(directory) ? null : await this.innerMap(directory);
    yield* readDirectory(this.metadata, directory, map);
  }

  /** A symbolic link's target. */
  async target(link: Inode, path: string): Promise<Uint8Array> {
    const { metadata } = this;
    if (has(link.flags, InodeFlag.encrypted)) {
      throw metadata.unsupported(link.offset, `${path} is encrypted: its target cannot be read`);
    }
    if (link.size === 0 || link.size > EXT4_MAX_SYMLINK_BYTES) {
      const reason = `${path}: expected a target of 1 to ${EXT4_MAX_SYMLINK_BYTES} bytes, got ${link.size}`;
      throw metadata.fault(link.offset + 4, reason);
    }
    if (this.isInline(link)) return readInline(metadata, link);
    if (link.size < I_BLOCK_BYTES) return link.bytes.subarray(I_BLOCK_AT, I_BLOCK_AT + link.size);
    const bytes = new Uint8Array(link.size);
    for (const { offset, length, place, kind } of (await this.innerMap(link)).extents()) {
      if (kind !== Kind.data) throw metadata.fault(link.offset, `${path}: its target has a hole`);
      const pending = metadata.read(place, bytes.subarray(offset, offset + length));
      if (pending) await pending;
    }
    return bytes;
  }

  /** An error about a path that was asked for. */
  refusal(kind: 'not-found' | 'argument' | 'limit', reason: string): DriftmapError {
    return new DriftmapError(kind, `ext4: ${reason}`, { path: this.metadata.name });
  }
}
