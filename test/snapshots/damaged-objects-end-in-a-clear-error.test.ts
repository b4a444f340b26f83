import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { pruneRepository } from '../../src/snapshots/prune.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { restoreSnapshot } from '../../src/snapshots/restore.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import { type MemoryObjects, memoryObjects } from '../store/memory-objects.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const key = noise(32, 1);
const disk = noise(6 * BLOCK, 1);
disk.fill(65, 2 * BLOCK, 4 * BLOCK);
const later = disk.slice();
later.set(noise(BLOCK, 9), 5 * BLOCK);

async function filled(isSealed: boolean) {
  const store = memoryObjects();
  const options = { key: isSealed ? key : null };
  const repository = await makeRepository(store, options);
  const first = await take(repository, [source('a', new MemoryUnit(disk))], { time: 1 });
  const second = await take(repository, [source('a', new MemoryUnit(later))], { time: 2, parent: first });
  await pruneRepository(repository);
  return { store, repository, options, first, second };
}

/** Everything that a user may do; what is wrong must be told by one of our errors. */
async function useAll(store: MemoryObjects, options: { key: Uint8Array | null }): Promise<void> {
  const repository = await openRepository(store, options);
  for (const info of await listSnapshots(repository)) {
    const bytes = await bytesOf(repository, info, 'a');
    const expected = info.point.time === 1 ? disk : later;
    if (Buffer.compare(bytes, expected) !== 0) throw new Error('a wrong answer');
    const target = new MemoryUnit(new Uint8Array(bytes.length));
    await restoreSnapshot(repository, info, [{ disk: 'a', unit: target, isEmpty: true }]);
    if (Buffer.compare(target.bytes, expected) !== 0) throw new Error('a wrong restore');
  }
  await pruneRepository(repository, { dryRun: true });
}

describe('any damage to any object', () => {
  const damages = fc.record({
    object: fc.nat(),
    isSealed: fc.boolean(),
    how: fc.oneof(
      fc.record({ kind: fc.constant('flip' as const), at: fc.nat(), bits: fc.integer({ min: 1, max: 255 }) }),
      fc.record({ kind: fc.constant('cut' as const), at: fc.nat() }),
      fc.record({ kind: fc.constant('noise' as const), length: fc.nat(300), seed: fc.nat() }),
      fc.record({ kind: fc.constant('swap' as const), other: fc.nat() }),
      fc.record({ kind: fc.constant('remove' as const) }),
    ),
  });

  it('is an error of ours or does no harm, and nothing else', async () => {
    const clean = [await filled(false), await filled(true)];
    await fc.assert(
      fc.asyncProperty(damages, async ({ object, isSealed, how }) => {
        const { store: whole, options } = clean[isSealed ? 1 : 0]!;
        const store = memoryObjects();
        for (const [name, entry] of whole.objects) store.objects.set(name, entry);
        const names = [...store.objects.keys()];
        const name = names[object % names.length]!;
        const { bytes, modified } = store.objects.get(name)!;
        let damaged: Uint8Array | null = bytes.slice();
        if (how.kind === 'flip') damaged[how.at % bytes.length]! ^= how.bits;
        if (how.kind === 'cut') damaged = damaged.subarray(0, how.at % bytes.length);
        if (how.kind === 'noise') damaged = noise(how.length, how.seed);
        if (how.kind === 'swap') damaged = store.objects.get(names[how.other % names.length]!)!.bytes;
        if (how.kind === 'remove') damaged = null;
        if (damaged === null) store.objects.delete(name);
        else store.objects.set(name, { bytes: damaged, modified });
        const isChanged = damaged === null || Buffer.compare(damaged, bytes) !== 0;
        const error = await useAll(store, options).then(
          () => null,
          (cause: unknown) => cause,
        );
        if (error !== null) expect(error).toBeInstanceOf(DriftmapError);
        // What every use needs is missed by every use; a removed manifest is one snapshot less.
        const isNeeded = !(how.kind === 'remove' && name.startsWith('snapshots/'));
        if (isChanged && isNeeded) expect(error).toMatchObject({ path: expect.stringContaining('memory:') });
      }),
      { numRuns: 400 },
    );
  });
});

describe('verifying', () => {
  it('names what is wrong, and the snapshots that it hits', async () => {
    const { store, repository, first, second } = await filled(false);
    const all = await verifyRepository(repository);
    expect(all).toMatchObject({ snapshots: 2, damaged: [] });
    const only = (await take(repository, [source('b', new MemoryUnit(noise(BLOCK, 77)))], { time: 3 })).id;
    const blocksOf = async (id: string) => {
      const names = new Set<string>();
      const bytes = await bytesOf(repository, await repository.snapshot(id), id === only ? 'b' : 'a');
      const { hasher } = await import('../../src/snapshots/hasher.ts');
      for (let at = 0; at < bytes.length; at += BLOCK) {
        const hex = Buffer.from(hasher().sign(bytes.subarray(at, at + BLOCK))).toString('hex');
        names.add(`blocks/${hex.slice(0, 2)}/${hex}`);
      }
      return names;
    };
    const [ofFirst, ofSecond] = [await blocksOf(first.id), await blocksOf(second.id)];
    const shared = [...ofFirst].find((name) => ofSecond.has(name))!;
    const old = [...ofFirst].find((name) => !ofSecond.has(name))!;
    store.objects.delete(shared);
    store.objects.set(old, { ...store.objects.get(old)!, bytes: noise(100, 1) });
    for (const quick of [false, true]) {
      const { damaged } = await verifyRepository(repository, { quick });
      const hits = new Map(damaged.map(({ key: name, snapshots }) => [name, [...snapshots].sort()]));
      expect(hits.get(shared)).toEqual([first.id, second.id].sort());
      if (!quick) expect(hits.get(old)).toEqual([first.id]);
      expect(hits.size).toBe(quick ? 1 : 2);
    }
  });

  it('goes on past a page and a manifest that are gone or damaged', async () => {
    const { store, repository, first } = await filled(true);
    const name = `snapshots/${first.id}`;
    store.objects.set(name, { ...store.objects.get(name)!, bytes: noise(200, 3) });
    const page = [...store.objects.keys()].filter((one) => one.startsWith('pages/'));
    for (const one of page) store.objects.delete(one);
    const { damaged } = await verifyRepository(repository);
    expect(damaged.map(({ key: one }) => one)).toContain(name);
    expect(damaged.length).toBeGreaterThan(1);
  });
});
