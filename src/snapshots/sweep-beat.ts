/**
 * The sign of life of a sweep, by which it and others know the same of it: as long as it renews its object it may
 * remove, and when others took it for dead, which they say by an object of its own, it never does again (`prune.ts`).
 */

import { DriftmapError } from '../base/errors.ts';
import { checkAborted } from './crew.ts';
import { ObjectKind } from './object-format.ts';
import { keyOf, type Repository, randomName } from './repository.ts';
import { encodeSweep, isDeclaredDead, Since, type SweepState, type SweepTimes } from './sweep.ts';

/** The object of a sweep that is under way. */
export class SweepBeat {
  private readonly repository: Repository;
  private readonly times: SweepTimes;
  private readonly signal: AbortSignal | undefined;
  private readonly name = randomName();
  private sweep: SweepState = { state: 'running', beat: 0, lists: [] };
  /** When it was renewed, and when it was seen that nobody takes it for dead. */
  private beatAt: Since | null = null;
  private seenAt: Since | null = null;

  constructor(repository: Repository, times: SweepTimes, signal: AbortSignal | undefined) {
    this.repository = repository;
    this.times = times;
    this.signal = signal;
  }

  /** @returns the store's clock */
  async begin(): Promise<number> {
    await this.put();
    const key = keyOf(ObjectKind.sweep, this.name);
    for await (const { modified } of this.repository.store.list(key, { signal: this.signal }))
      return modified;
    throw new DriftmapError('io', 'an object that was just put is not listed: the store is not consistent', {
      path: this.repository.pathOf(ObjectKind.sweep, this.name),
    });
  }

  async take(lists: readonly Uint8Array[]): Promise<undefined> {
    this.sweep = { ...this.sweep, lists };
    return this.put();
  }

  /** Often enough. @throws DriftmapError `aborted` when others may take this sweep for dead */
  async beat(): Promise<undefined> {
    checkAborted(this.signal);
    if (this.beatAt === null || this.beatAt.milliseconds > this.times.beat) await this.put();
    return undefined;
  }

  /** Before removals. @throws DriftmapError `aborted` when others take this sweep for dead, or may */
  async look(): Promise<undefined> {
    await this.beat();
    const { repository, name, signal, times } = this;
    const now = new Since(times);
    if (await isDeclaredDead(repository, name, { signal })) throw this.heldUp();
    this.seenAt = now;
    this.checkAlive();
    return undefined;
  }

  /** Right before each removal: what was seen is looked at again when it is not fresh. @throws as `look` */
  check(): Promise<undefined> | undefined {
    this.checkAlive();
    if (this.seenAt !== null && this.seenAt.milliseconds <= this.times.fresh) return undefined;
    return this.look();
  }

  async end(): Promise<undefined> {
    this.sweep = { ...this.sweep, state: 'done' };
    return this.put();
  }

  private async put(): Promise<undefined> {
    this.checkAlive();
    const now = new Since(this.times);
    this.sweep = { ...this.sweep, beat: this.sweep.beat + 1 };
    await this.repository.put(ObjectKind.sweep, this.name, encodeSweep(this.sweep), { signal: this.signal });
    this.beatAt = now;
    return undefined;
  }

  private checkAlive(): void {
    if (this.beatAt !== null && this.beatAt.milliseconds > this.times.alive) throw this.heldUp();
  }

  private heldUp(): DriftmapError {
    const reason = 'was held up for minutes while it removed objects, so it stopped: prune again';
    return new DriftmapError('aborted', reason, { path: this.repository.store.name });
  }
}
