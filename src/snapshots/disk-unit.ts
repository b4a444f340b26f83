/** A virtual disk of any format as a logical unit to be read: for taking snapshots of disks that have no journal. */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { attachDisk } from '../disk/attach.ts';
import { DiskReader } from '../disk/reader.ts';
import type { DiskHandle, VirtualDisk } from '../disk/virtual-disk.ts';
import { attachUnit } from '../lu/attach.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../lu/logical-unit.ts';
import { checkRange } from '../lu/ranges.ts';

export function diskUnit(disk: VirtualDisk): LogicalUnit {
  return new DiskUnit(disk);
}

class DiskUnit implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly canWrite = false;
  private readonly disk: VirtualDisk;
  private readonly reader: DiskReader;

  constructor(disk: VirtualDisk) {
    this.disk = disk;
    this.name = disk.name;
    this.size = disk.size;
    this.identity = disk.identity;
    this.reader = new DiskReader(disk);
  }

  generation(): string {
    return this.disk.generation();
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.disk.read(offset, target);
  }

  write(): never {
    throw this.readOnly('write');
  }
  zero(): never {
    throw this.readOnly('zero');
  }
  flush(): undefined {
    return undefined;
  }

  async extents(range: ByteRange, limit = 64): Promise<readonly UnitExtent[]> {
    checkRange(this, range, 'extents');
    const end = range.offset + range.length;
    const found: UnitExtent[] = [];
    for (let at = range.offset; at < end && found.length < Math.max(limit, 1); ) {
      const zero = await this.reader.zeroUntil(at, end);
      const to = zero > at ? zero : Math.max(await this.reader.dataUntil(at, end), at + 1);
      const kind = zero > at ? 'zero' : 'data';
      const last = found.at(-1);
      if (last?.kind === kind) found[found.length - 1] = { ...last, length: to - last.offset };
      else found.push({ offset: at, length: to - at, kind });
      at = to;
    }
    return found;
  }

  handle(): UnitHandle {
    throw new DriftmapError('unsupported', 'a disk is no unit of another thread', { path: this.name });
  }

  /** What `attachSource` makes of it is the same disk. */
  diskHandle(): DiskHandle {
    return this.disk.handle();
  }

  close(): Completion {
    return this.disk.close();
  }

  private readOnly(operation: string): DriftmapError {
    return new DriftmapError('permission', 'opened for reading only', { path: this.name, operation });
  }
}

/** What another thread reads a unit by: plain data. */
export type ThreadSource =
  | { readonly kind: 'unit'; readonly handle: UnitHandle }
  | { readonly kind: 'disk'; readonly handle: DiskHandle };

/** Null for what only this thread can read: a view of a journal, a disk that lies on one. */
export function threadSource(unit: LogicalUnit): ThreadSource | null {
  try {
    if (unit instanceof DiskUnit) return { kind: 'disk', handle: unit.diskHandle() };
    return { kind: 'unit', handle: unit.handle() };
  } catch (error) {
    if (error instanceof DriftmapError && error.kind === 'unsupported') return null;
    throw error;
  }
}

export type ThreadReader = Pick<LogicalUnit, 'read' | 'close'>;

/** In that thread. It closes only what it made for itself: connections. */
export function attachSource(source: ThreadSource): ThreadReader {
  return source.kind === 'disk' ? attachDisk(source.handle) : attachUnit(source.handle);
}
