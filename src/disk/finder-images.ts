/** What the finder tells of a virtual disk: its format, size and class, and how much of it is data. */

import { DriftmapError, type ErrorKind } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { type ExtentMap, isZero, Kind } from '../mapping/extent-map.ts';
import type { LoneImage } from './chain.ts';
import { guessedFormat, isPlainFile, namedFormat } from './policy.ts';
import { flattened, ViewUnit } from './view-unit.ts';

export interface SearchOptions {
  /** Also files whose contents alone look like an image, parts of other disks, and places with a file system. */
  readonly all?: boolean | undefined;
  /** As for `openDisk`. */
  readonly allowOutside?: boolean | undefined;
}

export interface FoundDisk {
  /** What `openDisk` takes. */
  readonly address: string;
  readonly format: string;
  /** Virtual bytes. */
  readonly size: ByteCount;
  /**
   * What a file system or the disk itself says of its storage: `thick` where every byte has some, `thin` where
   * not, `differencing` over a parent, or a word of VMFS; `unit`, `partition`, `volume` for a disk that takes
   * all of one.
   */
  readonly class: string;
  /** Virtual bytes that it holds as data, its parents' not counted. */
  readonly data: ByteCount;
  /** Address of the image that shows through it; null where it stands alone. */
  readonly parent: string | null;
  /** Address of the image that it is a part of; null for a disk of its own. */
  readonly partOf: string | null;
  /** The file system that lies on it, on a place that was looked into; null elsewhere. */
  readonly holds: string | null;
}

/** What a search comes upon. A warning is one line. */
export type Finding =
  | { readonly what: 'disk'; readonly disk: FoundDisk }
  | {
      readonly what: 'refused';
      readonly address: string;
      readonly reason: string;
      readonly kind: ErrorKind;
    }
  | { readonly what: 'warning'; readonly message: string };

/** @throws what is no error about the disks: a broken promise of our own code is not hidden */
export function refused(address: string, error: unknown): Finding & { readonly what: 'refused' } {
  if (!(error instanceof DriftmapError) || error.kind === 'internal') throw error;
  const prefix = `${address}: `;
  const reason = error.message.startsWith(prefix) ? error.message.slice(prefix.length) : error.message;
  return { what: 'refused', address, reason, kind: error.kind };
}

/** A disk that takes all of a unit, a partition or a volume. */
export async function describeRaw(
  unit: LogicalUnit,
  address: string,
  layer: 'unit' | 'partition' | 'volume',
  holds: string | null,
): Promise<FoundDisk> {
  const data = unit instanceof ViewUnit ? dataOf(unit.map) : await dataOfUnit(unit);
  const { size } = unit;
  return { address, format: 'raw', size, class: layer, data, parent: null, partOf: null, holds };
}

export function describeImage({ path, map, units, layer, parent }: LoneImage): FoundDisk {
  const data = dataOf(flattened(map, units).map);
  const { size } = map;
  return {
    address: path,
    format: layer.format,
    size,
    class: parent === null ? (storageOf(map, units) ?? (data === size ? 'thick' : 'thin')) : 'differencing',
    data,
    parent,
    partOf: null,
    holds: null,
  };
}

/** The file system's word counts where the disk is nothing but bytes of its files: raw, or a flat VMDK. */
function storageOf(map: ExtentMap, units: readonly LogicalUnit[]): string | null {
  for (let index = 0; index < map.count; index++) if (map.kindOf(index) !== Kind.data) return null;
  const [first] = units;
  return first instanceof ViewUnit ? (first.origin?.storage ?? null) : null;
}

function dataOf(map: ExtentMap): ByteCount {
  let data = 0;
  for (let index = 0; index < map.count; index++) {
    if (!isZero(map.kindOf(index))) data += map.endOf(index) - map.startOf(index);
  }
  return data;
}

/** What the unit does not know to be zero. */
async function dataOfUnit(unit: LogicalUnit): Promise<ByteCount> {
  let data = 0;
  for (let offset = 0; offset < unit.size; ) {
    for (const { kind, length } of await unit.extents({ offset, length: unit.size - offset })) {
      if (kind === 'data') data += length;
      offset += length;
    }
  }
  return data;
}

/** Whether a unit is an image itself, as its name and its contents say together. */
export async function isImage(unit: LogicalUnit): Promise<boolean> {
  if (namedFormat(unit.name) === null || !isPlainFile(unit)) return false;
  try {
    const { format, trusted } = await guessedFormat(unit, unit.name, true);
    return trusted && format !== 'raw';
  } catch (error) {
    if (error instanceof DriftmapError && (error.kind === 'malformed' || error.kind === 'unsupported')) {
      return false;
    }
    throw error;
  }
}
