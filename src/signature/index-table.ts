/**
 * The table of a signature index (`.sig`, version 1): what lies in the file, and nothing of files.
 *
 * An index holds the `blake3` signature of every block of a logical unit or of a virtual disk. Blocks of zeros are
 * most blocks of most disks, so they cost a bit, or nothing at all: the table is cut into pages of 1024 blocks, and
 * a page is kept only where a block of it is not zero.
 *
 *   preamble and header    codec/preamble.ts, one MessagePack map
 *   pages                  in ascending order, one after another, without gaps:
 *                            128 bytes   one bit a block, low bit first: set where the block is not zero
 *                            32 bytes    a signature for each set bit, in order
 *   directory              12 bytes a page, in the same order:
 *                            0   4  number of the page
 *                            4   2  signatures in it, 1 … 1024
 *                            6   2  zero
 *                            8   4  CRC-32 of the page
 *   trailer                32 bytes:
 *                            0   8  pages
 *                            8   8  signatures
 *                           16   4  CRC-32 of the directory
 *                           20   8  zero
 *                           28   4  CRC-32 of the header and bytes 0 … 28 of the trailer
 *
 * A page's length follows from its signatures, so the directory needs no offsets: pages cannot overlap, and a
 * reader knows that the file is whole before it reads one of them. All integers are little end first. There are no
 * times and nothing random: one state of one disk has one encoding.
 */

import { DriftmapError } from '../base/errors.ts';
import {
  MAX_BLOCK_SIZE,
  MAX_DISK_SIZE,
  MAX_IDENTITY_BYTES,
  MAX_INDEX_HEADER_BYTES,
  MAX_INDEX_PAGES,
  MAX_PLAN_BLOCKS,
  MIN_BLOCK_SIZE,
} from '../base/limits.ts';
import type { BlockCount, ByteCount, ByteOffset } from '../base/units.ts';
import { blockCount, isPowerOfTwo } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import { expectChecksum, type FramedFormat, PREAMBLE_BYTES } from '../codec/preamble.ts';

export const indexFormat: FramedFormat = {
  what: 'a signature index',
  // The line ends show a file that was sent as text, as in PNG.
  magic: new TextEncoder().encode('DRSIG\r\n\n'),
  version: 1,
  maxHeaderBytes: MAX_INDEX_HEADER_BYTES,
};

/** Bytes of one signature: `blake3` only. */
export const INDEX_DIGEST: ByteCount = 32;
export const PAGE_BLOCKS: BlockCount = 1024;
/** The bits that begin a page. */
export const PAGE_BITS_BYTES: ByteCount = PAGE_BLOCKS / 8;
export const MAX_PAGE_BYTES: ByteCount = PAGE_BITS_BYTES + PAGE_BLOCKS * INDEX_DIGEST;
export const DIRECTORY_ENTRY: ByteCount = 12;
export const TRAILER_BYTES: ByteCount = 32;
const TRAILER_CHECKSUM_AT = 28;

/** What was indexed: the bytes of a logical unit, at physical offsets; or a virtual disk, at virtual ones. */
export type IndexSubject = 'unit' | 'disk';

export interface IndexHeader {
  readonly subject: IndexSubject;
  readonly identity: string;
  /** Of the unit or disk, when its blocks were signed. */
  readonly generation: string;
  readonly size: ByteCount;
  /** A power of two, 512 … 16 MiB. */
  readonly blockSize: ByteCount;
}

/** Bytes of a page with so many signatures. */
export function pageLength(signatures: number): ByteCount {
  return PAGE_BITS_BYTES + signatures * INDEX_DIGEST;
}

/** @throws DriftmapError `argument` or `limit` for a header that cannot be */
export function checkIndexHeader({ subject, identity, generation, size, blockSize }: IndexHeader): void {
  const bad = (reason: string, kind: 'argument' | 'limit' = 'argument'): never => {
    throw new DriftmapError(kind, reason);
  };
  if (subject !== 'unit' && subject !== 'disk') bad(`expected a unit or a disk as subject, got '${subject}'`);
  if (!Number.isSafeInteger(size) || size < 0 || size > MAX_DISK_SIZE)
    bad(`expected a size in bytes, got ${size}`);
  if (!isPowerOfTwo(blockSize) || blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE)
    bad(`expected a block size that is a power of two from 512 to 16M, got ${blockSize}`);
  if (blockCount(size, blockSize) > MAX_PLAN_BLOCKS)
    bad(`blocks of ${blockSize} bytes are too many for ${size} bytes: use larger ones`, 'limit');
  for (const text of [identity, generation]) {
    if (Buffer.byteLength(text) > MAX_IDENTITY_BYTES)
      bad(`an identity or a generation has more than ${MAX_IDENTITY_BYTES} bytes`, 'limit');
  }
}

