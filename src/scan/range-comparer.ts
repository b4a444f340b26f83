/**
 * The inner loop of a scan: one worker, one range of blocks at a time.
 *
 * A range is walked in pieces of at most `READ_PIECE` bytes (or one block, where blocks are larger). At
 * each place both sides are asked what they know without reading:
 *
 *   both zero                 equal: skipped, up to the last whole block
 *   one zero, the other data  the data is read and tested for zeros, which is exact
 *   both data                 both are brought and compared (`comparison.ts`)
 *
 * Bytes are read into a small buffer and signed there at once: it stays in the L2 cache between read and
 * hash. Bytes of an array image stay where they lie. No object is made per block; the loop awaits only units
 * that have to wait.
 */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import { alignDown, alignUp } from '../base/units.ts';
import type { Completion } from '../lu/logical-unit.ts';
import { Benches } from './benches.ts';
import type { ComparerSetup } from './comparer-setup.ts';
import { type Brought, ByteComparison, type Comparison, SignatureComparison } from './comparison.ts';
import { blocksOfRange, GRANULE_BLOCKS } from './plan.ts';
import type { Side } from './side.ts';
import { layOutSlot, pieceBytes, type SlotLayout } from './slot-layout.ts';

export class RangeComparer {
  /** Marks of the range last compared, one bit a block, least significant bit first. */
  words = new Uint32Array(0);
  /** Blocks that the last range marked. */
  marked = 0;
  comparedBytes = 0;
  skippedBytes = 0;

  private readonly setup: ComparerSetup;
  private readonly benches: Benches;
  private readonly comparison: Comparison;
  private readonly pieceBytes: ByteCount;
  private readonly layout: SlotLayout;
  /** One byte a block, set by kernels. */
  private readonly flags: Uint8Array;
  /** The bytes that were brought last. */
  private readonly brought: Brought;
  private firstBlock = 0;

  private constructor(setup: ComparerSetup, benches: Benches) {
    const { plan, slot } = setup;
    this.setup = setup;
    this.benches = benches;
    this.brought = { bench: benches.own, pointer: 0 };
    this.layout = layOutSlot(slot.pointer, plan.blockSize);
    this.flags = benches.own.bytes.subarray(this.layout.flags, this.layout.flags + this.layout.mostBlocks);
    this.comparison = new (setup.compare === 'bytes' ? ByteComparison : SignatureComparison)(
      setup,
      benches,
      this.layout,
    );
    this.pieceBytes = pieceBytes(plan.blockSize);
  }

  /** Read from the units of both disks so far. */
  get readBytes(): ByteCount {
    return this.setup.production.readBytes + this.setup.replica.readBytes;
  }

  static async create(setup: ComparerSetup): Promise<RangeComparer> {
    return new RangeComparer(setup, await Benches.create(setup));
  }

  /** Compares one range of the plan. Returns false when it was stopped: then nothing of the range counts. */
  async compare(range: number): Promise<boolean> {
    const { plan } = this.setup;
    const { start, end } = blocksOfRange(plan, range);
    const count = plan.counts[range]!;
    if (this.words.length !== count) this.words = new Uint32Array(count);
    else this.words.fill(0);
    this.marked = 0;
    this.firstBlock = start;
    if (plan.todo === null)
      return this.compareBytes(start * plan.blockSize, Math.min(end * plan.blockSize, plan.size));
    const at = plan.todoAt![range]!;
    const todo = plan.todo.subarray(at, at + count);
    for (let block = nextBit(todo, 0, true); block < end - start; ) {
      const runEnd = Math.min(nextBit(todo, block, false), end - start);
      const to = Math.min((start + runEnd) * plan.blockSize, plan.size);
      if (!(await this.compareBytes((start + block) * plan.blockSize, to))) return false;
      block = nextBit(todo, runEnd, true);
    }
    return true;
  }

