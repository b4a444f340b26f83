/**
 * VHDX images as extent maps ([MS-VHDX] 2.5, block allocation table).
 *
 * An entry is the state of a block and, where it is in the file, its place in mebibytes. Entries of payload
 * blocks come in chunks, each followed by the entry of the sector bitmap that covers the chunk; bitmaps count
 * in differencing images only, for blocks that are there in part. What an image stands for:
 *
 *   not present     unallocated: the parent's, and zeros where there is none
 *   undefined       zeros. The specification lets a reader return anything; it is never the parent's
 *   zero, unmapped  zeros
 *   fully present   data
 *   partly present  sector by sector data or the parent's; only in a differencing image
 *
 * State 5 was 'unmapped' in version 0.95 of the specification and is reserved since: it reads as zeros, with a
 * warning, as in QEMU. State 4 never meant anything and is refused, as is what cannot be true: blocks past the
 * end of the file, over one another, over the log or a region.
 *
 * If the log must be replayed, all of this is read from the file as it would be after the replay. Payload
 * blocks can be touched by that too; then the disk has a second unit, an array image with the log's sectors.
 */

import { DriftmapError } from '../../base/errors.ts';
import { type ByteCount, type ByteOffset, MiB } from '../../base/units.ts';
import { attachArrayImage, createArrayImage } from '../../lu/array-image.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { compose } from '../../mapping/compose.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, readWhole, viewOf } from './byte-source.ts';
import type { BackingImage, ImageHost, LoadedImage } from './image.ts';
import { PlacedBlocks } from './placed-blocks.ts';
import { forEachRun } from './sector-bitmap.ts';
import { fromWindows, lastPart } from './vhd-parent.ts';
import {
  readVhdxHeader,
  readVhdxRegions,
  VHDX_HEADER_SECTION,
  type VhdxHeader,
  type VhdxRegions,
  vhdxFault,
} from './vhdx-header.ts';
import { replayLog, type VhdxReplay } from './vhdx-log.ts';
import { readVhdxMetadata, type VhdxMetadata } from './vhdx-metadata.ts';
import { PatchedFile } from './vhdx-patches.ts';

/** States of a payload block. */
const State = { notPresent: 0, undefined: 1, zero: 2, unmapped: 3, oldUnmapped: 5, full: 6, partial: 7 };
/** State of a sector bitmap that is there. */
const BITMAP_PRESENT = 6;
/** Sectors that one sector bitmap covers; it takes 1 MiB. */
const CHUNK_SECTORS = 2 ** 23;

/**
 * Reads a VHDX: fixed, dynamic or differencing. Units: the image file, and an array image where the log
 * brings data of the disk.
 * @throws DriftmapError `malformed`, `unsupported`, `limit`, and what reading throws
 */
export async function loadVhdx(host: ImageHost): Promise<LoadedImage> {
  const { unit } = host;
  const header = await readVhdxHeader(unit);
  const replay = await replayOf(host, header);
  const file = replay === null ? unit : new PatchedFile(unit, replay.map, replay.sectors);
  const regions = await readVhdxRegions(file);
  const metadata = await readVhdxMetadata(file, regions.metadata);
  const reader = new BlockReader(file, header, regions, metadata);
  const map = await reader.read();
  for (const warning of [...header.warnings, ...regions.warnings, ...reader.warnings()]) {
    host.warn(`${host.path}: ${warning}`);
  }
  const backing = metadata.parent === null ? null : parentOf(host, metadata.parent);
  return { ...replayed(unit, map, replay), backing };
}

async function replayOf(host: ImageHost, header: VhdxHeader): Promise<VhdxReplay | null> {
  const { logGuid } = header;
  if (logGuid === null) return null;
  const replay = await replayLog(host.unit, { ...header, logGuid });
  const what = replay === null ? 'no whole entry was in its log' : 'its log was replayed in memory';
  host.warn(`${host.path}: the VHDX was not closed, or is in use: ${what}, and the file is left as it was`);
  return replay;
}

/** The map of the replayed file led to the file as it is and, where the disk needs them, the log's sectors. */
function replayed(unit: LogicalUnit, map: ExtentMap, replay: VhdxReplay | null) {
  if (replay === null) return { map, units: [unit] };
  const composed = compose(map, replay.map);
  if (!usesSectors(composed)) return { map: composed, units: [unit] };
  const { sectors } = replay;
  const image = createArrayImage({ size: sectors.length, bytes: sectors, name: `<log of ${unit.name}>` });
  const handle = image.handle();
  // Its identity is the image's own, so that the disk's is the same at every opening.
  const identity = `${unit.identity}/log`;
  const named = handle.kind === 'array' ? attachArrayImage({ ...handle, identity }) : image;
  return { map: composed, units: [unit, named] };
}

