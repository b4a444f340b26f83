/** What the coordinator and its workers say to one another. All of it is plain data or shared memory. */

import type { PlainError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { DiskHandle } from '../disk/virtual-disk.ts';
import type { KernelModules } from '../signature/kernels.ts';
import type { ScanPlan } from './plan.ts';
import type { ScanIndexes } from './scan-indexes.ts';

/**
 * Int32 cells on shared memory. `next` is the first range that nobody took, `stop` ends all workers at
 * their next piece.
 */
export const Control = { next: 0, stop: 1, cells: 2 } as const;

/** A piece of the pool's shared memory that is one task's own. */
export interface WorkerSlot {
  readonly memory: WebAssembly.Memory;
  /** Tells memories apart: the same memory posted twice is two objects. */
  readonly memoryId: number;
  /** Which slot of the memory (and of every array image's scratch). */
  readonly index: number;
  readonly pointer: number;
  readonly bytes: ByteCount;
}

/** By signatures, as between two sites; or byte by byte, which is exact and needs both disks here. */
export type CompareMethod = 'signatures' | 'bytes';

/** One worker's share of a scan: pull ranges until none is left. */
export interface ScanTask {
  readonly control: Int32Array;
  readonly plan: ScanPlan;
  readonly compare: CompareMethod;
  readonly algorithm: string;
  /** Keyed algorithms only; lives in memory for the time of the scan. */
  readonly key: Uint8Array | null;
  readonly production: DiskHandle;
  readonly replica: DiskHandle;
  /** Signature indexes of either side; null where there are none. */
  readonly indexes: ScanIndexes | null;
  readonly modules: KernelModules;
  readonly slot: WorkerSlot;
  readonly reports: import('node:worker_threads').MessagePort;
}

/** Ranges that are finished: the unit in which results become true. */
export interface RangeReport {
  /** Indexes into the plan. */
  readonly ranges: Uint32Array;
  /** Those of `ranges` in which a block differs, in order … */
  readonly markedRanges: Uint32Array;
  /** … and their bitmap words, one after another (`plan.counts` words each). */
  readonly words: Uint32Array;
  readonly comparedBytes: ByteCount;
  readonly skippedBytes: ByteCount;
  readonly readBytes: ByteCount;
  /** Bytes of blocks whose signature an index had, both sides together; and how many of those blocks were verified. */
  readonly indexedBytes: ByteCount;
  readonly sampledBlocks: number;
}

export interface TaskOutcome {
  /** How many reports were posted; the last of them may still be on its way. */
  readonly reports: number;
  /** Milliseconds since the epoch, with fractions, when the first block was looked at. */
  readonly begunAt: number;
  readonly error: PlainError | null;
}
