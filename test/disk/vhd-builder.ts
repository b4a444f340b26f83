/** VHD images as bytes, written by hand from Microsoft's specification 1.0; and a second, naive reading of it. */

import { MOST_COMPARED } from './vhd-loading.ts';

export interface VhdBlock {
  /** One entry a sector: is it here? */
  readonly present: readonly boolean[];
  readonly data: Uint8Array;
}

export interface VhdLocatorSpec {
  readonly platform: string;
  readonly bytes: Uint8Array;
}

export interface VhdSpec {
  readonly type: 2 | 3 | 4;
  readonly size: number;
  readonly creator?: string;
  readonly geometry?: readonly [number, number, number];
  readonly uuid?: number;
  readonly timestamp?: number;
  /** Fixed images: the contents. */
  readonly contents?: Uint8Array;
  readonly blockSize?: number;
  /** One a block, in the disk's order; null is not allocated. */
  readonly blocks?: readonly (VhdBlock | null)[];
  /** In which order the blocks lie in the file. */
  readonly order?: readonly number[];
  readonly parent?: {
    readonly uuid: number;
    readonly timestamp?: number;
    readonly unicodeName?: string;
    readonly locators?: readonly VhdLocatorSpec[];
  };
  /** The last words, before the checksums. */
  readonly patchFooter?: (footer: DataView) => void;
  readonly patchHeader?: (header: DataView) => void;
}

export const LARGEST = [65535, 16, 255] as const;

export function vhdChecksum(bytes: Uint8Array, field: number): number {
  let sum = 0;
  bytes.forEach((byte, at) => {
    if (at < field || at >= field + 4) sum += byte;
  });
  return ~sum >>> 0;
}

function put(bytes: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i);
}

function buildFooter(spec: VhdSpec): Uint8Array {
  const bytes = new Uint8Array(512);
  const view = new DataView(bytes.buffer);
  const [cylinders, heads, sectors] = spec.geometry ?? LARGEST;
  put(bytes, 0, 'conectix');
  view.setUint32(8, 2);
  view.setUint32(12, 0x00010000);
  view.setBigUint64(16, spec.type === 2 ? 2n ** 64n - 1n : 512n);
  view.setUint32(24, spec.timestamp ?? 1000);
  put(bytes, 28, spec.creator ?? 'win ');
  view.setBigUint64(40, BigInt(spec.size));
  view.setBigUint64(48, BigInt(spec.size));
  view.setUint16(56, cylinders);
  view.setUint8(58, heads);
  view.setUint8(59, sectors);
  view.setUint32(60, spec.type);
  bytes.fill(spec.uuid ?? 1, 68, 84);
  spec.patchFooter?.(view);
  view.setUint32(64, vhdChecksum(bytes, 64));
  return bytes;
}

function sectorsOf(bytes: number): number {
  return Math.ceil(bytes / 512) * 512;
}

