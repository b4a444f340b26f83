/** Inodes of XFS (XFS Algorithms & Data Structures, section "On-disk Inode"): what of them matters for reading. */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { uint64, viewOf } from '../formats/byte-source.ts';
import { sameUuid, type XfsMetadata } from './xfs-metadata.ts';
import { checksums, hex, inodeOffset, type XfsGeometry, xfsFault } from './xfs-superblock.ts';

export const INODE_MAGIC = 0x494e;
/** Bytes before the forks: in versions 1 and 2, and in version 3. */
export const OLD_CORE = 100;
export const CORE = 176;

export const INODE_AT = {
  mode: 2,
  version: 4,
  format: 5,
  bigExtents: 24,
  flushes: 30,
  size: 56,
  extents: 76,
  forkOffset: 82,
  flags: 90,
  generation: 92,
  nextUnlinked: 96,
  checksum: 100,
  lsn: 112,
  flags2: 120,
  number: 152,
  uuid: 160,
} as const;

const FORMATS = ['device', 'local', 'extents', 'btree'] as const;
const KINDS: Readonly<Record<number, InodeKind>> = {
  1: 'fifo',
  2: 'device',
  4: 'directory',
  6: 'device',
  8: 'file',
  10: 'symlink',
  12: 'socket',
};
const REALTIME = 0x1;
const NREXT64 = 0x10;

export type InodeKind = 'file' | 'directory' | 'symlink' | 'device' | 'fifo' | 'socket';

export interface XfsInode {
  readonly number: number;
  /** On the unit. */
  readonly offset: ByteOffset;
  readonly kind: InodeKind;
  readonly size: ByteCount;
  /** Another one when the number has been given to another file. */
  readonly generation: number;
  readonly isRealtime: boolean;
  /** How the data fork is written. */
  readonly format: (typeof FORMATS)[number];
  /** How many extents the data fork has, by the inode. */
  readonly extents: number;
  /** The data fork. It keeps a piece of 64 KiB in memory: not for holding many. */
  readonly fork: Uint8Array;
  readonly forkAt: ByteOffset;
}

/**
 * Reads the inode of a number.
 * @param from for messages: who names it
 * @throws DriftmapError `malformed` for a number without a place, an inode that is not in use, and damage
 */
export async function readInode(metadata: XfsMetadata, number: number, from: string): Promise<XfsInode> {
  const { geometry, path } = metadata;
  const offset = inodeOffset(geometry, number);
  if (offset < 0) {
    const reason = `${from}: expected the number of an inode, got ${number}, which has no place in this file system`;
    throw new DriftmapError('malformed', reason, { path });
  }
  const bytes = await metadata.look(`inode ${number}`, offset, geometry.inodeSize);
  return parseInode(geometry, bytes, number, offset);
}

function parseInode(geometry: XfsGeometry, bytes: Uint8Array, number: number, offset: ByteOffset): XfsInode {
  const view = viewOf(bytes);
  const fault = (at: number, reason: string) =>
    xfsFault(geometry.path, offset + at, `inode ${number}: ${reason}`);
  const magic = view.getUint16(0);
  if (magic !== INODE_MAGIC) throw fault(0, `expected the magic IN, got ${hex(magic).slice(4)}`);
  const version = view.getUint8(INODE_AT.version);
  if (geometry.version === 5 ? version !== 3 : version !== 1 && version !== 2) {
    throw fault(INODE_AT.version, `expected a version of file system ${geometry.version}, got ${version}`);
  }
  if (version === 3) checkInode(geometry, bytes, view, number, fault);
  const mode = view.getUint16(INODE_AT.mode);
  if (mode === 0) throw fault(INODE_AT.mode, 'it is named in a directory and not in use');
  const kind = KINDS[mode >>> 12];
  if (kind === undefined) throw fault(INODE_AT.mode, `expected a kind of file, got mode ${mode.toString(8)}`);
  const format = FORMATS[view.getUint8(INODE_AT.format)];
  const formatFits = format !== undefined && isFormatOf(kind, format);
  if (!formatFits) {
    throw fault(
      INODE_AT.format,
      `expected a format that a ${kind} has, got ${view.getUint8(INODE_AT.format)}`,
    );
  }
  const size = uint64(view, INODE_AT.size);
  if (size > MAX_DISK_SIZE) throw fault(INODE_AT.size, `expected a size below 2^53 bytes, got ${size}`);
  const core = version === 3 ? CORE : OLD_CORE;
  const forkWords = view.getUint8(INODE_AT.forkOffset);
  const forkLength = forkWords === 0 ? bytes.length - core : forkWords * 8;
  if (forkLength > bytes.length - core) {
    throw fault(
      INODE_AT.forkOffset,
      `expected forks within the inode, got an offset of ${forkWords} times 8`,
    );
  }
  const isBig = version === 3 && (view.getUint32(INODE_AT.flags2 + 4) & NREXT64) !== 0;
  return {
    number,
    offset,
    kind,
    size,
    generation: view.getUint32(INODE_AT.generation),
    isRealtime: (view.getUint16(INODE_AT.flags) & REALTIME) !== 0,
    format,
    extents: isBig ? uint64(view, INODE_AT.bigExtents) : view.getUint32(INODE_AT.extents),
    fork: bytes.subarray(core, core + forkLength),
    forkAt: offset + core,
  };
}

function isFormatOf(kind: InodeKind, format: (typeof FORMATS)[number]): boolean {
  if (kind === 'file') return format === 'extents' || format === 'btree';
  if (kind === 'directory') return format !== 'device';
  if (kind === 'symlink') return format === 'local' || format === 'extents';
  return format === 'device';
}

function checkInode(
  geometry: XfsGeometry,
  bytes: Uint8Array,
  view: DataView,
  number: number,
  fault: (at: number, reason: string) => DriftmapError,
): void {
  const { written, computed } = checksums(bytes, INODE_AT.checksum);
  if (written !== computed) {
    const reason = `expected checksum ${hex(computed)}, got ${hex(written)}: it is damaged`;
    throw fault(INODE_AT.checksum, reason);
  }
  const says = uint64(view, INODE_AT.number);
  if (says !== number) throw fault(INODE_AT.number, `it says that it is inode ${says}`);
  if (!sameUuid(bytes, INODE_AT.uuid, geometry.metaUuid)) {
    throw fault(INODE_AT.uuid, 'it belongs to another file system');
  }
}
