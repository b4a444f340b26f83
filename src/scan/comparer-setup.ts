/** What a worker needs to compare ranges: made once per task. */

import type { SignatureAlgorithm } from '../signature/algorithm.ts';
import type { KernelModules } from '../signature/kernels.ts';
import type { ScanPlan } from './plan.ts';
import type { Side } from './side.ts';
import type { CompareMethod, WorkerSlot } from './task.ts';

export interface ComparerSetup {
  readonly plan: ScanPlan;
  readonly compare: CompareMethod;
  /** How blocks are signed, when they are. */
  readonly algorithm: SignatureAlgorithm;
  readonly key: Uint8Array | null;
  readonly modules: KernelModules;
  readonly production: Side;
  readonly replica: Side;
  readonly slot: WorkerSlot;
  /** Polled between pieces. */
  readonly stopped: () => boolean;
}
