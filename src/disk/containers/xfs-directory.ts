/**
 * Directories of XFS (XFS Algorithms & Data Structures, chapter "Directories").
 *
 * A small directory lies in its inode. A larger one has blocks of data, below 32 GiB of its own offsets, that
 * hold the entries in no order; hash tables and free space beyond that only help to find one quickly, and are
 * not read here. With one block of data, the hash table stands at that block's end.
 *
 * So a directory is read from first to last; entries come block by block. `.` and `..` are left out.
 */

import type { DriftmapError } from '../../base/errors.ts';
import { XFS_MAX_SYMLINK_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, GiB } from '../../base/units.ts';
import { uint64, viewOf } from '../formats/byte-source.ts';
import { visitExtents } from './xfs-extents.ts';
import type { XfsInode } from './xfs-inode.ts';
import { checkSelf, type SelfLayout, type XfsMetadata } from './xfs-metadata.ts';
import { hex, xfsFault } from './xfs-superblock.ts';

export interface XfsDirectoryEntry {
  readonly name: Uint8Array;
  readonly inode: number;
}

/** Where the hash tables begin, in bytes of the directory. */
const DATA_END = 32 * GiB;
/** "XD2B" "XDB3": one block with its hash table; "XD2D" "XDD3": data alone. */
const BLOCK_MAGIC = { 4: 0x58443242, 5: 0x58444233 } as const;
const DATA_MAGIC = { 4: 0x58443244, 5: 0x58444433 } as const;
const DATA_HEADER = { 4: 16, 5: 64 } as const;
const DATA_SELF: SelfLayout = { checksum: 4, place: 8, uuid: 24, owner: 40 };
const FREE_TAG = 0xffff;

/** "XSLM" */
const LINK_MAGIC = 0x58534c4d;
const LINK_HEADER = 56;
const LINK_SELF: SelfLayout = { checksum: 12, uuid: 16, owner: 32, place: 40 };

/** A run of the unit that is a part of a fork, in bytes. */
interface Run {
  readonly start: ByteOffset;
  readonly place: ByteOffset;
  readonly length: ByteCount;
}

/**
 * The entries of a directory, some at a time.
 * @throws DriftmapError `malformed`
 */
export async function* readDirectory(
  metadata: XfsMetadata,
  inode: XfsInode,
): AsyncGenerator<readonly XfsDirectoryEntry[], undefined> {
  if (inode.format === 'local') {
    yield new EntryReader(metadata, inode).inInode();
    return;
  }
  const { directoryBlockSize } = metadata.geometry;
  const runs = (await runsOf(metadata, inode)).filter((run) => run.start < DATA_END);
  const last = runs.at(-1);
  const end = last === undefined ? 0 : last.start + last.length;
  if (end !== inode.size || end === 0) {
    const reason = `directory inode ${inode.number}: expected data up to its size, ${inode.size} bytes, got ${end}`;
    throw xfsFault(metadata.path, inode.offset, reason);
  }
  const blocks = new BlockGatherer(runs);
  for (let at = blocks.next(0); at < end; at = blocks.next(at + directoryBlockSize)) {
    const parts = blocks.parts(at, directoryBlockSize);
    if (parts === null) {
      const reason = `directory inode ${inode.number}: expected a whole directory block at ${at} of its bytes, got a hole in it`;
      throw xfsFault(metadata.path, inode.offset, reason);
    }
    const bytes = await readParts(metadata, `directory inode ${inode.number}`, parts, directoryBlockSize);
    yield new EntryReader(metadata, inode).inBlock(bytes, parts[0]!.place, end === directoryBlockSize);
  }
}

/** Both extents of a directory and of a long link are few or must be held: they are what its size demands. */
async function runsOf(metadata: XfsMetadata, inode: XfsInode): Promise<Run[]> {
  const { blockSize } = metadata.geometry;
  const runs: Run[] = [];
  await visitExtents(metadata, inode, (start, place, count, unwritten) => {
    if (unwritten) {
      const reason = `inode ${inode.number}: an extent of a ${inode.kind} is marked as never written`;
      throw xfsFault(metadata.path, inode.offset, reason);
    }
    runs.push({ start: start * blockSize, place, length: count * blockSize });
  });
  return runs;
}

async function readParts(
  metadata: XfsMetadata,
  what: string,
  parts: readonly Run[],
  length: ByteCount,
): Promise<Uint8Array> {
  if (parts.length === 1) return metadata.look(what, parts[0]!.place, length);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const { place, length } of parts) {
    bytes.set(await metadata.look(what, place, length), at);
    at += length;
  }
  return bytes;
}

