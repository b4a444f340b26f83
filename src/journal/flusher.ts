/**
 * Flushes of the disks beside their writing: while one lasts, more is written. What is then done with the knowledge
 * that everything written before it is durable (the position moves) is done in its turn, before the next flush.
 */

import { FileUnit } from '../lu/file-unit.ts';
import type { Completion, LogicalUnit } from '../lu/logical-unit.ts';

export class Flusher {
  private readonly disks: readonly LogicalUnit[];
  private running: Promise<undefined> | null = null;

  constructor(disks: readonly LogicalUnit[]) {
    this.disks = disks;
  }

  get isBusy(): boolean {
    return this.running !== null;
  }

  /** Begins a flush of all that has been written; `then` is called when it is durable. Only when it is not busy. */
  start(then: () => Completion): void {
    const run = (async () => {
      await this.flushAll();
      await then();
      return undefined;
    })();
    this.running = run;
    // Whoever awaits it later learns of a failure.
    run.then(
      () => {
        if (this.running === run) this.running = null;
      },
      () => undefined,
    );
  }

  /** Waits for the flush that was begun. @throws what it or `then` failed with */
  async settle(): Promise<undefined> {
    await this.running;
    this.running = null;
  }

  /** Waits for the flush that was begun, however it ends. */
  async idle(): Promise<undefined> {
    await this.running?.catch(() => undefined);
  }

  /** Flushes what has been written, after the flush that was begun. */
  async finish(): Promise<undefined> {
    await this.settle();
    await this.flushAll();
  }

  private async flushAll(): Promise<undefined> {
    const results = await Promise.allSettled(
      this.disks.map(async (disk) => (disk instanceof FileUnit ? disk.flushAside() : disk.flush())),
    );
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }
}
