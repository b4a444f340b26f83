/** Sets of bits for property tests: a set under test beside a plain `Set<number>`, built by the same steps. */

import fc from 'fast-check';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';

export type Step =
  | { readonly kind: 'set' | 'clear'; readonly start: number; readonly length: number }
  | { readonly kind: 'words'; readonly start: number; readonly words: readonly number[] };

/** Lengths where things happen: within a page, at the edges of pages and chapters, and in between. */
export const lengths = fc.oneof(
  fc.constantFrom(0, 1, 31, 32, 33, 511, 512, 513, 65535, 65536, 65537, 131072),
  fc.integer({ min: 0, max: 200_000 }),
);

/** Runs that begin and end near edges more often than chance would have it. */
export function stepsWithin(length: number): fc.Arbitrary<Step[]> {
  const place = fc.oneof(
    fc.integer({ min: 0, max: length }),
    fc
      .tuple(fc.constantFrom(32, 512, 65536), fc.nat(400), fc.integer({ min: -1, max: 1 }))
      .map(([unit, times, off]) => Math.min(length, Math.max(0, unit * times + off))),
  );
  const size = fc.oneof(
    fc.integer({ min: 0, max: 3 }),
    fc.constantFrom(32, 512, 65536, 200_000),
    fc.nat(2000),
  );
  const run = fc
    .tuple(fc.constantFrom('set' as const, 'clear' as const), place, size)
    .map(([kind, start, most]) => ({ kind, start, length: Math.min(most, length - start) }));
  const word = fc.oneof(
    fc.constantFrom(0, 0xffffffff, 1, 0x80000000),
    fc.integer({ min: 0, max: 0xffffffff }),
  );
  const words = fc
    .tuple(place, fc.array(word, { maxLength: 40 }))
    .map(([start, list]) => wordsWithin(length, start - (start % 32), list));
  return fc.array(fc.oneof({ weight: 3, arbitrary: run }, { weight: 1, arbitrary: words }), {
    maxLength: 12,
  });
}

/** Cuts words so that no bit lies past the length. */
function wordsWithin(length: number, start: number, list: readonly number[]): Step {
  const words = list.map((word, i) => {
    const room = length - start - 32 * i;
    return room >= 32 ? word : room <= 0 ? 0 : (word & (2 ** room - 1)) >>> 0;
  });
  return { kind: 'words', start, words };
}

/** Takes the steps on `bits`, moved up by `offset`, a multiple of 32. */
export function applySteps(bits: PagedBits, steps: readonly Step[], offset = 0): void {
  for (const step of steps) {
    const start = step.start + offset;
    if (step.kind === 'words') bits.orWords(start, Uint32Array.from(step.words));
    else if (step.kind === 'set') bits.setRun({ start, end: start + step.length });
    else bits.clearRun({ start, end: start + step.length });
  }
}

/** The same steps on a plain set. */
export function modelOf(steps: readonly Step[]): Set<number> {
  const model = new Set<number>();
  for (const step of steps) {
    if (step.kind === 'words') {
      step.words.forEach((word, w) => {
        for (let i = 0; i < 32; i++) if ((word >>> i) & 1) model.add(step.start + 32 * w + i);
      });
      continue;
    }
    for (let bit = step.start; bit < step.start + step.length; bit++) {
      if (step.kind === 'set') model.add(bit);
      else model.delete(bit);
    }
  }
  return model;
}

export function bitsOf(length: number, steps: readonly Step[]): PagedBits {
  const bits = new PagedBits(length);
  applySteps(bits, steps);
  return bits;
}

/** Every set bit, ascending, read through `runs`. */
export function listed(bits: PagedBits): number[] {
  const list: number[] = [];
  for (const { start, end } of bits.runs()) for (let bit = start; bit < end; bit++) list.push(bit);
  return list;
}

export function ascending(model: Iterable<number>): number[] {
  return [...model].sort((a, b) => a - b);
}

/** Merged half-open runs of ascending numbers. */
export function runsOf(numbers: readonly number[]): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = [];
  for (const bit of numbers) {
    const last = runs[runs.length - 1];
    if (last && last.end === bit) last.end++;
    else runs.push({ start: bit, end: bit + 1 });
  }
  return runs;
}

/** Numbers that look random and are the same in every run. */
export function sequence(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
  };
}
