/**
 * A logical unit inside other units: a partition, a volume, a file in a file system. Its map leads straight
 * to the units that were opened, however many layers lie between, so that reading through a view costs what
 * reading the units costs. For reading only.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitExtent, UnitHandle } from '../lu/logical-unit.ts';
import { checkRange } from '../lu/ranges.ts';
import { compose } from '../mapping/compose.ts';
import { ExtentMap, type ExtentMapHandle } from '../mapping/extent-map.ts';
import { DiskReader } from './reader.ts';

export interface ViewParts {
  /** For messages: the address. */
  readonly name: string;
  /** Over `units`. */
  readonly map: ExtentMap;
  /** Opened units; a view of a view has those of its parent. */
  readonly units: readonly LogicalUnit[];
  readonly identity: string;
}

/** A view as plain data, for worker threads. */
export interface ViewHandle {
  readonly kind: 'view';
  readonly name: string;
  readonly identity: string;
  readonly map: ExtentMapHandle;
  readonly units: readonly UnitHandle[];
}

export class ViewUnit implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly canWrite = false;
  readonly map: ExtentMap;
  readonly units: readonly LogicalUnit[];
  private readonly reader: DiskReader;
  private closed = false;

  constructor(parts: ViewParts) {
    this.name = parts.name;
    this.size = parts.map.size;
    this.identity = parts.identity;
    this.map = parts.map;
    this.units = parts.units;
    this.reader = new DiskReader(parts);
  }

  generation(): string {
    return this.units.map((unit) => unit.generation()).join(' ');
  }

  read(offset: ByteOffset, target: Uint8Array): Completion {
    this.check({ offset, length: target.length }, 'read');
    return this.reader.readInto(offset, target);
  }

  /** Zeros by the map and, below it, holes of the units. */
  extents(range: ByteRange, limit = 64): readonly UnitExtent[] | Promise<readonly UnitExtent[]> {
    this.check(range, 'extents');
    return this.collect(range.offset, range.offset + range.length, limit);
  }

  private async collect(from: ByteOffset, end: ByteOffset, limit: number): Promise<readonly UnitExtent[]> {
    const found: UnitExtent[] = [];
    for (let at = from; at < end && found.length < limit; ) {
      const zero = await this.reader.zeroUntil(at, end);
      if (zero > at) found.push({ offset: at, length: zero - at, kind: 'zero' });
      at = zero;
      if (at >= end || found.length >= limit) break;
      const data = await this.reader.dataUntil(at, end);
      found.push({ offset: at, length: data - at, kind: 'data' });
      at = data;
    }
    return found;
  }

  write(offset: ByteOffset, source: Uint8Array): never {
    throw this.refusal('write', { offset, length: source.length });
  }
  zero(range: ByteRange): never {
    throw this.refusal('zero', range);
  }
  flush(): undefined {
    return undefined;
  }

  /** Workers get the map below, not the view; see `attach.ts`. */
  handle(): UnitHandle {
    throw new DriftmapError('internal', 'a view is posted by viewHandle()', { path: this.name });
  }

  viewHandle(): ViewHandle {
    const { name, identity, map, units } = this;
    return { kind: 'view', name, identity, map: map.handle(), units: units.map((unit) => unit.handle()) };
  }

  /** The units stay open: whoever opened them closes them. */
  close(): undefined {
    this.closed = true;
    return undefined;
  }

  private check(range: ByteRange, operation: string): void {
    if (this.closed)
      throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
    checkRange(this, range, operation);
  }

  private refusal(operation: string, range: ByteRange): DriftmapError {
    return new DriftmapError('permission', 'a place inside a logical unit is opened for reading only', {
      path: this.name,
      ...range,
      operation,
    });
  }
}

/**
 * A view of part of `parents`, of which some may be views themselves: `map` is over them, and is led through
 * to the units below. `place` tells this part of the parents from every other.
 */
export function viewOver(
  parents: readonly LogicalUnit[],
  map: ExtentMap,
  name: string,
  place: string,
): ViewUnit {
  const units: LogicalUnit[] = [];
  const inner: ExtentMap[] = [];
  for (const parent of parents) {
    const view = parent instanceof ViewUnit ? parent : null;
    inner.push(
      view ? view.map.withUnitsShifted(units.length) : ExtentMap.identity(parent.size, units.length),
    );
    units.push(...(view ? view.units : [parent]));
  }
  const identity = `${parents.map((parent) => parent.identity).join('+')}/${place}`;
  return new ViewUnit({ name, map: compose(map, inner), units, identity });
}

/**
 * A disk's map led through its views to the units below, and the table of those. The views stay in the table,
 * after the others, for compressed clusters whose stored bytes lie apart; without views nothing changes.
 */
export function flattened(
  map: ExtentMap,
  units: readonly LogicalUnit[],
): { readonly map: ExtentMap; readonly units: readonly LogicalUnit[] } {
  const views = units.filter((unit) => unit instanceof ViewUnit);
  if (views.length === 0) return { map, units };
  const below: LogicalUnit[] = [];
  const inner: ExtentMap[] = [];
  for (const unit of units) {
    const first = below.length;
    inner.push(
      unit instanceof ViewUnit ? unit.map.withUnitsShifted(first) : ExtentMap.identity(unit.size, first),
    );
    below.push(...(unit instanceof ViewUnit ? unit.units : [unit]));
  }
  const view = units.map((unit) => (unit instanceof ViewUnit ? below.length + views.indexOf(unit) : null));
  return { map: compose(map, inner, { view }), units: [...below, ...views] };
}
