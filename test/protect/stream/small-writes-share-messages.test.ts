import { setTimeout as pause } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { StreamLink } from '../../../src/protect/stream/link.ts';
import { StreamQueue } from '../../../src/protect/stream/queue.ts';
import type { Connection } from '../../../src/wire/connection.ts';

/** Takes every message, and says nothing. */
function silentConnection(): { connection: Connection; sent: number[] } {
  const sent: number[] = [];
  const send = async (_type: number, ...parts: Uint8Array[]) => {
    sent.push(parts.reduce((sum, part) => sum + part.length, 0));
  };
  return { connection: { send, sendControl: send, peer: 'nobody' } as unknown as Connection, sent };
}

it('a journal that is slow to answer does not fill the queue with messages of one write each', async () => {
  const queue = new StreamQueue();
  const { connection, sent } = silentConnection();
  const link = new StreamLink(connection, queue, () => undefined);
  const bytes = new Uint8Array(4096).fill(1);
  // Longer apart than a message lingers: each would be one of its own.
  for (let i = 0; i < 100; i++) {
    expect(queue.add(0, i * 4096, bytes)).toBe(true);
    link.kick();
    await pause(3);
  }
  expect(queue.messages).toBeLessThanOrEqual(10);
  expect(sent.length).toBeLessThanOrEqual(9);
  expect(queue.bytes).toBe(100 * 4096);
  // What waits leaves when one of them is acknowledged.
  const before = sent.length;
  queue.acknowledge(1);
  link.kick();
  await pause(20);
  expect(sent.length).toBeGreaterThan(before);
  expect(queue.hasUnsent).toBe(false);
});
