/** Whatever a worker threw, as an error of ours that crosses to the thread that waits for it. */

import { DriftmapError } from '../base/errors.ts';

export function asOurs(cause: unknown): DriftmapError {
  if (cause instanceof DriftmapError) return cause;
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  return new DriftmapError('worker', `a scan worker failed: ${reason}`, { cause });
}
