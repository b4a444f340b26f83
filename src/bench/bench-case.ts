/**
 * What is measured. A case is one piece of work that can be run any number of times, and a digest of what
 * it worked out: a change that makes it faster by working out something else is found by the digest.
 *
 * The names, the work and the digests of cases are what two builds are compared by, so this face stays the
 * same: `benchFormat` is raised when it cannot.
 */

import { createHash } from 'node:crypto';
import type { ByteCount } from '../base/units.ts';

/** Version of the cases' face and of result files. 2: digests of kernels are of all calls of a run. */
export const benchFormat = 2;

/**
 * `full`: larger than any cache, for figures. `gate`: runs of a few milliseconds, for two builds in turn.
 * `smoke`: as little as there is, so that a test sees that everything still runs; its figures mean nothing.
 */
export type Scale = 'full' | 'gate' | 'smoke';

export interface BenchCase {
  /** `suite/what/parameters`. */
  readonly name: string;
  readonly suite: string;
  /** Bytes of one run; 0 where operations are what counts. */
  readonly bytes: ByteCount;
  /** Operations of one run; 0 where bytes are what counts. */
  readonly operations: number;
  /** Name of the case of suite `machine` that this one cannot beat; null where there is none. */
  readonly limit: string | null;
  readonly threads: number;
  /** What its time is: of the processor, where one thread does all of it before `run` returns; else of the wall. */
  readonly clock: 'processor' | 'wall';
  /** One run; its promise, where it gives one, ends with it. */
  readonly run: () => undefined | Promise<unknown>;
  /** Of the results of the last run: 16 hexadecimal digits, always the same for the same scale. */
  readonly digest: () => string;
}

export interface Suite {
  readonly cases: readonly BenchCase[];
  readonly close: () => Promise<void>;
}

export interface SuiteOptions {
  readonly scale: Scale;
  /** Numbers of threads that scans are measured with. */
  readonly workers: readonly number[];
}

/** Of bytes, or of the text of numbers: what cases say of their results. */
export function shortDigest(...parts: readonly (Uint8Array | string)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex').slice(0, 16);
}
