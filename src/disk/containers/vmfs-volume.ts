/**
 * The volume that a VMFS file system lies on: its logical volume manager, as far as one logical unit goes.
 *
 * VMware has published no specification. What is known was found by others, and is written down in two free
 * programs whose descriptions are followed here: vmfs-tools (C. Fillot, M. Hommey; libvmfs/vmfs_volume.h) and
 * dissect.vmfs (Fox-IT; c_lvm.py), which has the structures' names.
 *
 * One MiB into the unit is the device's header; 512 bytes on, the descriptor of its one volume; and at
 * 0x80200 from the header a bitmap and a table of physical extents, each of 256 MiB: entries of 128 bytes that
 * say which part of the volume lies where on the unit. A table has room for 8192 extents; more follow it
 * directly, eight at most, and then in further regions that are chained. Nearly always the extents adjoin, and
 * the volume is one run that begins 17 MiB into the unit.
 */

import { DriftmapError } from '../../base/errors.ts';
import { VMFS_MAX_PHYSICAL_EXTENTS } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';

/** Where the header is, from the start of the unit (a whole disk has its partition in between). */
export const VMFS_DEVICE_OFFSET = 0x100000;
export const VMFS_DEVICE_MAGIC = 0xc001d00d;
const HEADER_BYTES = 1024;
const DESCRIPTOR = 512;
/** Major versions: ESX 3 and 4 write 3 and 4, ESXi 5 writes 5, ESXi 6 and later 6 with VMFS 6. */
const VERSIONS: readonly number[] = [3, 4, 5];
/** From the header, or from the head of a further region, to its first bitmap of extents. */
const FIRST_MAP = 0x80200;
const BITMAP_BYTES = 1024;
const ENTRY_BYTES = 128;
const ENTRIES_PER_MAP = 8192;
const MAPS_PER_REGION = 8;
/** Entries of a table read at a time. */
const ENTRIES_READ = 1024;

export interface VmfsDevice {
  readonly volumeSize: ByteCount;
  /** The volume's UUID and snapshot number, 20 bytes: the file system names the volume that it was made on by them. */
  readonly volumeId: Uint8Array;
  readonly warnings: readonly string[];
}

/** Whether a VMware device header stands where it should: VMFS of any version, or VMFS-L. */
export async function hasVmfsDevice(source: ByteSource): Promise<boolean> {
  if (source.size < VMFS_DEVICE_OFFSET + HEADER_BYTES) return false;
  const magic = new Uint8Array(4);
  await readWhole(source, 'the VMFS device header', VMFS_DEVICE_OFFSET, magic);
  return viewOf(magic).getUint32(0, true) === VMFS_DEVICE_MAGIC;
}

/** A volume as runs of the unit. Everything above it counts from the volume's start. */
export class VmfsVolume {
  readonly source: ByteSource;
  readonly device: VmfsDevice;
  private readonly runs: Runs;
  /** The run found last: what lies together is asked for in order. */
  private last = 0;

  private constructor(source: ByteSource, device: VmfsDevice, runs: Runs) {
    this.source = source;
    this.device = device;
    this.runs = runs;
  }

  /**
   * Reads and checks the device's header, the volume's descriptor and the extents.
   * @throws DriftmapError `malformed`; `unsupported` for VMFS 6 and for a volume of several units
   */
  static async open(source: ByteSource): Promise<VmfsVolume> {
    const bytes = new Uint8Array(HEADER_BYTES);
    await readWhole(source, 'the VMFS device header', VMFS_DEVICE_OFFSET, bytes);
    const header = readHeader(source, viewOf(bytes));
    const { volumeSize, volumeNumber } = readDescriptor(source, viewOf(bytes), header);
    const extents = await readExtents(source, header, volumeNumber);
    const runs = joined(source, extents, volumeSize);
    const volumeId = bytes.slice(DESCRIPTOR + 84, DESCRIPTOR + 104);
    return new VmfsVolume(source, { volumeSize, volumeId, warnings: header.warnings }, runs);
  }

  get path(): string {
    return this.source.name;
  }

  /**
   * Where a run of the volume lies on the unit.
   * @throws DriftmapError `malformed` for what lies past the end of the volume or the unit, or in two pieces
   */
  placeOf(what: string, offset: ByteOffset, length: ByteCount): ByteOffset {
    const { starts, places } = this.runs;
    let run = this.last;
    if (!(offset >= starts[run]! && offset < starts[run + 1]!)) run = this.find(offset);
    const place = places[run]! + (offset - starts[run]!);
    // Written so that no value that is not a number passes.
    if (offset + length <= starts[run + 1]! && place + length <= this.source.size) {
      this.last = run;
      return place;
    }
    throw this.outside(what, offset, length, place);
  }

