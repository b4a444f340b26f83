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

/** No generation is equal to it: who finds it knows that marks may be missing, because nobody closed the unit. */
const IN_USE = 'in use';

export class MarkedUnit implements LogicalUnit {
  readonly canWrite = true;
  private readonly parts: MarkedUnitParts;
  private closed = false;
  /** Whether every write so far was marked: the marks that were there cover all that happened before. */
  private readonly vouches: boolean;

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
  flush(): Completion {
    return this.parts.unit.flush();
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
