/**
 * What runs on a pool's thread: one long task per worker, which pulls ranges from a shared counter until
 * none is left, and posts what it found. It holds no state between tasks but compiled kernels.
 */

import type { DriftmapError } from '../base/errors.ts';
import { attachDisk } from '../disk/attach.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { IndexedComparer } from './indexed-comparer.ts';
import { RangeComparer } from './range-comparer.ts';
import { type ComparedRange, RangeReporter } from './reporter.ts';
import { Side } from './side.ts';
import { Control, type ScanTask, type TaskOutcome } from './task.ts';
import { asOurs } from './worker-error.ts';

interface Comparer extends ComparedRange {
  compare(range: number): Promise<boolean>;
}

export default async function work(task: ScanTask): Promise<TaskOutcome> {
  const reporter = new RangeReporter(task.plan, task.reports);
  const disks: VirtualDisk[] = [];
  let begunAt = Number.POSITIVE_INFINITY;
  let error: DriftmapError | null = null;
  try {
    const comparer = await makeReady(task, disks);
    begunAt = performance.timeOrigin + performance.now();
    await pullRanges(task, comparer, reporter);
  } catch (cause) {
    error = asOurs(cause);
    Atomics.store(task.control, Control.stop, 1);
  }
  reporter.flush();
  await letGo(disks);
  return { reports: reporter.posted, begunAt, error: error?.toPlain() ?? null };
}

/** @param disks where what is attached is told, for whoever closes it */
async function makeReady(task: ScanTask, disks: VirtualDisk[]): Promise<Comparer> {
  const { control, plan, compare, key, modules, slot } = task;
  const [production, replica] = [task.production, task.replica].map((handle) => {
    const disk = attachDisk(handle);
    disks.push(disk);
    return new Side(disk);
  }) as [Side, Side];
  const algorithm = algorithmByName(task.algorithm);
  const stopped = () => Atomics.load(control, Control.stop) !== 0;
  const setup = { plan, compare, algorithm, key, modules, slot, stopped, production, replica };
  return task.indexes === null ? RangeComparer.create(setup) : IndexedComparer.create(setup, task.indexes);
}

async function pullRanges(
  { control, plan }: ScanTask,
  comparer: Comparer,
  reporter: RangeReporter,
): Promise<void> {
  for (;;) {
    const range = Atomics.add(control, Control.next, 1);
    if (range >= plan.starts.length || !(await comparer.compare(range))) return;
    reporter.add(range, comparer);
  }
}

/** Nothing is lost when a connection does not end in peace: the answers are there. */
async function letGo(disks: readonly VirtualDisk[]): Promise<void> {
  for (const disk of disks) await Promise.resolve(disk.close()).catch(() => undefined);
}
