/**
 * How two builds, or two runs, are told apart on a machine that is never quiet.
 *
 * Samples come in groups: a group is what one process (or one round of a run) measured. What slows a group
 * as a whole, such as where a process's code happened to be placed, is shared by all its samples, so samples
 * are not independent and groups are. Therefore the bootstrap has two levels (Davison and Hinkley,
 * "Bootstrap Methods and their Application", 1997, section 3.8): groups are drawn with replacement, then
 * samples within each drawn group. The estimate is, on a logarithmic scale, the Hodges-Lehmann centre of the
 * groups' medians ("Estimates of location based on rank tests", 1963): the median of the means of all pairs
 * of groups. Medians within a group for noise that comes in bursts; between groups, which are few, something
 * nearly as sharp as the mean that two strange processes in seven do not move far.
 */

import { assert } from '../base/errors.ts';
import { indexes } from './random.ts';

/** Samples by the process, or the round, that measured them. No group is empty. */
export type Groups = readonly (readonly number[])[];

export interface Interval {
  readonly estimate: number;
  readonly low: number;
  readonly high: number;
}

/** Resamples; the ends of a 95 % interval rest on 25 of them. */
const RESAMPLES = 1000;
export const CONFIDENCE = 0.95;

/** Groups below which nothing is told: of two processes, both may be the strange one. */
export const LEAST_GROUPS = 3;

export function median(values: readonly number[]): number {
  return quantile([...values].sort(ascending), 0.5);
}

/** Of ascending values, by linear interpolation (type 7 of Hyndman and Fan, 1996). */
export function quantile(sorted: readonly number[], share: number): number {
  assert(sorted.length > 0, 'a quantile of no values');
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (at - below) * (high - low);
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Hodges-Lehmann centre of the groups' medians on a logarithmic scale; values must be positive. */
export function centre(groups: Groups): number {
  const logs = groups.map((group) => Math.log(median(group)));
  const pairs: number[] = [];
  for (let i = 0; i < logs.length; i++) {
    for (let j = i; j < logs.length; j++) pairs.push((logs[i]! + logs[j]!) / 2);
  }
  return Math.exp(median(pairs));
}

/**
 * Interval of `centre` of ratios that were measured pairwise.
 * @param seed the same for the same interval: a verdict does not depend on chance twice
 */
export function intervalOf(groups: Groups, seed = 1): Interval {
  const draw = indexes(seed);
  const resampled = Array.from({ length: RESAMPLES }, () => centre(resample(groups, draw)));
  return ends(centre(groups), resampled);
}

/** Interval of the ratio `centre(head) / centre(base)` of two runs that were measured apart. */
export function ratioOf(base: Groups, head: Groups, seed = 1): Interval {
  const draw = indexes(seed);
  const resampled = Array.from(
    { length: RESAMPLES },
    () => centre(resample(head, draw)) / centre(resample(base, draw)),
  );
  return ends(centre(head) / centre(base), resampled);
}

function resample(groups: Groups, draw: (below: number) => number): number[][] {
  return groups.map(() => {
    const group = groups[draw(groups.length)]!;
    return group.map(() => group[draw(group.length)]!);
  });
}

function ends(estimate: number, resampled: number[]): Interval {
  const sorted = resampled.sort(ascending);
  const tail = (1 - CONFIDENCE) / 2;
  return { estimate, low: quantile(sorted, tail), high: quantile(sorted, 1 - tail) };
}

function ascending(a: number, b: number): number {
  return a - b;
}

/** `unchanged` also where nothing can be told: a gate speaks only when it knows. */
export type Verdict = 'slower' | 'faster' | 'unchanged';

/** A regression of less than this is not worth stopping anybody for. */
export const MINIMUM_EFFECT = 0.05;

/**
 * The rule: head is slower when the estimate of its time over the base's is at least 1 + effect, and the whole
 * interval lies above 1; faster is the mirror image. The estimate alone would be fooled by a wide interval, the
 * interval alone by a tiny effect that is measured well.
 */
export function judge({ estimate, low, high }: Interval, effect = MINIMUM_EFFECT): Verdict {
  if (estimate >= 1 + effect && low > 1) return 'slower';
  if (estimate <= 1 / (1 + effect) && high < 1) return 'faster';
  return 'unchanged';
}
