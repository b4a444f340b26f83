/**
 * Synchronizes several pairs of disks, a few at a time, within one rate and under one progress. A pair that fails does
 * not stop the others: what became of each is told at the end.
 */

import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_PAIRS, MAX_PAIRS_AT_ONCE } from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import { RateLimiter } from '../wire/limiter.ts';
import type { Phase, SyncProgress } from './progress.ts';
import { type SyncOptions, type SyncResult, sync } from './sync.ts';

export interface SyncAllOptions {
  /** Pairs at one time; 2 by default. */
  readonly atOnce?: number | undefined;
  /** Bytes a second that all of them send together. */
  readonly limit?: ByteCount | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: AllProgress) => void) | undefined;
}

/** Sums over the pairs that are under way; the phase is that of the one that has most left to do. */
export interface AllProgress extends SyncProgress {
  readonly endedPairs: number;
  readonly pairs: number;
}

export type PairResult =
  | { readonly result: SyncResult; readonly error: null }
  | { readonly result: null; readonly error: DriftmapError };

/**
 * @param pairs what `sync` takes; a pair's own limiter and signal count beside the common ones
 * @returns one result for each pair, in their order
 * @throws DriftmapError `argument` where two pairs write one replica; `limit`
 */
export async function syncAll(
  pairs: readonly SyncOptions[],
  { atOnce = 2, limit, signal, onProgress }: SyncAllOptions = {},
): Promise<PairResult[]> {
  check(pairs, atOnce);
  const limiter = limit === undefined ? undefined : new RateLimiter(limit);
  const board = new Board(pairs.length, onProgress);
  const results: PairResult[] = [];
  let next = 0;
  const work = async () => {
    for (let i = next++; i < pairs.length; i = next++) {
      const pair = pairs[i]!;
      const own = {
        limiter: pair.limiter ?? limiter,
        signal: pair.signal ?? signal,
        onProgress: (progress: SyncProgress) => {
          pair.onProgress?.(progress);
          board.show(i, progress);
        },
      };
      try {
        results[i] = { result: await sync({ ...pair, ...own }), error: null };
      } catch (cause) {
        results[i] = { result: null, error: systemError(cause, { operation: 'sync' }) };
      }
      board.end(i);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, pairs.length) }, work));
  return results;
}

function check(pairs: readonly SyncOptions[], atOnce: number): void {
  if (pairs.length > MAX_PAIRS)
    throw new DriftmapError('limit', `expected at most ${MAX_PAIRS} pairs, got ${pairs.length}`);
  if (!Number.isInteger(atOnce) || atOnce < 1 || atOnce > MAX_PAIRS_AT_ONCE)
    throw new DriftmapError(
      'argument',
      `expected 1 to ${MAX_PAIRS_AT_ONCE} pairs at one time, got ${atOnce}`,
    );
  const seen = new Set<unknown>();
  for (const { replica } of pairs) {
    if (seen.has(replica))
      throw new DriftmapError('argument', 'two pairs have one replica', {
        path: typeof replica === 'string' ? replica : undefined,
      });
    seen.add(replica);
  }
}

/** What is known of each pair. */
class Board {
  private readonly latest: (SyncProgress | undefined)[];
  private readonly running = new Set<number>();
  private readonly tell: ((progress: AllProgress) => void) | undefined;
  private readonly begun = performance.now();
  private ended = 0;
  private told = Number.NEGATIVE_INFINITY;

  constructor(pairs: number, tell: ((progress: AllProgress) => void) | undefined) {
    this.latest = new Array(pairs);
    this.tell = tell;
  }

  show(pair: number, progress: SyncProgress): void {
    this.latest[pair] = progress;
    this.running.add(pair);
    const now = performance.now();
    if (this.tell === undefined || now - this.told < 100) return;
    this.told = now;
    this.tell(this.sum());
  }

  end(pair: number): void {
    this.running.delete(pair);
    this.ended++;
    this.tell?.(this.sum());
  }

  private sum(): AllProgress {
    const all = this.latest.filter((one) => one !== undefined);
    const running = [...this.running].map((pair) => this.latest[pair]!);
    const total = (of: (one: SyncProgress) => number, over = all) =>
      over.reduce((sum, one) => sum + of(one), 0);
    const slowest = running.reduce<SyncProgress | null>((most, one) => {
      return most === null || left(one) > left(most) ? one : most;
    }, null);
    const phase: Phase = slowest?.phase ?? 'finished';
    return {
      phase,
      totalBytes: total((one) => one.totalBytes, running),
      doneBytes: total((one) => one.doneBytes, running),
      comparedBytes: total((one) => one.comparedBytes),
      markedBlocks: total((one) => one.markedBlocks),
      placedBytes: total((one) => one.placedBytes),
      sentBytes: total((one) => one.sentBytes),
      savedBytes: total((one) => one.savedBytes),
      wireBytes: total((one) => one.wireBytes),
      seconds: (performance.now() - this.begun) / 1000,
      bytesPerSecond: total((one) => one.bytesPerSecond, running),
      secondsLeft: slowest?.secondsLeft,
      endedPairs: this.ended,
      pairs: this.latest.length,
    };
  }
}

function left({ totalBytes, doneBytes }: SyncProgress): ByteCount {
  return totalBytes - doneBytes;
}
