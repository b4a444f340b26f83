/** Refinement: the pieces of blocks that differ, signed under a fresh key, so that only pieces that differ travel. */

import type { BlockRun, ByteCount } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { DIGEST_BYTES } from '../wire/messages.ts';
import { BlockSigner } from './block-signer.ts';

export interface SignPieces {
  readonly disk: VirtualDisk;
  readonly size: ByteCount;
  readonly piece: ByteCount;
  /** 32 bytes. */
  readonly key: Uint8Array;
  /** Of pieces. */
  readonly runs: readonly BlockRun[];
}

/** nh128 of every piece, 16 bytes each, in the order of the runs. */
export async function signPieces({ disk, size, piece, key, runs }: SignPieces): Promise<Uint8Array> {
  const count = runs.reduce((sum, { start, end }) => sum + end - start, 0);
  const digests = new Uint8Array(count * DIGEST_BYTES);
  const signer = new BlockSigner({ disk, size, blockSize: piece });
  try {
    await signer.begin({ algorithm: 'nh128', key, nodeKey: key });
    let at = 0;
    for (const { start, end } of runs) {
      const leaves = digests.subarray(at, at + (end - start) * DIGEST_BYTES);
      await signer.signSegment({ id: 0, start, end, todo: null, leaves, signatures: null });
      at += leaves.length;
    }
  } finally {
    signer.close();
  }
  return digests;
}
