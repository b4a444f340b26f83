/** The metadata region of a VHDX ([MS-VHDX] 2.6): sizes, flags, and by which names a parent is known. */

import { DriftmapError } from '../../base/errors.ts';
import { VHDX_MAX_ITEM_BYTES, VHDX_MAX_SIZE, VHDX_MAX_TABLE_ENTRIES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo, KiB, MiB } from '../../base/units.ts';
import { guidAt } from '../guid.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';
import { type VhdxRegion, vhdxFault } from './vhdx-header.ts';

export interface VhdxMetadata {
  /** Of the virtual disk. */
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly sectorSize: 512 | 4096;
  /** Key and value of the parent locator; null where the image stands alone. */
  readonly parent: ReadonlyMap<string, string> | null;
}

const TABLE_BYTES = 64 * KiB;
const FILE_PARAMETERS = 'CAA16737-FA36-4D43-B3B6-33F0AA44E76B';
const DISK_SIZE = '2FA54224-CD1B-4876-B211-5DBED83BF4B8';
const DISK_ID = 'BECA12AB-B2E6-4523-93EF-C309E000C746';
const LOGICAL_SECTOR = '8141BF1D-A96F-4709-BA47-F233A8FAAB5F';
const PHYSICAL_SECTOR = 'CDA348C7-445D-4471-9CC9-E9885251C556';
const PARENT_LOCATOR = 'A8D35F2D-B30B-454D-ABF7-D3D84834AB0C';
const known: readonly string[] = [
  FILE_PARAMETERS,
  DISK_SIZE,
  DISK_ID,
  LOGICAL_SECTOR,
  PHYSICAL_SECTOR,
  PARENT_LOCATOR,
];
/** The one type of parent locator that is specified: another VHDX file. */
const VHDX_LOCATOR = 'B04AEFB7-D19E-4A81-B789-25B8E9445913';
const IS_REQUIRED = 4;
const HAS_PARENT = 2;

/** Keys of a parent locator that mean something here; each is shorter than this in UTF-16. */
const parentKeys: readonly string[] = [
  'parent_linkage',
  'parent_linkage2',
  'relative_path',
  'volume_path',
  'absolute_win32_path',
];
const LONGEST_KEY = 64;