/** Cuts runs, which ascend, into blocks; asked in ascending order. */
class BlockGatherer {
  private readonly runs: readonly Run[];
  private index = 0;

  constructor(runs: readonly Run[]) {
    this.runs = runs;
  }

  /** The first byte at or after `from` that lies somewhere; infinity when there is none. */
  next(from: ByteOffset): ByteOffset {
    while (this.index < this.runs.length && endOf(this.runs[this.index]!) <= from) this.index++;
    const run = this.runs[this.index];
    return run === undefined ? Number.POSITIVE_INFINITY : Math.max(run.start, from);
  }

  /** The pieces of `[from, from + length)`, which begins a block; null where one is missing. */
  parts(from: ByteOffset, length: ByteCount): Run[] | null {
    if (from % length !== 0) return null;
    const parts: Run[] = [];
    let at = from;
    for (let i = this.index; at < from + length; i++) {
      const run = this.runs[i];
      if (run === undefined || run.start > at) return null;
      const taken = Math.min(endOf(run), from + length) - at;
      parts.push({ start: at, place: run.place + (at - run.start), length: taken });
      at += taken;
    }
    return parts;
  }
}

function endOf({ start, length }: Run): ByteOffset {
  return start + length;
}

class EntryReader {
  private readonly metadata: XfsMetadata;
  private readonly inode: XfsInode;
  private readonly found: XfsDirectoryEntry[] = [];

  constructor(metadata: XfsMetadata, inode: XfsInode) {
    this.metadata = metadata;
    this.inode = inode;
  }

  /** Short form: counts, the parent, entries; numbers have 4 bytes, or 8 where one of them needs it. */
  inInode(): readonly XfsDirectoryEntry[] {
    const { fork, forkAt, size } = this.inode;
    const { hasFileTypes } = this.metadata.geometry;
    if (size > fork.length || size < 6) {
      throw this.fault(forkAt, `expected 6 to ${fork.length} bytes of entries in the inode, got ${size}`);
    }
    const view = viewOf(fork);
    const wide = view.getUint8(1) > 0;
    const count = wide ? view.getUint8(1) : view.getUint8(0);
    const numberBytes = wide ? 8 : 4;
    let at = 2 + numberBytes;
    for (let i = 0; i < count; i++) {
      const nameBytes = at < size ? view.getUint8(at) : 0;
      const numberAt = at + 3 + nameBytes + (hasFileTypes ? 1 : 0);
      if (nameBytes === 0 || numberAt + numberBytes > size) {
        throw this.fault(forkAt + at, `expected entry ${i + 1} of ${count} within ${size} bytes`);
      }
      const number = wide ? uint64(view, numberAt) : view.getUint32(numberAt);
      this.add(fork.subarray(at + 3, at + 3 + nameBytes), number, forkAt + at);
      at = numberAt + numberBytes;
    }
    if (at !== size)
      throw this.fault(forkAt + at, `expected entries up to the size of ${size} bytes, got ${at}`);
    return this.found;
  }

  /** @param alone whether it is the only block of data, which then has the hash table at its end */
  inBlock(bytes: Uint8Array, place: ByteOffset, alone: boolean): readonly XfsDirectoryEntry[] {
    const { geometry } = this.metadata;
    const { version } = geometry;
    const view = viewOf(bytes);
    const magic = view.getUint32(0);
    const withTable = magic === BLOCK_MAGIC[version];
    if (!withTable && magic !== DATA_MAGIC[version]) {
      throw this.fault(place, `expected a block of directory entries, got the magic ${hex(magic)}`);
    }
    if (version === 5) {
      checkSelf(geometry, bytes, DATA_SELF, `directory inode ${this.inode.number}`, place, this.inode.number);
    }
    if (withTable && !alone)
      throw this.fault(place, 'expected a hash table in the only block, got one of more');
    const end = withTable ? this.tableStart(view, place) : bytes.length;
    this.entries(bytes, view, { from: DATA_HEADER[version], end }, place);
    return this.found;
  }

  private tableStart(view: DataView, place: ByteOffset): number {
    const { byteLength } = view;
    const count = view.getUint32(byteLength - 8);
    const start = byteLength - 8 - 8 * count;
    if (start >= DATA_HEADER[this.metadata.geometry.version]) return start;
    throw this.fault(place + byteLength - 8, `expected a hash table within the block, got ${count} entries`);
  }