export function encodeIndexHeader(header: IndexHeader): Uint8Array {
  checkIndexHeader(header);
  const { subject, identity, generation, size, blockSize } = header;
  const fixed = { signature: 'blake3', blocks: blockCount(size, blockSize), pageBlocks: PAGE_BLOCKS };
  return encodeControl({ subject, identity, generation, size, blockSize, ...fixed });
}

const headerKeys = [
  'subject',
  'identity',
  'generation',
  'size',
  'blockSize',
  'signature',
  'blocks',
  'pageBlocks',
];

/** @throws DriftmapError `malformed`, with the path */
export function decodeIndexHeader(bytes: Uint8Array, path: string): IndexHeader {
  const fail = (reason: string): never => {
    throw new DriftmapError('malformed', `the header: ${reason}`, { path, offset: PREAMBLE_BYTES });
  };
  const limits = { bytes: MAX_INDEX_HEADER_BYTES, text: MAX_IDENTITY_BYTES };
  const value = decodeControl(bytes, 'the header', limits, { path, offset: PREAMBLE_BYTES });
  if (typeof value !== 'object' || value === null || Array.isArray(value)) fail('expected a map');
  const fields = value as Record<string, unknown>;
  const got = Object.keys(fields);
  if (got.length !== headerKeys.length || !headerKeys.every((key) => Object.hasOwn(fields, key)))
    fail(`expected the keys ${headerKeys.join(', ')}, got ${got.join(', ') || 'none'}`);
  for (const key of ['subject', 'identity', 'generation', 'signature']) {
    if (typeof fields[key] !== 'string') fail(`expected text as ${key}`);
  }
  for (const key of ['size', 'blockSize', 'blocks', 'pageBlocks']) {
    if (typeof fields[key] !== 'number') fail(`expected a number as ${key}`);
  }
  const { subject, identity, generation, size, blockSize } = fields as unknown as IndexHeader;
  const header = { subject, identity, generation, size, blockSize };
  try {
    checkIndexHeader(header);
  } catch (cause) {
    fail(cause instanceof Error ? cause.message : String(cause));
  }
  if (fields.signature !== 'blake3') fail(`expected signatures by blake3, got '${String(fields.signature)}'`);
  if (fields.pageBlocks !== PAGE_BLOCKS) fail(`expected pages of ${PAGE_BLOCKS} blocks`);
  const blocks = blockCount(size, blockSize);
  if (fields.blocks !== blocks) fail(`expected ${blocks} blocks, got ${String(fields.blocks)}`);
  return header;
}

/** The pages that are kept, in columns over shared memory: what workers need to find a page. */
export interface IndexDirectory {
  /** Numbers of the pages, ascending. */
  readonly pages: Uint32Array;
  readonly signatures: Uint16Array;
  readonly checksums: Uint32Array;
  /** Where each page begins in the file. */
  readonly offsets: Float64Array;
}

/** Gathers the directory's bytes while pages are written, 12 bytes a page. */
export class DirectoryBuilder {
  pages = 0;
  signatures = 0;
  private buffer = new Uint8Array(256 * DIRECTORY_ENTRY);

  add(page: number, signatures: number, pageChecksum: number): void {
    const at = this.pages * DIRECTORY_ENTRY;
    if (at === this.buffer.length) {
      const larger = new Uint8Array(2 * at);
      larger.set(this.buffer);
      this.buffer = larger;
    }
    const view = new DataView(this.buffer.buffer, at, DIRECTORY_ENTRY);
    view.setUint32(0, page, true);
    view.setUint16(4, signatures, true);
    view.setUint32(8, pageChecksum, true);
    this.pages++;
    this.signatures += signatures;
  }

  get bytes(): Uint8Array {
    return this.buffer.subarray(0, this.pages * DIRECTORY_ENTRY);
  }

  trailer(header: Uint8Array): Uint8Array {
    const bytes = new Uint8Array(TRAILER_BYTES);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(this.pages), true);
    view.setBigUint64(8, BigInt(this.signatures), true);
    view.setUint32(16, checksum(this.bytes), true);
    const own = bytes.subarray(0, TRAILER_CHECKSUM_AT);
    view.setUint32(TRAILER_CHECKSUM_AT, checksum(own, checksum(header)), true);
    return bytes;
  }
}

export interface IndexTrailer {
  readonly pages: number;
  readonly signatures: number;
  readonly directoryChecksum: number;
}

/** Where the bytes of a file lie, for messages and bounds. */
export interface IndexPlace {
  readonly path: string;
  readonly fileLength: ByteCount;
  /** Where the header ends. */
  readonly bodyOffset: ByteOffset;
}

