/** What a signing thread runs: segments of one disk, one after another, as `SignPool` hands them out. */

import { parentPort, workerData } from 'node:worker_threads';
import { DriftmapError } from '../base/errors.ts';
import { attachDisk } from '../disk/attach.ts';
import { BlockSigner } from './block-signer.ts';
import type { SignAnswer, SignOrder, SignWorkerSetup } from './sign-task.ts';

const port = parentPort;
if (port === null) throw new DriftmapError('internal', 'sign-worker is run by SignPool');

const { disk, size, blockSize, modules, indexes } = workerData as SignWorkerSetup;
const signer = new BlockSigner({ disk: attachDisk(disk), size, blockSize, modules, indexes });
let pending: Promise<void> = Promise.resolve();

port.on('message', (order: SignOrder) => {
  pending = pending.then(() => obey(order));
});

async function obey(order: SignOrder): Promise<void> {
  if (order.kind === 'pass') return signer.begin(order.pass);
  const { segment } = order;
  const before = signer.readBytes;
  let error: DriftmapError | null = null;
  try {
    await signer.signSegment(segment);
  } catch (cause) {
    error = asOurs(cause);
  }
  const answer: SignAnswer = {
    id: segment.id,
    readBytes: signer.readBytes - before,
    error: error?.toPlain() ?? null,
  };
  port!.postMessage(answer);
}

function asOurs(cause: unknown): DriftmapError {
  if (cause instanceof DriftmapError) return cause;
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  return new DriftmapError('worker', `a signing thread failed: ${reason}`, { cause });
}
