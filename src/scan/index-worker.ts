/** What runs on a pool's thread while an index is made: pulls pages from a shared counter, signs and posts them. */

import type { DriftmapError } from '../base/errors.ts';
import { INDEX_PAGES_AHEAD } from '../base/limits.ts';
import { attachDisk } from '../disk/attach.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { IndexReader } from '../signature/index-file.ts';
import { PAGE_BLOCKS } from '../signature/index-table.ts';
import { IndexControl, type IndexTask, type PageReport } from './index-task.ts';
import { kernelsOver } from './kernel-cache.ts';
import { PageSigner } from './page-signer.ts';
import { Side } from './side.ts';
import { layOutSlot } from './slot-layout.ts';
import type { TaskOutcome } from './task.ts';
import { asOurs } from './worker-error.ts';

const WORDS = PAGE_BLOCKS / 32;
/** How long a thread sleeps before it looks again whether it was stopped. */
const NAP_MS = 100;

export default async function work(task: IndexTask): Promise<TaskOutcome> {
  let error: DriftmapError | null = null;
  let reports = 0;
  let begunAt = Number.POSITIVE_INFINITY;
  try {
    const signer = await makeReady(task);
    begunAt = performance.timeOrigin + performance.now();
    reports = await pullPages(task, signer);
  } catch (cause) {
    error = asOurs(cause);
    Atomics.store(task.control, IndexControl.stop, 1);
  }
  return { reports, begunAt, error: error?.toPlain() ?? null };
}

async function makeReady(task: IndexTask): Promise<PageSigner> {
  const { control, disk, blockSize, modules, refresh, slot } = task;
  const layout = layOutSlot(slot.pointer, blockSize);
  const key = `pool ${slot.memoryId} ${slot.index}`;
  const kernels = kernelsOver(key, modules, slot.memory, layout.scratch);
  return new PageSigner({
    side: new Side(attachDisk(disk)),
    blockSize,
    kernels,
    signer: await kernels.signer(algorithmByName('blake3')),
    bytes: new Uint8Array(slot.memory.buffer),
    layout,
    old: refresh ? new IndexReader(refresh.old) : null,
    sampling: refresh?.sampling ?? { share: 0, seed: 0 },
    stopped: () => Atomics.load(control, IndexControl.stop) !== 0,
  });
}

/** Returns how many pages were posted. */
async function pullPages(task: IndexTask, signer: PageSigner): Promise<number> {
  const { control, pages, refresh, reports } = task;
  let before = { signedBytes: 0, readBytes: 0, keptBlocks: 0, sampledBlocks: 0 };
  for (let posted = 0; ; posted++) {
    const at = Atomics.add(control, IndexControl.next, 1);
    if (at >= pages.length || !waitForTurn(control, at)) return posted;
    const dirty = refresh?.dirty.subarray(at * WORDS, (at + 1) * WORDS) ?? null;
    const bytes = await signer.sign(pages[at]!, dirty);
    if (bytes === undefined) return posted;
    const { signedBytes, readBytes, keptBlocks, sampledBlocks } = signer;
    const report: PageReport = {
      at,
      bytes,
      signedBytes: signedBytes - before.signedBytes,
      readBytes: readBytes - before.readBytes,
      keptBlocks: keptBlocks - before.keptBlocks,
      sampledBlocks: sampledBlocks - before.sampledBlocks,
    };
    before = { signedBytes, readBytes, keptBlocks, sampledBlocks };
    reports.postMessage(report, bytes === null ? [] : [bytes.buffer as ArrayBuffer]);
  }
}

/** Sleeps while the file is far behind; false when it was stopped. The page that the file waits for never sleeps. */
function waitForTurn(control: Int32Array, at: number): boolean {
  for (;;) {
    if (Atomics.load(control, IndexControl.stop) !== 0) return false;
    const written = Atomics.load(control, IndexControl.written);
    if (at < written + INDEX_PAGES_AHEAD) return true;
    Atomics.wait(control, IndexControl.written, written, NAP_MS);
  }
}
