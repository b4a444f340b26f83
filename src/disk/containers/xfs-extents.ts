/**
 * The data fork of an inode as extents (XFS Algorithms & Data Structures, sections "Extent List" and
 * "B+tree Extent List").
 *
 * An extent is 128 bits: a flag (unwritten: it reads as zeros), 54 bits of offset and 52 bits of place, both in
 * blocks, and 21 bits of length. A few lie in the inode; more lie in the leaves of a tree whose root is in the
 * inode. They must ascend without overlap, and there must be as many as the inode says. Levels must descend one
 * by one and offsets ascend from leaf to leaf, so a tree that leads back into itself ends in an error at once:
 * no block can be visited twice.
 *
 * A disk can have millions of extents: they are handed to a visitor as numbers, one leaf in memory at a time.
 */

import type { DriftmapError } from '../../base/errors.ts';
import { XFS_MAX_TREE_DEPTH } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { uint64, viewOf } from '../formats/byte-source.ts';
import type { XfsInode } from './xfs-inode.ts';
import { checkSelf, type SelfLayout, type XfsMetadata } from './xfs-metadata.ts';
import { hex, runOffset, xfsFault } from './xfs-superblock.ts';

/**
 * @param offset of the file, in blocks
 * @param place on the unit, in bytes
 * @param count in blocks, at least one
 */
export type ExtentVisitor = (offset: number, place: ByteOffset, count: number, unwritten: boolean) => void;

const RECORD = 16;
/** "BMAP" and "BMA3" */
const TREE_MAGIC = { 4: 0x424d4150, 5: 0x424d4133 } as const;
const TREE_HEADER = { 4: 24, 5: 72 } as const;
const TREE_SELF: SelfLayout = { place: 24, uuid: 40, owner: 56, checksum: 64 };

/**
 * Visits the extents of an inode's data fork in ascending order, those past its size too.
 * @throws DriftmapError `malformed`
 */
export async function visitExtents(
  metadata: XfsMetadata,
  inode: XfsInode,
  visit: ExtentVisitor,
): Promise<void> {
  const reader = new ForkReader(metadata, inode, visit);
  if (inode.format === 'extents') reader.readList();
  else await reader.readTree();
  reader.checkCount();
}

class ForkReader {
  private readonly metadata: XfsMetadata;
  private readonly inode: XfsInode;
  private readonly visit: ExtentVisitor;
  /** Where the last extent ended, in blocks of the file. */
  private end = 0;
  private count = 0;
  /** One block for each level of the tree; leaves are level 0. */
  private readonly buffers: Uint8Array[] = [];

  constructor(metadata: XfsMetadata, inode: XfsInode, visit: ExtentVisitor) {
    this.metadata = metadata;
    this.inode = inode;
    this.visit = visit;
  }

  readList(): void {
    const { extents, fork, forkAt } = this.inode;
    if (extents * RECORD > fork.length) {
      const reason = `expected at most ${Math.floor(fork.length / RECORD)} extents in the inode, got ${extents}`;
      throw this.fault(forkAt, reason);
    }
    this.addRecords(viewOf(fork), 0, extents, forkAt);
  }

  /** The root in the inode is short: level, count, keys, pointers; keys repeat what lies below them. */
  async readTree(): Promise<void> {
    const { fork, forkAt } = this.inode;
    const room = Math.floor((fork.length - 4) / 16);
    const view = viewOf(fork);
    const level = fork.length < 20 ? 0 : view.getUint16(0);
    const count = level === 0 ? 0 : view.getUint16(2);
    if (level < 1 || level >= XFS_MAX_TREE_DEPTH) {
      throw this.fault(forkAt, `expected a tree of 2 to ${XFS_MAX_TREE_DEPTH} levels, got ${level + 1}`);
    }
    if (count < 1 || count > room) {
      throw this.fault(forkAt + 2, `expected 1 to ${room} pointers in the root of the tree, got ${count}`);
    }
    await this.readChildren(view, 4, count, room, level, forkAt);
  }

  checkCount(): void {
    const { extents, forkAt } = this.inode;
    if (this.count === extents) return;
    throw this.fault(forkAt, `expected the ${extents} extents that the inode counts, got ${this.count}`);
  }

  /** @param at where the keys begin in the view; the pointers follow after `room` of them */
  private async readChildren(
    view: DataView,
    at: number,
    count: number,
    room: number,
    level: number,
    offset: ByteOffset,
  ): Promise<void> {
    for (let i = 0; i < count; i++) {
      const key = uint64(view, at + 8 * i);
      const pointer = at + 8 * (room + i);
      await this.readBlock(uint64(view, pointer), level - 1, offset + pointer, {
        key,
        keyAt: offset + at + 8 * i,
      });
    }
  }