function usesSectors(map: ExtentMap): boolean {
  for (let index = 0; index < map.count; index++) if (map.unitOf(index) === 1) return true;
  return false;
}

/** [MS-VHDX] 2.6.2.6.3. Of an absolute Windows path only the last part means anything here. */
function parentOf(host: ImageHost, locator: ReadonlyMap<string, string>): BackingImage {
  const relative = locator.get('relative_path');
  const absolute = locator.get('volume_path') ?? locator.get('absolute_win32_path') ?? '';
  const name = relative === undefined ? lastPart(absolute) : fromWindows(relative);
  const { path } = host;
  if (name === '') {
    const reason =
      'a differencing VHDX whose parent locator names no file: its contents cannot be known without it';
    throw new DriftmapError('malformed', reason, { path });
  }
  const links = [locator.get('parent_linkage'), locator.get('parent_linkage2')]
    .filter((link) => link !== undefined)
    .map((link) => link.replace(/^\{|\}$/g, '').toUpperCase());
  if (links.length === 0) {
    const reason = 'a differencing VHDX without parent_linkage: it is not known which parent was meant';
    throw new DriftmapError('malformed', reason, { path });
  }
  const check = async (parent: LogicalUnit) => {
    const { dataWriteGuid } = await readVhdxHeader(parent);
    if (links.includes(dataWriteGuid)) return;
    const reason = `expected the parent with the DataWriteGuid ${links.join(' or ')}, got ${parent.name} with ${dataWriteGuid}: it is another disk, or was written since`;
    throw new DriftmapError('mismatch', reason, { path });
  };
  return { name, format: 'vhdx', check };
}

class BlockReader {
  private readonly source: ByteSource;
  private readonly regions: VhdxRegions;
  private readonly metadata: VhdxMetadata;
  private readonly placed: PlacedBlocks;
  private readonly builder = new ExtentMapBuilder();
  private readonly chunkRatio: number;
  /** The chunk whose entries are at hand, and where its sector bitmap lies once a block asked for it. */
  private chunk = 0;
  private bitmap: ByteOffset | null = null;
  private oldUnmapped = 0;
  private reserved = 0;

  constructor(source: ByteSource, header: VhdxHeader, regions: VhdxRegions, metadata: VhdxMetadata) {
    this.source = source;
    this.regions = regions;
    this.metadata = metadata;
    this.chunkRatio = (CHUNK_SECTORS * metadata.sectorSize) / metadata.blockSize;
    this.placed = new PlacedBlocks(source.name, source.size);
    this.placed.take(0, VHDX_HEADER_SECTION);
    const { logOffset, logLength } = header;
    if (logLength > 0 && logOffset + logLength <= source.size) this.placed.take(logOffset, logLength);
    for (const { offset, length } of [regions.blockTable, regions.metadata]) this.placed.take(offset, length);
    this.placed.refuseOverlap();
  }

  /** One line each, without a path. */
  warnings(): string[] {
    const found: string[] = [];
    if (this.oldUnmapped > 0)
      found.push(
        `blocks of the VHDX in state 5, which was 'unmapped' in version 0.95 of the format and reads as zeros: ${this.oldUnmapped}`,
      );
    if (this.reserved > 0)
      found.push(
        `entries of the VHDX block table with reserved bits set, which are ignored: ${this.reserved}`,
      );
    return found;
  }

