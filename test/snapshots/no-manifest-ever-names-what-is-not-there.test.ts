/**
 * Uploads, prunes and crashes in random order over one store whose clock jumps: after every step, whatever any
 * snapshot's manifest names is there; at the end, every snapshot has the bytes that were taken.
 */

import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { ByteRange } from '../../src/base/units.ts';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { pruneRepository } from '../../src/snapshots/prune.ts';
import { ReferenceCollector } from '../../src/snapshots/references.ts';
import { openRepository, type Repository } from '../../src/snapshots/repository.ts';
import { defaultSweepTimes, type SweepTimes } from '../../src/snapshots/sweep.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';
import { StoreScheduler } from './store-scheduler.ts';

const BLOCKS = 12;
/** Few contents, so that everybody finds what others put. */
const contents = Array.from({ length: 6 }, (_, i) => (i === 0 ? new Uint8Array(BLOCK) : noise(BLOCK, i)));

interface Story {
  readonly taken: number;
  readonly swept: number;
  readonly killed: number;
  readonly stopped: number;
  readonly redone: number;
}

class World {
  readonly scheduler: StoreScheduler;
  readonly raw: Repository;
  readonly taken = new Map<string, Uint8Array>();
  stopped = 0;
  swept = 0;
  killed = 0;
  redone = 0;
  readonly living = new Set<number>();
  private users = 0;

  constructor(scheduler: StoreScheduler, raw: Repository) {
    this.scheduler = scheduler;
    this.raw = raw;
  }

  get random(): () => number {
    return this.scheduler.random;
  }

  async start(
    act: (repository: Repository, times: SweepTimes) => Promise<unknown>,
    failures: unknown[],
  ): Promise<void> {
    const user = this.users++;
    this.living.add(user);
    const clocks = this.scheduler.clocksOf(user);
    const times = { ...defaultSweepTimes, poll: 0, settle: 0, clocks };
    try {
      await act(await openRepository(this.scheduler.store(user)), times);
    } catch (error) {
      failures.push(error);
    }
    this.living.delete(user);
  }

  /** A killed one never ends; another one comes in its place. */
  kill(): void {
    const user = this.anybody();
    this.scheduler.kill(user);
    this.living.delete(user);
    this.killed++;
  }

  /** Stands still for so long that others take it for dead, and goes on. */
  stop(): void {
    this.scheduler.stop(this.anybody());
    this.stopped++;
  }

  private anybody(): number {
    const all = [...this.living];
    return all[Math.floor(this.random() * all.length)]!;
  }

  /** One after another, each after the newest, or after any, or after none. */
  async upload(repository: Repository, sweepTimes: SweepTimes): Promise<void> {
    const disk = new Uint8Array(BLOCKS * BLOCK);
    let parentBytes: Uint8Array | null = null;
    for (let round = 0; round < 3; round++) {
      // Of one whose taker has not told yet nobody knows the bytes.
      const all = (await listSnapshots(repository)).filter(({ id }) => this.taken.has(id));
      const parent = this.random() < 0.7 ? (all[Math.floor(this.random() * all.length)] ?? null) : null;
      parentBytes = parent === null ? null : this.taken.get(parent.id)!;
      if (parentBytes !== null) disk.set(parentBytes);
      const changed: ByteRange[] = [];
      for (let i = 0; i < 4; i++) {
        const at = Math.floor(this.random() * BLOCKS) * BLOCK;
        disk.set(contents[Math.floor(this.random() * contents.length)]!, at);
        changed.push({ offset: at, length: BLOCK });
      }
      const bytes = disk.slice();
      const unit = new MemoryUnit(bytes);
      const isKnown = this.random() < 0.5;
      try {
        const info = await take(repository, [source('a', unit, isKnown ? changed : null)], {
          parent,
          time: Math.floor(this.random() * 1000),
          sweepTimes,
          connections: 3,
        });
        this.taken.set(info.id, bytes);
        if (unit.bytesRead > BLOCKS * BLOCK) this.redone++;
      } catch (error) {
        const isFine = error instanceof DriftmapError && ['not-found'].includes(error.kind);
        if (!isFine) throw error;
      }
    }
  }

