/** Blocks of one disk whose contents the replica may lack. One thread has them: the splitter's. */

import { MARK_BYTES } from '../../base/protection-limits.ts';
import type { BlockRun, ByteCount, ByteOffset } from '../../base/units.ts';
import { blockCount, blocksTouching } from '../../base/units.ts';
import { PagedBits } from '../../bitmap/paged-bits.ts';

export class Marks {
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** What must be made equal. */
  readonly bits: PagedBits;
  /** Of those, the blocks that may be equal all the same: they are compared before they are sent. Runs of whole probes. */
  readonly unsure: PagedBits;

  constructor(size: ByteCount, blockSize: ByteCount = MARK_BYTES) {
    this.size = size;
    this.blockSize = blockSize;
    const blocks = blockCount(size, blockSize);
    this.bits = new PagedBits(blocks);
    this.unsure = new PagedBits(blocks);
  }

  get bytes(): ByteCount {
    const last = this.bits.length - 1;
    const missing = last >= 0 && this.bits.test(last) ? this.bits.length * this.blockSize - this.size : 0;
    return this.bits.count * this.blockSize - missing;
  }

  get isEmpty(): boolean {
    return this.bits.isEmpty;
  }

  /** Was written, and the replica has not got it. */
  add(offset: ByteOffset, length: ByteCount): void {
    this.bits.setRun(blocksTouching({ offset, length }, this.blockSize));
  }

  /** May have been written. */
  suspect(offset: ByteOffset, length: ByteCount): void {
    const run = blocksTouching({ offset, length }, this.blockSize);
    this.bits.setRun(run);
    this.unsure.setRun(run);
  }

  clear(run: BlockRun): void {
    this.bits.clearRun(run);
    this.unsure.clearRun(run);
  }

  /** Whether a range holds a marked block. */
  hasIn(offset: ByteOffset, length: ByteCount): boolean {
    const { start, end } = blocksTouching({ offset, length }, this.blockSize);
    return this.bits.nextSet(start) < end;
  }
}
