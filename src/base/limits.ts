/** Every cap of the program, each with its reason. A cap that is reached is a `limit` error, never a crash. */

import { GiB, KiB, MiB } from './units.ts';

/** Smallest block: the sector, below which no disk changes. */
export const MIN_BLOCK_SIZE = 512;
/** Largest block: above it one mark is too coarse to be worth sending, and worker slots grow. */
export const MAX_BLOCK_SIZE = 16 * MiB;
export const DEFAULT_BLOCK_SIZE = 64 * KiB;

/** Largest offset: JavaScript's exact integers. */
export const MAX_DISK_SIZE = Number.MAX_SAFE_INTEGER;

/** Worker threads of one scanner: more than any machine's useful memory bandwidth needs. */
export const MAX_WORKERS = 64;

/** wasm32 addresses: one memory holds at most 4 GiB. */
export const MAX_MEMORY_BYTES = 4 * GiB;
export const WASM_PAGE = 64 * KiB;

/** What a worker reads at a time: small enough to stay in the L2 cache between read and hash (KERNELS §8). */
export const READ_PIECE = 512 * KiB;

/** Backing files behind one image. Real chains have tens; QEMU breaks down long before this. */
export const MAX_CHAIN_DEPTH = 64;
/** Logical units of one virtual disk (a split VMDK of 2 GiB extents reaches 8 TiB). Bounded by a tag's bits. */
export const MAX_UNITS = 4096;
/** Extents of one map: ten million take 200 MB; five times that is a map nobody could use. */
export const MAX_EXTENTS = 50_000_000;

/** One slot of kernel scratch: chaining values of one 16 MiB block and the digests of one piece. */
export const KERNEL_SCRATCH_BYTES = 1 * MiB;
