/**
 * The disks of a replica follow its journal: in the background, in rounds, the later the more is overwritten before
 * it is ever written. What is appended never waits for it. Somebody may hold the disks where they are; then the
 * journal alone grows.
 */

import { type DriftmapError, systemError } from '../../base/errors.ts';
import { REPLICA_APPLY_BYTES } from '../../base/protection-limits.ts';
import type { ByteCount } from '../../base/units.ts';
import type { Journal } from '../../journal/journal.ts';

/** What came in during this time is applied together. */
const GATHER_MS = 500;
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30_000;

export class Applier {
  /** Why the disks cannot follow; null while they can. */
  trouble: DriftmapError | null = null;
  private readonly journal: Journal;
  /** Bytes appended, and those of them that are in the disks, since it was opened. */
  private appended: ByteCount = 0;
  private applied: ByteCount = 0;
  private holds = 0;
  private timer: NodeJS.Timeout | null = null;
  private running: Promise<void> | null = null;
  private stop = new AbortController();
  private retry = FIRST_RETRY_MS;
  private waiters: (() => void)[] = [];
  private closed = false;

  constructor(journal: Journal) {
    this.journal = journal;
  }

  get lagBytes(): ByteCount {
    return this.appended - this.applied;
  }

  get isHeld(): boolean {
    return this.holds > 0;
  }

  /** Something was appended. */
  poke(bytes: ByteCount): void {
    this.appended += bytes;
    this.schedule(this.lagBytes >= REPLICA_APPLY_BYTES ? 0 : GATHER_MS);
  }

  /** The disks stay where they are until `release` is called as often; resolves once they stand still. */
  async hold(): Promise<void> {
    this.holds++;
    this.cancel();
    this.stop.abort('held');
    await this.running;
  }

  release(): void {
    this.holds--;
    this.wake();
    this.schedule(0);
  }

  /** Resolves when the lag is below this, at once where it cannot get there by itself. */
  async below(bytes: ByteCount): Promise<void> {
    while (this.lagBytes > bytes && this.holds === 0 && this.trouble === null && !this.closed) {
      this.schedule(0);
      await new Promise<void>((resolve) => this.waiters.push(resolve));
    }
  }

  async close(): Promise<void> {
    this.closed = true;
    this.cancel();
    this.stop.abort('closed');
    this.wake();
    await this.running;
  }

  private schedule(ms: number): void {
    if (this.closed || this.holds > 0 || this.running !== null) return;
    if (this.timer !== null) {
      if (ms > 0 || this.trouble !== null) return;
      this.cancel();
    }
    this.timer = setTimeout(() => {
      this.timer = null;
      this.running = this.run().finally(() => {
        this.running = null;
        this.wake();
        if (this.trouble !== null) this.schedule(this.retry);
        else if (this.isBehind()) this.schedule(this.lagBytes >= REPLICA_APPLY_BYTES ? 0 : GATHER_MS);
      });
    }, ms);
  }

  private isBehind(): boolean {
    const { last, applied } = this.journal.state();
    return applied.low < last || applied.low !== applied.high;
  }

  private async run(): Promise<void> {
    this.stop = new AbortController();
    const { staged } = this.journal.state();
    const taken = this.appended - staged;
    try {
      await this.journal.apply(undefined, { signal: this.stop.signal });
      this.applied = Math.max(this.applied, taken);
      this.trouble = null;
      this.retry = FIRST_RETRY_MS;
    } catch (cause) {
      const error = systemError(cause, { operation: 'apply' });
      if (error.kind === 'aborted') return;
      this.retry = this.trouble === null ? FIRST_RETRY_MS : Math.min(this.retry * 2, LONGEST_RETRY_MS);
      this.trouble = error;
    }
  }

  private cancel(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private wake(): void {
    const { waiters } = this;
    this.waiters = [];
    for (const wake of waiters) wake();
  }
}
