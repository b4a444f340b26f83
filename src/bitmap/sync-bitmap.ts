/**
 * The sync bitmap: which blocks of a disk must be synchronized. (QEMU calls the like a dirty bitmap.) It
 * knows which two disks it is about and refuses to be combined with one about others.
 *
 * Two bits per block. A *mark* says: synchronize it. *Coverage* says: the answer is known, because a scan
 * looked at it. Together they give three answers:
 *
 *   marked                  differs, or may differ (a write arrived, maybe nobody looked)
 *   covered, not marked     equal
 *   neither                 not known
 *
 * Only the second lets a block be skipped, so combining must never invent it. `or`, `and` and `andNot`
 * combine the marks bit by bit; a block of the result is covered where its answer follows from answers that
 * are known, whatever the unknown ones may be (Kleene's three-valued logic, 1938). With m and c the marks and
 * coverage of the one, m′ and c′ of the other:
 *
 *   or       m ∪ m′     c ∩ c′  ∪  c ∩ m   ∪  c′ ∩ m′     known equal only where both know it
 *   and      m ∩ m′     c ∩ c′  ∪  c ∖ m   ∪  c′ ∖ m′     known equal where one of them knows it
 *   andNot   m ∖ m′     c ∩ c′  ∪  c ∖ m   ∪  c′ ∩ m′     known equal where the other's known mark covers it
 *
 * A mark without coverage counts as unknown there, but it is never dropped except by a mark of the other in
 * `andNot`, or for want of one in `and`; then the block is not covered, so nobody takes it for equal.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_BLOCK_SIZE, MAX_DISK_SIZE, MAX_IDENTITY_BYTES, MIN_BLOCK_SIZE } from '../base/limits.ts';
import { checkWithin } from '../base/ranges.ts';
import {
  type BlockCount,
  type BlockIndex,
  type BlockRun,
  type ByteCount,
  type ByteRange,
  blockCount,
  blocksTouching,
  bytesOfBlocks,
  exactSize,
  isPowerOfTwo,
} from '../base/units.ts';
import type { LiveMarks } from './live-marks.ts';
import { type Combination, PagedBits } from './paged-bits.ts';

/** One disk, as it was when the bitmap was begun. */
export interface DiskStamp {
  readonly identity: string;
  readonly size: ByteCount;
  /** Changes whenever the contents may have changed; `MIXED_GENERATION` in a bitmap combined from several. */
  readonly generation: string;
}

export interface BitmapHeader {
  /** The larger of both disks. */
  readonly size: ByteCount;
  /** A power of two, 512 … 16 MiB. */
  readonly blockSize: ByteCount;
  /**
   * Name of the algorithm that found the marks, or `bytes`; `none` when they are writes that somebody tracked,
   * `disabled` when whoever tracked them stopped before now, `combined` when they come from several bitmaps.
   */
  readonly signature: string;
  readonly production: DiskStamp;
  readonly replica: DiskStamp;
}

/** The generation of a disk in a bitmap that was combined from bitmaps of different generations: equal to none, not even itself. */
export const MIXED_GENERATION = 'mixed';
/** Nothing was compared: every write since the bitmap was begun is marked. */
export const NO_SIGNATURE = 'none';
/** The same until it was disabled; later writes are not in it, and nothing tells whether there were any. */
export const DISABLED = 'disabled';
/** What a combination marks was found by no one scan, and it may lack writes. */
export const COMBINED = 'combined';

export class SyncBitmap {
  readonly header: BitmapHeader;
  readonly blocks: BlockCount;
  /** For the room's codec; everyone else uses the methods. */
  readonly marks: PagedBits;
  readonly coverage: PagedBits;

  /** Without marks and coverage; with them for the codec. A header that cannot be is an `argument` error. */
  constructor(header: BitmapHeader, marks?: PagedBits, coverage?: PagedBits) {
    checkHeader(header);
    const { size, blockSize, signature, production, replica } = header;
    this.header = { size, blockSize, signature, production: { ...production }, replica: { ...replica } };
    this.blocks = blockCount(size, blockSize);
    this.marks = marks ?? new PagedBits(this.blocks);
    this.coverage = coverage ?? new PagedBits(this.blocks);
  }

  get size(): ByteCount {
    return this.header.size;
  }
  get blockSize(): ByteCount {
    return this.header.blockSize;
  }

  mark(block: BlockIndex): void {
    this.marks.set(block);
  }

  markRun(run: BlockRun): void {
    this.marks.setRun(run);
  }

  /** Marks every block that the bytes touch. */
  markRange(range: ByteRange): void {
    checkWithin(range, this.size, "the disk's");
    this.marks.setRun(blocksTouching(range, this.blockSize));
  }

