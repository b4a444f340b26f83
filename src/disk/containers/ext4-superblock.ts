/**
 * The superblock of ext2, ext3 and ext4 (Linux kernel, Documentation/filesystems/ext4/super.rst): 1024 bytes
 * at offset 1024, little-endian. What it says is checked field by field before anything is computed from it:
 * all offsets that follow are products of these numbers.
 *
 * A file system's features are three words of bits. A reader must know every bit of `incompat`, or it would
 * misread; what it does not know it refuses by name. Unknown bits of the other two do not matter to one that
 * only reads.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo, KiB } from '../../base/units.ts';
import { type ByteSource, readWhole, viewOf } from '../formats/byte-source.ts';
import { ext4Crc } from './ext4-checksum.ts';

/** `s_feature_compat`. */
export const Compat = { hasJournal: 0x4, sparseSuper2: 0x200 } as const;
/** `s_feature_incompat`. */
export const Incompat = {
  filetype: 0x2,
  recover: 0x4,
  metaBg: 0x10,
  extents: 0x40,
  is64Bit: 0x80,
  csumSeed: 0x2000,
  largeDir: 0x4000,
  inlineData: 0x8000,
} as const;
/** `s_feature_ro_compat`. */
export const RoCompat = { sparseSuper: 0x1, gdtCsum: 0x10, bigalloc: 0x200, metadataCsum: 0x400 } as const;

/** Bits of `incompat` that a reader has to understand or may pass over: mmp, flex_bg, ea_inode change nothing here. */
const READ_INCOMPAT =
  Incompat.filetype |
  Incompat.recover |
  Incompat.metaBg |
  Incompat.extents |
  Incompat.is64Bit |
  Incompat.csumSeed |
  Incompat.largeDir |
  Incompat.inlineData |
  0x100 |
  0x200 |
  0x400 |
  0x10000 |
  0x20000;

const REFUSED_INCOMPAT: readonly (readonly [number, string])[] = [
  [0x1, 'compression'],
  [0x8, 'journal_dev: this is the external journal of another file system'],
  [0x1000, 'dirdata'],
];

export const SUPERBLOCK_OFFSET = 1024;
export const SUPERBLOCK_BYTES = 1024;
const MAGIC = 0xef53;
const MAGIC_AT = 0x38;
/** 64 KiB blocks. */
const MOST_LOG_BLOCK_SIZE = 6;
const LEAST_INODE = 128;
const CRC32C = 1;
/** `s_state`. */
const CLEAN = 1;
const HAS_ERRORS = 2;

export interface Superblock {
  readonly blockSize: ByteCount;
  readonly blockCount: number;
  readonly firstDataBlock: number;
  readonly blocksPerGroup: number;
  readonly groupCount: number;
  readonly inodeCount: number;
  readonly inodesPerGroup: number;
  readonly inodeSize: ByteCount;
  readonly descriptorSize: ByteCount;
  readonly firstMetaGroup: number;
  /** Groups with a copy of the superblock under sparse_super2. */
  readonly backupGroups: readonly [number, number];
  readonly compat: number;
  readonly incompat: number;
  readonly roCompat: number;
  readonly uuid: Uint8Array;
  readonly label: string;
  /** 0 where the journal is on another device. */
  readonly journalInode: number;
  /** Descriptors, inodes and blocks carry CRC-32C checksums that begin with `seed`. */
  readonly hasChecksums: boolean;
  readonly seed: number;
  readonly clean: boolean;
  readonly hasErrors: boolean;
}

/** Whether there is an ext2, ext3 or ext4 superblock: its magic number and a block size that can be. */
export async function hasExt4Magic(source: ByteSource): Promise<boolean> {
  if (source.size < SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES) return false;
  const bytes = new Uint8Array(64);
  const pending = source.read(SUPERBLOCK_OFFSET, bytes);
  if (pending) await pending;
  const view = viewOf(bytes);
  return view.getUint16(MAGIC_AT, true) === MAGIC && view.getUint32(0x18, true) <= MOST_LOG_BLOCK_SIZE;
}

/** @throws DriftmapError `malformed` for what cannot be, `unsupported` for features that are not read */
export async function readSuperblock(source: ByteSource): Promise<Superblock> {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  await readWhole(source, 'the ext4 superblock', SUPERBLOCK_OFFSET, bytes);
  return new SuperblockParser(source, bytes).parse();
}

