/** What signs blocks, whichever kernel or library is behind it. */

import type { ByteCount } from '../base/units.ts';
import type { SignatureAlgorithm } from './algorithm.ts';

/** Signs blocks that lie in one memory. Addresses are in that memory. */
export interface Signer {
  readonly algorithm: SignatureAlgorithm;
  /** Signatures of `count` adjoining blocks of `blockLength` bytes, 1 … 16 MiB, to `out`, `digestLength` bytes each. */
  sign(pointer: number, blockLength: ByteCount, count: number, out: number): void;
}
