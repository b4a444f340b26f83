/**
 * Reference counts of qcow2 (QEMU docs/interop/qcow2.txt, section "Host cluster management"). Reading a disk
 * needs none; QEMU's block status does, to tell an image whose metadata was preallocated.
 */

import type { ByteCount } from '../../base/units.ts';
import { type ByteSource, readWhole, uint64, viewOf } from './byte-source.ts';
import type { Qcow2Header } from './qcow2-header.ts';

/** Low 9 bits of a refcount table entry are reserved. */
const RESERVED = 512;

/**
 * How many clusters of the image file are in use; counting stops at `enough`.
 * @throws DriftmapError `malformed` where a table lies past the end of the file
 */
export async function countUsedClusters(
  source: ByteSource,
  { refcountTableOffset, refcountTableBytes, refcountBits, clusterSize }: Qcow2Header,
  enough: number,
): Promise<number> {
  const table = new Uint8Array(refcountTableBytes);
  await readWhole(source, 'the refcount table', refcountTableOffset, table);
  const entries = viewOf(table);
  const perBlock = (clusterSize * 8) / refcountBits;
  let left = Math.ceil(source.size / clusterSize);
  let used = 0;
  const block = new Uint8Array(clusterSize);
  for (let i = 0; i < refcountTableBytes / 8 && left > 0 && used < enough; i++, left -= perBlock) {
    const entry = uint64(entries, i * 8);
    const offset = entry - (entry % RESERVED);
    if (offset === 0) continue;
    await readWhole(source, 'a refcount block', offset, block);
    used += nonzero(block, refcountBits, Math.min(left, perBlock));
  }
  return used;
}

/** Of the first `count` fields of `bits` bits, the least significant first, how many are not zero. */
function nonzero(block: Uint8Array, bits: number, count: ByteCount): number {
  let found = 0;
  if (bits >= 8) {
    const width = bits / 8;
    for (let i = 0; i < count; i++) {
      for (let k = 0; k < width; k++) {
        if (block[i * width + k] === 0) continue;
        found++;
        break;
      }
    }
    return found;
  }
  const perByte = 8 / bits;
  const mask = 2 ** bits - 1;
  for (let i = 0; i < count; i++) {
    if (((block[Math.floor(i / perByte)]! >>> ((i % perByte) * bits)) & mask) !== 0) found++;
  }
  return found;
}
