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
  readonly origin?: ViewOrigin | null;
  /** Those of the units whose writes may change what the view holds; all of them when absent. */
  readonly sources?: readonly LogicalUnit[];
}

/** What a view is of, one layer down: for explaining. Attached views have none. */
export interface ViewOrigin {
  readonly layer: 'partition' | 'volume' | 'file';
  /** As in an address: `gpt2`, `lvm:vg/home`, `ext4:/vm.qcow2`. */
  readonly step: string;
  /** Over `parents`, of which some may be views themselves. */
  readonly map: ExtentMap;
  readonly parents: readonly LogicalUnit[];
  /** `thin`, `thick` …, where the file system tells; null elsewhere. */
  readonly storage: string | null;
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
  readonly origin: ViewOrigin | null;
  /** Opened units: those that bytes lie on, and those whose tables say where. Each once, by identity. */
  readonly sources: readonly LogicalUnit[];
  private readonly reader: DiskReader;
  private closed = false;

  constructor(parts: ViewParts) {
    this.name = parts.name;
    this.size = parts.map.size;
    this.identity = parts.identity;
    this.map = parts.map;
    this.units = parts.units;
    this.origin = parts.origin ?? null;
    this.sources = sourcesOf(parts.sources ?? parts.units);
    this.reader = new DiskReader(parts);
  }

  /** One of each source, in an order that does not depend on how the units were named. */
  generation(): string {
    return this.sources.map((unit) => unit.generation()).join(' ');
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

/** A step inwards, from units or views to a part of them. */
export interface ViewStep extends Omit<ViewOrigin, 'storage'> {
  /** Parents that tables were read from and that the map may not lead to: a thin pool's metadata. */
  readonly tables?: readonly LogicalUnit[] | undefined;
  /** For messages: the address. */
  readonly name: string;
  readonly storage?: string | undefined;
}

/**
 * A view of part of `parents`: its map is led through to the units below. Its identity is that of the parents
 * that it lies on, in whichever order and beside whichever others they were named, and the step, which tells
 * this part from every other.
 * @throws DriftmapError `malformed` where the map leads out of a parent
 */
export function viewOver({ name, layer, step, map, parents, storage, tables = [] }: ViewStep): ViewUnit {
  const { units, inner } = unitsBelow(parents);
  const used = parents.filter((_, index) => isUsed(map, index));
  const identities = used.map((parent) => parent.identity).sort();
  const identity = `${identities.join('+')}/${step}`;
  // A partition or a file lies on one parent, whose tables it depends on even where all of it is a hole.
  const sources = layer === 'volume' ? [...used, ...tables] : parents;
  const origin: ViewOrigin = { layer, step, map, parents, storage: storage ?? null };
  try {
    return new ViewUnit({ name, map: compose(map, inner), units, identity, origin, sources });
  } catch (error) {
    throw withPath(error, name);
  }
}

/** The opened units that some units and views depend on: each once, by identity, however they were named. */
export function sourcesOf(units: readonly LogicalUnit[]): LogicalUnit[] {
  const opened = new Set(units.flatMap((unit) => (unit instanceof ViewUnit ? unit.sources : [unit])));
  // Twins (a file and its snapshot) have one identity.
  const keys = new Map([...opened].map((unit) => [unit, `${unit.identity}\0${unit.name}`]));
  return [...opened].sort((a, b) => (keys.get(a)! < keys.get(b)! ? -1 : 1));
}

function isUsed(map: ExtentMap, unit: number): boolean {
  for (let index = 0; index < map.count; index++) {
    if (map.placeOf(index) >= 0 && map.unitOf(index) === unit) return true;
  }
  return false;
}

/** The units below some units and views, each once, and a map to them for every one. */
function unitsBelow(tops: readonly LogicalUnit[]): { units: LogicalUnit[]; inner: ExtentMap[] } {
  const numbers = new Map<LogicalUnit, number>();
  const numberOf = (unit: LogicalUnit) => {
    const number = numbers.get(unit) ?? numbers.size;
    numbers.set(unit, number);
    return number;
  };
  const inner = tops.map((top) =>
    top instanceof ViewUnit
      ? top.map.withUnits(top.units.map(numberOf))
      : ExtentMap.identity(top.size, numberOf(top)),
  );
  return { units: [...numbers.keys()], inner };
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
  const { units: below, inner } = unitsBelow(units);
  const view = units.map((unit) => (unit instanceof ViewUnit ? below.length + views.indexOf(unit) : null));
  return { map: compose(map, inner, { view }), units: [...below, ...views] };
}

/** Whether a unit is a file of a file system inside units: where it lies may change with every write to those. */
export function isFileInside(unit: LogicalUnit): boolean {
  return unit instanceof ViewUnit && unit.origin?.layer === 'file';
}

/** A map that is wrong or grows too large knows no path. */
export function withPath(error: unknown, path: string): unknown {
  if (!(error instanceof DriftmapError) || error.path !== undefined) return error;
  return DriftmapError.fromPlain({ ...error.toPlain(), path, message: `${path}: ${error.message}` });
}
