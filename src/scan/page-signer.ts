/** Signs the blocks of a disk, one page of its index at a time. */

import { DriftmapError } from '../base/errors.ts';
import type { BlockIndex, ByteCount } from '../base/units.ts';
import { alignDown, alignUp, blockCount } from '../base/units.ts';
import type { IndexReader } from '../signature/index-file.ts';
import { encodePage, INDEX_DIGEST, PAGE_BLOCKS } from '../signature/index-table.ts';
import type { Kernels } from '../signature/kernels.ts';
import type { Signer } from '../signature/signer.ts';
import { isSampled, type Sampling } from './sampling.ts';
import type { Side } from './side.ts';
import type { SlotLayout } from './slot-layout.ts';

export interface PageSignerParts {
  readonly side: Side;
  readonly blockSize: ByteCount;
  readonly kernels: Kernels;
  readonly signer: Signer;
  /** The memory of the kernels, and where in it this thread may work. */
  readonly bytes: Uint8Array;
  readonly layout: SlotLayout;
  /** An earlier index, whose signatures are kept for the blocks that are not dirty. */
  readonly old: IndexReader | null;
  readonly sampling: Sampling;
  readonly stopped: () => boolean;
}

export class PageSigner {
  signedBytes: ByteCount = 0;
  keptBlocks = 0;
  sampledBlocks = 0;
  private readonly parts: PageSignerParts;
  private readonly nonzero = new Uint8Array(PAGE_BLOCKS);
  private readonly digests = new Uint8Array(PAGE_BLOCKS * INDEX_DIGEST);

  constructor(parts: PageSignerParts) {
    this.parts = parts;
  }

  get readBytes(): ByteCount {
    return this.parts.side.readBytes;
  }

  /**
   * The page as it is to be written; null where all its blocks are zero, undefined when it was stopped.
   * @param dirty 32 words, a bit a block, low bit first: the blocks to sign; without it all of them
   * @throws DriftmapError `mismatch` where a block that was sampled has another signature than the old index says
   */
  async sign(page: number, dirty: Uint32Array | null): Promise<Uint8Array | null | undefined> {
    const { side, blockSize, stopped } = this.parts;
    const first = page * PAGE_BLOCKS;
    const blocks = Math.min(PAGE_BLOCKS, blockCount(side.disk.size, blockSize) - first);
    this.nonzero.fill(0);
    for (let i = 0; i < blocks; ) {
      const isDirty = bit(dirty, i);
      let end = i + 1;
      while (end < blocks && bit(dirty, end) === isDirty) end++;
      if (isDirty) {
        if (!(await this.signRun(first, i, end))) return undefined;
      } else if (!(await this.keepRun(first, i, end))) {
        return undefined;
      }
      i = end;
    }
    return stopped() ? undefined : encodePage(this.nonzero, this.digests);
  }

  /** Signs the blocks `[from, to)` of a page; false when it was stopped. */
  private async signRun(first: BlockIndex, from: number, to: number): Promise<boolean> {
    const { side, blockSize, layout, stopped } = this.parts;
    const end = Math.min((first + to) * blockSize, side.disk.size);
    for (let offset = (first + from) * blockSize; offset < end; ) {
      if (stopped()) return false;
      const zero = await side.zeroUntil(offset, end);
      const whole = zero >= end ? end : alignDown(zero, blockSize);
      if (whole > offset) {
        offset = whole;
        continue;
      }
      const limit = Math.min(offset + layout.mostBlocks * blockSize, end);
      const data = await side.dataUntil(zero, limit);
      const until = Math.min(alignUp(Math.max(data, offset + 1), blockSize), limit);
      await this.signPiece(offset / blockSize - first, offset, until - offset);
      offset = until;
    }
    return true;
  }

  private async signPiece(at: number, offset: number, length: ByteCount): Promise<void> {
    const { kernels, blockSize, bytes, layout } = this.parts;
    await this.bring(offset, length);
    const full = Math.floor(length / blockSize);
    const tail = length - full * blockSize;
    const { buffer, flags } = layout;
    const blocks = full + (tail ? 1 : 0);
    let zeros = full ? kernels.zeroBlocks(buffer, blockSize, full, flags) : 0;
    if (tail) zeros += kernels.zeroBlocks(buffer + full * blockSize, tail, 1, flags + full);
    this.signedBytes += length;
    if (zeros === blocks) return;
    const out = this.signBuffer(length);
    this.digests.set(bytes.subarray(out, out + blocks * INDEX_DIGEST), at * INDEX_DIGEST);
    for (let i = 0; i < blocks; i++) this.nonzero[at + i] = bytes[flags + i] === 0 ? 1 : 0;
  }

  private async bring(offset: number, length: ByteCount): Promise<void> {
    const { side, bytes, layout } = this.parts;
    const pending = side.read(offset, bytes.subarray(layout.buffer, layout.buffer + length));
    if (pending) await pending;
  }

  /** Signs what is in the buffer; returns the address of the signatures. */
  private signBuffer(length: ByteCount): number {
    const { signer, blockSize, layout } = this.parts;
    const full = Math.floor(length / blockSize);
    const tail = length - full * blockSize;
    const out = layout.productionDigests;
    if (full) signer.sign(layout.buffer, blockSize, full, out);
    if (tail) signer.sign(layout.buffer + full * blockSize, tail, 1, out + full * INDEX_DIGEST);
    return out;
  }

  /** Takes the blocks `[from, to)` of a page over from the old index, and verifies a sample of them. */
  private async keepRun(first: BlockIndex, from: number, to: number): Promise<boolean> {
    const { old, sampling, stopped } = this.parts;
    for (let i = from; i < to; i++) {
      const signature = old!.signature(first + i);
      if (signature !== 'zero') {
        this.digests.set(signature, i * INDEX_DIGEST);
        this.nonzero[i] = 1;
      }
      this.keptBlocks++;
      if (!isSampled(sampling, first + i, 0)) continue;
      if (stopped()) return false;
      await this.verify(first + i, this.nonzero[i] === 1, i);
    }
    return true;
  }

  private async verify(block: BlockIndex, isNonzero: boolean, at: number): Promise<void> {
    const { side, blockSize, kernels, bytes, layout, old } = this.parts;
    const offset = block * blockSize;
    const length = Math.min(blockSize, side.disk.size - offset);
    await this.bring(offset, length);
    this.sampledBlocks++;
    const zero = kernels.zeroBlocks(layout.buffer, length, 1, layout.flags) === 1;
    let same = zero !== isNonzero;
    if (same && isNonzero) {
      const out = this.signBuffer(length);
      const expected = this.digests.subarray(at * INDEX_DIGEST, (at + 1) * INDEX_DIGEST);
      same = Buffer.compare(bytes.subarray(out, out + INDEX_DIGEST), expected) === 0;
    }
    if (!same) throw verificationFailed(old!.handle.path, block, { offset, length }, side.disk.name);
  }
}

/** What a sample finds where an index is wrong. */
export function verificationFailed(
  path: string,
  block: BlockIndex,
  { offset, length }: { offset: number; length: number },
  disk: string,
): DriftmapError {
  const reason = `verification failed: the index is wrong at block ${block}: ${disk} holds other bytes than were signed, though it says that nothing was written; make the index anew`;
  return new DriftmapError('mismatch', reason, { path, offset, length, operation: 'verify' });
}

function bit(words: Uint32Array | null, at: number): boolean {
  return words === null || ((words[at >>> 5]! >>> (at & 31)) & 1) === 1;
}
