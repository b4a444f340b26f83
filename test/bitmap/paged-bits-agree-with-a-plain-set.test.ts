import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHAPTER_BITS, CHAPTER_WORDS } from '../../src/bitmap/bit-tree.ts';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';
import { applySteps, ascending, bitsOf, lengths, listed, modelOf, runsOf, stepsWithin } from './sets.ts';

const sets = lengths.chain((length) =>
  fc.record({ length: fc.constant(length), steps: stepsWithin(length) }),
);
const pairs = lengths.chain((length) =>
  fc.record({ length: fc.constant(length), left: stepsWithin(length), right: stepsWithin(length) }),
);
const runs = { numRuns: 100 };

/** `toEqual` on a hundred thousand numbers takes long: the runs say the same. */
function expectSame(bits: PagedBits, expected: readonly number[]): void {
  expect([...bits.runs()]).toEqual(runsOf(expected));
  expect(bits.count).toBe(expected.length);
}

describe('paged bits agree with a plain set', () => {
  it('in what is set, how many, and in which runs', () => {
    fc.assert(
      fc.property(sets, ({ length, steps }) => {
        const bits = bitsOf(length, steps);
        const expected = ascending(modelOf(steps));
        expectSame(bits, expected);
        expect(listed(bits).length).toBe(expected.length);
        expect(bits.isEmpty).toBe(expected.length === 0);
        expect(bits.isFull).toBe(expected.length === length);
      }),
      runs,
    );
  });

  it('in single bits, set, cleared, tested and sought', () => {
    const singles = fc.array(fc.tuple(fc.boolean(), fc.nat(1100)), { maxLength: 200 });
    fc.assert(
      fc.property(singles, fc.nat(1100), (changes, from) => {
        const bits = new PagedBits(1101);
        const model = new Set<number>();
        for (const [set, bit] of changes) {
          if (set) model.add(bit) && bits.set(bit);
          else {
            model.delete(bit);
            bits.clear(bit);
          }
        }
        const tested = Array.from({ length: 1101 }, (_, bit) => bit).filter((bit) => bits.test(bit));
        expect(tested).toEqual(ascending(model));
        const later = Array.from({ length: 1101 - from }, (_, i) => from + i);
        expect(bits.nextSet(from)).toBe(later.find((bit) => model.has(bit)) ?? 1101);
        expect(bits.nextClear(from)).toBe(later.find((bit) => !model.has(bit)) ?? 1101);
      }),
      runs,
    );
  });

  it('in or, and, andNot and complement, which leave their operands alone', () => {
    fc.assert(
      fc.property(pairs, ({ length, left, right }) => {
        const [a, b] = [bitsOf(length, left), bitsOf(length, right)];
        const [inA, inB] = [modelOf(left), modelOf(right)];
        expectSame(a.or(b), ascending(new Set([...inA, ...inB])));
        expectSame(
          a.and(b),
          ascending(inA).filter((bit) => inB.has(bit)),
        );
        expectSame(
          a.andNot(b),
          ascending(inA).filter((bit) => !inB.has(bit)),
        );
        expect(a.complement().count).toBe(length - inA.size);
        expect(a.complement().and(a).isEmpty).toBe(true);
        expect(a.complement().or(a).isFull).toBe(true);
        expectSame(a, ascending(inA));
        expectSame(b, ascending(inB));
        a.add(b);
        expectSame(a, ascending(new Set([...inA, ...inB])));
        expect(a.count).toBe(new Set([...inA, ...inB]).size);
      }),
      runs,
    );
  });

  it('in equality, by whatever steps two sets came to be', () => {
    fc.assert(
      fc.property(pairs, ({ length, left, right }) => {
        const [a, b] = [bitsOf(length, left), bitsOf(length, right)];
        const [inA, inB] = [modelOf(left), modelOf(right)];
        expect(a.equals(b)).toBe(inA.size === inB.size && [...inA].every((bit) => inB.has(bit)));
        const one = new PagedBits(length);
        for (const bit of inA) one.set(bit);
        expect(a.equals(one)).toBe(true);
        expect(a.equals(a.clone())).toBe(true);
        expect(a.complement().complement().equals(a)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('chapter by chapter', () => {
    fc.assert(
      fc.property(sets, ({ length, steps }) => {
        const bits = bitsOf(length, steps);
        const model = modelOf(steps);
        const words = new Uint32Array(CHAPTER_WORDS).fill(0xdeadbeef);
        const again = new PagedBits(length);
        let end = 0;
        for (const run of bits.chapters()) {
          expect(run.start).toBeGreaterThanOrEqual(end);
          end = run.end;
          for (let chapter = run.start; chapter < run.end; chapter++) {
            bits.copyChapter(chapter, words);
            again.orWords(chapter * CHAPTER_BITS, words);
            const size = Math.min(CHAPTER_BITS, length - chapter * CHAPTER_BITS);
            const inIt = ascending(model).filter((bit) => Math.floor(bit / CHAPTER_BITS) === chapter).length;
            expect(inIt).toBeGreaterThan(0);
            expect(run.full).toBe(inIt === size);
          }
        }
        expect(again.equals(bits)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('past 2^32 bits, where shifts would go wrong', () => {
    const length = 200_000;
    const far = fc.record({
      steps: stepsWithin(length),
      offset: fc.constantFrom(2 ** 32 - 65536, 3 * 2 ** 32 - 32, 2 ** 37 - 512, 2 ** 44 - 400_000),
    });
    fc.assert(
      fc.property(far, ({ steps, offset }) => {
        const aligned = offset - (offset % 32);
        const bits = new PagedBits(2 ** 44);
        applySteps(bits, steps, aligned);
        const expected = ascending(modelOf(steps)).map((bit) => bit + aligned);
        expectSame(bits, expected);
        expect(bits.count).toBe(expected.length);
        expect(bits.complement().count).toBe(2 ** 44 - expected.length);
        for (const bit of expected.slice(0, 50)) expect(bits.test(bit)).toBe(true);
        const truncated = expected.map((bit) => bit % 2 ** 32).filter((bit) => bit < 2 ** 31);
        for (const bit of truncated.slice(0, 50)) expect(bits.test(bit)).toBe(false);
      }),
      runs,
    );
  });

  it('and refuses bits that do not exist, changing nothing', () => {
    const bits = new PagedBits(100);
    const refused: (() => unknown)[] = [
      () => bits.set(100),
      () => bits.set(-1),
      () => bits.set(1.5),
      () => bits.test(100),
      () => bits.setRun({ start: 5, end: 4 }),
      () => bits.clearRun({ start: 0, end: 101 }),
      () => bits.nextSet(101),
      () => bits.orWords(16, Uint32Array.of(1)),
      () => bits.orWords(96, Uint32Array.of(0x10)),
      () => bits.orWords(0, Uint32Array.of(1, 0, 0, 0, 1)),
      () => bits.or(new PagedBits(101)),
      () => new PagedBits(-1),
      () => new PagedBits(2 ** 44 + 1),
    ];
    for (const attempt of refused) expect(attempt).toThrow(expect.objectContaining({ kind: 'argument' }));
    expect(bits.isEmpty).toBe(true);
    bits.orWords(96, Uint32Array.of(0xf, 0));
    expect(bits.count).toBe(4);
  });

  it('and reuses what became uniform', () => {
    const bits = new PagedBits(2 ** 18);
    for (let bit = 0; bit < 2 ** 18; bit += 2) bits.set(bit);
    const held = bits.bytes;
    expect(held).toBeGreaterThan(2 ** 15);
    for (let round = 0; round < 3; round++) {
      // Full by one run, and full bit by bit: either way what was below is given back.
      if (round === 0) bits.setRun({ start: 0, end: 2 ** 18 });
      else for (let bit = 1; bit < 2 ** 18; bit += 2) bits.set(bit);
      expect(bits.isFull).toBe(true);
      for (let bit = 1; bit < 2 ** 18; bit += 2) bits.clear(bit);
      expect(bits.count).toBe(2 ** 17);
    }
    expect(bits.bytes).toBe(held);
  });
});
