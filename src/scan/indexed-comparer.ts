/**
 * The inner loop of a scan that has signature indexes: as `range-comparer.ts`, but every block is compared by its
 * signature, and a signature that an index has is not computed. With indexes of both sides nothing is read. A scan
 * without indexes does not come here.
 */

import type { BlockIndex, ByteCount } from '../base/units.ts';
import { type Bench, Benches } from './benches.ts';
import type { ComparerSetup } from './comparer-setup.ts';
import { IndexedSide } from './indexed-side.ts';
import { blocksOfRange } from './plan.ts';
import { nextBit, wholeBlocks } from './range-comparer.ts';
import type { ScanIndexes } from './scan-indexes.ts';
import { layOutSlot, type SlotLayout } from './slot-layout.ts';

export class IndexedComparer {
  /** As in `RangeComparer`. */
  words = new Uint32Array(0);
  marked = 0;
  comparedBytes: ByteCount = 0;
  skippedBytes: ByteCount = 0;
  private readonly setup: ComparerSetup;
  private readonly bench: Bench;
  private readonly layout: SlotLayout;
  private readonly production: IndexedSide;
  private readonly replica: IndexedSide;
  private firstBlock: BlockIndex = 0;

  private constructor(setup: ComparerSetup, indexes: ScanIndexes, bench: Bench) {
    const { plan, slot } = setup;
    const { blockSize, size } = plan;
    this.setup = setup;
    this.bench = bench;
    this.layout = layOutSlot(slot.pointer, blockSize);
    const shared = { sampling: indexes.sampling, blockSize, size, bench, layout: this.layout };
    const { production, replica } = setup;
    this.production = new IndexedSide({ side: production, indexes: indexes.production, salt: 0, ...shared });
    this.replica = new IndexedSide({ side: replica, indexes: indexes.replica, salt: 1, ...shared });
  }

  static async create(setup: ComparerSetup, indexes: ScanIndexes): Promise<IndexedComparer> {
    const { own } = await Benches.create(setup);
    return new IndexedComparer(setup, indexes, own);
  }

  get readBytes(): ByteCount {
    return this.setup.production.readBytes + this.setup.replica.readBytes;
  }
  get indexedBytes(): ByteCount {
    return this.production.indexedBytes + this.replica.indexedBytes;
  }
  get sampledBlocks(): number {
    return this.production.sampledBlocks + this.replica.sampledBlocks;
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
    if (plan.todo === null) return this.compareBlocks(start, end);
    const at = plan.todoAt![range]!;
    const todo = plan.todo.subarray(at, at + count);
    for (let block = nextBit(todo, 0, true); block < end - start; ) {
      const runEnd = Math.min(nextBit(todo, block, false), end - start);
      if (!(await this.compareBlocks(start + block, start + runEnd))) return false;
      block = nextBit(todo, runEnd, true);
    }
    return true;
  }

  private async compareBlocks(from: BlockIndex, to: BlockIndex): Promise<boolean> {
    const { production, replica, plan, stopped } = this.setup;
    const { blockSize, size } = plan;
    const end = Math.min(to * blockSize, size);
    for (let offset = from * blockSize; offset < end; ) {
      if (stopped()) return false;
      const [a, b] = [production.zeroUntil(offset, end), replica.zeroUntil(offset, end)];
      const zero = Math.min(typeof a === 'number' ? a : await a, typeof b === 'number' ? b : await b);
      const equalEnd = wholeBlocks(zero, end, blockSize);
      if (equalEnd > offset) {
        this.skippedBytes += equalEnd - offset;
        offset = equalEnd;
        continue;
      }
      const until = Math.min(offset + this.layout.mostBlocks * blockSize, end);
      const first = offset / blockSize;
      const count = Math.ceil((until - offset) / blockSize);
      let pending = this.production.signatures(first, count, this.layout.productionDigests);
      if (pending) await pending;
      pending = this.replica.signatures(first, count, this.layout.replicaDigests);
      if (pending) await pending;
      this.markDiffering(first, count);
      this.comparedBytes += until - offset;
      offset = until;
    }
    return true;
  }

  private markDiffering(first: BlockIndex, count: number): void {
    const { bench, layout } = this;
    const { productionDigests, replicaDigests, flags } = layout;
    const { digestLength } = this.setup.algorithm;
    if (bench.kernels.differing(productionDigests, replicaDigests, digestLength, count, flags) === 0) return;
    for (let i = 0; i < count; i++) {
      if (bench.bytes[flags + i] !== 1) continue;
      const at = first + i - this.firstBlock;
      this.words[at >>> 5]! |= 1 << (at & 31);
      this.marked++;
    }
  }
}
