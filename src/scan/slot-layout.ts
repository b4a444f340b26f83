/** How a worker's slot of shared memory is divided, in one place. */

import { KERNEL_SCRATCH_BYTES, MAX_DIGEST_BYTES, READ_PIECE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { alignUp } from '../base/units.ts';

/** Between neighbours, so that a kernel's vector loads past the end of a buffer stay within the slot. */
const GAP: ByteCount = 8192;

/** Addresses in the slot's memory. */
export interface SlotLayout {
  /** For `Kernels`. */
  readonly scratch: number;
  /** The bytes of one piece of a disk; a comparison of bytes keeps the other disk's in the second one. */
  readonly buffer: number;
  readonly secondBuffer: number;
  readonly productionDigests: number;
  readonly replicaDigests: number;
  /** One byte a block. */
  readonly flags: number;
  /** Blocks of a piece. */
  readonly mostBlocks: number;
  /** First address behind the slot. */
  readonly end: number;
}

/** What is read at a time: a piece that stays in cache, but never less than a block. */
export function pieceBytes(blockSize: ByteCount): ByteCount {
  return Math.max(READ_PIECE, blockSize);
}

export function layOutSlot(pointer: number, blockSize: ByteCount): SlotLayout {
  const piece = pieceBytes(blockSize);
  const mostBlocks = piece / blockSize;
  const buffer = pointer + KERNEL_SCRATCH_BYTES;
  const secondBuffer = buffer + piece + GAP;
  const productionDigests = secondBuffer + piece + GAP;
  const replicaDigests = productionDigests + mostBlocks * MAX_DIGEST_BYTES + GAP;
  const flags = replicaDigests + mostBlocks * MAX_DIGEST_BYTES + GAP;
  const end = alignUp(flags + mostBlocks, 64);
  return {
    scratch: pointer,
    buffer,
    secondBuffer,
    productionDigests,
    replicaDigests,
    flags,
    mostBlocks,
    end,
  };
}

/** Bytes that a slot needs so that every block size up to this one can be laid out in it. */
export function slotBytes(blockSize: ByteCount): ByteCount {
  // Small blocks need the most digests, large ones the largest buffer.
  return Math.max(layOutSlot(0, 512).end, layOutSlot(0, blockSize).end);
}
