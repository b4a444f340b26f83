/**
 * Who was killed while it wrote to a replica could not say how it left it. What it leaves is the time of its state's
 * file, which it moves on all the while it writes: the disk was last written to about then. A disk that was written to
 * later was written to by somebody else. Where the clocks of two file systems differ, or a loss of power lost the one
 * time and not the other, that is a false alarm, which costs a comparison and nothing else.
 */

import { statSync, utimesSync } from 'node:fs';

/** Between two signs. */
const SIGN_MS = 500;
/** So much later a write may be than the last sign before it: the machine was busy. */
const LATE_MS = 2000;

export class SignOfLife {
  private readonly path: string;
  private last = Number.NEGATIVE_INFINITY;

  /** @param path of the state */
  constructor(path: string) {
    this.path = path;
  }

  /** Called with every write. */
  give(): void {
    const now = performance.now();
    if (now - this.last < SIGN_MS) return;
    this.last = now;
    const time = new Date();
    try {
      utimesSync(this.path, time, time);
    } catch {
      // Then the last one is older than it might be.
    }
  }
}

/**
 * Whether a disk was written to after the last sign of whoever wrote to it and was killed. False where the disk, by
 * its generation, knows of no times.
 */
export function writtenSinceSign(generation: string, state: string): boolean {
  // As in `FileUnit.generation`: the time of change is the later one by what follows the plus.
  const [, written, later] = /^\d+@(\d+)(?:\+(\d+))?/.exec(generation) ?? [];
  if (written === undefined) return false;
  const sign = statSync(state, { throwIfNoEntry: false })?.mtimeMs;
  return sign === undefined || (Number(written) + Number(later ?? 0)) / 1e6 > sign + LATE_MS;
}
