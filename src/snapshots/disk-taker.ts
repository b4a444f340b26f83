/**
 * Takes one disk into a repository: from a unit that does not change, to the roots of its tree. Where it is known what
 * changed since the parent, nothing else is read, and pages in which nothing changed are not even loaded. Otherwise
 * the unit is asked for its extents, and what may hold data is read.
 */

import { DriftmapError } from '../base/errors.ts';
import { checkWithin } from '../base/ranges.ts';
import type { BlockCount, BlockIndex, BlockRun, ByteCount, ByteRange } from '../base/units.ts';
import { blockAt, blocksTouching, bytesOfBlocks, MiB } from '../base/units.ts';
import { PagedBits } from '../bitmap/paged-bits.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { ExtentCursor } from './extent-cursor.ts';
import { hasher } from './hasher.ts';
import type { SnapshotDisk } from './manifest.ts';
import { PAGE_BLOCKS, Page, placesOfPage, ROOT_BLOCKS, treeShape } from './page.ts';
import type { Piece, Pieces } from './pieces.ts';
import type { Repository } from './repository.ts';
import { TreeReader } from './tree.ts';
import type { Uploader } from './uploader.ts';

export interface SnapshotDiskSource {
  readonly name: string;
  readonly size: ByteCount;
  /** Holds one moment: a view of a journal, a disk that nobody writes to, a snapshot of one. */
  readonly unit: LogicalUnit;
  /** What may have changed since the parent, in any order, overlapping or not; null where nobody knows. */
  readonly changed: Iterable<ByteRange> | null;
}

/** Changes that run on for so long may be a guest that gave its storage back. */
const WORTH_ASKING = 8 * MiB;
/** Pages of the parent: they are walked in order, so few are needed again. */
const PARENT_PAGES = 4;

export interface DiskTakerParts {
  readonly repository: Repository;
  readonly source: SnapshotDiskSource;
  /** The same disk in the parent, of the same size; null without one. */
  readonly parent: SnapshotDisk | null;
  readonly uploader: Uploader;
  readonly signal: AbortSignal | undefined;
  /** After every piece, and while zeros are passed over. */
  readonly onStep: () => Promise<undefined> | undefined;
}

export class DiskTaker {
  bytesRead: ByteCount = 0;
  /** Of those, bytes of blocks that nobody had said to be changed. */
  bytesScanned: ByteCount = 0;
  /** Of what is to be looked at, done. */
  doneBytes: ByteCount = 0;
  readonly totalBytes: ByteCount;
  /** What the changed blocks have; null where it is not known. */
  readonly changedBytes: ByteCount | null;
  private readonly parts: DiskTakerParts;
  private readonly old: TreeReader | null;
  private readonly cursor: ExtentCursor;
  /** Null: all of them. */
  private readonly dirty: PagedBits | null;
  private readonly blocks: BlockCount;
  /** Pieces of one page that were begun and are not sent, in order. */
  private readonly ahead: { readonly run: BlockRun; readonly piece: Promise<Piece> }[] = [];
  private found = 0;
  private pieces: Pieces | null = null;

  /** @throws DriftmapError `argument` for a unit of another size, or changes past its end */
  constructor(parts: DiskTakerParts) {
    const { repository, source, parent, signal } = parts;
    const { name, size, unit, changed } = source;
    if (unit.size !== size)
      throw new DriftmapError('argument', `expected ${size} bytes, got ${unit.size}`, { path: name });
    this.parts = parts;
    this.cursor = new ExtentCursor(unit);
    this.blocks = treeShape(size, repository.blockSize).blocks;
    this.old = parent === null ? null : new TreeReader(repository, parent, PARENT_PAGES, { signal });
    this.dirty = parent === null || changed === null ? null : this.dirtyBlocks(changed);
    this.changedBytes = this.dirty === null ? null : this.bytesOf(this.dirty);
    this.totalBytes = this.changedBytes ?? size;
  }

  /** Reads and sends; what was sent is in the store when the uploader is done. */
  async take(pieces: Pieces): Promise<SnapshotDisk> {
    const { source, parent } = this.parts;
    this.pieces = pieces;
    this.found = parent?.blocks ?? 0;
    const { roots: count } = treeShape(source.size, this.parts.repository.blockSize);
    const roots: (Uint8Array | null)[] = [];
    for (let root = 0; root < count; root++) roots.push(await this.takeRoot(root));
    return { name: source.name, size: source.size, blocks: this.found, roots };
  }

  private async takeRoot(root: number): Promise<Uint8Array | null> {
    const { parent } = this.parts;
    const end = Math.min((root + 1) * ROOT_BLOCKS, this.blocks);
    const before = parent?.roots[root] ?? null;
    let next = this.nextDirty(root * ROOT_BLOCKS, end);
    if (next >= end) return before;
    const upper = (await this.old?.root(root))?.clone() ?? Page.empty();
    while (next < end) {
      const page = Math.floor(next / PAGE_BLOCKS);
      upper.set(page % PAGE_BLOCKS, await this.takePage(page));
      next = this.nextDirty((page + 1) * PAGE_BLOCKS, end);
    }
    return this.sendPage(upper, before);
  }

