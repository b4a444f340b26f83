/** The checksum of everything that driftmap writes or sends: CRC-32 (IEEE 802.3), native in `node:zlib`. */

import { crc32 as nativeCrc32 } from 'node:zlib';

/**
 * CRC-32 of `bytes`, 0 … 2^32−1. It finds every error burst of up to 32 bits and so every damaged byte; it
 * is no defence against forgery. `before` is the checksum of the bytes that come before these.
 */
export function checksum(bytes: Uint8Array, before = 0): number {
  return nativeCrc32(bytes, before);
}
