/**
 * The superblock of an XFS file system, and the arithmetic that follows from it (XFS Algorithms & Data
 * Structures, 3rd edition, sections "Allocation Groups", "Superblocks" and "Inode Numbers").
 *
 * The space is cut into allocation groups of equal length; only the last may be shorter. A block number is the
 * group's number and, in the low `groupBits` bits, the block within it; an inode number goes on with
 * `inodeBits` bits for the inode within the block. Both are sparse: not every number has a place. They are
 * handled as doubles by division and remainder: a volume of 2^53 bytes has no number that is not exact.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { crc32c } from '../../codec/checksum.ts';
import { type ByteSource, readWhole, uint64, viewOf } from '../formats/byte-source.ts';

/** "XFSB" */
export const XFS_MAGIC = 0x58465342;
const LEAST_SUPERBLOCK = 512;

export interface XfsGeometry {
  /** For messages. */
  readonly path: string;
  /** 4, or 5: metadata that describes itself, under checksums. */
  readonly version: 4 | 5;
  readonly blockSize: ByteCount;
  readonly sectorSize: ByteCount;
  readonly inodeSize: ByteCount;
  /** Of one directory block: one or more file system blocks. */
  readonly directoryBlockSize: ByteCount;
  /** In blocks. */
  readonly blocks: number;
  readonly groupBlocks: number;
  readonly groups: number;
  /** 2 to the number of bits of a block number within its group. */
  readonly groupStride: number;
  readonly inodesPerBlock: number;
  readonly rootInode: number;
  /** First block of the log; 0 where the log is on another device. */
  readonly logStart: number;
  readonly logBlocks: number;
  /** The volume's own, which its log carries, and the one that its metadata carries. */
  readonly uuid: Uint8Array;
  readonly metaUuid: Uint8Array;
  readonly label: string;
  /** Directory entries say what kind of file they name. */
  readonly hasFileTypes: boolean;
  readonly logIncompat: number;
}

/** Bits of `versionnum` (version 4). */
const V4_EXTFLG = 0x1000;
const V4_DIRV2 = 0x2000;
const V4_MOREBITS = 0x8000;
/** Bits of `features2`. */
const V4_FTYPE = 0x200;
const V4_FEATURES2: Readonly<Record<number, string>> = {
  1: 'lazy counters',
  3: 'attr2',
  4: 'parent pointers (of version 4)',
  7: '32-bit project numbers',
  8: 'checksums',
  9: 'file types in directories',
};

/** Bits of `features_incompat` (version 5), by name; those that change nothing for a reader, or that are read. */
const INCOMPAT_READ: readonly string[] = [
  'ftype',
  'sparse inodes',
  'meta_uuid',
  'bigtime',
  'needsrepair',
  'nrext64',
  'exchange range',
  'parent pointers',
];
const INCOMPAT_NOT_READ: Readonly<Record<number, string>> = {
  8: 'metadata directory (metadir)',
  9: 'zoned realtime device',
  10: 'gaps between zones',
};
const INCOMPAT_FTYPE = 0x1;
const INCOMPAT_META_UUID = 0x4;
const INCOMPAT_NEEDSREPAIR = 0x10;

/** A cheap look: does an XFS file system begin here? */
export async function isXfs(source: ByteSource): Promise<boolean> {
  if (source.size < LEAST_SUPERBLOCK) return false;
  const bytes = new Uint8Array(4);
  await readWhole(source, 'the XFS superblock', 0, bytes);
  return viewOf(bytes).getUint32(0) === XFS_MAGIC;
}

/** Damage at a place of the file system's unit. */
export function xfsFault(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', reason, { path, offset });
}

/**
 * Reads and checks the primary superblock.
 * @throws DriftmapError `malformed`; `unsupported` for versions and features that are not read
 */
export async function readSuperblock(source: ByteSource): Promise<XfsGeometry> {
  const first = new Uint8Array(LEAST_SUPERBLOCK);
  await readWhole(source, 'the XFS superblock', 0, first);
  const reader = new SuperblockReader(source.name, first);
  const sector = new Uint8Array(reader.sectorSize());
  await readWhole(source, 'the XFS superblock', 0, sector);
  const geometry = reader.read(sector);
  const end = geometry.blocks * geometry.blockSize;
  if (end > source.size) {
    const reason = `XFS superblock: expected the file system's ${end} bytes, the unit has ${source.size}: it is cut short`;
    throw xfsFault(source.name, 8, reason);
  }
  return geometry;
}

