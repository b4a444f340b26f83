/** Cuts marked blocks into what is sent: runs of known zeros, and pieces of data. Ascending, without gaps in a run. */

import { MAX_DATA_BYTES } from '../base/limits.ts';
import type { BlockRun, ByteCount, ByteOffset } from '../base/units.ts';
import { alignDown, bytesOfBlocks, KiB } from '../base/units.ts';
import type { Side } from '../scan/side.ts';
import { MAX_ZERO_BYTES } from '../wire/messages.ts';

/** A shorter run of zeros is sent as data: a hole of a file is never shorter, and punching one costs a call. */
const LEAST_ZEROS = 4 * KiB;

export interface Piece {
  readonly offset: ByteOffset;
  readonly length: ByteCount;
  readonly zero: boolean;
}

export async function* piecesOf(
  runs: Iterable<BlockRun>,
  side: Side,
  { size, blockSize }: { readonly size: ByteCount; readonly blockSize: ByteCount },
): AsyncGenerator<Piece, undefined> {
  for (const run of runs) {
    const { offset, length } = bytesOfBlocks(run, blockSize, size);
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const zeroEnd = await side.zeroUntil(at, Math.min(end, at + MAX_ZERO_BYTES));
      if (zeroEnd - at >= Math.min(LEAST_ZEROS, end - at)) {
        yield { offset: at, length: zeroEnd - at, zero: true };
        at = zeroEnd;
        continue;
      }
      const limit = Math.min(end, alignDown(at, MAX_DATA_BYTES) + MAX_DATA_BYTES);
      const dataEnd = await side.dataUntil(zeroEnd, limit);
      const to = dataEnd - at >= LEAST_ZEROS ? Math.min(dataEnd, limit) : Math.min(limit, at + LEAST_ZEROS);
      yield { offset: at, length: Math.max(to, at + 1) - at, zero: false };
      at = Math.max(to, at + 1);
    }
  }
  return undefined;
}
