/** What one thread does for the machine's limits: shared by the threads and by who starts them. */

import { readSync } from 'node:fs';
import { KERNEL_SCRATCH_BYTES, READ_PIECE } from '../base/limits.ts';
import { KiB } from '../base/units.ts';
import type { Slot } from '../memory/shared-memory.ts';
import { type KernelModules, Kernels } from '../signature/kernels.ts';

export const limitNames = ['memory-read', 'memory-copy', 'read-file'] as const;
export type LimitName = (typeof limitNames)[number];

/** Int32 cells: `asked` and `done` count pieces of work; `found` is what the last one came to. */
export const LimitCells = { asked: 0, done: 1, limit: 2, turns: 3, found: 4, cells: 5 } as const;

export interface LimitSetup extends Slot {
  /** Bytes of the thread's own part. */
  readonly share: number;
  /** A file of `share` bytes. */
  readonly fd: number;
  readonly cells: Int32Array;
  readonly modules: KernelModules;
}

const BLOCK = 64 * KiB;

export function slotBytesFor(share: number): number {
  return KERNEL_SCRATCH_BYTES + READ_PIECE + BLOCK + share;
}

/** @returns for each limit, one turn over the thread's part: a number that depends on the bytes it met. */
export function limitWork({ memory, pointer, share, fd, modules }: LimitSetup): (() => number)[] {
  const bytes = new Uint8Array(memory.buffer);
  const kernels = new Kernels(modules, memory, pointer);
  const buffer = pointer + KERNEL_SCRATCH_BYTES;
  const flags = buffer + READ_PIECE;
  const data = flags + BLOCK;
  const half = share / 2;
  const target = bytes.subarray(buffer, buffer + READ_PIECE);
  // Zeros, for the kernel leaves a block at the first byte that is none; written, for pages that nobody
  // wrote are one and the same page.
  bytes.fill(0, data, data + share);
  return [
    () => {
      let zero = 0;
      for (let at = 0; at < share; at += READ_PIECE)
        zero += kernels.zeroBlocks(data + at, BLOCK, READ_PIECE / BLOCK, flags);
      return zero;
    },
    () => {
      bytes.set(bytes.subarray(data, data + half), data + half);
      return bytes[data + share - 1]!;
    },
    () => {
      let read = 0;
      for (let at = 0; at < share; at += READ_PIECE) read += readSync(fd, target, 0, READ_PIECE, at);
      return read;
    },
  ];
}
