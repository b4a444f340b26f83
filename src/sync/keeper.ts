/**
 * Keeps a replica's state true while it is written.
 *
 *   marks are stored, durably, before the first write that they are about
 *   a bit is cleared only after a flush that came after the block's last byte
 *   every store is atomic: a crash leaves the state of the last checkpoint, which marks all that is not certain
 */

import { DriftmapError } from '../base/errors.ts';
import type { BlockCount, BlockIndex, ByteCount, ByteRange } from '../base/units.ts';
import { blocksTouching } from '../base/units.ts';
import { PagedBits } from '../bitmap/paged-bits.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { DiskWriter } from './replica-disk.ts';
import { SignOfLife } from './sign-of-life.ts';
import { type ReplicaState, type ReplicaStatus, saveState } from './state-file.ts';

/** The generation of a replica in a state that a session has stored and not concluded: who was killed cannot tell. */
export const BEING_WRITTEN = 'being written';
/** No generation is equal to it: all is compared. */
const UNKNOWN = 'unknown';

export interface KeeperOptions {
  /** Null keeps nothing: for replicas in memory. */
  readonly path: string | null;
  readonly writer: DiskWriter;
  readonly bitmap: SyncBitmap;
  readonly format: string;
  /** What was true before this session. */
  readonly prior: ReplicaState | null;
  readonly epoch: number;
  /** Called when a state has become durable. */
  readonly onStored?: (() => void) | undefined;
  /** For tests. */
  readonly now?: (() => Date) | undefined;
}

export class StateKeeper {
  readonly bitmap: SyncBitmap;
  private readonly options: KeeperOptions;
  /** Blocks that are right and not yet flushed. */
  private written: PagedBits;
  /** Bytes in a row that were written last: a block is right when it lies in them wholly. */
  private row: { start: number; end: number } = { start: 0, end: 0 };
  /** Where the bytes that came last begin. */
  private rowSeen = 0;
  /** Blocks of which only pieces are sent, and which of these have not come yet. */
  private readonly pieces = new Map<
    BlockIndex,
    { readonly piece: ByteCount; readonly missing: Set<number> }
  >();
  private stored = false;
  /** Whether this session has stored anything. */
  private began = false;
  /** Null before anything is stored of a disk that has no state yet. */
  private status: ReplicaStatus | null;
  private since: string;
  private consistentAt: string | null;
  private generation: string | null;

  private readonly sign: SignOfLife | null;

  constructor(options: KeeperOptions) {
    const { prior, bitmap, path } = options;
    this.sign = path === null ? null : new SignOfLife(path);
    this.options = options;
    this.bitmap = bitmap;
    this.written = new PagedBits(bitmap.blocks);
    this.status = prior?.status ?? null;
    this.since = prior?.since ?? this.now();
    this.consistentAt = prior?.consistentAt ?? null;
    this.generation = prior?.generation ?? null;
  }

  get epoch(): number {
    return this.options.epoch;
  }

  get markedBlocks(): BlockCount {
    return this.bitmap.count;
  }

  /** Marks that are found, or that come from production: stored before the next write. */
  mark(bits: PagedBits): void {
    this.bitmap.marks.add(bits);
    // A block that is marked anew has to be written anew.
    this.written = this.written.andNot(bits);
    this.row = { start: 0, end: 0 };
    this.pieces.clear();
    this.stored = false;
  }

  /** A comparison of all that is not known to be equal is over: these differ, and the other blocks are equal. */
  compared(differing: PagedBits): void {
    this.equal(this.bitmap.marks.andNot(differing));
  }

  /** Blocks that a comparison found equal: cleared at the next checkpoint, since what made them equal may not be durable. */
  equal(bits: PagedBits): void {
    this.written.add(bits);
  }

  /** Before anything is written. */
  beforeWriting(): void {
    if (this.stored) {
      this.sign?.give();
      return;
    }
    this.become('synchronizing');
    this.save();
    this.stored = true;
  }

  /** @throws DriftmapError `malformed` for bytes of a block that is not marked: nobody said that it differs */
  checkMarked(range: ByteRange): void {
    const { start, end } = blocksTouching(range, this.bitmap.blockSize);
    if (this.bitmap.marks.nextClear(start) >= end) return;
    throw new DriftmapError('malformed', 'the other site writes blocks that are not marked', range);
  }