  /** Marks many blocks: bit i of word w, low bit first, is block `firstBlock + 32 · w + i`; `firstBlock` is a multiple of 32. */
  orWords(firstBlock: BlockIndex, words: Uint32Array): void {
    this.marks.orWords(firstBlock, words);
  }

  /** Takes over what was written while a scan ran. Marks for a disk of another size or block size are a `mismatch`. */
  markLive(live: LiveMarks): void {
    if (live.size !== this.size || live.blockSize !== this.blockSize) {
      throw new DriftmapError(
        'mismatch',
        `expected live marks for ${this.size} bytes in blocks of ${this.blockSize}, got ${live.size} in blocks of ${live.blockSize}`,
      );
    }
    this.marks.add(live.snapshot());
  }

  test(block: BlockIndex): boolean {
    return this.marks.test(block);
  }

  /** Marked blocks. */
  get count(): BlockCount {
    return this.marks.count;
  }

  /** Bytes of the marked blocks; a short last block counts what it has. */
  get markedBytes(): ByteCount {
    const last = this.blocks - 1;
    const missing = last >= 0 && this.marks.test(last) ? this.blocks * this.blockSize - this.size : 0;
    return this.count * this.blockSize - missing;
  }

  /** Says that these blocks have been looked at to their end. */
  cover(run: BlockRun): void {
    this.coverage.setRun(run);
  }

  /** Covers many blocks; words as in `orWords`. */
  coverWords(firstBlock: BlockIndex, words: Uint32Array): void {
    this.coverage.orWords(firstBlock, words);
  }

  covered(block: BlockIndex): boolean {
    return this.coverage.test(block);
  }

  get coveredBlocks(): BlockCount {
    return this.coverage.count;
  }

  /** Every block is covered. */
  get complete(): boolean {
    return this.coverage.isFull;
  }

  /** Marked blocks: ascending, merged. Neither marks nor coverage may be changed while runs are taken. */
  runs(): Iterable<BlockRun> {
    return { [Symbol.iterator]: () => this.marks.runs() };
  }

  /** Marked bytes: ascending, merged, clipped at the size. */
  *ranges(): Generator<ByteRange, undefined> {
    for (const run of this.marks.runs()) yield bytesOfBlocks(run, this.blockSize, this.size);
  }

  /** Covered blocks: ascending, merged. */
  coverageRuns(): Iterable<BlockRun> {
    return { [Symbol.iterator]: () => this.coverage.runs() };
  }

  /** Blocks that are not known to be equal, marked or never looked at: ascending, merged. */
  suspectRuns(): Iterable<BlockRun> {
    return { [Symbol.iterator]: () => this.unmarked().complement().runs() };
  }

  /** Adds the marks and the coverage of a bitmap of the same disks, as when a scan goes on where another ended. */
  adopt(other: SyncBitmap): void {
    this.checkSameDisks(other, 'the bitmap to go on from');
    this.marks.add(other.marks);
    this.coverage.add(other.coverage);
  }

  /** Blocks that either marks: what must be synchronized for both reasons. A `mismatch` when the disks differ, here and below. */
  or(other: SyncBitmap): SyncBitmap {
    return this.combined(other, 'or', this.marks, other.marks);
  }

  /** Blocks that both mark. */
  and(other: SyncBitmap): SyncBitmap {
    return this.combined(other, 'and', this.unmarked(), other.unmarked());
  }

  /** Blocks that this one marks and the other does not: what remains when the other's have been synchronized. */
  andNot(other: SyncBitmap): SyncBitmap {
    return this.combined(other, 'andNot', this.unmarked(), other.marks);
  }

  /** The same header, marks and coverage. */
  equals(other: SyncBitmap): boolean {
    const a = this.header;
    const b = other.header;
    return (
      a.size === b.size &&
      a.blockSize === b.blockSize &&
      a.signature === b.signature &&
      sameStamp(a.production, b.production) &&
      sameStamp(a.replica, b.replica) &&
      this.marks.equals(other.marks) &&
      this.coverage.equals(other.coverage)
    );
  }