class SuperblockParser {
  private readonly source: ByteSource;
  private readonly bytes: Uint8Array;
  private readonly view: DataView;

  constructor(source: ByteSource, bytes: Uint8Array) {
    this.source = source;
    this.bytes = bytes;
    this.view = viewOf(bytes);
  }

  parse(): Superblock {
    const magic = this.u16(MAGIC_AT);
    if (magic !== MAGIC) throw this.malformed(MAGIC_AT, `expected the magic number ef53, got ${hex(magic)}`);
    const revision = this.u32(0x4c);
    if (revision > 1) throw this.unsupported(0x4c, `revision ${revision} is not known: 0 and 1 are read`);
    const compat = this.u32(0x5c);
    const incompat = this.u32(0x60);
    const roCompat = this.u32(0x64);
    this.checkFeatures(incompat);
    const hasChecksums = has(roCompat, RoCompat.metadataCsum);
    if (hasChecksums) this.checkChecksum();

    const logBlockSize = this.u32(0x18);
    if (logBlockSize > MOST_LOG_BLOCK_SIZE) {
      throw this.malformed(0x18, `expected blocks of 1 to 64 KiB, got 2^${logBlockSize} KiB`);
    }
    const blockSize = KiB * 2 ** logBlockSize;
    const blockCount = this.blockCount(blockSize, has(incompat, Incompat.is64Bit));
    const firstDataBlock = this.firstDataBlock(blockSize, blockCount, roCompat);
    const blocksPerGroup = this.blocksPerGroup(blockSize, logBlockSize, roCompat);
    const groupCount = Math.ceil((blockCount - firstDataBlock) / blocksPerGroup);
    const inodeSize = revision === 0 ? LEAST_INODE : this.inodeSize(blockSize);
    const { inodesPerGroup, inodeCount } = this.inodes(blockSize, inodeSize, groupCount);
    const uuid = this.bytes.slice(0x68, 0x78);
    const state = this.u16(0x3a);
    return {
      blockSize,
      blockCount,
      firstDataBlock,
      blocksPerGroup,
      groupCount,
      inodeCount,
      inodesPerGroup,
      inodeSize,
      descriptorSize: has(incompat, Incompat.is64Bit) ? this.descriptorSize() : 32,
      firstMetaGroup: this.u32(0x104),
      backupGroups: [this.u32(0x24c), this.u32(0x250)],
      compat,
      incompat,
      roCompat,
      uuid,
      label: labelOf(this.bytes.subarray(0x78, 0x88)),
      journalInode: this.u32(0xe0),
      hasChecksums,
      seed: has(incompat, Incompat.csumSeed) ? this.u32(0x270) : ext4Crc(0xffffffff, uuid),
      clean: (state & CLEAN) !== 0,
      hasErrors: (state & HAS_ERRORS) !== 0,
    };
  }

  private checkFeatures(incompat: number): void {
    for (const [bit, name] of REFUSED_INCOMPAT) {
      if (has(incompat, bit)) throw this.unsupported(0x60, `the feature ${name} is not read`);
    }
    const unknown = (incompat & ~READ_INCOMPAT) >>> 0;
    if (unknown !== 0) {
      throw this.unsupported(0x60, `incompatible features ${hex(unknown)} are not known to this driftmap`);
    }
  }

  /** CRC-32C of all that comes before it (checksums.rst). */
  private checkChecksum(): void {
    const type = this.bytes[0x175]!;
    if (type !== CRC32C) throw this.unsupported(0x175, `expected checksums of type 1 (crc32c), got ${type}`);
    const written = this.u32(0x3fc);
    const summed = ext4Crc(0xffffffff, this.bytes.subarray(0, 0x3fc));
    if (summed !== written) {
      throw this.malformed(0x3fc, `expected checksum ${hex(summed)}, got ${hex(written)}`);
    }
  }

  private blockCount(blockSize: ByteCount, is64Bit: boolean): number {
    const count = this.u32(0x4) + (is64Bit ? this.u32(0x150) * 2 ** 32 : 0);
    if (count * blockSize > MAX_DISK_SIZE) {
      throw this.malformed(0x4, `expected at most 2^53 bytes, got ${count} blocks of ${blockSize}`);
    }
    if (count * blockSize > this.source.size) {
      const reason = `the file system has ${count} blocks of ${blockSize} bytes, and its unit only ${this.source.size} bytes: the unit is cut short or was copied in part`;
      throw this.malformed(0x4, reason);
    }
    return count;
  }

