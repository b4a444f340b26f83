import { describe, expect, it } from 'vitest';
import { compareDuels } from '../../src/bench/compare.ts';
import type { DuelOfCase } from '../../src/bench/duel.ts';
import { indexes, xorshift32 } from '../../src/bench/random.ts';
import { centre, intervalOf, judge, median, quantile, ratioOf } from '../../src/bench/statistics.ts';

/** Ratios as duels give them: noise with bursts, and a bias of each process. */
function duels(seed: number, slowdown: number): DuelOfCase[][] {
  const next = xorshift32(seed);
  for (let i = 0; i < 8; i++) next();
  const uniform = () => next() / 2 ** 32;
  const normal = () => Array.from({ length: 12 }, uniform).reduce((sum, value) => sum + value, -6);
  return Array.from({ length: 7 }, () => {
    const bias = 0.01 * normal();
    const ratios = Array.from({ length: 10 }, () => {
      const burst = uniform() < 0.05 ? 1 + uniform() : 1;
      return slowdown * Math.exp(bias + 0.04 * normal()) * (uniform() < 0.5 ? burst : 1 / burst);
    });
    const work = { bytes: 1, operations: 0 };
    const sides = { baseDigest: 'd', headDigest: 'd', baseWork: work, headWork: work };
    const same = { suite: 's', ...sides, leastEffect: 0, baseSeconds: 1, headSeconds: slowdown };
    return [{ name: 's/case', ratios, ...same }];
  });
}

describe('medians and quantiles', () => {
  it('are those of known lists', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(quantile([0, 10, 20, 30], 0.25)).toBe(7.5);
    expect(quantile([5], 0.9)).toBe(5);
  });

  it('refuse a list of nothing', () => {
    expect(() => median([])).toThrow(/no values/);
  });
});

describe('the centre of groups', () => {
  it('is the groups own where they agree, and moves little for one that does not', () => {
    expect(centre([[2, 2, 9], [2], [2, 2]])).toBeCloseTo(2, 12);
    expect(centre([[1], [1], [1], [1], [1], [1], [100]])).toBeCloseTo(1, 12);
    // The mean of the logarithms: of 1 and 4, twice one and half of the other.
    expect(centre([[1], [4]])).toBeCloseTo(2, 12);
  });
});

describe('intervals', () => {
  it('hold the estimate, are the same for the same seed, and shrink to a point without noise', () => {
    const groups = duels(4, 1.1).map((all) => all[0]!.ratios);
    const first = intervalOf(groups, 3);
    expect(first).toEqual(intervalOf(groups, 3));
    expect(first.low).toBeLessThanOrEqual(first.estimate);
    expect(first.high).toBeGreaterThanOrEqual(first.estimate);
    const still = intervalOf([
      [2, 2],
      [2, 2],
    ]);
    expect([still.low, still.estimate, still.high].map((value) => value.toFixed(9))).toEqual(
      Array(3).fill('2.000000000'),
    );
  });

  it('hold the true ratio of two runs about as often as they claim', () => {
    const at = indexes(77);
    let held = 0;
    for (let run = 0; run < 60; run++) {
      const sample = (scale: number) =>
        Array.from({ length: 8 }, () => Array.from({ length: 8 }, () => scale * (1 + at(1000) / 5000)));
      const { low, high } = ratioOf(sample(1), sample(1.5), run + 1);
      if (low <= 1.5 && high >= 1.5) held++;
    }
    expect(held).toBeGreaterThanOrEqual(50);
  }, 30_000);
});

describe('the rule', () => {
  it('speaks only where the estimate is an effect and the interval is sure that there is one', () => {
    expect(judge({ estimate: 1.08, low: 1.05, high: 1.1 })).toBe('slower');
    expect(judge({ estimate: 1.08, low: 0.99, high: 1.2 })).toBe('unchanged');
    expect(judge({ estimate: 1.03, low: 1.029, high: 1.031 })).toBe('unchanged');
    expect(judge({ estimate: 0.9, low: 0.88, high: 0.92 })).toBe('faster');
    expect(judge({ estimate: 1.08, low: 1.05, high: 1.1 }, 0.1)).toBe('unchanged');
  });

  it('gives no alarm in 100 simulated duels of a build with itself', () => {
    const alarms = Array.from({ length: 100 }, (_, i) => compareDuels(duels(i + 1, 1)).passed);
    expect(alarms.filter((passed) => !passed)).toEqual([]);
  });

  it('catches 8 % in at least 95 of 100', () => {
    const caught = Array.from({ length: 100 }, (_, i) => !compareDuels(duels(i + 1, 1.08)).passed);
    expect(caught.filter(Boolean).length).toBeGreaterThanOrEqual(95);
  });

  it('tells nothing of fewer than three processes, and says so', () => {
    const two = compareDuels(duels(1, 3).slice(0, 2));
    expect(two.cases[0]!.verdict).toBe('unchanged');
    expect(two.notes.join()).toMatch(/Fewer than 3 processes/);
    expect(compareDuels(duels(1, 3).slice(0, 3)).cases[0]!.verdict).toBe('slower');
  });

  it('tells of a coarse case what is above its own least effect alone', () => {
    const coarse = (slowdown: number) =>
      duels(1, slowdown).map((all) => all.map((one) => ({ ...one, leastEffect: 0.25 })));
    expect(compareDuels(coarse(1.15)).passed).toBe(true);
    expect(compareDuels(coarse(1.5)).passed).toBe(false);
    expect(compareDuels(coarse(1.5), { effect: 1 }).passed).toBe(true);
  });

  it('fails for a case that is gone, and not for one that is new', () => {
    expect(compareDuels(duels(1, 1), { added: ['s/new'] }).passed).toBe(true);
    expect(compareDuels(duels(1, 1), { removed: ['s/old'] })).toMatchObject({
      passed: false,
      missing: ['s/old'],
    });
    const named = { removed: ['s/old'], meaningChanged: ['s/old'] };
    expect(compareDuels(duels(1, 1), named).passed).toBe(true);
  });

  it('refuses duels of nothing, and names that are no case', () => {
    expect(() => compareDuels([[], []])).toThrow(/at least one case/);
    expect(() => compareDuels(duels(1, 1), { meaningChanged: ['s/csae'] })).toThrow(/got 's\/csae'/);
  });

  it('takes other work for a change of meaning, in whichever process', () => {
    const all = duels(1, 1);
    all[5] = all[5]!.map((one) => ({ ...one, headWork: { bytes: 2, operations: 0 } }));
    expect(compareDuels(all).cases[0]!.verdict).toBe('meaning changed');
  });

  it('takes a changed digest for a failure unless it is declared', () => {
    const changed = duels(1, 1).map((all) => all.map((one) => ({ ...one, headDigest: 'e' })));
    expect(compareDuels(changed).cases[0]!.verdict).toBe('meaning changed');
    expect(compareDuels(changed).passed).toBe(false);
    expect(compareDuels(changed, { meaningChanged: ['s/case'] }).passed).toBe(true);
  });
});
