/** Logical units, virtual disks and sync bitmaps as an NBD server serves them. */

import { fsync } from 'node:fs';
import { DriftmapError, systemError } from '../../base/errors.ts';
import type { ByteOffset, ByteRange } from '../../base/units.ts';
import { alignDown, alignUp, KiB } from '../../base/units.ts';
import type { SyncBitmap } from '../../bitmap/sync-bitmap.ts';
import { DiskReader } from '../../disk/reader.ts';
import type { VirtualDisk } from '../../disk/virtual-disk.ts';
import type { Completion, LogicalUnit, UnitExtent } from '../../lu/logical-unit.ts';
import { punchHole } from '../../lu/posix.ts';
import type { DirtyRun, NbdBitmap, NbdExport, ZeroManner } from './nbd-export.ts';
import { writeZeros } from './turns.ts';

export interface ExportOptions {
  readonly description?: string;
  readonly bitmaps?: ReadonlyMap<string, NbdBitmap>;
}

/** What file systems give back: a hint for less is not worth writing zeros for. */
const PAGE = 4 * KiB;

/** A unit. It stays the caller's to close, after the server. */
export function unitExport(unit: LogicalUnit, options: ExportOptions = {}): NbdExport {
  return new UnitExport(unit, options);
}

/** A virtual disk of any format, for reading only. It stays the caller's to close, after the server. */
export function diskExport(disk: VirtualDisk, options: ExportOptions = {}): NbdExport {
  return new DiskExport(disk, options);
}

class UnitExport implements NbdExport {
  readonly size: number;
  readonly canWrite: boolean;
  readonly description: string;
  readonly bitmaps: ReadonlyMap<string, NbdBitmap>;
  private readonly unit: LogicalUnit;
  /** Of a file or a block device. */
  private readonly fd: number | null;

  constructor(unit: LogicalUnit, { description, bitmaps }: ExportOptions) {
    this.unit = unit;
    this.size = unit.size;
    this.canWrite = unit.canWrite;
    this.description = description ?? '';
    this.bitmaps = bitmaps ?? new Map();
    this.fd = descriptorOf(unit);
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.unit.read(offset, target);
  }

  write(offset: ByteOffset, source: Uint8Array): Completion {
    return this.unit.write(offset, source);
  }

  zero(range: ByteRange, { mayPunch, fast }: ZeroManner): Completion {
    if (mayPunch && this.punch(range)) return undefined;
    if (fast) {
      const reason = 'cannot zero faster than by writing';
      throw new DriftmapError('unsupported', reason, { path: this.unit.name, ...range, operation: 'zero' });
    }
    // A file has nothing better than what was tried; other units may.
    return mayPunch && this.fd === null ? this.unit.zero(range) : writeZeros(this.unit, range);
  }

  /** Only whole pages, and only where they can be given back: what is not worth it is left as it is. */
  trim({ offset, length }: ByteRange): Completion {
    const from = alignUp(offset, PAGE);
    const to = alignDown(offset + length, PAGE);
    if (to <= from) return undefined;
    const range = { offset: from, length: to - from };
    if (this.fd === null) return this.unit.zero(range);
    this.punch(range);
    return undefined;
  }

  /** A disk may take long to be sure: others are served meanwhile. */
  flush(): Completion {
    const { fd, unit } = this;
    if (fd === null) return unit.flush();
    return new Promise((resolve, reject) => {
      fsync(fd, (cause) => {
        if (cause === null) resolve(undefined);
        else reject(systemError(cause, { path: unit.name, operation: 'flush' }));
      });
    });
  }

  extents(range: ByteRange, limit: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    return this.unit.extents(range, limit);
  }

  private punch({ offset, length }: ByteRange): boolean {
    return this.fd !== null && punchHole(this.fd, offset, length);
  }
}

/** Of a file or a block device; null of all others, and of units that are of one thread alone, which have no handle. */
function descriptorOf(unit: LogicalUnit): number | null {
  try {
    const handle = unit.handle();
    return handle.kind === 'file' ? handle.fd : null;
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'unsupported') return null;
    throw error;
  }
}

class DiskExport implements NbdExport {
  readonly size: number;
  readonly canWrite = false;
  readonly description: string;
  readonly bitmaps: ReadonlyMap<string, NbdBitmap>;
  private readonly disk: VirtualDisk;

  constructor(disk: VirtualDisk, { description, bitmaps }: ExportOptions) {
    this.disk = disk;
    this.size = disk.size;
    this.description = description ?? '';
    this.bitmaps = bitmaps ?? new Map();
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.disk.read(offset, target);
  }

  write(): never {
    throw this.refusal('write');
  }
  zero(): never {
    throw this.refusal('zero');
  }
  trim(): never {
    throw this.refusal('trim');
  }
  flush(): undefined {
    return undefined;
  }

  /** A reader of its own: it remembers holes, and another process may fill them before the next question. */
  async extents(range: ByteRange, limit: number): Promise<readonly UnitExtent[]> {
    const reader = new DiskReader(this.disk);
    const end = range.offset + range.length;
    const found: UnitExtent[] = [];
    for (let at = range.offset; at < end && found.length < Math.max(limit, 1); ) {
      const zero = await reader.zeroUntil(at, end);
      const isZero = zero > at;
      const to = isZero ? zero : Math.max(await reader.dataUntil(at, end), at + 1);
      const kind = isZero ? 'zero' : 'data';
      const last = found.at(-1);
      if (last?.kind === kind) found[found.length - 1] = { ...last, length: to - last.offset };
      else found.push({ offset: at, length: to - at, kind });
      at = to;
    }
    return found;
  }

  private refusal(operation: string): DriftmapError {
    const reason = 'a disk is exported for reading only; export its unit to write';
    return new DriftmapError('permission', reason, { path: this.disk.name, operation });
  }
}

/** The marks of a sync bitmap: what must be synchronized is dirty. */
export function syncBitmapExport(bitmap: SyncBitmap): NbdBitmap {
  const { marks, blockSize, size } = bitmap;
  return {
    runs({ offset, length }, limit) {
      const end = offset + length;
      const found: DirtyRun[] = [];
      for (let at = offset; at < end && found.length < limit; ) {
        const block = Math.floor(at / blockSize);
        const dirty = at < size && marks.test(block);
        const next =
          at >= size ? Number.POSITIVE_INFINITY : dirty ? marks.nextClear(block) : marks.nextSet(block);
        const to = Math.min(next * blockSize, end);
        found.push({ offset: at, length: to - at, dirty });
        at = to;
      }
      return found;
    },
  };
}