/** Checks the last 32 bytes; what they promise has room in the file. `malformed` or `limit`, with the offset. */
export function decodeTrailer(bytes: Uint8Array, headerBytes: Uint8Array, place: IndexPlace): IndexTrailer {
  const { path, fileLength, bodyOffset } = place;
  const offset = fileLength - TRAILER_BYTES;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const own = bytes.subarray(0, TRAILER_CHECKSUM_AT);
  const expected = view.getUint32(TRAILER_CHECKSUM_AT, true);
  expectChecksum(own, expected, 'the trailer', offset, path, checksum(headerBytes));
  const pages = Number(view.getBigUint64(0, true));
  const signatures = Number(view.getBigUint64(8, true));
  if (pages > MAX_INDEX_PAGES) {
    const reason = `expected at most ${MAX_INDEX_PAGES} pages, got ${pages}: use larger blocks`;
    throw new DriftmapError('limit', reason, { path, offset });
  }
  const expectedLength =
    bodyOffset + pages * (PAGE_BITS_BYTES + DIRECTORY_ENTRY) + signatures * INDEX_DIGEST + TRAILER_BYTES;
  if (view.getBigUint64(20, true) !== 0n || fileLength !== expectedLength) {
    const reason = `the trailer: ${pages} pages with ${signatures} signatures take ${expectedLength} bytes, the file has ${fileLength}`;
    throw new DriftmapError('malformed', reason, { path, offset });
  }
  return { pages, signatures, directoryChecksum: view.getUint32(16, true) };
}

/**
 * The directory's bytes as columns over shared memory. Ascending pages within the disk, each with 1 … its blocks
 * signatures, which together are those of the trailer; else `malformed`, with the offset.
 */
export function decodeDirectory(
  bytes: Uint8Array,
  { pages: count, signatures: promised, directoryChecksum }: IndexTrailer,
  header: IndexHeader,
  { path, fileLength, bodyOffset }: IndexPlace,
): IndexDirectory {
  const start = fileLength - TRAILER_BYTES - bytes.length;
  expectChecksum(bytes, directoryChecksum, 'the directory', start, path);
  const directory: IndexDirectory = {
    pages: new Uint32Array(new SharedArrayBuffer(4 * count)),
    signatures: new Uint16Array(new SharedArrayBuffer(2 * count)),
    checksums: new Uint32Array(new SharedArrayBuffer(4 * count)),
    offsets: new Float64Array(new SharedArrayBuffer(8 * count)),
  };
  const blocks = blockCount(header.size, header.blockSize);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let offset = bodyOffset;
  let total = 0;
  for (let i = 0, last = -1; i < count; i++) {
    const at = i * DIRECTORY_ENTRY;
    const page = view.getUint32(at, true);
    const signatures = view.getUint16(at + 4, true);
    const room = Math.min(PAGE_BLOCKS, blocks - page * PAGE_BLOCKS);
    if (page <= last || signatures < 1 || signatures > room || view.getUint16(at + 6, true) !== 0) {
      const reason = `the directory: expected an entry for a page above ${last} of a disk of ${blocks} blocks, got page ${page} with ${signatures} signatures`;
      throw new DriftmapError('malformed', reason, { path, offset: start + at });
    }
    directory.pages[i] = page;
    directory.signatures[i] = signatures;
    directory.checksums[i] = view.getUint32(at + 8, true);
    directory.offsets[i] = offset;
    offset += pageLength(signatures);
    total += signatures;
    last = page;
  }
  if (total !== promised) {
    const reason = `the directory: expected ${promised} signatures, as the trailer says, got ${total}`;
    throw new DriftmapError('malformed', reason, { path, offset: start });
  }
  return directory;
}

/** The page with these signatures of its blocks; null where all are zero. `nonzero[i]` is 1 where block i has one. */
export function encodePage(nonzero: Uint8Array, digests: Uint8Array): Uint8Array | null {
  let count = 0;
  for (const flag of nonzero) count += flag;
  if (count === 0) return null;
  const page = new Uint8Array(pageLength(count));
  let at = PAGE_BITS_BYTES;
  for (let i = 0; i < nonzero.length; i++) {
    if (nonzero[i] === 0) continue;
    page[i >>> 3]! |= 1 << (i & 7);
    page.set(digests.subarray(i * INDEX_DIGEST, (i + 1) * INDEX_DIGEST), at);
    at += INDEX_DIGEST;
  }
  return page;
}

/**
 * Where each block's signature lies in a page: its offset, or −1 where the block is zero.
 * @returns null when the bits are not `signatures` of the first `blocks` bits
 */
export function ranksOf(page: Uint8Array, blocks: BlockCount, signatures: number): Int32Array | null {
  const ranks = new Int32Array(PAGE_BLOCKS).fill(-1);
  let at = PAGE_BITS_BYTES;
  for (let i = 0; i < PAGE_BLOCKS; i++) {
    if (((page[i >>> 3]! >>> (i & 7)) & 1) === 0) continue;
    if (i >= blocks) return null;
    ranks[i] = at;
    at += INDEX_DIGEST;
  }
  return at === pageLength(signatures) ? ranks : null;
}