class SuperblockReader {
  private readonly path: string;
  private readonly view: DataView;
  private readonly bytes: Uint8Array;

  constructor(path: string, bytes: Uint8Array) {
    this.path = path;
    this.bytes = bytes;
    this.view = viewOf(bytes);
    const magic = this.view.getUint32(0);
    if (magic !== XFS_MAGIC) throw this.fault(0, `expected the magic XFSB, got ${hex(magic)}`);
  }

  sectorSize(): ByteCount {
    return this.powerOfTwo('sector size', 102, 2, 121, 512, 32768);
  }

  /** @param sector the whole first sector, which the checksum is of */
  read(sector: Uint8Array): XfsGeometry {
    const { path, view, bytes } = this;
    const versionBits = view.getUint16(100);
    const version = versionBits % 16;
    if (version !== 4 && version !== 5) {
      throw this.unsupported(100, `expected version 4 or 5, got ${version}`);
    }
    if (version === 5) this.checkSum(sector);
    if (view.getUint8(126) !== 0) {
      throw this.fault(126, 'mkfs.xfs or xfs_copy did not finish: the file system is incomplete');
    }
    const blockSize = this.powerOfTwo('block size', 4, 4, 120, 512, 65536);
    const inodeSize = this.powerOfTwo('inode size', 104, 2, 122, 256, 2048);
    const inodesPerBlock = view.getUint16(106);
    if (
      inodesPerBlock !== blockSize / inodeSize ||
      inodesPerBlock < 2 ||
      !fitsLog(inodesPerBlock, view.getUint8(123))
    ) {
      const reason = `expected ${blockSize / inodeSize} inodes in a block of ${blockSize} bytes, got ${inodesPerBlock}`;
      throw this.fault(106, reason);
    }
    const directoryLog = view.getUint8(192);
    if (blockSize * 2 ** directoryLog > 65536) {
      const reason = `expected directory blocks of at most 65536 bytes, got ${blockSize} times 2^${directoryLog}`;
      throw this.fault(192, reason);
    }
    const features = version === 5 ? this.features5() : this.features4(versionBits);
    const groups = this.groups(blockSize);
    const uuid = bytes.slice(32, 48);
    const ownUuid = version === 4 || (view.getUint32(216) & INCOMPAT_META_UUID) === 0;
    return {
      path,
      version,
      blockSize,
      sectorSize: sector.length,
      inodeSize,
      directoryBlockSize: blockSize * 2 ** directoryLog,
      ...groups,
      inodesPerBlock,
      rootInode: uint64(view, 56),
      logStart: uint64(view, 48),
      logBlocks: view.getUint32(96),
      uuid,
      metaUuid: ownUuid ? uuid : bytes.slice(248, 264),
      label: labelOf(bytes.subarray(108, 120)),
      ...features,
    };
  }

  private checkSum(sector: Uint8Array): void {
    const { written, computed } = checksums(sector, 224);
    if (written !== computed) {
      throw this.fault(
        224,
        `expected checksum ${hex(computed)}, got ${hex(written)}: xfs_repair can restore it from a copy`,
      );
    }
  }

  private features5(): Pick<XfsGeometry, 'hasFileTypes' | 'logIncompat'> {
    const incompat = this.view.getUint32(216);
    const names: string[] = [];
    for (let bit = INCOMPAT_READ.length; bit < 32; bit++) {
      if ((incompat >>> bit) % 2 === 1) names.push(INCOMPAT_NOT_READ[bit] ?? `bit ${bit}`);
    }
    if (names.length > 0) {
      throw this.unsupported(216, `the file system has features that are not read: ${names.join(', ')}`);
    }
    if ((incompat & INCOMPAT_NEEDSREPAIR) !== 0) {
      throw this.fault(216, 'the file system is marked as in need of repair: run xfs_repair on it');
    }
    return { hasFileTypes: (incompat & INCOMPAT_FTYPE) !== 0, logIncompat: this.view.getUint32(220) };
  }

  private features4(versionBits: number): Pick<XfsGeometry, 'hasFileTypes' | 'logIncompat'> {
    const { view } = this;
    if ((versionBits & V4_DIRV2) === 0) throw this.unsupported(100, 'directories of version 1 are not read');
    if ((versionBits & V4_EXTFLG) === 0) {
      throw this.unsupported(100, 'extents without a flag for unwritten ones are not read');
    }
    if ((versionBits & V4_MOREBITS) === 0) return { hasFileTypes: false, logIncompat: 0 };
    // Some old kernels wrote the second field only; the Linux driver takes both.
    const features2 = view.getUint32(200) | view.getUint32(204);
    for (let bit = 0; bit < 32; bit++) {
      if ((features2 >>> bit) % 2 === 1 && bit !== 1 && V4_FEATURES2[bit] === undefined) {
        throw this.unsupported(200, `the file system has a feature that is not known: features2 bit ${bit}`);
      }
    }
    return { hasFileTypes: (features2 & V4_FTYPE) !== 0, logIncompat: 0 };
  }

