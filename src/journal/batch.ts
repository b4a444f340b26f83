/** Records in memory, as they will lie in the files of a segment. */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { Notable, Segment } from './segment.ts';

/** Bytes that grow at the end. */
export class Sink {
  bytes: Uint8Array;
  length = 0;

  /** @param memory to be used, as long as it lasts */
  constructor(memory: Uint8Array = new Uint8Array(0)) {
    this.bytes = memory;
  }

  /** Room for `count` more; returns where it begins. */
  take(count: ByteCount): number {
    const at = this.length;
    if (at + count > this.bytes.length) {
      const wider = Buffer.allocUnsafeSlow(Math.max(4096, 2 * this.bytes.length, at + count));
      wider.set(this.bytes.subarray(0, at));
      this.bytes = wider;
    }
    this.length = at + count;
    return at;
  }
}

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
export function newBatch(
  segment: Segment,
  dataAt: ByteOffset,
  metaAt: ByteOffset,
  memory: Uint8Array | undefined,
): Batch {
  return {
    segment,
    dataAt,
    metaAt,
    data: new Sink(memory),
    meta: new Sink(),
    notables: [],
    records: 0,
    seals: false,
  };
}
