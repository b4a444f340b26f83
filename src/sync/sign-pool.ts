/**
 * The threads that sign one disk's blocks during a session. A segment is a few megabytes: large enough that
 * handing it out costs nothing, small enough that all threads end together. Results go into shared memory.
 * A small disk is signed here: it takes less time than starting a thread.
 */

import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { DriftmapError } from '../base/errors.ts';
import { type ByteCount, MiB } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { ScanPool } from '../scan/pool.ts';
import type { SideIndexes } from '../scan/scan-indexes.ts';
import { BlockSigner } from './block-signer.ts';
import type { SignAnswer, SignOrder, SignPass, SignSegment, SignTask } from './sign-task.ts';

/** Threads load compiled code only: from the sources (under a test runner) the built worker beside them is used. */
const workerFile = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/sync/sign-worker.js' : './sign-worker.js',
    import.meta.url,
  ),
);

export interface SignPoolOptions {
  readonly disk: VirtualDisk;
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Threads; 0 signs here. */
  readonly workers: number;
  readonly indexes?: SideIndexes | null | undefined;
}

/** Signed in about the time that a thread takes to start. */
const SMALL_BYTES = 32 * MiB;

interface Waiting {
  readonly segment: SignSegment;
  readonly done: () => void;
  readonly failed: (reason: unknown) => void;
}

/** The signer of this thread, and what it does last. */
interface Here {
  readonly signer: BlockSigner;
  last: Promise<void>;
}

interface Thread {
  readonly port: MessagePort;
  /** Settles when its task has ended. */
  readonly ended: Promise<void>;
  current: Waiting | null;
}

export class SignPool {
  readBytes: ByteCount = 0;
  private readonly options: SignPoolOptions;
  private pool: ScanPool | null = null;
  private threads: Thread[] = [];
  private closing = false;
  private readonly queue: Waiting[] = [];
  private pass: SignPass | null = null;
  private failure: DriftmapError | null = null;
  private readonly letGo: () => unknown;
  private here: Here | null;

  constructor(options: SignPoolOptions) {
    this.options = options;
    const small = options.workers === 0 || options.size <= SMALL_BYTES;
    this.here = small ? { signer: new BlockSigner(options), last: Promise.resolve() } : null;
    // A disk that is closed meanwhile stays open until no thread reads it.
    this.letGo = options.disk.retain();
  }

  /** How blocks are signed from now on. No segment may be under way. */
  begin(pass: SignPass): void {
    this.pass = pass;
    if (this.here !== null) {
      const { signer } = this.here;
      this.here.last = this.here.last.then(() => signer.begin(pass));
      this.here.last.catch(() => undefined);
      return;
    }
    if (this.threads.length === 0) this.start();
    for (const { port } of this.threads) port.postMessage({ kind: 'pass', pass } satisfies SignOrder);
  }

  /** Resolves when the segment's leaves are in their place. */
  sign(segment: SignSegment): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    if (this.pass === null) return Promise.reject(new DriftmapError('internal', 'a segment before its pass'));
    if (this.here !== null) return this.signHere(this.here, segment);
    return new Promise((done, failed) => {
      this.queue.push({ segment, done, failed });
      this.dispatch();
    });
  }

  /** One after another; between two the process looks after its connection. */
  private signHere(here: Here, segment: SignSegment): Promise<void> {
    const { signer } = here;
    here.last = here.last.then(async () => {
      if (this.failure) throw this.failure;
      await setImmediate();
      const before = signer.readBytes;
      await signer.signSegment(segment);
      this.readBytes += signer.readBytes - before;
    });
    const { last } = here;
    // One that fails must not fail those behind it.
    here.last = last.catch(() => undefined);
    return last;
  }

  async close(): Promise<void> {
    this.fail(new DriftmapError('aborted', 'the session ended'));
    if (this.here !== null) {
      await this.here.last.catch(() => undefined);
      this.here.signer.close();
      this.here = null;
    }
    this.closing = true;
    const { threads } = this;
    this.threads = [];
    for (const { port } of threads) port.postMessage({ kind: 'end' } satisfies SignOrder);
    await Promise.all(threads.map(({ ended }) => ended));
    await this.pool?.close();
    this.pool = null;
    await this.letGo();
  }

  private start(): void {
    const { disk, size, blockSize, workers, indexes = null } = this.options;
    this.pool = new ScanPool(workers, workerFile);
    const { modules } = this.pool;
    for (let i = 0; i < workers; i++) {
      const { port1: port, port2: orders } = new MessageChannel();
      const task: SignTask = { orders, modules, disk: disk.handle(), size, blockSize, indexes };
      const ended = this.pool.runIn(workerFile, task, orders, 'a signing thread').then(
        () => {
          if (!this.closing) this.fail(new DriftmapError('worker', 'a signing thread ended'));
        },
        (cause) => this.fail(cause as DriftmapError),
      );
      const thread: Thread = { port, ended: ended.finally(() => port.close()), current: null };
      port.on('message', (answer: SignAnswer) => this.answered(thread, answer));
      this.threads.push(thread);
    }
  }

  private dispatch(): void {
    for (const thread of this.threads) {
      if (thread.current !== null) continue;
      const next = this.queue.shift();
      if (next === undefined) return;
      thread.current = next;
      thread.port.postMessage({ kind: 'segment', segment: next.segment } satisfies SignOrder);
    }
  }

  private answered(thread: Thread, { readBytes, error }: SignAnswer): void {
    const waiting = thread.current;
    thread.current = null;
    this.readBytes += readBytes;
    if (error === null) waiting?.done();
    else waiting?.failed(DriftmapError.fromPlain(error));
    this.dispatch();
  }

  private fail(error: DriftmapError): void {
    this.failure ??= error;
    for (const { failed } of this.queue.splice(0)) failed(this.failure);
    for (const thread of this.threads) {
      thread.current?.failed(this.failure);
      thread.current = null;
    }
  }
}