  private groups(
    blockSize: ByteCount,
  ): Pick<XfsGeometry, 'blocks' | 'groupBlocks' | 'groups' | 'groupStride'> {
    const { view } = this;
    const blocks = uint64(view, 8);
    const groupBlocks = view.getUint32(84);
    const groups = view.getUint32(88);
    const groupBits = view.getUint8(124);
    if (blocks * blockSize > MAX_DISK_SIZE) {
      throw this.fault(8, `expected a file system below 2^53 bytes, got ${blocks} blocks of ${blockSize}`);
    }
    if (groupBlocks < 4 || groupBits > 32 || groupBits !== Math.ceil(Math.log2(groupBlocks))) {
      const reason = `expected groups of at least four blocks, numbered in as few bits as that takes, got ${groupBlocks} blocks and ${groupBits} bits`;
      throw this.fault(84, reason);
    }
    if (groups === 0 || groups !== Math.ceil(blocks / groupBlocks)) {
      const reason = `expected ${blocks} blocks in ${Math.ceil(blocks / groupBlocks)} groups of ${groupBlocks}, got ${groups} groups`;
      throw this.fault(88, reason);
    }
    return { blocks, groupBlocks, groups, groupStride: 2 ** groupBits };
  }

  /** A size that is written twice: as it is, and as its binary logarithm. */
  private powerOfTwo(
    what: string,
    at: ByteOffset,
    width: 2 | 4,
    logAt: ByteOffset,
    least: ByteCount,
    most: ByteCount,
  ): ByteCount {
    const size = width === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
    const log = this.view.getUint8(logAt);
    if (isPowerOfTwo(size) && size >= least && size <= most && fitsLog(size, log)) return size;
    const reason = `expected a ${what} that is a power of two from ${least} to ${most} bytes, got ${size} (2^${log})`;
    throw this.fault(at, reason);
  }

  private fault(at: ByteOffset, reason: string): DriftmapError {
    return xfsFault(this.path, at, `XFS superblock: ${reason}`);
  }

  private unsupported(at: ByteOffset, reason: string): DriftmapError {
    return new DriftmapError('unsupported', `XFS superblock: ${reason}`, { path: this.path, offset: at });
  }
}

function fitsLog(size: number, log: number): boolean {
  return size === 2 ** log;
}

function labelOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const text = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  return text.replace(/\p{Cc}/gu, '\ufffd');
}

const NO_CHECKSUM = new Uint8Array(4);

/** The CRC-32C that a version 5 structure carries, little end first, and what it should be: that of all other bytes. */
export function checksums(bytes: Uint8Array, at: number): { written: number; computed: number } {
  const before = crc32c(NO_CHECKSUM, crc32c(bytes.subarray(0, at)));
  return { written: viewOf(bytes).getUint32(at, true), computed: crc32c(bytes.subarray(at + 4), before) };
}

export function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}

/** In blocks; the last group may be shorter. */
export function groupLength({ blocks, groupBlocks }: XfsGeometry, group: number): number {
  return Math.min(groupBlocks, blocks - group * groupBlocks);
}

/**
 * Where a run of blocks lies on the unit; −1 where it is no run within one group, or would hold the group's
 * headers (four sectors at its beginning).
 */
export function runOffset(geometry: XfsGeometry, block: number, count: number): ByteOffset {
  const { blockSize, sectorSize, groupBlocks, groups, groupStride } = geometry;
  const group = Math.floor(block / groupStride);
  const within = block - group * groupStride;
  if (group >= groups || within + count > groupLength(geometry, group)) return -1;
  if (within * blockSize < 4 * sectorSize) return -1;
  return (group * groupBlocks + within) * blockSize;
}

/** Where an inode lies on the unit; −1 for a number that has no place. */
export function inodeOffset(geometry: XfsGeometry, inode: number): ByteOffset {
  const { inodesPerBlock, inodeSize } = geometry;
  const block = Math.floor(inode / inodesPerBlock);
  const place = runOffset(geometry, block, 1);
  return place < 0 ? -1 : place + (inode - block * inodesPerBlock) * inodeSize;
}
