/** What the one who makes an index and its workers say to one another: plain data or shared memory. */

import type { MessagePort } from 'node:worker_threads';
import type { ByteCount } from '../base/units.ts';
import type { DiskHandle } from '../disk/virtual-disk.ts';
import type { IndexHandle } from '../signature/index-file.ts';
import type { KernelModules } from '../signature/kernels.ts';
import type { Sampling } from './sampling.ts';
import type { WorkerSlot } from './task.ts';

/**
 * Int32 cells on shared memory. `next` is the first page of the list that nobody took; `stop` ends all workers;
 * `written` counts pages of the list that are in the file: a worker waits rather than get far ahead of it.
 */
export const IndexControl = { next: 0, stop: 1, written: 2, cells: 3 } as const;

export interface IndexTask {
  readonly control: Int32Array;
  readonly disk: DiskHandle;
  readonly blockSize: ByteCount;
  /** Numbers of the pages that may hold data, ascending. */
  readonly pages: Uint32Array;
  readonly refresh: {
    readonly old: IndexHandle;
    /** 32 words for each of `pages`, a bit a block: what has to be signed anew. */
    readonly dirty: Uint32Array;
    readonly sampling: Sampling;
  } | null;
  readonly modules: KernelModules;
  readonly slot: WorkerSlot;
  readonly reports: MessagePort;
}

/** One page that is done. The figures are those of the worker since its last report. */
export interface PageReport {
  /** Position in the list of pages. */
  readonly at: number;
  /** As it is to be written; null where all its blocks are zero. */
  readonly bytes: Uint8Array | null;
  readonly signedBytes: ByteCount;
  readonly readBytes: ByteCount;
  readonly keptBlocks: number;
  readonly sampledBlocks: number;
}
