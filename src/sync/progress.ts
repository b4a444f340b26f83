/** How far a session is, for progress bars and logs. Bytes are of the disk, but for the two that say otherwise. */

import type { BlockCount, ByteCount } from '../base/units.ts';

export type Phase = 'comparing' | 'placing' | 'sending' | 'verifying' | 'finished';

export interface SyncProgress {
  readonly phase: Phase;
  /** Of the phase. */
  readonly totalBytes: ByteCount;
  readonly doneBytes: ByteCount;
  readonly comparedBytes: ByteCount;
  readonly markedBlocks: BlockCount;
  /** Made equal by a block that the replica held already. */
  readonly placedBytes: ByteCount;
  /** Made equal by data, zeros included. */
  readonly sentBytes: ByteCount;
  /** What did not have to travel: placed, equal in a marked block, zero, or compressed away. */
  readonly savedBytes: ByteCount;
  /** On the wire, both directions, all that there is. */
  readonly wireBytes: ByteCount;
  readonly seconds: number;
  /** Of the phase. */
  readonly bytesPerSecond: number;
  readonly secondsLeft: number | undefined;
}

export class SyncTotals {
  comparedBytes: ByteCount = 0;
  markedBlocks: BlockCount = 0;
  placedBlocks: BlockCount = 0;
  placedBytes: ByteCount = 0;
  sentBytes: ByteCount = 0;
  zeroBytes: ByteCount = 0;
  /** Pieces of marked blocks that are equal. */
  equalBytes: ByteCount = 0;
  /** Payload of data as it travelled. */
  storedBytes: ByteCount = 0;
  checkpoints = 0;
  private readonly startedAt = performance.now();
  private phase: Phase = 'comparing';
  private phaseAt = this.startedAt;
  private total: ByteCount = 0;
  private done: ByteCount = 0;
  private lastTold = Number.NEGATIVE_INFINITY;
  private readonly wire: () => ByteCount;
  private readonly tell: ((progress: SyncProgress) => void) | undefined;

  constructor(wire: () => ByteCount, tell: ((progress: SyncProgress) => void) | undefined) {
    this.wire = wire;
    this.tell = tell;
  }

  get seconds(): number {
    return (performance.now() - this.startedAt) / 1000;
  }

  begin(phase: Phase, total: ByteCount): void {
    this.phase = phase;
    this.phaseAt = performance.now();
    this.total = total;
    this.done = 0;
    this.tell?.(this.snapshot());
  }

  /** Tells at most ten times a second. */
  add(bytes: ByteCount): void {
    this.done += bytes;
    const now = performance.now();
    if (this.tell === undefined || now - this.lastTold < 100) return;
    this.lastTold = now;
    this.tell(this.snapshot());
  }

  snapshot(): SyncProgress {
    const { phase, total: totalBytes, comparedBytes, markedBlocks, placedBytes, sentBytes } = this;
    const doneBytes = Math.min(this.done, totalBytes);
    const seconds = (performance.now() - this.phaseAt) / 1000;
    return {
      phase,
      totalBytes,
      doneBytes,
      comparedBytes,
      markedBlocks,
      placedBytes,
      sentBytes,
      savedBytes: placedBytes + this.equalBytes + Math.max(0, sentBytes - this.storedBytes),
      wireBytes: this.wire(),
      seconds: this.seconds,
      bytesPerSecond: seconds > 0 ? doneBytes / seconds : 0,
      secondsLeft: doneBytes > 0 ? (seconds * (totalBytes - doneBytes)) / doneBytes : undefined,
    };
  }
}
