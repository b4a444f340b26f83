import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { Connection } from '../../src/wire/connection.ts';
import { type GreetingOptions, greet, welcome } from '../../src/wire/greeting.ts';
import { MessageType } from '../../src/wire/message-types.ts';
import { memoryPair, type Transport } from '../../src/wire/transport.ts';

const token = new Uint8Array(32).fill(1);
const other = new Uint8Array(32).fill(2);

async function meet(client: GreetingOptions, server: GreetingOptions, bindings: (Uint8Array | null)[] = []) {
  const transports = memoryPair().map(
    (transport, i): Transport => ({ ...transport, binding: bindings[i] ?? null }),
  );
  const [a, b] = transports.map((transport) => new Connection(transport)) as [Connection, Connection];
  const settle = (connection: Connection, run: Promise<number>) =>
    run.catch(async (error: DriftmapError) => {
      await connection.abandon(error);
      return error;
    });
  const result = await Promise.all([settle(a, greet(a, client)), settle(b, welcome(b, server))]);
  await Promise.all([a.close(), b.close()]);
  return result;
}

function kinds(results: (number | DriftmapError)[]) {
  return results.map((result) => (result instanceof DriftmapError ? result.kind : result));
}

describe('the greeting', () => {
  it('agrees on a version, with a token and without', async () => {
    expect(await meet({}, {})).toEqual([1, 1]);
    expect(await meet({ token }, { token })).toEqual([1, 1]);
  });

  it('refuses a client with another token, or with none', async () => {
    expect(kinds(await meet({ token: other }, { token }))).toEqual(['permission', 'permission']);
    const [client] = await meet({}, { token });
    expect(String(client)).toContain('--token-file');
  });

  it('refuses a server that does not ask for the token: it may know nothing of it', async () => {
    const [client] = await meet({ token }, {});
    expect(String(client)).toContain('did not ask for the token');
  });

  it('refuses a proof that was made for another channel', async () => {
    const bindings = [new Uint8Array(32).fill(7), new Uint8Array(32).fill(8)];
    expect(kinds(await meet({ token }, { token }, bindings))).toEqual(['permission', 'permission']);
    const same = [bindings[0]!, bindings[0]!];
    expect(await meet({ token }, { token }, same)).toEqual([1, 1]);
  });

  it('makes no proof twice: a recorded session opens no other', async () => {
    const proofs: string[] = [];
    for (let i = 0; i < 2; i++) {
      const [ours, theirs] = memoryPair();
      const [a, b] = [new Connection(ours), new Connection(theirs)];
      const greeting = greet(a, { token }).catch(() => undefined);
      await b.receive();
      await b.sendControl(MessageType.welcome, {
        version: 1,
        nonce: new Uint8Array(16).fill(3),
        token: true,
        software: 'a server that records',
      });
      const { payload } = await b.receive();
      proofs.push(Buffer.from(payload).toString('hex'));
      a.fail(new DriftmapError('aborted', 'enough'));
      await greeting;
      await b.close();
    }
    expect(proofs[0]).not.toBe(proofs[1]);
  });

  it('refuses versions that have nothing in common', async () => {
    const [ours, theirs] = memoryPair();
    const [a, b] = [new Connection(ours), new Connection(theirs)];
    const serving = welcome(b).catch((error) => error);
    const hello = { magic: 'driftmap', lowest: 2, highest: 9, nonce: new Uint8Array(16), software: 'newer' };
    await a.sendControl(MessageType.hello, hello);
    const error = await serving;
    expect(error.kind).toBe('unsupported');
    expect(error.message).toContain('the other site versions 2 to 9');
    a.fail(error);
    await b.close();
  });
});
