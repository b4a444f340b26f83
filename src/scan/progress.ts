/** How far a scan is, for progress bars and logs. */

import type { BlockCount, ByteCount } from '../base/units.ts';

export interface ScanProgress {
  /** Bytes of the disk that the scan has to account for (all of it, or the blocks it was asked to look at). */
  readonly totalBytes: ByteCount;
  /** Accounted for so far: compared plus skipped. */
  readonly doneBytes: ByteCount;
  /** Compared: signed on both sides, or tested for zeros. */
  readonly comparedBytes: ByteCount;
  readonly comparedBlocks: BlockCount;
  /** Equal without reading: both sides are known to be zero. */
  readonly skippedBytes: ByteCount;
  readonly markedBlocks: BlockCount;
  /** Read from both logical units together. */
  readonly readBytes: ByteCount;
  readonly seconds: number;
  /** Compared bytes a second since the scan began. */
  readonly bytesPerSecond: number;
  /** At the pace so far; undefined before anything is known. */
  readonly secondsLeft: number | undefined;
}

/** Sums what workers report. */
export class ProgressTotals {
  comparedBytes: ByteCount = 0;
  skippedBytes: ByteCount = 0;
  readBytes: ByteCount = 0;
  markedBlocks: BlockCount = 0;
  private readonly startedAt: number;
  private readonly totalBytes: ByteCount;
  private readonly blockSize: ByteCount;
  private lastSent = Number.NEGATIVE_INFINITY;

  /** @param startedAt milliseconds since the epoch, with fractions. */
  constructor(totalBytes: ByteCount, blockSize: ByteCount, startedAt: number) {
    this.startedAt = startedAt - performance.timeOrigin;
    this.totalBytes = totalBytes;
    this.blockSize = blockSize;
  }

  get seconds(): number {
    return (performance.now() - this.startedAt) / 1000;
  }

  snapshot(): ScanProgress {
    const { totalBytes, comparedBytes, skippedBytes, readBytes, markedBlocks, seconds } = this;
    const doneBytes = comparedBytes + skippedBytes;
    const left = comparedBytes > 0 ? (seconds * (totalBytes - doneBytes)) / comparedBytes : undefined;
    return {
      totalBytes,
      doneBytes,
      comparedBytes,
      comparedBlocks: Math.ceil(comparedBytes / this.blockSize),
      skippedBytes,
      markedBlocks,
      readBytes,
      seconds,
      bytesPerSecond: seconds > 0 ? comparedBytes / seconds : 0,
      secondsLeft: doneBytes >= totalBytes ? 0 : left,
    };
  }

  /** Whether it is time for the next progress event; at most ten a second. */
  due(): boolean {
    const now = performance.now();
    if (now - this.lastSent < 100) return false;
    this.lastSent = now;
    return true;
  }
}
