/** Sync bitmaps for tests. */

import fc from 'fast-check';
import { type BitmapHeader, SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { applySteps, type Step, stepsWithin } from './sets.ts';

export function headerOf(size: number, blockSize = 512, change: Partial<BitmapHeader> = {}): BitmapHeader {
  return {
    size,
    blockSize,
    signature: 'nh128',
    production: { identity: 'file:1:2', size, generation: 'g1' },
    replica: { identity: 'file:1:3', size: Math.floor(size / 2), generation: 'g2' },
    ...change,
  };
}

export function bitmapOf(
  header: BitmapHeader,
  marks: Iterable<number>,
  covered: Iterable<number>,
): SyncBitmap {
  const bitmap = new SyncBitmap(header);
  for (const block of marks) bitmap.mark(block);
  for (const block of covered) bitmap.cover({ start: block, end: block + 1 });
  return bitmap;
}

export interface Recipe {
  readonly blocks: number;
  readonly marks: readonly Step[];
  readonly coverage: readonly Step[];
}

/** How a bitmap of up to 200,000 blocks of 512 bytes comes about. */
export const recipes: fc.Arbitrary<Recipe> = fc
  .integer({ min: 0, max: 200_000 })
  .chain((blocks) =>
    fc.record({ blocks: fc.constant(blocks), marks: stepsWithin(blocks), coverage: stepsWithin(blocks) }),
  );

export function cook({ blocks, marks, coverage }: Recipe): SyncBitmap {
  const bitmap = new SyncBitmap(headerOf(Math.max(0, blocks * 512 - 100)));
  applySteps(bitmap.marks, marks);
  applySteps(bitmap.coverage, coverage);
  return bitmap;
}
