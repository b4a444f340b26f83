/** A virtual disk as a map over open units: what `openDisk` makes of every format, and workers of a handle. */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitHandle } from '../lu/logical-unit.ts';
import type { ExtentMap } from '../mapping/extent-map.ts';
import type { Qcow2Header } from './formats/qcow2-header.ts';
import { DiskReader } from './reader.ts';
import { sourcesOf, type ViewHandle, ViewUnit } from './view-unit.ts';
import type { DiskHandle, DiskSource, VirtualDisk } from './virtual-disk.ts';

/** One image of a backing chain; a layer's index is the depth of its extents. */
export interface Layer {
  readonly format: string;
  /** The image file, and what holds its data clusters: the same unit unless there is a data file. */
  readonly file: LogicalUnit;
  readonly data: LogicalUnit;
  /** Null for raw. */
  readonly header: Qcow2Header | null;
  /** Bytes of a last cluster that lie past the end of the file. */
  readonly cutTail: ByteCount;
}

export interface MappedDiskParts {
  readonly name: string;
  readonly format: string;
  readonly map: ExtentMap;
  readonly units: readonly LogicalUnit[];
  readonly identity: string;
  readonly warnings: readonly string[];
  readonly layers: readonly Layer[];
  /** Per image of the chain, from the top: the units that it was opened on. Not known of an attached disk. */
  readonly images?: readonly (readonly LogicalUnit[])[] | undefined;
  /** Units that close with the disk; others belong to the caller. */
  readonly owned: readonly LogicalUnit[];
}

export class MappedDisk implements VirtualDisk {
  readonly name: string;
  readonly format: string;
  readonly size: ByteCount;
  readonly map: ExtentMap;
  readonly units: readonly LogicalUnit[];
  readonly identity: string;
  readonly warnings: readonly string[];
  /** Empty in an attached disk. */
  readonly layers: readonly Layer[];
  private readonly owned: readonly LogicalUnit[];
  private readonly reader: DiskReader;
  readonly openedGeneration: string;
  readonly sources: readonly DiskSource[];
  private retained = 0;
  private closing = false;

  constructor(parts: MappedDiskParts) {
    this.name = parts.name;
    this.format = parts.format;
    this.size = parts.map.size;
    this.map = parts.map;
    this.units = parts.units;
    this.identity = parts.identity;
    this.warnings = parts.warnings;
    this.layers = parts.layers;
    this.owned = parts.owned;
    this.reader = new DiskReader(this);
    const images = parts.images ?? [parts.units];
    const below = new Set(sourcesOf(images.slice(1).flat()));
    this.sources = sourcesOf(images.flat()).map((unit) => ({ unit, below: below.has(unit) }));
    this.openedGeneration = this.generation();
  }

  generation(): string {
    return this.sources.map(({ unit }) => unit.generation()).join(' ');
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    return this.reader.readInto(offset, target);
  }

  handle(): DiskHandle {
    const { name, format, size, identity, map, units } = this;
    return { name, format, size, identity, map: map.handle(), units: units.map(handleOf) };
  }

  retain(): () => Completion {
    this.retained++;
    let held = true;
    return () => {
      if (!held) return undefined;
      held = false;
      this.retained--;
      return this.closing && this.retained === 0 ? closeAll(this.owned) : undefined;
    };
  }

  close(): Completion {
    this.closing = true;
    return this.retained === 0 ? closeAll(this.owned) : undefined;
  }
}

function handleOf(unit: LogicalUnit): UnitHandle | ViewHandle {
  return unit instanceof ViewUnit ? unit.viewHandle() : unit.handle();
}

/** Closes every unit, also when one fails to; the first failure is thrown after all were tried. */
export function closeAll(units: readonly LogicalUnit[]): Completion {
  const waiting: Promise<undefined>[] = [];
  const failures: unknown[] = [];
  for (const unit of units) {
    try {
      const pending = unit.close();
      if (pending) waiting.push(pending);
    } catch (failure) {
      failures.push(failure);
    }
  }
  if (waiting.length === 0) {
    if (failures.length > 0) throw failures[0];
    return undefined;
  }
  return Promise.allSettled(waiting).then((results) => {
    for (const result of results) if (result.status === 'rejected') failures.push(result.reason);
    if (failures.length > 0) throw failures[0];
    return undefined;
  });
}
