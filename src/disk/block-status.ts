/**
 * The runs of a disk as `qemu-img map --output=json` prints them (QEMU 7.2: `bdrv_co_block_status` in
 * block/io.c, `qcow2_co_block_status` in block/qcow2.c, `entry_mergeable` in qemu-img.c).
 *
 * A run of the map becomes one or more statuses, and neighbours that agree are merged. Four of QEMU's rules
 * go beyond the map:
 *
 *   - a raw image tells the holes of its file, as zeros that have an offset;
 *   - a qcow2 cluster that the end of the file cuts is data to its end;
 *   - a subcluster that is unallocated in a cluster that has storage is told with its place;
 *   - where an image holds many more clusters than its file has storage for, its metadata was preallocated,
 *     and the file is asked which clusters are holes: those are data and zero at once.
 */

import { statSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import type { LogicalUnit, UnitExtent } from '../lu/logical-unit.ts';
import { type Extent, type ExtentMap, isPacked, isZero, Kind } from '../mapping/extent-map.ts';
import type { Qcow2Header } from './formats/qcow2-header.ts';
import { countUsedClusters } from './formats/qcow2-refcounts.ts';
import { readQcow2Map } from './formats/qcow2-tables.ts';
import { type Layer, MappedDisk } from './mapped-disk.ts';
import type { VirtualDisk } from './virtual-disk.ts';

export interface BlockStatus {
  readonly start: ByteOffset;
  readonly length: ByteCount;
  /** How far down the backing chain. */
  readonly depth: number;
  /** Some layer of the chain allocates it. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** Where it lies on the unit; absent where it lies nowhere, or compressed. */
  readonly offset?: ByteOffset;
  /** Index into the disk's units. */
  readonly unit: number;
}

/**
 * Yields the runs in order; together they cover the disk.
 * @throws DriftmapError `argument` for a disk that `openDisk` has not opened
 */
export async function* blockStatus(disk: VirtualDisk): AsyncGenerator<BlockStatus, undefined> {
  if (!(disk instanceof MappedDisk)) {
    throw new DriftmapError('argument', 'expected a disk that openDisk has opened', { path: disk.name });
  }
  const layers: LayerStatus[] = [];
  for (const layer of disk.layers) layers.push(await layerStatus(layer));
  let last: BlockStatus | undefined;
  for (const extent of disk.map.extents()) {
    for await (const next of statuses(extent, layers[extent.depth] ?? null)) {
      if (last === undefined) {
        last = next;
      } else if (continues(last, next)) {
        last = { ...last, length: last.length + next.length };
      } else {
        yield last;
        last = next;
      }
    }
  }
  if (last !== undefined) yield last;
  return undefined;
}

function continues(last: BlockStatus, next: BlockStatus): boolean {
  if (last.zero !== next.zero || last.data !== next.data) return false;
  if (last.depth !== next.depth || last.present !== next.present) return false;
  if (last.offset === undefined || next.offset === undefined) return last.offset === next.offset;
  return last.unit === next.unit && last.offset + last.length === next.offset;
}

async function* statuses(
  { offset: start, length, kind, depth, unit, place }: Extent,
  status: LayerStatus | null,
): AsyncGenerator<BlockStatus, undefined> {
  const base = { depth, unit };
  const { layer, preallocated, allocated } = status ?? plainLayer;
  if (layer !== null && kind === Kind.data && (layer.format === 'raw' || preallocated)) {
    for await (const part of unitExtents(layer.data, { offset: place, length })) {
      const zero = part.kind !== 'data';
      const data = !zero || layer.format !== 'raw';
      const at = { start: start + part.offset - place, length: part.length, offset: part.offset };
      yield { ...base, ...at, present: true, zero, data };
    }
  } else if (isZero(kind) && allocated !== null) {
    for (const part of allocated.extents({ offset: start, length })) {
      const cut = part.kind === Kind.data;
      yield { ...base, ...placeOf(part), present: kind === Kind.zero, zero: !cut || preallocated, data: cut };
    }
  } else {
    const at = isPacked(kind) ? { start, length } : placeOf({ offset: start, length, place });
    const zero = isZero(kind);
    yield { ...base, ...at, present: kind !== Kind.unallocated, zero, data: !zero };
  }
  return undefined;
}

function placeOf({ offset, length, place }: Pick<Extent, 'offset' | 'length' | 'place'>) {
  return place < 0 ? { start: offset, length } : { start: offset, length, offset: place };
}

/** All of a range, in as many questions as it takes. */
async function* unitExtents(unit: LogicalUnit, range: ByteRange): AsyncGenerator<UnitExtent, undefined> {
  const end = range.offset + range.length;
  for (let offset = range.offset; offset < end; ) {
    const extents = await unit.extents({ offset, length: end - offset });
    for (const extent of extents) {
      yield extent;
      offset = extent.offset + extent.length;
    }
  }
  return undefined;
}

/** What the map does not say of a layer. */
interface LayerStatus {
  /** Null where the map is all that there is to say. */
  readonly layer: Layer | null;
  readonly preallocated: boolean;
  /** Its own map with storage that reads as zeros shown; null where that says nothing new. */
  readonly allocated: ExtentMap | null;
}

const plainLayer: LayerStatus = { layer: null, preallocated: false, allocated: null };

async function layerStatus(layer: Layer): Promise<LayerStatus> {
  const { header, file, data, cutTail } = layer;
  if (header === null) return { layer, preallocated: false, allocated: null };
  const preallocated = await isMetadataPreallocated(file, header);
  if (!header.extendedL2 && cutTail === 0) return { layer, preallocated, allocated: null };
  const { map } = await readQcow2Map(file, header, data.size, { asAllocated: true });
  return { layer, preallocated, allocated: map };
}

/** QEMU's rule (`qcow2_detect_metadata_preallocation`): a ninth more clusters in use than are stored, and two more. */
async function isMetadataPreallocated(file: LogicalUnit, header: Qcow2Header): Promise<boolean> {
  const handle = file.handle();
  if (handle.kind !== 'file') return false;
  // By its name, as there is no descriptor here: a file that has moved since only loses this finer point.
  const stat = statSync(handle.path, { throwIfNoEntry: false });
  if (stat === undefined) return false;
  const stored = Math.floor((stat.blocks * 512) / header.clusterSize);
  const threshold = Math.max(Math.floor((stored * 10) / 9), stored + 2);
  try {
    return (await countUsedClusters(file, header, threshold)) >= threshold;
  } catch (error) {
    // Damaged counts do not keep a disk from being read, nor from being described.
    if (error instanceof DriftmapError && error.kind === 'malformed') return false;
    throw error;
  }
}
