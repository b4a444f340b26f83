/** What a builder gathers extents in, in the layout of a map (`extent-map.ts`). */

import type { ByteCount } from '../base/units.ts';

/** Extents of a builder's largest piece: 5 MiB of arrays, so that little is allocated in vain. */
export const LARGEST_PIECE = 262_144;

/** A part of the map being built, in its layout. */
export interface Piece {
  starts: Float64Array;
  places: Float64Array;
  tags: Uint32Array;
  packed: Uint32Array | null;
  /** Shared, and with room for the size after the last start: a piece that can be the map itself. */
  finished: boolean;
}

export function finishedPiece(capacity: number): Piece {
  return {
    starts: new Float64Array(new SharedArrayBuffer(8 * (capacity + 1))),
    places: new Float64Array(new SharedArrayBuffer(8 * capacity)),
    tags: new Uint32Array(new SharedArrayBuffer(4 * capacity)),
    packed: null,
    finished: true,
  };
}

/** The arrays of a map of a finished piece's first extents, over its own memory. */
export function finishInPlace(
  { starts, places, tags }: Piece,
  count: number,
  size: ByteCount,
): Omit<Piece, 'finished'> {
  starts[count] = size;
  return {
    starts: starts.subarray(0, count + 1),
    places: places.subarray(0, count),
    tags: tags.subarray(0, count),
    packed: null,
  };
}

export function newPiece(capacity: number): Piece {
  return {
    starts: new Float64Array(capacity),
    places: new Float64Array(capacity),
    tags: new Uint32Array(capacity),
    packed: null,
    finished: false,
  };
}

/** Copies one array of all pieces, `width` elements an extent, into `to`; the last piece may be partly used. */
export function gather<A extends Float64Array | Uint32Array>(
  to: A,
  pieces: readonly Piece[],
  width: number,
  arrayOf: (piece: Piece) => A | null,
): void {
  let at = 0;
  for (const piece of pieces) {
    const length = Math.min(width * piece.tags.length, to.length - at);
    const from = arrayOf(piece);
    if (from) to.set(from.subarray(0, length), at);
    at += length;
  }
}
