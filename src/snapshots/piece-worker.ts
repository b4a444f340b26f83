/**
 * What a thread runs for a snapshot: one long task, which reads and signs pieces of its disks, one after another, as
 * `Pieces` hands them out, until it is told to end.
 */

import { assert, type PlainError } from '../base/errors.ts';
import { asOurs } from '../scan/worker-error.ts';
import { attachSource, type ThreadReader } from './disk-unit.ts';
import { Hasher } from './hasher.ts';
import { fillPiece, PieceMemory } from './piece-memory.ts';
import type { PieceAnswer, PieceOrder, PieceTask } from './piece-task.ts';

interface Bench {
  readonly memory: PieceMemory;
  readonly hasher: Hasher;
  readonly readers: Map<number, ThreadReader>;
}

export default async function fill({ orders, modules, shape }: PieceTask): Promise<void> {
  const bench: Bench = {
    memory: new PieceMemory(shape),
    hasher: new Hasher(modules),
    readers: new Map(),
  };
  const answer = (message: PieceAnswer) => orders.postMessage(message);
  try {
    await new Promise<void>((resolve, reject) => {
      let pending: Promise<void> = Promise.resolve();
      orders.on('message', (order: PieceOrder) => {
        pending = pending.then(async () => {
          if (order.kind === 'end') resolve();
          else if (order.kind === 'piece')
            answer({ kind: 'piece', id: order.id, error: await fillOrError(order, bench) });
          else bench.readers.set(order.id, attachSource(order.source));
        });
        pending.catch(reject);
      });
      // Who gave the orders is gone.
      orders.on('close', resolve);
      answer({ kind: 'ready' });
    });
  } finally {
    orders.close();
    // Nothing is lost when a connection does not end in peace.
    for (const reader of bench.readers.values()) await Promise.resolve(reader.close()).catch(() => undefined);
  }
}

async function fillOrError(
  order: Extract<PieceOrder, { kind: 'piece' }>,
  { memory, hasher, readers }: Bench,
): Promise<PlainError | null> {
  const { source, offset } = order;
  try {
    const reader = source === null ? null : readers.get(source);
    assert(reader !== undefined, `a piece of the unknown source ${source}`);
    const read =
      reader === null ? null : (from: number, target: Uint8Array) => reader.read(offset + from, target);
    await fillPiece(memory, hasher, { ...order, read });
    return null;
  } catch (cause) {
    return asOurs(cause, 'a signing thread').toPlain();
  }
}
