/**
 * Group descriptors and inodes (Linux kernel, Documentation/filesystems/ext4/group_descr.rst and inodes.rst).
 *
 * A file system is cut into groups of blocks; a group's descriptor says where its part of the inode table is.
 * Descriptors follow the superblock, or (meta_bg) the descriptors of as many groups as fill one block stand
 * at the beginning of the first of them. Inodes are read in pieces of the table, of which a few are kept: who
 * reads them in rising order reads every piece once.
 */

import { EXT4_TABLE_READ } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { viewOf } from '../formats/byte-source.ts';
import { crc16, ext4Crc, ext4CrcOfNumber } from './ext4-checksum.ts';
import type { Metadata } from './ext4-metadata.ts';
import { Compat, has, hex, Incompat, RoCompat } from './ext4-superblock.ts';

/** The part of `i_mode` that says what a file is. */
export const FileType = {
  fifo: 0x1000,
  character: 0x2000,
  directory: 0x4000,
  block: 0x6000,
  regular: 0x8000,
  symlink: 0xa000,
  socket: 0xc000,
} as const;

/** `i_flags`. */
export const InodeFlag = {
  encrypted: 0x800,
  extents: 0x80000,
  inlineData: 0x10000000,
} as const;

export const ROOT_INODE = 2;
/** Of the inode as it always was; what follows is the extra part. */
const OLD_INODE = 128;
/** `i_block`: 15 block numbers, the root of an extent tree, a short symlink or inline data. */
export const I_BLOCK_AT = 0x28;
export const I_BLOCK_BYTES = 60;
const CHECKSUM_LOW_AT = 0x7c;
const CHECKSUM_HIGH_AT = 0x82;
const KEPT_PIECES = 32;

export interface Inode {
  readonly number: number;
  /** Where it lies in the file system. */
  readonly offset: ByteOffset;
  readonly mode: number;
  readonly type: number;
  readonly flags: number;
  readonly size: ByteCount;
  readonly links: number;
  /** All of it. */
  readonly bytes: Uint8Array;
  /** Bytes of the extra part that are in use. */
  readonly extra: ByteCount;
  /** What checksums of this inode's own blocks begin with. */
  readonly seed: number;
}

interface InodeTable {
  readonly offset: ByteOffset;
  /** Inodes from this index on were never used. */
  readonly used: number;
}

export class InodeReader {
  private readonly metadata: Metadata;
  private readonly tables = new Map<number, InodeTable>();
  private readonly pieces = new Map<ByteOffset, Uint8Array>();

  constructor(metadata: Metadata) {
    this.metadata = metadata;
  }

  /**
   * @param from where the number stands, for messages
   * @throws DriftmapError `malformed` for a number that is none, an inode that is not in use, a wrong checksum
   */
  async read(number: number, from: ByteOffset): Promise<Inode> {
    const { metadata } = this;
    const { inodeCount, inodesPerGroup, inodeSize } = metadata.superblock;
    if (number < 1 || number > inodeCount) {
      throw metadata.fault(from, `expected an inode from 1 to ${inodeCount}, got ${number}`);
    }
    const group = Math.floor((number - 1) / inodesPerGroup);
    const index = (number - 1) % inodesPerGroup;
    const known = this.tables.get(group);
    const table = known ?? (await this.table(group));
    if (index >= table.used) {
      throw metadata.fault(from, `inode ${number} is named, and its group says that it was never used`);
    }
    const at = index * inodeSize;
    const start = at - (at % EXT4_TABLE_READ);
    const piece = this.pieces.get(table.offset + start) ?? (await this.piece(table.offset, start));
    const bytes = piece.subarray(at - start, at - start + inodeSize);
    return this.parse(number, table.offset + at, bytes);
  }

  /** A piece of one group's table; the end of the table ends it. */
  private async piece(table: ByteOffset, start: ByteCount): Promise<Uint8Array> {
    const { inodesPerGroup, inodeSize } = this.metadata.superblock;
    const bytes = new Uint8Array(Math.min(EXT4_TABLE_READ, inodesPerGroup * inodeSize - start));
    const pending = this.metadata.read(table + start, bytes);
    if (pending) await pending;
    this.pieces.set(table + start, bytes);
    if (this.pieces.size > KEPT_PIECES) this.pieces.delete(this.pieces.keys().next().value!);
    return bytes;
  }

  private parse(number: number, offset: ByteOffset, bytes: Uint8Array): Inode {
    const { metadata } = this;
    const view = viewOf(bytes);
    const mode = view.getUint16(0, true);
    const links = view.getUint16(0x1a, true);
    if (mode === 0 || links === 0) {
      throw metadata.fault(offset, `inode ${number} is named and is not in use`);
    }
    const extra = bytes.length > OLD_INODE ? view.getUint16(0x80, true) : 0;
    if (extra > bytes.length - OLD_INODE || extra % 4 !== 0) {
      const most = bytes.length - OLD_INODE;
      throw metadata.fault(
        offset + 0x80,
        `inode ${number}: expected 0, 4 … ${most} extra bytes, got ${extra}`,
      );
    }
    const seed = this.checkChecksum(number, offset, bytes, view, extra);
    const type = mode & 0xf000;
    const high = type === FileType.regular || has(metadata.superblock.incompat, Incompat.largeDir);
    const size = view.getUint32(0x4, true) + (high ? view.getUint32(0x6c, true) * 2 ** 32 : 0);
    const flags = view.getUint32(0x20, true);
    return { number, offset, mode, type, flags, size, links, bytes, extra, seed };
  }

