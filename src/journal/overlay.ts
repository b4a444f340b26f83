/**
 * Writes that leave what is below them alone, and are discarded with it: a sparse file without a name, as large as
 * the disk, and a map of what was written. Each byte lies in the file where it lies on the disk.
 */

import { randomBytes } from 'node:crypto';
import { closeSync, openSync, truncateSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { type FileUnit, openFileUnit } from '../lu/file-unit.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../lu/logical-unit.ts';
import { checkRange } from '../lu/ranges.ts';
import { IntervalMap, ZEROS } from './interval-map.ts';

/**
 * A unit that reads as `below` until it is written. Closing it discards the writes, closes `below`, and so does the
 * end of the process.
 * @param folder where the writes lie; it takes as much room as is written
 * @throws DriftmapError what making a file throws
 */
export function overlayUnit(below: LogicalUnit, folder: string): LogicalUnit {
  const path = join(folder, `.driftmap-overlay-${randomBytes(8).toString('hex')}.tmp`);
  try {
    closeSync(openSync(path, 'wx', 0o600));
    try {
      truncateSync(path, below.size);
      return new OverlayUnit(below, openFileUnit(path, { write: true }));
    } finally {
      unlinkSync(path);
    }
  } catch (cause) {
    throw systemError(cause, { path, operation: 'create' });
  }
}

class OverlayUnit implements LogicalUnit {
  readonly canWrite = true;
  private readonly below: LogicalUnit;
  private readonly file: FileUnit;
  private readonly written = new IntervalMap();
  private writes = 0;
  private closed = false;

  constructor(below: LogicalUnit, file: FileUnit) {
    this.below = below;
    this.file = file;
  }

  get name(): string {
    return this.below.name;
  }
  get size(): ByteCount {
    return this.below.size;
  }
  get identity(): string {
    return `${this.below.identity}+overlay:${this.file.identity}`;
  }
  generation(): string {
    this.checkOpen('stat');
    return `${this.below.generation()}+${this.writes}`;
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    const { length } = target;
    this.check({ offset, length }, 'read');
    const waits: Promise<undefined>[] = [];
    let at = offset;
    const readBelow = (to: ByteOffset) => {
      if (to <= at) return;
      const wait = this.below.read(at, target.subarray(at - offset, to - offset));
      if (wait) waits.push(wait);
    };
    this.written.each(offset, offset + length, (from, to, place) => {
      readBelow(from);
      at = to;
      const part = target.subarray(from - offset, to - offset);
      if (place === ZEROS) part.fill(0);
      else this.file.read(from, part);
    });
    readBelow(offset + length);
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => undefined);
  }

  write(offset: ByteOffset, source: Uint8Array): undefined {
    this.check({ offset, length: source.length }, 'write');
    this.file.write(offset, source);
    this.written.set(offset, offset + source.length, offset, 0);
    this.writes++;
  }

  zero({ offset, length }: ByteRange): undefined {
    this.check({ offset, length }, 'zero');
    if (length > 0) this.file.zero({ offset, length });
    this.written.set(offset, offset + length, ZEROS, 0);
    this.writes++;
  }

  /** The writes are to be discarded: nothing has to last. */
  flush(): undefined {
    this.checkOpen('flush');
  }

  async extents(range: ByteRange, limit = Number.POSITIVE_INFINITY): Promise<readonly UnitExtent[]> {
    this.check(range, 'extents');
    const end = range.offset + range.length;
    const pieces: (ByteRange & { kind: 'data' | 'zero' | 'below' })[] = [];
    let at = range.offset;
    const until = (to: ByteOffset) => {
      if (to > at) pieces.push({ offset: at, length: to - at, kind: 'below' });
      at = to;
    };
    this.written.each(range.offset, end, (from, to, place) => {
      until(from);
      pieces.push({ offset: from, length: to - from, kind: place === ZEROS ? 'zero' : 'data' });
      at = to;
    });
    until(end);
    return gatherExtents(pieces, limit, (piece) => this.below.extents(piece, Math.max(limit, 1)));
  }

  handle(): UnitHandle {
    throw ofOneThread(this.name);
  }

  async close(): Promise<undefined> {
    if (this.closed) return;
    this.closed = true;
    this.file.close();
    this.written.clear();
    await this.below.close();
  }

  private check(range: ByteRange, operation: string): void {
    checkRange(this, range, operation);
    this.checkOpen(operation);
  }

  private checkOpen(operation: string): void {
    if (!this.closed) return;
    throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
  }
}

export function ofOneThread(path: string): DriftmapError {
  const reason = 'a view of a journal is of one thread: read it there, or export it';
  return new DriftmapError('unsupported', reason, { path, operation: 'handle' });
}

/** Extents of adjoining pieces, neighbours of one kind merged; of pieces `below`, what `ask` says of them. */
export async function gatherExtents(
  pieces: readonly (ByteRange & { readonly kind: 'data' | 'zero' | 'below' })[],
  limit: number,
  ask: (range: ByteRange) => readonly UnitExtent[] | Promise<readonly UnitExtent[]>,
): Promise<readonly UnitExtent[]> {
  const found: UnitExtent[] = [];
  const add = (extent: UnitExtent): boolean => {
    const last = found.at(-1);
    if (last?.kind === extent.kind) {
      found[found.length - 1] = { ...last, length: last.length + extent.length };
      return true;
    }
    if (found.length >= Math.max(limit, 1)) return false;
    found.push(extent);
    return true;
  };
  for (const piece of pieces) {
    if (piece.kind !== 'below') {
      if (!add({ offset: piece.offset, length: piece.length, kind: piece.kind })) return found;
      continue;
    }
    const end = piece.offset + piece.length;
    for (let at = piece.offset; at < end; ) {
      for (const extent of await ask({ offset: at, length: end - at })) {
        if (!add(extent)) return found;
        at = extent.offset + extent.length;
      }
    }
  }
  return found;
}
