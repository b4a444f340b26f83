/** Disks as somebody works on them during an access: what they write is noted, so that it can be kept or discarded. */

import { DriftmapError } from '../../base/errors.ts';
import { UNDO_LOG_BLOCK } from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import type { FileUnit } from '../../lu/file-unit.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../../lu/logical-unit.ts';
import { flushAside } from './replica-disk.ts';
import type { UndoLog } from './undo-log.ts';

/** The disk itself: what a block held goes to the log before it is written for the first time. */
export class RolledDisk implements LogicalUnit {
  readonly canWrite = true;
  private readonly unit: FileUnit;
  private readonly log: UndoLog;
  private readonly disk: number;

  constructor(unit: FileUnit, log: UndoLog, disk: number) {
    this.unit = unit;
    this.log = log;
    this.disk = disk;
  }

  get name(): string {
    return this.unit.name;
  }
  get size(): ByteCount {
    return this.unit.size;
  }
  get identity(): string {
    return this.unit.identity;
  }
  generation(): string {
    return this.unit.generation();
  }
  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.unit.read(offset, target);
  }

  write(offset: ByteOffset, source: Uint8Array): Completion {
    const range = { offset, length: source.length };
    if (this.log.holds(this.disk, range)) return this.unit.write(offset, source);
    return this.log.save(this.disk, range).then(() => this.unit.write(offset, source));
  }

  zero(range: ByteRange): Completion {
    if (this.log.holds(this.disk, range)) return this.unit.zero(range);
    return this.log.save(this.disk, range).then(() => this.unit.zero(range));
  }

  flush(): Completion {
    return flushAside(this.unit);
  }
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] {
    return this.unit.extents(range, limit);
  }
  handle(): UnitHandle {
    throw withoutHandle(this.name);
  }
  /** The disk stays open: it is the group's. */
  close(): undefined {
    return undefined;
  }
}

/** A view of a point with an overlay; remembers which blocks were written. */
export class OverlaidDisk implements LogicalUnit {
  readonly canWrite = true;
  private readonly unit: LogicalUnit;
  private readonly written = new Set<number>();

  constructor(unit: LogicalUnit) {
    this.unit = unit;
  }

  get name(): string {
    return this.unit.name;
  }
  get size(): ByteCount {
    return this.unit.size;
  }
  get identity(): string {
    return this.unit.identity;
  }
  generation(): string {
    return this.unit.generation();
  }

  /** Blocks that were written, ascending. */
  blocks(): readonly ByteRange[] {
    return [...this.written]
      .sort((a, b) => a - b)
      .map((block) => {
        const offset = block * UNDO_LOG_BLOCK;
        return { offset, length: Math.min(UNDO_LOG_BLOCK, this.size - offset) };
      });
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.unit.read(offset, target);
  }
  write(offset: ByteOffset, source: Uint8Array): Completion {
    this.note({ offset, length: source.length });
    return this.unit.write(offset, source);
  }
  zero(range: ByteRange): Completion {
    this.note(range);
    return this.unit.zero(range);
  }
  flush(): Completion {
    return this.unit.flush();
  }
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    return this.unit.extents(range, limit);
  }
  handle(): UnitHandle {
    throw withoutHandle(this.name);
  }
  close(): Completion {
    return this.unit.close();
  }

  private note({ offset, length }: ByteRange): void {
    const end = Math.ceil((offset + length) / UNDO_LOG_BLOCK);
    for (let block = Math.floor(offset / UNDO_LOG_BLOCK); block < end; block++) this.written.add(block);
  }
}

function withoutHandle(path: string): DriftmapError {
  const reason = 'what is written here has to be noted: it is of one thread';
  return new DriftmapError('unsupported', reason, { path, operation: 'handle' });
}
