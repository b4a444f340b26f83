import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { blocksTouching } from '../../src/base/units.ts';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';
import { built } from '../codec/built.ts';
import { sequence } from './sets.ts';

interface Write {
  readonly offset: number;
  readonly length: number;
}

/** How many writes a thread that keeps step may be ahead of the slowest. */
const STEP = 2;

/**
 * Marks its writes one after another, once every thread is there, and says after each that it is
 * acknowledged. Threads that keep step meet at the same words and handles again and again.
 */
const script = `
  const { workerData } = require('node:worker_threads');
  const { handle, offsets, lengths, shared, index, threads, keepStep } = workerData;
  const slowest = () => {
    let least = Infinity;
    for (let i = 1; i <= threads; i++) least = Math.min(least, Atomics.load(shared, 16 * i));
    return least;
  };
  import('MODULE').then(({ LiveMarks }) => {
    const live = LiveMarks.attach(handle);
    Atomics.add(shared, 0, 1);
    while (Atomics.load(shared, 0) < threads);
    for (let i = 0; i < offsets.length; i++) {
      while (keepStep && i > slowest() + ${STEP});
      live.markDirty(offsets[i], lengths[i]);
      Atomics.store(shared, 16 * (index + 1), i + 1);
    }
  });`;

/** Runs each list of writes on a thread of its own; calls `during` again and again meanwhile. */
async function runThreads(
  live: LiveMarks,
  writes: readonly (readonly Write[])[],
  { keepStep = false, during }: { keepStep?: boolean; during?: (acknowledged: number[]) => void } = {},
): Promise<void> {
  const threads = writes.length;
  const shared = new Int32Array(new SharedArrayBuffer(64 * (threads + 1)));
  const source = script.replace('MODULE', built('bitmap/live-marks.js'));
  let running = threads;
  const exits = writes.map((list, index) => {
    const offsets = Float64Array.from(list, ({ offset }) => offset);
    const lengths = Float64Array.from(list, ({ length }) => length);
    const workerData = { handle: live.handle(), offsets, lengths, shared, index, threads, keepStep };
    const worker = new Worker(source, { eval: true, workerData });
    return new Promise<void>((resolve, reject) => {
      worker.once('error', reject);
      worker.once('exit', () => {
        running--;
        resolve();
      });
    });
  });
  const acknowledged = () => writes.map((_, index) => Atomics.load(shared, 16 * (index + 1)));
  while (during && running > 0) {
    during(acknowledged());
    await new Promise((resolve) => setImmediate(resolve));
  }
  await Promise.all(exits);
  expect(acknowledged()).toEqual(writes.map((list) => list.length));
}

function randomWrites(seed: number, count: number, size: number, longest: number): Write[] {
  const random = sequence(seed);
  return Array.from({ length: count }, () => {
    const offset = Math.floor((random() / 2 ** 32) * size);
    const length = random() % 8 === 0 ? random() % longest : (random() % 5000) + 1;
    return { offset, length: Math.min(length, size - offset) };
  });
}

function blocksOf(writes: readonly Write[], live: LiveMarks): PagedBits {
  const bits = new PagedBits(live.blocks);
  for (const write of writes) bits.setRun(blocksTouching(write, live.blockSize));
  return bits;
}

