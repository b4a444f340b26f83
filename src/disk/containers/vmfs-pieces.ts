/**
 * Metadata read in pieces, of which the last few are kept, because descriptors and pointer blocks that are used
 * together mostly lie together. What is asked for far from the last question is read by itself: the files of a
 * directory may be strewn over all descriptors, and a piece for each would be thirty times the reading.
 */

import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { alignDown, KiB } from '../../base/units.ts';
import { type ByteSource, readWhole, viewOf } from '../formats/byte-source.ts';

const PIECE = 64 * KiB;
const KEPT = 64;

export class PieceReader {
  private readonly source: ByteSource;
  /** In the order of their last use. */
  private readonly pieces = new Map<ByteOffset, Uint8Array>();
  /** Where the last question was. */
  private last: ByteOffset = Number.NEGATIVE_INFINITY;

  constructor(source: ByteSource) {
    this.source = source;
  }

  /** A view of bytes that must not be changed and stay as they are. */
  async view(what: string, offset: ByteOffset, length: ByteCount): Promise<DataView> {
    const start = alignDown(offset, PIECE);
    const known = this.pieces.get(start);
    const far = known === undefined && Math.abs(offset - this.last) > PIECE;
    this.last = offset;
    if (far || offset + length > Math.min(start + PIECE, this.source.size)) {
      const bytes = new Uint8Array(length);
      await readWhole(this.source, what, offset, bytes);
      return viewOf(bytes);
    }
    const piece = known ?? (await this.load(what, start));
    this.pieces.delete(start);
    this.pieces.set(start, piece);
    return new DataView(piece.buffer, offset - start, length);
  }

  private async load(what: string, start: ByteOffset): Promise<Uint8Array> {
    const piece = new Uint8Array(Math.min(PIECE, this.source.size - start));
    await readWhole(this.source, what, start, piece);
    if (this.pieces.size >= KEPT) this.pieces.delete(this.pieces.keys().next().value!);
    return piece;
  }
}