  private find(offset: ByteOffset): number {
    const { starts } = this.runs;
    let low = 0;
    let high = starts.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle;
    }
    return low;
  }

  private outside(what: string, offset: ByteOffset, length: ByteCount, place: ByteOffset): DriftmapError {
    const { volumeSize } = this.device;
    const { size } = this.source;
    let reason = `${what} is at ${offset} of the VMFS volume, in two physical extents that do not adjoin`;
    if (!(offset + length <= volumeSize)) {
      reason = `${what} is said to be at ${offset} of the VMFS volume, past its end (${volumeSize} bytes)`;
    } else if (place + length > size) {
      reason = `${what} lies past the end of the unit (${size} bytes), which is cut short`;
    }
    return new DriftmapError('malformed', reason, { path: this.path, offset: place, length });
  }
}

/** The volume as ascending runs: `starts` in the volume, with its size as the last one; `places` on the unit. */
interface Runs {
  readonly starts: Float64Array;
  readonly places: Float64Array;
}

interface Header {
  readonly extents: number;
  readonly dataOffset: ByteOffset;
  /** Bitmaps with their tables in the header's own region. */
  readonly maps: number;
  /** Where the next region is; 0 where there is none. */
  readonly nextRegion: ByteOffset;
  readonly warnings: readonly string[];
}

function malformed(source: ByteSource, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', reason, { path: source.name, offset });
}

function readHeader(source: ByteSource, view: DataView): Header {
  const wrong = (at: number, reason: string) =>
    malformed(source, VMFS_DEVICE_OFFSET + at, `VMFS device header: ${reason}`);
  const magic = view.getUint32(0, true);
  if (magic !== VMFS_DEVICE_MAGIC) throw wrong(0, `expected magic c001d00d, got ${hex(magic)}`);
  const version = view.getUint32(4, true);
  if (version === 6) {
    const reason =
      'this is VMFS 6 (or VMFS-L 6), which is not read: only VMFS 3 and 5 are; compare its disks from inside ESXi, or move them to a datastore of VMFS 5';
    throw new DriftmapError('unsupported', reason, { path: source.name, offset: VMFS_DEVICE_OFFSET + 4 });
  }
  if (!VERSIONS.includes(version)) {
    const reason = `VMFS device header: expected version 3, 4 or 5, got ${version}`;
    throw new DriftmapError('unsupported', reason, { path: source.name, offset: VMFS_DEVICE_OFFSET + 4 });
  }
  const volumes = view.getUint32(0x66, true);
  if (volumes !== 1) throw wrong(0x66, `expected 1 volume on the unit, got ${volumes}`);
  const extents = view.getUint32(0x6a, true);
  if (extents > VMFS_MAX_PHYSICAL_EXTENTS) {
    const reason = `VMFS device header: expected at most ${VMFS_MAX_PHYSICAL_EXTENTS} physical extents, got ${extents}`;
    throw new DriftmapError('limit', reason, { path: source.name, offset: VMFS_DEVICE_OFFSET + 0x6a });
  }
  const totalBytes = littleUint64(view, 0x5e);
  const short = `${source.name}: the unit has ${source.size} bytes and its VMFS device header says ${totalBytes}: it is cut short or was copied in part`;
  return {
    extents,
    dataOffset: littleUint64(view, 0x7a),
    // Before ESX 5 there is one, and the field is 0.
    maps: view.getUint32(0xbe, true) || 1,
    nextRegion: littleUint64(view, 0xc2),
    warnings: totalBytes > source.size ? [short] : [],
  };
}

interface Descriptor {
  readonly volumeSize: ByteCount;
  /** By which the table of extents means this volume. */
  readonly volumeNumber: number;
}

function readDescriptor(source: ByteSource, view: DataView, { extents }: Header): Descriptor {
  const at = VMFS_DEVICE_OFFSET + DESCRIPTOR;
  const wrong = (field: number, reason: string) =>
    malformed(source, at + field, `VMFS volume descriptor: ${reason}`);
  const units = view.getUint32(DESCRIPTOR + 0x90, true);
  if (units > 1) {
    const reason = `the VMFS volume spans ${units} logical units: only a volume of one unit is read`;
    throw new DriftmapError('unsupported', reason, { path: source.name, offset: at + 0x90 });
  }
  if (units !== 1) throw wrong(0x90, `expected 1 logical unit, got ${units}`);
  const volumeSize = littleUint64(view, DESCRIPTOR);
  if (volumeSize === 0 || !Number.isSafeInteger(volumeSize)) {
    throw wrong(0, `expected a volume's size, got ${volumeSize}`);
  }
  const state = view.getUint32(DESCRIPTOR + 0x10, true);
  if (state < 1 || state > 3) throw wrong(0x10, `expected a state from 1 to 3, got ${state}`);
  const first = littleUint64(view, DESCRIPTOR + 0x78);
  const last = littleUint64(view, DESCRIPTOR + 0x80);
  if (first !== 0) {
    const reason = `the unit begins with physical extent ${first} of its VMFS volume: it is one of several units, and only a volume of one unit is read`;
    throw new DriftmapError('unsupported', reason, { path: source.name, offset: at + 0x78 });
  }
  if (last >= extents) {
    throw wrong(0x80, `expected a last physical extent below ${extents}, got ${last}`);
  }
  return { volumeSize, volumeNumber: view.getUint32(DESCRIPTOR + 0x70, true) };
}

