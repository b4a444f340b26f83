/**
 * The tables of a VMFS file system, found and opened.
 *
 * The file of descriptors describes itself: its first block is the first one after the heartbeats, and in it
 * are the descriptors of the system's own files, each at a number of its own (dissect.vmfs, c_vmfs.py, "System
 * file addresses"): 0 the root directory, 1 .fbb.sf, 2 .fdc.sf, 3 .pbc.sf, 4 .sbc.sf. So they are opened
 * without looking at a directory. The second file of pointer blocks, .pb2.sf, is named in the head of the file
 * system, and opened when it is needed.
 */

import { DriftmapError } from '../../base/errors.ts';
import { VMFS_MAX_SYSTEM_BLOCKS } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { BlockType, fileBlockOf, isToBeZeroed, nameOf, systemDescriptor, typeOf } from './vmfs-address.ts';
import { type BlockVisitor, type PointerBlock, type PointerBlocks, visitBlocks } from './vmfs-blocks.ts';
import {
  DESCRIPTOR_BYTES,
  DescriptorField,
  decodeDescriptor,
  FileType,
  type VmfsDescriptor,
} from './vmfs-descriptor.ts';
import { readVmfsInfo, type VmfsInfo } from './vmfs-info.ts';
import { PieceReader } from './vmfs-pieces.ts';
import { type SystemFile, VmfsResource } from './vmfs-resource.ts';
import type { VmfsVolume } from './vmfs-volume.ts';

export const ROOT_DESCRIPTOR = systemDescriptor(0);
const FILE_BLOCKS = systemDescriptor(1);
const DESCRIPTORS = systemDescriptor(2);
const POINTER_BLOCKS = systemDescriptor(3);
const SUB_BLOCKS = systemDescriptor(4);
const ID_BYTES = 4;

export class VmfsTables {
  readonly volume: VmfsVolume;
  readonly info: VmfsInfo;
  readonly subBlocks: VmfsResource;
  /** File blocks that the file system has. */
  readonly fileBlocks: number;
  private readonly descriptors: VmfsResource;
  private readonly pieces: PieceReader;
  readonly pointers: PointerBlocks;
  /** Without .pb2.sf, for opening that. */
  private readonly firstPointers: PointerBlocks;

  private constructor(parts: Parts) {
    this.volume = parts.volume;
    this.info = parts.info;
    this.pieces = parts.pieces;
    this.descriptors = parts.descriptors;
    this.subBlocks = parts.subBlocks;
    this.fileBlocks = parts.fileBlocks;
    this.firstPointers = parts.firstPointers;
    this.pointers = new Pointers(parts.pointerBlocks, parts.pieces, parts.volume, () => this.openPointers2());
  }

  /** @throws DriftmapError `malformed`, `unsupported` */
  static async open(volume: VmfsVolume): Promise<VmfsTables> {
    const info = await readVmfsInfo(volume);
    const pieces = new PieceReader(volume.source);
    const first = await openFirstBlock(volume, info);
    const opener = new SystemOpener(volume, info, pieces, first);
    const pointerBlocks = await opener.resource(POINTER_BLOCKS, '.pbc.sf', null);
    const firstPointers = new Pointers(pointerBlocks, pieces, volume, null);
    opener.pointers = firstPointers;
    const descriptorFile = await opener.file(DESCRIPTORS, '.fdc.sf');
    if (descriptorFile.blocks[0] !== info.descriptorBase) {
      const reason = `.fdc.sf: expected its first block at ${info.descriptorBase} of the volume, where its descriptor is, got ${descriptorFile.blocks[0]}`;
      throw new DriftmapError('malformed', reason, { path: volume.path, offset: info.place });
    }
    const descriptors = await VmfsResource.open(volume, descriptorFile, DESCRIPTOR_BYTES);
    const subBlocks = await opener.resource(SUB_BLOCKS, '.sbc.sf', info.subBlockSize);
    const bitmaps = await opener.resource(FILE_BLOCKS, '.fbb.sf', null);
    const fileBlocks = bitmaps.header.items;
    const pointers = { pointerBlocks, firstPointers };
    return new VmfsTables({ volume, info, pieces, descriptors, subBlocks, fileBlocks, ...pointers });
  }

