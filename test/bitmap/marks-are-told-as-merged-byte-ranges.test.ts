import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { bitmapOf, cook, headerOf, recipes } from './bitmaps.ts';
import { listed } from './sets.ts';

describe('marks', () => {
  it('are told as ranges: ascending, apart from one another, clipped at the size, exactly the marked bytes', () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const bitmap = cook(recipe);
        const { blockSize, size } = bitmap;
        let end = -1;
        let bytes = 0;
        const again = new SyncBitmap(bitmap.header);
        for (const { offset, length } of bitmap.ranges()) {
          expect(offset).toBeGreaterThan(end);
          expect(length).toBeGreaterThan(0);
          expect(offset % blockSize).toBe(0);
          end = offset + length;
          expect(end % blockSize === 0 || end === size).toBe(true);
          bytes += length;
          again.markRange({ offset, length });
        }
        expect(end).toBeLessThanOrEqual(size);
        expect(bitmap.markedBytes).toBe(bytes);
        expect(again.marks.equals(bitmap.marks)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('of a range are all the blocks that it touches', () => {
    const bitmap = new SyncBitmap(headerOf(10_000));
    bitmap.markRange({ offset: 511, length: 2 });
    bitmap.markRange({ offset: 2048, length: 512 });
    bitmap.markRange({ offset: 9_999, length: 1 });
    bitmap.markRange({ offset: 5_000, length: 0 });
    expect(listed(bitmap.marks)).toEqual([0, 1, 4, 19]);
    expect(bitmap.markedBytes).toBe(3 * 512 + (10_000 - 19 * 512));
    for (const range of [
      { offset: 9_999, length: 2 },
      { offset: -1, length: 1 },
      { offset: 0, length: -1 },
      { offset: 0.5, length: 1 },
      { offset: Number.NaN, length: 1 },
    ]) {
      expect(() => bitmap.markRange(range)).toThrow(expect.objectContaining({ kind: 'argument' }));
    }
    expect(bitmap.count).toBe(4);
  });

  it('and coverage come one by one, in runs and in words', () => {
    const bitmap = new SyncBitmap(headerOf(200 * 512));
    bitmap.mark(3);
    bitmap.markRun({ start: 10, end: 12 });
    bitmap.orWords(32, Uint32Array.of(0x80000001, 0, 1));
    expect([...bitmap.runs()]).toEqual([
      { start: 3, end: 4 },
      { start: 10, end: 12 },
      { start: 32, end: 33 },
      { start: 63, end: 64 },
      { start: 96, end: 97 },
    ]);
    expect(bitmap.test(63)).toBe(true);
    expect(bitmap.test(64)).toBe(false);
    bitmap.coverWords(0, Uint32Array.of(0xffffffff));
    expect(bitmap.coveredBlocks).toBe(32);
    expect(bitmap.complete).toBe(false);
    bitmap.cover({ start: 30, end: 200 });
    expect(bitmap.complete).toBe(true);
    expect([...bitmap.coverageRuns()]).toEqual([{ start: 0, end: 200 }]);
    expect(bitmap.covered(199)).toBe(true);
    expect(bitmap.count).toBe(6);
  });

  it('are exported as JSON that says what they are about', () => {
    const bitmap = bitmapOf(headerOf(10_000), [0, 1, 19], [0]);
    expect(JSON.parse(JSON.stringify(bitmap))).toEqual({
      ...headerOf(10_000),
      blocks: 20,
      markedBlocks: 3,
      markedBytes: 1024 + 272,
      coveredBlocks: 1,
      complete: false,
      ranges: [
        { offset: 0, length: 1024 },
        { offset: 9728, length: 272 },
      ],
    });
  });

  it('of an empty disk are none, and all of it is covered', () => {
    const bitmap = new SyncBitmap(headerOf(0));
    expect(bitmap.blocks).toBe(0);
    expect(bitmap.complete).toBe(true);
    expect(bitmap.markedBytes).toBe(0);
    expect([...bitmap.ranges()]).toEqual([]);
  });
});
