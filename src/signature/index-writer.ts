/** Writes a signature index: page by page beside its place, and into it only when it is whole and durable. */

import { assert, DriftmapError } from '../base/errors.ts';
import { MAX_INDEX_PAGES } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { AsideFile, checkOverwritable } from '../codec/atomic-file.ts';
import { checksum } from '../codec/checksum.ts';
import { encodeFrame, PREAMBLE_BYTES } from '../codec/preamble.ts';
import {
  DirectoryBuilder,
  encodeIndexHeader,
  INDEX_DIGEST,
  type IndexHeader,
  indexFormat,
  PAGE_BITS_BYTES,
} from './index-table.ts';

export class IndexWriter {
  private readonly path: string;
  private readonly header: Uint8Array;
  private readonly file: AsideFile;
  private readonly directory = new DirectoryBuilder();
  private lastPage = -1;

  /**
   * @throws DriftmapError `policy` where something is there that is no index, `argument` and `limit` for a header
   *   that cannot be, and what opening throws
   */
  constructor(path: string, header: IndexHeader) {
    checkIndexReplaceable(path);
    this.path = path;
    this.header = encodeIndexHeader(header);
    this.file = new AsideFile(path);
    // Room for the preamble, which tells the file's length.
    this.file.append(new Uint8Array(PREAMBLE_BYTES));
    this.file.append(this.header);
  }

  /** Blocks that are not zero, so far. */
  get signatures(): number {
    return this.directory.signatures;
  }

  /** The next page that is not all zero, in ascending order, as `encodePage` made it. */
  add(page: number, bytes: Uint8Array): void {
    assert(page > this.lastPage, `page ${page} comes after the pages before it`);
    if (this.directory.pages === MAX_INDEX_PAGES) {
      const reason = `expected at most ${MAX_INDEX_PAGES} pages with data: use larger blocks`;
      throw new DriftmapError('limit', reason, { path: this.path });
    }
    const signatures = (bytes.length - PAGE_BITS_BYTES) / INDEX_DIGEST;
    this.file.append(bytes);
    this.directory.add(page, signatures, checksum(bytes));
    this.lastPage = page;
  }

  /** Puts the index in its place; returns its length. */
  commit(): ByteCount {
    const { file, header, directory } = this;
    file.append(directory.bytes);
    file.append(directory.trailer(header));
    file.overwrite(0, encodeFrame(indexFormat, header, file.length - PREAMBLE_BYTES - header.length));
    file.commit();
    return file.length;
  }

  /** Removes what was written; does nothing after `commit`. */
  discard(): void {
    this.file.discard();
  }
}

/** Whether an index may be written there: the path is free, or holds an index or nothing; else `policy`. */
export function checkIndexReplaceable(path: string): void {
  checkOverwritable(path, indexFormat.magic, 'signature index');
}