/** The volume's extents, from all tables. */
async function readExtents(source: ByteSource, header: Header, volumeNumber: number): Promise<Extent[]> {
  const found: Extent[] = [];
  let left = header.extents;
  let region = VMFS_DEVICE_OFFSET;
  let { maps, nextRegion } = header;
  while (left > 0) {
    if (maps < 1 || maps > MAPS_PER_REGION) {
      const reason = `expected 1 to ${MAPS_PER_REGION} tables of physical extents, got ${maps}`;
      throw malformed(source, region, reason);
    }
    for (let map = 0; map < maps && left > 0; map++) {
      const table = region + FIRST_MAP + map * (BITMAP_BYTES + ENTRIES_PER_MAP * ENTRY_BYTES) + BITMAP_BYTES;
      const count = Math.min(left, ENTRIES_PER_MAP);
      await readTable(source, table, count, volumeNumber, header, found);
      left -= count;
    }
    if (left === 0) break;
    if (nextRegion === 0) {
      const reason = `expected a further table for the last ${left} physical extents, and there is none`;
      throw malformed(source, region, reason);
    }
    region = nextRegion;
    ({ maps, nextRegion } = await readRegion(source, region));
  }
  return found;
}

async function readRegion(source: ByteSource, offset: ByteOffset) {
  const bytes = new Uint8Array(24);
  await readWhole(source, 'a further region of VMFS physical extents', offset, bytes);
  const view = viewOf(bytes);
  const magic = view.getUint32(0, true);
  if (magic !== VMFS_DEVICE_MAGIC) {
    const reason = `expected a further region of VMFS physical extents (magic c001d00d), got ${hex(magic)}`;
    throw malformed(source, offset, reason);
  }
  return { maps: view.getUint32(4, true), nextRegion: littleUint64(view, 16) };
}

/** One physical extent: where in the volume, where on the unit; `entry` is where that is written. */
interface Extent {
  readonly start: ByteOffset;
  readonly place: ByteOffset;
  readonly length: ByteCount;
  readonly entry: ByteOffset;
}

async function readTable(
  source: ByteSource,
  table: ByteOffset,
  count: number,
  volumeNumber: number,
  { dataOffset }: Header,
  found: Extent[],
): Promise<void> {
  const bytes = new Uint8Array(Math.min(count, ENTRIES_READ) * ENTRY_BYTES);
  const view = viewOf(bytes);
  for (let first = 0; first < count; first += ENTRIES_READ) {
    const here = Math.min(count - first, ENTRIES_READ);
    const offset = table + first * ENTRY_BYTES;
    await readWhole(
      source,
      'the table of VMFS physical extents',
      offset,
      bytes.subarray(0, here * ENTRY_BYTES),
    );
    for (let i = 0; i < here; i++) {
      const at = i * ENTRY_BYTES;
      const used = view.getUint8(at);
      if (used > 1)
        throw malformed(source, offset + at, `VMFS physical extent: expected 0 or 1, got ${used}`);
      if (used === 0 || view.getUint32(at + 5, true) !== volumeNumber) continue;
      const place = littleUint64(view, at + 9);
      const start = littleUint64(view, at + 17);
      const length = littleUint64(view, at + 25);
      const entry = offset + at;
      if (place < dataOffset || length === 0 || !Number.isSafeInteger(place + length)) {
        const reason = `VMFS physical extent: expected it on the unit from ${dataOffset} on, got ${length} bytes at ${place}`;
        throw malformed(source, entry + 9, reason);
      }
      found.push({ start, place, length, entry });
    }
  }
}

/** Extents that cover the volume without a gap or an overlap, joined where they adjoin on the unit too. */
function joined(source: ByteSource, extents: Extent[], size: ByteCount): Runs {
  const starts: number[] = [];
  const places: number[] = [];
  let end = 0;
  let next = -1;
  for (const { start, place, length, entry } of extents.sort((a, b) => a.start - b.start)) {
    if (start !== end) {
      const reason = `VMFS physical extent: expected the one for ${end} of the volume, got ${start}`;
      throw malformed(source, entry + 17, reason);
    }
    if (start >= size) break;
    if (place !== next) {
      starts.push(start);
      places.push(place);
    }
    end += length;
    next = place + length;
  }
  if (end < size) {
    const reason = `the physical extents hold ${end} bytes of the VMFS volume's ${size}`;
    throw malformed(source, VMFS_DEVICE_OFFSET + 0x6a, reason);
  }
  refuseOverlap(source, extents);
  starts.push(size);
  return { starts: Float64Array.from(starts), places: Float64Array.from(places) };
}

/** Two parts of the volume in one place would be damage that reads as data. */
function refuseOverlap(source: ByteSource, extents: readonly Extent[]): void {
  let end = 0;
  for (const { place, length, entry } of extents.toSorted((a, b) => a.place - b.place)) {
    if (place < end) {
      const reason = `VMFS physical extent: at ${place} of the unit there is another one already`;
      throw malformed(source, entry + 9, reason);
    }
    end = place + length;
  }
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}
