/**
 * Data inside an inode (Linux kernel, Documentation/filesystems/ext4/inlinedata.rst): the first 60 bytes where
 * block numbers would be, the rest as the value of the extended attribute `system.data`, which follows the
 * inode's own fields (attributes.rst).
 */

import type { ByteCount } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { viewOf } from '../formats/byte-source.ts';
import { I_BLOCK_AT, I_BLOCK_BYTES, type Inode } from './ext4-inode.ts';
import type { Metadata } from './ext4-metadata.ts';
import { hex } from './ext4-superblock.ts';

/** A run of an inode's bytes. */
export interface InlinePart {
  readonly at: ByteCount;
  readonly length: ByteCount;
}

const ATTRIBUTES_MAGIC = 0xea020000;
const ENTRY = 16;
const SYSTEM = 7;
const DATA = 'data';

/** Where the data are, one part after the other. @throws DriftmapError `malformed` */
export function inlineParts(metadata: Metadata, inode: Inode): readonly [InlinePart, InlinePart] {
  const { bytes, offset, number } = inode;
  const fault = (at: number, reason: string) =>
    metadata.fault(offset + at, `inode ${number}: inline data: ${reason}`);
  const view = viewOf(bytes);
  const header = 128 + inode.extra;
  if (inode.extra === 0 || header + 8 > bytes.length) throw fault(0x80, 'expected room for attributes');
  const magic = view.getUint32(header, true);
  if (magic !== ATTRIBUTES_MAGIC) {
    throw fault(header, `expected attributes (ea020000), got ${hex(magic)}`);
  }
  // Values are counted from the first entry.
  const first = header + 4;
  for (let at = first; at + 4 <= bytes.length && view.getUint32(at, true) !== 0; ) {
    const nameLength = bytes[at]!;
    const next = at + 4 * Math.ceil((ENTRY + nameLength) / 4);
    if (next > bytes.length) throw fault(at, 'an attribute reaches out of the inode');
    const name = bytes.subarray(at + ENTRY, at + ENTRY + nameLength);
    if (bytes[at + 1] === SYSTEM && String.fromCharCode(...name) === DATA) {
      const value = first + view.getUint16(at + 2, true);
      const length = view.getUint32(at + 8, true);
      if (view.getUint32(at + 4, true) !== 0) throw fault(at + 4, 'expected its value in the inode');
      if (length > 0 && (value < next || value + length > bytes.length)) {
        throw fault(at + 2, `expected ${length} bytes within the inode, got them at ${value}`);
      }
      return [
        { at: I_BLOCK_AT, length: I_BLOCK_BYTES },
        { at: length === 0 ? 0 : value, length },
      ];
    }
    at = next;
  }
  throw fault(first, 'expected an attribute system.data, got none');
}

/** What an inode holds, its first `size` bytes; past what it has there are zeros. */
export function readInline(metadata: Metadata, inode: Inode): Uint8Array {
  const parts = inlineParts(metadata, inode);
  const bytes = new Uint8Array(Math.min(inode.size, parts[0].length + parts[1].length));
  let done = 0;
  for (const { at, length } of parts) {
    const within = Math.min(length, bytes.length - done);
    bytes.set(inode.bytes.subarray(at, at + within), done);
    done += within;
  }
  return bytes;
}

/** A file's map, led to the inode's newest copy. As in Linux, a file longer than its data ends in zeros. */
export function inlineMap(metadata: Metadata, inode: Inode): ExtentMap {
  const { blockSize } = metadata.superblock;
  const { replayed } = metadata;
  const builder = new ExtentMapBuilder(3);
  // An inode lies in one block. Escapes change four bytes at a block's beginning, which are no inode's data.
  const block = Math.floor(inode.offset / blockSize);
  const index = replayed.indexFrom(block);
  const isReplayed = index < replayed.count && replayed.blockOf(index) === block;
  const place = isReplayed ? replayed.placeOf(index) + (inode.offset % blockSize) : inode.offset;
  for (const part of inlineParts(metadata, inode)) {
    const offset = builder.size;
    const length = Math.min(part.length, inode.size - offset);
    builder.append({ offset, length, kind: Kind.data, unit: 0, place: place + part.at, depth: 0 });
  }
  const { size } = builder;
  const rest = { offset: size, length: inode.size - size, unit: 0, place: -1, depth: 0 };
  builder.append({ ...rest, kind: Kind.zero });
  return builder.finish();
}
