/**
 * A file of VMFS as an extent map over the unit. Blocks that were never given to the file, and blocks that are
 * to be zeroed, read as zeros; the latter have a place. Neighbours are joined before they reach the map's
 * builder, so that a preallocated terabyte costs a million ids and a few extents.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, readWhole } from '../formats/byte-source.ts';
import { PlacedBlocks } from '../formats/placed-blocks.ts';
import { BlockType, isSharedSubBlock, isToBeZeroed, nameOf, typeOf } from './vmfs-address.ts';
import { type BlockVisitor, visitBlocks } from './vmfs-blocks.ts';
import {
  Addressing,
  DESCRIPTOR_BYTES,
  DESCRIPTOR_DATA,
  DescriptorField,
  type VmfsDescriptor,
} from './vmfs-descriptor.ts';
import type { VmfsTables } from './vmfs-tables.ts';

const RESIDENT_BYTES = DESCRIPTOR_BYTES - DESCRIPTOR_DATA;

/**
 * Reads a file's blocks into a map of exactly its size.
 * @throws DriftmapError `malformed`, `unsupported`, `limit`
 */
export async function readVmfsMap(tables: VmfsTables, descriptor: VmfsDescriptor): Promise<ExtentMap> {
  const { path } = tables;
  const { addressing, size, place } = descriptor;
  if (addressing === Addressing.resident) return residentMap(path, descriptor);
  const inSubBlocks = addressing === Addressing.sub;
  const expected = inSubBlocks ? tables.info.subBlockSize : tables.info.blockSize;
  if (descriptor.blockSize !== expected) {
    const reason = `${nameOf(descriptor.id)}: expected blocks of ${expected} bytes, got ${descriptor.blockSize}`;
    throw new DriftmapError('malformed', reason, { path, offset: place + DescriptorField.blockSize });
  }
  const decoder = new MapDecoder(tables, size, expected, inSubBlocks ? BlockType.sub : BlockType.file);
  await visitBlocks(path, descriptor, tables.pointers, decoder);
  return decoder.finish();
}

function residentMap(path: string, { id, size, place }: VmfsDescriptor): ExtentMap {
  if (size > RESIDENT_BYTES) {
    const reason = `${nameOf(id)}: expected at most ${RESIDENT_BYTES} bytes in a descriptor, got ${size}`;
    throw new DriftmapError('malformed', reason, { path, offset: place + DescriptorField.size });
  }
  const builder = new ExtentMapBuilder(1);
  const data = place + DESCRIPTOR_DATA;
  builder.append({ offset: 0, length: size, kind: Kind.data, unit: 0, place: data, depth: 0 });
  return builder.finish();
}

class MapDecoder implements BlockVisitor {
  private readonly tables: VmfsTables;
  private readonly size: ByteCount;
  private readonly blockSize: ByteCount;
  private readonly type: number;
  private readonly builder: ExtentMapBuilder;
  private readonly placed: PlacedBlocks;

  /** The run being joined: kind, first offset, place of that (−1: none), and end so far. */
  private kind: Kind = Kind.zero;
  private start: ByteOffset = 0;
  private place: ByteOffset = -1;
  private end: ByteOffset = 0;

  constructor(tables: VmfsTables, size: ByteCount, blockSize: ByteCount, type: number) {
    this.tables = tables;
    this.size = size;
    this.blockSize = blockSize;
    this.type = type;
    this.builder = new ExtentMapBuilder(Math.min(Math.ceil(size / blockSize) + 1, 1024));
    this.placed = new PlacedBlocks(tables.path, tables.volume.source.size);
  }

  block(id: number, where: ByteOffset): void {
    const length = Math.min(this.blockSize, this.size - this.end);
    if (id === 0) this.add(Kind.zero, -1, length);
    else if (typeOf(id) !== this.type) this.refuse(id, where);
    else if (this.type === BlockType.file) this.addFileBlock(id, where, length);
    else this.addSubBlock(id, where, length);
  }

  holes(count: number): void {
    this.add(Kind.zero, -1, Math.min(count * this.blockSize, this.size - this.end));
  }

  finish(): ExtentMap {
    this.flush();
    this.placed.refuseOverlap();
    return this.builder.finish();
  }

  private addFileBlock(id: number, where: ByteOffset, length: ByteCount): void {
    const { tables } = this;
    const place = tables.volume.placeOf('a file block', tables.fileBlock(id, where), length);
    this.placed.take(place, length);
    this.add(isToBeZeroed(id) ? Kind.zero : Kind.data, place, length);
  }

  private addSubBlock(id: number, where: ByteOffset, length: ByteCount): void {
    const { tables } = this;
    if (isSharedSubBlock(id)) {
      const reason = `${nameOf(id)} is marked in a way (copy on write) whose meaning is not known well enough`;
      throw new DriftmapError('unsupported', reason, { path: tables.path, offset: where });
    }
    tables.subBlocks.places(id, where, length, (place, part) => {
      this.placed.take(place, part);
      this.add(Kind.data, place, part);
    });
  }

  private refuse(id: number, where: ByteOffset): never {
    const expected = this.type === BlockType.file ? 'a file block' : 'a sub-block';
    const reason = `expected the id of ${expected}, got ${nameOf(id)}`;
    throw new DriftmapError('malformed', reason, { path: this.tables.path, offset: where });
  }

  private add(kind: Kind, place: ByteOffset, length: ByteCount): void {
    const { start, end } = this;
    const continues =
      kind === this.kind &&
      (place < 0 ? this.place < 0 : this.place >= 0 && place === this.place + end - start);
    if (!continues) {
      this.flush();
      this.kind = kind;
      this.start = end;
      this.place = place;
    }
    this.end = end + length;
  }

  private flush(): void {
    const { start, end, kind, place } = this;
    if (end > start)
      this.builder.append({ offset: start, length: end - start, kind, unit: 0, place, depth: 0 });
  }
}

/** Reads through such a map: for what is small and read once. */
export async function readMapped(
  source: ByteSource,
  what: string,
  map: ExtentMap,
  offset: ByteOffset,
  target: Uint8Array,
): Promise<void> {
  for (const extent of map.extents({ offset, length: target.length })) {
    const from = extent.offset - offset;
    const part = target.subarray(from, from + extent.length);
    if (extent.kind === Kind.data) await readWhole(source, what, extent.place, part);
    else part.fill(0);
  }
}
