import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ByteRange } from '../../src/base/units.ts';
import { findSnapshot, listSnapshots } from '../../src/snapshots/catalog.ts';
import type { SnapshotInfo } from '../../src/snapshots/manifest.ts';
import { openRepository } from '../../src/snapshots/repository.ts';
import { restoreSnapshot } from '../../src/snapshots/restore.ts';
import { memoryObjects } from '../store/memory-objects.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const key = noise(32, 99);

/** Writes to a disk, as a guest would make them. */
const writes = (size: number) =>
  fc.array(
    fc.record({
      at: fc.integer({ min: 0, max: size - 1 }),
      length: fc.integer({ min: 1, max: 3 * BLOCK }),
      seed: fc.integer({ min: 0, max: 5 }),
    }),
    { maxLength: 8 },
  );

function apply(
  bytes: Uint8Array,
  some: readonly { at: number; length: number; seed: number }[],
): ByteRange[] {
  return some.map(({ at, length, seed }) => {
    const count = Math.min(length, bytes.length - at);
    bytes.set(seed === 0 ? new Uint8Array(count) : noise(count, seed), at);
    return { offset: at, length: count };
  });
}

describe('a chain of snapshots', () => {
  const rounds = fc
    .integer({ min: 1, max: 40 * BLOCK + 17 })
    .chain((size) =>
      fc.tuple(
        fc.constant(size),
        fc.array(fc.tuple(writes(size), fc.boolean()), { minLength: 1, maxLength: 4 }),
      ),
    );

  it('gives back every moment, whatever was known of the changes, sealed or not', async () => {
    await fc.assert(
      fc.asyncProperty(rounds, fc.boolean(), async ([size, steps], isSealed) => {
        const store = memoryObjects();
        const repository = await makeRepository(store, { key: isSealed ? key : null });
        const disk = new Uint8Array(size);
        const moments: { info: SnapshotInfo; bytes: Uint8Array }[] = [];
        let parent: SnapshotInfo | null = null;
        for (const [some, isKnown] of steps) {
          const changed = apply(disk, some);
          const unit = new MemoryUnit(disk.slice());
          const info = await take(repository, [source('a', unit, isKnown ? changed : null)], {
            parent,
            time: moments.length,
          });
          if (isKnown && parent !== null) {
            expect(info.bytesScanned).toBe(0);
            expect(unit.bytesRead).toBe(info.changedBytes);
          }
          moments.push({ info, bytes: disk.slice() });
          parent = info;
        }
        const again = await openRepository(store, { key: isSealed ? key : null });
        expect((await listSnapshots(again)).map(({ id }) => id)).toEqual(moments.map(({ info }) => info.id));
        for (const { info, bytes } of moments) {
          expect(Buffer.compare(await bytesOf(again, await again.snapshot(info.id), 'a'), bytes)).toBe(0);
          for (const isEmpty of [true, false]) {
            const target = new MemoryUnit(isEmpty ? new Uint8Array(size) : noise(size, 7));
            await restoreSnapshot(again, info, [{ disk: 'a', unit: target, isEmpty }]);
            expect(Buffer.compare(target.bytes, bytes)).toBe(0);
            expect(target.flushes).toBe(1);
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe('what is the same is sent once', () => {
  it('across disks, across snapshots, and when nothing changed', async () => {
    const store = memoryObjects();
    const repository = await makeRepository(store);
    const bytes = noise(8 * BLOCK, 3);
    const first = await take(repository, [
      source('a', new MemoryUnit(bytes)),
      source('b', new MemoryUnit(bytes)),
    ]);
    expect(first.blocksSent).toBe(8);
    expect(first.blocksKnown).toBe(8);
    const second = await take(repository, [source('a', new MemoryUnit(bytes))], { time: 2_000_000 });
    expect(second.blocksSent + second.pagesSent).toBe(0);
    const third = await take(repository, [source('a', new MemoryUnit(bytes), [])], {
      parent: second,
      time: 3_000_000,
    });
    expect(third.bytesRead + third.bytesSent).toBe(0);
    expect(third.disks[0]!.blocks).toBe(8);
  });

  it('zeros cost nothing at all', async () => {
    const store = memoryObjects();
    const repository = await makeRepository(store);
    const unit = new MemoryUnit(new Uint8Array(300 * BLOCK));
    const info = await take(repository, [source('a', unit)]);
    expect(unit.bytesRead).toBe(0);
    expect(info.disks[0]!.roots).toEqual([null]);
    expect([...store.objects.keys()].filter((name) => !/^(config|snapshots)/.test(name))).toEqual([]);
  });
});

describe('a snapshot is found', () => {
  it('by its first digits, by time, or as the latest', async () => {
    const repository = await makeRepository(memoryObjects());
    const unit = new MemoryUnit(noise(BLOCK, 1));
    const [old, recent] = [
      await take(repository, [source('a', unit)], { time: 1000 }),
      await take(repository, [source('a', unit)], { time: 2000 }),
    ];
    const all = await listSnapshots(repository);
    expect(findSnapshot(all, 'latest', 'store').id).toBe(recent.id);
    expect(findSnapshot(all, { id: old.id.slice(0, 6) }, 'store').id).toBe(old.id);
    expect(findSnapshot(all, { time: 1999 }, 'store').id).toBe(old.id);
    expect(() => findSnapshot(all, { time: 999 }, 'store')).toThrow(/there is no snapshot of .* or before/);
    expect(() => findSnapshot(all, { id: old.id.slice(0, 3) }, 'store')).toThrow(/four digits/);
  });
});
