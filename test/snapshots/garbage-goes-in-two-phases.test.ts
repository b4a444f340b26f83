import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { holdSnapshot } from '../../src/snapshots/draft.ts';
import { pruneRepository } from '../../src/snapshots/prune.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { restoreSnapshot } from '../../src/snapshots/restore.ts';
import { defaultSweepTimes } from '../../src/snapshots/sweep.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import { wrapStore } from '../store/filters.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

function clockedStore() {
  const clock = { now: 1_000_000_000_000 };
  return { clock, store: memoryObjects(() => clock.now) };
}

const count = (store: ReturnType<typeof memoryObjects>, prefix: string) =>
  [...store.objects.keys()].filter((key) => key.startsWith(prefix)).length;

function gate() {
  let open = () => {};
  const passed = new Promise<undefined>((resolve) => {
    open = () => resolve(undefined);
  });
  return { passed, open };
}

describe('garbage', () => {
  it('is listed first and removed after the grace, by the clock of the store', async () => {
    const { clock, store } = clockedStore();
    const repository = await makeRepository(store);
    await take(repository, [source('a', new MemoryUnit(noise(4 * BLOCK, 1)))], { time: 1 });
    const kept = await take(repository, [source('a', new MemoryUnit(noise(4 * BLOCK, 2)))], { time: 2 });
    const first = await pruneRepository(repository, { rules: { last: 1 } });
    expect(first.forgotten).toHaveLength(1);
    expect(first).toMatchObject({ removedObjects: 0, listedObjects: 6 });
    clock.now += DAY - 1;
    expect(await pruneRepository(repository)).toMatchObject({ removedObjects: 0, listedObjects: 0 });
    clock.now += 1;
    expect(await pruneRepository(repository)).toMatchObject({ removedObjects: 6, listedObjects: 0 });
    expect((await verifyRepository(repository)).damaged).toEqual([]);
    expect(count(store, 'blocks/')).toBe(kept.disks[0]!.blocks);
    // Nothing of the work stays behind.
    for (const prefix of ['garbage/', 'sweeps/', 'drafts/']) expect(count(store, prefix)).toBe(0);
  });

  it('is spared when a snapshot refers to it again meanwhile', async () => {
    const { clock, store } = clockedStore();
    const repository = await makeRepository(store);
    const bytes = noise(4 * BLOCK, 1);
    const gone = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 1 });
    await pruneRepository(repository, { forget: [gone.id] });
    const back = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 2 });
    expect(back.blocksSent).toBe(0);
    clock.now += 2 * DAY;
    expect(await pruneRepository(repository)).toMatchObject({ removedObjects: 0 });
    expect(Buffer.compare(await bytesOf(repository, back, 'a'), bytes)).toBe(0);
  });

  it('of a dry run is told and left', async () => {
    const { store } = clockedStore();
    const repository = await makeRepository(store);
    const gone = await take(repository, [source('a', new MemoryUnit(noise(4 * BLOCK, 1)))]);
    const before = new Map(store.objects);
    const pruned = await pruneRepository(repository, { forget: [gone.id], dryRun: true, grace: 0 });
    expect(pruned).toMatchObject({ listedObjects: 6, removedObjects: 0 });
    expect(pruned.forgotten.map(({ id }) => id)).toEqual([gone.id]);
    expect(store.objects).toEqual(before);
  });

  it('is nothing where a page cannot be read: then nothing is removed', async () => {
    const { store } = clockedStore();
    const repository = await makeRepository(store);
    await take(repository, [source('a', new MemoryUnit(noise(4 * BLOCK, 1)))]);
    await pruneRepository(repository);
    const page = [...store.objects.keys()].find((key) => key.startsWith('pages/'))!;
    store.objects.delete(page);
    await expect(pruneRepository(repository, { grace: 0 })).rejects.toMatchObject({ kind: 'not-found' });
    expect(count(store, 'blocks/')).toBe(4);
  });

  it('of an upload that died goes with its draft after a week', async () => {
    const { clock, store } = clockedStore();
    const repository = await makeRepository(store);
    let puts = 0;
    const dying = wrapStore(store, {
      before(call) {
        // A killed process does not tidy up either.
        if (call.verb === 'remove') return new Promise(() => {});
        if (call.key.startsWith('blocks/') && call.verb === 'put' && ++puts === 3) throw new Error('killed');
        return undefined;
      },
    });
    const victim = await openRepository(dying);
    void take(victim, [source('a', new MemoryUnit(noise(8 * BLOCK, 1)))], { connections: 1 }).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(count(store, 'drafts/')).toBe(1);
    expect(count(store, 'blocks/')).toBe(2);
    await pruneRepository(repository);
    clock.now += 8 * DAY;
    expect(await pruneRepository(repository)).toMatchObject({ removedObjects: 2 });
    for (const prefix of ['garbage/', 'sweeps/', 'drafts/', 'blocks/']) expect(count(store, prefix)).toBe(0);
  });
});

