/** VHDX images as bytes, written by hand from [MS-VHDX]; log entries; and a second, naive reading of it. */

import { crc32c } from '../../src/codec/checksum.ts';
import { MOST_COMPARED } from './vhd-loading.ts';

const KiB = 1024;
export const MiB = 1024 * KiB;

/** Where this builder puts things. */
export const LOG_AT = 1 * MiB;
export const METADATA_AT = 2 * MiB;
export const TABLE_AT = 3 * MiB;
export const FIRST_BLOCK = 4 * MiB;

export interface VhdxBlock {
  readonly state: number;
  /** Put into the file; its place goes into the entry. */
  readonly data?: Uint8Array;
  /** State 7: which sectors are here. */
  readonly present?: readonly boolean[];
}

export interface VhdxSpec {
  readonly size: number;
  readonly blockSize?: number;
  readonly sectorSize?: number;
  readonly blocks: readonly VhdxBlock[];
  /** In which order blocks lie in the file. */
  readonly order?: readonly number[];
  readonly leaveAllocated?: boolean;
  readonly dataWriteGuid?: number;
  readonly parent?: Readonly<Record<string, string>>;
  readonly logBytes?: number;
  readonly patchHeader?: (header: DataView) => void;
  readonly patchRegions?: (table: DataView) => void;
  readonly patchMetadata?: (region: DataView) => void;
}

export function guidBytes(guid: string): Uint8Array {
  const hex = Buffer.from(guid.replaceAll('-', ''), 'hex');
  return Uint8Array.from([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15], (i) => hex[i]!);
}

function put(bytes: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i);
}

/** Puts the CRC of a structure, over itself with the CRC's own field as zeros, into bytes 4 to 8. */
export function seal(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  view.setUint32(4, 0, true);
  view.setUint32(4, crc32c(bytes), true);
}

export const LOG_GUID = '11111111-2222-3333-4444-555555555555';
const items = {
  parameters: 'CAA16737-FA36-4D43-B3B6-33F0AA44E76B',
  size: '2FA54224-CD1B-4876-B211-5DBED83BF4B8',
  id: 'BECA12AB-B2E6-4523-93EF-C309E000C746',
  logical: '8141BF1D-A96F-4709-BA47-F233A8FAAB5F',
  physical: 'CDA348C7-445D-4471-9CC9-E9885251C556',
  parent: 'A8D35F2D-B30B-454D-ABF7-D3D84834AB0C',
};

function writeHeaders(image: Uint8Array, spec: VhdxSpec): void {
  put(image, 0, 'vhdxfile');
  for (const [at, sequence] of [
    [64 * KiB, 7n],
    [128 * KiB, 8n],
  ] as const) {
    const header = image.subarray(at, at + 4 * KiB);
    const view = new DataView(image.buffer, at, 4 * KiB);
    put(header, 0, 'head');
    view.setBigUint64(8, sequence, true);
    header.fill(0x21, 16, 32);
    header.fill(spec.dataWriteGuid ?? 0x31, 32, 48);
    view.setUint16(66, 1, true);
    view.setUint32(68, spec.logBytes ?? MiB, true);
    view.setBigUint64(72, BigInt(LOG_AT), true);
    spec.patchHeader?.(view);
    seal(header);
  }
  for (const at of [192 * KiB, 256 * KiB]) {
    const table = image.subarray(at, at + 64 * KiB);
    const view = new DataView(image.buffer, at, 64 * KiB);
    put(table, 0, 'regi');
    view.setUint32(8, 2, true);
    table.set(guidBytes('2DC27766-F623-4200-9D64-115E9BFD4A08'), 16);
    view.setBigUint64(32, BigInt(TABLE_AT), true);
    view.setUint32(40, MiB, true);
    view.setUint32(44, 1, true);
    table.set(guidBytes('8B7CA206-4790-4B9A-B8FE-575F050F886E'), 48);
    view.setBigUint64(64, BigInt(METADATA_AT), true);
    view.setUint32(72, MiB, true);
    view.setUint32(76, 1, true);
    spec.patchRegions?.(view);
    seal(table);
  }
}

function parentLocator(pairs: Readonly<Record<string, string>>): Uint8Array {
  const entries = Object.entries(pairs);
  const texts = entries.flat().map((text) => Buffer.from(text, 'utf16le'));
  const bytes = new Uint8Array(20 + 12 * entries.length + texts.reduce((sum, text) => sum + text.length, 0));
  const view = new DataView(bytes.buffer);
  bytes.set(guidBytes('B04AEFB7-D19E-4A81-B789-25B8E9445913'), 0);
  view.setUint16(18, entries.length, true);
  let at = 20 + 12 * entries.length;
  texts.forEach((text, i) => {
    const entry = 20 + 12 * (i >> 1);
    const isValue = i % 2 === 1;
    view.setUint32(entry + (isValue ? 4 : 0), at, true);
    view.setUint16(entry + (isValue ? 10 : 8), text.length, true);
    bytes.set(text, at);
    at += text.length;
  });
  return bytes;
}

