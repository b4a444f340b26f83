/**
 * What a comparison of two disks here has marked, copied: no messages, no second buffer. The order is a session's:
 * marks are durable before the first write, and cleared after a flush.
 */

import { setImmediate } from 'node:timers/promises';
import { LOCAL_CHECKPOINT_BYTES, MAX_DATA_BYTES } from '../base/limits.ts';
import { type ByteCount, MiB } from '../base/units.ts';
import type { PagedBits } from '../bitmap/paged-bits.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { settledGeneration } from '../scan/generation.ts';
import { Side } from '../scan/side.ts';
import { stopped } from './connect.ts';
import { type Piece, piecesOf } from './marked-pieces.ts';
import { isZeros } from './packer.ts';
import type { SyncTotals } from './progress.ts';
import type { Target } from './target.ts';

export interface LocalCopyOptions {
  readonly production: VirtualDisk;
  /** Production's generation when the comparison began. */
  readonly since: string;
  readonly target: Pick<Target, 'writer' | 'keeper'>;
  /** Blocks that differ; all others have been compared. */
  readonly marks: PagedBits;
  readonly totals: SyncTotals;
  readonly signal?: AbortSignal | undefined;
}

/** Between two of these the process looks after its signals. */
const AWAKE_BYTES = 16 * MiB;

/** @returns whether the replica is consistent then */
export async function copyMarked(options: LocalCopyOptions): Promise<boolean> {
  const { production, since, target, marks, totals, signal } = options;
  const { keeper } = target;
  const { bitmap } = keeper;
  keeper.mark(marks);
  totals.markedBlocks = bitmap.count;
  totals.begin('sending', bitmap.markedBytes);
  const side = new Side(production);
  const buffer = new Uint8Array(MAX_DATA_BYTES);
  let unflushed: ByteCount = 0;
  let busy: ByteCount = 0;
  for await (const piece of piecesOf(marks.runs(), side, bitmap)) {
    if (signal?.aborted) throw stopped(signal);
    const zero = await copyPiece(piece, side, buffer, target);
    totals.sentBytes += piece.length;
    if (zero) totals.zeroBytes += piece.length;
    else {
      totals.storedBytes += piece.length;
      unflushed += piece.length;
      busy += piece.length;
    }
    totals.add(piece.length);
    if (unflushed >= LOCAL_CHECKPOINT_BYTES) {
      unflushed = 0;
      await keeper.checkpoint();
      totals.checkpoints++;
    }
    if (busy >= AWAKE_BYTES) {
      busy = 0;
      await setImmediate();
    }
  }
  const generation = await settledGeneration(production);
  const consistent = await keeper.finish(generation, generation === since);
  totals.markedBlocks = bitmap.count;
  totals.begin('finished', 0);
  return consistent;
}

/** @returns whether it was zero */
async function copyPiece(
  { offset, length, zero }: Piece,
  side: Side,
  buffer: Uint8Array,
  { writer, keeper }: LocalCopyOptions['target'],
): Promise<boolean> {
  keeper.beforeWriting();
  const bytes = buffer.subarray(0, zero ? 0 : length);
  if (!zero) {
    const pending = side.read(offset, bytes);
    if (pending) await pending;
  }
  const zeros = zero || isZeros(bytes);
  if (zeros) await writer.zero({ offset, length });
  else await writer.write(offset, bytes);
  keeper.wrote({ offset, length });
  return zeros;
}
