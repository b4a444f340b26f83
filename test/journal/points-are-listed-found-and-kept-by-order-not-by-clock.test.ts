import { describe, expect, it } from 'vitest';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { difference, Model, memoryDisks, randomOf, randomWrite, viewDifference } from './disks.ts';
import { SimFolder } from './sim-folder.ts';

const shapes = [{ name: 'disk', size: 8000 }];

interface Setup {
  readonly journal: Journal;
  readonly folder: SimFolder;
  readonly model: Model;
  readonly disks: ReturnType<typeof memoryDisks>;
  /** Appends writes at times, and applies them. */
  write(...times: number[]): Promise<void>;
  now: number;
}

async function setup(segmentBytes = 4096): Promise<Setup> {
  const folder = new SimFolder();
  const disks = memoryDisks(shapes);
  const model = new Model(shapes);
  const random = randomOf(11);
  const made = { now: 0 };
  const options = { disks, clock: () => made.now };
  const journal = await createJournal(folder, { group: 'vm', disks: shapes, segmentBytes }, options);
  const write = async (...times: number[]) => {
    for (const time of times) {
      const one = { ...randomWrite(random, shapes, 1000) };
      model.write(one);
      await journal.append([one], time).durable;
      made.now = time;
    }
    await journal.apply();
  };
  return Object.assign(made, { journal, folder, model, disks, write });
}

describe('bookmarks', () => {
  it('name points, in the order of writes, and are found again after reopening', async () => {
    const { journal, folder, model, disks, write } = await setup();
    await write(1000, 2000);
    expect(await journal.bookmark('before the upgrade', 'application')).toEqual({ sequence: 3, time: 2000 });
    model.mark();
    await write(3000);
    await journal.close();
    const again = await openJournal(folder, { disks });
    expect(again.points().bookmarks).toEqual([
      { name: 'before the upgrade', sequence: 3, time: 2000, consistency: 'application', reachable: true },
    ]);
    expect(await again.rollTo({ bookmark: 'before the upgrade' })).toEqual({ sequence: 3, time: 2000 });
    expect(difference(disks, model, 3)).toBeNull();
    await again.close();
  });

  it('have names of their own, until they are forgotten', async () => {
    const { journal, write } = await setup();
    await write(1000);
    const [first, second] = [journal.bookmark('one'), journal.bookmark('one')];
    await expect(second).rejects.toMatchObject({
      kind: 'argument',
      message: expect.stringMatching(/'one' already/),
    });
    await first;
    await expect(journal.bookmark('one')).rejects.toMatchObject({ kind: 'argument' });
    await journal.forget('one');
    expect(journal.points().bookmarks).toEqual([]);
    expect(() => journal.forget('one')).toThrow(/no bookmark is called 'one'/);
    await journal.bookmark('one');
    expect(() => journal.find({ bookmark: 'two' })).toThrow(/no bookmark is called 'two'; there are: 'one'/);
    for (const name of ['', 'x'.repeat(257), '\ud800']) {
      await expect(journal.bookmark(name)).rejects.toMatchObject({ kind: 'argument' });
    }
    await journal.close();
  });
});

describe('a time', () => {
  it('means the last point at which the clock read no more', async () => {
    const { journal, write } = await setup();
    await write(1000, 2000, 2000, 3000);
    const found = (time: number) => journal.find({ time });
    expect(found(1000)).toEqual({ sequence: 1, time: 1000, others: [] });
    expect(found(1999)).toEqual({ sequence: 1, time: 1000, others: [] });
    expect(found(2000)).toEqual({ sequence: 3, time: 2000, others: [] });
    expect(found(99_000)).toEqual({ sequence: 4, time: 3000, others: [] });
    expect(found(999)).toEqual({ sequence: 0, time: 0, others: [] });
    expect(() => found(-1)).toThrow(/no point is as old as/);
    expect(() => found(1.5)).toThrow(/milliseconds/);
    await journal.close();
  });

  it('that the clock passed twice is answered with both, the later one first', async () => {
    const { journal, folder, write, disks, model } = await setup();
    const hour = 3_600_000;
    // An hour passes, the clock is put back by an hour, another hour passes.
    await write(1 * hour, 1.5 * hour, 2 * hour, 1 * hour, 1.6 * hour, 2.25 * hour);
    const check = (opened: Journal) => {
      expect(opened.points().clockSteps).toEqual([{ sequence: 4, before: 2 * hour, after: 1 * hour }]);
      expect(opened.find({ time: 1.7 * hour })).toEqual({
        sequence: 5,
        time: 1.6 * hour,
        others: [{ sequence: 2, time: 1.5 * hour }],
      });
      expect(opened.find({ time: 3 * hour })).toEqual({ sequence: 6, time: 2.25 * hour, others: [] });
    };
    check(journal);
    await journal.close();
    const again = await openJournal(folder, { disks });
    check(again);
    // Order is by sequence: each is exact, whatever the clock said.
    for (let s = 0; s <= 6; s++) expect(await viewDifference(again, model, s)).toBeNull();
    await again.close();
  });

  it('is not confused for good by a clock that was ahead for one write', async () => {
    const { journal, write } = await setup();
    const year = 31_536_000_000;
    await write(1000, 2000, year, 3000, 4000);
    expect(journal.find({ time: 3500 })).toMatchObject({
      sequence: 4,
      others: [{ sequence: 2, time: 2000 }],
    });
    expect(journal.points().clockSteps).toEqual([{ sequence: 4, before: year, after: 3000 }]);
    await journal.close();
  });
});

