/** Whatever a worker threw, as an error of ours that crosses to the thread that waits for it. */

import { DriftmapError } from '../base/errors.ts';

/** @param who threw, for the message */
export function asOurs(cause: unknown, who = 'a scan worker'): DriftmapError {
  if (cause instanceof DriftmapError) return cause;
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  return new DriftmapError('worker', `${who} failed: ${reason}`, { cause });
}
