/**
 * The replica's part of a session. It says what is to be compared, then does as production tells it, message by
 * message: compares, places by signature, writes data, and makes all of it durable at each checkpoint. Nothing that
 * production sends can reach further than the marked blocks of this one disk.
 */

import { setImmediate } from 'node:timers/promises';
import { DriftmapError } from '../base/errors.ts';
import { CHECKPOINT_BYTES, MAX_PLACING_BLOCKS } from '../base/limits.ts';
import type { BlockIndex, BlockRun, ByteCount } from '../base/units.ts';
import { blockCount, MiB } from '../base/units.ts';
import { PagedBits } from '../bitmap/paged-bits.ts';
import { type DiskStamp, SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { SideIndexes } from '../scan/scan-indexes.ts';
import { Side } from '../scan/side.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { SignatureTable } from '../store/signature-table.ts';
import type { Connection } from '../wire/connection.ts';
import type { Frame } from '../wire/frame.ts';
import { MessageType } from '../wire/message-types.ts';
import {
  DIGEST_BYTES,
  decodeData,
  decodeNumber,
  decodeRefine,
  decodeSignatures,
  Encoding,
  encodeNumber,
  encodePlaced,
  pieceRuns,
  SIGNATURE_BYTES,
} from '../wire/messages.ts';
import {
  type CompareMessage,
  compareShape,
  type DiskInfo,
  finishShape,
  type Lineage,
  type OpenMessage,
} from '../wire/session-messages.ts';
import { BitmapInbox, receiveBitmap, sendBitmap } from './bitmap-parts.ts';
import { BlockHasher } from './block-hasher.ts';
import { Comparer } from './comparer.ts';
import { type ComparisonNotes, emptyLooked, type Looked } from './comparison-notes.ts';
import { sameBytes } from './digest-tree.ts';
import { hostId } from './host.ts';
import type { StateKeeper } from './keeper.ts';
import { unpack } from './packer.ts';
import { signPieces } from './pieces.ts';
import { type BlockSource, Placing } from './placing.ts';
import type { SyncTotals } from './progress.ts';
import type { DiskWriter } from './replica-disk.ts';

export interface ReplicaSessionOptions {
  readonly connection: Connection;
  readonly disk: VirtualDisk;
  readonly production: DiskInfo;
  readonly size: ByteCount;
  readonly open: Pick<OpenMessage, 'blockSize' | 'signature' | 'bySignature' | 'job'>;
  readonly workers: number;
  readonly totals: SyncTotals;
  readonly warnings: readonly string[];
  readonly compare: FirstComparison;
  /** Of the disk: used in the first comparison, before anything is written. */
  readonly indexes?: SideIndexes | null | undefined;
  /** Only for a sync. */
  readonly target?:
    | {
        readonly writer: DiskWriter;
        readonly keeper: StateKeeper;
        readonly notes?: ComparisonNotes | null | undefined;
      }
    | undefined;
  /** Other disks whose blocks may be copied, and stores. */
  readonly sources?: readonly SessionSource[] | undefined;
  /** Called when production waits for a long time: for tests that stop a session in the middle. */
  readonly onCheckpoint?: (() => void) | undefined;
}

/**
 * What is compared first: all blocks; those that are set; none, since those that are set differ; or those that
 * production has marked.
 */
export type FirstComparison =
  | { readonly what: 'all' }
  | { readonly what: 'yours' }
  | { readonly what: 'some' | 'known'; readonly bits: PagedBits };

/** Blocks that this session may copy: their signatures are put into its table once. */
export interface SessionSource extends BlockSource {
  readonly name: string;
  readonly expected: number;
  /** Adds all signatures of the source's blocks of this size. */
  addTo(table: SignatureTable, number: number, blockSize: ByteCount): Promise<void>;
}

/** Between two of these the process looks after its connection. */
const AWAKE_BYTES = 16 * MiB;

export class ReplicaSession {
  /** Blocks that differ, or are still to be made equal. */
  readonly bitmap: SyncBitmap;
  consistent = false;
  /** Of the first comparison, as far as it has come. */
  looked: Looked | null = null;
  private readonly options: ReplicaSessionOptions;
  private readonly comparer: Comparer;
  private readonly blocks: number;
  private readonly marksInbox: BitmapInbox;
  private readonly side: Side;
  private table: SignatureTable | null = null;
  private hasher: BlockHasher | null = null;
  private plan: { runs: BlockRun[]; digests: Uint8Array[]; count: number; next: BlockIndex } = emptyPlan();
  private placedSince: PagedBits;
  private todo: PagedBits | null = null;
  private busyBytes = 0;

  constructor(options: ReplicaSessionOptions) {
    const { connection, disk, production, size, open, workers, target, indexes } = options;
    this.options = options;
    this.blocks = blockCount(size, open.blockSize);
    this.comparer = new Comparer({ connection, disk, size, blockSize: open.blockSize, workers, indexes });
    this.marksInbox = new BitmapInbox(connection.peer, this.blocks);
    this.side = new Side(disk);
    this.placedSince = new PagedBits(this.blocks);
    this.bitmap =
      target?.keeper.bitmap ??
      new SyncBitmap({
        size,
        blockSize: open.blockSize,
        signature: open.signature,
        production: stampOf(production),
        replica: stampOf(infoOf(disk)),
      });
  }

  /** Runs to the end of the session: production's `finish`, which has been answered. */
  async run(): Promise<void> {
    const { connection } = this.options;
    const letGo = this.options.disk.retain();
    try {
      await this.sayReady();
      for (;;) {
        const frame = await connection.receive();
        if (frame.type === MessageType.finish) {
          await this.finish(frame);
          return;
        }
        await this.obey(frame);
      }
    } catch (cause) {
      throw withPath(cause, connection.peer);
    } finally {
      this.hasher?.close();
      await this.comparer.close();
      await letGo();
    }
  }

  private get places(): boolean {
    return this.options.target !== undefined && this.options.open.bySignature;
  }

  private async sayReady(): Promise<void> {
    const { connection, disk, size, compare, warnings, sources = [] } = this.options;
    if (this.places) {
      const expected = sources.reduce((sum, source) => sum + source.expected, this.blocks);
      this.table = new SignatureTable(expected);
      this.hasher = await BlockHasher.create();
      for (const [i, source] of sources.entries())
        await source.addTo(this.table, i + 1, this.options.open.blockSize);
    }
    await connection.sendControl(MessageType.ready, {
      replica: infoOf(disk),
      size,
      compare: compare.what,
      places: this.places,
      warnings: warnings.slice(0, 64),
    });
    if (compare.what === 'all') return;
    const { header } = this.bitmap;
    if (compare.what === 'yours') {
      const { marks, blocks } = await receiveBitmap(connection, this.blocks);
      if (blocks !== this.blocks) throw new DriftmapError('malformed', 'marks of a disk of another size');
      this.todo = marks;
      return;
    }
    this.todo = compare.bits;
    await sendBitmap(connection, new SyncBitmap(header, compare.bits));
    if (compare.what === 'known') this.found(compare.bits);
  }

  private async obey(frame: Frame): Promise<void> {
    const { connection, target } = this.options;
    const { type, payload } = frame;
    if (type === MessageType.compare) return this.compareAs(connection.control(frame, compareShape));
    if (target === undefined) throw connection.unexpected(frame, 'finish');
    switch (type) {
      case MessageType.bitmap: {
        const marks = this.marksInbox.take(frame);
        if (marks === null) return;
        if (marks.blocks !== this.blocks || marks.blockSize !== this.bitmap.blockSize)
          throw new DriftmapError('malformed', 'marks of a disk of another size');
        return this.found(marks.marks);
      }
      case MessageType.signatures:
        return this.takeSignatures(payload);
      case MessageType.place:
        return this.place();
      case MessageType.data:
        return this.takeData(frame);
      case MessageType.refine:
        return this.refine(payload);
      case MessageType.checkpoint: {
        await target.keeper.checkpoint();
        this.options.totals.checkpoints++;
        await connection.send(MessageType.durable, encodeNumber(decodeNumber(payload, 'checkpoint')));
        this.options.onCheckpoint?.();
        return;
      }
      default:
        throw connection.unexpected(frame, 'data');
    }
  }

  private found(bits: PagedBits): void {
    const { target, totals } = this.options;
    if (target === undefined) this.bitmap.marks.add(bits);
    else target.keeper.mark(bits);
    totals.markedBlocks = this.bitmap.count;
  }

  // Comparing

  private async compareAs({ what, key, nodeKey }: CompareMessage): Promise<void> {
    const { open, totals, target } = this.options;
    const algorithm = algorithmByName(what === 'placed' ? 'nh128' : open.signature);
    if (algorithm.keyed !== (key !== null))
      throw new DriftmapError('malformed', `the comparison: ${algorithm.name} and its key do not fit`);
    const todo = this.todoOf(what);
    totals.begin(
      what === 'first' || what === 'all' ? 'comparing' : 'verifying',
      todo === null ? this.bitmap.size : todo.count * this.bitmap.blockSize,
    );
    const indexed = this.table !== null && what === 'first' && algorithm.name === 'blake3';
    const looked = emptyLooked(this.blocks);
    if (what === 'first') this.looked = looked;
    const notes = what === 'first' ? (target?.notes ?? null) : null;
    const comparing = this.comparer.compare({
      looked,
      leads: false,
      algorithm,
      key,
      nodeKey,
      todo,
      indexed: what === 'first',
      onSignatures: indexed ? (window, signatures) => this.index(window, signatures) : undefined,
      onProgress: (bytes) => {
        totals.comparedBytes += bytes;
        totals.add(bytes);
        notes?.note(looked, todo, algorithm.name);
      },
    });
    const found = await comparing.catch((cause) => {
      notes?.note(looked, todo, algorithm.name, true);
      throw cause;
    });
    const equal = (todo ?? new PagedBits(this.blocks).complement()).andNot(found);
    if (target === undefined) for (const run of equal.runs()) this.bitmap.marks.clearRun(run);
    else target.keeper.equal(equal);
    this.found(found);
    if (what === 'placed') this.placedSince = new PagedBits(this.blocks);
    for (const run of (todo ?? equal.or(found)).runs()) this.bitmap.cover(run);
  }

  private todoOf(what: CompareMessage['what']): PagedBits | null {
    const { compare } = this.options;
    if (what === 'all' || (what === 'first' && compare.what === 'all')) return null;
    if (what === 'first' && compare.what !== 'known' && this.todo !== null) return this.todo;
    if (what === 'first') throw new DriftmapError('malformed', 'a first comparison where none was asked for');
    return what === 'marked' ? this.bitmap.marks.clone() : this.placedSince;
  }

  /** Remembers where blocks lie that may be wanted elsewhere. Zeros need no place. */
  private index(window: number, signatures: Uint8Array): void {
    const first = (window * signatures.length) / SIGNATURE_BYTES;
    for (let at = 0; at < signatures.length; at += SIGNATURE_BYTES) {
      if (isUnsigned(signatures, at)) continue;
      this.table!.add(signatures, at, 0, first + at / SIGNATURE_BYTES);
    }
  }

  // Placing

  private takeSignatures(payload: Uint8Array): void {
    if (!this.places) throw new DriftmapError('malformed', 'signatures where none are placed');
    const { runs, digests } = decodeSignatures(payload, this.blocks, this.plan.next);
    for (const { start, end } of runs) {
      this.options.target!.keeper.checkMarked(this.bytesOf({ start, end }));
      this.plan.count += end - start;
      this.plan.next = end;
    }
    if (this.plan.count > MAX_PLACING_BLOCKS)
      throw new DriftmapError('limit', `expected a plan of at most ${MAX_PLACING_BLOCKS} blocks`);
    this.plan.runs.push(...runs);
    this.plan.digests.push(digests);
  }

  private async place(): Promise<void> {
    const { connection, target, totals, sources = [] } = this.options;
    const { keeper, writer } = target!;
    const { runs, digests, count } = this.plan;
    this.plan = emptyPlan();
    const blocks = new Array<number>(count);
    let at = 0;
    for (const { start, end } of runs) for (let block = start; block < end; block++) blocks[at++] = block;
    const signatures = joined(digests, count * SIGNATURE_BYTES);
    totals.begin('placing', count * this.bitmap.blockSize);
    keeper.beforeWriting();
    const { blockSize } = this.bitmap;
    let unflushed = 0;
    const settled = async (block: BlockIndex, length: ByteCount) => {
      keeper.placed(block);
      this.placedSince.set(block);
      totals.placedBlocks++;
      totals.placedBytes += length;
      totals.add(length);
      unflushed += length;
      if (unflushed >= CHECKPOINT_BYTES) {
        unflushed = 0;
        await keeper.checkpoint();
      }
      await this.stayAwake(length);
    };
    const placing = new Placing({
      blocks,
      signatures,
      table: this.table!,
      sources: [this.ownBlocks(), ...sources],
      hasher: this.hasher!,
      lengthOf: (block) => this.lengthOf(block),
      keep: (block) => {
        keeper.placed(block);
        this.placedSince.set(block);
        totals.placedBlocks++;
        totals.placedBytes += this.lengthOf(block);
      },
      write: async (block, bytes) => {
        await writer.write(block * blockSize, bytes);
        await settled(block, bytes.length);
      },
    });
    await connection.send(MessageType.placed, encodePlaced(await placing.run()));
  }

  private ownBlocks(): BlockSource {
    const { blockSize, size } = this.bitmap;
    return {
      read: async (block, target) => {
        const offset = block * blockSize;
        if (offset + target.length > size) return false;
        await this.side.read(offset, target);
        return true;
      },
    };
  }

  // Data

  /** Answers which pieces of marked blocks differ; the others stay as they are. */
  private async refine(payload: Uint8Array): Promise<void> {
    const { connection, disk, target, totals } = this.options;
    const { blockSize, size } = this.bitmap;
    if (target!.keeper.awaitsPieces)
      throw new DriftmapError('malformed', 'pieces are compared before those of the last blocks have come');
    const { runs, piece, key, digests } = decodeRefine(payload, size, blockSize);
    for (const run of runs) target!.keeper.checkMarked(this.bytesOf(run));
    const own = await signPieces({
      disk,
      size,
      piece,
      key,
      runs: pieceRuns(runs, { piece, blockSize, size }),
    });
    const differs = new Uint8Array(digests.length / DIGEST_BYTES);
    for (let i = 0; i < differs.length; i++) {
      const at = i * DIGEST_BYTES;
      const same = sameBytes(own.subarray(at, at + DIGEST_BYTES), digests.subarray(at, at + DIGEST_BYTES));
      differs[i] = same ? 0 : 1;
    }
    let at = 0;
    for (const { start, end } of runs) {
      for (let block = start; block < end; block++) {
        const first = (block * blockSize) / piece;
        const count = Math.ceil(this.lengthOf(block) / piece);
        const missing = new Set<number>();
        for (let i = 0; i < count; i++) if (differs[at + i] === 1) missing.add(first + i);
        target!.keeper.refined(block, piece, missing);
        at += count;
      }
    }
    totals.add(0);
    await connection.send(MessageType.refined, encodePlaced(differs));
  }

  private async takeData(frame: Frame): Promise<void> {
    const { connection, target, totals } = this.options;
    const { keeper, writer } = target!;
    const data = decodeData(frame.payload, this.bitmap.size);
    const { offset, length, encoding } = data;
    keeper.checkMarked({ offset, length });
    keeper.beforeWriting();
    if (encoding === Encoding.zero) {
      await writer.zero({ offset, length });
      totals.zeroBytes += length;
    } else await writer.write(offset, unpack(data), true);
    keeper.wrote({ offset, length });
    connection.recycle(frame);
    totals.sentBytes += length;
    totals.storedBytes += data.stored.length;
    totals.add(length);
    await this.stayAwake(encoding === Encoding.zero ? 0 : length);
  }

  private async finish(frame: Frame): Promise<void> {
    const { connection, target, totals } = this.options;
    const { generation, quiesced } = connection.control(frame, finishShape);
    this.consistent =
      target === undefined ? this.bitmap.count === 0 : await target.keeper.finish(generation, quiesced);
    totals.begin('finished', 0);
    await connection.sendControl(MessageType.finished, { consistent: this.consistent });
  }

  private async stayAwake(bytes: ByteCount): Promise<void> {
    this.busyBytes += bytes;
    if (this.busyBytes < AWAKE_BYTES) return;
    this.busyBytes = 0;
    await setImmediate();
  }

  private lengthOf(block: BlockIndex): ByteCount {
    const { blockSize, size } = this.bitmap;
    return Math.min((block + 1) * blockSize, size) - block * blockSize;
  }

  private bytesOf({ start, end }: BlockRun) {
    const { blockSize, size } = this.bitmap;
    return { offset: start * blockSize, length: Math.min(end * blockSize, size) - start * blockSize };
  }
}

function emptyPlan() {
  return { runs: [], digests: [], count: 0, next: 0 };
}

function joined(parts: readonly Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Eight zero bytes: no signature was made there. */
function isUnsigned(signatures: Uint8Array, at: number): boolean {
  for (let i = at; i < at + 8; i++) if (signatures[i] !== 0) return false;
  return true;
}

/** A disk as the other site is told of it. */
export function infoOf(disk: VirtualDisk, lineage: Lineage | null = null): DiskInfo {
  const { format, size, identity } = disk;
  return { format, size, identity, generation: disk.generation(), lineage, host: hostId() };
}

/** @param clipped bytes that the session is about, where a larger device holds the replica */
export function stampOf({ identity, size, generation }: DiskInfo, clipped: ByteCount = size): DiskStamp {
  return { identity, size: clipped, generation };
}

/** An error that knows no place is about what the peer sent. */
export function withPath(cause: unknown, path: string): unknown {
  if (!(cause instanceof DriftmapError) || cause.path !== undefined) return cause;
  const { kind, message, offset, length } = cause;
  const error = new DriftmapError(kind, '', { path, offset, length, cause });
  error.message = `${path}: ${message}`;
  return error;
}