  async read(): Promise<ExtentMap> {
    const { chunkRatio } = this;
    const { size, blockSize, parent } = this.metadata;
    const { blockTable } = this.regions;
    const blocks = Math.ceil(size / blockSize);
    const chunks = Math.ceil(blocks / chunkRatio);
    const entries = parent === null ? blocks + Math.max(0, chunks - 1) : chunks * (chunkRatio + 1);
    if (entries * 8 > blockTable.length) {
      const reason = `block table: expected a region of ${entries} entries for ${size} bytes, got ${blockTable.length} bytes`;
      throw vhdxFault(this.source.name, blockTable.offset, reason);
    }
    const bytes = new Uint8Array(8 * (chunkRatio + 1));
    const view = viewOf(bytes);
    for (let chunk = 0; chunk < chunks; chunk++) {
      this.chunk = chunk;
      this.bitmap = null;
      const first = chunk * (chunkRatio + 1);
      const here = bytes.subarray(0, 8 * Math.min(chunkRatio + 1, entries - first));
      await readWhole(this.source, 'the VHDX block table', blockTable.offset + 8 * first, here);
      const count = Math.min(chunkRatio, blocks - chunk * chunkRatio);
      for (let i = 0; i < count; i++) {
        const pending = this.addBlock(view, i);
        if (pending) await pending;
      }
    }
    this.placed.refuseOverlap();
    return this.builder.finish();
  }

  /** Adds payload block `i` of the chunk, whose entries the view holds. */
  private addBlock(view: DataView, i: number): Promise<void> | undefined {
    const { builder, metadata } = this;
    const offset = (this.chunk * this.chunkRatio + i) * metadata.blockSize;
    const length = Math.min(metadata.blockSize, metadata.size - offset);
    const low = view.getUint32(8 * i, true);
    const state = low & 7;
    if ((low & 0xffff8) !== 0) this.reserved++;
    switch (state) {
      case State.notPresent:
        builder.append({ offset, length, kind: Kind.unallocated, unit: 0, place: -1, depth: 0 });
        return undefined;
      case State.oldUnmapped:
        this.oldUnmapped++;
        builder.append({ offset, length, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
        return undefined;
      case State.undefined:
      case State.zero:
      case State.unmapped:
        builder.append({ offset, length, kind: Kind.zero, unit: 0, place: -1, depth: 0 });
        return undefined;
      case State.full: {
        const place = this.placeAt(view, i, 'a block', length);
        builder.append({ offset, length, kind: Kind.data, unit: 0, place, depth: 0 });
        return undefined;
      }
      case State.partial:
        if (metadata.parent !== null) return this.addPartial(view, i, { offset, length });
    }
    const why = state === State.partial ? 'partly present in an image without a parent' : 'of state 4';
    throw this.tableFault(i, `a block is ${why}`);
  }

  private async addPartial(
    view: DataView,
    i: number,
    { offset, length }: { offset: ByteOffset; length: ByteCount },
  ): Promise<void> {
    const { builder } = this;
    const { sectorSize, blockSize } = this.metadata;
    const place = this.placeAt(view, i, 'a block', length);
    this.bitmap ??= this.bitmapOf(view);
    const sectors = length / sectorSize;
    const bits = new Uint8Array(Math.ceil(sectors / 8));
    const at = this.bitmap + (i * blockSize) / sectorSize / 8;
    await readWhole(this.source, 'a sector bitmap of the VHDX', at, bits);
    forEachRun(bits, sectors, 'lowest-first', (present, from, to) => {
      builder.append({
        offset: offset + from * sectorSize,
        length: (to - from) * sectorSize,
        kind: present ? Kind.data : Kind.unallocated,
        unit: 0,
        place: present ? place + from * sectorSize : -1,
        depth: 0,
      });
    });
  }

  private bitmapOf(view: DataView): ByteOffset {
    const { chunkRatio } = this;
    if ((view.getUint32(8 * chunkRatio, true) & 7) === BITMAP_PRESENT) {
      return this.placeAt(view, chunkRatio, 'a sector bitmap', MiB);
    }
    throw this.tableFault(chunkRatio, 'a block is partly present, and its sector bitmap is missing');
  }

  /** The place that an entry of the chunk names; `length` bytes there must be in the file and nobody else's. */
  private placeAt(view: DataView, i: number, what: string, length: ByteCount): ByteOffset {
    const place = ((view.getUint32(8 * i, true) >>> 20) + view.getUint32(8 * i + 4, true) * 4096) * MiB;
    if (place + length > this.source.size) {
      const reason = `${what} at ${place} lies past the end of the file (${this.source.size} bytes): the image is cut short or damaged`;
      throw this.tableFault(i, reason);
    }
    this.placed.take(place, length);
    return place;
  }

  private tableFault(i: number, reason: string): DriftmapError {
    const entry = this.chunk * (this.chunkRatio + 1) + i;
    return vhdxFault(
      this.source.name,
      this.regions.blockTable.offset + 8 * entry,
      `block table: entry ${entry}: ${reason}`,
    );
  }
}
