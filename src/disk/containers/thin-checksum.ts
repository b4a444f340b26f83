/**
 * The checksum of device-mapper's metadata blocks: CRC-32C (Castagnoli; RFC 3720, appendix B.4) over all but
 * the first four bytes, not inverted at the end, mixed with a number that says what the block is (Linux
 * drivers/md/persistent-data/dm-block-manager.c, `dm_bm_checksum`).
 *
 * Eight tables take eight bytes a step: a pool of many terabytes has gigabytes of metadata.
 */

import type { ByteCount } from '../../base/units.ts';
import { viewOf } from '../formats/byte-source.ts';

/** Bits reversed. */
const CASTAGNOLI = 0x82f63b78;

/** Table k says what a byte does to the checksum when k more zero bytes follow it. */
const tables: readonly Uint32Array[] = makeTables();

function makeTables(): Uint32Array[] {
  const made = Array.from({ length: 8 }, () => new Uint32Array(256));
  const [first] = made as [Uint32Array];
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ CASTAGNOLI : crc >>> 1;
    first[byte] = crc;
  }
  for (let k = 1; k < 8; k++) {
    for (let byte = 0; byte < 256; byte++) {
      const before = made[k - 1]![byte]!;
      made[k]![byte] = (before >>> 8) ^ first[before & 0xff]!;
    }
  }
  return made;
}

/** CRC-32C of `bytes`, without the final inversion. */
export function rawCrc32c(bytes: Uint8Array): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  const view = viewOf(bytes);
  const whole: ByteCount = bytes.length - (bytes.length % 8);
  let crc = 0xffffffff;
  for (let at = 0; at < whole; at += 8) {
    const low = crc ^ view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    crc =
      t7[low & 0xff]! ^
      t6[(low >>> 8) & 0xff]! ^
      t5[(low >>> 16) & 0xff]! ^
      t4[low >>> 24]! ^
      t3[high & 0xff]! ^
      t2[(high >>> 8) & 0xff]! ^
      t1[(high >>> 16) & 0xff]! ^
      t0[high >>> 24]!;
  }
  for (let at = whole; at < bytes.length; at++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[at]!) & 0xff]!;
  return crc >>> 0;
}

/** What a metadata block should begin with. `salt` is the number of its kind. */
export function blockChecksum(block: Uint8Array, salt: number): number {
  return (rawCrc32c(block.subarray(4)) ^ salt) >>> 0;
}
