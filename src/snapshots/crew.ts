/** Work on many things at a time, bounded in how many and in how many bytes they hold. The first failure ends it. */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_MAX_CONNECTIONS } from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';

export const DEFAULT_CONNECTIONS = 16;

export interface CrewOptions {
  /** At a time; 16 when absent. */
  readonly connections?: number | undefined;
  /** Bytes held by what was added and is not done; one that is larger goes alone. */
  readonly bytes: ByteCount;
  readonly signal?: AbortSignal | undefined;
}

export class Crew {
  /** Ends the others' requests when one has failed, and when the caller's signal says so. */
  readonly signal: AbortSignal;
  private readonly stop = new AbortController();
  private readonly outer: AbortSignal | undefined;
  private readonly most: number;
  private readonly bytes: ByteCount;
  private active = 0;
  private held: ByteCount = 0;
  private failure: unknown = null;
  private hasFailed = false;
  private waiting: (() => void)[] = [];

  /** @throws DriftmapError `argument` */
  constructor({ connections = DEFAULT_CONNECTIONS, bytes, signal }: CrewOptions) {
    if (!Number.isInteger(connections) || connections < 1 || connections > SNAPSHOT_MAX_CONNECTIONS) {
      const reason = `expected 1 to ${SNAPSHOT_MAX_CONNECTIONS} connections, got ${connections}`;
      throw new DriftmapError('argument', reason);
    }
    this.most = connections;
    this.bytes = bytes;
    this.outer = signal;
    this.signal = signal === undefined ? this.stop.signal : AbortSignal.any([signal, this.stop.signal]);
  }

  /** Begins the task when there is room for it. @throws what an earlier task threw; DriftmapError `aborted` */
  async add(bytes: ByteCount, task: () => Promise<unknown>): Promise<undefined> {
    this.check();
    while (this.active >= this.most || (this.active > 0 && this.held + bytes > this.bytes)) {
      await new Promise<void>((resolve) => this.waiting.push(resolve));
      this.check();
    }
    this.active++;
    this.held += bytes;
    void this.run(bytes, task);
    return undefined;
  }

  /** When all is done. @throws as `add` */
  async done(): Promise<undefined> {
    while (this.active > 0) await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.check();
    return undefined;
  }

  /** Ends what is under way, and waits for it: nothing of it goes on behind the caller's back. */
  async abandon(error: unknown): Promise<undefined> {
    this.fail(error);
    while (this.active > 0) await new Promise<void>((resolve) => this.waiting.push(resolve));
    return undefined;
  }

  check(): void {
    if (this.hasFailed) throw this.failure;
    checkAborted(this.outer);
  }

  private async run(bytes: ByteCount, task: () => Promise<unknown>): Promise<void> {
    try {
      await task();
    } catch (error) {
      this.fail(error);
    }
    this.active--;
    this.held -= bytes;
    const waiting = this.waiting;
    this.waiting = [];
    for (const wake of waiting) wake();
  }

  private fail(error: unknown): void {
    if (this.hasFailed) return;
    this.hasFailed = true;
    this.failure = error;
    this.stop.abort(error);
  }
}

export function checkAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new DriftmapError('aborted', 'stopped', { cause: signal.reason });
}
