/**
 * Reads pieces of disks and signs their blocks, ahead of what is sent. The thread that takes a snapshot answers every
 * put, and puts wait for it; so as soon as a snapshot turns out to be large, threads of their own read and sign, each
 * piece straight into the memory that it is sent from. Until they have started, and for small snapshots, it is done
 * here: starting a thread takes as long as signing 30 MiB.
 *
 * Memory is bounded by the flow: a piece has a tray and a place for each of its blocks; a place is kept by the put that
 * sends its block, and there are only so many puts at a time.
 */

import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { assert, DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_BYTES_IN_FLIGHT } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { ScanPool } from '../scan/pool.ts';
import { type ThreadSource, threadSource } from './disk-unit.ts';
import { hasher, NAME_BYTES } from './hasher.ts';
import {
  fillPiece,
  makePieceShape,
  type PieceFilling,
  PieceMemory,
  type PieceWants,
} from './piece-memory.ts';
import type { PieceAnswer, PieceOrder, PieceTask } from './piece-task.ts';
import type { FilledBuffer } from './repository.ts';

/** Threads load compiled code only: from the sources (under a test runner) the built worker beside them is used. */
const workerFile = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/snapshots/piece-worker.js' : './piece-worker.js',
    import.meta.url,
  ),
);

/** A piece; a large block is one alone. */
const PIECE = 2 * MiB;
/** What is read before threads are worth starting, and what must be there to be read besides. */
const START_AFTER = 4 * MiB;
const SMALL = 32 * MiB;
/** Each signs a gigabyte a second: more than two would wait for the thread that sends. */
const MOST_THREADS = 2;
/** Pieces that a thread has before it: one that it works on, and one for when it is done. */
const AHEAD = 2;

/** A processor alone gains nothing by a thread. */
function defaultThreads(): number {
  return Math.min(MOST_THREADS, Math.floor(availableParallelism() / 2));
}

export interface PiecesOptions {
  readonly blockSize: ByteCount;
  readonly plainAt: ByteOffset;
  /** Blocks that are sent at a time, at most. */
  readonly connections: number;
  /** What may be read, at most. */
  readonly totalBytes: ByteCount;
  readonly wants: PieceWants;
  /** By the processors when absent; with 0 all is done here, as small snapshots are in any case. */
  readonly threads?: number | undefined;
}

/** A block in its place. Whoever has it gives it back when it is sent or need not be. */
export interface HeldBlock extends FilledBuffer {
  release(): void;
}

/** A run of blocks that was read. */
export interface Piece {
  /** Of the i-th block, as a view until `end`; null where it is all zero. */
  signature(i: number): Uint8Array | null;
  /** The i-th block, which is not all zero; once. From now on it is the caller's. */
  take(i: number): HeldBlock;
  /** Gives back what was not taken. */
  end(): void;
}

interface Thread {
  readonly port: MessagePort;
  /** Settles when its task has ended. */
  readonly ended: Promise<void>;
  /** Sources that it knows. */
  readonly sources: Set<number>;
  isReady: boolean;
  orders: number;
}

interface Waiting {
  readonly done: () => void;
  readonly failed: (reason: unknown) => void;
}

interface Source {
  readonly id: number;
  /** Null where only this thread can read it. */
  readonly forThreads: ThreadSource | null;
}

type Filling = Omit<PieceFilling, 'read'>;

export class Pieces {
  /** Blocks of a piece, at most. */
  readonly most: number;
  private readonly options: PiecesOptions;
  private readonly memory: PieceMemory;
  private readonly freeTrays: number[];
  private readonly freePlaces: number[];
  private readonly width: number;
  private begun: ByteCount = 0;
  private pool: ScanPool | null = null;
  private threads: Thread[] = [];
  private closing: Promise<void> | null = null;
  private failure: DriftmapError | null = null;
  private readonly sources = new Map<LogicalUnit, Source>();
  private readonly waiting = new Map<number, Waiting>();
  private readonly under = new Set<Promise<unknown>>();
  private ids = 0;

  constructor(options: PiecesOptions) {
    const { blockSize, plainAt, connections, totalBytes, threads = defaultThreads() } = options;
    this.options = options;
    this.width = totalBytes >= START_AFTER + SMALL ? threads : 0;
    const blocks = Math.max(1, Math.ceil(totalBytes / blockSize));
    this.most = Math.min(Math.max(1, Math.ceil(PIECE / blockSize)), blocks);
    const trays = 1 + AHEAD * this.width;
    // A short block does not count fully, and a disk has one at most.
    const sent = Math.min(connections, Math.floor(SNAPSHOT_BYTES_IN_FLIGHT / blockSize) + 1, blocks);
    const places = sent + trays * this.most;
    this.memory = new PieceMemory(makePieceShape({ blockSize, plainAt, most: this.most, trays, places }));
    const all = (count: number) => Array.from({ length: count }, (_, i) => i).reverse();
    this.freeTrays = all(trays);
    this.freePlaces = all(places);
  }

  /** Pieces that may be begun before the first of them is ended. */
  get ahead(): number {
    return this.threads.some(({ isReady }) => isReady) ? this.memory.shape.trays : 1;
  }

  /**
   * Reads and signs a run of blocks, of which the last may be short.
   * @param offset at a block's begin
   * @throws DriftmapError what the unit throws; `worker` when a thread died
   */
  begin(unit: LogicalUnit, offset: ByteOffset, length: ByteCount): Promise<Piece> {
    const piece = this.fill(unit, offset, length);
    const settled = piece.then(
      () => undefined,
      () => undefined,
    );
    this.under.add(settled);
    void settled.then(() => this.under.delete(settled));
    return piece;
  }

