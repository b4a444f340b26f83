/**
 * VDI images of VirtualBox, version 1.1 (VirtualBox src/VBox/Storage/VDICore.h; QEMU block/vdi.c). Little-endian.
 *
 * A header, a map of one number a block, and blocks that lie one after the other in the order in which they
 * were first written. A number is a block's index in the file, or one of two marks: free (−1: never written),
 * which shows the parent of a differencing image and is zeros in others; and zero (−2: discarded), which is zeros
 * and hides the parent (VDI.cpp, `vdiRead`). Static images are the same with every block there.
 */

import { DriftmapError } from '../../base/errors.ts';
import { BLOCK_TABLE_READ, MAX_DISK_SIZE, VDI_MAX_MAP_BYTES } from '../../base/limits.ts';
import { alignUp, type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';
import type { ImageHost, LoadedImage } from './image.ts';
import { PlacedBlocks } from './placed-blocks.ts';
import {
  namesParent,
  parentOfVdi,
  VDI_HEADER_BYTES,
  VDI_SIGNATURE,
  VDI_VERSION,
  type VdiParent,
  vdiParent,
} from './vdi-parent.ts';

interface VdiHeader {
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Bytes before the data of each block. */
  readonly blockExtra: ByteCount;
  readonly mapOffset: ByteOffset;
  readonly dataOffset: ByteOffset;
  /** Blocks that the disk needs; the map may have more. */
  readonly blocks: number;
  /** Null where it is no differencing image. */
  readonly parent: VdiParent | null;
}

/** From the field that says so, at 72, to the last of the UUIDs. */
const SMALLEST_HEADER = 384;
const SECTOR = 512;
const FREE = 0xffffffff;
const ZERO = 0xfffffffe;
const DYNAMIC = 1;
const STATIC = 2;
const UNDO = 3;
const DIFFERENCING = 4;

/**
 * Reads a VDI: dynamic, static or differencing. The one unit is the image file.
 * @throws DriftmapError `malformed`, `limit`; `unsupported` for other versions and for undo images
 */
export async function loadVdi(host: ImageHost): Promise<LoadedImage> {
  const { unit } = host;
  const header = await readHeader(unit);
  const backing = header.parent === null ? null : parentOfVdi(host, header.parent);
  return { map: await readMap(unit, header), units: [unit], backing };
}

function malformed(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `VDI ${reason}`, { path, offset });
}

function unsupported(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('unsupported', reason, { path, offset });
}

async function readHeader(source: ByteSource): Promise<VdiHeader> {
  const path = source.name;
  const bytes = new Uint8Array(VDI_HEADER_BYTES);
  await readWhole(source, 'the VDI header', 0, bytes);
  const view = viewOf(bytes);
  const signature = view.getUint32(64, true);
  if (signature !== VDI_SIGNATURE) {
    throw malformed(path, 64, `header: expected the signature beda107f, got ${signature.toString(16)}`);
  }
  const version = view.getUint32(68, true);
  if (version !== VDI_VERSION) {
    const reason = `expected VDI version 1.1, got ${version >>> 16}.${version & 0xffff}`;
    throw unsupported(path, 68, reason);
  }
  const length = view.getUint32(72, true);
  if (length < SMALLEST_HEADER) {
    throw malformed(path, 72, `header: expected at least ${SMALLEST_HEADER} bytes of header, got ${length}`);
  }
  return readGeometry(source, view, readParent(path, view));
}

function readParent(path: string, view: DataView): VdiParent | null {
  const type = view.getUint32(76, true);
  if (type === DIFFERENCING) {
    const parent = vdiParent(view);
    if (parent !== null) return parent;
    const reason = 'header: expected the UUID of its parent in a differencing image, got zeros';
    throw malformed(path, 424, reason);
  }
  if (type === UNDO || namesParent(view)) {
    const kind = type === UNDO ? 'an undo image' : `of type ${type}, and has a parent`;
    const reason = `the VDI is ${kind}, which driftmap does not read: merge it into one image (VBoxManage clonemedium disk)`;
    throw unsupported(path, 76, reason);
  }
  if (type === DYNAMIC || type === STATIC) return null;
  throw malformed(path, 76, `header: expected type 1 (dynamic), 2 (static) or 4 (differencing), got ${type}`);
}