export function buildVhd(spec: VhdSpec): Uint8Array {
  const footer = buildFooter(spec);
  if (spec.type === 2) {
    const image = new Uint8Array(spec.size + 512);
    if (spec.contents) image.set(spec.contents);
    image.set(footer, spec.size);
    return image;
  }
  const { blockSize = 2 * 2 ** 20, blocks = [], parent } = spec;
  const locators = parent?.locators ?? [];
  const locatorsAt = 1536;
  let tableAt = locatorsAt;
  for (const { bytes } of locators) tableAt += sectorsOf(bytes.length);
  const bitmapBytes = sectorsOf(Math.ceil(blockSize / 512 / 8));
  const firstBlock = tableAt + sectorsOf(4 * blocks.length);
  const order = spec.order ?? blocks.flatMap((block, i) => (block === null ? [] : [i]));
  const image = new Uint8Array(firstBlock + order.length * (bitmapBytes + blockSize) + 512);
  const view = new DataView(image.buffer);
  image.set(footer, 0);
  image.set(footer, image.length - 512);

  const header = new Uint8Array(image.buffer, 512, 1024);
  const fields = new DataView(image.buffer, 512, 1024);
  put(header, 0, 'cxsparse');
  fields.setBigUint64(8, 2n ** 64n - 1n);
  fields.setBigUint64(16, BigInt(tableAt));
  fields.setUint32(24, 0x00010000);
  fields.setUint32(28, blocks.length);
  fields.setUint32(32, blockSize);
  if (parent) {
    header.fill(parent.uuid, 40, 56);
    fields.setUint32(56, parent.timestamp ?? 0);
    const name = parent.unicodeName ?? '';
    for (let i = 0; i < name.length; i++) fields.setUint16(64 + 2 * i, name.charCodeAt(i));
  }
  let at = locatorsAt;
  locators.forEach(({ platform, bytes }, i) => {
    put(header, 576 + 24 * i, platform);
    fields.setUint32(580 + 24 * i, sectorsOf(bytes.length) / 512);
    fields.setUint32(584 + 24 * i, bytes.length);
    fields.setBigUint64(592 + 24 * i, BigInt(at));
    image.set(bytes, at);
    at += sectorsOf(bytes.length);
  });
  spec.patchHeader?.(fields);
  fields.setUint32(36, vhdChecksum(header, 36));

  image.fill(0xff, tableAt, tableAt + 4 * blocks.length);
  order.forEach((index, i) => {
    const block = blocks[index]!;
    const place = firstBlock + i * (bitmapBytes + blockSize);
    view.setUint32(tableAt + 4 * index, place / 512);
    block.present.forEach((here, sector) => {
      if (here) image[place + (sector >>> 3)]! |= 0x80 >>> (sector & 7);
    });
    image.set(block.data, place + bitmapBytes);
  });
  return image;
}

export function utf16(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'utf16le'));
}

/**
 * What the guest sees, at most `MOST_COMPARED` bytes, byte by byte as the specification says, without a check; null where some byte it would
 * need is not there. In a differencing image what is the parent's is 0.
 */
export function naiveVhd(image: Uint8Array): Uint8Array | null {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  const valid = (at: number) =>
    at >= 0 &&
    Buffer.from(image.subarray(at, at + 8)).toString('latin1') === 'conectix' &&
    view.getUint32(at + 64) === vhdChecksum(image.subarray(at, at + 512), 64);
  const footer = valid(image.length - 512) ? image.length - 512 : valid(0) ? 0 : null;
  if (footer === null) return null;
  const creator = Buffer.from(image.subarray(footer + 28, footer + 32)).toString('latin1');
  const geometry =
    view.getUint16(footer + 56) * view.getUint8(footer + 58) * view.getUint8(footer + 59) * 512;
  const old = ['vpc ', 'vs  ', 'qemu'].includes(creator) && geometry !== 65535 * 16 * 255 * 512;
  const size = old ? geometry : Number(view.getBigUint64(footer + 48));
  const contents = new Uint8Array(Math.min(size, MOST_COMPARED));
  if (view.getUint32(footer + 60) === 2) {
    contents.set(image.subarray(0, contents.length));
    return contents;
  }
  const header = Number(view.getBigUint64(footer + 16));
  const table = Number(view.getBigUint64(header + 16));
  const blockSize = view.getUint32(header + 32);
  const bitmapBytes = Math.ceil(blockSize / 4096 / 512) * 512;
  for (let sector = 0; sector < contents.length / 512; sector++) {
    const entry = view.getUint32(table + 4 * Math.floor((sector * 512) / blockSize));
    if (entry === 0xffffffff) continue;
    const within = sector % (blockSize / 512);
    const bit = (image[entry * 512 + (within >>> 3)]! >>> (7 - (within & 7))) & 1;
    if (bit === 0) continue;
    const place = entry * 512 + bitmapBytes + within * 512;
    if (place + 512 > image.length) return null;
    contents.set(image.subarray(place, place + 512), sector * 512);
  }
  return contents;
}
