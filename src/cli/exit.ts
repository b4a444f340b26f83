/** Exit statuses, and how an error is told: one line on standard error. */

import { DriftmapError } from '../base/errors.ts';
import { paint, printable } from './terminal.ts';

/** As `cmp`: 0 equal, 1 different, 2 trouble; 128 + the signal's number when a signal stopped it. */
export const Exit = { equal: 0, different: 1, trouble: 2, interrupted: 130, terminated: 143 } as const;

export const explainExits = `
Exit status: 0 equal (or done), 1 different, 2 trouble, 130 stopped by Ctrl-C.
`;

/** Says what went wrong in one line and returns the exit status; the stack only when DRIFTMAP_DEBUG is set. */
export function fail(error: unknown): number {
  const message = error instanceof Error ? error.message : String(error);
  const unexpected =
    error instanceof DriftmapError ? '' : 'unexpected error (set DRIFTMAP_DEBUG=1 for its stack): ';
  process.stderr.write(`${paint('red', 'driftmap:', process.stderr)} ${unexpected}${printable(message)}\n`);
  if (process.env.DRIFTMAP_DEBUG && error instanceof Error) process.stderr.write(`${stackOf(error)}\n`);
  if (!(error instanceof DriftmapError) || error.kind !== 'aborted') return Exit.trouble;
  return wasTerminated(error) ? Exit.terminated : Exit.interrupted;
}

/** The scan's signal was aborted with the name of the process signal as its reason. */
function wasTerminated(error: unknown): boolean {
  return error === 'SIGTERM' || (error instanceof Error && wasTerminated(error.cause));
}

export function warn(message: string): void {
  process.stderr.write(`${paint('yellow', 'driftmap: warning:', process.stderr)} ${printable(message)}\n`);
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : '';
  return `${error.stack ?? error.message}${cause}`;
}
