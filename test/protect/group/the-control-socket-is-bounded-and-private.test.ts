import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../../src/base/errors.ts';
import {
  askControl,
  type ControlServer,
  serveControl,
  TextAnswer,
} from '../../../src/protect/group/control.ts';
import { temporary } from '../../tools.ts';

const folder = temporary();
const path = join(folder, 'control.sock');
let server: ControlServer;
const aborted: string[] = [];

beforeAll(async () => {
  server = await serveControl(path, {
    'GET /state': () => ({ is: 'well' }),
    'GET /metrics': () => new TextAnswer('up 1\n'),
    'POST /echo': ({ body }) => body,
    'POST /fail': () => {
      throw new DriftmapError('not-found', 'no such thing', { path: '/thing', offset: 7 });
    },
    'POST /break': () => {
      throw new Error('a bug');
    },
    'POST /count': async ({ tell }) => {
      for (let i = 1; i <= 3; i++) tell({ i });
      return 'counted';
    },
    'POST /wait': ({ signal }) =>
      new Promise((resolve) => {
        const stopped = () => {
          aborted.push('stopped');
          resolve('stopped');
        };
        if (signal.aborted) stopped();
        signal.addEventListener('abort', stopped, { once: true });
      }),
  });
});
afterAll(() => server.close());

function ask(
  method: string,
  url: string,
  body: string | null = null,
  headers: Record<string, string | number> = {},
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { socketPath: path, method, path: url, headers, agent: false },
      async (answer: IncomingMessage) => {
        let text = '';
        for await (const chunk of answer) text += String(chunk);
        resolve({ status: answer.statusCode!, text });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(body ?? undefined);
  });
}

describe('the control socket', () => {
  it('answers in JSON, and in text where text is answered', async () => {
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const state = await ask('GET', '/state');
    expect(state.status).toBe(200);
    expect(JSON.parse(state.text)).toEqual({ is: 'well' });
    expect(await ask('GET', '/metrics')).toEqual({ status: 200, text: 'up 1\n' });
    expect(await askControl(path, 'GET /metrics')).toEqual({ answer: 'up 1\n' });
  });

  it('tells what happens on the way, and errors as what they are', async () => {
    const told: unknown[] = [];
    const onProgress = (progress: unknown) => told.push(progress);
    expect(await askControl(path, 'POST /count', {}, { onProgress })).toEqual({ answer: 'counted' });
    expect(told).toEqual([{ i: 1 }, { i: 2 }, { i: 3 }]);
    await expect(askControl(path, 'POST /fail')).rejects.toMatchObject({
      kind: 'not-found',
      message: '/thing: no such thing (at offset 7)',
      path: '/thing',
      offset: 7,
    });
    await expect(askControl(path, 'POST /break')).rejects.toThrow('a bug');
    const { status, text } = await ask('POST', '/fail', '{}');
    expect(status).toBe(404);
    expect(JSON.parse(text).error).toMatchObject({ kind: 'not-found' });
    expect((await ask('POST', '/break')).status).toBe(500);
  });

  it('says that nobody listens where nobody does', async () => {
    expect(await askControl(join(folder, 'none.sock'), 'GET /state')).toBeNull();
    expect(await askControl(join(folder, 'no', 'folder.sock'), 'GET /state')).toBeNull();
  });

  it.each<[string, string, string, string | null, number]>([
    ['an unknown path', 'GET', '/nothing', null, 404],
    ['a name that objects have of themselves', 'GET', '/constructor', null, 404],
    ['another method', 'DELETE', '/state', null, 404],
    ['no JSON', 'POST', '/echo', '{"a":', 400],
    ['a list', 'POST', '/echo', '[1]', 400],
    ['a number', 'POST', '/echo', '7', 400],
    ['null', 'POST', '/echo', 'null', 400],
    ['a body that is too large', 'POST', '/echo', JSON.stringify({ a: 'x'.repeat(70_000) }), 413],
  ])('refuses %s', async (_what, method, url, body, status) => {
    expect((await ask(method, url, body)).status).toBe(status);
    expect((await ask('GET', '/state')).status).toBe(200);
  });

  it('is not impressed by garbage, by headers without end, and by clients that say nothing', async () => {
    const send = (bytes: string | Buffer) =>
      new Promise<string>((resolve) => {
        const socket = connect(path, () => socket.write(bytes));
        let answer = '';
        socket.on('data', (chunk) => {
          answer += String(chunk);
        });
        socket.on('error', () => resolve(answer));
        socket.on('close', () => resolve(answer));
      });
    await send(Buffer.from([0, 1, 2, 255, 10, 13, 10, 13, 10]));
    await send(`GET /state HTTP/1.1\r\nHost: x\r\nX: ${'y'.repeat(50_000)}\r\n\r\n`);
    await send('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}');
    const silent = Array.from({ length: 80 }, () => connect(path).on('error', () => undefined));
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (const socket of silent) socket.destroy();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await askControl(path, 'GET /state')).toEqual({ answer: { is: 'well' } });
  });

  it('stops what a client asked for when the client goes', async () => {
    const stop = new AbortController();
    const waiting = askControl(path, 'POST /wait', {}, { signal: stop.signal });
    await new Promise((resolve) => setTimeout(resolve, 100));
    stop.abort('enough');
    await expect(waiting).rejects.toMatchObject({ kind: 'aborted' });
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(aborted).toEqual(['stopped']);
  });

  it('is told when the other side goes before it has answered', async () => {
    const bad = join(folder, 'bad.sock');
    const listener = createServer((socket) => socket.once('data', () => socket.destroy())).listen(bad);
    await expect(askControl(bad, 'GET /state')).rejects.toMatchObject({ kind: 'io' });
    const half = createServer((socket) =>
      socket.once('data', () =>
        socket.end(
          'HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n{"progress":1}\n',
        ),
      ),
    ).listen(join(folder, 'half.sock'));
    await expect(askControl(join(folder, 'half.sock'), 'GET /state')).rejects.toMatchObject({ kind: 'io' });
    listener.close();
    half.close();
  });

  it('takes the place of a socket that a killed process left, has a path of any length, and leaves nothing', async () => {
    const deep = join(folder, 'x'.repeat(90), 'y'.repeat(90));
    mkdirSync(deep, { recursive: true });
    const at = join(deep, 'control.sock');
    const first = await serveControl(at, { 'GET /state': () => 1 });
    expect(await askControl(at, 'GET /state')).toEqual({ answer: 1 });
    const second = await serveControl(at, { 'GET /state': () => 2 });
    expect(await askControl(at, 'GET /state')).toEqual({ answer: 2 });
    await second.close();
    await first.close();
    expect(statSync(at, { throwIfNoEntry: false })).toBeUndefined();
    writeFileSync(join(folder, 'file.sock'), 'not a socket');
    await expect(serveControl(join(folder, 'file.sock'), {})).rejects.toBeInstanceOf(DriftmapError);
  });

  it('ends what is under way when it closes', async () => {
    const at = join(folder, 'closing.sock');
    const closing = await serveControl(at, {
      'POST /wait': ({ signal }) =>
        new Promise((resolve) => signal.addEventListener('abort', () => resolve('ended in order'))),
    });
    const waiting = askControl(at, 'POST /wait');
    await new Promise((resolve) => setTimeout(resolve, 50));
    await closing.close();
    expect(await waiting).toEqual({ answer: 'ended in order' });
  });
});