describe('an upload beside prunes', () => {
  /** Lets an upload run up to a call, does something, and lets it go on. */
  async function beside(
    hits: (verb: string, key: string) => boolean,
    meanwhile: (repository: Awaited<ReturnType<typeof makeRepository>>) => Promise<unknown>,
    parentToo: boolean,
  ) {
    const { clock, store } = clockedStore();
    const repository = await makeRepository(store);
    const bytes = noise(8 * BLOCK, 1);
    const parent = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 1 });
    let done = false;
    const slow = wrapStore(store, {
      async before({ verb, key }) {
        if (done || !hits(verb, key)) return undefined;
        done = true;
        await meanwhile(repository);
        clock.now += HOUR;
        return undefined;
      },
    });
    const uploader = await openRepository(slow);
    const changed = bytes.slice();
    changed.set(noise(BLOCK, 2), BLOCK);
    const range = { offset: BLOCK, length: BLOCK };
    const info = await take(uploader, [source('a', new MemoryUnit(changed), [range])], {
      parent: parentToo ? parent : null,
      time: 2,
      sweepTimes: { ...defaultSweepTimes, poll: 1 },
    });
    expect(done).toBe(true);
    expect((await verifyRepository(repository)).damaged).toEqual([]);
    expect(Buffer.compare(await bytesOf(repository, info, 'a'), changed)).toBe(0);
    return info;
  }

  const sweepAll = async (repository: Awaited<ReturnType<typeof makeRepository>>) => {
    const forget = (await listSnapshots(repository)).map(({ id }) => id);
    await pruneRepository(repository, { forget, grace: 0 });
    return pruneRepository(repository, { grace: 0 });
  };

  it('keeps its parent when that is forgotten and swept', async () => {
    const isBlock = (verb: string, key: string) => verb === 'put' && key.startsWith('blocks/');
    const info = await beside(isBlock, sweepAll, true);
    // Nothing of the parent had to be sent again: only what was the upload's own.
    expect(info.bytesRead).toBeLessThanOrEqual(2 * BLOCK);
    expect(info.blocksSent).toBeLessThanOrEqual(2);
  });

  it('keeps a parent that is forgotten in the middle of a prune', async () => {
    const { clock, store } = clockedStore();
    const repository = await makeRepository(store);
    const bytes = noise(8 * BLOCK, 1);
    const gone = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 1 });
    await pruneRepository(repository, { forget: [gone.id] });
    // All of it is on a list, and this snapshot refers to it again.
    const parent = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 2 });
    clock.now += 2 * DAY;
    const changed = bytes.slice();
    changed.set(noise(BLOCK, 2), 0);
    const paused = gate();
    const go = gate();
    const slow = wrapStore(store, {
      async before({ verb, key }) {
        if (verb !== 'put' || !key.startsWith('blocks/')) return undefined;
        paused.open();
        return go.passed;
      },
    });
    const uploader = await openRepository(slow);
    let listings = 0;
    let upload: Promise<unknown> = Promise.resolve();
    const pruner = await openRepository(
      wrapStore(store, {
        async before({ verb, key }) {
          // The first listing chooses what to keep; before the second, drafts have been read.
          if (verb !== 'list' || key !== 'snapshots/' || ++listings !== 2) return undefined;
          upload = take(uploader, [source('a', new MemoryUnit(changed), [{ offset: 0, length: BLOCK }])], {
            parent,
            time: 3,
            sweepTimes: { ...defaultSweepTimes, poll: 1 },
          });
          upload.catch(() => undefined);
          await paused.passed;
          await store.remove([`snapshots/${parent.id}`]);
          return undefined;
        },
      }),
    );
    expect(await pruneRepository(pruner)).toMatchObject({ removedObjects: 0 });
    go.open();
    await upload;
    const [info] = await listSnapshots(repository);
    expect(Buffer.compare(await bytesOf(repository, info!, 'a'), changed)).toBe(0);
  });

  it('fails clearly when its parent is gone before it is held', async () => {
    const isParent = (verb: string, key: string) => verb === 'has' && key.startsWith('snapshots/');
    await expect(beside(isParent, sweepAll, true)).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/take one without it/),
    });
  });

  it('sends again what was swept after it had found it', async () => {
    const isManifestNext = (verb: string, key: string) => verb === 'put' && key.startsWith('pages/');
    const info = await beside(isManifestNext, sweepAll, false);
    expect(info.bytesRead).toBe(16 * BLOCK);
  });
});

