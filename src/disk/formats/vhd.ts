/**
 * VHD images as extent maps (Microsoft, "Virtual Hard Disk Image Format Specification" 1.0, section "Block
 * Allocation Table and Data Blocks").
 *
 * A dynamic image is a table of blocks; a block is a bitmap, a bit a sector, and the block's data. A bit that
 * is set says that the sector is here. One that is not says that it was never written: it shows the parent's
 * sector in a differencing image and zeros in a dynamic one. QEMU does not look at the bitmaps of dynamic
 * images and reads what the block holds, which is the same wherever blocks begin as zeros; where they do not,
 * as in images on a logical volume that was something else before, only the bitmap is right.
 *
 * What cannot be true is an error at open: blocks past the end of the data, blocks over one another or over a
 * table. What a bitmap says of sectors past the disk's end is not looked at.
 */

import { DriftmapError } from '../../base/errors.ts';
import { BLOCK_TABLE_READ } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, readWhole, viewOf } from './byte-source.ts';
import type { ImageHost, LoadedImage } from './image.ts';
import { PlacedBlocks } from './placed-blocks.ts';
import { forEachRun } from './sector-bitmap.ts';
import {
  readVhdFooter,
  readVhdHeader,
  SECTOR,
  VHD_FOOTER_BYTES,
  VHD_HEADER_BYTES,
  type VhdFooter,
  type VhdHeader,
} from './vhd-footer.ts';
import { parentOfVhd } from './vhd-parent.ts';

const UNALLOCATED = 0xffffffff;

/**
 * Reads a VHD: fixed, dynamic or differencing. The one unit is the image file.
 * @throws DriftmapError `malformed`, `unsupported`, `limit`, and what reading throws
 */
export async function loadVhd(host: ImageHost): Promise<LoadedImage> {
  const { unit } = host;
  const footer = await readVhdFooter(unit);
  for (const warning of footer.warnings) host.warn(`${host.path}: ${warning}`);
  const units = [unit];
  if (footer.type === 'fixed') return { map: ExtentMap.identity(footer.size), units, backing: null };
  const header = await readVhdHeader(unit, footer);
  const backing = footer.type === 'differencing' ? await parentOfVhd(host, header.parent) : null;
  const map = await new BlockReader(unit, footer, header).read();
  return { map, units, backing };
}

class BlockReader {
  private readonly source: ByteSource;
  private readonly footer: VhdFooter;
  private readonly header: VhdHeader;
  private readonly placed: PlacedBlocks;
  private readonly builder = new ExtentMapBuilder();
  private readonly bitmap: Uint8Array;
  /** What a sector without a bit is. */
  private readonly absent: Kind;

  constructor(source: ByteSource, footer: VhdFooter, header: VhdHeader) {
    this.source = source;
    this.footer = footer;
    this.header = header;
    this.placed = new PlacedBlocks(source.name, source.size);
    this.bitmap = new Uint8Array(header.bitmapBytes);
    this.absent = footer.type === 'differencing' ? Kind.unallocated : Kind.zero;
  }

  async read(): Promise<ExtentMap> {
    const { source, placed } = this;
    const { tableOffset, tableEntries, blockSize } = this.header;
    placed.take(0, VHD_FOOTER_BYTES);
    placed.take(this.footer.headerOffset, VHD_HEADER_BYTES);
    placed.take(tableOffset, tableEntries * 4);
    placed.refuseOverlap();

    const count = Math.ceil(this.footer.size / blockSize);
    const buffer = new Uint8Array(Math.min(BLOCK_TABLE_READ, count * 4));
    const view = viewOf(buffer);
    for (let first = 0; first < count; first += buffer.length / 4) {
      const here = Math.min(buffer.length / 4, count - first);
      const at = tableOffset + first * 4;
      await readWhole(source, 'the block table of the VHD', at, buffer.subarray(0, here * 4));
      for (let i = 0; i < here; i++) {
        const sector = view.getUint32(4 * i);
        if (sector === UNALLOCATED) this.addAbsent(first + i);
        else await this.addBlock(first + i, sector * SECTOR);
      }
    }
    placed.refuseOverlap();
    return this.builder.finish();
  }

  private addAbsent(index: number): void {
    const length = this.lengthOf(index);
    const offset = index * this.header.blockSize;
    this.builder.append({ offset, length, kind: Kind.unallocated, unit: 0, place: -1, depth: 0 });
  }

  private async addBlock(index: number, at: ByteOffset): Promise<void> {
    const { bitmapBytes, blockSize, tableOffset } = this.header;
    const { builder, absent } = this;
    const length = this.lengthOf(index);
    const data = at + bitmapBytes;
    if (data + length > this.footer.dataEnd) {
      const reason = `VHD block table: block ${index} at ${at} lies past the end of the data (${this.footer.dataEnd}): the image is cut short or damaged`;
      const offset = tableOffset + 4 * index;
      throw new DriftmapError('malformed', reason, { path: this.source.name, offset });
    }
    this.placed.take(at, bitmapBytes + length);
    const sectors = length / SECTOR;
    const bits = this.bitmap.subarray(0, Math.ceil(sectors / 8));
    await readWhole(this.source, 'the bitmap of a VHD block', at, bits);
    const start = index * blockSize;
    forEachRun(bits, sectors, 'highest-first', (present, from, to) => {
      builder.append({
        offset: start + from * SECTOR,
        length: (to - from) * SECTOR,
        kind: present ? Kind.data : absent,
        unit: 0,
        place: present ? data + from * SECTOR : -1,
        depth: 0,
      });
    });
  }

  /** Bytes of a block that are on the disk: all but the last are whole. */
  private lengthOf(index: number): ByteCount {
    const { blockSize } = this.header;
    return Math.min(blockSize, this.footer.size - index * blockSize);
  }
}
