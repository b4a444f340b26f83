/**
 * Logical volumes as maps over the units of their group.
 *
 * A segment lies on areas: runs of a physical volume, or of another logical volume, whose own map is then
 * composed with it. A thin volume lies on its pool's data volume by the pool's metadata (thin-metadata.ts),
 * and the data volume on units: two maps, composed. What is not read is refused by name: raid, mirror, cache,
 * writecache, vdo and snapshots need more than a map (a choice of copies, or a second place that holds what
 * is newer).
 */

import { DriftmapError } from '../../base/errors.ts';
import { LVM_MAX_VOLUME_DEPTH } from '../../base/limits.ts';
import type { ByteCount } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { compose } from '../../mapping/compose.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { overlay } from '../../mapping/overlay.ts';
import type { ByteSource } from '../formats/byte-source.ts';
import { DiskReader } from '../reader.ts';
import {
  type LogicalEntry,
  type PhysicalEntry,
  readStripes,
  readThinPool,
  readThinVolume,
  type Segment,
  type VolumeGroup,
} from './lvm-metadata.ts';
import { readThinMap } from './thin-map.ts';

/** Index of the unit that carries a physical volume; `twice` where several say that they do. */
export type UnitsByUuid = ReadonlyMap<string, number | 'twice'>;

/** Types whose segments lie on areas directly. */
const PLAIN: readonly string[] = ['linear', 'striped', 'zero'];

/** In one word what a volume is: for listings, and for the refusal of what is not read. */
export function kindOf(group: VolumeGroup, volume: LogicalEntry): string {
  const role = group.snapshotRoles.get(volume.name);
  if (role !== undefined) return role;
  const { segments } = volume;
  const special = segments.find(({ type }) => !PLAIN.includes(type));
  if (special) return special.type;
  if (segments.some(({ type, fields }) => type === 'striped' && fields.integer('stripe_count') > 1)) {
    return 'striped';
  }
  return segments.length > 0 && segments.every(({ type }) => type === 'zero') ? 'zero' : 'linear';
}

/** Maps the volumes of one group. */
export class VolumeMapper {
  private readonly group: VolumeGroup;
  private readonly units: readonly LogicalUnit[];
  private readonly unitsByUuid: UnitsByUuid;
  private readonly path: string;
  private readonly bytesOfUnits: ByteCount;
  /** By the name of a volume that was mapped. */
  private readonly read = new Map<string, readonly number[]>();

  /** @param path the unit whose metadata was believed, for errors */
  constructor(group: VolumeGroup, units: readonly LogicalUnit[], unitsByUuid: UnitsByUuid, path: string) {
    this.group = group;
    this.units = units;
    this.unitsByUuid = unitsByUuid;
    this.path = path;
    this.bytesOfUnits = units.reduce((sum, unit) => sum + unit.size, 0);
  }

  /** A map over the units that were handed in, of the volume's size. */
  async map(name: string): Promise<ExtentMap> {
    const done = new Map<string, ExtentMap>();
    const map = await this.mapOf(name, [], done);
    const read = new Set([...done.values()].flatMap((each) => [...unitsIn(each)]));
    this.read.set(
      name,
      [...read].sort((a, b) => a - b),
    );
    return map;
  }

  /** The units that a volume's map leads to or was read from (a thin pool's metadata), once it is there. */
  unitsOf(name: string): readonly number[] {
    return this.read.get(name) ?? [];
  }

  private async mapOf(
    name: string,
    above: readonly string[],
    done: Map<string, ExtentMap>,
  ): Promise<ExtentMap> {
    const known = done.get(name);
    if (known) return known;
    const volume = this.volume(name);
    if (above.includes(name)) {
      throw this.failure('malformed', `volume ${name} lies on itself: ${[...above, name].join(' → ')}`);
    }
    if (above.length >= LVM_MAX_VOLUME_DEPTH) {
      throw this.failure('limit', `expected at most ${LVM_MAX_VOLUME_DEPTH} volumes, one on the other`);
    }
    this.refuseUnread(volume);
    const trail = [...above, name];
    const thin = volume.segments.find(({ type }) => type === 'thin');
    const map =
      thin === undefined
        ? await this.plainMap(volume, trail, done)
        : await this.thinMap(volume, thin, trail, done);
    done.set(name, map);
    return map;
  }

  private volume(name: string): LogicalEntry {
    const volume = this.group.logical.get(name);
    if (volume) return volume;
    throw this.failure('malformed', `a segment names a volume that is not in the group: '${name}'`);
  }

