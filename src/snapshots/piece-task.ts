/** What the threads that read and sign pieces of disks are told, and what they say. Plain data and shared memory. */

import type { PlainError } from '../base/errors.ts';
import type { ByteOffset } from '../base/units.ts';
import type { KernelModules } from '../signature/kernels.ts';
import type { ThreadSource } from './disk-unit.ts';
import type { PieceFilling, PieceShape } from './piece-memory.ts';

/** One thread's part in a snapshot, from its begin to the order to end. */
export interface PieceTask {
  /** Brings orders and takes answers. */
  readonly orders: import('node:worker_threads').MessagePort;
  readonly modules: KernelModules;
  readonly shape: PieceShape;
}

export type PieceOrder =
  /** Pieces may be read from it from now on. */
  | { readonly kind: 'source'; readonly id: number; readonly source: ThreadSource }
  | ({
      readonly kind: 'piece';
      readonly id: number;
      /** Null where the piece lies in its tray. */
      readonly source: number | null;
      readonly offset: ByteOffset;
    } & Omit<PieceFilling, 'read'>)
  | { readonly kind: 'end' };

export type PieceAnswer =
  | { readonly kind: 'ready' }
  | { readonly kind: 'piece'; readonly id: number; readonly error: PlainError | null };
