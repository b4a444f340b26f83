/**
 * Write by signature: the replica makes marked blocks equal to production by copying what it holds already.
 *
 * Situation: production has sent the signatures of many marked blocks (a plan). Some are those of blocks that this
 * session may look at: of the replica itself, of other disks granted as sources, of a block store. The catch is
 * that copying within one disk overwrites what another block may need: when a guest moves a file, the new place
 * of one part is the old place of the next.
 *
 * Method: each marked block has at most one source. If that source is itself a marked block, it must not be
 * overwritten before it has been copied. So blocks that nobody needs are written first, which frees their sources
 * to be written, and so on (Kahn, "Topological sorting of large networks", 1962). What remains goes in circles; of
 * each circle one block's old contents are held in memory. Blocks for which no source is found are written last,
 * when their data arrives.
 *
 * Every copy is read, signed and compared before it is written. Whatever goes wrong with a source makes the block
 * absent, which is an answer and no error: it is sent as data then.
 */

import { MAX_HELD_BYTES } from '../base/limits.ts';
import type { BlockIndex, ByteCount } from '../base/units.ts';
import type { SignatureTable } from '../store/signature-table.ts';
import { SIGNATURE_BYTES } from '../wire/messages.ts';
import type { BlockHasher } from './block-hasher.ts';

/** Whose blocks may be copied; source 0 is the replica itself. */
export interface BlockSource {
  /** Reads a block; false when there is none. */
  read(block: BlockIndex, target: Uint8Array): Promise<boolean>;
  /** Reads the block of a signature; only of sources that are asked so, because their blocks have no numbers. */
  take?(signature: Uint8Array, target: Uint8Array): Promise<boolean>;
}

export interface PlacingOptions {
  /** Ascending. */
  readonly blocks: readonly BlockIndex[];
  /** 32 bytes a block, in the same order. */
  readonly signatures: Uint8Array;
  readonly table: SignatureTable;
  readonly sources: readonly BlockSource[];
  readonly hasher: BlockHasher;
  /** Bytes of a block: the last one of the disk may be short. */
  readonly lengthOf: (block: BlockIndex) => ByteCount;
  /** Writes a block whose contents are right; the bytes are not kept. */
  readonly write: (block: BlockIndex, bytes: Uint8Array) => Promise<void>;
  /** The block is right as it is. */
  readonly keep: (block: BlockIndex) => void;
  readonly heldBytes?: ByteCount | undefined;
}

const ABSENT = -1;
const ANY_STORE = -2;

export class Placing {
  /** One byte a block: 1 where it has been placed. */
  readonly placed: Uint8Array;
  private readonly options: PlacingOptions;
  private readonly stores: readonly BlockSource[];
  /** Per block: the source's number and its block; `ABSENT` where nothing is known. */
  private readonly sourceOf: Int32Array;
  private readonly blockOf: Float64Array;
  /** Per block: which block of this plan it copies from; −1 for none. */
  private readonly copiesFrom: Int32Array;
  /** Per block: how many copies from its old contents are still to be made. */
  private readonly readers: Uint32Array;
  private readonly tried: Uint8Array;
  private readonly held = new Map<number, Uint8Array>();
  private heldBytes = 0;

  constructor(options: PlacingOptions) {
    const { length } = options.blocks;
    this.options = options;
    this.stores = options.sources.filter((source) => source.take !== undefined);
    this.placed = new Uint8Array(length);
    this.tried = new Uint8Array(length);
    this.sourceOf = new Int32Array(length).fill(ABSENT);
    this.blockOf = new Float64Array(length);
    this.copiesFrom = new Int32Array(length).fill(ABSENT);
    this.readers = new Uint32Array(length);
  }

  async run(): Promise<Uint8Array> {
    this.findSources();
    const ready: number[] = [];
    for (let i = 0; i < this.placed.length; i++) if (this.canBegin(i)) ready.push(i);
    await this.drain(ready);
    for (let i = 0; i < this.placed.length; i++) {
      // Whoever still waits is on a circle, or behind one.
      if (this.sourceOf[i] === ABSENT || this.tried[i] === 1) continue;
      await this.hold(i);
      await this.drain([i]);
    }
    return this.placed;
  }