  /** Ends the threads when all that was begun has ended. Blocks that were taken stay until they are released. */
  close(): Promise<void> {
    this.closing ??= this.end();
    return this.closing;
  }

  private async end(): Promise<void> {
    await Promise.all(this.under);
    const { threads } = this;
    this.threads = [];
    for (const { port } of threads) port.postMessage({ kind: 'end' } satisfies PieceOrder);
    await Promise.all(threads.map(({ ended }) => ended));
    await this.pool?.close();
    this.pool = null;
  }

  private async fill(unit: LogicalUnit, offset: ByteOffset, length: ByteCount): Promise<Piece> {
    if (this.failure) throw this.failure;
    assert(this.closing === null, 'a piece after the end');
    const count = Math.ceil(length / this.options.blockSize);
    const tray = this.freeTrays.pop();
    assert(tray !== undefined && count <= this.freePlaces.length, 'too many pieces at a time');
    const places = this.freePlaces.splice(this.freePlaces.length - count, count);
    this.begun += length;
    if (this.width > 0 && this.pool === null && this.begun > START_AFTER) this.start();
    const filling: Filling = { length, tray, places, wants: this.options.wants };
    const [thread] = this.threads.filter(({ isReady }) => isReady).sort((a, b) => a.orders - b.orders);
    if (thread === undefined) await this.fillHere(unit, offset, filling);
    else await this.fillThere(thread, unit, offset, filling);
    return this.pieceOf(tray, places, length);
  }

  private async fillHere(unit: LogicalUnit, offset: ByteOffset, filling: Filling): Promise<undefined> {
    await this.readHere(unit, offset, filling);
    return fillPiece(this.memory, hasher(), { ...filling, read: null });
  }

  private async readHere(
    unit: LogicalUnit,
    offset: ByteOffset,
    { tray, length }: Filling,
  ): Promise<undefined> {
    const wait = unit.read(offset, this.memory.tray(tray).bytes.subarray(0, length));
    if (wait) await wait;
  }

  private async fillThere(
    thread: Thread,
    unit: LogicalUnit,
    offset: ByteOffset,
    filling: Filling,
  ): Promise<undefined> {
    const { id: sourceId, forThreads } = this.sourceOf(unit);
    thread.orders++;
    if (forThreads === null) await this.readHere(unit, offset, filling);
    if (this.failure) throw this.failure;
    const send = (order: PieceOrder) => thread.port.postMessage(order);
    if (forThreads !== null && !thread.sources.has(sourceId)) {
      thread.sources.add(sourceId);
      send({ kind: 'source', id: sourceId, source: forThreads });
    }
    const id = this.ids++;
    return new Promise((resolve, failed) => {
      this.waiting.set(id, { done: () => resolve(undefined), failed });
      send({ kind: 'piece', id, source: forThreads === null ? null : sourceId, offset, ...filling });
    });
  }

  private pieceOf(index: number, places: readonly number[], length: ByteCount): Piece {
    const { memory, freePlaces, freeTrays } = this;
    const { blockSize, wants } = this.options;
    const { signatures, checksums, nonzero, random } = memory.tray(index);
    const taken = new Set<number>();
    return {
      signature: (i) => (nonzero[i] === 0 ? null : signatures.subarray(i * NAME_BYTES, (i + 1) * NAME_BYTES)),
      take: (i) => {
        const place = places[i]!;
        assert(!taken.has(place), 'a block is taken once');
        taken.add(place);
        return {
          buffer: memory.place(place),
          length: Math.min(blockSize, length - i * blockSize),
          checksum: wants.checksums ? checksums[i]! : null,
          looksRandom: wants.looks ? random[i] === 1 : null,
          release: () => void freePlaces.push(place),
        };
      },
      end: () => {
        for (const place of places) if (!taken.has(place)) freePlaces.push(place);
        freeTrays.push(index);
      },
    };
  }

  private start(): void {
    this.pool = new ScanPool(this.width, workerFile);
    const { modules } = this.pool;
    for (let i = 0; i < this.width; i++) {
      const { port1: port, port2: orders } = new MessageChannel();
      const task: PieceTask = { orders, modules, shape: this.memory.shape };
      const ended = this.pool.runIn(workerFile, task, orders, 'a signing thread').then(
        () => {
          if (this.closing === null) this.fail(new DriftmapError('worker', 'a signing thread ended'));
        },
        (cause) => this.fail(cause as DriftmapError),
      );
      const thread: Thread = {
        port,
        ended: ended.finally(() => port.close()),
        sources: new Set(),
        isReady: false,
        orders: 0,
      };
      port.on('message', (answer: PieceAnswer) => this.answered(thread, answer));
      this.threads.push(thread);
    }
  }

  private sourceOf(unit: LogicalUnit): Source {
    let source = this.sources.get(unit);
    if (source === undefined) {
      source = { id: this.sources.size, forThreads: threadSource(unit) };
      this.sources.set(unit, source);
    }
    return source;
  }

  private answered(thread: Thread, answer: PieceAnswer): void {
    if (answer.kind === 'ready') {
      thread.isReady = true;
      return;
    }
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    thread.orders--;
    if (answer.error === null) waiting?.done();
    else waiting?.failed(DriftmapError.fromPlain(answer.error));
  }

  private fail(error: DriftmapError): void {
    this.failure ??= error;
    for (const { failed } of this.waiting.values()) failed(this.failure);
    this.waiting.clear();
  }
}
