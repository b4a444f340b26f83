/**
 * A signature index that is open for reading. Its directory is held in shared memory; its pages are read when they
 * are asked for, checked, and the last few are kept, so that memory is bounded whatever the index's size.
 *
 * A descriptor serves every thread (reads are positional): a worker attaches by handle and has pages of its own.
 */

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { DriftmapError, systemError } from '../base/errors.ts';
import { INDEX_PAGES_KEPT, MAX_IO_BYTES } from '../base/limits.ts';
import type { BlockCount, BlockIndex, ByteCount, ByteOffset } from '../base/units.ts';
import { blockCount } from '../base/units.ts';
import { decodeFrame, expectChecksum, PREAMBLE_BYTES } from '../codec/preamble.ts';
import {
  DIRECTORY_ENTRY,
  decodeDirectory,
  decodeIndexHeader,
  decodeTrailer,
  INDEX_DIGEST,
  type IndexDirectory,
  type IndexHeader,
  type IndexPlace,
  indexFormat,
  PAGE_BLOCKS,
  pageLength,
  ranksOf,
  TRAILER_BYTES,
} from './index-table.ts';

/** An open index as plain data and shared memory, for worker threads. */
export interface IndexHandle {
  readonly path: string;
  readonly fd: number;
  readonly header: IndexHeader;
  readonly directory: IndexDirectory;
}

/** A page, and where in it each block's signature lies; −1 for zero blocks. */
interface KeptPage {
  readonly bytes: Uint8Array;
  /** The same bytes. */
  readonly words: Uint32Array;
  readonly ranks: Int32Array;
}

/** What an index says of a block: its signature, or that it is all zero. */
export type IndexedSignature = Uint8Array | 'zero';

/** Looks signatures up in one thread. */
export class IndexReader {
  readonly handle: IndexHandle;
  private readonly most: number;
  private readonly kept = new Map<number, KeptPage>();
  private lastPage = -1;
  private last: KeptPage | null = null;

  /** @param most pages to keep, of 36 KiB each: fewer where a thread has many readers */
  constructor(handle: IndexHandle, most = INDEX_PAGES_KEPT) {
    this.handle = handle;
    this.most = most;
  }

  /**
   * Copies the signature of a block to eight words of `target`, from word `at` on; false where the block is all zero.
   * What a scan calls for every block: it allocates nothing.
   * @throws DriftmapError `malformed` for a damaged page, `io`
   */
  copySignature(block: BlockIndex, target: Uint32Array, at: number): boolean {
    const number = Math.floor(block / PAGE_BLOCKS);
    const page = number === this.lastPage ? this.last : this.page(number);
    if (page === null) return false;
    const rank = page.ranks[block - number * PAGE_BLOCKS]!;
    if (rank < 0) return false;
    const { words } = page;
    const from = rank >>> 2;
    for (let i = 0; i < INDEX_DIGEST / 4; i++) target[at + i] = words[from + i]!;
    return true;
  }

  /**
   * The signature of a block: a view that is good until the next call, or `zero`.
   * @throws DriftmapError `malformed` for a damaged page, `io`
   */
  signature(block: BlockIndex): IndexedSignature {
    const number = Math.floor(block / PAGE_BLOCKS);
    const page = number === this.lastPage ? this.last : this.page(number);
    if (page === null) return 'zero';
    const rank = page.ranks[block - number * PAGE_BLOCKS]!;
    return rank < 0 ? 'zero' : page.bytes.subarray(rank, rank + INDEX_DIGEST);
  }

  private page(number: number): KeptPage | null {
    let page = this.kept.get(number) ?? null;
    if (page === null) {
      const entry = entryOf(this.handle.directory.pages, number);
      if (entry >= 0) {
        page = readPage(this.handle, entry);
        if (this.kept.size >= this.most) this.kept.delete(this.kept.keys().next().value!);
        this.kept.set(number, page);
      }
    }
    this.lastPage = number;
    this.last = page;
    return page;
  }
}

export class SignatureIndex {
  readonly path: string;
  readonly header: IndexHeader;
  readonly blocks: BlockCount;
  /** Blocks that are not zero. */
  readonly signatures: number;
  readonly fileLength: ByteCount;
  private readonly fd: number;
  private readonly directory: IndexDirectory;
  private users = 1;
  private closed = false;

  private constructor(
    handle: IndexHandle,
    { signatures, fileLength }: { signatures: number; fileLength: ByteCount },
  ) {
    this.path = handle.path;
    this.fd = handle.fd;
    this.header = handle.header;
    this.directory = handle.directory;
    this.blocks = blockCount(handle.header.size, handle.header.blockSize);
    this.signatures = signatures;
    this.fileLength = fileLength;
  }

