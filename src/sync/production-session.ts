/**
 * Production's part of a session: it leads. It compares, asks the replica to place blocks by their signatures,
 * sends what is absent as data, and looks again at what was placed. It reads its disk and never writes to it.
 *
 * Data flows in order; a checkpoint after every `CHECKPOINT_BYTES`, of which `MAX_OPEN_CHECKPOINTS` may be
 * unanswered, so the link stays full while the replica flushes, and a crash costs no more than those.
 */

import { randomBytes } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { DriftmapError } from '../base/errors.ts';
import { CHECKPOINT_BYTES, MAX_OPEN_CHECKPOINTS, MAX_PLACING_BLOCKS } from '../base/limits.ts';
import type { BlockRun, ByteCount } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import { PagedBits } from '../bitmap/paged-bits.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { settledGeneration } from '../scan/generation.ts';
import type { SideIndexes } from '../scan/scan-indexes.ts';
import { Side } from '../scan/side.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import type { Connection } from '../wire/connection.ts';
import type { Frame } from '../wire/frame.ts';
import { MessageType, messageName } from '../wire/message-types.ts';
import {
  DIGEST_BYTES,
  decodeNumber,
  decodePlaced,
  Encoding,
  encodeNumber,
  encodeRefine,
  encodeSignatures,
  pieceRuns,
  SIGNATURE_BYTES,
} from '../wire/messages.ts';
import {
  type CompareMessage,
  type DiskInfo,
  finishedShape,
  type OpenMessage,
  type ReadyMessage,
  readyShape,
} from '../wire/session-messages.ts';
import { receiveBitmap, sendBitmap } from './bitmap-parts.ts';
import { Comparer } from './comparer.ts';
import { emptyLooked, type Looked } from './comparison-notes.ts';
import { followLive, type LiveEnd, type LiveProduction } from './live.ts';
import { type Piece, piecesOf } from './marked-pieces.ts';
import { type Codec, type Compression, LinkGauge, Packer } from './packer.ts';
import { type PackedPiece, PieceReader } from './piece-reader.ts';
import { signPieces } from './pieces.ts';
import type { SyncTotals } from './progress.ts';
import { infoOf, stampOf, withPath } from './replica-session.ts';

export interface ProductionSessionOptions {
  readonly connection: Connection;
  readonly disk: VirtualDisk;
  readonly open: Pick<OpenMessage, 'blockSize' | 'signature' | 'bySignature' | 'job'> &
    Partial<Pick<OpenMessage, 'refine'>>;
  readonly codec: Codec | null;
  readonly compression: Compression;
  readonly workers: number;
  /** Data between two checkpoints. */
  readonly checkpointBytes?: ByteCount | undefined;
  /** Pieces that are compared again at a time, and blocks of one plan: fewer for tests. */
  readonly refinedPieces?: number | undefined;
  readonly placingBlocks?: number | undefined;
  readonly totals: SyncTotals;
  /** The disk's generation when it was first looked at, where that was before this session. */
  readonly since?: string | undefined;
  /** What was written to this disk since both were equal; the replica decides whether that is all that differs. */
  readonly marks?: PagedBits | undefined;
  /** Of the disk: used in the first comparison. */
  readonly indexes?: SideIndexes | null | undefined;
  /** Called when it is known which disks the session is about, before anything is compared. */
  readonly onReady?: ((bitmap: SyncBitmap) => void) | undefined;
  /** Writes that arrive meanwhile. */
  readonly live?: LiveProduction | undefined;
}

/** Data that is read and packed ahead of what is sent. */
const PIECES_AHEAD = 4;
/** Signatures of one message: 512 KiB. */
const SIGNATURES_AT_A_TIME = 16_384;
/** Pieces of blocks that are compared again at a time: 512 KiB of digests. */
const MAX_REFINED_PIECES = 32_768;
/** Verifying looks again at what differed, at most so often, with a pause for blocks in flight to arrive. */
const LOOKS = 3;
const LOOK_PAUSE_MS = 300;