  private async takePage(page: number): Promise<Uint8Array | null> {
    const { repository, source } = this.parts;
    const before = (await this.old?.page(page)) ?? null;
    const beforeSignature =
      (await this.old?.root(Math.floor(page / PAGE_BLOCKS)))?.at(page % PAGE_BLOCKS) ?? null;
    const now = before?.clone() ?? Page.empty();
    const first = page * PAGE_BLOCKS;
    const end = first + placesOfPage(treeShape(source.size, repository.blockSize), page);
    for (let from = this.nextDirty(first, end); from < end; ) {
      const to = Math.min(this.dirty?.nextClear(from) ?? end, end);
      await this.takeRun(now, { start: from, end: to });
      from = this.nextDirty(to, end);
    }
    while (this.ahead.length > 0) await this.sendPiece(now);
    this.found += now.count - (before?.count ?? 0);
    return this.sendPage(now, beforeSignature);
  }

  /** Blocks of one page: holes are zeros, the rest is read. */
  private async takeRun(page: Page, { start, end }: BlockRun): Promise<undefined> {
    const { repository, source, onStep } = this.parts;
    const { blockSize } = repository;
    const range = bytesOfBlocks({ start, end }, blockSize, source.size);
    const last = range.offset + range.length;
    const mayHaveHoles = this.dirty === null || range.length >= WORTH_ASKING;
    for (let block = start; block < end; ) {
      const offset = block * blockSize;
      const run = mayHaveHoles ? await this.cursor.runAt(offset, last) : { isZero: false, end: last };
      // A hole counts as far as whole blocks go; one that reaches the end of the disk goes to its last block.
      const to =
        run.end >= last
          ? end
          : run.isZero
            ? blockAt(run.end, blockSize)
            : blockAt(run.end - 1, blockSize) + 1;
      if (run.isZero && to > block) {
        for (; block < to; block++) page.set(block % PAGE_BLOCKS, null);
        this.doneBytes += Math.min(to * blockSize, source.size) - offset;
      } else {
        const next = Math.min(Math.max(to, block + 1), block + this.pieces!.most);
        await this.takePiece(page, { start: block, end: next });
        block = next;
      }
      const wait = onStep();
      if (wait) await wait;
    }
    return undefined;
  }

  /** Begins to read and sign it; those before it are sent meanwhile. */
  private async takePiece(page: Page, run: BlockRun): Promise<undefined> {
    const { repository, source } = this.parts;
    const pieces = this.pieces!;
    while (this.ahead.length >= pieces.ahead) await this.sendPiece(page);
    const { offset, length } = bytesOfBlocks(run, repository.blockSize, source.size);
    const piece = pieces.begin(source.unit, offset, length);
    // It is heard of when it is its turn; if another one fails before, never.
    piece.catch(() => undefined);
    this.ahead.push({ run, piece });
    return undefined;
  }

  private async sendPiece(page: Page): Promise<undefined> {
    const { repository, source, uploader } = this.parts;
    const { run, piece: reading } = this.ahead.shift()!;
    const piece = await reading;
    const { length } = bytesOfBlocks(run, repository.blockSize, source.size);
    this.bytesRead += length;
    this.doneBytes += length;
    if (this.dirty === null) this.bytesScanned += length;
    for (let block = run.start; block < run.end; block++) {
      const i = block - run.start;
      const place = block % PAGE_BLOCKS;
      const signature = piece.signature(i);
      const isAsBefore = this.old !== null && page.isAt(place, signature);
      page.set(place, signature);
      if (signature === null) continue;
      if (isAsBefore) uploader.blocksKnown++;
      else await uploader.sendBlock(signature, piece.take(i));
    }
    piece.end();
    return undefined;
  }

  private async sendPage(page: Page, before: Uint8Array | null): Promise<Uint8Array | null> {
    const bytes = page.encode();
    if (bytes === null) return null;
    const signature = hasher().sign(bytes);
    const isAsBefore = before !== null && Buffer.compare(before, signature) === 0;
    if (!isAsBefore) await this.parts.uploader.sendPage(signature, bytes);
    return signature;
  }

  private nextDirty(from: BlockIndex, end: BlockIndex): BlockIndex {
    return from >= end || this.dirty === null ? from : Math.min(this.dirty.nextSet(from), end);
  }

  private dirtyBlocks(changed: Iterable<ByteRange>): PagedBits {
    const { repository, source } = this.parts;
    const dirty = new PagedBits(this.blocks);
    for (const range of changed) {
      checkWithin(range, source.size, "the disk's", { path: source.name, operation: 'take' });
      if (range.length > 0) dirty.setRun(blocksTouching(range, repository.blockSize));
    }
    return dirty;
  }

  private bytesOf(dirty: PagedBits): ByteCount {
    const { blockSize } = this.parts.repository;
    const { size } = this.parts.source;
    const last = this.blocks - 1;
    const short = this.blocks * blockSize - size;
    return dirty.count * blockSize - (this.blocks > 0 && dirty.test(last) ? short : 0);
  }
}
