/**
 * Asking again. A store far away fails now and then, and most of its failures pass: it is busy, restarts, a line
 * drops. Such an attempt is made again after a wait that doubles, drawn at random so that many clients do not come
 * back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015), until the time for it is over.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { DriftmapError } from '../base/errors.ts';
import { STORE_FIRST_WAIT_SECONDS, STORE_LONGEST_WAIT_SECONDS } from '../base/limits.ts';
import { checkAborted } from './object-keys.ts';

/** Why an attempt failed, and whether another may do better. */
export interface Fault {
  readonly error: DriftmapError;
  /** `once`: what the attempt itself has taught the client, it does better next time. */
  readonly again: 'no' | 'once' | 'while patient';
}

export interface RetryOptions {
  /** Where, for errors. */
  readonly path: string;
  /** From the first attempt on, in seconds; the last attempt begins before they are over. */
  readonly patience: number;
  readonly signal?: AbortSignal | undefined;
  readonly faultOf: (cause: unknown) => Fault;
}

/** @throws DriftmapError the last attempt's, with how often and for how long it was tried; `aborted` */
export async function retrying<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { path, patience, signal, faultOf } = options;
  const start = performance.now();
  for (let attempts = 1; ; attempts++) {
    checkAborted(signal, path);
    try {
      return await attempt();
    } catch (cause) {
      checkAborted(signal, path);
      const { error, again } = faultOf(cause);
      if (again === 'no' || (again === 'once' && attempts > 1)) throw error;
      const wait = again === 'once' ? 0 : waitAfter(attempts);
      const seconds = (performance.now() - start) / 1000;
      if (seconds + wait > patience) throw gaveUp(error, attempts, seconds);
      await sleep(wait * 1000, undefined, signal === undefined ? {} : { signal }).catch(() => {});
    }
  }
}

/** In seconds. */
export function waitAfter(attempts: number): number {
  const longest = Math.min(STORE_FIRST_WAIT_SECONDS * 2 ** (attempts - 1), STORE_LONGEST_WAIT_SECONDS);
  return (longest * (1 + Math.random())) / 2;
}

function gaveUp(error: DriftmapError, attempts: number, seconds: number): DriftmapError {
  const tried = attempts === 1 ? 'tried once' : `tried ${attempts} times in ${seconds.toFixed(1)} s`;
  const plain = error.toPlain();
  const told = DriftmapError.fromPlain({ ...plain, message: `${plain.message} (${tried})` });
  told.cause = error.cause;
  return told;
}