describe('live marks', () => {
  it.each([
    ['in the same words', 1],
    ['in the same new pages', 512],
    ['in the same new nodes', 65536],
  ])('of two threads that keep step are all there: neighbouring blocks %s', async (_, stride) => {
    // Every block is written once, by one thread: what is lost once stays lost.
    for (let round = 0; round < 3; round++) {
      const count = stride === 65536 ? 6000 : 12_000;
      const size = 65536 * 2 * stride * count;
      const live = LiveMarks.create(size, 65536);
      const writes = [0, 1].map((thread) =>
        Array.from({ length: count }, (_, i) => ({
          offset: 65536 * (i * Math.max(2, stride) + thread),
          length: 1,
        })),
      );
      await runThreads(live, writes, { keepStep: true });
      expect(live.overmarked).toBe(0);
      const expected = blocksOf(writes.flat(), live);
      expect(expected.andNot(live.snapshot()).count).toBe(0);
      expect(live.snapshot().equals(expected)).toBe(true);
    }
  });

  it.each([
    ['a small disk', 2 ** 28, 512, 2 ** 14],
    ['a petabyte', 2 ** 50, 65536, 2 ** 40],
    ['a disk of 2^41 blocks', 2 ** 50, 512, 2 ** 40],
  ])(
    'of four threads are exactly the blocks written, by writes of every length over %s',
    async (_, size, blockSize, longest) => {
      const live = LiveMarks.create(size, blockSize);
      const writes = Array.from({ length: 4 }, (_, i) => randomWrites(i, 1500, size, longest));
      await runThreads(live, writes);
      expect(live.overmarked).toBe(0);
      expect(live.generation).toBe(writes.flat().filter(({ length }) => length > 0).length);
      expect(live.snapshot().equals(blocksOf(writes.flat(), live))).toBe(true);
    },
  );

  it('include every write when the memory is used up, and say that they are too many', async () => {
    const size = 2 ** 45;
    const live = LiveMarks.create(size, 65536, 2 ** 16);
    const writes = Array.from({ length: 4 }, (_, i) => randomWrites(i, 2000, size, 2 ** 20));
    await runThreads(live, writes);
    const expected = blocksOf(writes.flat(), live);
    expect(live.overmarked).toBeGreaterThan(0);
    expect(expected.andNot(live.snapshot()).isEmpty).toBe(true);
    expect(live.snapshot().isFull).toBe(false);
  });

  it('are in every snapshot that is taken after they are acknowledged', async () => {
    const size = 2 ** 40;
    const live = LiveMarks.create(size, 65536);
    const writes = Array.from({ length: 4 }, (_, i) => randomWrites(i, 3000, size, 2 ** 30));
    const known = new PagedBits(live.blocks);
    const done = writes.map(() => 0);
    let midway = 0;
    const during = (counts: number[]) => {
      const snapshot = live.snapshot();
      counts.forEach((count, index) => {
        for (; done[index]! < count; done[index]!++) {
          known.setRun(blocksTouching(writes[index]![done[index]!]!, live.blockSize));
        }
      });
      expect(known.andNot(snapshot).isEmpty).toBe(true);
      if (counts.some((count, index) => count > 0 && count < writes[index]!.length)) midway++;
    };
    await runThreads(live, writes, { during });
    expect(blocksOf(writes.flat(), live).equals(live.snapshot())).toBe(true);
    expect(midway).toBeGreaterThan(0);
  });
});

/** The whole of it, from copies of `step` blocks each. */
function inPieces(marks: LiveMarks, step: number): PagedBits {
  const whole = new PagedBits(marks.blocks);
  for (let start = 0; start < marks.blocks; start += step) {
    const end = Math.min(start + step, marks.blocks);
    const piece = marks.snapshot({ start, end });
    expect(piece.length).toBe(end - start);
    for (const run of piece.runs()) whole.setRun({ start: start + run.start, end: start + run.end });
  }
  return whole;
}

describe('live marks of one thread', () => {
  it('are the blocks that writes touch, however little memory there is', () => {
    const writes = fc.array(fc.tuple(fc.nat(2 ** 31), fc.nat(2 ** 20)), { maxLength: 60 });
    fc.assert(
      fc.property(writes, fc.constantFrom(512, 4096, 65536), fc.nat(80), (list, blockSize, pages) => {
        const size = 2 ** 31 + 2 ** 20 + 77;
        const step = 512 * (1 + (blockSize === 512 ? 100 : 1) * pages);
        const roomy = LiveMarks.create(size, blockSize);
        const tight = LiveMarks.create(size, blockSize, 2 ** 16);
        const ranges = list.map(([offset, length]) => ({ offset, length }));
        for (const { offset, length } of ranges) {
          roomy.markDirty(offset, length);
          tight.markDirty(offset, length);
        }
        const expected = blocksOf(ranges, roomy);
        expect(roomy.snapshot().equals(expected)).toBe(true);
        expect(expected.andNot(tight.snapshot()).isEmpty).toBe(true);
        if (tight.overmarked === 0) expect(tight.snapshot().equals(expected)).toBe(true);
        expect(LiveMarks.attach(roomy.handle()).snapshot().equals(expected)).toBe(true);
        for (const marks of [roomy, tight]) expect(inPieces(marks, step).equals(marks.snapshot())).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('refuse writes that do not lie within the disk, and tell that something was written', () => {
    const live = LiveMarks.create(10_000, 512);
    for (const [offset, length] of [
      [10_000, 1],
      [-1, 2],
      [0, -1],
      [0.5, 1],
      [Number.NaN, 1],
    ] as const) {
      expect(() => live.markDirty(offset, length)).toThrow(expect.objectContaining({ kind: 'argument' }));
    }
    live.markDirty(10_000, 0);
    expect(live.generation).toBe(0);
    live.markDirty(9_999, 1);
    expect(live.generation).toBe(1);
    expect([...live.snapshot().runs()]).toEqual([{ start: 19, end: 20 }]);
    live.markDirty(0, 10_000);
    expect(live.snapshot().isFull).toBe(true);
    for (const [size, blockSize, capacity] of [
      [-1, 512, 2 ** 20],
      [1000, 100, 2 ** 20],
      [1000, 512, 1000],
    ] as const) {
      expect(() => LiveMarks.create(size, blockSize, capacity)).toThrow(
        expect.objectContaining({ kind: 'argument' }),
      );
    }
  });
});