describe('what is read', () => {
  const forgetAll = async (repository: Awaited<ReturnType<typeof makeRepository>>) => {
    const forget = (await listSnapshots(repository)).map(({ id }) => id);
    await pruneRepository(repository, { forget, grace: 0 });
    return pruneRepository(repository, { grace: 0 });
  };

  it('stays until it is read, though it is forgotten', async () => {
    const { store } = clockedStore();
    const repository = await makeRepository(store);
    const bytes = noise(8 * BLOCK, 1);
    const info = await take(repository, [source('a', new MemoryUnit(bytes))]);
    const release = await holdSnapshot(repository, info);
    expect(await forgetAll(repository)).toMatchObject({ removedObjects: 0 });
    expect(Buffer.compare(await bytesOf(repository, info, 'a'), bytes)).toBe(0);
    await release();
    expect(await forgetAll(repository)).toMatchObject({ removedObjects: 10 });
    for (const prefix of ['garbage/', 'sweeps/', 'drafts/']) expect(count(store, prefix)).toBe(0);
    await expect(holdSnapshot(repository, info)).rejects.toMatchObject({ kind: 'not-found' });
    expect(count(store, 'drafts/')).toBe(0);
  });

  it('is restored to its end, though it is forgotten and swept in the middle', async () => {
    const { store } = clockedStore();
    const repository = await makeRepository(store);
    const bytes = noise(20 * BLOCK, 1);
    const info = await take(repository, [source('a', new MemoryUnit(bytes))]);
    let gets = 0;
    const slow = wrapStore(store, {
      async before({ verb, key }) {
        if (verb === 'get' && key.startsWith('blocks/') && ++gets === 5) await forgetAll(repository);
        return undefined;
      },
    });
    const target = new MemoryUnit(new Uint8Array(bytes.length));
    await restoreSnapshot(await openRepository(slow), info, [{ disk: 'a', unit: target, isEmpty: true }], {
      connections: 1,
    });
    expect(Buffer.compare(target.bytes, bytes)).toBe(0);
  });

  it('is read all the same by whoever may only read', async () => {
    const { store } = clockedStore();
    const repository = await makeRepository(store);
    const bytes = noise(4 * BLOCK, 1);
    const info = await take(repository, [source('a', new MemoryUnit(bytes))]);
    const reading = wrapStore(store, {
      before({ verb }) {
        if (verb === 'put' || verb === 'remove') throw new DriftmapError('permission', 'reading only');
        return undefined;
      },
    });
    const target = new MemoryUnit(new Uint8Array(bytes.length));
    await restoreSnapshot(await openRepository(reading), info, [{ disk: 'a', unit: target, isEmpty: true }]);
    expect(Buffer.compare(target.bytes, bytes)).toBe(0);
  });
});
