/**
 * What changed between two runs, or between two builds that were duelled. A case whose digest changed has
 * changed its meaning, and how fast it is says nothing: that is a failure of its own.
 */

import { DriftmapError } from '../base/errors.ts';
import type { DuelOfCase } from './duel.ts';
import { isSameMachine } from './machine.ts';
import { type BenchResult, type CaseResult, leastSeconds } from './run.ts';
import {
  centre,
  type Groups,
  type Interval,
  intervalOf,
  judge,
  MINIMUM_EFFECT,
  mean,
  ratioOf,
  type Verdict,
} from './statistics.ts';

export interface CompareOptions {
  /** 0.05 for 5 %. */
  readonly effect?: number | undefined;
  /** Cases whose results are meant to change. */
  readonly meaningChanged?: readonly string[] | undefined;
}

export interface Comparison {
  readonly tool: 'driftmap bench compare';
  readonly effect: number;
  /** Whether times were compared as they are, or as fractions of what each machine can do. */
  readonly by: 'duel' | 'time' | 'limit';
  readonly cases: readonly ComparedCase[];
  /** Cases that only one of the two has. */
  readonly added: readonly string[];
  readonly removed: readonly string[];
  readonly notes: readonly string[];
  /** No case is slower, and none changed its meaning. */
  readonly passed: boolean;
}

export interface ComparedCase {
  readonly name: string;
  readonly baseSeconds: number;
  readonly headSeconds: number;
  /** Head's time over the base's: above 1 is slower. */
  readonly ratio: Interval;
  readonly verdict: Verdict | 'meaning changed';
}

/**
 * Two runs, made one after the other: whatever changed on the machine in between is in the ratio. On another
 * machine, times are compared as fractions of its limits, and cases without a limit are left out.
 * @throws DriftmapError `mismatch` for runs of different scales
 */
export function compareResults(
  base: BenchResult,
  head: BenchResult,
  options: CompareOptions = {},
): Comparison {
  const same = isSameMachine(base.machine, head.machine);
  const notes: string[] = [];
  if (!same) {
    const left = 'cases without a limit are left out';
    notes.push(
      `The machines differ: figures are compared as fractions of each machine's own limits; ${left}.`,
    );
  }
  if (base.scale !== head.scale) {
    const reason = `expected two results of one scale, got '${base.scale}' and '${head.scale}': they are of different work`;
    throw new DriftmapError('mismatch', reason);
  }
  const pairs = pairUp(comparable(base.cases, same), comparable(head.cases, same));
  const cases = pairs.both.map(([one, other]): ComparedCase => {
    const [a, b] = same ? [one.rounds, other.rounds] : [held(one, base), held(other, head)];
    const ratio = ratioOf(a, b);
    const digests: [string, string] = [one.digest, other.digest];
    return {
      name: one.name,
      baseSeconds: centre(one.rounds),
      headSeconds: centre(other.rounds),
      ratio,
      verdict: verdictOf(one.name, digests, ratio, options),
    };
  });
  return conclude(cases, { by: same ? 'time' : 'limit', ...pairs, notes }, options);
}

/** The machine's own limits are no work of ours: they are what others are held against. */
function comparable(cases: readonly CaseResult[], same: boolean): CaseResult[] {
  return cases.filter(({ suite, limit }) => suite !== 'machine' && (same || limit !== null));
}

/** Seconds as multiples of what the limit would have taken for the same bytes. */
function held(one: CaseResult, result: BenchResult): Groups {
  const least = leastSeconds(result, one) ?? 1;
  return one.rounds.map((round) => round.map((seconds) => seconds / least));
}

/** Duels of the same cases by several processes: the verdict of the gate. */
export function compareDuels(
  processes: readonly (readonly DuelOfCase[])[],
  options: CompareOptions = {},
): Comparison {
  const names = [...new Set(processes.flatMap((duels) => duels.map(({ name }) => name)))];
  const cases = names.map((name): ComparedCase => {
    const duels = processes.flatMap((all) => all.filter((one) => one.name === name));
    const ratio = intervalOf(duels.map(({ ratios }) => ratios));
    const digests: [string, string] = [duels[0]!.baseDigest, duels[0]!.headDigest];
    return {
      name,
      baseSeconds: mean(duels.map(({ baseSeconds }) => baseSeconds)),
      headSeconds: mean(duels.map(({ headSeconds }) => headSeconds)),
      ratio,
      verdict: verdictOf(name, digests, ratio, options),
    };
  });
  return conclude(cases, { by: 'duel', added: [], removed: [], notes: [] }, options);
}

function verdictOf(
  name: string,
  [base, head]: [string, string],
  ratio: Interval,
  { effect, meaningChanged = [] }: CompareOptions,
): ComparedCase['verdict'] {
  if (base !== head && !meaningChanged.includes(name)) return 'meaning changed';
  return judge(ratio, effect);
}

function conclude(
  cases: readonly ComparedCase[],
  found: Pick<Comparison, 'by' | 'added' | 'removed' | 'notes'>,
  { effect = MINIMUM_EFFECT }: CompareOptions,
): Comparison {
  const { by, added, removed, notes } = found;
  const passed = cases.every(({ verdict }) => verdict !== 'slower' && verdict !== 'meaning changed');
  return { tool: 'driftmap bench compare', effect, by, cases, added, removed, notes, passed };
}

interface Named {
  readonly name: string;
}

/** Items of the same name, in the head's order, and the names that only one side has. */
export function pairUp<T extends Named>(
  base: readonly T[],
  head: readonly T[],
): { both: [T, T][]; added: string[]; removed: string[] } {
  const both: [T, T][] = [];
  const added: string[] = [];
  for (const item of head) {
    const before = base.find(({ name }) => name === item.name);
    if (before) both.push([before, item]);
    else added.push(item.name);
  }
  const removed = base.filter(({ name }) => !head.some((item) => item.name === name)).map(({ name }) => name);
  return { both, added, removed };
}
