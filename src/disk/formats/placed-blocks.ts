/**
 * Which bytes of an image file its tables and blocks take. In the formats whose blocks lie anywhere in the
 * file nothing may lie over anything else: two entries that lead to one block, or a block over a table, are
 * damage that would be read as data.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';

export class PlacedBlocks {
  private readonly path: string;
  private readonly fileSize: ByteCount;
  /** Runs in the order they came; neighbours are joined, so that a file written from start to end is one run. */
  private starts = new Float64Array(64);
  private ends = new Float64Array(64);
  private count = 0;
  private ascending = true;
  private total: ByteCount = 0;

  constructor(path: string, fileSize: ByteCount) {
    this.path = path;
    this.fileSize = fileSize;
  }

  /**
   * Takes `[offset, offset + length)`, which the caller has found to lie within the file.
   * @throws DriftmapError `malformed` when more is taken than the file has
   */
  take(offset: ByteOffset, length: ByteCount): void {
    // So that the table of a small file cannot ask for much memory.
    this.total += length;
    if (this.total > this.fileSize) throw this.overlap(offset);
    const last = this.count - 1;
    if (last >= 0 && this.ends[last] === offset) {
      this.ends[last] = offset + length;
      return;
    }
    if (last >= 0 && offset < this.ends[last]!) this.ascending = false;
    if (this.count === this.starts.length) {
      this.starts = grown(this.starts);
      this.ends = grown(this.ends);
    }
    this.starts[this.count] = offset;
    this.ends[this.count++] = offset + length;
  }

  /** @throws DriftmapError `malformed` when two runs meet */
  refuseOverlap(): void {
    if (this.ascending) return;
    // Runs are apart exactly when, both sorted, each end comes before the next start.
    const starts = this.starts.subarray(0, this.count).sort();
    const ends = this.ends.subarray(0, this.count).sort();
    for (let i = 1; i < this.count; i++) {
      if (ends[i - 1]! > starts[i]!) throw this.overlap(starts[i]!);
    }
  }

  private overlap(offset: ByteOffset): DriftmapError {
    const reason =
      'two blocks, or a block and a table, lie over one another: the block table or a header is damaged';
    return new DriftmapError('malformed', reason, { path: this.path, offset });
  }
}

function grown(from: Float64Array): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(2 * from.length);
  larger.set(from);
  return larger;
}
