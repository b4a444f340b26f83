/**
 * Pages of zeros within bytes that are to be written. A guest's file system leaves them between its own data, and what
 * a disk knows of its holes is coarser: a replica stays as thin as production only if they are cut out.
 *
 * Pages are those of the place that is written to: a smaller hole, or one across two pages, gives nothing back.
 */

import { PAGE_BYTES } from '../base/limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';

const ZEROS = Buffer.alloc(PAGE_BYTES);
/** Bytes of a page that are looked at first: nearly every page of data ends it here. */
const SAMPLE_STEP = PAGE_BYTES / 8;

/**
 * Where the data that begins at `from` ends: at the first whole page of zeros, or with the bytes.
 * @param place of the first byte
 */
export function dataUntil(bytes: Uint8Array, from: ByteCount, place: ByteOffset): ByteCount {
  const last = bytes.length - PAGE_BYTES;
  for (let at = pageFrom(from, place); at <= last; at += PAGE_BYTES) if (isZeroPage(bytes, at)) return at;
  return bytes.length;
}

/** Where the zeros that begin at `from`, a page's beginning, end; `from` where there is no whole page of them. */
export function zerosUntil(bytes: Uint8Array, from: ByteCount, place: ByteOffset): ByteCount {
  if (pageFrom(from, place) !== from) return from;
  let at = from;
  while (at + PAGE_BYTES <= bytes.length && isZeroPage(bytes, at)) at += PAGE_BYTES;
  const rest = bytes.length - at;
  if (at === from || rest >= PAGE_BYTES) return at;
  // A last page that is not whole, as at the end of a disk, goes with those before it.
  return ZEROS.compare(bytes, at, at + rest, 0, rest) === 0 ? bytes.length : at;
}

function pageFrom(from: ByteCount, place: ByteOffset): ByteCount {
  const into = (place + from) % PAGE_BYTES;
  return into === 0 ? from : from + PAGE_BYTES - into;
}

function isZeroPage(bytes: Uint8Array, at: ByteCount): boolean {
  for (let i = at; i < at + PAGE_BYTES; i += SAMPLE_STEP) if (bytes[i] !== 0) return false;
  return ZEROS.compare(bytes, at, at + PAGE_BYTES, 0, PAGE_BYTES) === 0;
}
