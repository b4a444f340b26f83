/**
 * The block ids of a file in order, whichever way its descriptor leads to them (vmfs-tools,
 * libvmfs/vmfs_inode.c, vmfs_inode_get_block; dissect.vmfs, descriptor.py, FileDescriptor5):
 *
 *   directly                  the descriptor's 256 ids are the file's
 *   through pointer blocks    they name pointer blocks of (nearly always) 1024 ids each
 *   doubly                    they name pointer blocks of ids of pointer blocks; VMFS 5 only
 *
 * An id of 0 is a hole, and so is all that a missing pointer block would name. A pointer block that is reached
 * twice is damage, which also bounds the work: a file costs no more than its pointer blocks hold.
 *
 * A descriptor says how many blocks its file has and how many of them are to be zeroed. What was counted has
 * to agree: an id that damage has turned into a hole would read as zeros, and nothing else would tell.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteOffset } from '../../base/units.ts';
import { BlockType, isToBeZeroed, nameOf, typeOf } from './vmfs-address.ts';
import {
  Addressing,
  DESCRIPTOR_DATA,
  DESCRIPTOR_POINTERS,
  DescriptorField,
  type VmfsDescriptor,
} from './vmfs-descriptor.ts';

const ID_BYTES = 4;

export interface BlockVisitor {
  /** The file's next block. `where` on the unit its id stands; an id of 0 is a hole. */
  block(id: number, where: ByteOffset): void;
  /** So many holes. */
  holes(count: number): void;
}

/** A pointer block in memory. */
export interface PointerBlock {
  readonly view: DataView;
  /** Where on the unit it is. */
  readonly place: ByteOffset;
}

export interface PointerBlocks {
  /** Ids in a pointer block. */
  readonly idsPerBlock: number;
  /** Reads the pointer block that an id names; `where` the id stands. */
  read(id: number, where: ByteOffset): Promise<PointerBlock>;
}

/**
 * Visits the blocks of a file up to its size.
 * @param pointers null while there are none yet: then a file that needs them is an error
 * @throws DriftmapError `malformed`, `unsupported` for an addressing that is not known
 */
export async function visitBlocks(
  path: string,
  descriptor: VmfsDescriptor,
  pointers: PointerBlocks | null,
  visitor: BlockVisitor,
): Promise<void> {
  await new BlockWalk(path, descriptor, pointers, visitor).walk();
}

class BlockWalk {
  private readonly path: string;
  private readonly descriptor: VmfsDescriptor;
  private readonly pointers: PointerBlocks | null;
  private readonly visitor: BlockVisitor;
  /** Blocks of the file not visited yet. */
  private left: number;
  /** Counted in all ids that were looked at, also past the file's size. */
  private allocated = 0;
  private toBeZeroed = 0;
  /** Whether there is something past the file's size that was not looked at. */
  private more = false;
  /** Places of the pointer blocks so far. */
  private readonly seen = new Set<ByteOffset>();

  constructor(
    path: string,
    descriptor: VmfsDescriptor,
    pointers: PointerBlocks | null,
    visitor: BlockVisitor,
  ) {
    this.path = path;
    this.descriptor = descriptor;
    this.pointers = pointers;
    this.visitor = visitor;
    this.left = Math.ceil(descriptor.size / descriptor.blockSize);
  }

  async walk(): Promise<void> {
    const { view, place } = this.descriptor;
    const levels = this.levels();
    const perBlock = levels === 0 ? 1 : this.pointersOrThrow().idsPerBlock;
    const most = DESCRIPTOR_POINTERS * perBlock ** levels;
    if (this.left > most) {
      throw this.malformed(
        DescriptorField.size,
        `expected a size of at most ${most} blocks of ${this.descriptor.blockSize} bytes, got ${this.descriptor.size} bytes`,
      );
    }
    await this.visitTable(view, DESCRIPTOR_DATA, DESCRIPTOR_POINTERS, place, levels);
    this.checkCounts();
  }

