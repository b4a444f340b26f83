/** What the threads that sign are told. All of it is plain data or shared memory. */

import type { PlainError } from '../base/errors.ts';
import type { BlockIndex, ByteCount } from '../base/units.ts';
import type { DiskHandle } from '../disk/virtual-disk.ts';
import type { SideIndexes } from '../scan/scan-indexes.ts';
import type { KernelModules } from '../signature/kernels.ts';

/** One thread's part in a session, from its begin to the order to end. */
export interface SignTask {
  /** Brings orders and takes answers. */
  readonly orders: import('node:worker_threads').MessagePort;
  readonly modules: KernelModules;
  readonly disk: DiskHandle;
  /** The larger of both disks; this one reads as zeros past its own end. */
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Signature indexes of this disk. */
  readonly indexes: SideIndexes | null;
}

/** How blocks are signed from now on. */
export interface SignPass {
  readonly algorithm: string;
  /** 32 bytes, for a keyed algorithm. */
  readonly key: Uint8Array | null;
  /** 32 bytes: leaves of other algorithms than nh128 are signatures of signatures. */
  readonly nodeKey: Uint8Array;
  /** Takes signatures from the disk's indexes where they have them: nobody has written to it since. */
  readonly indexed?: boolean | undefined;
}

/** A run of blocks of one window. */
export interface SignSegment {
  readonly id: number;
  readonly start: BlockIndex;
  readonly end: BlockIndex;
  /** Which of them, one byte a block; null for all. */
  readonly todo: Uint8Array | null;
  /** Shared: where the first block's leaf goes, 16 bytes a block. */
  readonly leaves: Uint8Array;
  /** Shared: where its signature goes, if signatures are wanted. */
  readonly signatures: Uint8Array | null;
}

export type SignOrder =
  | { readonly kind: 'pass'; readonly pass: SignPass }
  | { readonly kind: 'segment'; readonly segment: SignSegment }
  | { readonly kind: 'end' };

export interface SignAnswer {
  readonly id: number;
  readonly readBytes: ByteCount;
  readonly error: PlainError | null;
}
