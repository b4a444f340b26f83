/** BLAKE3 of one block at a time, where it was read to: for copies that are verified before they are written. */

import { KERNEL_SCRATCH_BYTES, MAX_BLOCK_SIZE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { Kernels } from '../signature/kernels.ts';
import type { Signer } from '../signature/signer.ts';
import { SIGNATURE_BYTES } from '../wire/messages.ts';

/** Between buffer and digest: a kernel's vector loads may run past a buffer's end. */
const GAP = 8192;

export class BlockHasher {
  private readonly signer: Signer;
  private readonly bytes: Uint8Array;
  private readonly bufferAt: number;
  private readonly digestAt: number;

  private constructor(signer: Signer, bytes: Uint8Array, pointer: number) {
    this.signer = signer;
    this.bytes = bytes;
    this.bufferAt = pointer + KERNEL_SCRATCH_BYTES;
    this.digestAt = this.bufferAt + MAX_BLOCK_SIZE + GAP;
  }

  /** A hasher with a buffer of its own. */
  static async create(): Promise<BlockHasher> {
    const free = idle.pop();
    if (free !== undefined) return free;
    const bytes = KERNEL_SCRATCH_BYTES + MAX_BLOCK_SIZE + 2 * GAP;
    const arena = new SlotArena(1, bytes);
    const { memory, pointer } = arena.slot(0);
    const kernels = new Kernels(loadKernels(), memory, pointer);
    const signer = await kernels.signer(algorithmByName('blake3'));
    return new BlockHasher(signer, new Uint8Array(memory.buffer), pointer);
  }

  /** Gives the memory to the next one. */
  close(): void {
    idle.push(this);
  }

  /** Where to put a block; valid until the next call. */
  buffer(length: ByteCount): Uint8Array {
    return this.bytes.subarray(this.bufferAt, this.bufferAt + length);
  }

  /** Signatures of the blocks that the buffer begins with, the last of which may be short; a copy. */
  signatures(length: ByteCount, blockSize: ByteCount): Uint8Array {
    const whole = Math.floor(length / blockSize);
    const rest = length - whole * blockSize;
    const count = whole + (rest > 0 ? 1 : 0);
    if (whole > 0) this.signer.sign(this.bufferAt, blockSize, whole, this.digestAt);
    const lastAt = this.digestAt + whole * SIGNATURE_BYTES;
    if (rest > 0) this.signer.sign(this.bufferAt + whole * blockSize, rest, 1, lastAt);
    return this.bytes.slice(this.digestAt, this.digestAt + count * SIGNATURE_BYTES);
  }

  /** Whether what is in the buffer has this signature. */
  matches(length: ByteCount, signature: Uint8Array): boolean {
    this.signer.sign(this.bufferAt, length, 1, this.digestAt);
    for (let i = 0; i < SIGNATURE_BYTES; i++)
      if (this.bytes[this.digestAt + i] !== signature[i]) return false;
    return true;
  }
}

/** Each holds address space, so they are used again. */
const idle: BlockHasher[] = [];