  /** Levels of pointer blocks between the descriptor and the blocks. */
  private levels(): number {
    const { addressing } = this.descriptor;
    if (addressing === Addressing.file || addressing === Addressing.sub) return 0;
    if (addressing === Addressing.pointer || addressing === Addressing.pointer2) return 1;
    if (addressing === Addressing.double) return 2;
    const reason = `${nameOf(this.descriptor.id)}: its block ids are of a kind (${addressing}) that is not known`;
    const offset = this.descriptor.place + DescriptorField.addressing;
    throw new DriftmapError('unsupported', reason, { path: this.path, offset });
  }

  private pointersOrThrow(): PointerBlocks {
    if (this.pointers !== null) return this.pointers;
    throw this.malformed(
      DescriptorField.addressing,
      'a file that is needed to find pointer blocks has pointer blocks itself',
    );
  }

  /** `count` ids from `at` of a view, which lies at `place` of the unit; they stand `levels` above the blocks. */
  private async visitTable(
    view: DataView,
    at: number,
    count: number,
    place: ByteOffset,
    levels: number,
  ): Promise<void> {
    if (levels === 0) {
      this.visitIds(view, at, count, place);
      return;
    }
    const pointers = this.pointersOrThrow();
    const { idsPerBlock } = pointers;
    const span = idsPerBlock ** levels;
    for (let i = 0; i < count; i++) {
      const id = view.getUint32(at + i * ID_BYTES, true);
      if (this.left === 0) {
        if (id !== 0) this.more = true;
        continue;
      }
      if (id === 0) {
        const holes = Math.min(span, this.left);
        this.visitor.holes(holes);
        this.left -= holes;
        continue;
      }
      const where = place + at + i * ID_BYTES;
      this.checkType(id, where);
      const block = await pointers.read(id, where);
      this.checkNew(block.place, id, where);
      await this.visitTable(block.view, 0, idsPerBlock, block.place, levels - 1);
    }
  }

  private visitIds(view: DataView, at: number, count: number, place: ByteOffset): void {
    const { visitor } = this;
    const inside = Math.min(count, this.left);
    for (let i = 0; i < count; i++) {
      const id = view.getUint32(at + i * ID_BYTES, true);
      if (id !== 0) {
        this.allocated++;
        if (typeOf(id) === BlockType.file && isToBeZeroed(id)) this.toBeZeroed++;
      }
      if (i < inside) visitor.block(id, place + at + i * ID_BYTES);
    }
    this.left -= inside;
  }

  private checkType(id: number, where: ByteOffset): void {
    const type = typeOf(id);
    if (type === BlockType.pointer || type === BlockType.pointer2) return;
    const reason = `${nameOf(this.descriptor.id)}: expected the id of a pointer block, got ${nameOf(id)}`;
    throw new DriftmapError('malformed', reason, { path: this.path, offset: where });
  }

  /** By its place, for flags may differ. */
  private checkNew(block: ByteOffset, id: number, where: ByteOffset): void {
    if (!this.seen.has(block)) {
      this.seen.add(block);
      return;
    }
    const reason = `${nameOf(this.descriptor.id)}: it has ${nameOf(id)} twice`;
    throw new DriftmapError('malformed', reason, { path: this.path, offset: where });
  }

  private checkCounts(): void {
    if (this.more) return;
    const { blockCount, toBeZeroed } = this.descriptor;
    const advice = 'the copy is damaged, or was made in the middle of a change';
    if (this.allocated !== blockCount) {
      throw this.malformed(
        DescriptorField.blockCount,
        `it says that the file has ${blockCount} blocks, and ${this.allocated} are found: ${advice}`,
      );
    }
    if (this.toBeZeroed !== toBeZeroed) {
      throw this.malformed(
        DescriptorField.toBeZeroed,
        `it says that ${toBeZeroed} blocks are to be zeroed, and ${this.toBeZeroed} are found: ${advice}`,
      );
    }
  }

  private malformed(field: number, reason: string): DriftmapError {
    const { id, place } = this.descriptor;
    return new DriftmapError('malformed', `${nameOf(id)}: ${reason}`, {
      path: this.path,
      offset: place + field,
    });
  }
}