interface Item {
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

/** @throws DriftmapError `malformed`; `unsupported` for an unknown item that the image says is required */
export async function readVhdxMetadata(source: ByteSource, region: VhdxRegion): Promise<VhdxMetadata> {
  const items = await readItems(source, region);
  const fields = (guid: string, what: string, length: ByteCount) =>
    readItem(source, items, region, { guid, what, length });
  const parameters = await fields(FILE_PARAMETERS, 'file parameters', 8);
  const blockSize = parameters.view.getUint32(0, true);
  if (!isPowerOfTwo(blockSize) || blockSize < MiB || blockSize > 256 * MiB) {
    const reason = `metadata: expected a block size that is a power of two from 1 MiB to 256 MiB, got ${blockSize}`;
    throw vhdxFault(source.name, parameters.offset, reason);
  }
  const logical = await fields(LOGICAL_SECTOR, 'logical sector size', 4);
  const sectorSize = logical.view.getUint32(0, true);
  if (sectorSize !== 512 && sectorSize !== 4096) {
    const reason = `metadata: expected a logical sector size of 512 or 4096, got ${sectorSize}`;
    throw vhdxFault(source.name, logical.offset, reason);
  }
  const disk = await fields(DISK_SIZE, 'virtual disk size', 8);
  const size = littleUint64(disk.view, 0);
  if (size > VHDX_MAX_SIZE || size % sectorSize !== 0) {
    const reason = `metadata: expected a disk of at most 64 TiB in sectors of ${sectorSize} bytes, got ${disk.view.getBigUint64(0, true)}`;
    throw vhdxFault(source.name, disk.offset, reason);
  }
  const hasParent = (parameters.view.getUint32(4, true) & HAS_PARENT) !== 0;
  const parent = hasParent ? await readParentLocator(source, items, region) : null;
  return { size, blockSize, sectorSize, parent };
}

async function readItems(source: ByteSource, region: VhdxRegion): Promise<ReadonlyMap<string, Item>> {
  const path = source.name;
  const bytes = new Uint8Array(TABLE_BYTES);
  await readWhole(source, 'the VHDX metadata table', region.offset, bytes);
  const view = viewOf(bytes);
  if (String.fromCharCode(...bytes.subarray(0, 8)) !== 'metadata') {
    throw vhdxFault(path, region.offset, "metadata: expected the signature 'metadata'");
  }
  const count = view.getUint16(10, true);
  if (count > VHDX_MAX_TABLE_ENTRIES) {
    const reason = `metadata: expected at most ${VHDX_MAX_TABLE_ENTRIES} entries, got ${count}`;
    throw vhdxFault(path, region.offset + 10, reason);
  }
  const items = new Map<string, Item>();
  for (let i = 0; i < count; i++) {
    const at = 32 + 32 * i;
    const place = region.offset + at;
    const guid = guidAt(view, at);
    if (!known.includes(guid)) {
      if ((view.getUint32(at + 24, true) & IS_REQUIRED) === 0) continue;
      const reason = `the VHDX needs a metadata item that driftmap does not know: ${guid}`;
      throw new DriftmapError('unsupported', reason, { path, offset: place });
    }
    const offset = view.getUint32(at + 16, true);
    const length = view.getUint32(at + 20, true);
    if (offset < TABLE_BYTES || length > VHDX_MAX_ITEM_BYTES || offset + length > region.length) {
      const reason = `metadata: expected an item of at most ${VHDX_MAX_ITEM_BYTES} bytes within the region's ${region.length}, got ${length} at ${offset}`;
      throw vhdxFault(path, place + 16, reason);
    }
    if (items.has(guid)) throw vhdxFault(path, place, `metadata: item ${guid} is there twice`);
    items.set(guid, { offset: region.offset + offset, length });
  }
  return items;
}

async function readItem(
  source: ByteSource,
  items: ReadonlyMap<string, Item>,
  region: VhdxRegion,
  { guid, what, length }: { guid: string; what: string; length: ByteCount | null },
): Promise<{ readonly view: DataView; readonly offset: ByteOffset }> {
  const item = items.get(guid);
  if (item === undefined) {
    throw vhdxFault(source.name, region.offset, `metadata: the ${what} (${guid}) is missing`);
  }
  if (length !== null && item.length !== length) {
    const reason = `metadata: expected ${length} bytes of ${what}, got ${item.length}`;
    throw vhdxFault(source.name, item.offset, reason);
  }
  const bytes = new Uint8Array(item.length);
  await readWhole(source, `the ${what} of the VHDX`, item.offset, bytes);
  return { view: viewOf(bytes), offset: item.offset };
}

/** [MS-VHDX] 2.6.2.6: a header of 20 bytes, 12 bytes for each key and value, and those, anywhere in the item. */
async function readParentLocator(
  source: ByteSource,
  items: ReadonlyMap<string, Item>,
  region: VhdxRegion,
): Promise<ReadonlyMap<string, string>> {
  const path = source.name;
  const wanted = { guid: PARENT_LOCATOR, what: 'parent locator', length: null };
  const { view, offset } = await readItem(source, items, region, wanted);
  const count = view.byteLength < 20 ? 0 : view.getUint16(18, true);
  if (view.byteLength < 20 + 12 * count) {
    const reason = `parent locator: expected a header and ${count} entries, got ${view.byteLength} bytes`;
    throw vhdxFault(path, offset, reason);
  }
  const type = guidAt(view, 0);
  if (type !== VHDX_LOCATOR) {
    const reason = `expected a parent that is a VHDX file, got a parent locator of type ${type}`;
    throw new DriftmapError('unsupported', reason, { path, offset });
  }
  const pairs = new Map<string, string>();
  for (let i = 0; i < count; i++) {
    const at = 20 + 12 * i;
    const keyLength = view.getUint16(at + 8, true);
    if (keyLength > LONGEST_KEY) continue;
    const key = textAt(path, view, offset, view.getUint32(at, true), keyLength);
    if (!parentKeys.includes(key)) continue;
    if (pairs.has(key)) throw vhdxFault(path, offset + at, `parent locator: '${key}' is there twice`);
    const value = textAt(path, view, offset, view.getUint32(at + 4, true), view.getUint16(at + 10, true));
    pairs.set(key, value);
  }
  return pairs;
}

function textAt(
  path: string,
  view: DataView,
  item: ByteOffset,
  offset: ByteOffset,
  length: ByteCount,
): string {
  if (offset + length <= view.byteLength) {
    try {
      const bytes = new Uint8Array(view.buffer, view.byteOffset + offset, length);
      const text = new TextDecoder('utf-16le', { fatal: true }).decode(bytes).replace(/\0+$/, '');
      if (text !== '' && !text.includes('\0')) return text;
    } catch {
      // Not UTF-16: the same error as below.
    }
  }
  const reason = `parent locator: expected text in UTF-16 within the item's ${view.byteLength} bytes, got ${length} bytes at ${offset}`;
  throw vhdxFault(path, item + offset, reason);
}