  private async readBlock(
    block: number,
    level: number,
    from: ByteOffset,
    { key, keyAt }: { key: number; keyAt: ByteOffset },
  ): Promise<void> {
    const { geometry } = this.metadata;
    const place = runOffset(geometry, block, 1);
    if (place < 0) throw this.fault(from, `expected a block of the extent tree, got ${block}, which is none`);
    this.buffers[level] ??= new Uint8Array(geometry.blockSize);
    const bytes = this.buffers[level];
    await this.metadata.read(`the extent tree of inode ${this.inode.number}`, place, bytes);
    const view = viewOf(bytes);
    const count = this.checkHeader(bytes, view, level, place);
    const header = TREE_HEADER[geometry.version];
    const first = level === 0 ? offsetOf(view, header) : uint64(view, header);
    if (first !== key) {
      throw this.fault(
        keyAt,
        `expected the key of the block below, which begins at block ${first} of the file, got ${key}`,
      );
    }
    if (level === 0) {
      this.addRecords(view, header, count, place);
      return;
    }
    const room = Math.floor((bytes.length - header) / 16);
    await this.readChildren(view, header, count, room, level, place);
  }

  /** Returns how many records, or pointers, the block has. */
  private checkHeader(bytes: Uint8Array, view: DataView, level: number, place: ByteOffset): number {
    const { geometry } = this.metadata;
    const magic = view.getUint32(0);
    if (magic !== TREE_MAGIC[geometry.version]) {
      throw this.fault(place, `expected a block of an extent tree, got the magic ${hex(magic)}`);
    }
    if (geometry.version === 5) {
      const { number } = this.inode;
      const owner = this.metadata.exchanged.has(number) ? null : number;
      checkSelf(geometry, bytes, TREE_SELF, `extent tree of inode ${number}`, place, owner);
    }
    if (view.getUint16(4) !== level) {
      throw this.fault(place + 4, `expected a block of level ${level}, got level ${view.getUint16(4)}`);
    }
    const count = view.getUint16(6);
    const room = Math.floor((bytes.length - TREE_HEADER[geometry.version]) / 16);
    if (count < 1 || count > room) throw this.fault(place + 6, `expected 1 to ${room} entries, got ${count}`);
    return count;
  }

  private addRecords(view: DataView, at: number, count: number, offset: ByteOffset): void {
    const { geometry } = this.metadata;
    this.count += count;
    if (this.count > this.inode.extents) {
      throw this.fault(offset, `expected the ${this.inode.extents} extents that the inode counts, got more`);
    }
    for (let i = 0, record = at; i < count; i++, record += RECORD) {
      const flagged = view.getUint32(record);
      const second = view.getUint32(record + 4);
      const fourth = view.getUint32(record + 12);
      const start = (flagged % 0x80000000) * 2 ** 23 + (second >>> 9);
      const block = (second % 512) * 2 ** 43 + view.getUint32(record + 8) * 2 ** 11 + (fourth >>> 21);
      const length = fourth % 0x200000;
      if (start < this.end) {
        throw this.fault(
          offset + record,
          `expected an extent at block ${this.end} of the file or after it, got ${start}`,
        );
      }
      const place = length === 0 ? -1 : runOffset(geometry, block, length);
      if (place < 0) {
        throw this.fault(
          offset + record,
          `expected a run of blocks within one group, got ${length} from ${block}`,
        );
      }
      this.visit(start, place, length, flagged >= 0x80000000);
      this.end = start + length;
    }
  }

  private fault(offset: ByteOffset, reason: string): DriftmapError {
    return xfsFault(this.metadata.path, offset, `inode ${this.inode.number}: ${reason}`);
  }
}

/** Only the offset of an extent's record. */
function offsetOf(view: DataView, record: number): number {
  return (view.getUint32(record) % 0x80000000) * 2 ** 23 + (view.getUint32(record + 4) >>> 9);
}

/**
 * The map of a regular file over unit 0, the file system's: exactly its size. Holes are zeros without a place;
 * what was allocated and never written is zeros at its place.
 * @throws DriftmapError `unsupported` for a file on the realtime device; `malformed`; `limit`
 */
export async function readFileMap(metadata: XfsMetadata, inode: XfsInode): Promise<ExtentMap> {
  const builder = new ExtentMapBuilder(Math.min(inode.extents + 1, 65536));
  const { blockSize } = metadata.geometry;
  const { size } = inode;
  const addHole = (to: ByteCount) => {
    const offset = builder.size;
    builder.append({ offset, length: to - offset, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
  };
  await visitExtents(metadata, inode, (start, place, count, unwritten) => {
    const offset = start * blockSize;
    if (offset >= size) return;
    if (offset > builder.size) addHole(offset);
    const length = Math.min(count * blockSize, size - offset);
    const kind = unwritten ? Kind.zero : Kind.data;
    builder.append({ offset, length, kind, unit: 0, place, depth: 0 });
  });
  if (builder.size < size) addHole(size);
  return builder.finish();
}