  async prune(repository: Repository, sweepTimes: SweepTimes): Promise<void> {
    for (let round = 0; round < 3; round++) {
      const all = await listSnapshots(repository);
      const forget = all.filter(() => this.random() < 0.4).map(({ id }) => id);
      try {
        const { removedObjects } = await pruneRepository(repository, {
          forget,
          grace: 0,
          sweepTimes,
        });
        this.swept += removedObjects;
      } catch (error) {
        // Held up for too long; or for so long that a snapshot which it began to read was forgotten and swept.
        const isFine = error instanceof DriftmapError && ['aborted', 'not-found'].includes(error.kind);
        if (!isFine) throw error;
      }
    }
  }

  /** Every name that a manifest has, is there. */
  async check(): Promise<void> {
    const { objects } = this.scheduler.objects;
    for (const { id, disks } of await listSnapshots(this.raw)) {
      const held = new ReferenceCollector(this.raw, {});
      for (const disk of disks) {
        await held.add(disk).catch((error) => {
          throw new Error(`snapshot ${id} has lost a page: ${error.message}`);
        });
      }
      const blocks = [...objects.keys()].filter(
        (key) => key.startsWith('blocks/') && held.blocks.has(Buffer.from(key.slice(10), 'hex')),
      );
      if (blocks.length !== held.blocks.count) throw new Error(`snapshot ${id} has lost a block`);
    }
  }
}

async function live(seed: number): Promise<Story> {
  const scheduler = new StoreScheduler(seed);
  const raw = await makeRepository(scheduler.objects, { compression: 'none' });
  const world = new World(scheduler, raw);
  const failures: unknown[] = [];
  const upload = () => void world.start((repository, times) => world.upload(repository, times), failures);
  const prune = () => void world.start((repository, times) => world.prune(repository, times), failures);
  for (let i = 0; i < 3; i++) upload();
  for (let i = 0; i < 2; i++) prune();
  for (let idle = 0; world.living.size > 0 && idle < 2000 && failures.length === 0; ) {
    const call = await scheduler.step();
    idle = call === null ? idle + 1 : 0;
    if (call?.verb === 'remove' || call?.key.startsWith('snapshots/')) await world.check();
    if (world.living.size > 0 && world.stopped < 4 && scheduler.random() < 0.006) world.stop();
    if (world.living.size > 0 && world.killed < 6 && scheduler.random() < 0.004) {
      world.kill();
      if (scheduler.random() < 0.6) upload();
      else prune();
    }
  }
  if (world.living.size > 0 && failures.length === 0) throw new Error('somebody waits for ever');
  if (failures.length > 0) throw failures[0];
  await world.check();
  const { damaged } = await verifyRepository(raw);
  expect(damaged).toEqual([]);
  for (const info of await listSnapshots(raw)) {
    const bytes = world.taken.get(info.id);
    // Of one that was killed between its manifest and its word nobody has a copy.
    if (bytes !== undefined) expect(Buffer.compare(await bytesOf(raw, info, 'a'), bytes)).toBe(0);
  }
  return {
    taken: world.taken.size,
    swept: world.swept,
    killed: world.killed,
    stopped: world.stopped,
    redone: world.redone,
  };
}

describe('uploads and prunes that run at one time', () => {
  const runs = Number(process.env.DRIFTMAP_GC_RUNS ?? 12);
  const first = Number(process.env.DRIFTMAP_GC_SEED ?? 1);

  it(`do each other no harm in ${runs} random orders`, { timeout: 600_000 }, async () => {
    const sum = { taken: 0, swept: 0, killed: 0, stopped: 0, redone: 0 };
    for (let seed = first; seed < first + runs; seed++) {
      const story = await live(seed).catch((error) => {
        throw new Error(`seed ${seed}: ${error.message}`, { cause: error });
      });
      for (const key of ['taken', 'swept', 'killed', 'stopped', 'redone'] as const) sum[key] += story[key];
    }
    // The orders are worth something only where things were swept under uploads.
    expect(sum.taken).toBeGreaterThan(runs * 3);
    expect(sum.swept).toBeGreaterThan(runs);
    if (runs >= 100) expect(sum.redone).toBeGreaterThan(0);
    if (process.env.DRIFTMAP_GC_RUNS) process.stderr.write(`${JSON.stringify(sum)}\n`);
  });
});
