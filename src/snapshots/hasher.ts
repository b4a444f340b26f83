/**
 * BLAKE3 of bytes wherever they lie: they are copied into a memory that kernels see, a piece at a time, which costs a
 * tenth of hashing, or read there in the first place (`room`). Calls are whole in themselves, so each thread has one.
 */

import { assert } from '../base/errors.ts';
import { KERNEL_SCRATCH_BYTES, MAX_BLOCK_SIZE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { type KernelModules, Kernels } from '../signature/kernels.ts';
import type { Signer } from '../signature/signer.ts';

/** Bytes of a signature, and of the name of an object. */
export const NAME_BYTES: ByteCount = 32;
/** Blocks that are signed together: kernels fill their lanes, and the piece stays in a cache. */
const PIECE = 1 * MiB;
/** Between buffer and digests: a kernel's vector loads may run past a buffer's end. */
const GAP = 8192;
const MOST_BLOCKS = 4096;

export class Hasher {
  private readonly kernels: Kernels;
  private readonly signer: Signer;
  private readonly bytes: Uint8Array;
  private readonly buffer: number;
  private readonly digests: number;
  private readonly flags: number;

  constructor(modules: KernelModules = loadKernels()) {
    const room = KERNEL_SCRATCH_BYTES + MAX_BLOCK_SIZE + 2 * GAP + MOST_BLOCKS * (NAME_BYTES + 1);
    const { memory, pointer } = new SlotArena(1, room).slot(0);
    this.kernels = new Kernels(modules, memory, pointer);
    this.signer = this.kernels.ownSigner(algorithmByName('blake3'));
    this.bytes = new Uint8Array(memory.buffer);
    this.buffer = pointer + KERNEL_SCRATCH_BYTES;
    this.digests = this.buffer + MAX_BLOCK_SIZE + GAP;
    this.flags = this.digests + MOST_BLOCKS * NAME_BYTES;
  }

  /** Where up to 16 MiB may be read to: what lies there is signed without being copied. It is there until the next call. */
  room(length: ByteCount): Uint8Array {
    assert(length <= MAX_BLOCK_SIZE, `${length} bytes to sign`);
    return this.bytes.subarray(this.buffer, this.buffer + length);
  }

  /** BLAKE3 of up to 16 MiB, 32 bytes of its own. */
  sign(bytes: Uint8Array): Uint8Array {
    assert(bytes.length <= MAX_BLOCK_SIZE, `${bytes.length} bytes to sign`);
    this.bytes.set(bytes, this.buffer);
    this.signer.sign(this.buffer, bytes.length, 1, this.digests);
    return this.bytes.slice(this.digests, this.digests + NAME_BYTES);
  }

  /** Keyed BLAKE3 of 32 bytes. */
  keyed(key: Uint8Array, signature: Uint8Array): Uint8Array {
    this.bytes.set(signature, this.buffer);
    this.kernels.keyedBlake3(key, this.buffer, signature.length, 1, this.digests);
    return this.bytes.slice(this.digests, this.digests + NAME_BYTES);
  }

  /**
   * Signatures of adjoining blocks, of which the last may be short, to `signatures`, 32 bytes each; `nonzero[i]`
   * becomes 1 where block i is not all zero, else 0. Returns how many are not.
   */
  signBlocks(blocks: Uint8Array, blockSize: ByteCount, signatures: Uint8Array, nonzero: Uint8Array): number {
    const step = Math.max(1, Math.min(MOST_BLOCKS, Math.floor(PIECE / blockSize)));
    let found = 0;
    for (let first = 0, at = 0; at < blocks.length; first += step, at += step * blockSize) {
      const piece = blocks.subarray(at, Math.min(at + step * blockSize, blocks.length));
      const whole = Math.floor(piece.length / blockSize);
      const tail = piece.length - whole * blockSize;
      const count = whole + (tail > 0 ? 1 : 0);
      const isHere = piece.buffer === this.bytes.buffer;
      if (!isHere) this.bytes.set(piece, this.buffer);
      const from = isHere ? piece.byteOffset : this.buffer;
      this.signRun(from, 0, blockSize, whole);
      if (tail > 0) this.signRun(from + whole * blockSize, whole, tail, 1);
      signatures.set(
        this.bytes.subarray(this.digests, this.digests + count * NAME_BYTES),
        first * NAME_BYTES,
      );
      for (let i = 0; i < count; i++) {
        const flag = this.bytes[this.flags + i] === 0 ? 1 : 0;
        nonzero[first + i] = flag;
        found += flag;
      }
    }
    return found;
  }

  /** @param from an address @param first block of the piece */
  private signRun(from: number, first: number, length: ByteCount, count: number): void {
    if (count === 0) return;
    const { digests, flags } = this;
    const zeros = this.kernels.zeroBlocks(from, length, count, flags + first);
    if (zeros < count) this.signer.sign(from, length, count, digests + first * NAME_BYTES);
  }
}

let one: Hasher | undefined;

/** This thread's. @throws DriftmapError as `loadKernels`; `limit` where there is no address space */
export function hasher(): Hasher {
  one ??= new Hasher();
  return one;
}
