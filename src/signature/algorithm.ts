/**
 * Signature algorithms by frozen id. An id never changes its meaning: it stands in bitmaps, indexes and
 * on the wire.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';

export interface SignatureAlgorithm {
  /** Frozen. */
  readonly id: number;
  readonly name: string;
  /** Bytes of one signature. */
  readonly digestLength: ByteCount;
  /** Signatures mean nothing without the session's 32-byte key. */
  readonly keyed: boolean;
  /** Our own WebAssembly kernel, or a library's function (slower). */
  readonly kernel: 'wasm' | 'library';
  /** One line for help texts: what it is for and what it does not promise. */
  readonly purpose: string;
}

export const algorithms = [
  {
    id: 1,
    name: 'blake3',
    digestLength: 32,
    keyed: false,
    kernel: 'wasm',
    purpose: 'cryptographic; for stored indexes and write by signature',
  },
  {
    id: 2,
    name: 'nh128',
    digestLength: 16,
    keyed: true,
    kernel: 'wasm',
    purpose: 'provable under a fresh secret key; for comparing two disks (default)',
  },
  {
    id: 3,
    name: 'xxh3-128',
    digestLength: 16,
    keyed: false,
    kernel: 'wasm',
    purpose: 'fastest; no protection against data made to collide',
  },
  {
    id: 4,
    name: 'sha256',
    digestLength: 32,
    keyed: false,
    kernel: 'library',
    purpose: 'cryptographic; slower',
  },
  {
    id: 5,
    name: 'sha1',
    digestLength: 20,
    keyed: false,
    kernel: 'library',
    purpose: 'broken against an adversary; for comparing with other tools',
  },
  {
    id: 6,
    name: 'md5',
    digestLength: 16,
    keyed: false,
    kernel: 'library',
    purpose: 'broken against an adversary; for comparing with other tools',
  },
  {
    id: 7,
    name: 'crc32c',
    digestLength: 4,
    keyed: false,
    kernel: 'library',
    purpose: 'detects accidents only: one changed block in 2^32 is missed',
  },
] as const satisfies readonly SignatureAlgorithm[];

export type AlgorithmName = (typeof algorithms)[number]['name'];

export function algorithmByName(name: string): SignatureAlgorithm {
  const found = algorithms.find((algorithm) => algorithm.name === name);
  if (!found) {
    const names = algorithms.map((algorithm) => algorithm.name).join(', ');
    throw new DriftmapError('argument', `unknown signature '${name}': expected one of ${names}`);
  }
  return found;
}