function writeMetadata(image: Uint8Array, spec: VhdxSpec): void {
  const region = image.subarray(METADATA_AT, METADATA_AT + MiB);
  const view = new DataView(image.buffer, METADATA_AT, MiB);
  const u32 = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);
  const flags = (spec.leaveAllocated ? 1 : 0) + (spec.parent ? 2 : 0);
  const found: [string, Uint8Array, number][] = [
    [items.parameters, u32(spec.blockSize ?? MiB, flags), 4],
    [items.size, u32(spec.size % 2 ** 32, Math.floor(spec.size / 2 ** 32)), 6],
    [items.id, new Uint8Array(16).fill(5), 6],
    [items.logical, u32(spec.sectorSize ?? 512), 6],
    [items.physical, u32(4096), 6],
  ];
  if (spec.parent) found.push([items.parent, parentLocator(spec.parent), 4]);
  put(region, 0, 'metadata');
  view.setUint16(10, found.length, true);
  let at = 64 * KiB;
  found.forEach(([guid, bytes, flag], i) => {
    region.set(guidBytes(guid), 32 + 32 * i);
    view.setUint32(48 + 32 * i, at, true);
    view.setUint32(52 + 32 * i, bytes.length, true);
    view.setUint32(56 + 32 * i, flag, true);
    region.set(bytes, at);
    at += Math.ceil(bytes.length / 8) * 8;
  });
  spec.patchMetadata?.(view);
}

export function buildVhdx(spec: VhdxSpec): Uint8Array {
  const { blockSize = MiB, sectorSize = 512, blocks } = spec;
  const ratio = (2 ** 23 * sectorSize) / blockSize;
  const order = spec.order ?? blocks.flatMap((block, i) => (block.data ? [i] : []));
  const chunks = new Set(blocks.flatMap((block, i) => (block.present ? [Math.floor(i / ratio)] : [])));
  const room = Math.max(0, ...order.map((i) => blocks[i]!.data!.length));
  const stride = Math.ceil(room / MiB) * MiB;
  const end = FIRST_BLOCK + order.length * stride;
  const image = new Uint8Array(end + chunks.size * MiB);
  const view = new DataView(image.buffer);
  writeHeaders(image, spec);
  writeMetadata(image, spec);
  const place = new Map<number, number>();
  order.forEach((index, i) => {
    place.set(index, FIRST_BLOCK + i * stride);
    image.set(blocks[index]!.data!, FIRST_BLOCK + i * stride);
  });
  const entry = (index: number, state: number, at: number) =>
    view.setBigUint64(TABLE_AT + 8 * index, BigInt(state) | (BigInt(at / MiB) << 20n), true);
  blocks.forEach((block, i) => {
    entry(i + Math.floor(i / ratio), block.state, place.get(i) ?? 0);
  });
  [...chunks].forEach((chunk, k) => {
    const at = end + k * MiB;
    entry((chunk + 1) * (ratio + 1) - 1, 6, at);
    blocks.forEach((block, i) => {
      if (Math.floor(i / ratio) !== chunk) return;
      const first = (i % ratio) * (blockSize / sectorSize);
      block.present?.forEach((here, sector) => {
        const bit = first + sector;
        if (here) image[at + (bit >>> 3)]! |= 1 << (bit & 7);
      });
    });
  });
  return image;
}

export type Descriptor =
  | { readonly offset: number; readonly data: Uint8Array }
  | { readonly offset: number; readonly zeros: number };

export interface LogEntrySpec {
  readonly sequence: number;
  readonly tail: number;
  readonly descriptors: readonly Descriptor[];
  readonly flushed: number;
  readonly last: number;
  readonly guid?: string;
}

