/**
 * How a parser gets at bytes. Parsers hold no I/O policy: they are given something that reads (a logical
 * unit is one) and say where they read. Reads past the end are the parser's to check, against `size`.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import type { Completion } from '../../lu/logical-unit.ts';

export interface ByteSource {
  readonly name: string;
  readonly size: ByteCount;
  read(offset: ByteOffset, target: Uint8Array): Completion;
}

/** Reads a structure that must lie wholly in the source, else `malformed`, naming it. */
export async function readWhole(
  source: ByteSource,
  what: string,
  offset: ByteOffset,
  target: Uint8Array,
): Promise<void> {
  if (offset + target.length > source.size) {
    throw new DriftmapError('malformed', `${what} lies past the end of the file (${source.size} bytes)`, {
      path: source.name,
      offset,
      length: target.length,
    });
  }
  const pending = source.read(offset, target);
  if (pending) await pending;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A big-endian 64-bit number as a double: exact up to 2^53−1, above that only good for "too large". */
export function uint64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

/** The same for a little-endian number. */
export function littleUint64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

/**
 * A name that stands in an image: bytes without a terminator. What is not UTF-8 or holds a zero byte names no
 * file or format of ours, and a decoder that patched it up could name another one.
 */
export function readName(
  bytes: Uint8Array,
  most: ByteCount,
  place: { path: string; offset: ByteOffset },
): string {
  try {
    const name = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    if (bytes.length <= most && !name.includes('\0')) return name;
  } catch {
    // Not UTF-8: the same error as below.
  }
  const reason = `expected a name of at most ${most} bytes in UTF-8 without zero bytes`;
  throw new DriftmapError('malformed', reason, { ...place, length: bytes.length });
}