export class ProductionSession {
  /** Blocks that differ, or are still to be made equal. */
  bitmap: SyncBitmap | null = null;
  consistent = false;
  passes = 0;
  replica: DiskInfo | null = null;
  warnings: readonly string[] = [];
  /** Of the first comparison, as far as it has come. */
  looked: Looked | null = null;
  private readonly options: ProductionSessionOptions;
  private readonly generation: string;
  private readonly reader: PieceReader;
  private gauge: LinkGauge;
  private checkpoints = 0;
  private unflushed: ByteCount = 0;
  private durable = 0;
  private comparer: Comparer | null = null;

  constructor(options: ProductionSessionOptions) {
    this.options = options;
    this.generation = options.since ?? options.disk.generation();
    this.reader = new PieceReader(new Side(options.disk), new Packer(options.codec, options.compression));
    this.gauge = new LinkGauge(options.connection);
  }

  async run(): Promise<void> {
    const { connection, disk } = this.options;
    const letGo = disk.retain();
    try {
      await this.session();
    } catch (cause) {
      throw withPath(cause, connection.peer);
    } finally {
      await this.comparer?.close();
      await letGo();
    }
  }

  private async session(): Promise<void> {
    const { connection, disk, open, workers, totals, indexes } = this.options;
    const ready = await connection.expect(MessageType.ready, readyShape);
    this.replica = ready.replica;
    this.warnings = ready.warnings;
    this.checkSize(ready);
    const { size } = ready;
    this.comparer = new Comparer({ connection, disk, size, blockSize: open.blockSize, workers, indexes });
    const bitmap = new SyncBitmap({
      size,
      blockSize: open.blockSize,
      signature: open.signature,
      production: stampOf({ ...infoOf(disk), generation: this.generation }),
      replica: stampOf(ready.replica, open.job === 'sync' ? size : undefined),
    });
    this.bitmap = bitmap;
    this.options.onReady?.(bitmap);
    await this.firstComparison(ready, bitmap);
    if (open.job === 'verify') await this.lookAgain(bitmap);
    const end = open.job === 'sync' ? await this.synchronize(ready, bitmap) : await this.endOf();
    await connection.sendControl(MessageType.finish, end);
    const { consistent } = await connection.expect(MessageType.finished, finishedShape);
    this.consistent = consistent;
    totals.begin('finished', 0);
  }

  private checkSize({ size, replica }: ReadyMessage): void {
    const { disk, open } = this.options;
    const expected = open.job === 'sync' ? disk.size : Math.max(disk.size, replica.size);
    if (size === expected) return;
    throw new DriftmapError(
      'mismatch',
      `expected a session about ${expected} bytes, the replica says ${size}`,
    );
  }

  // Comparing

  private async firstComparison(ready: ReadyMessage, bitmap: SyncBitmap): Promise<void> {
    const { connection, totals } = this.options;
    if (ready.compare === 'all') await this.compareAs('first', null, bitmap);
    else if (ready.compare === 'yours') {
      const { marks } = this.options;
      if (marks === undefined)
        throw new DriftmapError('malformed', 'the replica asks for marks that are not kept here');
      await sendBitmap(connection, new SyncBitmap(bitmap.header, marks));
      await this.compareAs('first', marks, bitmap);
    } else {
      const { marks, blockSize, blocks } = await receiveBitmap(connection, bitmap.blocks);
      if (blocks !== bitmap.blocks || blockSize !== bitmap.blockSize)
        throw new DriftmapError('malformed', 'a bitmap of a disk of another size');
      if (ready.compare === 'known') bitmap.marks.add(marks);
      else await this.compareAs('first', marks, bitmap);
    }
    totals.markedBlocks = bitmap.count;
  }