  /** checksums.rst, "Inode"; returns what those of its blocks begin with. */
  private checkChecksum(
    number: number,
    offset: ByteOffset,
    bytes: Uint8Array,
    view: DataView,
    extra: ByteCount,
  ): number {
    const { hasChecksums, seed } = this.metadata.superblock;
    if (!hasChecksums) return 0;
    const own = ext4CrcOfNumber(ext4CrcOfNumber(seed, number), view.getUint32(0x64, true));
    const hasHigh = bytes.length > OLD_INODE && extra >= 4;
    const copy = bytes.slice();
    copy.fill(0, CHECKSUM_LOW_AT, CHECKSUM_LOW_AT + 2);
    if (hasHigh) copy.fill(0, CHECKSUM_HIGH_AT, CHECKSUM_HIGH_AT + 2);
    const whole = ext4Crc(own, copy);
    const expected = hasHigh ? whole : whole & 0xffff;
    const low = view.getUint16(CHECKSUM_LOW_AT, true);
    const got = hasHigh ? view.getUint16(CHECKSUM_HIGH_AT, true) * 65536 + low : low;
    if (got !== expected) {
      const reason = `inode ${number}: expected checksum ${hex(expected)}, got ${hex(got)}`;
      throw this.metadata.fault(offset + CHECKSUM_LOW_AT, reason);
    }
    return own;
  }

  private async table(group: number): Promise<InodeTable> {
    const { metadata } = this;
    const { superblock } = metadata;
    const { blockSize, descriptorSize, inodesPerGroup, inodeSize, blockCount, roCompat } = superblock;
    const perBlock = blockSize / descriptorSize;
    const block = descriptorBlock(metadata, Math.floor(group / perBlock));
    const within = (group % perBlock) * descriptorSize;
    const all = await metadata.block('a block of group descriptors', block);
    const bytes = all.subarray(within, within + descriptorSize);
    const offset = block * blockSize + within;
    checkDescriptor(metadata, group, bytes, offset);

    const view = viewOf(bytes);
    const first =
      view.getUint32(0x8, true) + (descriptorSize >= 64 ? view.getUint32(0x28, true) : 0) * 2 ** 32;
    const blocks = Math.ceil((inodesPerGroup * inodeSize) / blockSize);
    if (first <= superblock.firstDataBlock || first + blocks > blockCount) {
      const reason = `group ${group}: expected an inode table of ${blocks} blocks within ${blockCount}, got one at ${first}`;
      throw metadata.fault(offset + 8, reason);
    }
    let unused = 0;
    if (has(roCompat, RoCompat.gdtCsum | RoCompat.metadataCsum)) {
      const neverMade = (view.getUint16(0x12, true) & 1) !== 0;
      const high = descriptorSize >= 64 ? view.getUint16(0x32, true) * 65536 : 0;
      unused = neverMade ? inodesPerGroup : view.getUint16(0x1c, true) + high;
    }
    const table = { offset: first * blockSize, used: inodesPerGroup - unused };
    this.tables.set(group, table);
    return table;
  }
}

/** Which block holds the descriptors that fill the block of that index. */
function descriptorBlock(metadata: Metadata, index: number): number {
  const { superblock } = metadata;
  const { blockSize, descriptorSize, blocksPerGroup, firstDataBlock, incompat, firstMetaGroup } = superblock;
  // A block of 1 KiB puts the superblock into block 1, whatever the first data block is.
  const holder = blockSize === 1024 ? 1 : 0;
  if (!has(incompat, Incompat.metaBg) || index < firstMetaGroup) return holder + 1 + index;
  const group = index * (blockSize / descriptorSize);
  const shifted = group === 0 && blockSize === 1024 && firstDataBlock === 0 ? 1 : 0;
  return group * blocksPerGroup + firstDataBlock + shifted + (hasSuperblock(metadata, group) ? 1 : 0);
}

/** Whether a group begins with a copy of the superblock (blockgroup.rst; sparse_super, sparse_super2). */
function hasSuperblock({ superblock }: Metadata, group: number): boolean {
  const { compat, roCompat, backupGroups } = superblock;
  if (group === 0) return true;
  if (has(compat, Compat.sparseSuper2)) return backupGroups.includes(group);
  if (group === 1 || !has(roCompat, RoCompat.sparseSuper)) return true;
  return [3, 5, 7].some((base) => isPowerOf(base, group));
}

function isPowerOf(base: number, value: number): boolean {
  let power = base;
  while (power < value) power *= base;
  return power === value;
}

/** checksums.rst, "Group descriptors": of the group's number and the descriptor without the checksum. */
function checkDescriptor(metadata: Metadata, group: number, bytes: Uint8Array, offset: ByteOffset): void {
  const { roCompat, seed, uuid, incompat } = metadata.superblock;
  const isOld = has(roCompat, RoCompat.gdtCsum);
  if (!has(roCompat, RoCompat.metadataCsum) && !isOld) return;
  const got = viewOf(bytes).getUint16(0x1e, true);
  const number = new Uint8Array(4);
  new DataView(number.buffer).setUint32(0, group, true);
  let expected: number;
  if (has(roCompat, RoCompat.metadataCsum)) {
    const copy = bytes.slice().fill(0, 0x1e, 0x20);
    expected = ext4Crc(ext4Crc(seed, number), copy) & 0xffff;
  } else {
    expected = crc16(crc16(crc16(0xffff, uuid), number), bytes.subarray(0, 0x1e));
    if (has(incompat, Incompat.is64Bit)) expected = crc16(expected, bytes.subarray(0x20));
  }
  if (got === expected) return;
  const reason = `group ${group}: expected a descriptor with checksum ${hex(expected)}, got ${hex(got)}`;
  throw metadata.fault(offset + 0x1e, reason);
}
