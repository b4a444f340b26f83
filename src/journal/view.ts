/** A disk of a group as of a point, as a logical unit: read through the journal, nothing is rolled. */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../lu/logical-unit.ts';
import { checkRange } from '../lu/ranges.ts';
import type { Core } from './core.ts';
import { gatherExtents, ofOneThread } from './overlay.ts';
import { PointReader } from './point-reader.ts';
import type { Sequence } from './record.ts';

/** Runs of the journal that one answer of `extents` looks at. */
const RUNS_PER_ANSWER = 1024;
/** Bytes of the disk that it looks at: enough for a thousand runs, and bounded for a disk of one. */
const BYTES_PER_ANSWER = 1024 * 1024 * 1024;

export class ViewUnit implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly canWrite = false;
  readonly point: Sequence;
  private readonly core: Core;
  private readonly disk: number;
  private readonly reader: PointReader;
  private closed = false;

  constructor(core: Core, disk: number, point: Sequence) {
    const { name, size } = core.group.disks[disk]!;
    this.core = core;
    this.disk = disk;
    this.point = point;
    this.size = size;
    this.name = `<${core.group.group}/${name} as of ${point}>`;
    this.identity = `journal:${core.group.journal}:${disk}@${point}`;
    this.reader = new PointReader(core, point);
    core.held.set(this, point);
  }

  /** A point never changes. */
  generation(): string {
    this.checkOpen('stat');
    return `point ${this.point}`;
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    checkRange(this, { offset, length: target.length }, 'read');
    this.checkOpen('read');
    const wait = this.reader.read(this.disk, offset, target);
    const { checkStill } = this.core;
    if (checkStill === null) return wait;
    if (wait) return wait.then(() => checkStill() as undefined);
    checkStill();
    return undefined;
  }

  write(offset: ByteOffset, source: Uint8Array): Completion {
    checkRange(this, { offset, length: source.length }, 'write');
    throw this.readOnly('write');
  }

  zero(range: ByteRange): Completion {
    checkRange(this, range, 'zero');
    throw this.readOnly('zero');
  }

  flush(): undefined {
    this.checkOpen('flush');
  }

  async extents(range: ByteRange, limit = RUNS_PER_ANSWER): Promise<readonly UnitExtent[]> {
    checkRange(this, range, 'extents');
    this.checkOpen('extents');
    const end = Math.min(range.offset + range.length, range.offset + BYTES_PER_ANSWER);
    const pieces: { offset: number; length: number; kind: 'data' | 'zero' | 'below' }[] = [];
    this.reader.pieces(this.disk, range.offset, end, (start, to, isZero, source) => {
      const kind = isZero ? 'zero' : source === null ? 'below' : 'data';
      pieces.push({ offset: start, length: to - start, kind });
    });
    pieces.sort((a, b) => a.offset - b.offset);
    const unit = this.core.disk(this.disk);
    const found = await gatherExtents(pieces, limit, async (piece) => {
      const extents = await unit.extents(piece, Math.max(limit, 1));
      // What a roll wrote meanwhile is in the journal by now, and may have been data.
      let isStill = true;
      this.reader.pieces(
        this.disk,
        piece.offset,
        piece.offset + piece.length,
        (_start, _end, isZero, source) => {
          if (isZero || source !== null) isStill = false;
        },
      );
      this.core.checkStill?.();
      return isStill ? extents : [{ ...piece, kind: 'data' }];
    });
    return found;
  }

  handle(): UnitHandle {
    this.checkOpen('handle');
    throw ofOneThread(this.name);
  }

  close(): undefined {
    this.closed = true;
    this.core.held.delete(this);
  }

  private readOnly(operation: string): DriftmapError {
    this.checkOpen(operation);
    const reason = 'expected an overlay to write to: a point in time does not change';
    return new DriftmapError('permission', reason, { path: this.name, operation });
  }

  private checkOpen(operation: string): void {
    if (!this.closed) return;
    throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
  }
}