  private async compareAs(
    what: CompareMessage['what'],
    todo: PagedBits | null,
    bitmap: SyncBitmap,
  ): Promise<void> {
    const { connection, open, totals } = this.options;
    const algorithm = algorithmByName(what === 'placed' ? 'nh128' : open.signature);
    const key = algorithm.keyed ? randomBytes(32) : null;
    const nodeKey = randomBytes(32);
    totals.begin(
      what === 'first' || what === 'all' ? 'comparing' : 'verifying',
      todo === null ? bitmap.size : todo.count * bitmap.blockSize,
    );
    await connection.sendControl(MessageType.compare, { what, key, nodeKey });
    const looked = emptyLooked(bitmap.blocks);
    if (what === 'first') this.looked = looked;
    const found = await this.comparer!.compare({
      looked,
      leads: true,
      algorithm,
      key,
      nodeKey,
      todo,
      indexed: what === 'first',
      onProgress: (bytes) => {
        totals.comparedBytes += bytes;
        totals.add(bytes);
      },
    });
    const done = todo ?? new PagedBits(bitmap.blocks).complement();
    for (const run of done.andNot(found).runs()) bitmap.marks.clearRun(run);
    for (const run of done.runs()) bitmap.cover(run);
    bitmap.marks.add(found);
    totals.markedBlocks = bitmap.count;
  }

  /** A block on its way to the replica differs for a moment: only what differs again counts. */
  private async lookAgain(bitmap: SyncBitmap): Promise<void> {
    for (let look = 1; look < LOOKS && bitmap.count > 0; look++) {
      const before = bitmap.count;
      await setTimeout(LOOK_PAUSE_MS);
      await this.compareAs('marked', bitmap.marks.clone(), bitmap);
      if (bitmap.count === before) return;
    }
  }

  // Synchronizing

  private async synchronize(ready: ReadyMessage, bitmap: SyncBitmap): Promise<LiveEnd> {
    const { live, disk, totals } = this.options;
    const transfer = async () => {
      const before = totals.sentBytes + totals.placedBytes;
      await this.transfer(ready, bitmap);
      return totals.sentBytes + totals.placedBytes - before;
    };
    if (live === undefined) {
      await transfer();
      return this.endOf();
    }
    return followLive(live, {
      geometry: bitmap,
      transfer,
      mark: (dirty) => this.sendMarks(dirty, bitmap),
      compare: async () => {
        await this.compareAs('marked', bitmap.marks.clone(), bitmap);
        // The replica takes what is equal from its marks: the next pass begins with the same on both sides.
        await this.checkpoint(0);
        return bitmap.count;
      },
      generation: () => settledGeneration(disk),
    });
  }

  /** Of a disk that nobody was to write to. */
  private async endOf(): Promise<LiveEnd> {
    const generation = await settledGeneration(this.options.disk);
    return { generation, quiesced: generation === this.generation };
  }

  private async sendMarks(dirty: PagedBits, bitmap: SyncBitmap): Promise<void> {
    await sendBitmap(this.options.connection, new SyncBitmap(bitmap.header, dirty));
    bitmap.marks.add(dirty);
    this.options.totals.markedBlocks = bitmap.count;
  }

  private async transfer(ready: ReadyMessage, bitmap: SyncBitmap): Promise<void> {
    this.passes++;
    const placed = new PagedBits(bitmap.blocks);
    if (ready.places) await this.placeMarked(bitmap, placed);
    await this.sendMarked(bitmap);
    if (placed.isEmpty) return;
    // The replica says what it placed; that it is there is seen under a key that it could not know.
    await this.compareAs('placed', placed, bitmap);
    await this.sendMarked(bitmap);
  }

