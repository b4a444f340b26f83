/**
 * Directories (Linux kernel, Documentation/filesystems/ext4/directory.rst). Every block is a chain of entries
 * that covers it. Hashed directories are the same chain to whoever reads linearly: their index blocks look
 * like one unused entry. So driftmap reads linearly, in pieces of many blocks.
 *
 * With checksums a block of entries ends in a tail that looks like an unused entry. Index blocks have their
 * checksum elsewhere; since nothing is taken from them, it is enough that a block without a tail names nothing.
 */

import type { DriftmapError } from '../../base/errors.ts';
import { EXT4_TABLE_READ } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, Kind } from '../../mapping/extent-map.ts';
import { viewOf } from '../formats/byte-source.ts';
import { ext4Crc } from './ext4-checksum.ts';
import { inlineParts } from './ext4-inline.ts';
import type { Inode } from './ext4-inode.ts';
import type { Metadata } from './ext4-metadata.ts';
import { has, hex, Incompat } from './ext4-superblock.ts';

export interface DirectoryEntry {
  readonly name: Uint8Array;
  readonly inode: number;
  /** `file_type`, an `EntryType`. */
  readonly type: number;
  /** In the file system. */
  readonly offset: ByteOffset;
}

export const EntryType = { unknown: 0, regular: 1, directory: 2, symlink: 7 } as const;

const HEADER = 8;
const TAIL_BYTES = 12;
const TAIL_TYPE = 0xde;
/** 64 KiB does not fit into the 16 bits of `rec_len`. */
const LARGEST_BLOCK = 65536;

/**
 * The names of a directory, piece by piece, without `.` and `..`.
 * @param map the directory's own, over the file system as `metadata` reads it; null where its data are inline
 * @throws DriftmapError `malformed`
 */
export async function* readDirectory(
  metadata: Metadata,
  inode: Inode,
  map: ExtentMap | null,
): AsyncGenerator<readonly DirectoryEntry[], undefined> {
  const parser = new EntryParser(metadata, inode);
  if (map === null) {
    yield parser.inline();
    return;
  }
  checkRuns(metadata, inode, map);
  for (let index = 0; index < map.count; index++) {
    const end = map.endOf(index);
    for (let at = map.startOf(index); at < end; ) {
      const bytes = new Uint8Array(Math.min(EXT4_TABLE_READ, end - at));
      const place = map.placeOf(index) + (at - map.startOf(index));
      const pending = metadata.read(place, bytes);
      if (pending) await pending;
      yield parser.blocks(bytes, place);
      at += bytes.length;
    }
  }
}

/** A directory is whole blocks, all written and none of them twice: so its length is that of real bytes. */
function checkRuns(metadata: Metadata, inode: Inode, map: ExtentMap): void {
  const fault = (reason: string) =>
    metadata.fault(inode.offset, `directory inode ${inode.number}: ${reason}`);
  const { blockSize } = metadata.superblock;
  if (map.size % blockSize !== 0) {
    throw fault(`expected whole blocks of ${blockSize} bytes, got a size of ${map.size}`);
  }
  const order = Array.from({ length: map.count }, (_, i) => i);
  order.sort((a, b) => map.placeOf(a) - map.placeOf(b));
  let end = 0;
  for (const index of order) {
    const place = map.placeOf(index);
    if (map.kindOf(index) !== Kind.data) throw fault(`a hole at ${map.startOf(index)}`);
    if (place < end) throw fault(`the block at ${place} is used twice`);
    end = place + (map.endOf(index) - map.startOf(index));
  }
}

class EntryParser {
  private readonly metadata: Metadata;
  private readonly inode: Inode;
  private readonly hasTypes: boolean;

  constructor(metadata: Metadata, inode: Inode) {
    this.metadata = metadata;
    this.inode = inode;
    this.hasTypes = has(metadata.superblock.incompat, Incompat.filetype);
  }

  /** The first part begins with the parent's inode number, and neither has `.` and `..`. */
  inline(): DirectoryEntry[] {
    const found: DirectoryEntry[] = [];
    const { bytes, offset } = this.inode;
    let head = 4;
    for (const { at, length } of inlineParts(this.metadata, this.inode)) {
      if (length > 0) this.chain(bytes.subarray(at + head, at + length), offset + at + head, found);
      head = 0;
    }
    return found;
  }

