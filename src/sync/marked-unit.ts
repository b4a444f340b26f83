/** A logical unit that marks, durably, what is written through it: see `failover.ts`. */

import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { alignDown, alignUp, blocksTouching } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../lu/logical-unit.ts';
import { type ReplicaState, saveState } from './state-file.ts';

export interface MarkedUnitParts {
  readonly unit: LogicalUnit;
  readonly state: ReplicaState;
  readonly stateAt: string;
  readonly unlock: () => void;
  /** Bytes that are marked together: fewer stores, and some more blocks to compare later. */
  readonly atATime: ByteCount;
}

/** Between two times that the state vouches for its marks while the disk is in use: a store costs a few flushes. */
const VOUCH_MS = 1000;
/** No generation is equal to it: who finds it knows that marks may be missing, because nobody closed the unit. */
const IN_USE = 'in use';

export class MarkedUnit implements LogicalUnit {
  readonly canWrite = true;
  private readonly parts: MarkedUnitParts;
  private closed = false;
  /** Whether every write so far was marked: the marks that were there cover all that happened before. */
  private readonly vouches: boolean;
  private unvouched = false;
  private vouchedAt = Number.NEGATIVE_INFINITY;

  constructor(parts: MarkedUnitParts) {
    this.parts = parts;
    this.vouches = parts.state.generation === parts.unit.generation();
  }

  get name(): string {
    return this.parts.unit.name;
  }
  get size(): ByteCount {
    return this.parts.unit.size;
  }
  get identity(): string {
    return this.parts.unit.identity;
  }
  generation(): string {
    return this.parts.unit.generation();
  }
  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.parts.unit.read(offset, target);
  }
  write(offset: ByteOffset, source: Uint8Array): Completion {
    this.mark({ offset, length: source.length });
    return this.parts.unit.write(offset, source);
  }
  zero(range: ByteRange): Completion {
    this.mark(range);
    return this.parts.unit.zero(range);
  }
  /**
   * All that was written is durable then, and all of it is marked: so the state may say so, and after a crash with
   * nothing written since, its marks are all that has to be compared. A write after it makes another generation.
   */
  async flush(): Promise<undefined> {
    const { unit } = this.parts;
    await unit.flush();
    if (!this.vouches || !this.unvouched || performance.now() - this.vouchedAt < VOUCH_MS) return undefined;
    this.unvouched = false;
    this.vouchedAt = performance.now();
    this.store(unit.generation());
    return undefined;
  }
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    return this.parts.unit.extents(range, limit);
  }
  handle(): UnitHandle {
    return this.parts.unit.handle();
  }

  /** Flushes, and lets the state vouch for its marks. */
  async close(): Promise<undefined> {
    if (this.closed) return undefined;
    this.closed = true;
    const { unit, unlock } = this.parts;
    try {
      await unit.flush();
      if (this.vouches) this.store(unit.generation());
    } finally {
      await unit.close();
      unlock();
    }
    return undefined;
  }

  /** Stored before the write that it is about. */
  private mark({ offset, length }: ByteRange): void {
    const { state, atATime } = this.parts;
    this.unvouched = true;
    if (length === 0 || offset < 0 || offset + length > this.size) return;
    const from = alignDown(offset, atATime);
    const to = Math.min(alignUp(offset + length, atATime), this.size);
    const run = blocksTouching({ offset: from, length: to - from }, state.bitmap.blockSize);
    if (state.bitmap.marks.nextClear(run.start) >= run.end) return;
    state.bitmap.markRun(run);
    this.store(IN_USE);
  }

  private store(generation: string): void {
    saveState({ ...this.parts.state, generation }, this.parts.stateAt);
  }
}
