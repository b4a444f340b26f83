import { describe, expect, it } from 'vitest';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import { failPut, slowStore } from '../store/filters.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const before = noise(10 * BLOCK, 1);
const after = before.slice();
after.set(noise(3 * BLOCK, 2), 4 * BLOCK);

async function withFirst() {
  const store = memoryObjects();
  const repository = await makeRepository(store);
  const parent = await take(repository, [source('a', new MemoryUnit(before))], { time: 1 });
  return { store, repository, parent };
}

describe('an upload that fails at any put', () => {
  for (const manner of ['refused', 'torn'] as const) {
    for (const forever of [false, true]) {
      it(`(${manner}${forever ? ', and all after it' : ''}) leaves the snapshots as they were; the next goes on`, async () => {
        for (let at = 1, isOver = false; !isOver; at++) {
          const { store, repository, parent } = await withFirst();
          const failing = failPut(store, { at, forever, manner });
          const victim = await openRepository(failing);
          const unit = () => new MemoryUnit(after);
          const failed = await take(victim, [source('a', unit())], { parent, time: 2, connections: 2 }).then(
            () => false,
            () => true,
          );
          isOver = !failed;
          const snapshots = await listSnapshots(repository);
          expect((await verifyRepository(repository)).damaged).toEqual([]);
          // Where the answer to the last put was lost, the snapshot is there, and whole.
          for (const info of snapshots) {
            const bytes = info.id === parent.id ? before : after;
            expect(Buffer.compare(await bytesOf(repository, info, 'a'), bytes)).toBe(0);
          }
          if (manner === 'refused' && failed) expect(snapshots.map(({ id }) => id)).toEqual([parent.id]);
          const there = [...store.objects.keys()].filter((key) => key.startsWith('blocks/')).length;
          const again = await take(repository, [source('a', unit())], { parent, time: 3 });
          expect(again.blocksSent).toBe(13 - there);
          expect(Buffer.compare(await bytesOf(repository, again, 'a'), after)).toBe(0);
          expect(at).toBeLessThan(40);
        }
      });
    }
  }
});

describe('an upload that is stopped', () => {
  it('ends soon, leaves nothing running, and no snapshot', async () => {
    const { store, repository, parent } = await withFirst();
    const slow = await openRepository(slowStore(store, 20));
    const stop = new AbortController();
    setTimeout(() => stop.abort('SIGINT'), 90);
    const disk = new MemoryUnit(noise(200 * BLOCK, 5));
    await expect(
      take(slow, [source('b', disk)], { signal: stop.signal, connections: 2 }),
    ).rejects.toMatchObject({ kind: 'aborted' });
    const count = store.objects.size;
    await new Promise((resolve) => setTimeout(resolve, 100));
    // The draft goes a little later.
    expect(store.objects.size).toBeLessThanOrEqual(count);
    expect((await listSnapshots(repository)).map(({ id }) => id)).toEqual([parent.id]);
  });
});
