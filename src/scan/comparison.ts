/**
 * How two runs of blocks are found equal or different: by their signatures, or byte by byte. Both sides'
 * bytes are brought one after the other, production first; where they lie is a `Brought`.
 */

import type { ByteCount } from '../base/units.ts';
import type { Bench, Benches } from './benches.ts';
import type { ComparerSetup } from './comparer-setup.ts';
import type { SlotLayout } from './slot-layout.ts';

/** Bytes that are ready for a kernel: an address, and the kernels of its memory. */
export interface Brought {
  bench: Bench;
  pointer: number;
}

export interface Comparison {
  /** Whether production's bytes must stay in the buffer while the replica's are brought. */
  readonly keepsProduction: boolean;
  /** Production's `length` bytes are there. */
  production(brought: Brought, length: ByteCount): void;
  /** The replica's are there too: sets `flags[i]` to 1 for each block i that differs, 0 for the others; returns how many. */
  replica(brought: Brought, length: ByteCount): number;
}

/** Both sides are signed where they lie; signatures are compared. A short last block is signed by its own length. */
export class SignatureComparison implements Comparison {
  readonly keepsProduction = false;
  private readonly blockSize: ByteCount;
  private readonly digestLength: ByteCount;
  private readonly own: Bench;
  private readonly layout: SlotLayout;

  constructor({ plan, algorithm }: ComparerSetup, { own }: Benches, layout: SlotLayout) {
    this.blockSize = plan.blockSize;
    this.digestLength = algorithm.digestLength;
    this.own = own;
    this.layout = layout;
  }

  production(brought: Brought, length: ByteCount): void {
    this.sign(brought, length, this.layout.productionDigests);
  }

  replica(brought: Brought, length: ByteCount): number {
    const { productionDigests, replicaDigests, flags } = this.layout;
    this.sign(brought, length, replicaDigests);
    const blocks = Math.ceil(length / this.blockSize);
    return this.own.kernels.differing(productionDigests, replicaDigests, this.digestLength, blocks, flags);
  }

  /** To `out` in the slot; a kernel writes into the memory that it reads, so an image's signatures are copied. */
  private sign({ bench, pointer }: Brought, length: ByteCount, out: number): void {
    const { blockSize, digestLength, own } = this;
    const { signer, bytes, digests } = bench;
    const target = bench === own ? out : digests;
    const full = Math.floor(length / blockSize);
    const tail = length - full * blockSize;
    if (full) signer!.sign(pointer, blockSize, full, target);
    if (tail) signer!.sign(pointer + full * blockSize, tail, 1, target + full * digestLength);
    if (bench !== own)
      own.bytes.set(bytes.subarray(target, target + (full + (tail ? 1 : 0)) * digestLength), out);
  }
}

/**
 * Exact. Bytes in one memory are compared by the kernel; a kernel sees one memory only, so those of two
 * array images are compared by the runtime's memcmp, the whole run first: most runs are equal.
 */
export class ByteComparison implements Comparison {
  readonly keepsProduction = true;
  private readonly blockSize: ByteCount;
  private readonly own: Bench;
  private readonly layout: SlotLayout;
  private readonly first: Brought;

  constructor({ plan }: ComparerSetup, { own }: Benches, layout: SlotLayout) {
    this.blockSize = plan.blockSize;
    this.own = own;
    this.layout = layout;
    this.first = { bench: own, pointer: 0 };
  }

  production({ bench, pointer }: Brought): void {
    this.first.bench = bench;
    this.first.pointer = pointer;
  }

  replica({ bench, pointer }: Brought, length: ByteCount): number {
    const { first, own, blockSize, layout } = this;
    if (first.bench !== own || bench !== own) return this.acrossMemories(bench, pointer, length);
    const full = Math.floor(length / blockSize);
    const tail = length - full * blockSize;
    const at = full * blockSize;
    const { kernels } = own;
    let found = full ? kernels.differing(first.pointer, pointer, blockSize, full, layout.flags) : 0;
    if (tail) found += kernels.differing(first.pointer + at, pointer + at, tail, 1, layout.flags + full);
    return found;
  }

  private acrossMemories(bench: Bench, pointer: number, length: ByteCount): number {
    const { first, own, blockSize, layout } = this;
    const a = first.bench.bytes.subarray(first.pointer, first.pointer + length);
    const b = bench.bytes.subarray(pointer, pointer + length);
    const blocks = Math.ceil(length / blockSize);
    if (Buffer.compare(a, b) === 0) return 0;
    let found = 0;
    for (let i = 0; i < blocks; i++) {
      const end = Math.min((i + 1) * blockSize, length);
      const differs = Buffer.compare(a.subarray(i * blockSize, end), b.subarray(i * blockSize, end)) !== 0;
      own.bytes[layout.flags + i] = differs ? 1 : 0;
      if (differs) found++;
    }
    return found;
  }
}
