/** How long to wait before the next attempt: doubled with each that failed, short again once one succeeded. */

export class Backoff {
  private pauseMs: number;
  private readonly firstMs: number;
  private readonly longestMs: number;

  constructor(bounds: { readonly firstMs: number; readonly longestMs: number }) {
    this.firstMs = bounds.firstMs;
    this.longestMs = bounds.longestMs;
    this.pauseMs = bounds.firstMs;
  }

  /** @returns milliseconds */
  next(): number {
    const pause = this.pauseMs;
    this.pauseMs = Math.min(2 * pause, this.longestMs);
    return pause;
  }

  succeeded(): void {
    this.pauseMs = this.firstMs;
  }
}