export function logEntry(spec: LogEntrySpec): Uint8Array {
  const { descriptors, sequence } = spec;
  const header = Math.ceil((64 + 32 * descriptors.length) / 4096) * 4096;
  const data = descriptors.filter((one) => 'data' in one).length;
  const bytes = new Uint8Array(header + 4096 * data);
  const view = new DataView(bytes.buffer);
  put(bytes, 0, 'loge');
  view.setUint32(8, bytes.length, true);
  view.setUint32(12, spec.tail, true);
  view.setBigUint64(16, BigInt(sequence), true);
  view.setUint32(24, descriptors.length, true);
  bytes.set(guidBytes(spec.guid ?? LOG_GUID), 32);
  view.setBigUint64(48, BigInt(spec.flushed), true);
  view.setBigUint64(56, BigInt(spec.last), true);
  let sector = header;
  descriptors.forEach((one, i) => {
    const at = 64 + 32 * i;
    view.setBigUint64(at + 16, BigInt(one.offset), true);
    view.setBigUint64(at + 24, BigInt(sequence), true);
    if ('zeros' in one) {
      put(bytes, at, 'zero');
      view.setBigUint64(at + 8, BigInt(one.zeros), true);
      return;
    }
    put(bytes, at, 'desc');
    bytes.set(one.data.subarray(4092, 4096), at + 4);
    bytes.set(one.data.subarray(0, 8), at + 8);
    bytes.set(one.data, sector);
    put(bytes, sector, 'data');
    view.setUint32(sector + 4, Math.floor(sequence / 2 ** 32), true);
    view.setUint32(sector + 4092, sequence % 2 ** 32, true);
    sector += 4096;
  });
  seal(bytes);
  return bytes;
}

/** Puts entries into the log's ring and names the log in both headers, as a writer that is at work has it. */
export function withLog(
  image: Uint8Array,
  entries: readonly { readonly at: number; readonly bytes: Uint8Array }[],
): Uint8Array {
  const dirty = image.slice();
  for (const at of [64 * KiB, 128 * KiB]) {
    const header = dirty.subarray(at, at + 4 * KiB);
    if (Buffer.from(header.subarray(0, 4)).toString('latin1') !== 'head') continue;
    header.set(guidBytes(LOG_GUID), 48);
    seal(header);
  }
  const view = new DataView(dirty.buffer);
  const length = view.getUint32(64 * KiB + 68, true);
  const offset = Number(view.getBigUint64(64 * KiB + 72, true));
  for (const { at, bytes } of entries) {
    bytes.forEach((byte, i) => {
      dirty[offset + ((at + i) % length)] = byte;
    });
  }
  return dirty;
}

/**
 * What the guest sees of an image without a log, at most `MOST_COMPARED` bytes, as the specification says, without a check; null where some
 * byte it would need is not there. What is the parent's is 0.
 */
export function naiveVhdx(image: Uint8Array): Uint8Array | null {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  const sealed = (at: number, length: number) => {
    const copy = image.slice(at, at + length);
    seal(copy);
    return Buffer.compare(copy, image.subarray(at, at + length)) === 0;
  };
  const regions = [192 * KiB, 256 * KiB].find((at) => sealed(at, 64 * KiB));
  if (regions === undefined) return null;
  const isAt = (at: number, guid: string) =>
    Buffer.compare(image.subarray(at, at + 16), guidBytes(guid)) === 0;
  const tableIn = (first: number, count: number, guid: string, field: number) => {
    for (let i = 0; i < count; i++) if (isAt(first + 32 * i, guid)) return first + 32 * i + field;
    return null;
  };
  const count = view.getUint32(regions + 8, true);
  const table = tableIn(regions + 16, count, '2DC27766-F623-4200-9D64-115E9BFD4A08', 16);
  const metadata = tableIn(regions + 16, count, '8B7CA206-4790-4B9A-B8FE-575F050F886E', 16);
  if (table === null || metadata === null) return null;
  const blockTable = Number(view.getBigUint64(table, true));
  const region = Number(view.getBigUint64(metadata, true));
  const item = (guid: string) => {
    const at = tableIn(region + 32, view.getUint16(region + 10, true), guid, 16);
    return at === null ? null : region + view.getUint32(at, true);
  };
  const [parameters, size, logical] = [item(items.parameters), item(items.size), item(items.logical)];
  if (parameters === null || size === null || logical === null) return null;
  const blockSize = view.getUint32(parameters, true);
  const sectorSize = view.getUint32(logical, true);
  const bytes = Math.min(Number(view.getBigUint64(size, true)), MOST_COMPARED);
  const ratio = (2 ** 23 * sectorSize) / blockSize;
  const contents = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += sectorSize) {
    const index = Math.floor(at / blockSize);
    const chunk = Math.floor(index / ratio);
    const entry = view.getBigUint64(blockTable + 8 * (index + chunk), true);
    const state = Number(entry & 7n);
    if (state < 6) continue;
    if (state === 7) {
      const bitmap =
        Number(view.getBigUint64(blockTable + 8 * ((chunk + 1) * (ratio + 1) - 1), true) >> 20n) * MiB;
      const bit = (at / sectorSize) % 2 ** 23;
      if (((image[bitmap + (bit >>> 3)]! >>> (bit & 7)) & 1) === 0) continue;
    }
    const place = Number(entry >> 20n) * MiB + (at % blockSize);
    if (place + sectorSize > image.length) return null;
    contents.set(image.subarray(place, place + sectorSize), at);
  }
  return contents;
}