describe('a suspension', () => {
  it('is no point, is told with its reason, and points go on after it', async () => {
    const { journal, folder, model, write, disks } = await setup();
    await write(1000, 2000);
    await journal.suspend('link down');
    model.mark();
    await write(3000, 4000);
    expect(journal.points()).toMatchObject({
      ranges: [{ from: { sequence: 0 }, to: { sequence: 3 } }],
      suspensions: [{ from: { sequence: 3 }, to: null, reason: 'link down' }],
    });
    expect(journal.state()).toMatchObject({ suspended: true, last: 5, applied: { low: 5, high: 5 } });
    await journal.resume();
    model.mark();
    await write(6000);
    await journal.close();
    const again = await openJournal(folder, { disks });
    expect(again.points()).toMatchObject({
      ranges: [
        { from: { sequence: 0, time: 0 }, to: { sequence: 3, time: 2000 } },
        { from: { sequence: 6, time: 4000 }, to: { sequence: 7, time: 6000 } },
      ],
      suspensions: [{ from: { sequence: 3 }, to: { sequence: 6 }, reason: 'link down' }],
    });
    for (const sequence of [4, 5]) {
      await expect(again.rollTo({ sequence })).rejects.toMatchObject({
        kind: 'argument',
        message: expect.stringMatching(/no point: the group was suspended there \(link down\)/),
      });
    }
    // A time in it means the last moment before it.
    expect(again.find({ time: 3500 })).toMatchObject({ sequence: 3, time: 2000 });
    await again.rollTo({ sequence: 3 });
    expect(difference(disks, model, 3)).toBeNull();
    await again.close();
  });
});

