/** VDI images as bytes, written by hand; and a second, naive reading of them. */

import { MOST_COMPARED } from './vhd-loading.ts';

export const FREE = 0xffffffff;
export const ZERO = 0xfffffffe;
/** Where this builder puts the block map. */
export const MAP_AT = 512;

export interface VdiSpec {
  readonly size: number;
  readonly blockSize: number;
  readonly blockExtra?: number;
  readonly map: readonly number[];
  /** The bytes that its UUID is made of; and that of its last modification. */
  readonly uuid?: number;
  readonly state?: number;
  /** A differencing image: those of its parent. */
  readonly parent?: { readonly uuid: number; readonly state: number };
  /** Other contents. */
  readonly seed?: number;
  /** The last word on the header. */
  readonly patch?: (header: DataView) => void;
}

/** Block `i` of the file is filled with bytes of its own, none of them 0. */
export function buildVdi(spec: VdiSpec): Uint8Array {
  const { size, blockSize, blockExtra = 0, map, uuid = 0x42, state = 0x43, parent, seed = 0, patch } = spec;
  const dataAt = MAP_AT + Math.ceil((4 * map.length) / 512) * 512;
  const stride = blockSize + blockExtra;
  const held = Math.max(0, ...map.filter((entry) => entry < ZERO).map((entry) => entry + 1));
  const image = new Uint8Array(dataAt + held * stride);
  const view = new DataView(image.buffer);
  image.set(new TextEncoder().encode('<<< Oracle VM VirtualBox Disk Image >>>\n'));
  view.setUint32(64, 0xbeda107f, true);
  view.setUint32(68, 0x00010001, true);
  view.setUint32(72, 400, true);
  view.setUint32(76, parent === undefined ? 1 : 4, true);
  view.setUint32(340, MAP_AT, true);
  view.setUint32(344, dataAt, true);
  view.setUint32(360, 512, true);
  view.setBigUint64(368, BigInt(size), true);
  view.setUint32(376, blockSize, true);
  view.setUint32(380, blockExtra, true);
  view.setUint32(384, map.length, true);
  view.setUint32(388, held, true);
  image.fill(uuid, 392, 408).fill(state, 408, 424);
  if (parent !== undefined) image.fill(parent.uuid, 424, 440).fill(parent.state, 440, 456);
  map.forEach((entry, i) => {
    view.setUint32(MAP_AT + 4 * i, entry, true);
  });
  for (let at = dataAt; at < image.length; at++) image[at] = 1 + ((at * 7 + (at >>> 9) + seed) % 255);
  patch?.(view);
  return image;
}

/** The UUID that consists of one byte, as text. */
export function uuidOf(byte: number): string {
  const two = byte.toString(16).padStart(2, '0');
  return [4, 2, 2, 2, 6].map((count) => two.repeat(count)).join('-');
}

/**
 * What the guest sees of images that lie over one another, topmost first, sector by sector; null where a byte that
 * it needs is not there. An image that ends shows nothing of what lies below it from there on.
 */
export function naiveChain(images: readonly Uint8Array[]): Uint8Array | null {
  const sizeOf = (image: Uint8Array) =>
    Math.ceil(Number(new DataView(image.buffer, image.byteOffset).getBigUint64(368, true)) / 512) * 512;
  const contents = new Uint8Array(Math.min(sizeOf(images[0]!), MOST_COMPARED));
  for (let at = 0; at < contents.length; at += 512) {
    for (const image of images) {
      if (at >= sizeOf(image)) break;
      const word = (offset: number) => new DataView(image.buffer, image.byteOffset).getUint32(offset, true);
      const entry = word(word(340) + 4 * Math.floor(at / word(376)));
      if (entry === FREE) continue;
      if (entry === ZERO) break;
      const place = word(344) + entry * (word(376) + word(380)) + word(380) + (at % word(376));
      if (place + 512 > image.length) return null;
      contents.set(image.subarray(place, place + 512), at);
      break;
    }
  }
  return contents;
}

/** What the guest sees, at most `MOST_COMPARED` bytes, by the map alone; null where a byte it needs is not there. */
export function naiveVdi(image: Uint8Array): Uint8Array | null {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  const mapAt = view.getUint32(340, true);
  const dataAt = view.getUint32(344, true);
  const size = Math.ceil(Number(view.getBigUint64(368, true)) / 512) * 512;
  const blockSize = view.getUint32(376, true);
  const extra = view.getUint32(380, true);
  const contents = new Uint8Array(Math.min(size, MOST_COMPARED));
  for (let at = 0; at < contents.length; at += 512) {
    const entry = view.getUint32(mapAt + 4 * Math.floor(at / blockSize), true);
    if (entry >= ZERO) continue;
    const place = dataAt + entry * (blockSize + extra) + extra + (at % blockSize);
    if (place + 512 > image.length) return null;
    contents.set(image.subarray(place, place + 512), at);
  }
  return contents;
}