  private refuseUnread(volume: LogicalEntry): void {
    const { name, segments } = volume;
    const kind = kindOf(this.group, volume);
    if (kind === 'thin-pool') {
      const reason = `volume ${name} is a thin pool, which holds no disk itself: name one of its thin volumes`;
      throw this.failure('unsupported', reason);
    }
    if (kind === 'merging') {
      const reason = `a snapshot is being merged into volume ${name}: let the merge end first`;
      throw this.failure('unsupported', reason);
    }
    if (kind !== 'thin' && kind !== 'striped' && !PLAIN.includes(kind)) {
      const reason = `volume ${name} is of kind ${kind}, which driftmap does not read: it reads linear, striped and thin volumes`;
      throw this.failure('unsupported', reason);
    }
    this.refuseFlags(name, segments);
  }

  /** Flags behind a segment's type are features that a reader has to know. This one only bounds a pool's growth. */
  private refuseFlags(name: string, segments: readonly Segment[]): void {
    for (const { type, flags } of segments) {
      const unknown = flags.find((flag) => type !== 'thin-pool' || flag !== 'CROP_METADATA');
      if (unknown === undefined) continue;
      const reason = `volume ${name} has a segment with the flag ${unknown}, which driftmap does not know`;
      throw this.failure('unsupported', reason);
    }
  }

  private async plainMap(
    volume: LogicalEntry,
    trail: readonly string[],
    done: Map<string, ExtentMap>,
  ): Promise<ExtentMap> {
    const { extentSize } = this.group;
    // First: without one of its units a volume may well be larger than the others, and is not damaged for that.
    this.needUnits(volume);
    const placed = volume.segments.reduce((sum, { type, count }) => sum + (type === 'zero' ? 0 : count), 0);
    if (placed * extentSize > this.bytesOfUnits) {
      const reason = `volume ${volume.name} has ${placed} extents of ${extentSize} bytes on units of ${this.bytesOfUnits} bytes in all`;
      throw this.failure('malformed', reason);
    }
    // Volumes that this one lies on stand behind the units, as units of their own, until they are composed.
    const inner = new Map<string, number>();
    const builder = new ExtentMapBuilder();
    for (const segment of volume.segments) {
      if (segment.type !== 'zero') this.appendAreas(builder, segment, inner);
      else appendZero(builder, segment.count * extentSize);
    }
    const map = builder.finish();
    if (inner.size === 0) return map;
    const maps: (ExtentMap | null)[] = this.units.map(() => null);
    for (const name of inner.keys()) maps.push(await this.mapOf(name, trail, done));
    return compose(map, maps);
  }

  /** @throws DriftmapError `not-found` where a physical volume that a volume lies on is on none of the units */
  private needUnits({ name, segments }: LogicalEntry): void {
    for (const segment of segments) {
      if (segment.type === 'zero') continue;
      for (const area of readStripes(segment).areas) {
        const entry = this.group.physical.get(area.name);
        if (entry) this.unitOf(area.name, entry, `volume ${name}: `);
      }
    }
  }

  private appendAreas(builder: ExtentMapBuilder, segment: Segment, inner: Map<string, number>): void {
    const { extentSize } = this.group;
    const { areas, stripeSize } = readStripes(segment);
    const perArea = segment.count / areas.length;
    const length = perArea * extentSize;
    const places = areas.map(({ name, first }) => this.placeOf(name, first, perArea, segment, inner));
    const step = stripeSize === 0 ? length : stripeSize;
    if (length % step !== 0) {
      throw segment.fields.malformed(`expected ${length} bytes to be a multiple of the stripe of ${step}`);
    }
    for (let row = 0; row < length; row += step) {
      for (const { unit, place } of places) {
        builder.append({
          offset: builder.size,
          length: step,
          kind: Kind.data,
          unit,
          place: place + row,
          depth: 0,
        });
      }
    }
  }

