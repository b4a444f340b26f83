/**
 * Suite `machine`: what the machine itself can do, by the same means that driftmap uses. A scan of memory
 * cannot be faster than reading memory, a scan of files cannot be faster than reading files; so a figure
 * beside its limit says how good it is on any machine.
 *
 *   memory-read  the zero kernel over memory larger than the caches: the cheapest use of every byte there is
 *   memory-copy  TypedArray.set from one half of that memory to the other; bytes copied are counted once
 *   read-file    fs.readSync of a page-cached file, in pieces as a scan reads, into one small shared buffer
 *
 * With one thread and with as many as scans are measured with. Threads are plain ones that wait on shared
 * memory: a pool would be part of what is to be compared.
 */

import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { READ_PIECE } from '../base/limits.ts';
import { MiB } from '../base/units.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { type BenchCase, type Suite, type SuiteOptions, shortDigest } from './bench-case.ts';
import { LimitCells, type LimitName, type LimitSetup, limitNames, slotBytesFor } from './limit-work.ts';
import { fillRandom } from './random.ts';
import { temporaryFolder } from './temporary-folder.ts';

/** Bytes of a run of all threads together: larger than the caches. */
const STREAM = { full: 256 * MiB, gate: 16 * MiB, smoke: 2 * MiB } as const;

/** Threads load compiled code only, as those of a scan. */
const workerFile = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/bench/limit-worker.js' : './limit-worker.js',
    import.meta.url,
  ),
);

export async function openMachineSuite({ scale, workers }: SuiteOptions): Promise<Suite> {
  const most = Math.max(...workers);
  const crew = await startCrew(most, STREAM[scale]);
  const cases = workers.flatMap((threads) => limitNames.map((name) => limitCase(crew, name, threads)));
  return { cases, close: () => crew.close() };
}

function limitCase(crew: Crew, limit: LimitName, threads: number): BenchCase {
  // The memory is divided among the most threads there are: fewer of them go through their parts more often.
  const turns = Math.max(1, Math.round(crew.threads / threads));
  const perThread = crew.share * turns;
  return {
    name: `machine/${limit}/${threads}`,
    suite: 'machine',
    bytes: perThread * threads * (limit === 'memory-copy' ? 0.5 : 1),
    operations: 0,
    limit: null,
    threads,
    clock: 'wall',
    run: () => crew.work(limit, threads, turns),
    digest: () => shortDigest(`${limit} ${threads} ${crew.results(threads)}`),
  };
}

interface Crew {
  readonly threads: number;
  readonly share: number;
  work(limit: LimitName, threads: number, turns: number): Promise<unknown>;
  /** What the threads last found, the same for the same work. */
  results(threads: number): string;
  close(): Promise<void>;
}

async function startCrew(threads: number, stream: number): Promise<Crew> {
  // Whole pieces: threads go through their parts piece by piece.
  const share = Math.max(1, Math.floor(stream / threads / READ_PIECE)) * READ_PIECE;
  const arena = new SlotArena(threads, slotBytesFor(share));
  const folder = temporaryFolder();
  const file = join(folder.path, 'data');
  const piece = new Uint8Array(share);
  fillRandom(piece, 11);
  writeFileSync(file, piece);
  const fd = openSync(file, 'r');
  const cells = Array.from(
    { length: threads },
    () => new Int32Array(new SharedArrayBuffer(4 * LimitCells.cells)),
  );
  const crew = await Promise.all(
    cells.map(async (own, i) => {
      const setup: LimitSetup = { ...arena.slot(i), share, fd, cells: own, modules: loadKernels() };
      const worker = new Worker(workerFile, { workerData: setup });
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      return worker;
    }),
  );
  return {
    threads,
    share,
    work: (limit, count, turns) =>
      Promise.all(cells.slice(0, count).map((own) => workOnce(own, limitNames.indexOf(limit), turns))),
    results: (count) =>
      cells
        .slice(0, count)
        .map((own) => own[LimitCells.found])
        .join(' '),
    close: async () => {
      for (const worker of crew) await worker.terminate();
      closeSync(fd);
      folder.remove();
    },
  };
}

/** Wakes one thread and waits, without blocking, until it is done. */
async function workOnce(cells: Int32Array, limit: number, turns: number): Promise<void> {
  Atomics.store(cells, LimitCells.limit, limit);
  Atomics.store(cells, LimitCells.turns, turns);
  const done = Atomics.load(cells, LimitCells.done);
  const waiting = Atomics.waitAsync(cells, LimitCells.done, done);
  Atomics.add(cells, LimitCells.asked, 1);
  Atomics.notify(cells, LimitCells.asked);
  await waiting.value;
}