  /** Plans of marked blocks, one after another: their signatures, then the answer which of them were placed. */
  private async placeMarked(bitmap: SyncBitmap, placed: PagedBits): Promise<void> {
    const { connection, totals } = this.options;
    const { blockSize } = bitmap;
    // Of a copy: the marks are cleared while plans are taken.
    const plans = batches(bitmap.marks.clone().runs(), this.options.placingBlocks ?? MAX_PLACING_BLOCKS);
    for (const plan of plans) {
      const count = blocksIn(plan);
      totals.begin('placing', count * blockSize);
      await this.sendSignatures(plan, bitmap);
      await connection.send(MessageType.place);
      const frame = await this.answer(MessageType.placed);
      const answers = decodePlaced(frame.payload, count);
      let at = 0;
      for (const { start, end } of plan) {
        for (let block = start; block < end; block++, at++) {
          if (answers[at] === 0) continue;
          placed.set(block);
          bitmap.marks.clear(block);
          totals.placedBlocks++;
          totals.placedBytes += Math.min((block + 1) * blockSize, bitmap.size) - block * blockSize;
        }
      }
    }
  }

  private async sendSignatures(plan: readonly BlockRun[], { blockSize }: SyncBitmap): Promise<void> {
    const { connection, totals } = this.options;
    const pool = this.comparer!.threads;
    pool.begin({ algorithm: 'blake3', key: null, nodeKey: new Uint8Array(32) });
    const most = Math.max(1, Math.min(SIGNATURES_AT_A_TIME, (256 * MiB) / blockSize));
    for (const runs of batches(plan, most)) {
      const first = runs[0]!.start;
      const count = blocksIn(runs);
      const allLeaves = new Uint8Array(new SharedArrayBuffer(count * DIGEST_BYTES));
      const all = new Uint8Array(new SharedArrayBuffer(count * SIGNATURE_BYTES));
      let at = 0;
      const signing = runs.map(({ start, end }) => {
        const leaves = allLeaves.subarray(at * DIGEST_BYTES, (at + end - start) * DIGEST_BYTES);
        const signatures = all.subarray(at * SIGNATURE_BYTES, (at + end - start) * SIGNATURE_BYTES);
        at += end - start;
        return pool.sign({ id: first, start, end, todo: null, leaves, signatures });
      });
      await Promise.all(signing);
      // Streams take no view over shared memory.
      const digests = all.slice();
      await connection.send(MessageType.signatures, ...encodeSignatures({ runs, digests }));
      totals.add(count * blockSize);
    }
  }

  /** Everything that is marked, as data; when it returns, all of it is durable on the replica, and no bit is left. */
  private async sendMarked(bitmap: SyncBitmap): Promise<void> {
    const { totals, connection } = this.options;
    totals.begin('sending', bitmap.markedBytes);
    // What was measured while comparing says nothing of sending.
    this.gauge = new LinkGauge(connection);
    // A side remembers holes: what was marked since the pass before may lie in one.
    const side = new Side(this.options.disk);
    const sent = bitmap.marks.clone();
    const { blockSize, size } = bitmap;
    const piece = this.options.open.refine ?? 0;
    if (piece === 0 || piece >= blockSize) await this.sendPieces(piecesOf(sent.runs(), side, bitmap));
    else {
      const { refinedPieces = MAX_REFINED_PIECES } = this.options;
      const most = Math.max(1, Math.floor(refinedPieces / (blockSize / piece)));
      for (const runs of batches(sent.runs(), most)) {
        const differing = await this.refined(runs, piece, bitmap);
        await this.sendPieces(piecesOf(differing, side, { size, blockSize: piece }));
      }
    }
    if (!sent.isEmpty || totals.placedBlocks > 0) await this.checkpoint(0);
    for (const run of sent.runs()) bitmap.marks.clearRun(run);
  }

