/**
 * Filters: units that stand before another unit and change how it behaves. They are product and test tool at
 * once, as nbdkit's: `fault` makes operations fail or tear, `delay` makes them slow, `log` tells of them.
 * A filter's options are plain data, so that it works the same in worker threads.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from './logical-unit.ts';

export type UnitOperation = 'read' | 'write' | 'zero' | 'flush' | 'extents';

export interface Fault {
  readonly on: UnitOperation;
  /** Fails when the operation touches this range; anywhere when absent. */
  readonly range?: ByteRange;
  /** Fails from the n-th such call on, counted from 1 over all threads; at every call when absent. */
  readonly after?: number;
  /** Fails only so many times; for ever when absent. */
  readonly times?: number;
  /**
   * `error` (the default) throws an `io` error; `tear` first writes the first half; `throw` throws what is no
   * error of ours; `exit` ends the thread: a crash.
   */
  readonly how?: 'error' | 'tear' | 'throw' | 'exit';
}

export interface Delay {
  readonly on: readonly UnitOperation[];
  readonly milliseconds: number;
}

export interface LogEntry {
  readonly operation: UnitOperation;
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

/** Int32 cells, shared by all threads that use the same filter: calls counted, faults given. */
const FAULT_CELLS = 2;

export function faultUnit(inner: LogicalUnit, faults: readonly Fault[]): LogicalUnit {
  const cells = new Int32Array(new SharedArrayBuffer(4 * FAULT_CELLS * faults.length));
  return new FaultUnit(inner, { faults, cells });
}

export function delayUnit(inner: LogicalUnit, delay: Delay): LogicalUnit {
  return new DelayUnit(inner, delay);
}

/** Tells `log` of every call before it is made. Only this thread's: a function does not cross to workers. */
export function logUnit(inner: LogicalUnit, log: (entry: LogEntry) => void): LogicalUnit {
  return new LogUnit(inner, log);
}

/** A filter of a handle, in another thread. */
export function attachFilter(filter: string, options: unknown, inner: LogicalUnit): LogicalUnit {
  if (filter === 'fault') return new FaultUnit(inner, options as FaultOptions);
  if (filter === 'delay') return new DelayUnit(inner, options as Delay);
  if (filter === 'log') return inner;
  throw new DriftmapError('internal', `no filter is called '${filter}'`);
}

/** Passes everything on; filters override what they change. */
abstract class Filter implements LogicalUnit {
  protected readonly inner: LogicalUnit;

  constructor(inner: LogicalUnit) {
    this.inner = inner;
  }

  /** What happens before an operation; a promise makes the operation wait for it. */
  protected abstract before(operation: UnitOperation, range: ByteRange, source?: Uint8Array): Completion;

  get name(): string {
    return this.inner.name;
  }
  get size(): ByteCount {
    return this.inner.size;
  }
  get identity(): string {
    return this.inner.identity;
  }
  get canWrite(): boolean {
    return this.inner.canWrite;
  }
  generation(): string {
    return this.inner.generation();
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.pass(this.before('read', { offset, length: target.length }), () =>
      this.inner.read(offset, target),
    );
  }
  write(offset: ByteOffset, source: Uint8Array): Completion {
    const pending = this.before('write', { offset, length: source.length }, source);
    return this.pass(pending, () => this.inner.write(offset, source));
  }
  zero(range: ByteRange): Completion {
    return this.pass(this.before('zero', range), () => this.inner.zero(range));
  }
  flush(): Completion {
    return this.pass(this.before('flush', { offset: 0, length: 0 }), () => this.inner.flush());
  }
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    const pending = this.before('extents', range);
    return pending ? pending.then(() => this.inner.extents(range, limit)) : this.inner.extents(range, limit);
  }

  abstract handle(): UnitHandle;

  close(): Completion {
    return this.inner.close();
  }

  private pass(pending: Completion, act: () => Completion): Completion {
    return pending ? pending.then(act) : act();
  }
}

interface FaultOptions {
  readonly faults: readonly Fault[];
  readonly cells: Int32Array;
}

class FaultUnit extends Filter {
  private readonly options: FaultOptions;

  constructor(inner: LogicalUnit, options: FaultOptions) {
    super(inner);
    this.options = options;
  }

  protected before(operation: UnitOperation, range: ByteRange, source?: Uint8Array): Completion {
    const { faults, cells } = this.options;
    for (let i = 0; i < faults.length; i++) {
      const fault = faults[i]!;
      if (fault.on !== operation || !meets(fault.range, range)) continue;
      if (Atomics.add(cells, FAULT_CELLS * i, 1) + 1 < (fault.after ?? 1)) continue;
      if (Atomics.add(cells, FAULT_CELLS * i + 1, 1) >= (fault.times ?? Number.POSITIVE_INFINITY)) continue;
      return this.fail(fault, operation, range, source);
    }
    return undefined;
  }

  private fail(
    { how = 'error' }: Fault,
    operation: UnitOperation,
    range: ByteRange,
    source?: Uint8Array,
  ): Completion {
    if (how === 'exit') process.exit(7);
    if (how === 'throw') throw new TypeError('a planted fault');
    const error = new DriftmapError('io', `${operation} failed: input/output error [EIO] (planted)`, {
      path: this.name,
      ...range,
      operation,
    });
    if (how !== 'tear' || !source) throw error;
    const pending = this.inner.write(range.offset, source.subarray(0, source.length >>> 1));
    if (!pending) throw error;
    return pending.then(() => {
      throw error;
    });
  }

  handle(): UnitHandle {
    return { kind: 'filter', filter: 'fault', options: this.options, inner: this.inner.handle() };
  }
}

function meets(range: ByteRange | undefined, { offset, length }: ByteRange): boolean {
  return range === undefined || (offset < range.offset + range.length && range.offset < offset + length);
}

class DelayUnit extends Filter {
  private readonly delay: Delay;

  constructor(inner: LogicalUnit, delay: Delay) {
    super(inner);
    this.delay = delay;
  }

  protected before(operation: UnitOperation): Completion {
    if (!this.delay.on.includes(operation)) return undefined;
    return new Promise((resolve) => setTimeout(resolve, this.delay.milliseconds, undefined));
  }

  handle(): UnitHandle {
    return { kind: 'filter', filter: 'delay', options: this.delay, inner: this.inner.handle() };
  }
}

class LogUnit extends Filter {
  private readonly log: (entry: LogEntry) => void;

  constructor(inner: LogicalUnit, log: (entry: LogEntry) => void) {
    super(inner);
    this.log = log;
  }

  protected before(operation: UnitOperation, { offset, length }: ByteRange): Completion {
    this.log({ operation, offset, length });
    return undefined;
  }

  handle(): UnitHandle {
    return { kind: 'filter', filter: 'log', options: null, inner: this.inner.handle() };
  }
}
