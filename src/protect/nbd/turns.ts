/** Long work on an export, cut into turns, so that the other clients of this thread are served in between. */

import { setImmediate } from 'node:timers/promises';
import { NBD_TURN_BYTES } from '../../base/limits.ts';
import type { ByteOffset, ByteRange } from '../../base/units.ts';
import { MiB } from '../../base/units.ts';
import type { Completion } from '../../lu/logical-unit.ts';

const ZEROS = Buffer.alloc(1 * MiB);

interface Readable {
  read(offset: ByteOffset, target: Uint8Array): Completion;
}
interface Writable {
  write(offset: ByteOffset, source: Uint8Array): Completion;
}

/** Reads a range and throws it away. */
export async function bringIntoCache(from: Readable, range: ByteRange): Promise<undefined> {
  const target = new Uint8Array(Math.min(range.length, 1 * MiB));
  await inTurns(range, (offset, length) => from.read(offset, target.subarray(0, length)));
}

/** Zeros that are written one by one, and keep their storage. */
export async function writeZeros(to: Writable, range: ByteRange): Promise<undefined> {
  await inTurns(range, (offset, length) => to.write(offset, ZEROS.subarray(0, length)));
}

async function inTurns(
  { offset, length }: ByteRange,
  act: (offset: ByteOffset, length: number) => Completion,
): Promise<undefined> {
  const end = offset + length;
  let turn = 0;
  for (let at = offset; at < end; ) {
    const piece = Math.min(end - at, ZEROS.length);
    await act(at, piece);
    at += piece;
    turn += piece;
    if (turn < NBD_TURN_BYTES || at >= end) continue;
    turn = 0;
    await setImmediate();
  }
}