  private firstDataBlock(blockSize: ByteCount, blockCount: number, roCompat: number): number {
    const first = this.u32(0x14);
    const least = blockSize === KiB && !has(roCompat, RoCompat.bigalloc) ? 1 : 0;
    const most = blockSize === KiB ? 1 : 0;
    if (first < least || first > most || first >= blockCount) {
      throw this.malformed(0x14, `expected the first of ${blockCount} blocks to be ${least}, got ${first}`);
    }
    return first;
  }

  /** A bitmap of one block describes a group: eight blocks, or clusters of blocks, a byte. */
  private blocksPerGroup(blockSize: ByteCount, logBlockSize: number, roCompat: number): number {
    const blocks = this.u32(0x20);
    const most = 8 * blockSize;
    if (!has(roCompat, RoCompat.bigalloc)) {
      if (blocks === 0 || blocks > most) {
        throw this.malformed(0x20, `expected 1 to ${most} blocks a group, got ${blocks}`);
      }
      return blocks;
    }
    const logCluster = this.u32(0x1c);
    if (logCluster < logBlockSize || logCluster > 30) {
      throw this.malformed(0x1c, `expected clusters of 2^${logBlockSize} to 2^30 KiB, got 2^${logCluster}`);
    }
    const clusters = this.u32(0x24);
    const expected = clusters * 2 ** (logCluster - logBlockSize);
    if (clusters === 0 || clusters > most || blocks !== expected) {
      const reason = `expected 1 to ${most} clusters a group and ${expected} blocks, got ${clusters} and ${blocks}`;
      throw this.malformed(0x24, reason);
    }
    return blocks;
  }

  private inodeSize(blockSize: ByteCount): ByteCount {
    const size = this.u16(0x58);
    if (size < LEAST_INODE || size > blockSize || !isPowerOfTwo(size)) {
      throw this.malformed(0x58, `expected inodes of ${LEAST_INODE}, 256 … ${blockSize} bytes, got ${size}`);
    }
    return size;
  }

  private inodes(blockSize: ByteCount, inodeSize: ByteCount, groupCount: number) {
    const inodesPerGroup = this.u32(0x28);
    if (inodesPerGroup < blockSize / inodeSize || inodesPerGroup > 8 * blockSize) {
      const reason = `expected ${blockSize / inodeSize} to ${8 * blockSize} inodes a group, got ${inodesPerGroup}`;
      throw this.malformed(0x28, reason);
    }
    const inodeCount = this.u32(0x0);
    if (inodeCount !== groupCount * inodesPerGroup) {
      const reason = `expected ${groupCount} groups of ${inodesPerGroup} inodes, got ${inodeCount} inodes`;
      throw this.malformed(0x0, reason);
    }
    return { inodesPerGroup, inodeCount };
  }

  private descriptorSize(): ByteCount {
    const size = this.u16(0xfe);
    if (size < 64 || size > 1024 || !isPowerOfTwo(size)) {
      throw this.malformed(0xfe, `expected group descriptors of 64, 128 … 1024 bytes, got ${size}`);
    }
    return size;
  }

  private u16(at: number): number {
    return this.view.getUint16(at, true);
  }

  private u32(at: number): number {
    return this.view.getUint32(at, true);
  }

  private malformed(at: number, reason: string): DriftmapError {
    const offset = SUPERBLOCK_OFFSET + at;
    return new DriftmapError('malformed', `ext4 superblock: ${reason}`, { path: this.source.name, offset });
  }

  private unsupported(at: number, reason: string): DriftmapError {
    const offset = SUPERBLOCK_OFFSET + at;
    return new DriftmapError('unsupported', `ext4 superblock: ${reason}`, { path: this.source.name, offset });
  }
}

export function has(features: number, bit: number): boolean {
  return (features & bit) !== 0;
}

/** Damage in what the superblock leads to. */
export function ext4Fault(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `ext4: ${reason}; e2fsck -n tells more`, { path, offset });
}

/** Up to the first zero. Control characters, which could drive a terminal, become U+FFFD. */
function labelOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const text = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  return text.replace(/\p{Cc}/gu, '\ufffd');
}

export function hex(value: number): string {
  return value.toString(16).padStart(4, '0');
}