  get path(): string {
    return this.volume.path;
  }

  /** The descriptor that an id names; `where` the id stands on the unit. */
  descriptor(id: number, where: ByteOffset): Promise<VmfsDescriptor> {
    return readDescriptor(this.volume, this.pieces, this.descriptors, id, where);
  }

  /** The offset on the volume of a file block. */
  fileBlock(id: number, where: ByteOffset): ByteOffset {
    const block = fileBlockOf(id);
    if (block < this.fileBlocks) return block * this.info.blockSize;
    const reason = `${nameOf(id)} is number ${block}: the file system has ${this.fileBlocks}`;
    throw new DriftmapError('malformed', reason, { path: this.path, offset: where });
  }

  private async openPointers2(): Promise<VmfsResource> {
    const { volume, info, pieces, descriptors } = this;
    if (info.pointer2Descriptor === 0) {
      const reason = 'a file has pointer blocks in .pb2.sf, and the file system has no such file';
      throw new DriftmapError('malformed', reason, { path: volume.path, offset: info.place });
    }
    const opener = new SystemOpener(volume, info, pieces, descriptors);
    opener.pointers = this.firstPointers;
    return opener.resource(info.pointer2Descriptor, '.pb2.sf', this.pointers.idsPerBlock * ID_BYTES);
  }
}

interface Parts {
  readonly volume: VmfsVolume;
  readonly info: VmfsInfo;
  readonly pieces: PieceReader;
  readonly descriptors: VmfsResource;
  readonly subBlocks: VmfsResource;
  readonly pointerBlocks: VmfsResource;
  readonly firstPointers: PointerBlocks;
  readonly fileBlocks: number;
}

/** The first block of .fdc.sf, as a file of that one block; its layout stands in the head of the file system too. */
async function openFirstBlock(volume: VmfsVolume, info: VmfsInfo): Promise<VmfsResource> {
  const { descriptorBase, blockSize, descriptorGroup, descriptorClusters } = info;
  const blocks = Float64Array.of(descriptorBase);
  const file: SystemFile = { name: '.fdc.sf', size: blockSize, blockSize, blocks };
  const resource = await VmfsResource.open(volume, file, DESCRIPTOR_BYTES);
  const { firstGroup, clustersPerGroup } = resource.header;
  if (firstGroup === descriptorGroup && clustersPerGroup === descriptorClusters) return resource;
  const reason = `.fdc.sf: expected groups of ${descriptorClusters} clusters from ${descriptorGroup} on, as the head of the file system says, got ${clustersPerGroup} from ${firstGroup} on`;
  throw new DriftmapError('malformed', reason, { path: volume.path, offset: info.place });
}

async function readDescriptor(
  volume: VmfsVolume,
  pieces: PieceReader,
  resource: VmfsResource,
  id: number,
  where: ByteOffset,
): Promise<VmfsDescriptor> {
  const { path } = volume;
  if (typeOf(id) !== BlockType.descriptor) {
    const reason = `expected the id of a file descriptor, got ${nameOf(id)}`;
    throw new DriftmapError('malformed', reason, { path, offset: where });
  }
  const volumeOffset = resource.volumeOffsetOf(id, where);
  const place = volume.placeOf('a file descriptor', volumeOffset, DESCRIPTOR_BYTES);
  const view = await pieces.view('a file descriptor', place, DESCRIPTOR_BYTES);
  return decodeDescriptor(view, { path, id, place, volumeOffset });
}

/** Opens the system's own files. */
class SystemOpener {
  /** Null until the file of pointer blocks is open. */
  pointers: PointerBlocks | null = null;
  private readonly volume: VmfsVolume;
  private readonly info: VmfsInfo;
  private readonly pieces: PieceReader;
  private readonly descriptors: VmfsResource;

  constructor(volume: VmfsVolume, info: VmfsInfo, pieces: PieceReader, descriptors: VmfsResource) {
    this.volume = volume;
    this.info = info;
    this.pieces = pieces;
    this.descriptors = descriptors;
  }

  async resource(id: number, name: string, itemSize: ByteCount | null): Promise<VmfsResource> {
    return VmfsResource.open(this.volume, await this.file(id, name), itemSize);
  }