  /** Compares `[from, to)`; `from` is a block's start, `to` a block's end. */
  private async compareBytes(from: ByteOffset, to: ByteOffset): Promise<boolean> {
    const { production, replica, plan, stopped } = this.setup;
    const { blockSize } = plan;
    for (let offset = from; offset < to; ) {
      if (stopped()) return false;
      let productionZero = production.zeroUntil(offset, to);
      if (typeof productionZero !== 'number') productionZero = await productionZero;
      let replicaZero = replica.zeroUntil(offset, to);
      if (typeof replicaZero !== 'number') replicaZero = await replicaZero;
      const equalEnd = wholeBlocks(Math.min(productionZero, replicaZero), to, blockSize);
      if (equalEnd > offset) {
        this.skippedBytes += equalEnd - offset;
        offset = equalEnd;
        continue;
      }
      const limit = Math.min(offset + this.pieceBytes, to);
      let end = wholeBlocks(Math.min(Math.max(productionZero, replicaZero), limit), to, blockSize);
      if (end > offset) {
        const pending = this.bring(
          productionZero > replicaZero ? replica : production,
          offset,
          end,
          this.layout.buffer,
        );
        if (pending) await pending;
        this.markNonzero(offset, end);
      } else {
        const dataEnd = this.dataEnd(offset, limit);
        const known = typeof dataEnd === 'number' ? dataEnd : await dataEnd;
        end = Math.min(alignUp(Math.max(known, offset + 1), blockSize), limit);
        let pending = this.bring(production, offset, end, this.layout.buffer);
        if (pending) await pending;
        this.comparison.production(this.brought, end - offset);
        pending = this.bring(replica, offset, end, this.replicaBuffer);
        if (pending) await pending;
        const found = this.comparison.replica(this.brought, end - offset);
        if (found > 0) this.markFlagged(offset, Math.ceil((end - offset) / blockSize), this.flags, 1);
      }
      this.comparedBytes += end - offset;
      offset = end;
    }
    return true;
  }

  /** Where, from `offset` on, both sides are known to be zero; at most `limit`. */
  private dataEnd(offset: ByteOffset, limit: ByteOffset): ByteOffset | Promise<ByteOffset> {
    const { production, replica } = this.setup;
    for (let end = offset; ; ) {
      const a = production.dataUntil(end, limit);
      const b = replica.dataUntil(end, limit);
      if (typeof a !== 'number' || typeof b !== 'number') return this.dataEndLater(end, limit, a, b);
      const further = Math.max(a, b);
      if (further <= end || further >= limit) return Math.max(further, end);
      end = further;
    }
  }

  private async dataEndLater(
    from: ByteOffset,
    limit: ByteOffset,
    a: ByteOffset | Promise<ByteOffset>,
    b: ByteOffset | Promise<ByteOffset>,
  ): Promise<ByteOffset> {
    const further = Math.max(await a, await b);
    return further <= from || further >= limit ? Math.max(further, from) : this.dataEnd(further, limit);
  }

  /** Makes `[from, to)` of a side ready for a kernel: nothing to do for an array image, else read to `buffer` in the slot. */
  private bring(side: Side, from: ByteOffset, to: ByteOffset, buffer: number): Completion {
    const { brought, benches } = this;
    const place = side.inPlace(from, to - from);
    brought.bench = place ? benches.of(place.image, place.bank) : benches.own;
    brought.pointer = place ? place.pointer : buffer;
    return place ? undefined : side.read(from, benches.own.bytes.subarray(buffer, buffer + to - from));
  }

  private get replicaBuffer(): number {
    return this.comparison.keepsProduction ? this.layout.secondBuffer : this.layout.buffer;
  }

  /** The other side is known to be zero: of the bytes last brought, the blocks that are not all zero differ. */
  private markNonzero(from: ByteOffset, to: ByteOffset): void {
    const { blockSize } = this.setup.plan;
    const { bench, pointer } = this.brought;
    const { kernels, bytes, digests } = bench;
    const full = Math.floor((to - from) / blockSize);
    const tail = to - from - full * blockSize;
    const blocks = full + (tail ? 1 : 0);
    let zeros = full ? kernels.zeroBlocks(pointer, blockSize, full, digests) : 0;
    if (tail) zeros += kernels.zeroBlocks(pointer + full * blockSize, tail, 1, digests + full);
    if (zeros < blocks) this.markFlagged(from, blocks, bytes.subarray(digests, digests + blocks), 0);
  }

  private markFlagged(from: ByteOffset, blocks: number, flags: Uint8Array, flag: number): void {
    const first = from / this.setup.plan.blockSize - this.firstBlock;
    for (let i = 0; i < blocks; i++) {
      if (flags[i] !== flag) continue;
      const at = first + i;
      this.words[at >>> 5]! |= 1 << (at & 31);
      this.marked++;
    }
  }
}

/** The last block boundary at or before `end`; `end` itself when it is the end of what is compared. */
export function wholeBlocks(end: ByteOffset, to: ByteOffset, blockSize: ByteCount): ByteOffset {
  return end >= to ? to : alignDown(end, blockSize);
}

/** Position of the first bit at or after `from` that is `set`; the number of bits when there is none. */
export function nextBit(words: Uint32Array, from: number, set: boolean): number {
  const bits = words.length * GRANULE_BLOCKS;
  for (let at = from; at < bits; ) {
    const word = (set ? words[at >>> 5]! : ~words[at >>> 5]!) >>> (at & 31);
    if (word !== 0) return at + 31 - Math.clz32(word & -word);
    at = (at | 31) + 1;
  }
  return bits;
}
