/**
 * The checksum of device-mapper's metadata blocks: CRC-32C over all but the first four bytes, not inverted at
 * the end, mixed with a number that says what the block is (Linux
 * drivers/md/persistent-data/dm-block-manager.c, `dm_bm_checksum`).
 */

import { crc32c } from '../../codec/checksum.ts';

/** What a metadata block should begin with. `salt` is the number of its kind. */
export function blockChecksum(block: Uint8Array, salt: number): number {
  return (~crc32c(block.subarray(4)) ^ salt) >>> 0;
}
