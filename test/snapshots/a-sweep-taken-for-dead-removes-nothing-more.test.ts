/**
 * A prune that stands still in the middle of its removals, for so long that an upload takes it for dead, relies on what
 * it was about to remove, and finishes; then the prune goes on.
 */

import { describe, expect, it } from 'vitest';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { pruneRepository } from '../../src/snapshots/prune.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { defaultSweepTimes } from '../../src/snapshots/sweep.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import type { ObjectStore } from '../../src/store/object-store.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const BLOCKS = 250;
const HALF_AN_HOUR = 1_860_000;

interface Stand {
  /** The removal, counted from 1, before which it stands still. */
  readonly before: number;
  /** Whether it had been asked for as one of a hundred before. */
  readonly inside: boolean;
  /** Milliseconds by the prune's two clocks, while half an hour passes for everybody else. */
  readonly slept: readonly [number, number];
}

/** A repository whose one snapshot is garbage and due. */
async function withGarbage() {
  const clock = { store: 1_000_000_000_000, own: [1000, 5000] as [number, number] };
  const objects = memoryObjects(() => clock.store);
  const repository = await makeRepository(objects, { compression: 'none' });
  const bytes = noise(BLOCKS * BLOCK, 1);
  const first = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 1 });
  await pruneRepository(repository, { forget: [first.id], grace: 0 });
  clock.store += 1000;
  return { clock, objects, repository, bytes };
}

/** Stands still as it is told, once, and does `meanwhile` then. */
function standing(
  objects: ObjectStore,
  { before, inside }: Stand,
  meanwhile: () => Promise<void>,
): ObjectStore {
  let removed = 0;
  let stood = false;
  const stand = async () => {
    stood = true;
    await meanwhile();
  };
  return {
    ...objects,
    async has(key, options) {
      // Between two hundreds it looks before it removes.
      if (!inside && !stood && key.startsWith('ends/') && removed >= before - 1) await stand();
      return objects.has(key, options);
    },
    async remove(keys, options) {
      for (const key of keys) {
        if (key.startsWith('blocks/')) removed++;
        if (inside && !stood && removed === before) await stand();
        const wait = options?.check?.();
        if (wait) await wait;
        await objects.remove([key]);
      }
      return undefined;
    },
  };
}

async function pruneStanding(stand: Stand) {
  const { clock, objects, repository, bytes } = await withGarbage();
  const pruner = await openRepository(
    standing(objects, stand, async () => {
      clock.store += HALF_AN_HOUR;
      clock.own = [clock.own[0] + stand.slept[0], clock.own[1] + stand.slept[1]];
      const times = { ...defaultSweepTimes, poll: 0, settle: 0 };
      await take(repository, [source('a', new MemoryUnit(bytes))], { time: 2, sweepTimes: times });
    }),
  );
  const clocks = [() => clock.own[0], () => clock.own[1]];
  const pruned = pruneRepository(pruner, { grace: 0, sweepTimes: { ...defaultSweepTimes, clocks } });
  await expect(pruned).rejects.toMatchObject({ kind: 'aborted', message: expect.stringMatching(/held up/) });
  expect((await verifyRepository(repository)).damaged).toEqual([]);
  const [info] = await listSnapshots(repository);
  expect(Buffer.compare(await bytesOf(repository, info!, 'a'), bytes)).toBe(0);
}

describe('a sweep that others took for dead', () => {
  it('removes nothing more of a hundred that it had begun, when its machine had slept', () =>
    pruneStanding({ before: 37, inside: true, slept: [0, HALF_AN_HOUR] }));

  it('nor when its clock was put back meanwhile', () =>
    pruneStanding({ before: 37, inside: true, slept: [HALF_AN_HOUR, -HALF_AN_HOUR] }));

  it('removes no further hundred, although no clock of its own has seen that time passed', () =>
    pruneStanding({ before: 101, inside: false, slept: [0, 0] }));

  it('is ended by the next prune, which removes what is left; what ended it goes after a week', async () => {
    const { clock, objects, repository } = await withGarbage();
    const killed = await openRepository(
      standing(objects, { before: 37, inside: true, slept: [0, 0] }, () =>
        Promise.reject(new Error('killed')),
      ),
    );
    await expect(pruneRepository(killed, { grace: 0 })).rejects.toThrow(/killed/);
    const left = () => [...objects.objects.keys()].filter((key) => /^(blocks|ends|sweeps)\//.test(key));
    clock.store += HALF_AN_HOUR;
    const sweepTimes = { ...defaultSweepTimes, settle: 0 };
    await pruneRepository(repository, { grace: 0, sweepTimes });
    expect(left().filter((key) => key.startsWith('ends/'))).toHaveLength(1);
    clock.store += 1000;
    await pruneRepository(repository, { grace: 0, sweepTimes });
    expect(left()).toHaveLength(1);
    clock.store += 8 * 86_400_000;
    await pruneRepository(repository, { sweepTimes });
    expect(left()).toEqual([]);
  });

  it('is not ended by a dry run, whose clock may be wrong', async () => {
    const { clock, objects, repository } = await withGarbage();
    clock.store -= 900_000_000_000;
    const beside = standing(objects, { before: 1, inside: true, slept: [0, 0] }, async () => {
      await pruneRepository(repository, { dryRun: true });
    });
    await pruneRepository(await openRepository(beside), { grace: -1e15 });
    expect([...objects.objects.keys()].filter((key) => key.startsWith('ends/'))).toEqual([]);
  });
});