  /**
   * Of a block only some pieces differ; it is right when these are. With none it is right now.
   * @param missing positions of the pieces, of `piece` bytes, from the disk's start
   */
  refined(block: BlockIndex, piece: ByteCount, missing: ReadonlySet<number>): void {
    if (missing.size === 0) this.written.set(block);
    else this.pieces.set(block, { piece, missing: new Set(missing) });
  }

  /** Whether pieces of blocks are still to come. */
  get awaitsPieces(): boolean {
    return this.pieces.size > 0;
  }

  private wrotePieces(): void {
    const { start, end } = this.row;
    const { blockSize, size } = this.bitmap;
    for (let block = Math.floor(this.rowSeen / blockSize); block * blockSize < end; block++) {
      const entry = this.pieces.get(block);
      if (entry === undefined) continue;
      const { piece, missing } = entry;
      const from = Math.max(Math.ceil(start / piece), (block * blockSize) / piece);
      const to = end === size ? Math.ceil(end / piece) : Math.floor(end / piece);
      for (let i = from; i < Math.min(to, ((block + 1) * blockSize) / piece); i++) missing.delete(i);
      if (missing.size > 0) continue;
      this.pieces.delete(block);
      this.written.set(block);
    }
  }

  /** These bytes are in their place. */
  wrote({ offset, length }: ByteRange): void {
    this.sign?.give();
    if (offset !== this.row.end) this.row = { start: offset, end: offset };
    this.row.end = offset + length;
    const { blockSize, size } = this.bitmap;
    const first = Math.max(Math.ceil(this.row.start / blockSize), Math.floor(offset / blockSize));
    const end = this.row.end === size ? this.bitmap.blocks : Math.floor(this.row.end / blockSize);
    if (end > first) this.written.setRun({ start: first, end });
    if (this.pieces.size === 0) return;
    this.rowSeen = offset;
    this.wrotePieces();
  }

  /** This block is right. */
  placed(block: BlockIndex): void {
    this.sign?.give();
    this.written.set(block);
  }

  /** What was written becomes durable, and then true. */
  async checkpoint(): Promise<void> {
    if (this.written.isEmpty) return;
    await this.options.writer.flush();
    for (const run of this.written.runs()) this.bitmap.marks.clearRun(run);
    this.written = new PagedBits(this.bitmap.blocks);
    // Before the first write the old state is still true; and when nothing is left, what is stored next is the end.
    if (this.stored && this.bitmap.count > 0) this.save();
  }

  /** The session is over: the replica is consistent when nothing is marked and production was not written to since. */
  async finish(generation: string, quiesced: boolean): Promise<boolean> {
    await this.checkpoint();
    const consistent = quiesced && this.bitmap.count === 0;
    if (consistent) {
      this.become('consistent');
      this.consistentAt = this.now();
      this.generation = generation;
      this.save(this.options.writer.generation);
    } else if (this.stored) this.save();
    return consistent;
  }

  /**
   * The session has ended or was cut off, and nothing more is written: the state says how it left the replica, so that
   * somebody else's write to it shows. Nothing is cleared: a flush that comes after one that failed proves nothing.
   */
  async conclude(): Promise<void> {
    if (!this.began || this.status !== 'synchronizing') return;
    const { writer } = this.options;
    const generation = await writer.flush().then(
      () => writer.generation,
      () => UNKNOWN,
    );
    try {
      this.save(generation);
    } catch {
      // Then it says what a session that was killed says.
    }
  }

  private become(status: ReplicaStatus): void {
    if (this.status === status && status !== 'consistent') return;
    this.status = status;
    this.since = this.now();
  }

  private save(left: string = BEING_WRITTEN): void {
    const { path, format } = this.options;
    if (path === null || this.status === null) return;
    const { status, since, consistentAt, generation, epoch } = this;
    const { header, marks, coverage } = this.bitmap;
    const replica = { ...header.replica, generation: left };
    const bitmap = new SyncBitmap({ ...header, replica }, marks, coverage);
    saveState({ status, since, consistentAt, generation, epoch, format, bitmap }, path);
    this.began = true;
    this.options.onStored?.();
  }

  private now(): string {
    return (this.options.now?.() ?? new Date()).toISOString();
  }
}
