/** The stamp of one disk, on a clock of the test's own and a file whose times follow it. */

import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { FileTimes } from '../../../src/lu/file-unit.ts';
import { DiskStamp } from '../../../src/protect/splitter/stamp.ts';
import type { StampRecord } from '../../../src/protect/splitter/stamp-file.ts';
import { EARLY_MS, LATE_MS, PERIOD_MS, writtenPast } from '../../../src/protect/splitter/written-past.ts';

const START = 1_800_000_000_000;

class Model {
  times: FileTimes = { modified: 5n, changed: 5n };
  /** What is in the file of stamps. */
  left: StampRecord = { state: 'idle', at: START, times: this.times, durable: null };
  puts = 0;
  canPut = true;
  canStat = true;
  readonly stamp = new DiskStamp(
    {
      times: () => {
        if (!this.canStat) throw new Error('the file system is gone');
        return this.times;
      },
    },
    this.left,
    (record) => {
      this.puts++;
      if (this.canPut) this.left = record;
    },
  );

  /** @param tick as coarse as the kernel's clock */
  touch(tick = 1): void {
    const now = BigInt(Date.now() - (Date.now() % tick)) * 1_000_000n;
    this.times = { modified: now, changed: now };
  }
  write(tick = 1): void {
    this.stamp.beforeWrite();
    this.touch(tick);
  }
  /** What is found when it is killed now. */
  get verdict(): string | null {
    return writtenPast(this.left, this.times, true);
  }
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: START });
});
afterEach(() => {
  vi.useRealTimers();
});
const pass = (milliseconds: number) => vi.setSystemTime(Date.now() + milliseconds);

describe('a kill', () => {
  it('at any moment, however long the thread was held up, raises no alarm; a later foreign write always does', () => {
    const step = fc.record({
      pause: fc.oneof(fc.integer({ min: 0, max: 60 }), fc.integer({ min: 0, max: 100_000 })),
      what: fc.constantFrom('write', 'write', 'write', 'begin', 'look', 'flush'),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.constantFrom(1, 10, 1000, 2000), (steps, tick) => {
        vi.setSystemTime(START);
        const model = new Model();
        for (const { pause, what } of steps) {
          pass(pause);
          if (what === 'write') model.write(tick);
          // Killed between the stamp and the write.
          else if (what === 'begin') model.stamp.beforeWrite();
          else if (what === 'look') model.stamp.rest(Date.now());
          else model.stamp.flushed(model.stamp.flushBegins());
          expect(model.verdict).toBe(null);
        }
        // What keeps whole seconds knows of nothing within one.
        pass(LATE_MS + tick);
        model.touch(tick);
        expect(model.verdict).toMatch(/past the splitter/);
      }),
    );
  });

  it('at rest raises an alarm for a foreign write of the next millisecond', () => {
    const model = new Model();
    model.write();
    pass(PERIOD_MS);
    model.stamp.rest(Date.now());
    expect(model.stamp.isIdle).toBe(true);
    pass(1);
    model.touch();
    expect(model.verdict).toMatch(/past the splitter/);
  });

  it('raises no alarm after the clock was set, forwards or back, once something was written', () => {
    const model = new Model();
    for (const step of [3_600_000, -7_200_000, 50, -30]) {
      model.write();
      pass(step);
      model.write();
      expect(model.verdict).toBe(null);
    }
  });

  it('raises one for times that are earlier than the stamp', () => {
    const model = new Model();
    model.write();
    pass(-EARLY_MS - 10_000);
    model.touch();
    expect(model.verdict).toMatch(/older than it was then/);
  });

  it('raises none for a disk whose times lay in the future', () => {
    const model = new Model();
    const future = BigInt(START + 10 ** 10) * 1_000_000n;
    model.times = { modified: future, changed: 5n };
    model.stamp.settle();
    expect(model.verdict).toBe(null);
    model.write();
    expect(model.verdict).toBe(null);
  });
});

describe('a stamp that cannot be written, or a file that does not tell its times', () => {
  it('fails no write, and is told later', () => {
    const model = new Model();
    model.canPut = false;
    model.write();
    expect(model.verdict).toMatch(/past the splitter/);
    model.canPut = true;
    model.canStat = false;
    pass(PERIOD_MS);
    model.write();
    model.stamp.settle();
    model.stamp.flushed(model.stamp.flushBegins());
    expect(model.stamp.isIdle).toBe(false);
    expect(model.verdict).toBe(null);
    model.canStat = true;
    model.stamp.settle();
    expect(model.left).toMatchObject({ state: 'idle', times: model.times });
  });
});

describe('writes without a pause', () => {
  it('renew the stamp once a period', () => {
    const model = new Model();
    for (let i = 0; i < 10_000; i++) {
      model.write();
      if (i % 10 === 9) pass(1);
    }
    expect(model.puts).toBe(1000 / PERIOD_MS);
  });
});