  /**
   * Opens an index and checks all of it but its pages, each of which is checked when it is read.
   * @throws DriftmapError `malformed`, `unsupported`, `limit`, `argument` (not a regular file), `not-found`, `io`
   */
  static open(path: string): SignatureIndex {
    let fd: number;
    try {
      // A named pipe would block here for a writer that never comes.
      fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    } catch (cause) {
      throw systemError(cause, { path, operation: 'open' });
    }
    try {
      return SignatureIndex.openFile(fd, path);
    } catch (cause) {
      closeSync(fd);
      throw systemError(cause, { path, operation: 'read' });
    }
  }

  private static openFile(fd: number, path: string): SignatureIndex {
    const stats = fstatSync(fd);
    if (!stats.isFile()) throw new DriftmapError('argument', 'expected a regular file', { path });
    const fileLength = stats.size;
    const front = new Uint8Array(Math.min(fileLength, PREAMBLE_BYTES + indexFormat.maxHeaderBytes));
    readFully(fd, path, 0, front);
    const { header: headerBytes, bodyOffset } = decodeFrame(indexFormat, front, path, fileLength);
    const header = decodeIndexHeader(headerBytes, path);
    if (fileLength < bodyOffset + TRAILER_BYTES) {
      const reason = `expected ${TRAILER_BYTES} bytes of trailer, got the end of the file`;
      throw new DriftmapError('malformed', reason, { path, offset: bodyOffset });
    }
    const place: IndexPlace = { path, fileLength, bodyOffset };
    const tail = new Uint8Array(TRAILER_BYTES);
    readFully(fd, path, fileLength - TRAILER_BYTES, tail);
    const trailer = decodeTrailer(tail, headerBytes, place);
    const entries = new Uint8Array(trailer.pages * DIRECTORY_ENTRY);
    readFully(fd, path, fileLength - TRAILER_BYTES - entries.length, entries);
    const directory = decodeDirectory(entries, trailer, header, place);
    return new SignatureIndex({ path, fd, header, directory }, { ...trailer, fileLength });
  }

  handle(): IndexHandle {
    if (this.closed)
      throw new DriftmapError('argument', 'the index is closed: open it again', { path: this.path });
    const { path, fd, header, directory } = this;
    return { path, fd, header, directory };
  }

  reader(): IndexReader {
    return new IndexReader(this.handle());
  }

  /** Keeps the file open, also when the index is closed meanwhile, until the returned function is called. */
  retain(): () => void {
    this.users++;
    let held = true;
    return () => {
      if (held) this.release();
      held = false;
    };
  }

  /** Idempotent. */
  close(): void {
    if (!this.closed) this.release();
    this.closed = true;
  }

  private release(): void {
    this.users--;
    if (this.users === 0) closeSync(this.fd);
  }
}

/** Opens a signature index for scans to use. Errors as `SignatureIndex.open`; close it after the last scan. */
export function openIndex(path: string): SignatureIndex {
  return SignatureIndex.open(path);
}

/** Position of a page in the directory; −1 where it is not kept. */
function entryOf(pages: Uint32Array, number: number): number {
  let low = 0;
  let high = pages.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (pages[middle]! < number) low = middle + 1;
    else high = middle;
  }
  return pages[low] === number ? low : -1;
}

function readPage({ fd, path, header, directory }: IndexHandle, entry: number): KeptPage {
  const signatures = directory.signatures[entry]!;
  const offset = directory.offsets[entry]!;
  const number = directory.pages[entry]!;
  const bytes = new Uint8Array(pageLength(signatures));
  readFully(fd, path, offset, bytes);
  expectChecksum(bytes, directory.checksums[entry]!, `page ${number} of the index`, offset, path);
  const blocks = blockCount(header.size, header.blockSize) - number * PAGE_BLOCKS;
  const ranks = ranksOf(bytes, Math.min(PAGE_BLOCKS, blocks), signatures);
  if (ranks === null) {
    const reason = `page ${number} of the index: expected ${signatures} blocks with a signature within the disk`;
    throw new DriftmapError('malformed', reason, { path, offset, length: bytes.length });
  }
  return { bytes, words: new Uint32Array(bytes.buffer), ranks };
}

function readFully(fd: number, path: string, offset: ByteOffset, target: Uint8Array): void {
  for (let done = 0; done < target.length; ) {
    const most = Math.min(target.length - done, MAX_IO_BYTES);
    let count: number;
    try {
      count = readSync(fd, target, done, most, offset + done);
    } catch (cause) {
      throw systemError(cause, { path, offset: offset + done, length: most, operation: 'read' });
    }
    if (count === 0) {
      const reason = 'the file became shorter while it was read';
      throw new DriftmapError('io', reason, { path, offset: offset + done });
    }
    done += count;
  }
}