describe('retention', () => {
  async function long(): Promise<Setup> {
    const made = await setup(4096);
    for (let i = 1; i <= 10; i++)
      await made.write(...Array.from({ length: 8 }, (_, k) => 10_000 * i + 100 * k));
    return made;
  }

  it('by size removes new data that is applied first, then the oldest points, and says what is left', async () => {
    const { journal, model, disks, folder } = await long();
    const before = journal.state().bytes;
    const redo = folder.list().filter((name) => name.startsWith('do.data')).length;
    expect(redo).toBeGreaterThan(3);
    const half = await journal.retain({ bytes: Math.floor(before * 0.6) });
    expect(half.bytes).toBeLessThanOrEqual(before * 0.6);
    expect(half).toMatchObject({ held: null, oldest: { sequence: 0 } });
    expect(folder.list().filter((name) => name.startsWith('do.data')).length).toBeLessThan(redo);
    // All points are still there: what was removed is made anew when the disks go back.
    for (const sequence of [0, 37, model.last, 1, model.last]) {
      await journal.rollTo({ sequence });
      expect(difference(disks, model, sequence)).toBeNull();
    }
    const few = await journal.retain({ bytes: Math.floor(before * 0.2) });
    expect(few.bytes).toBeLessThanOrEqual(before * 0.2);
    expect(few.removedBytes).toBeGreaterThan(0);
    const { sequence: oldest } = few.oldest!;
    expect(oldest).toBeGreaterThan(40);
    expect(journal.points().ranges).toMatchObject([{ from: few.oldest, to: { sequence: model.last } }]);
    for (let s = oldest; s <= model.last; s++) expect(await viewDifference(journal, model, s)).toBeNull();
    await expect(journal.rollTo({ sequence: oldest - 1 })).rejects.toMatchObject({ kind: 'not-found' });
    const none = await journal.retain({ bytes: 0 });
    expect(none.held).toMatch(/being written/);
    await journal.close();
    const again = await openJournal(folder, { disks });
    expect(again.points().ranges).toMatchObject([{ from: none.oldest, to: { sequence: model.last } }]);
    await again.close();
  });

  it('by age goes by the order of writes, and not at all by a clock that is ahead', async () => {
    const made = await long();
    const { journal } = made;
    made.now = 10 ** 12;
    const { oldest } = await journal.retain({ age: 45_000 });
    expect(oldest!.time).toBeGreaterThan(40_000);
    expect(oldest!.time).toBeLessThanOrEqual(60_000);
    await journal.close();
  });

  it('never removes what a bookmark, the promised window, a view or the disks still need', async () => {
    const { journal, model, write } = await long();
    const mark = journal.points().ranges[0]!.to.sequence;
    await journal.bookmark('promised');
    model.mark();
    for (let i = 11; i <= 16; i++) await write(...Array.from({ length: 8 }, (_, k) => 10_000 * i + 100 * k));
    expect(await journal.retain({ bytes: 0 })).toMatchObject({ held: "the bookmark 'promised' is promised" });
    expect(await viewDifference(journal, model, mark)).toBeNull();
    expect(journal.points().bookmarks).toHaveLength(1);
    await journal.forget('promised');
    model.mark();
    const view = journal.view('disk', { sequence: mark + 20 });
    expect(await journal.retain({ bytes: 0 })).toMatchObject({ held: `a view reads point ${mark + 20}` });
    const bytes = new Uint8Array(8000);
    await view.read(0, bytes);
    expect(Buffer.compare(bytes, model.at(mark + 20, 'disk'))).toBe(0);
    await view.close();
    expect(await journal.retain({ bytes: 0, window: 22_000 })).toMatchObject({
      held: 'the last 22000 ms are promised',
    });
    expect(journal.find({ time: 140_000 }).time).toBeGreaterThan(138_000);
    await journal.rollBack(mark + 36);
    const rolled = await journal.retain({ bytes: 0 });
    expect(rolled.held).toMatch(/have not taken the newer/);
    expect(journal.points().ranges.at(-1)!.to.sequence).toBe(model.last);
    await journal.apply();
    await journal.close();
  });

  it('refuses a policy that is none', async () => {
    const { journal } = await setup();
    for (const policy of [{ bytes: -1 }, { age: 0.5 }, { bookmarks: 'no' as 'keep' }]) {
      await expect(journal.retain(policy)).rejects.toMatchObject({ kind: 'argument' });
    }
    await journal.close();
  });
});

describe('a promotion', () => {
  it('makes the point that the disks are at the newest; writes go on from it', async () => {
    const { journal, folder, model, disks, write } = await setup();
    await write(1000, 2000, 3000, 4000, 5000);
    const late = journal.view('disk', { sequence: 4 });
    await journal.rollTo({ sequence: 3 });
    await expect(journal.promote()).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/views/),
    });
    await late.close();
    expect(await journal.promote()).toEqual({ sequence: 3, time: 3000 });
    model.cut(3);
    await write(7000, 8000);
    expect(journal.state().last).toBe(5);
    await journal.close();
    const again = await openJournal(folder, { disks });
    expect(again.points().ranges).toMatchObject([{ from: { sequence: 0 }, to: { sequence: 5, time: 8000 } }]);
    for (let s = 0; s <= 5; s++) expect(await viewDifference(again, model, s)).toBeNull();
    await again.close();
  });
});

describe('changes between two points', () => {
  it('are what was written between them, and no more', async () => {
    const { journal, model } = await setup();
    const random = randomOf(5);
    const written: { offset: number; length: number }[] = [];
    for (let i = 0; i < 40; i++) {
      const write = randomWrite(random, shapes, 1000);
      model.write(write);
      const length = 'bytes' in write ? write.bytes.length : write.zeros;
      written.push({ offset: write.offset, length });
      await journal.append([write]).durable;
      if (i === 25) await journal.apply();
    }
    expect([...journal.changes('disk', { from: 10, to: 31 })]).toEqual(written.slice(10, 31));
    expect([...journal.changes('disk', { from: 7, to: 7 })]).toEqual([]);
    expect(() => [...journal.changes('disk', { from: 7, to: 99 })]).toThrow(/two points of 0 to 40/);
    await journal.close();
  });
});