  async file(id: number, name: string): Promise<SystemFile> {
    const { volume, pieces, descriptors, info } = this;
    const { path } = volume;
    const descriptor = await readDescriptor(volume, pieces, descriptors, id, info.place);
    const { type, size, blockSize, place } = descriptor;
    if (type !== FileType.system) {
      const reason = `${name}: expected a system file (type 5), got type ${type}`;
      throw new DriftmapError('malformed', reason, { path, offset: place + DescriptorField.type });
    }
    if (blockSize !== info.blockSize) {
      const reason = `${name}: expected blocks of ${info.blockSize} bytes, got ${blockSize}`;
      throw new DriftmapError('malformed', reason, { path, offset: place + DescriptorField.blockSize });
    }
    if (size > VMFS_MAX_SYSTEM_BLOCKS * blockSize) {
      const reason = `${name}: expected at most ${VMFS_MAX_SYSTEM_BLOCKS} blocks, got ${size} bytes`;
      throw new DriftmapError('limit', reason, { path, offset: place + DescriptorField.size });
    }
    const collector = new BlockCollector(path, name, blockSize);
    await visitBlocks(path, descriptor, this.pointers, collector);
    return { name, size, blockSize, blocks: collector.finish() };
  }
}

/** Takes the blocks of a system file: file blocks, none of them twice or to be zeroed. */
class BlockCollector implements BlockVisitor {
  private readonly path: string;
  private readonly name: string;
  private readonly blockSize: ByteCount;
  private readonly blocks: number[] = [];
  private readonly seen = new Set<number>();

  constructor(path: string, name: string, blockSize: ByteCount) {
    this.path = path;
    this.name = name;
    this.blockSize = blockSize;
  }

  block(id: number, where: ByteOffset): void {
    if (id === 0) {
      this.blocks.push(-1);
      return;
    }
    const offset = fileBlockOf(id) * this.blockSize;
    if (typeOf(id) !== BlockType.file || isToBeZeroed(id) || this.seen.has(offset)) {
      const reason = `${this.name}: expected file blocks, each once and written, got ${nameOf(id)}`;
      throw new DriftmapError('malformed', reason, { path: this.path, offset: where });
    }
    this.seen.add(offset);
    this.blocks.push(offset);
  }

  holes(count: number): void {
    for (let i = 0; i < count; i++) this.blocks.push(-1);
  }

  finish(): Float64Array {
    return Float64Array.from(this.blocks);
  }
}

class Pointers implements PointerBlocks {
  readonly idsPerBlock: number;
  private readonly resource: VmfsResource;
  private readonly pieces: PieceReader;
  private readonly volume: VmfsVolume;
  private readonly open2: (() => Promise<VmfsResource>) | null;
  private opened2: Promise<VmfsResource> | null = null;

  constructor(
    resource: VmfsResource,
    pieces: PieceReader,
    volume: VmfsVolume,
    open2: (() => Promise<VmfsResource>) | null,
  ) {
    const { itemSize } = resource.header;
    if (itemSize < ID_BYTES) {
      const reason = `.pbc.sf: expected pointer blocks, got pieces of ${itemSize} bytes`;
      throw new DriftmapError('malformed', reason, { path: volume.path, offset: resource.place });
    }
    this.resource = resource;
    this.pieces = pieces;
    this.volume = volume;
    this.open2 = open2;
    this.idsPerBlock = itemSize / ID_BYTES;
  }

  async read(id: number, where: ByteOffset): Promise<PointerBlock> {
    const resource = typeOf(id) === BlockType.pointer2 ? await this.second(id, where) : this.resource;
    const { itemSize } = resource.header;
    const offset = resource.volumeOffsetOf(id, where);
    const place = this.volume.placeOf('a pointer block', offset, itemSize);
    return { place, view: await this.pieces.view('a pointer block', place, itemSize) };
  }

  private second(id: number, where: ByteOffset): Promise<VmfsResource> {
    if (this.open2 !== null) {
      this.opened2 ??= this.open2();
      return this.opened2;
    }
    const reason = `${nameOf(id)} lies in .pb2.sf, which is not open while the system's files are`;
    throw new DriftmapError('malformed', reason, { path: this.volume.path, offset: where });
  }
}
