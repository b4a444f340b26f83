/**
 * Resource files of VMFS: .fdc.sf with file descriptors, .sbc.sf with sub-blocks, .pbc.sf and .pb2.sf with
 * pointer blocks (vmfs-tools, libvmfs/vmfs_bitmap.h; dissect.vmfs, resource.py). Each is a header, then groups;
 * a group is the bitmaps of its clusters, 1024 bytes each, then the pieces of these clusters, one after the
 * other. .fbb.sf has bitmaps only: its pieces are the file blocks of the volume.
 *
 * A reader needs no bitmap: what a file uses, its block ids name. Pieces do not heed the file's own blocks, so
 * that one may lie in two places.
 */

import { DriftmapError } from '../../base/errors.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo, MiB } from '../../base/units.ts';
import { readWhole, viewOf } from '../formats/byte-source.ts';
import { nameOf, pieceOf } from './vmfs-address.ts';
import type { VmfsVolume } from './vmfs-volume.ts';

const HEADER_BYTES = 32;
const CLUSTER_BITMAP_BYTES = 1024;

/** A file of the system's own: its blocks on the volume. */
export interface SystemFile {
  readonly name: string;
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Offset on the volume of each block; −1 where there is none. */
  readonly blocks: Float64Array;
}

export interface ResourceHeader {
  readonly itemsPerCluster: number;
  readonly clustersPerGroup: number;
  readonly firstGroup: ByteOffset;
  readonly itemSize: ByteCount;
  readonly groupSize: ByteCount;
  readonly items: number;
}

export class VmfsResource {
  readonly header: ResourceHeader;
  /** Where on the unit its header is. */
  readonly place: ByteOffset;
  private readonly volume: VmfsVolume;
  private readonly file: SystemFile;

  private constructor(volume: VmfsVolume, file: SystemFile, header: ResourceHeader, place: ByteOffset) {
    this.place = place;
    this.volume = volume;
    this.file = file;
    this.header = header;
  }

  /**
   * Reads and checks the header.
   * @param itemSize what the pieces' size must be; null where the file says it
   */
  static async open(volume: VmfsVolume, file: SystemFile, itemSize: ByteCount | null): Promise<VmfsResource> {
    const bytes = new Uint8Array(HEADER_BYTES);
    const at = systemPlace(volume, file, 0, HEADER_BYTES);
    await readWhole(volume.source, file.name, at, bytes);
    const header = decodeHeader(volume.path, file, viewOf(bytes), at);
    if (itemSize !== null && header.itemSize !== itemSize) {
      const reason = `${file.name}: expected pieces of ${itemSize} bytes, got ${header.itemSize}`;
      throw new DriftmapError('malformed', reason, { path: volume.path, offset: at + 12 });
    }
    return new VmfsResource(volume, file, header, at);
  }

  /**
   * The offset on the volume of the piece that an id names, which must lie in one block of the file.
   * @param where on the unit the id stands, for messages
   */
  volumeOffsetOf(id: number, where: ByteOffset): ByteOffset {
    const { file, header } = this;
    const offset = this.offsetOf(id, where);
    if ((offset % file.blockSize) + header.itemSize <= file.blockSize)
      return this.onVolume(id, where, offset);
    throw this.malformed(where, `${file.name}: ${nameOf(id)} lies in two blocks of the file`);
  }

  /** Calls `each` with the places, on the unit, of the first `length` bytes of the piece that an id names. */
  places(
    id: number,
    where: ByteOffset,
    length: ByteCount,
    each: (place: ByteOffset, length: ByteCount) => void,
  ): void {
    const { blockSize } = this.file;
    const offset = this.offsetOf(id, where);
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const here = Math.min(length - done, blockSize - (at % blockSize));
      each(this.volume.placeOf(nameOf(id), this.onVolume(id, where, at), here), here);
      done += here;
    }
  }

  private onVolume(id: number, where: ByteOffset, offset: ByteOffset): ByteOffset {
    const { blocks, blockSize, name } = this.file;
    const block = blocks[Math.floor(offset / blockSize)]!;
    if (block >= 0) return block + (offset % blockSize);
    const reason = `${nameOf(id)} lies at ${offset} of ${name}, where that file has no block`;
    throw this.malformed(where, reason);
  }

  private malformed(where: ByteOffset, reason: string): DriftmapError {
    return new DriftmapError('malformed', reason, { path: this.volume.path, offset: where });
  }

  /** Where in the file the piece begins. */
  private offsetOf(id: number, where: ByteOffset): ByteOffset {
    const { itemsPerCluster, clustersPerGroup, firstGroup, itemSize, groupSize, items } = this.header;
    const { cluster, item } = pieceOf(id);
    if (item >= itemsPerCluster || cluster * itemsPerCluster + item >= items) {
      const reason = `${nameOf(id)} is item ${item} of cluster ${cluster}: ${this.file.name} has ${items} items, ${itemsPerCluster} in a cluster`;
      throw this.malformed(where, reason);
    }
    const group = Math.floor(cluster / clustersPerGroup);
    const inGroup = (cluster % clustersPerGroup) * itemsPerCluster + item;
    const offset =
      firstGroup + group * groupSize + clustersPerGroup * CLUSTER_BITMAP_BYTES + inGroup * itemSize;
    if (offset + itemSize <= this.file.size) return offset;
    const reason = `${nameOf(id)} lies at ${offset} of ${this.file.name}, past its end (${this.file.size} bytes)`;
    throw this.malformed(where, reason);
  }
}

/** The place on the unit of a run of a system file that lies in one block. */
function systemPlace(
  volume: VmfsVolume,
  { name, size, blocks, blockSize }: SystemFile,
  offset: ByteOffset,
  length: ByteCount,
): ByteOffset {
  const block = blocks[Math.floor(offset / blockSize)] ?? -1;
  if (block >= 0 && offset + length <= size) {
    return volume.placeOf(name, block + (offset % blockSize), length);
  }
  const reason = `${name}: expected ${length} bytes at ${offset}, the file ends or has no block there`;
  throw new DriftmapError('malformed', reason, { path: volume.path });
}

function decodeHeader(path: string, { name }: SystemFile, view: DataView, place: ByteOffset): ResourceHeader {
  const wrong = (at: number, reason: string) =>
    new DriftmapError('malformed', `${name}: ${reason}`, { path, offset: place + at });
  const itemsPerCluster = view.getUint32(0, true);
  const clustersPerGroup = view.getUint32(4, true);
  const itemSize = view.getUint32(12, true);
  const groupSize = view.getUint32(16, true);
  // A cluster's bitmap has room for 3968 bits.
  if (itemsPerCluster < 1 || itemsPerCluster > 3968) {
    throw wrong(0, `expected 1 to 3968 items in a cluster, got ${itemsPerCluster}`);
  }
  if (clustersPerGroup < 1) throw wrong(4, 'expected clusters in a group, got 0');
  if (itemSize !== 0 && (!isPowerOfTwo(itemSize) || itemSize > 8 * MiB)) {
    throw wrong(12, `expected pieces of a power of two up to 8 MiB, got ${itemSize} bytes`);
  }
  const least = clustersPerGroup * (CLUSTER_BITMAP_BYTES + itemsPerCluster * itemSize);
  if (groupSize < least) {
    throw wrong(16, `expected groups of at least ${least} bytes, got ${groupSize}`);
  }
  return {
    itemsPerCluster,
    clustersPerGroup,
    firstGroup: view.getUint32(8, true),
    itemSize,
    groupSize,
    items: view.getUint32(20, true),
  };
}