  /** Throws `mismatch`, beginning with `what`, unless `other` is about the same two disks in blocks of the same size. */
  checkSameDisks(other: SyncBitmap, what: string): void {
    const a = this.header;
    const b = other.header;
    if (a.blockSize !== b.blockSize) {
      throw new DriftmapError(
        'mismatch',
        `${what}: expected blocks of ${exactSize(a.blockSize)}, got ${exactSize(b.blockSize)}: use the same block size`,
      );
    }
    for (const side of ['production', 'replica'] as const) {
      if (a[side].identity !== b[side].identity) {
        throw new DriftmapError(
          'mismatch',
          `${what}: expected a bitmap about the ${side} disk ${a[side].identity}, got one about ${b[side].identity}: use the bitmap of these two disks`,
        );
      }
      if (a[side].size !== b[side].size) {
        throw new DriftmapError(
          'mismatch',
          `${what}: the ${side} disk had ${b[side].size} bytes and has ${a[side].size}: scan anew`,
        );
      }
    }
    if (a.size !== b.size) {
      throw new DriftmapError(
        'mismatch',
        `${what}: expected a bitmap of ${a.size} bytes, got one of ${b.size}`,
      );
    }
  }

  /** Throws `mismatch` unless both were begun on the same contents: else what `other` found equal may not be so now. */
  checkSameGeneration(other: SyncBitmap, what: string): void {
    for (const side of ['production', 'replica'] as const) {
      const now = this.header[side].generation;
      const then = other.header[side].generation;
      if (now !== then || now === MIXED_GENERATION) {
        throw new DriftmapError(
          'mismatch',
          `${what}: the ${side} disk changed since the bitmap was made (generation ${then}, now ${now}): scan anew`,
        );
      }
    }
  }

  /** For people and other programs: numbers are bytes, except `blocks` and those named after blocks. */
  toJSON(): object {
    const { header, blocks, count, markedBytes, coveredBlocks, complete } = this;
    return {
      ...header,
      blocks,
      markedBlocks: count,
      markedBytes,
      coveredBlocks,
      complete,
      ranges: [...this.ranges()],
    };
  }

  /** Blocks known to be equal. */
  private unmarked(): PagedBits {
    return this.coverage.andNot(this.marks);
  }

  /**
   * The result of combining: `decides` are blocks of this one whose known answer settles the result alone,
   * `otherDecides` those of the other; both count only where covered.
   */
  private combined(
    other: SyncBitmap,
    how: Combination,
    decides: PagedBits,
    otherDecides: PagedBits,
  ): SyncBitmap {
    this.checkSameDisks(other, 'these bitmaps do not belong together');
    const a = this.header;
    const b = other.header;
    const coverage = this.coverage
      .and(other.coverage)
      .or(this.coverage.and(decides))
      .or(other.coverage.and(otherDecides));
    const header: BitmapHeader = {
      ...a,
      signature: combinedSignature(a.signature, b.signature, how),
      production: mixedStamp(a.production, b.production),
      replica: mixedStamp(a.replica, b.replica),
    };
    return new SyncBitmap(header, this.marks[how](other.marks), coverage);
  }
}

function sameStamp(a: DiskStamp, b: DiskStamp): boolean {
  return a.identity === b.identity && a.size === b.size && a.generation === b.generation;
}

/** Writes of the one and of the other are writes; less than both may lack some. */
function combinedSignature(a: string, b: string, how: Combination): string {
  return how === 'or' && a === NO_SIGNATURE && b === NO_SIGNATURE ? NO_SIGNATURE : COMBINED;
}

function mixedStamp(a: DiskStamp, b: DiskStamp): DiskStamp {
  return a.generation === b.generation ? a : { ...a, generation: MIXED_GENERATION };
}

function checkHeader({ size, blockSize, signature, production, replica }: BitmapHeader): void {
  for (const [what, value] of Object.entries({
    size,
    'production size': production.size,
    'replica size': replica.size,
  })) {
    if (!Number.isSafeInteger(value) || value < 0 || value > MAX_DISK_SIZE) {
      throw new DriftmapError('argument', `expected a ${what} from 0 to ${MAX_DISK_SIZE}, got ${value}`);
    }
  }
  if (size !== Math.max(production.size, replica.size)) {
    throw new DriftmapError(
      'argument',
      `expected the larger disk's size, ${Math.max(production.size, replica.size)}, got ${size}`,
    );
  }
  if (!isPowerOfTwo(blockSize) || blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE) {
    throw new DriftmapError(
      'argument',
      `expected a block size that is a power of two from ${MIN_BLOCK_SIZE} to ${MAX_BLOCK_SIZE}, got ${blockSize}`,
    );
  }
  const texts = [production.identity, production.generation, replica.identity, replica.generation, signature];
  for (const text of texts) {
    // Now, rather than when a scan of hours is to be saved.
    if (Buffer.byteLength(text) > MAX_IDENTITY_BYTES) {
      throw new DriftmapError(
        'limit',
        `an identity or a generation has more than ${MAX_IDENTITY_BYTES} bytes`,
      );
    }
  }
}
