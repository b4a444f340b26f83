/**
 * Which blocks of an index are verified against the bytes: a random share, the same on every thread and at every
 * run with one seed. Each block is drawn for itself, by a hash of the seed and its number.
 */

import { randomBytes } from 'node:crypto';
import { DriftmapError } from '../base/errors.ts';
import type { BlockIndex } from '../base/units.ts';

export interface Sampling {
  /** 0 … 1: how probable it is that a block is verified. */
  readonly share: number;
  /** 0 … 2^32−1. */
  readonly seed: number;
}

/** @throws DriftmapError `argument` for a share or seed that is none */
export function makeSampling(share = 0, seed = randomBytes(4).readUInt32LE()): Sampling {
  if (!(share >= 0 && share <= 1))
    throw new DriftmapError('argument', `expected a share from 0 to 1 as sample, got ${share}`);
  if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32))
    throw new DriftmapError('argument', `expected a seed from 0 to 4294967295, got ${seed}`);
  return { share, seed };
}

/** @param salt tells the two sides of a scan apart */
export function isSampled({ share, seed }: Sampling, block: BlockIndex, salt: number): boolean {
  if (share === 0) return false;
  const high = Math.floor(block / 2 ** 32);
  return mix(mix(mix(seed ^ salt) ^ high) ^ (block - high * 2 ** 32)) < share * 2 ** 32;
}

/** The finalizer of MurmurHash3 (Appleby, public domain): every bit of the input moves every bit of the output. */
function mix(value: number): number {
  let h = (value + 0x9e3779b9) >>> 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