  /** Which pieces of these blocks differ, as runs of pieces. */
  private async refined(
    runs: readonly BlockRun[],
    piece: ByteCount,
    bitmap: SyncBitmap,
  ): Promise<BlockRun[]> {
    const { connection, disk, totals } = this.options;
    const { blockSize, size } = bitmap;
    const key = randomBytes(32);
    const all = pieceRuns(runs, { piece, blockSize, size });
    const digests = await signPieces({ disk, size, piece, key, runs: all });
    await connection.send(MessageType.refine, ...encodeRefine({ runs, piece, key, digests }));
    const frame = await this.answer(MessageType.refined);
    const differs = decodePlaced(frame.payload, blocksIn(all));
    const found: BlockRun[] = [];
    let at = 0;
    for (const { start, end } of all) {
      for (let i = start; i < end; i++, at++) {
        const last = found.at(-1);
        if (differs[at] === 0) totals.equalBytes += Math.min((i + 1) * piece, size) - i * piece;
        else if (last?.end === i) found[found.length - 1] = { start: last.start, end: i + 1 };
        else found.push({ start: i, end: i + 1 });
      }
    }
    return found;
  }

  /** Reads and packs ahead, sends in order, and asks for durability now and then. */
  private async sendPieces(pieces: AsyncGenerator<Piece, undefined>): Promise<void> {
    const { connection, totals } = this.options;
    const ahead: Promise<PackedPiece>[] = [];
    for (let more = true; more || ahead.length > 0; ) {
      while (more && ahead.length < PIECES_AHEAD) {
        const next = await pieces.next();
        if (next.done) more = false;
        else {
          const packing = this.reader.pack(next.value, () => this.gauge.isBound);
          packing.catch(() => undefined);
          ahead.push(packing);
        }
      }
      const packed = await ahead.shift();
      if (packed === undefined) continue;
      const { data, message } = packed;
      if ('frame' in message) await connection.sendFrame(MessageType.data, message.frame, message.free);
      else await connection.send(MessageType.data, ...message.parts);
      totals.sentBytes += data.length;
      totals.storedBytes += data.stored.length;
      if (data.encoding === Encoding.zero) totals.zeroBytes += data.length;
      totals.add(data.length);
      this.unflushed += data.encoding === Encoding.zero ? 0 : data.length;
      if (this.unflushed < (this.options.checkpointBytes ?? CHECKPOINT_BYTES)) continue;
      this.unflushed = 0;
      await this.checkpoint(MAX_OPEN_CHECKPOINTS - 1);
    }
  }

  /** Asks for durability; returns when at most `open` of such questions are unanswered. */
  private async checkpoint(open: number): Promise<void> {
    const { connection } = this.options;
    await connection.send(MessageType.checkpoint, encodeNumber(++this.checkpoints));
    while (this.checkpoints - this.durable > open) this.takeDurable(await connection.receive());
  }

  /** The answer to what was asked last; answers to checkpoints that were asked for before may come first. */
  private async answer(type: number): Promise<Frame> {
    const { connection } = this.options;
    for (;;) {
      const frame = await connection.receive();
      if (frame.type === type) return frame;
      if (this.checkpoints === this.durable) throw connection.unexpected(frame, messageName(type));
      this.takeDurable(frame);
    }
  }

  private takeDurable(frame: Frame): void {
    const { connection, totals } = this.options;
    if (frame.type !== MessageType.durable) throw connection.unexpected(frame, 'durable');
    const id = decodeNumber(frame.payload, 'durable');
    if (id !== this.durable + 1)
      throw new DriftmapError(
        'malformed',
        `expected checkpoint ${this.durable + 1} to be durable, got ${id}`,
      );
    this.durable = id;
    totals.checkpoints++;
  }
}

/** Runs in lists of at most so many blocks. */
function* batches(runs: Iterable<BlockRun>, most: number): Generator<BlockRun[], undefined> {
  let batch: BlockRun[] = [];
  let room = most;
  for (const run of runs) {
    for (let start = run.start; start < run.end; ) {
      const end = Math.min(run.end, start + room);
      batch.push({ start, end });
      room -= end - start;
      start = end;
      if (room > 0) continue;
      yield batch;
      batch = [];
      room = most;
    }
  }
  if (batch.length > 0) yield batch;
}

function blocksIn(runs: readonly BlockRun[]): number {
  return runs.reduce((sum, { start, end }) => sum + end - start, 0);
}
