/**
 * Runs suites and gathers all samples. The only importer of tinybench, which warms up and takes the samples;
 * what is special here is that every case runs in every round, in turn, so that a change of the machine's
 * speed meets all of them alike and shows as a difference between rounds.
 */

import { Bench } from 'tinybench';
import { DriftmapError } from '../base/errors.ts';
import { type BenchCase, benchFormat, type Scale, type Suite } from './bench-case.ts';
import { describeMachine, type Machine } from './machine.ts';
import { centre, quantile } from './statistics.ts';
import { openSuite, type SuiteName } from './suites.ts';

export interface RunOptions {
  readonly suites: readonly SuiteName[];
  readonly scale: Scale;
  readonly workers: readonly number[];
  /** Only cases whose name contains this text; the machine's limits are always measured. */
  readonly filter?: string | undefined;
  readonly rounds: number;
  /** Time for each case in each round, at least one run. */
  readonly milliseconds: number;
  readonly onProgress?: ((done: number, total: number, name: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface CaseResult {
  readonly name: string;
  readonly suite: string;
  readonly bytes: number;
  readonly operations: number;
  readonly limit: string | null;
  readonly threads: number;
  readonly digest: string;
  /** Seconds of every run, by round. */
  readonly rounds: readonly (readonly number[])[];
}

/** What `--json` writes: everything that comparing and drawing need. */
export interface BenchResult {
  readonly tool: 'driftmap bench';
  readonly format: number;
  readonly scale: Scale;
  /** ISO 8601, UTC. */
  readonly time: string;
  readonly machine: Machine;
  readonly cases: readonly CaseResult[];
}

/** @throws DriftmapError `argument` when nothing is left to run; `internal` when a case gives two different results */
export async function runBench(options: RunOptions): Promise<BenchResult> {
  const { scale, workers, filter = '', rounds, milliseconds, onProgress, signal } = options;
  const machine = describeMachine();
  const time = new Date().toISOString();
  const names = [...new Set<SuiteName>(['machine', ...options.suites])];
  const opened: Suite[] = [];
  try {
    for (const name of names) opened.push(await openSuite(name, { scale, workers }));
    const all = opened.flatMap(({ cases }) => cases);
    const cases = all.filter(({ name, suite }) => suite === 'machine' || name.includes(filter));
    if (filter !== '' && cases.every(({ suite }) => suite === 'machine')) {
      throw new DriftmapError('argument', `no case's name contains '${filter}'`);
    }
    const records = cases.map((item) => ({ item, digest: '', rounds: [] as number[][] }));
    let done = 0;
    for (let round = 0; round < rounds; round++) {
      for (const record of records) {
        if (signal?.aborted)
          throw new DriftmapError('aborted', 'the bench was stopped', { cause: signal.reason });
        onProgress?.(done++, rounds * records.length, record.item.name);
        record.rounds.push(await sampleCase(record.item, milliseconds));
        record.digest = sameDigest(record.item, record.digest);
      }
    }
    return {
      tool: 'driftmap bench',
      format: benchFormat,
      scale,
      time,
      machine,
      cases: records.map(({ item, digest, rounds: samples }) => resultOf(item, digest, samples)),
    };
  } finally {
    for (const { close } of opened) await close();
  }
}

async function sampleCase({ name, run, clock }: BenchCase, milliseconds: number): Promise<number[]> {
  const bench = new Bench({
    time: milliseconds,
    iterations: 1,
    warmupTime: milliseconds / 5,
    warmupIterations: 1,
    retainSamples: true,
    throws: true,
  });
  bench.add(name, run, { async: clock === 'wall' });
  await bench.run();
  const { result } = bench.tasks[0]!;
  if (!('latency' in result) || result.latency.samples === undefined) {
    throw new DriftmapError('internal', `no samples of ${name}: it ended ${result.state}`);
  }
  // Below the clock's resolution a run would take no time at all.
  return result.latency.samples.map((sample) => Math.max(sample, 1e-6) / 1000);
}

function sameDigest(item: BenchCase, before: string): string {
  const digest = item.digest();
  if (before !== '' && before !== digest) {
    throw new DriftmapError('internal', `${item.name} came to ${digest}, and to ${before} before`);
  }
  return digest;
}

function resultOf(item: BenchCase, digest: string, rounds: number[][]): CaseResult {
  const { name, suite, bytes, operations, limit, threads } = item;
  return { name, suite, bytes, operations, limit, threads, digest, rounds };
}

/** Bytes, or where they do not count operations, a second. */
export function rateOf({ bytes, operations, rounds }: CaseResult): number {
  return (bytes || operations) / centre(rounds);
}

/**
 * Seconds that the limit would take for the case's bytes; null where there is no limit. A limit is what the
 * machine can do when it is left alone: the fastest tenth of the runs, where others are told by their middle.
 */
export function leastSeconds({ cases }: Pick<BenchResult, 'cases'>, one: CaseResult): number | null {
  const limit = one.limit === null ? undefined : cases.find(({ name }) => name === one.limit);
  if (limit === undefined || limit.bytes === 0 || one.bytes === 0) return null;
  const seconds = limit.rounds.flat().sort((a, b) => a - b);
  return (quantile(seconds, 0.1) * one.bytes) / limit.bytes;
}

/** A case's rate as a share of its limit's; null where there is no limit. */
export function shareOfLimit(result: BenchResult, one: CaseResult): number | null {
  const least = leastSeconds(result, one);
  return least === null ? null : least / centre(one.rounds);
}
