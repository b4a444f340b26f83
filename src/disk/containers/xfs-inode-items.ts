/** Inodes in the log of an XFS file system: little end first there, big end first on the unit. */

import type { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import { littleUint64, viewOf } from '../formats/byte-source.ts';
import { CORE, INODE_AT, INODE_MAGIC, OLD_CORE } from './xfs-inode.ts';
import { compareSequence, type LogSequence } from './xfs-log-items.ts';
import { checksums, type XfsGeometry } from './xfs-superblock.ts';

export interface InodeItem {
  readonly number: number;
  /** The inode buffer that it is in, in sectors of 512 bytes. */
  readonly bufferSector: number;
  readonly bufferSectors: number;
  readonly hasNewOwner: boolean;
  readonly core: Uint8Array;
  /** What is to become of the data fork; null where it stays. */
  readonly fork: { readonly bytes: Uint8Array; readonly isRoot: boolean } | null;
}

type Fault = (reason: string) => DriftmapError;

const DATA = 0x2;
const EXTENTS = 0x4;
const ROOT = 0x8;
const NEW_OWNER = 0x200;
/** Of the item's format, as 64-bit and as 32-bit kernels write it. */
const FORMAT_64 = 56;
const FORMAT_32 = 52;
/** A core without what version 3 added, and without the list of unlinked inodes. */
const OLD_LOGGED_CORE = 96;
/** Flush counts are kept up to here and then wrap to 0. */
const MOST_FLUSHES = 0xffff;

/** Fields of the core that change ends, by their size; times are not looked at and stay as they are. */
const SWAPPED_2 = [0, 2, 20, 22, 80, 88, 90];
const SWAPPED_4 = [8, 12, 16, 72, 76, 84, 92];
const SWAPPED_8 = [56, 64];
const SWAPPED_8_NEW = [24, 104, 120, 152];
const BYTES = [4, 5, 82, 83];

export function parseInodeItem(regions: readonly Uint8Array[], fault: Fault): InodeItem {
  const format = regions[0]!;
  const core = regions[1];
  if ((format.length !== FORMAT_64 && format.length !== FORMAT_32) || core === undefined) {
    throw fault('expected an inode with its core');
  }
  if (core.length < OLD_LOGGED_CORE || viewOf(core).getUint16(0, true) !== INODE_MAGIC) {
    throw fault('expected the core of an inode');
  }
  const view = viewOf(format);
  const isWide = format.length === FORMAT_64;
  const fields = view.getUint32(4, true);
  const kinds = fields & (DATA | EXTENTS | ROOT);
  const bytes = kinds === 0 ? undefined : regions[2];
  if (kinds !== 0 && bytes === undefined)
    throw fault('expected the data fork of an inode, which was changed');
  const bufferAt = isWide ? 40 : 36;
  return {
    number: littleUint64(view, isWide ? 16 : 12),
    bufferSector: littleUint64(view, bufferAt),
    bufferSectors: view.getUint32(bufferAt + 8, true),
    hasNewOwner: (fields & NEW_OWNER) !== 0,
    core,
    fork: bytes === undefined ? null : { bytes, isRoot: kinds === ROOT },
  };
}

/**
 * Changes an inode as the log has it; false where the unit has a newer one.
 * @param bytes the inode on the unit
 */
export function replayInode(
  geometry: XfsGeometry,
  bytes: Uint8Array,
  item: InodeItem,
  at: LogSequence,
  fault: Fault,
): boolean {
  const view = viewOf(bytes);
  const core = viewOf(item.core);
  const isNew = geometry.version === 5;
  if (view.getUint16(0) !== INODE_MAGIC)
    throw fault(`expected an inode at the place of inode ${item.number}`);
  if (isNew ? item.core.length < CORE : core.getUint8(INODE_AT.version) > 2) {
    throw fault(`expected inode ${item.number} in a version of this file system`);
  }
  if (isNew ? compareSequence(view, INODE_AT.lsn, at) > 0 : wasFlushedLater(view, core)) return false;
  copyCore(view, core, isNew);
  const coreBytes = isNew ? CORE : OLD_CORE;
  if (item.fork !== null) {
    const words = view.getUint8(INODE_AT.forkOffset);
    const room = words === 0 ? bytes.length - coreBytes : words * 8;
    if (coreBytes + room > bytes.length) throw fault(`inode ${item.number}: expected forks within the inode`);
    const fork = bytes.subarray(coreBytes, coreBytes + room);
    if (item.fork.isRoot) copyRoot(geometry, fork, item.fork.bytes, fault);
    else if (item.fork.bytes.length <= room) fork.set(item.fork.bytes);
    else throw fault(`inode ${item.number}: expected a data fork of at most ${room} bytes`);
  }
  if (isNew) {
    view.setUint32(INODE_AT.lsn, at.cycle);
    view.setUint32(INODE_AT.lsn + 4, at.block);
    view.setUint32(INODE_AT.checksum, checksums(bytes, INODE_AT.checksum).computed, true);
  }
  return true;
}

/** Version 4: the unit's count is larger, and has not just wrapped. */
function wasFlushedLater(view: DataView, core: DataView): boolean {
  const there = view.getUint16(INODE_AT.flushes);
  const logged = core.getUint16(INODE_AT.flushes, true);
  return logged < there && !(there === MOST_FLUSHES && logged < MOST_FLUSHES >>> 1);
}

function copyCore(view: DataView, core: DataView, isNew: boolean): void {
  for (const at of BYTES) view.setUint8(at, core.getUint8(at));
  for (const at of SWAPPED_2) view.setUint16(at, core.getUint16(at, true));
  for (const at of SWAPPED_4) view.setUint32(at, core.getUint32(at, true));
  for (const at of SWAPPED_8) view.setBigUint64(at, core.getBigUint64(at, true));
  if (!isNew) {
    view.setUint16(INODE_AT.flushes, core.getUint16(INODE_AT.flushes, true));
    return;
  }
  for (const at of SWAPPED_8_NEW) view.setBigUint64(at, core.getBigUint64(at, true));
  view.setUint32(128, core.getUint32(128, true));
  for (let i = 0; i < 16; i++) view.setUint8(INODE_AT.uuid + i, core.getUint8(INODE_AT.uuid + i));
}

/**
 * The root of an extent tree: logged as a whole block's header, keys and pointers; in the inode it has a short
 * header, and the pointers follow after the keys that have room there.
 */
function copyRoot({ version }: XfsGeometry, fork: Uint8Array, root: Uint8Array, fault: Fault): void {
  const header: ByteCount = version === 5 ? 72 : 24;
  const logged = viewOf(root);
  const loggedRoom = Math.floor((root.length - header) / 16);
  const room = Math.floor((fork.length - 4) / 16);
  const count = root.length < header ? 0 : logged.getUint16(6);
  if (count < 1 || count > loggedRoom || count > room) {
    throw fault(`expected a root of an extent tree with 1 to ${room} pointers, got ${count}`);
  }
  const view = viewOf(fork);
  view.setUint16(0, logged.getUint16(4));
  view.setUint16(2, count);
  for (let i = 0; i < count; i++) {
    view.setBigUint64(4 + 8 * i, logged.getBigUint64(header + 8 * i));
    view.setBigUint64(4 + 8 * (room + i), logged.getBigUint64(header + 8 * (loggedRoom + i)));
  }
}

/** An inode that was just made and is not in use. */
export function newInode(geometry: XfsGeometry, bytes: Uint8Array, number: number, generation: number): void {
  const view = viewOf(bytes);
  const isNew = geometry.version === 5;
  view.setUint16(0, INODE_MAGIC);
  view.setUint8(INODE_AT.version, isNew ? 3 : 2);
  view.setUint32(INODE_AT.generation, generation);
  view.setUint32(INODE_AT.nextUnlinked, 0xffffffff);
  if (!isNew) return;
  view.setBigUint64(INODE_AT.number, BigInt(number));
  bytes.set(geometry.metaUuid, INODE_AT.uuid);
  view.setUint32(INODE_AT.checksum, checksums(bytes, INODE_AT.checksum).computed, true);
}