  private entries(
    bytes: Uint8Array,
    view: DataView,
    { from, end }: { from: number; end: number },
    place: ByteOffset,
  ): void {
    const typeBytes = this.metadata.geometry.hasFileTypes ? 1 : 0;
    for (let at = from; at < end; ) {
      const room = end - at;
      const isFree = room >= 8 && view.getUint16(at) === FREE_TAG;
      const nameBytes = isFree || room < 16 ? 0 : view.getUint8(at + 8);
      const length = isFree ? view.getUint16(at + 2) : entryBytes(nameBytes, typeBytes);
      const fits = length >= 8 && length % 8 === 0 && length <= room && (isFree || nameBytes > 0);
      if (!fits) throw this.fault(place + at, `expected an entry or free space within ${room} bytes`);
      const tag = view.getUint16(at + length - 2);
      if (tag !== at)
        throw this.fault(place + at + length - 2, `expected an entry that is tagged with ${at}, got ${tag}`);
      if (!isFree) this.add(bytes.subarray(at + 9, at + 9 + nameBytes), uint64(view, at), place + at);
      at += length;
    }
  }

  private add(name: Uint8Array, inode: number, offset: ByteOffset): void {
    if (name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT))) return;
    if (name.includes(0) || name.includes(SLASH)) {
      throw this.fault(offset, 'expected a name without / and zero bytes');
    }
    this.found.push({ name, inode });
  }

  private fault(offset: ByteOffset, reason: string): DriftmapError {
    return xfsFault(this.metadata.path, offset, `directory inode ${this.inode.number}: ${reason}`);
  }
}

const DOT = 0x2e;
const SLASH = 0x2f;

/** Number, length of the name, name, kind, tag; in whole eights. */
function entryBytes(nameBytes: number, typeBytes: number): ByteCount {
  return Math.ceil((8 + 1 + nameBytes + typeBytes + 2) / 8) * 8;
}

/**
 * The target of a symbolic link.
 * @throws DriftmapError `malformed`
 */
export async function readLink(metadata: XfsMetadata, inode: XfsInode): Promise<Uint8Array> {
  const { geometry, path } = metadata;
  const { number, size, fork, forkAt } = inode;
  const most = inode.format === 'local' ? fork.length : XFS_MAX_SYMLINK_BYTES;
  if (size === 0 || size > most) {
    throw xfsFault(path, inode.offset, `symbolic link ${number}: expected 1 to ${most} bytes, got ${size}`);
  }
  if (inode.format === 'local') return fork.slice(0, size);
  const target = new Uint8Array(size);
  const what = `symbolic link ${number}`;
  let done = 0;
  let end = 0;
  for (const { start, place, length } of await runsOf(metadata, inode)) {
    if (start !== end || done === size) {
      throw xfsFault(
        path,
        forkAt,
        `${what}: expected its blocks one after the other and no more than it needs`,
      );
    }
    end = start + length;
    const header = geometry.version === 5 ? LINK_HEADER : 0;
    const wanted = Math.min(size - done, length - header);
    if (length > 2 * XFS_MAX_SYMLINK_BYTES + geometry.blockSize) {
      throw xfsFault(
        path,
        forkAt,
        `${what}: expected the blocks that ${size} bytes need, got ${length} bytes`,
      );
    }
    const bytes = await metadata.look(what, place, length);
    if (header > 0) checkLinkBlock(metadata, bytes, inode, { place, done, wanted });
    target.set(bytes.subarray(header, header + wanted), done);
    done += wanted;
  }
  if (done === size) return target;
  throw xfsFault(path, forkAt, `${what}: expected ${size} bytes in its blocks, got ${done}`);
}

function checkLinkBlock(
  { geometry }: XfsMetadata,
  bytes: Uint8Array,
  { number }: XfsInode,
  { place, done, wanted }: { place: ByteOffset; done: ByteCount; wanted: ByteCount },
): void {
  const what = `symbolic link ${number}`;
  const view = viewOf(bytes);
  if (view.getUint32(0) !== LINK_MAGIC) {
    throw xfsFault(geometry.path, place, `${what}: expected the magic XSLM, got ${hex(view.getUint32(0))}`);
  }
  checkSelf(geometry, bytes, LINK_SELF, what, place, number);
  if (view.getUint32(4) === done && view.getUint32(8) === wanted) return;
  const got = `${view.getUint32(8)} bytes from ${view.getUint32(4)}`;
  throw xfsFault(
    geometry.path,
    place + 4,
    `${what}: expected ${wanted} bytes from byte ${done} of it, got ${got}`,
  );
}
