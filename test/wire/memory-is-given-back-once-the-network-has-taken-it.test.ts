import { describe, expect, it } from 'vitest';
import { Connection } from '../../src/wire/connection.ts';
import { FRAME_HEAD_BYTES } from '../../src/wire/frame.ts';
import { MessageType } from '../../src/wire/message-types.ts';
import { memoryPair, type Transport } from '../../src/wire/transport.ts';
import { noise } from '../sync/disks.ts';
import { randomOf, simulatedPair } from '../sync/simulated.ts';

const LENGTH = 700_000;
const COUNT = 40;

/** Sends messages from memory that is overwritten the moment it is given back. */
async function carry(transports: [Transport, Transport]): Promise<{ given: number; right: number }> {
  const [a, b] = transports.map((transport) => new Connection(transport)) as [Connection, Connection];
  a.trust();
  b.trust();
  const idle: Uint8Array[] = [];
  let given = 0;
  const sending = (async () => {
    for (let i = 0; i < COUNT; i++) {
      const memory = idle.pop() ?? new Uint8Array(FRAME_HEAD_BYTES + LENGTH);
      memory.set(noise(LENGTH, i + 1), FRAME_HEAD_BYTES);
      await a.sendFrame(MessageType.data, memory, () => {
        given++;
        memory.fill(0xee);
        idle.push(memory);
      });
    }
  })();
  let right = 0;
  for (let i = 0; i < COUNT; i++) {
    const frame = await b.receive();
    if (frame.type === MessageType.data && Buffer.compare(frame.payload, noise(LENGTH, i + 1)) === 0) right++;
    b.recycle(frame);
  }
  await sending;
  await Promise.all([a.close(), b.close()]);
  return { given, right };
}

describe('the memory of a message', () => {
  it('is given back where the transport has copied it, and what arrives is what was sent', async () => {
    const { given, right } = await carry(simulatedPair(randomOf(7), Number.POSITIVE_INFINITY));
    expect(right).toBe(COUNT);
    expect(given).toBeGreaterThan(COUNT / 2);
  });

  it('is never given back where the other end is handed the memory itself', async () => {
    expect(await carry(memoryPair())).toEqual({ given: 0, right: COUNT });
  });
});
