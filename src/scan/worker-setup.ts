/** What every worker of a pool needs: the kernels it was given, and errors that are ours. */

import { workerData } from 'node:worker_threads';
import { DriftmapError } from '../base/errors.ts';
import type { WorkerSetup } from './task.ts';

/** Piscina wraps the pool's `workerData` together with its own. */
export function workerSetup(): WorkerSetup {
  return (Array.isArray(workerData) ? workerData[1] : workerData) as WorkerSetup;
}

export function asOurs(cause: unknown): DriftmapError {
  if (cause instanceof DriftmapError) return cause;
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  return new DriftmapError('worker', `a scan worker failed: ${reason}`, { cause });
}
