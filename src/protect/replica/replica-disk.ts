/**
 * A replica's disk as its journal uses it: a raw file or a block device whose flushes do not hold up the thread that
 * the stream comes in on. While somebody writes to the disk itself (rolled access), the journal goes on to see what
 * was there before, and writes nothing.
 */

import { closeSync, fsync, mkdirSync, openSync, statSync, truncateSync } from 'node:fs';
import { dirname } from 'node:path';
import { DriftmapError, systemError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import { type FileUnit, openFileUnit } from '../../lu/file-unit.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../../lu/logical-unit.ts';

/** What a disk held before somebody wrote to it. */
export interface Shield {
  read(offset: ByteOffset, target: Uint8Array): Completion;
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]>;
}

export class ReplicaDisk implements LogicalUnit {
  /** The disk itself. */
  readonly unit: FileUnit;
  private shield: Shield | null = null;

  constructor(unit: FileUnit) {
    this.unit = unit;
  }

  /** From now on the journal sees the disk through this; null ends it. */
  shieldBy(shield: Shield | null): void {
    this.shield = shield;
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
  get canWrite(): boolean {
    return this.unit.canWrite;
  }
  generation(): string {
    return this.unit.generation();
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return (this.shield ?? this.unit).read(offset, target);
  }
  write(offset: ByteOffset, source: Uint8Array): Completion {
    this.checkFree('write');
    return this.unit.write(offset, source);
  }
  zero(range: ByteRange): Completion {
    this.checkFree('zero');
    return this.unit.zero(range);
  }
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    return (this.shield ?? this.unit).extents(range, limit);
  }

  flush(): Completion {
    return flushAside(this.unit);
  }

  /** None: another thread would see past the shield, and flush for itself. */
  handle(): UnitHandle {
    const reason = "a replica's disk is of one thread: read it there, or export it";
    throw new DriftmapError('unsupported', reason, { path: this.name, operation: 'handle' });
  }

  close(): Completion {
    return this.unit.close();
  }

  private checkFree(operation: string): void {
    if (this.shield === null) return;
    const reason = 'somebody works on this disk (rolled access): end that first';
    throw new DriftmapError('policy', reason, { path: this.name, operation });
  }
}

/** Flushes a file on another thread. */
export function flushAside(unit: FileUnit): Promise<undefined> {
  const handle = unit.handle();
  if (handle.kind !== 'file') return Promise.resolve(unit.flush());
  return new Promise((resolve, reject) => {
    fsync(handle.fd, (cause) => {
      if (cause === null) resolve(undefined);
      else reject(systemError(cause, { path: unit.name, operation: 'flush' }));
    });
  });
}

/**
 * The size of a disk that is there, in bytes; null where there is none, or an empty file.
 * @throws DriftmapError as `openFileUnit`
 */
export function sizeOfDisk(path: string): ByteCount | null {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
  const unit = openFileUnit(path);
  try {
    return unit.size === 0 ? null : unit.size;
  } finally {
    unit.close();
  }
}

/**
 * Makes a disk of zeros, sparse, where there is none; one that is there stays as it is.
 * @throws DriftmapError `mismatch` for a disk of another size, and what making a file throws
 */
export function makeDisk(path: string, size: ByteCount): void {
  const there = sizeOfDisk(path);
  if (there === size) return;
  if (there !== null) {
    const reason = `expected a disk of ${size} bytes, as production's, got ${there}: make it as large, or name another`;
    throw new DriftmapError('mismatch', reason, { path });
  }
  try {
    mkdirSync(dirname(path), { recursive: true });
    closeSync(openSync(path, 'a', 0o600));
    truncateSync(path, size);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'create' });
  }
}
