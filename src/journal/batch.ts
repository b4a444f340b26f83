/** Records in memory, as they will lie in the files of a segment. */

import { JOURNAL_BATCH_BYTES } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { KiB } from '../base/units.ts';
import type { Notable, Segment } from './segment.ts';

/** Pieces of memory that are used again: fresh memory costs more than what is copied into it. */
export class Pool {
  private readonly spare: Uint8Array[] = [];

  take(): Uint8Array {
    // Not a Buffer, whose parts cost more to make.
    return this.spare.pop() ?? new Uint8Array(Buffer.allocUnsafeSlow(PIECE).buffer);
  }

  give(pieces: readonly Uint8Array[]): void {
    for (const piece of pieces) {
      if (piece.length === PIECE && this.spare.length < SPARES) this.spare.push(piece);
    }
  }
}

const PIECE = 256 * KiB;
/** A batch is filled while the one before it is written. */
const SPARES = (2 * JOURNAL_BATCH_BYTES) / PIECE;

/** Bytes that grow at the end, in pieces. */
export class Sink {
  length = 0;
  /** Where what was taken last lies. */
  bytes: Uint8Array = NOTHING;
  private used = 0;
  private readonly pool: Pool;
  private readonly pieces: Uint8Array[] = [];
  private readonly ends: number[] = [];

  constructor(pool: Pool) {
    this.pool = pool;
  }

  /** Room for `count` more, in one piece of memory; returns where in `bytes` it begins. */
  take(count: ByteCount): number {
    if (this.used + count > this.bytes.length) {
      this.begin(count > PIECE ? new Uint8Array(Buffer.allocUnsafeSlow(count).buffer) : this.pool.take());
    }
    const at = this.used;
    this.used += count;
    this.length += count;
    return at;
  }

  /** Takes bytes in, in as many pieces as they need. */
  put(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      if (this.used === this.bytes.length) this.begin(this.pool.take());
      const some = bytes.subarray(done, done + this.bytes.length - this.used);
      this.bytes.set(some, this.used);
      this.used += some.length;
      done += some.length;
    }
    this.length += bytes.length;
  }

  private begin(piece: Uint8Array): void {
    if (this.pieces.length > 0) this.ends.push(this.used);
    this.bytes = piece;
    this.pieces.push(piece);
    this.used = 0;
  }

  /** All that was taken, in order. */
  parts(): Uint8Array[] {
    return this.pieces.map((piece, i) => piece.subarray(0, this.ends[i] ?? this.used));
  }

  /** Gives the memory back. Nothing may use it any more. */
  release(): void {
    this.pool.give(this.pieces);
    this.pieces.length = 0;
    this.bytes = NOTHING;
  }
}

const NOTHING = new Uint8Array(0);

/** What is staged for one segment. */
export interface Batch {
  readonly segment: Segment;
  readonly dataAt: ByteOffset;
  readonly metaAt: ByteOffset;
  readonly data: Sink;
  readonly meta: Sink;
  readonly notables: Notable[];
  records: number;
  /** The segment ends with it. */
  seals: boolean;
}

/** Where an empty batch begins: after all that is written and staged. */
export function newBatch(segment: Segment, dataAt: ByteOffset, metaAt: ByteOffset, pool: Pool): Batch {
  return {
    segment,
    dataAt,
    metaAt,
    data: new Sink(pool),
    meta: new Sink(pool),
    notables: [],
    records: 0,
    seals: false,
  };
}
