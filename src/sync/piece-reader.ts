/**
 * Reads pieces of production's disk and packs them for the way. A plain piece is read to where it is sent from:
 * behind room for both heads, in memory that is used again as soon as the network has taken it. New memory for
 * every megabyte cost more than reading and sealing it.
 */

import { MAX_DATA_BYTES } from '../base/limits.ts';
import type { Side } from '../scan/side.ts';
import { FRAME_HEAD_BYTES } from '../wire/frame.ts';
import { DATA_HEAD_BYTES, type Data, Encoding, encodeData, fillDataHead } from '../wire/messages.ts';
import type { Piece } from './marked-pieces.ts';
import { isZeros, type Packer } from './packer.ts';

/** A piece as it is sent. */
export interface PackedPiece {
  readonly data: Data;
  /** The parts of a message, or a whole frame without its own head, and what is called when it is on its way. */
  readonly message:
    | { readonly parts: readonly Uint8Array[] }
    | { readonly frame: Uint8Array; readonly free: () => void };
}

const FRONT_BYTES = FRAME_HEAD_BYTES + DATA_HEAD_BYTES;
const NOTHING = new Uint8Array(0);
/** Those that are read ahead, and those that the network has not taken yet. */
const MAX_IDLE = 8;

export class PieceReader {
  private readonly side: Side;
  private readonly packer: Packer;
  private readonly idle: Uint8Array[] = [];

  constructor(side: Side, packer: Packer) {
    this.side = side;
    this.packer = packer;
  }

  /** @param bound whether the link is what everybody waits for */
  async pack({ offset, length, zero }: Piece, bound: () => boolean): Promise<PackedPiece> {
    if (zero) return zeros(offset, length);
    const whole = this.idle.pop() ?? new Uint8Array(FRONT_BYTES + MAX_DATA_BYTES);
    const free = () => {
      if (this.idle.length < MAX_IDLE) this.idle.push(whole);
    };
    const frame = whole.subarray(0, FRONT_BYTES + length);
    const bytes = frame.subarray(FRONT_BYTES);
    const pending = this.side.read(offset, bytes);
    if (pending) await pending;
    if (isZeros(bytes)) {
      free();
      return zeros(offset, length);
    }
    const data = await this.packer.pack(offset, bytes, bound());
    if (data.encoding !== Encoding.plain) {
      free();
      return { data, message: { parts: encodeData(data) } };
    }
    fillDataHead(frame.subarray(FRAME_HEAD_BYTES), data);
    return { data, message: { frame, free } };
  }
}

function zeros(offset: number, length: number): PackedPiece {
  const data: Data = { offset, length, encoding: Encoding.zero, stored: NOTHING };
  return { data, message: { parts: encodeData(data) } };
}