function readGeometry(source: ByteSource, view: DataView, parent: VdiParent | null): VdiHeader {
  const path = source.name;
  const mapOffset = view.getUint32(340, true);
  const dataOffset = view.getUint32(344, true);
  for (const [at, what, value] of [
    [340, 'block map', mapOffset],
    [344, 'data', dataOffset],
  ] as const) {
    if (value >= VDI_HEADER_BYTES && value % SECTOR === 0) continue;
    throw malformed(
      path,
      at,
      `header: expected the ${what} at a sector boundary after the header, got ${value}`,
    );
  }
  const sectorSize = view.getUint32(360, true);
  if (sectorSize !== SECTOR) throw unsupported(path, 360, `expected VDI sectors of 512, got ${sectorSize}`);
  const blockSize = view.getUint32(376, true);
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR) {
    const reason = `header: expected a block size that is a power of two from ${SECTOR} on, got ${blockSize}`;
    throw malformed(path, 376, reason);
  }
  const blockExtra = view.getUint32(380, true);
  if (blockExtra % SECTOR !== 0) {
    throw malformed(path, 380, `header: expected extra bytes of a block in sectors, got ${blockExtra}`);
  }
  const size = sizeOf(path, view);
  const mapped = view.getUint32(384, true);
  const blocks = Math.ceil(size / blockSize);
  if (mapped < blocks) {
    const reason = `header: expected at least ${blocks} blocks of ${blockSize} bytes for ${size} bytes, got ${mapped}`;
    throw malformed(path, 384, reason);
  }
  if (mapOffset + 4 * mapped > Math.min(dataOffset, source.size)) {
    const reason = `header: expected the map of ${mapped} blocks before the data at ${dataOffset} and within the file's ${source.size} bytes, got offset ${mapOffset}`;
    throw malformed(path, 384, reason);
  }
  if (4 * blocks > VDI_MAX_MAP_BYTES) {
    const reason = `the VDI's block map takes ${4 * blocks} bytes: expected at most ${VDI_MAX_MAP_BYTES}`;
    throw new DriftmapError('limit', reason, { path, offset: 384 });
  }
  return { size, blockSize, blockExtra, mapOffset, dataOffset, blocks, parent };
}

/** VirtualBox converts raw files of any length; the guest, as in QEMU, sees whole sectors. */
function sizeOf(path: string, view: DataView): ByteCount {
  const size = littleUint64(view, 368);
  if (size <= MAX_DISK_SIZE - SECTOR) return alignUp(size, SECTOR);
  const reason = `header: expected a disk below 2^53 bytes, got ${view.getBigUint64(368, true)}`;
  throw malformed(path, 368, reason);
}

async function readMap(source: ByteSource, header: VdiHeader): Promise<ExtentMap> {
  const { blocks, mapOffset } = header;
  const placed = new PlacedBlocks(source.name, source.size);
  const builder = new ExtentMapBuilder();
  const buffer = new Uint8Array(Math.min(BLOCK_TABLE_READ, 4 * blocks));
  const view = viewOf(buffer);
  for (let first = 0; first < blocks; first += buffer.length / 4) {
    const here = Math.min(buffer.length / 4, blocks - first);
    await readWhole(source, 'the VDI block map', mapOffset + 4 * first, buffer.subarray(0, 4 * here));
    for (let i = 0; i < here; i++) {
      addBlock(source, header, placed, builder, first + i, view.getUint32(4 * i, true));
    }
  }
  placed.refuseOverlap();
  return builder.finish();
}

function addBlock(
  source: ByteSource,
  header: VdiHeader,
  placed: PlacedBlocks,
  builder: ExtentMapBuilder,
  index: number,
  entry: number,
): void {
  const { blockSize, blockExtra, dataOffset, size } = header;
  const offset = index * blockSize;
  const length = Math.min(blockSize, size - offset);
  if (entry === FREE || entry === ZERO) {
    const kind = entry === FREE ? Kind.unallocated : Kind.zero;
    builder.append({ offset, length, kind, unit: 0, place: -1, depth: 0 });
    return;
  }
  const place = dataOffset + entry * (blockSize + blockExtra) + blockExtra;
  if (place + length > source.size) {
    const reason = `block map: block ${index} at ${place} lies past the end of the file (${source.size} bytes): the image is cut short or damaged`;
    throw malformed(source.name, header.mapOffset + 4 * index, reason);
  }
  placed.take(place, length);
  builder.append({ offset, length, kind: Kind.data, unit: 0, place, depth: 0 });
}