  /** Unit and offset of a run of extents; LVM looks for a physical volume of the name first. */
  private placeOf(
    name: string,
    first: number,
    count: number,
    segment: Segment,
    inner: Map<string, number>,
  ): { unit: number; place: number } {
    const { extentSize, physical } = this.group;
    const volume = physical.get(name);
    if (volume) {
      if (first + count > volume.extents) {
        const reason = `expected extents within the ${volume.extents} of ${name}, got ${first} to ${first + count - 1}`;
        throw segment.fields.malformed(reason);
      }
      const unit = this.unitOf(name, volume);
      const place = volume.start + first * extentSize;
      const { name: path, size } = this.units[unit]!;
      if (place + count * extentSize > size) {
        const reason = `${segment.fields.what} ends at byte ${place + count * extentSize} of this physical volume, past its end (${size} bytes): it is cut short`;
        throw new DriftmapError('malformed', reason, { path, offset: place, length: count * extentSize });
      }
      return { unit, place };
    }
    const below = this.group.logical.get(name);
    if (!below || first + count > below.extents) {
      throw segment.fields.malformed(`there is no volume '${name}' of ${first + count} extents to lie on`);
    }
    const unit = inner.get(name) ?? this.units.length + inner.size;
    inner.set(name, unit);
    return { unit, place: first * extentSize };
  }

  /** @param volume for messages: the volume that needs it */
  private unitOf(name: string, { uuid, missing }: PhysicalEntry, volume = ''): number {
    const unit = this.unitsByUuid.get(uuid);
    const dashed = `${uuid.slice(0, 6)}-${uuid.slice(6, 26).replace(/(.{4})/g, '$1-')}${uuid.slice(26)}`;
    const which = `${volume}physical volume ${name} (${dashed})`;
    if (unit === undefined) {
      const reason = `${which} is on none of the units: name the unit that it is on as well`;
      throw this.failure('not-found', reason);
    }
    if (unit === 'twice') {
      const reason = `${which} is on several of the units: name one copy only`;
      throw this.failure('mismatch', reason);
    }
    if (missing) {
      const reason = `${which} was away when the group was changed, and may hold old data: vgextend --restoremissing takes it back`;
      throw this.failure('mismatch', reason);
    }
    return unit;
  }

  private async thinMap(
    volume: LogicalEntry,
    segment: Segment,
    trail: readonly string[],
    done: Map<string, ExtentMap>,
  ): Promise<ExtentMap> {
    const { name, segments, extents } = volume;
    if (segments.length > 1) throw this.failure('malformed', `thin volume ${name} has several segments`);
    const thin = readThinVolume(segment);
    if (thin.merging) {
      const reason = `a snapshot is being merged into volume ${name}: let the merge end first`;
      throw this.failure('unsupported', reason);
    }
    const poolVolume = this.volume(thin.pool);
    const [poolSegment] = poolVolume.segments;
    if (poolSegment?.type !== 'thin-pool' || poolVolume.segments.length > 1) {
      throw segment.fields.malformed(`expected '${thin.pool}' to be a thin pool of one segment`);
    }
    this.refuseFlags(thin.pool, poolVolume.segments);
    const pool = readThinPool(poolSegment);
    const metadata = await this.sourceOf(pool.metadata, trail, done);
    const data = await this.mapOf(pool.data, trail, done);
    const origin = thin.origin === null ? null : await this.mapOf(thin.origin, trail, done);
    const map = await readThinMap(metadata, {
      device: thin.device,
      size: extents * this.group.extentSize,
      blockSize: pool.blockSize,
      transaction: pool.transaction,
      pending: pool.pending,
      dataSize: data.size,
      originSize: origin?.size ?? 0,
    });
    const placed = compose(map, data);
    return origin === null ? placed : overlay(placed, origin, { units: 0, depth: 1 });
  }

  /** A volume's bytes, read through its map. */
  private async sourceOf(
    name: string,
    trail: readonly string[],
    done: Map<string, ExtentMap>,
  ): Promise<ByteSource> {
    const map = await this.mapOf(name, trail, done);
    const label = `${this.path}:${this.group.name}/${name}`;
    const reader = new DiskReader({ name: label, map, units: this.units });
    return {
      name: label,
      size: map.size,
      read: (offset, target) => reader.readInto(offset, target),
    };
  }

  private failure(kind: DriftmapError['kind'], reason: string): DriftmapError {
    return new DriftmapError(kind, `LVM2 volume group ${this.group.name}: ${reason}`, { path: this.path });
  }
}

function unitsIn(map: ExtentMap): Set<number> {
  const found = new Set<number>();
  for (let index = 0; index < map.count; index++) if (map.placeOf(index) >= 0) found.add(map.unitOf(index));
  return found;
}

function appendZero(builder: ExtentMapBuilder, length: ByteCount): void {
  builder.append({ offset: builder.size, length, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
}
