/**
 * What a pool's thread runs for a session: one long task, which signs segments of one disk, one after another, as
 * `SignPool` hands them out, until it is told to end.
 */

import { DriftmapError } from '../base/errors.ts';
import { attachDisk } from '../disk/attach.ts';
import { BlockSigner } from './block-signer.ts';
import type { SignAnswer, SignOrder, SignSegment, SignTask } from './sign-task.ts';

export default async function sign(task: SignTask): Promise<void> {
  const { orders, disk, size, blockSize, modules, indexes } = task;
  const attached = attachDisk(disk);
  const signer = new BlockSigner({ disk: attached, size, blockSize, modules, indexes });
  try {
    await new Promise<void>((resolve, reject) => {
      let pending: Promise<void> = Promise.resolve();
      orders.on('message', (order: SignOrder) => {
        pending = pending.then(async () => {
          if (order.kind === 'pass') await signer.begin(order.pass);
          else if (order.kind === 'segment') orders.postMessage(await answerTo(order.segment, signer));
          else resolve();
        });
        pending.catch(reject);
      });
      // Who gave the orders is gone.
      orders.on('close', resolve);
    });
  } finally {
    orders.close();
    signer.close();
    // Nothing is lost when a connection does not end in peace.
    await Promise.resolve(attached.close()).catch(() => undefined);
  }
}

async function answerTo(segment: SignSegment, signer: BlockSigner): Promise<SignAnswer> {
  const before = signer.readBytes;
  let error: DriftmapError | null = null;
  try {
    await signer.signSegment(segment);
  } catch (cause) {
    error = asOurs(cause);
  }
  return { id: segment.id, readBytes: signer.readBytes - before, error: error?.toPlain() ?? null };
}

function asOurs(cause: unknown): DriftmapError {
  if (cause instanceof DriftmapError) return cause;
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  return new DriftmapError('worker', `a signing thread failed: ${reason}`, { cause });
}
