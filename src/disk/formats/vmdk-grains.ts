/**
 * From grain tables to an extent map, for every sparse extent that VMware writes: a directory of tables, a table
 * of entries, an entry a grain (VMware, "Virtual Disk Format 5.0", sections "Hosted Sparse Extents", "ESXi Host
 * Sparse Extents" and "Stream-Optimized Compressed Sparse Extents"; for seSparse see vmdk-se-sparse.ts).
 *
 * Tables are read in runs of adjoining ones into one reused buffer, and a table that is not there costs an
 * addition. Grains that continue one another are joined before they reach the map's builder.
 *
 * A compressed grain lies behind a marker: the sector of the disk that it is, its stored size, and a zlib stream
 * (RFC 1950; the specification says RFC 1951, and nobody writes that). One small read a grain at open gives the
 * size; and a marker that names another sector shows that the table, or the marker, is damaged.
 *
 * Nothing may lie over anything else: not two grains, nor a grain and a table or header. That is how an entry
 * that was damaged is mostly found, and why a small file cannot describe much work.
 */

import { DriftmapError } from '../../base/errors.ts';
import { BLOCK_TABLE_READ, VMDK_MAX_TABLE_BYTES } from '../../base/limits.ts';
import { alignUp, type ByteCount, type ByteOffset, type ByteRange } from '../../base/units.ts';
import type { Completion } from '../../lu/logical-unit.ts';
import { type ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';
import { JoinedRuns } from './joined-runs.ts';
import { PlacedBlocks } from './placed-blocks.ts';
import { SECTOR } from './vmdk-descriptor.ts';

/** Answers of `placeOf` for a grain without a place. */
export const NO_GRAIN = -1;
export const ZERO_GRAIN = -2;

/** What 64-bit entries mean, of which each kind of extent has its own idea. */
export interface WideEntries {
  /**
   * @param high upper half of the entry, `low` its lower half, `at` its place for messages
   * @returns the grain's place, or `NO_GRAIN` or `ZERO_GRAIN`
   */
  placeOf(high: number, low: number, at: ByteOffset): ByteOffset;
}

export interface GrainLayout {
  readonly source: ByteSource;
  readonly format: 'hosted' | 'packed' | 'cowd' | 'sesparse';
  /** An entry of 1 is a grain of zeros. */
  readonly zeroGrains: boolean;
  readonly grainBytes: ByteCount;
  readonly entriesPerTable: number;
  /** What a table takes in the file. */
  readonly tableBytes: ByteCount;
  /** Offsets of the tables; 0 where there is none. */
  readonly directory: Float64Array;
  /** Of their copies; null where there are none. */
  readonly redundant: Float64Array | null;
  /** What else lies in the file and must not lie under a grain. */
  readonly metadata: readonly ByteRange[];
  /** seSparse: its entries. */
  readonly wide?: WideEntries;
}

/** The disk that extents are appended to, one after the other. */
export interface DiskUnderway {
  readonly builder: ExtentMapBuilder;
  /** Bytes of grain tables so far, of all extents. */
  tableBytes: ByteCount;
  warn(message: string): void;
}

const MARKER_BYTES = 12;

/**
 * Appends an extent to the disk.
 * @param unit index of the extent's file among the disk's units
 * @param length bytes of the disk that the extent shows: its tables may reach further
 * @throws DriftmapError `malformed`, `limit`, with the offset of the entry
 */
export async function appendGrains(
  disk: DiskUnderway,
  layout: GrainLayout,
  unit: number,
  length: ByteCount,
): Promise<void> {
  await new GrainReader(disk, layout, unit, length).read();
}

class GrainReader {
  private readonly disk: DiskUnderway;
  private readonly layout: GrainLayout;
  private readonly source: ByteSource;
  private readonly unit: number;
  private readonly length: ByteCount;
  private readonly placed: PlacedBlocks;
  private readonly marker = viewOf(new Uint8Array(MARKER_BYTES));
  /** Where on the disk the extent begins. */
  private readonly base: ByteOffset;

  /** By offsets in the extent. */
  private readonly runs = new JoinedRuns(({ kind, start, end, place }) => {
    const { disk, base, unit } = this;
    disk.builder.append({ offset: base + start, length: end - start, kind, unit, place, depth: 0 });
  });

  private differing = 0;
  /** Compressed grains: where the last of them, or of tables and headers, ends in the file; and where its room would. */
  private furthest: ByteOffset = 0;
  private room: ByteOffset = 0;

  constructor(disk: DiskUnderway, layout: GrainLayout, unit: number, length: ByteCount) {
    this.disk = disk;
    this.layout = layout;
    this.source = layout.source;
    this.unit = unit;
    this.length = length;
    this.base = disk.builder.size;
    this.placed = new PlacedBlocks(layout.source.name, layout.source.size);
  }

  async read(): Promise<void> {
    const { layout, length, placed } = this;
    const { directory, tableBytes, entriesPerTable, grainBytes, redundant } = layout;
    this.takeMetadata();
    const span = grainBytes * entriesPerTable;
    const most = Math.max(1, Math.floor(BLOCK_TABLE_READ / tableBytes));
    const buffer = new Uint8Array(Math.min(most, directory.length) * tableBytes);
    const copies = redundant === null ? null : new Uint8Array(tableBytes);
    const view = viewOf(buffer);
    for (let i = 0; i * span < length; ) {
      const first = directory[i]!;
      if (first === 0) {
        if (redundant !== null && redundant[i] !== 0) this.differing++;
        this.runs.add(Kind.unallocated, -1, Math.min(++i * span, length));
        continue;
      }
      let count = 1;
      while (count < most && directory[i + count] === first + count * tableBytes) count++;
      const part = buffer.subarray(0, count * tableBytes);
      await readWhole(this.source, `the grain table of directory entry ${i}`, first, part);
      for (let k = 0; k < count && i * span < length; k++, i++) {
        const at = k * tableBytes;
        if (copies !== null) await this.compareCopy(i, buffer.subarray(at, at + tableBytes), copies);
        const grains = Math.min(entriesPerTable, Math.ceil((length - i * span) / grainBytes));
        if (layout.format === 'packed') await this.addPackedTable(view, at, grains, first);
        else this.addTable(view, at, grains, first);
      }
    }
    this.runs.flush();
    placed.refuseOverlap();
    if (layout.format === 'packed') this.checkEnd();
    this.tellDiffering();
  }

  /** Headers, directory, and every table. */
  private takeMetadata(): void {
    const { layout, placed, source, disk } = this;
    const { directory, tableBytes } = layout;
    for (const { offset, length } of layout.metadata) this.take(offset, length);
    for (let i = 0; i < directory.length; i++) {
      const offset = directory[i]!;
      if (offset === 0) continue;
      if (offset + tableBytes > source.size) {
        const reason = `the grain table of directory entry ${i} lies past the end of the file (${source.size} bytes): it is cut short or damaged`;
        throw this.malformed(reason, offset);
      }
      this.take(offset, tableBytes);
      disk.tableBytes += tableBytes;
    }
    placed.refuseOverlap();
    if (disk.tableBytes <= VMDK_MAX_TABLE_BYTES) return;
    const reason = `the image has ${disk.tableBytes} bytes of grain tables: expected at most ${VMDK_MAX_TABLE_BYTES}`;
    throw new DriftmapError('limit', reason, { path: source.name });
  }

  private take(offset: ByteOffset, length: ByteCount): void {
    this.placed.take(offset, length);
    this.furthest = Math.max(this.furthest, offset + length);
  }

  /**
   * Where a stream may end. One with a footer ends behind it, which is checked when the footer is read. QEMU writes
   * neither footer nor end-of-stream marker, so no sector of zeros can be asked for; but it fills the room of a
   * whole, unpacked grain before it writes the packed one over its start (block/vmdk.c, `get_whole_cluster`). So a
   * file ends with its last structure, with a marker behind that, or not before that room ends.
   */
  private checkEnd(): void {
    const { source, furthest, room } = this;
    const end = alignUp(furthest, SECTOR);
    if (source.size <= end || source.size === end + SECTOR || source.size >= room) return;
    const reason = `expected the end of the file at ${end} behind the last grain, at ${end + SECTOR} with an end-of-stream marker, or from ${room} on with the whole room of that grain, got ${source.size}: it is cut short`;
    throw this.malformed(reason, source.size);
  }

  /** @param file offset of the first table in the buffer, `at` where this one begins in it */
  private addTable(view: DataView, at: number, grains: number, file: ByteOffset): void {
    const { grainBytes, zeroGrains, wide } = this.layout;
    for (let i = 0; i < grains; i++) {
      const end = Math.min(this.runs.end + grainBytes, this.length);
      if (wide !== undefined) {
        const entry = at + 8 * i;
        this.addWide(wide, view.getUint32(entry + 4, true), view.getUint32(entry, true), end, file + entry);
        continue;
      }
      const sector = view.getUint32(at + 4 * i, true);
      if (sector === 0) this.runs.add(Kind.unallocated, -1, end);
      else if (sector === 1 && zeroGrains) this.runs.add(Kind.zero, -1, end);
      else this.addGrain(sector * SECTOR, end, file + at + 4 * i);
    }
  }

  private addWide(wide: WideEntries, high: number, low: number, end: ByteOffset, entry: ByteOffset): void {
    const place = wide.placeOf(high, low, entry);
    if (place >= 0) this.addGrain(place, end, entry);
    else this.runs.add(place === ZERO_GRAIN ? Kind.zero : Kind.unallocated, -1, end);
  }

  private addGrain(place: ByteOffset, end: ByteOffset, entry: ByteOffset): void {
    const length = end - this.runs.end;
    this.checkPlace(place, length, entry);
    // A grain that the disk's end cuts may be cut in the file as well.
    this.placed.take(place, Math.min(this.layout.grainBytes, this.source.size - place));
    this.runs.add(Kind.data, place, end);
  }

  private async addPackedTable(view: DataView, at: number, grains: number, file: ByteOffset): Promise<void> {
    const { grainBytes, zeroGrains } = this.layout;
    for (let i = 0; i < grains; i++) {
      const sector = view.getUint32(at + 4 * i, true);
      const end = Math.min(this.runs.end + grainBytes, this.length);
      if (sector > 1 || (sector === 1 && !zeroGrains)) {
        const pending = this.readMarker(sector * SECTOR, file + at + 4 * i);
        if (pending) await pending;
        this.addPacked(sector * SECTOR, end);
      } else this.runs.add(sector === 0 ? Kind.unallocated : Kind.zero, -1, end);
    }
  }

  private readMarker(place: ByteOffset, entry: ByteOffset): Completion {
    this.checkPlace(place, MARKER_BYTES, entry);
    return this.source.read(place, new Uint8Array(this.marker.buffer));
  }

  private addPacked(place: ByteOffset, end: ByteOffset): void {
    const { marker, source, layout, base } = this;
    const { grainBytes } = layout;
    const offset = this.runs.end;
    const sector = littleUint64(marker, 0);
    const stored = marker.getUint32(8, true);
    if (sector !== offset / SECTOR) {
      const reason = `expected the marker of the grain at sector ${offset / SECTOR}, got one of sector ${sector}`;
      throw this.malformed(reason, place);
    }
    // QEMU's bound; zlib makes nothing larger.
    if (stored === 0 || stored > 2 * grainBytes || place + MARKER_BYTES + stored > source.size) {
      const reason = `expected a grain of 1 to ${2 * grainBytes} stored bytes within the file's ${source.size}, got ${stored}`;
      throw this.malformed(reason, place + 8);
    }
    const taken = alignUp(MARKER_BYTES + stored, SECTOR);
    this.take(place, Math.min(taken, source.size - place));
    this.room = Math.max(this.room, place + grainBytes);
    this.runs.skipTo(end);
    this.disk.builder.append({
      offset: base + offset,
      length: end - offset,
      kind: Kind.zlib,
      unit: this.unit,
      place: place + MARKER_BYTES,
      depth: 0,
      stored,
      cluster: grainBytes,
      skip: 0,
    });
  }

  /** A copy that is not the same is told and not read: which of the two is old, nobody can say. */
  private async compareCopy(i: number, table: Uint8Array, copy: Uint8Array): Promise<void> {
    const offset = this.layout.redundant![i]!;
    if (offset === 0 || offset + copy.length > this.source.size) {
      this.differing++;
      return;
    }
    const pending = this.source.read(offset, copy);
    if (pending) await pending;
    if (Buffer.compare(table, copy) !== 0) this.differing++;
  }

  private tellDiffering(): void {
    const { differing, source } = this;
    if (differing === 0) return;
    const tables = differing === 1 ? 'a grain table' : `${differing} grain tables`;
    this.disk.warn(
      `${source.name}: the redundant copy of ${tables} says something else: the first was taken, as in QEMU; the image may be damaged, or was not closed`,
    );
  }

  private malformed(reason: string, offset: ByteOffset): DriftmapError {
    return new DriftmapError('malformed', `VMDK grains: ${reason}`, { path: this.source.name, offset });
  }

  private checkPlace(place: ByteOffset, length: ByteCount, entry: ByteOffset): void {
    if (place === SECTOR) {
      const reason = 'an entry of 1, which means zeros, in an extent whose header does not allow it';
      throw this.malformed(reason, entry);
    }
    const { size } = this.source;
    if (place + length <= size) return;
    const reason = `a grain at ${place} lies past the end of the file (${size} bytes): it is cut short or damaged`;
    throw this.malformed(reason, entry);
  }
}
