import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { bitmapOf, cook, headerOf, recipes } from './bitmaps.ts';
import { listed } from './sets.ts';

const operations = {
  or: (a: boolean, b: boolean) => a || b,
  and: (a: boolean, b: boolean) => a && b,
  andNot: (a: boolean, b: boolean) => a && !b,
} as const;
const names = ['or', 'and', 'andNot'] as const;

/** What a bitmap lets a block really be: its mark where it was looked at, anything where not. */
function truths(bitmap: SyncBitmap, block: number): boolean[] {
  return bitmap.covered(block) ? [bitmap.test(block)] : [false, true];
}

describe('combining two bitmaps', () => {
  it.each(names)(
    'by %s covers a block exactly where its answer is known, whatever the unknown is',
    (name) => {
      // Block b of the left is in state b % 4, of the right in state b / 4: all sixteen pairs.
      const states = [...Array(16).keys()];
      const of = (stateOf: (block: number) => number) =>
        bitmapOf(
          headerOf(16 * 512),
          states.filter((block) => stateOf(block) & 1),
          states.filter((block) => stateOf(block) & 2),
        );
      const left = of((block) => block % 4);
      const right = of((block) => Math.floor(block / 4));
      const result = left[name](right);
      for (const block of states) {
        const answers = truths(left, block).flatMap((a) =>
          truths(right, block).map((b) => operations[name](a, b)),
        );
        expect(result.covered(block), `block ${block}`).toBe(new Set(answers).size === 1);
        if (result.covered(block)) expect(result.test(block), `block ${block}`).toBe(answers[0]);
        expect(result.test(block)).toBe(operations[name](left.test(block), right.test(block)));
      }
    },
  );

  it('agrees with that over runs of any length, and leaves both alone', () => {
    fc.assert(
      fc.property(recipes, recipes, fc.constantFrom(...names), (first, second, name) => {
        const blocks = Math.min(first.blocks, second.blocks);
        const cut = (bitmap: SyncBitmap) =>
          bitmapOf(
            headerOf(blocks * 512),
            listed(bitmap.marks).filter((block) => block < blocks),
            listed(bitmap.coverage).filter((block) => block < blocks),
          );
        const [left, right] = [cut(cook(first)), cut(cook(second))];
        const before = [left, right].map((bitmap) => [listed(bitmap.marks), listed(bitmap.coverage)]);
        const result = left[name](right);
        for (let block = 0; block < blocks; block += 37) {
          const answers = truths(left, block).flatMap((a) =>
            truths(right, block).map((b) => operations[name](a, b)),
          );
          if (result.covered(block) !== (new Set(answers).size === 1))
            expect.fail(`coverage of block ${block}`);
          if (result.test(block) !== operations[name](left.test(block), right.test(block))) {
            expect.fail(`mark of block ${block}`);
          }
        }
        expect([left, right].map((bitmap) => [listed(bitmap.marks), listed(bitmap.coverage)])).toEqual(
          before,
        );
      }),
      { numRuns: 25 },
    );
  });

  it('keeps what both headers say, and says where they differ', () => {
    const size = 16 * 512;
    const a = bitmapOf(headerOf(size), [1], [1]);
    // What a combination covers was found by no one scan: no scan may resume from it.
    expect(a.or(a).header).toEqual({ ...a.header, signature: 'combined' });
    const later = headerOf(size, 512, {
      signature: 'blake3',
      production: { identity: 'file:1:2', size, generation: 'g9' },
    });
    const mixed = a.or(bitmapOf(later, [2], [2]));
    expect(mixed.header.signature).toBe('combined');
    expect(mixed.header.production.generation).toBe('mixed');
    expect(mixed.header.replica.generation).toBe('g2');
    // Writes of the one and of the other are writes; what is left of them, or is found with them, is not all writes.
    const writes = bitmapOf(headerOf(size, 512, { signature: 'none' }), [1], [1]);
    expect(writes.or(writes).header.signature).toBe('none');
    const lacking = [writes.and(writes), writes.andNot(writes), writes.or(a), a.or(writes)];
    expect(lacking.map(({ header }) => header.signature)).toEqual(lacking.map(() => 'combined'));
    expect(() => mixed.checkSameGeneration(mixed, 'this')).toThrow(
      expect.objectContaining({ kind: 'mismatch' }),
    );
  });
});