  private findSources(): void {
    const { blocks, signatures, table } = this.options;
    const positions = new Map(blocks.map((block, i) => [block, i]));
    for (let i = 0; i < blocks.length; i++) {
      const holder = table.find(signatures, i * SIGNATURE_BYTES);
      if (holder === null) {
        // The stores are asked when its turn comes: it needs nothing that is overwritten.
        if (this.stores.length > 0) this.sourceOf[i] = ANY_STORE;
        continue;
      }
      this.sourceOf[i] = holder.source;
      this.blockOf[i] = holder.block;
      const inPlan = holder.source === 0 ? positions.get(holder.block) : undefined;
      if (inPlan === undefined || inPlan === i) continue;
      this.copiesFrom[i] = inPlan;
      this.readers[inPlan]!++;
    }
  }

  private canBegin(i: number): boolean {
    return this.sourceOf[i] !== ABSENT && this.readers[i] === 0 && this.tried[i] === 0;
  }

  /** Copies these, and what becomes free by it. */
  private async drain(ready: number[]): Promise<void> {
    for (let i = ready.pop(); i !== undefined; i = ready.pop()) {
      await this.copy(i);
      const from = this.copiesFrom[i]!;
      if (from === ABSENT) continue;
      this.readers[from]!--;
      if (this.readers[from] !== 0) continue;
      const held = this.held.get(from);
      if (held !== undefined) {
        this.held.delete(from);
        this.heldBytes -= held.length;
      } else if (this.canBegin(from)) ready.push(from);
    }
  }

  /** Keeps a block's old contents for those who need them, so that it can be written. */
  private async hold(i: number): Promise<void> {
    const { blocks, sources, lengthOf } = this.options;
    const bytes = new Uint8Array(lengthOf(blocks[i]!));
    if (this.heldBytes + bytes.length > (this.options.heldBytes ?? MAX_HELD_BYTES)) return;
    if (!(await sources[0]!.read(blocks[i]!, bytes))) return;
    this.held.set(i, bytes);
    this.heldBytes += bytes.length;
  }

  private async copy(i: number): Promise<void> {
    const { blocks, sources, hasher, lengthOf, signatures, write, keep } = this.options;
    const block = blocks[i]!;
    const length = lengthOf(block);
    this.tried[i] = 1;
    const target = hasher.buffer(length);
    const held = this.copiesFrom[i] === ABSENT ? undefined : this.held.get(this.copiesFrom[i]!);
    if (held !== undefined) {
      if (held.length !== length) return;
      target.set(held);
    } else if (this.sourceOf[i] === ANY_STORE) {
      if (!(await this.takeFromStores(i, target))) return;
    } else if (!(await this.readFrom(sources[this.sourceOf[i]!], this.blockOf[i]!, target))) return;
    if (!hasher.matches(length, signatures.subarray(i * SIGNATURE_BYTES, (i + 1) * SIGNATURE_BYTES))) return;
    if (this.sourceOf[i] === 0 && this.blockOf[i] === block) keep(block);
    else await write(block, target);
    this.placed[i] = 1;
  }

  private async takeFromStores(i: number, target: Uint8Array): Promise<boolean> {
    const signature = this.options.signatures.subarray(i * SIGNATURE_BYTES, (i + 1) * SIGNATURE_BYTES);
    for (const store of this.stores) {
      try {
        if (await store.take!(signature, target)) return true;
      } catch {
        // As good as not there: the next one may have it.
      }
    }
    return false;
  }

  /** A source that fails is one that does not have the block. */
  private async readFrom(
    source: BlockSource | undefined,
    block: BlockIndex,
    target: Uint8Array,
  ): Promise<boolean> {
    try {
      return source !== undefined && (await source.read(block, target));
    } catch {
      return false;
    }
  }
}
