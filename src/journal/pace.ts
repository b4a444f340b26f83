/**
 * Long work in short turns. Files are read and written at once, on the thread that also takes writes in; so whoever
 * does much of it counts here what it does, and lets others in once a turn is over.
 */

import type { ByteCount } from '../base/units.ts';
import { KiB, MiB } from '../base/units.ts';

/** Work of a turn: some milliseconds, which others may have to wait, and long beside what letting them in costs. */
const TURN = 4 * MiB;
/** What one read, write or record takes beside its bytes, in bytes that take as long. */
const CALL = 4 * KiB;

export class Pace {
  private done = 0;

  /** Counts a call that moves so many bytes. @returns whether the turn is over: `await next()` then */
  did(bytes: ByteCount): boolean {
    this.done += CALL + bytes;
    return this.done >= TURN;
  }

  /** Lets others in: what has arrived and what has been finished meanwhile is dealt with first. */
  async next(): Promise<undefined> {
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
    this.done = 0;
  }
}
