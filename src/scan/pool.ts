/**
 * The threads of a scanner, and the shared memory they work in. The only importer of piscina, which owns
 * the threads; a task here is one long pull of ranges, so its dispatch costs nothing that counts.
 */

import { availableParallelism } from 'node:os';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { DriftmapError } from '../base/errors.ts';
import { MAX_WORKERS } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import type { KernelModules } from '../signature/kernels.ts';
import type { IndexTask } from './index-task.ts';
import { slotBytes } from './slot-layout.ts';
import type { ScanTask, TaskOutcome, WorkerSlot } from './task.ts';

/** Threads load compiled code only: from the sources (under a test runner) the built worker beside them is used. */
const built = new URL(import.meta.url.endsWith('.ts') ? '../../dist/scan/' : './', import.meta.url);
const workerFile = fileURLToPath(new URL('worker.js', built));
const indexWorkerFile = fileURLToPath(new URL('index-worker.js', built));

export function defaultWorkers(): number {
  return Math.min(availableParallelism(), MAX_WORKERS);
}

/** Threads start in 0.1 s, on a busy machine in seconds; one that cannot start at all must not hold up the end. */
const LONGEST_START_MS = 10_000;

let memories = 0;

export class ScanPool {
  readonly workers: number;
  /** For tasks. */
  readonly modules: KernelModules;
  /** The first threads, until their module is loaded. */
  private readonly starting = new Set<Piscina['threads'][number]>();
  private readonly piscina: Piscina<object, unknown>;
  private arena: { readonly slots: SlotArena; readonly bytes: ByteCount; readonly id: number } | null = null;

  /** @param filename the compiled module that the threads load first: a scan's, unless they are for other work */
  constructor(workers: number, filename = workerFile) {
    if (!Number.isInteger(workers) || workers < 1 || workers > MAX_WORKERS) {
      throw new DriftmapError('argument', `expected 1 to ${MAX_WORKERS} workers, got ${workers}`);
    }
    this.workers = workers;
    this.piscina = new Piscina({
      filename,
      minThreads: workers,
      maxThreads: workers,
      idleTimeout: Number.POSITIVE_INFINITY,
      recordTiming: false,
      // A waiting thread sleeps on shared memory: the quickest wake-up, and a task brings all that it needs.
      atomics: 'sync',
    });
    for (const thread of this.piscina.threads) {
      this.starting.add(thread);
      // The first thing that a thread says is that its module is loaded.
      for (const event of ['message', 'exit']) thread.once(event, () => this.starting.delete(thread));
    }
    try {
      // While the threads start.
      this.modules = loadKernels();
    } catch (cause) {
      this.close().catch(() => undefined);
      throw cause;
    }
  }

  /** The slots of a scan with such blocks: the same memory from scan to scan, replaced only when blocks outgrow it. */
  slots(blockSize: ByteCount): readonly WorkerSlot[] {
    const bytes = slotBytes(blockSize);
    if (this.arena === null || this.arena.bytes < bytes) {
      this.arena = { slots: new SlotArena(this.workers, bytes), bytes, id: ++memories };
    }
    const { slots, id } = this.arena;
    return Array.from({ length: this.workers }, (_, index) => ({
      ...slots.slot(index),
      memoryId: id,
      index,
    }));
  }

  /** Runs one task to its end; a thread that dies is a `worker` error, and its place is filled anew. */
  async run(task: ScanTask | IndexTask): Promise<TaskOutcome> {
    const filename = 'pages' in task ? indexWorkerFile : workerFile;
    return (await this.runIn(filename, task, task.reports, 'a scan worker')) as TaskOutcome;
  }

  /**
   * Runs another module's default export on one of the threads.
   * @param what runs there, for the error when it dies
   */
  async runIn(filename: string, task: object, port: MessagePort, what: string): Promise<unknown> {
    try {
      return await this.piscina.run(task, { transferList: [port], filename });
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new DriftmapError('worker', `${what} died: ${reason}`, { cause });
    }
  }

  /**
   * Ends the threads, once all of them have started: to end one while it loads its module can abort the whole
   * process (Node 20, in `require` of a module).
   */
  async close(): Promise<void> {
    const latest = performance.now() + LONGEST_START_MS;
    // No task is left, so a thread that is ready is idle. Piscina takes the first threads for ready from the start.
    const isReady = () => this.starting.size === 0 && this.piscina.idleThreads >= this.workers;
    while (!isReady() && performance.now() < latest) await setTimeout(2);
    await this.piscina.destroy();
    this.arena = null;
  }
}
