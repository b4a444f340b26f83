/**
 * Two builds in one process, in turn. Whatever disturbs the machine for longer than some milliseconds
 * disturbs both alike: a quad A B B A cancels a steady drift, and B A A B after it cancels what comes from
 * being first.
 *
 * One thing does not cancel by turns. Until V8 13, vectors that do not fit the registers are spilled to a
 * stack that is not aligned to 16 bytes, so the same code runs at one speed or at another by how deep its
 * caller's stack is; two builds whose frames differ by one word would differ by a third, for no reason of
 * their own. So every second quad is called with one word more on the stack, and a ratio is of two quads:
 * both builds have met both alignments.
 *
 * Placement of code and memory is settled once per process and cannot be cancelled within it: several
 * processes are duelled, and which build is loaded first alternates (`scripts/regress.mjs`).
 */

import { assert } from '../base/errors.ts';
import type { BenchCase } from './bench-case.ts';

export interface DuelOptions {
  /** Of one turn of a build: long against the clock, short against the machine's moods. */
  readonly turnMs: number;
  /** Ratios for each case. */
  readonly ratios: number;
  /**
   * For coarse cases: the fastest run of a turn counts, by the wall's clock. Waiting counts then, as that of a
   * scan for its threads must; being kept from the processor by others mostly does not.
   */
  readonly best?: boolean | undefined;
  /** What the noise of the case allows to be told at least; 0 where the verdict's own effect is enough. */
  readonly leastEffect?: number | undefined;
  /** Share by which head's turns of one case are stretched, to prove that the gate sees it; never in the product. */
  readonly plant?: { readonly name: string | undefined; readonly share: number } | undefined;
}

export interface DuelOfCase {
  readonly name: string;
  readonly suite: string;
  readonly baseDigest: string;
  readonly headDigest: string;
  /** Of one run. */
  readonly baseWork: Pick<BenchCase, 'bytes' | 'operations'>;
  readonly headWork: Pick<BenchCase, 'bytes' | 'operations'>;
  /** No smaller change of this case is told. */
  readonly leastEffect: number;
  /** Head's time over the base's, one for every two quads. */
  readonly ratios: readonly number[];
  /** Median seconds of one run. */
  readonly baseSeconds: number;
  readonly headSeconds: number;
}

/** Before the first turn that counts: V8's compilers have settled on the code by then. */
const WARM_TURNS = 20;

/** Runs of a turn, whatever it takes: one alone is at the mercy of whoever else wants the processor. */
const LEAST_RUNS = 4;

/** A turn of so many runs begins with one that does not count. */
const COLD_RUNS = 5;

interface Contender {
  readonly item: BenchCase;
  readonly clock: () => number;
  readonly stretch: number;
  readonly best: boolean;
  runs: number;
}

function processorSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function wallSeconds(): number {
  return performance.now() / 1000;
}

/**
 * Processor time, of all threads of the process, where one thread works at a time: what others do meanwhile
 * does not count. Where several work at once, how well they share it is part of the matter: wall time.
 */
function clockOf({ clock, threads }: BenchCase): () => number {
  return clock === 'processor' || threads === 1 ? processorSeconds : wallSeconds;
}

/** @param base a case of one build, @param head the same case of the other */
export async function duel(base: BenchCase, head: BenchCase, options: DuelOptions): Promise<DuelOfCase> {
  assert(base.name === head.name, `a duel of ${base.name} with ${head.name}`);
  const { plant, turnMs } = options;
  const planted = plant && (plant.name === undefined || plant.name === head.name) ? plant.share : 0;
  const { best = false } = options;
  const clock = best ? () => wallSeconds : clockOf;
  const a: Contender = { item: base, clock: clock(base), stretch: 0, best, runs: 1 };
  const b: Contender = { item: head, clock: clock(head), stretch: planted, best, runs: 1 };
  await warmUp([a, b], turnMs);
  const [ratios, baseSeconds, headSeconds]: number[][] = [[], [], []];
  for (let i = 0; i < options.ratios; i++) {
    const [one, other] = i % 2 === 0 ? [a, b] : [b, a];
    // What came before is not for these turns to clear away; nor is the first of them the only cold one.
    globalThis.gc?.();
    await turn(other, 0);
    const forth = await quad(one, other, 0);
    const back = await quad(other, one, 1);
    const ratio = Math.sqrt((forth.second / forth.first) * (back.first / back.second));
    const [ofOne, ofOther] = [(forth.first + back.second) / 4, (forth.second + back.first) / 4];
    ratios!.push(one === a ? ratio : 1 / ratio);
    baseSeconds!.push(one === a ? ofOne : ofOther);
    headSeconds!.push(one === a ? ofOther : ofOne);
  }
  return {
    name: base.name,
    suite: base.suite,
    baseDigest: base.digest(),
    headDigest: head.digest(),
    baseWork: { bytes: base.bytes, operations: base.operations },
    headWork: { bytes: head.bytes, operations: head.operations },
    leastEffect: options.leastEffect ?? 0,
    ratios: ratios!,
    baseSeconds: middle(baseSeconds!),
    headSeconds: middle(headSeconds!),
  };
}

/** Until compiled code runs; finds how many runs make a turn: the same for both, or turns would not compare. */
async function warmUp(both: readonly [Contender, Contender], turnMs: number): Promise<void> {
  const seconds: number[] = [];
  for (const one of both) {
    const from = wallSeconds();
    let runs = 0;
    for (; runs < 3 || wallSeconds() - from < (WARM_TURNS * turnMs) / 1000; runs++) await one.item.run();
    seconds.push((wallSeconds() - from) / runs);
  }
  const runs = Math.max(LEAST_RUNS, Math.round(turnMs / 1000 / Math.max(...seconds)));
  for (const one of both) one.runs = runs;
}

/** Seconds of one run, each the sum of two turns: first, second, second, first. */
async function quad(
  one: Contender,
  other: Contender,
  at: number,
): Promise<{ first: number; second: number }> {
  let first = await turn(one, at);
  let second = await turn(other, at);
  second += await turn(other, at);
  first += await turn(one, at);
  return { first, second };
}

async function turn(contender: Contender, at: number): Promise<number> {
  const { item, clock, stretch, runs } = contender;
  // The other's data is in the caches: one run brings in one's own, where that is little beside the turn.
  if (runs >= COLD_RUNS) await item.run();
  if (contender.best) return bestOf(contender);
  const from = clock();
  if (item.clock === 'wall') for (let i = 0; i < runs; i++) await item.run();
  // By way of an array, so that the call is neither inlined nor its extra word left out.
  else Reflect.apply(runAll, undefined, at % 2 === 0 ? [item.run, runs] : [item.run, runs, at]);
  const seconds = clock() - from;
  if (stretch > 0) while (clock() - from < seconds * (1 + stretch)) Math.sqrt(seconds);
  return (stretch > 0 ? clock() - from : seconds) / runs;
}

/** Seconds of the fastest run of a turn. */
async function bestOf({ item, clock, stretch, runs }: Contender): Promise<number> {
  let best = Infinity;
  for (let i = 0; i < runs; i++) {
    const from = clock();
    await item.run();
    const until = from + (clock() - from) * (1 + stretch);
    if (stretch > 0) while (clock() < until) Math.sqrt(until);
    best = Math.min(best, clock() - from);
  }
  return best;
}

function runAll(run: () => unknown, runs: number): void {
  for (let i = 0; i < runs; i++) run();
}

function middle(values: number[]): number {
  return values.sort((x, y) => x - y)[values.length >> 1]!;
}
