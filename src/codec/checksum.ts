/**
 * The checksum of everything that driftmap writes or sends: CRC-32 (IEEE 802.3), native in `node:zlib`; and the
 * one that formats of others use, which Node does not have: CRC-32C.
 */

import { crc32 as nativeCrc32 } from 'node:zlib';

/**
 * CRC-32 of `bytes`, 0 … 2^32−1. It finds every error burst of up to 32 bits and so every damaged byte; it
 * is no defence against forgery. `before` is the checksum of the bytes that come before these.
 */
export function checksum(bytes: Uint8Array, before = 0): number {
  // Of no bytes in memory that is nowhere, zlib says 0, whatever came before.
  return bytes.length === 0 ? before : nativeCrc32(bytes, before);
}

/** The polynomial of CRC-32C, bits reversed. */
const CASTAGNOLI = 0x82f63b78;

/** Table k says what a byte does to the checksum when k more zero bytes follow it: eight bytes a step. */
const tables: readonly Uint32Array[] = makeTables();

function makeTables(): Uint32Array[] {
  const made = Array.from({ length: 8 }, () => new Uint32Array(256));
  const first = made[0]!;
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ CASTAGNOLI : crc >>> 1;
    first[byte] = crc;
  }
  for (let k = 1; k < 8; k++) {
    for (let byte = 0; byte < 256; byte++) {
      const shorter = made[k - 1]![byte]!;
      made[k]![byte] = (shorter >>> 8) ^ first[shorter & 0xff]!;
    }
  }
  return made;
}

/**
 * CRC-32C (Castagnoli; RFC 3720, section 12.1 and appendix B.4) of `bytes`, 0 … 2^32−1. `before` is the
 * checksum of the bytes that come before these.
 */
export function crc32c(bytes: Uint8Array, before = 0): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as readonly [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const whole = bytes.length - (bytes.length % 8);
  let crc = ~before;
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
  return ~crc >>> 0;
}
