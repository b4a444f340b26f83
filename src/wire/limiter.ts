/** A rate for everything that is sent through it: a bucket of tokens, shared by several connections if wanted. */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';

/** What may be sent at once after a pause: a tenth of a second's share. */
const BURST_SECONDS = 0.1;

export class RateLimiter {
  readonly bytesPerSecond: ByteCount;
  private readonly now: () => number;
  private tokens: number;
  private filledAt: number;
  private tail: Promise<void> = Promise.resolve();
  private waiting = 0;

  /** @param now milliseconds, for tests */
  constructor(bytesPerSecond: ByteCount, now: () => number = () => performance.now()) {
    if (!(bytesPerSecond > 0))
      throw new DriftmapError('argument', `expected a rate above 0 bytes a second, got ${bytesPerSecond}`);
    this.bytesPerSecond = bytesPerSecond;
    this.now = now;
    this.tokens = bytesPerSecond * BURST_SECONDS;
    this.filledAt = now();
  }

  /** Resolves when so many bytes may be sent, in the order of the calls; `undefined` when they may be sent now. */
  take(bytes: ByteCount): Promise<void> | undefined {
    if (this.waiting === 0) {
      this.fill();
      if (this.tokens > 0) {
        this.tokens -= bytes;
        return undefined;
      }
    }
    this.waiting++;
    this.tail = this.tail.then(async () => {
      for (this.fill(); this.tokens <= 0; this.fill()) await pause(this.milliseconds());
      this.tokens -= bytes;
      this.waiting--;
    });
    return this.tail;
  }

  /** Until a token is there. A message larger than the burst leaves a debt that is waited for afterwards. */
  private milliseconds(): number {
    return Math.max(1, Math.ceil((-this.tokens / this.bytesPerSecond) * 1000) + 1);
  }

  private fill(): void {
    const now = this.now();
    const gained = ((now - this.filledAt) / 1000) * this.bytesPerSecond;
    this.tokens = Math.min(this.tokens + gained, this.bytesPerSecond * BURST_SECONDS);
    this.filledAt = now;
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
