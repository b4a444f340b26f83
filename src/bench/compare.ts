/**
 * What changed between two runs, or between two builds that were duelled. A case whose digest or whose work
 * for one run changed has changed its meaning, and how fast it is says nothing: that is a failure of its own.
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
  LEAST_GROUPS,
  MINIMUM_EFFECT,
  mean,
  ratioOf,
  type Verdict,
} from './statistics.ts';

export interface CompareOptions {
  /** 0.05 for 5 %. */
  readonly effect?: number | undefined;
  /** Cases whose results are meant to change, or that are meant to be gone. */
  readonly meaningChanged?: readonly string[] | undefined;
}

export interface DuelOptionsOfCompare extends CompareOptions {
  /** Cases that only one of the builds has, and that were therefore not duelled. */
  readonly added?: readonly string[] | undefined;
  readonly removed?: readonly string[] | undefined;
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
  /** Those of `removed` that fail the gate: builds are to be measured by the same cases, or by fewer on purpose. */
  readonly missing: readonly string[];
  readonly notes: readonly string[];
  /** No case is slower, none changed its meaning, and none is missing. */
  readonly passed: boolean;
}

export interface ComparedCase {
  readonly name: string;
  readonly baseSeconds: number;
  readonly headSeconds: number;
  /** Head's time over the base's: above 1 is slower. */
  readonly ratio: Interval;
  /** A smaller change of this case is none. */
  readonly effect: number;
  /** Rounds or processes of the side that has fewer; below `LEAST_GROUPS` there is no verdict of its speed. */
  readonly groups: number;
  readonly verdict: Verdict | 'meaning changed';
}

/**
 * Two runs, made one after the other: whatever changed on the machine in between is in the ratio. On another
 * machine, times are compared as fractions of its limits, and cases without a limit are left out.
 * @throws DriftmapError `mismatch` for runs of different scales or without a case in common; `argument` for a
 *   name in `meaningChanged` that is no case's
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
  const pairs = pairUp(comparable(base, same), comparable(head, same));
  if (pairs.both.length === 0) {
    const where = same ? '' : ' that is held against a limit, as results of two machines must be';
    const reason = `expected results with a case in common${where}, got none: measure both with the same --suite and --filter`;
    throw new DriftmapError('mismatch', reason);
  }
  const { effect = MINIMUM_EFFECT } = options;
  const cases = pairs.both.map(([one, other]): ComparedCase => {
    const [a, b] = same ? [one.rounds, other.rounds] : [held(one, base), held(other, head)];
    const ratio = ratioOf(a, b);
    const groups = Math.min(a.length, b.length);
    const changed = one.digest !== other.digest || !isSameWork(one, other);
    return {
      name: one.name,
      baseSeconds: centre(one.rounds),
      headSeconds: centre(other.rounds),
      ratio,
      effect,
      groups,
      verdict: verdictOf(one.name, changed, { ratio, effect, groups }, options),
    };
  });
  return conclude(cases, { by: same ? 'time' : 'limit', ...pairs, missing: [], notes }, options);
}

/** The machine's own limits are no work of ours: they are what others are held against. */
function comparable(result: BenchResult, same: boolean): CaseResult[] {
  return result.cases.filter(
    (one) => one.suite !== 'machine' && (same || leastSeconds(result, one) !== null),
  );
}

/** Seconds as multiples of what the limit would have taken for the same bytes. */
function held(one: CaseResult, result: BenchResult): Groups {
  const least = leastSeconds(result, one);
  if (least === null) throw new DriftmapError('internal', `${one.name} was compared without its limit`);
  return one.rounds.map((round) => round.map((seconds) => seconds / least));
}

/** What one run of a case works on. */
interface Work {
  readonly bytes: number;
  readonly operations: number;
}

function isSameWork(one: Work, other: Work): boolean {
  return one.bytes === other.bytes && one.operations === other.operations;
}

/**
 * Duels of the same cases by several processes: the verdict of the gate. A case that only the base has fails,
 * unless it is named as changed.
 * @throws DriftmapError `mismatch` when there is nothing to compare; `argument` as `compareResults`
 */
export function compareDuels(
  processes: readonly (readonly DuelOfCase[])[],
  options: DuelOptionsOfCompare = {},
): Comparison {
  const names = [...new Set(processes.flatMap((duels) => duels.map(({ name }) => name)))];
  if (names.length === 0)
    throw new DriftmapError('mismatch', 'expected duels of at least one case, got none');
  const { effect: least = MINIMUM_EFFECT, added = [], removed = [], meaningChanged = [] } = options;
  const cases = names.map((name): ComparedCase => {
    const duels = processes.flatMap((all) => all.filter((one) => one.name === name));
    const ratio = intervalOf(duels.map(({ ratios }) => ratios));
    const groups = duels.length;
    const effect = Math.max(least, ...duels.map(({ leastEffect }) => leastEffect));
    const changed = duels.some(
      ({ baseDigest, headDigest, baseWork, headWork }) =>
        baseDigest !== headDigest || !isSameWork(baseWork, headWork),
    );
    return {
      name,
      baseSeconds: mean(duels.map(({ baseSeconds }) => baseSeconds)),
      headSeconds: mean(duels.map(({ headSeconds }) => headSeconds)),
      ratio,
      effect,
      groups,
      verdict: verdictOf(name, changed, { ratio, effect, groups }, options),
    };
  });
  const missing = removed.filter((name) => !meaningChanged.includes(name));
  return conclude(cases, { by: 'duel', added, removed, missing, notes: [] }, options);
}

function verdictOf(
  name: string,
  changed: boolean,
  { ratio, effect, groups }: Pick<ComparedCase, 'ratio' | 'effect' | 'groups'>,
  { meaningChanged = [] }: CompareOptions,
): ComparedCase['verdict'] {
  if (changed && !meaningChanged.includes(name)) return 'meaning changed';
  return groups < LEAST_GROUPS ? 'unchanged' : judge(ratio, effect);
}

function conclude(
  cases: readonly ComparedCase[],
  found: Pick<Comparison, 'by' | 'added' | 'removed' | 'missing' | 'notes'>,
  { effect = MINIMUM_EFFECT, meaningChanged = [] }: CompareOptions,
): Comparison {
  const { by, added, removed, missing } = found;
  const known = new Set([...cases.map(({ name }) => name), ...added, ...removed]);
  const strange = meaningChanged.filter((name) => !known.has(name));
  if (strange.length > 0) {
    const reason = `expected names of compared cases as changed, got '${strange.join("', '")}'`;
    throw new DriftmapError('argument', reason);
  }
  const notes = [...found.notes];
  const untold = cases.filter(({ groups }) => groups < LEAST_GROUPS).length;
  if (untold > 0) {
    const what = by === 'duel' ? 'processes' : 'rounds';
    const which = untold === cases.length ? 'the speed of any case' : `the speed of ${untold} cases`;
    notes.push(`Fewer than ${LEAST_GROUPS} ${what}: nothing can be told of ${which}, only of its results.`);
  }
  const passed =
    missing.length === 0 &&
    cases.every(({ verdict }) => verdict !== 'slower' && verdict !== 'meaning changed');
  return { tool: 'driftmap bench compare', effect, by, cases, added, removed, missing, notes, passed };
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
