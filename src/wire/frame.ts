/**
 * Frames: what travels over a byte stream. All integers are little end first.
 *
 *   0   4  length of the payload
 *   4   2  type of the message (`message-types.ts`)
 *   6   2  zero
 *   8   4  how many frames went before it in this direction, modulo 2^32
 *  12   4  CRC-32 of bytes 0 … 12 and of the payload
 *  16      the payload
 *
 * The checksum is taken whatever the transport: it costs a hundredth of what the network costs, and finds what
 * a broken proxy or a program that prints into its standard output does to the stream.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_FRAME_BYTES } from '../base/limits.ts';
import { type ByteCount, KiB } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';

export const FRAME_HEAD_BYTES = 16;

const TYPE_AT = 4;
const ZERO_AT = 6;
const SEQUENCE_AT = 8;
const CHECKSUM_AT = 12;

export interface Frame {
  readonly type: number;
  readonly payload: Uint8Array;
}

/** The head of a frame whose payload is `parts`, one after another. */
export function encodeFrameHead(type: number, sequence: number, parts: readonly Uint8Array[]): Uint8Array {
  const head = new Uint8Array(FRAME_HEAD_BYTES);
  fillFrameHead(head, type, sequence, parts);
  return head;
}

/** The same into 16 bytes that are there. */
export function fillFrameHead(
  head: Uint8Array,
  type: number,
  sequence: number,
  parts: readonly Uint8Array[],
): void {
  const view = new DataView(head.buffer, head.byteOffset);
  let length = 0;
  for (const part of parts) length += part.length;
  view.setUint32(0, length, true);
  view.setUint16(TYPE_AT, type, true);
  view.setUint16(ZERO_AT, 0, true);
  view.setUint32(SEQUENCE_AT, sequence, true);
  let sum = checksum(head.subarray(0, CHECKSUM_AT));
  for (const part of parts) sum = checksum(part, sum);
  view.setUint32(CHECKSUM_AT, sum, true);
}

/** Memory of long payloads that is kept for the next ones: as many as the credit lets wait. */
const MAX_SPARES = 16;
/** Shorter payloads get memory of their own: new memory costs most where it is a megabyte at a time. */
const LEAST_SPARE_BYTES = 32 * KiB;

/** Makes frames of a stream's chunks. Memory is taken for a payload only when its length has been found to be allowed. */
export class FrameReader {
  /** Largest payload that is taken now. */
  maxPayload: ByteCount;
  private readonly peer: string;
  private readonly head = new Uint8Array(FRAME_HEAD_BYTES);
  private readonly view = new DataView(this.head.buffer);
  private headFilled = 0;
  private payload: Uint8Array | null = null;
  private filled = 0;
  /** Of the head and of what has come of the payload. */
  private sum = 0;
  private readonly spares: ArrayBuffer[] = [];
  private sequence = 0;
  /** Bytes of whole frames so far. */
  private position = 0;

  /** @param peer for messages: who sends */
  constructor(peer: string, maxPayload: ByteCount) {
    this.peer = peer;
    this.maxPayload = maxPayload;
  }

  /** Whether the stream may end here. */
  get between(): boolean {
    return this.headFilled === 0;
  }

  /** Gives a payload's memory to a later one. Nobody may look at it any more. */
  recycle({ buffer }: Uint8Array): void {
    if (buffer.byteLength !== MAX_FRAME_BYTES || !(buffer instanceof ArrayBuffer)) return;
    if (this.spares.length < MAX_SPARES) this.spares.push(buffer);
  }

  private memoryFor(length: ByteCount): Uint8Array {
    if (length < LEAST_SPARE_BYTES || length > MAX_FRAME_BYTES) return new Uint8Array(length);
    const spare = this.spares.pop();
    if (spare !== undefined) return new Uint8Array(spare, 0, length);
    // Half of it may be unused, no more: what a peer can make us hold stays bounded by its credit.
    if (2 * length < MAX_FRAME_BYTES) return new Uint8Array(length);
    return new Uint8Array(new ArrayBuffer(MAX_FRAME_BYTES), 0, length);
  }

  /**
   * Takes the next bytes of the stream; calls `deliver` for every frame that is whole then. Payloads are copies.
   * @throws DriftmapError `malformed` with the offset in the stream; `limit` for a payload that is too long
   */
  push(chunk: Uint8Array, deliver: (frame: Frame) => void): void {
    for (let at = 0; at < chunk.length || (this.payload !== null && this.filled === this.payload.length); ) {
      if (this.payload === null) {
        const count = Math.min(FRAME_HEAD_BYTES - this.headFilled, chunk.length - at);
        this.head.set(chunk.subarray(at, at + count), this.headFilled);
        this.headFilled += count;
        at += count;
        if (this.headFilled < FRAME_HEAD_BYTES) return;
        this.payload = this.memoryFor(this.checkHead());
        this.filled = 0;
        this.sum = checksum(this.head.subarray(0, CHECKSUM_AT));
      }
      const count = Math.min(this.payload.length - this.filled, chunk.length - at);
      const part = count === chunk.length ? chunk : chunk.subarray(at, at + count);
      this.payload.set(part, this.filled);
      // Of the copy, while it is in the cache; what is taken stays what was summed.
      this.sum = checksum(this.payload.subarray(this.filled, this.filled + count), this.sum);
      this.filled += count;
      at += count;
      if (this.filled === this.payload.length) deliver(this.finish(this.payload));
    }
  }

  private checkHead(): ByteCount {
    const length = this.view.getUint32(0, true);
    if (this.view.getUint16(ZERO_AT, true) !== 0) this.fail('expected two zero bytes in the head of a frame');
    const sequence = this.view.getUint32(SEQUENCE_AT, true);
    if (sequence !== this.sequence) this.fail(`expected frame number ${this.sequence}, got ${sequence}`);
    if (length > this.maxPayload) {
      const reason = `expected a frame of at most ${this.maxPayload} bytes, got one of ${length}`;
      throw new DriftmapError('limit', reason, { path: this.peer, offset: this.position, length });
    }
    return length;
  }

  private finish(payload: Uint8Array): Frame {
    if (this.sum !== this.view.getUint32(CHECKSUM_AT, true))
      this.fail('a frame is damaged: its checksum differs');
    const frame = { type: this.view.getUint16(TYPE_AT, true), payload };
    this.position += FRAME_HEAD_BYTES + payload.length;
    this.sequence = (this.sequence + 1) % 2 ** 32;
    this.headFilled = 0;
    this.payload = null;
    return frame;
  }

  private fail(reason: string): never {
    throw new DriftmapError('malformed', reason, { path: this.peer, offset: this.position });
  }
}