  /** @param offset of the first block in the file system */
  blocks(bytes: Uint8Array, offset: ByteOffset): DirectoryEntry[] {
    const { blockSize, hasChecksums } = this.metadata.superblock;
    const found: DirectoryEntry[] = [];
    for (let at = 0; at < bytes.length; at += blockSize) {
      const block = bytes.subarray(at, at + blockSize);
      const before = found.length;
      const hasTail = hasChecksums && this.checkTail(block, offset + at);
      this.chain(block, offset + at, found);
      if (hasChecksums && !hasTail && found.length > before) {
        throw this.fault(
          offset + at + blockSize - TAIL_BYTES,
          'expected a checksum after the entries, got none',
        );
      }
    }
    return found;
  }

  /** Whether a block has a tail; throws where its checksum is wrong (checksums.rst, "Directory leaf blocks"). */
  private checkTail(block: Uint8Array, offset: ByteOffset): boolean {
    const at = block.length - TAIL_BYTES;
    const view = viewOf(block);
    const isTail =
      view.getUint32(at, true) === 0 && view.getUint16(at + 4, true) === TAIL_BYTES && block[at + 6] === 0;
    if (!isTail || block[at + 7] !== TAIL_TYPE) return false;
    const expected = ext4Crc(this.inode.seed, block.subarray(0, at));
    const got = view.getUint32(at + 8, true);
    if (got === expected) return true;
    throw this.fault(
      offset + at + 8,
      `expected a block of entries with checksum ${hex(expected)}, got ${hex(got)}`,
    );
  }

  /** One chain: a block, or a part of an inode. */
  private chain(bytes: Uint8Array, offset: ByteOffset, found: DirectoryEntry[]): void {
    const view = viewOf(bytes);
    for (let at = 0; at < bytes.length; ) {
      if (at + HEADER > bytes.length) throw this.fault(offset + at, 'an entry reaches out of its block');
      const length = lengthOf(view.getUint16(at + 4, true), this.metadata.superblock.blockSize);
      const nameLength = this.hasTypes ? bytes[at + 6]! : view.getUint16(at + 6, true);
      if (length < HEADER + 4 || length % 4 !== 0 || HEADER + nameLength > length) {
        const reason = `expected an entry with room for its name of ${nameLength} bytes, got ${length} bytes`;
        throw this.fault(offset + at + 4, reason);
      }
      if (at + length > bytes.length) {
        throw this.fault(offset + at + 4, `an entry of ${length} bytes reaches out of its block`);
      }
      const inode = view.getUint32(at, true);
      if (inode !== 0) {
        const name = bytes.subarray(at + HEADER, at + HEADER + nameLength);
        const type = this.hasTypes ? bytes[at + 7]! : EntryType.unknown;
        this.add(name, inode, type, offset + at, found);
      }
      at += length;
    }
  }

  private add(
    name: Uint8Array,
    inode: number,
    type: number,
    offset: ByteOffset,
    found: DirectoryEntry[],
  ): void {
    if (isDots(name)) return;
    if (name.length === 0 || name.length > 255 || name.includes(0) || name.includes(0x2f)) {
      const reason = `expected a name of 1 to 255 bytes without '/' and zero bytes`;
      throw this.fault(offset + HEADER, reason);
    }
    found.push({ name, inode, type, offset });
  }

  private fault(offset: ByteOffset, reason: string): DriftmapError {
    return this.metadata.fault(offset, `directory inode ${this.inode.number}: ${reason}`);
  }
}

/** `rec_len`: with blocks of 64 KiB its two low bits, always zero otherwise, are bits 16 and 17. */
function lengthOf(written: number, blockSize: ByteCount): ByteCount {
  if (blockSize < LARGEST_BLOCK) return written;
  if (written === 65535 || written === 0) return LARGEST_BLOCK;
  return (written & 65532) | ((written & 3) << 16);
}

function isDots(name: Uint8Array): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));
}
