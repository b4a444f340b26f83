import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { MAX_DATA_BYTES, WIRE_CREDIT_BYTES } from '../../src/base/limits.ts';
import { encodeControl } from '../../src/codec/control.ts';
import { Connection } from '../../src/wire/connection.ts';
import { encodeFrameHead } from '../../src/wire/frame.ts';
import { MessageType, NOTE } from '../../src/wire/message-types.ts';
import { memoryPair } from '../../src/wire/transport.ts';

/** One end is ours, the other a peer that may do anything. */
function withPeer(options = {}) {
  const [ours, theirs] = memoryPair();
  const connection = new Connection(ours, options);
  let sequence = 0;
  const received: number[] = [];
  theirs.readable.on('data', (chunk: Uint8Array) => received.push(...chunk));
  const send = (type: number, payload: Uint8Array = new Uint8Array(0)) => {
    theirs.writable.write(encodeFrameHead(type, sequence++, [payload]));
    theirs.writable.write(payload);
  };
  return { connection, theirs, send, received };
}

function pairOf(options = {}): [Connection, Connection] {
  const [a, b] = memoryPair().map((transport) => new Connection(transport, options)) as [
    Connection,
    Connection,
  ];
  a.trust();
  b.trust();
  return [a, b];
}

async function failure(promise: Promise<unknown>): Promise<DriftmapError> {
  const error = await promise.then(
    () => null,
    (cause) => cause,
  );
  expect(error).toBeInstanceOf(DriftmapError);
  return error as DriftmapError;
}

describe('a connection', () => {
  it('delivers in order, and lets a sender go no further than its credit', async () => {
    const [a, b] = pairOf();
    const count = 40;
    let sent = 0;
    const sending = (async () => {
      for (let i = 0; i < count; i++) {
        await a.send(MessageType.data, Uint8Array.of(i), new Uint8Array(MAX_DATA_BYTES));
        sent++;
      }
    })();
    await pause(100);
    // Nobody has received anything: what was sent is bounded by the credit.
    expect(sent * MAX_DATA_BYTES).toBeLessThanOrEqual(WIRE_CREDIT_BYTES);
    expect(sent).toBeGreaterThan(5);
    for (let i = 0; i < count; i++) expect((await b.receive()).payload[0]).toBe(i);
    await sending;
    expect(sent).toBe(count);
    await Promise.all([a.close(), b.close()]);
  });

  it('does not come to a stop when both sides send more than their credit at one time', async () => {
    const [a, b] = pairOf();
    const count = 40;
    const talk = async (connection: Connection) => {
      const sending = (async () => {
        for (let i = 0; i < count; i++)
          await connection.send(MessageType.data, new Uint8Array(MAX_DATA_BYTES));
      })();
      for (let i = 0; i < count; i++) await connection.receive();
      await sending;
    };
    await Promise.all([talk(a), talk(b)]);
    await Promise.all([a.close(), b.close()]);
  });

  it('refuses a peer that sends more than it has credit for', async () => {
    const { connection, send } = withPeer();
    connection.trust();
    for (let i = 0; i <= WIRE_CREDIT_BYTES / MAX_DATA_BYTES; i++)
      send(MessageType.data, new Uint8Array(MAX_DATA_BYTES));
    await pause(50);
    const errors: DriftmapError[] = [];
    for (let i = 0; i < 30 && errors.length === 0; i++)
      await connection.receive().catch((error) => errors.push(error));
    expect(errors[0]?.message).toContain('more than it had credit for');
    expect(errors[0]?.kind).toBe('malformed');
  });

  it('takes no long message from a peer that is not trusted yet', async () => {
    const { connection, send } = withPeer();
    send(MessageType.hello, new Uint8Array(70_000));
    expect((await failure(connection.receive())).kind).toBe('limit');
  });

  it('skips messages that are optional, and refuses others that it does not know', async () => {
    const { connection, send } = withPeer();
    connection.trust();
    send(NOTE, new Uint8Array(100));
    send(0xffff);
    send(MessageType.place);
    expect((await connection.receive()).type).toBe(MessageType.place);
    send(100);
    const error = await failure(connection.receive());
    expect(error.kind).toBe('unsupported');
    expect(error.message).toContain('unknown type, 100');
  });

  it('tells a peer what was wrong, in its own words and kind', async () => {
    const [a, b] = pairOf();
    await a.abandon(new DriftmapError('policy', 'no: this is a test'));
    const error = await failure(b.receive());
    expect(error.message).toContain('the other site says: no: this is a test');
    expect(error.kind).toBe('policy');
    await b.close();
  });

  it('takes an unknown kind of error for a failure of the link', async () => {
    const { connection, send } = withPeer();
    send(MessageType.error, encodeControl({ kind: 'internal', message: 'x' }));
    expect((await failure(connection.receive())).kind).toBe('io');
  });

  it('ends cleanly when the peer says goodbye, after what it had sent', async () => {
    const [a, b] = pairOf();
    await a.send(MessageType.place);
    await a.close();
    expect((await b.receive()).type).toBe(MessageType.place);
    expect((await failure(b.receive())).message).toContain('the other site ended the session');
    await b.close();
  });

  it('says so when the stream ends in the middle of a message', async () => {
    const { connection, theirs } = withPeer();
    theirs.writable.write(encodeFrameHead(MessageType.hello, 0, [new Uint8Array(10)]));
    theirs.writable.end();
    const error = await failure(connection.receive());
    expect(error.message).toContain('the connection was lost, in the middle of a message');
  });

  it('gives up a peer that shows no sign of life, and keeps one that does', async () => {
    const silent = withPeer({ deadAfterMs: 80 });
    const error = await failure(silent.connection.receive());
    expect(error.message).toContain('nothing was heard');
    const [a, b] = pairOf({ deadAfterMs: 80 });
    const late = b.receive();
    await pause(400);
    await a.send(MessageType.place);
    expect((await late).type).toBe(MessageType.place);
    expect(a.roundTrip).not.toBeNull();
    await Promise.all([a.close(), b.close()]);
  });

  it('drops answers for a peer that asks and never reads', async () => {
    const [ours, theirs] = memoryPair();
    const connection = new Connection(ours);
    const frames: Uint8Array[] = [];
    for (let i = 0; i < 400_000; i++) frames.push(encodeFrameHead(MessageType.ping, i, []));
    theirs.writable.write(Buffer.concat(frames));
    await pause(100);
    expect(connection.unsentBytes).toBeLessThan(1024 * 1024);
    connection.fail(new DriftmapError('aborted', 'enough'));
  });
});
