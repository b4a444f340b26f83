/**
 * Checksums as ext4 and jbd2 write them (Linux kernel, Documentation/filesystems/ext4/checksums.rst): CRC-32C
 * without the last inversion, so that one goes on where another ended; and the older CRC-16 of descriptors.
 */

import { crc32c } from '../../codec/checksum.ts';

/** CRC-32C of `bytes` going on from `seed`, 0xffffffff at first. */
export function ext4Crc(seed: number, bytes: Uint8Array): number {
  return ~crc32c(bytes, ~seed >>> 0) >>> 0;
}

/** The same over a number of 32 bits, little-endian. */
export function ext4CrcOfNumber(seed: number, value: number): number {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return ext4Crc(seed, bytes);
}

/** CRC-16 (polynomial 0x8005, bits reversed) going on from `seed`, 0xffff at first. Only for short runs. */
export function crc16(seed: number, bytes: Uint8Array): number {
  let crc = seed;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0xa001 : crc >>> 1;
  }
  return crc;
}

const bigTable = makeBigTable();

function makeBigTable(): Uint32Array {
  const table = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
    table[byte] = crc;
  }
  return table;
}

/** CRC-32 with the highest bit first and no inversion, going on from `seed`: checksums of journals, version 1. */
export function bigCrc32(seed: number, bytes: Uint8Array): number {
  let crc = seed;
  for (const byte of bytes) crc = (crc << 8) ^ bigTable[(crc >>> 24) ^ byte]!;
  return crc >>> 0;
}
