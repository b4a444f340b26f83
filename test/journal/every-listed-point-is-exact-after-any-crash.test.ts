/**
 * The power fails at a call: what was not flushed is lost in part and in any order, of the journal's files and of
 * the disks. Then the journal must open, know everything that was acknowledged, and every point that it lists must
 * be exact on every disk, by a view and by a roll.
 */

import { describe, expect, it } from 'vitest';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { difference, Model, randomOf, randomWrite, viewDifference } from './disks.ts';
import { SimDisk, SimFolder } from './sim-folder.ts';

const shapes = [
  { name: 'system', size: 5000 },
  { name: 'data', size: 3000 },
];

class World {
  folder = new SimFolder();
  disks = new Map(shapes.map(({ name, size }) => [name, new SimDisk(name, size)]));
  readonly model = new Model(shapes);
  /** The last sequence that was acknowledged. */
  acknowledged = 0;
  time = 1000;

  constructor() {
    this.wire();
  }

  private wire(): void {
    for (const disk of this.disks.values()) disk.step = () => this.folder.step();
  }

  crash(random: (below: number) => number): void {
    this.folder = this.folder.crashed(random);
    this.disks = new Map([...this.disks].map(([name, disk]) => [name, disk.crashed(random)]));
    this.wire();
  }

  open(): Promise<Journal> {
    return openJournal(this.folder, { disks: this.disks, clock: () => this.time });
  }
}

/** One random step of a replica's life. */
async function live(world: World, journal: Journal, random: (below: number) => number): Promise<void> {
  const { model } = world;
  world.time += random(5000);
  const what = random(20);
  if (what < 9) {
    const writes = Array.from({ length: 1 + random(6) }, () => randomWrite(random, shapes, 900));
    const { last, durable } = journal.append(writes);
    for (const write of writes) model.write(write);
    // Sometimes the next ones do not wait for these.
    if (random(3) === 0) return;
    await durable;
    world.acknowledged = last;
  } else if (what < 11) {
    model.mark();
    const { sequence } = await journal.bookmark(`at ${model.last}`);
    world.acknowledged = sequence;
  } else if (what < 15) {
    await journal.commit();
    world.acknowledged = model.last;
    await journal.apply();
  } else if (what < 18) {
    const { ranges } = journal.points();
    const { from, to } = ranges[random(ranges.length)]!;
    const sequence = from.sequence + random(to.sequence - from.sequence + 1);
    await journal.rollTo({ sequence });
  } else if (what < 19) {
    await journal.retain({ bytes: 2000 + random(20_000), bookmarks: 'drop' });
  } else {
    await journal.apply();
    const { low } = journal.state().applied;
    await journal.rollTo({ sequence: Math.max(low - random(4), journal.points().ranges[0]!.from.sequence) });
    // When it is stopped, the later points may be gone or not.
    world.acknowledged = journal.state().applied.low;
    await journal.promote();
    model.cut(world.acknowledged);
  }
}

async function run(world: World, seed: number, steps: number): Promise<void> {
  const random = randomOf(seed);
  const options = { disks: world.disks, clock: () => world.time };
  const journal = await createJournal(
    world.folder,
    { group: 'vm', disks: shapes, segmentBytes: 4096 },
    options,
  );
  for (let step = 0; step < steps; step++) await live(world, journal, random);
  await journal.close();
}

async function checkAll(world: World, journal: Journal): Promise<number> {
  const { ranges, bookmarks } = journal.points();
  let checked = 0;
  for (const { from, to } of ranges) {
    for (let { sequence } = from; sequence <= to.sequence; sequence++) {
      expect(await viewDifference(journal, world.model, sequence)).toBeNull();
      checked++;
    }
  }
  for (const { sequence, name } of bookmarks) expect(name).toBe(`at ${sequence}`);
  return checked;
}

/** What must hold after a crash; then life goes on, with another crash in it perhaps. */
async function survive(world: World, random: (below: number) => number): Promise<number> {
  const journal = await world.open();
  const { last } = journal.state();
  expect(journal.warnings).toEqual([]);
  // A promotion that was stopped may have taken the later points with it, or not.
  expect(last).toBeGreaterThanOrEqual(world.acknowledged);
  expect(last).toBeLessThanOrEqual(world.model.last);
  world.model.cut(last);
  const checked = await checkAll(world, journal);
  const { ranges } = journal.points();
  const { from, to } = ranges[random(ranges.length)]!;
  for (const sequence of [from.sequence + random(to.sequence - from.sequence + 1), to.sequence]) {
    await journal.rollTo({ sequence });
    expect(difference(world.disks, world.model, sequence)).toBeNull();
    const other = from.sequence + random(to.sequence - from.sequence + 1);
    expect(await viewDifference(journal, world.model, other)).toBeNull();
  }
  await journal.close();
  return checked;
}

function isPlanted(error: unknown): boolean {
  return error instanceof Error && error.message.includes('(planted)');
}

async function crashAt(seed: number, call: number, steps: number): Promise<number> {
  const random = randomOf(seed * 1_000_003 + call);
  const world = new World();
  world.folder.failAt = call;
  try {
    await run(world, seed, steps);
  } catch (error) {
    if (!isPlanted(error)) throw error;
  }
  world.crash(random);
  // Before the journal was made there is none.
  if (!world.folder.list().includes('group')) return 0;
  // Every third time the power fails again while it recovers or rolls.
  if (random(3) === 0) {
    world.folder.failAt = 1 + random(40);
    try {
      const journal = await world.open();
      world.model.cut(journal.state().last);
      world.acknowledged = journal.state().last;
      await live(world, journal, random);
      await live(world, journal, random);
      await journal.close();
    } catch (error) {
      if (!isPlanted(error)) throw error;
    }
    world.crash(random);
  }
  return survive(world, random);
}

/** More histories, and every call of each, for whoever has the time: DRIFTMAP_CRASH_HISTORIES=100. */
const histories = Number(process.env.DRIFTMAP_CRASH_HISTORIES ?? 0);
const seeds = Array.from({ length: histories || 5 }, (_, i) => i + 1);
const crashesEach = histories ? 150 : 16;

describe('after a crash', () => {
  it.each(seeds)(
    'at any call of history %i every listed point is exact',
    { timeout: 600_000 },
    async (seed) => {
      const steps = 40;
      const whole = new World();
      await run(whole, seed, steps);
      const { calls } = whole.folder;
      expect(calls).toBeGreaterThan(100);
      let checked = 0;
      const stride = Math.max(1, Math.floor(calls / crashesEach));
      for (let call = 1 + (seed % stride); call <= calls + stride; call += stride) {
        try {
          checked += await crashAt(seed, call, steps);
        } catch (error) {
          throw new Error(`history ${seed}, crash at call ${call} of ${calls}: ${(error as Error).message}`, {
            cause: error,
          });
        }
      }
      expect(checked).toBeGreaterThan(100);
    },
  );
});
