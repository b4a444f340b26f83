import { spawn } from 'node:child_process';
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import { temporary } from '../../tools.ts';
import { run } from '../nbd-peers.ts';
import { command, differing, gone, Protected } from './processes.ts';

const folder = temporary();
const shapes = [
  { name: 'system', size: 16 * MiB },
  { name: 'data', size: 8 * MiB },
];
const driftmap = (...args: string[]) => run(process.execPath, [command, ...args]);

/** As `curl --unix-socket`. */
function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: string,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method, path }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece) => {
        text += piece;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

describe('driftmap protect', () => {
  it('tells its addresses and its states, answers its control socket, and ends in peace', async () => {
    const group = new Protected(join(folder, 'a'), shapes);
    const status = () => driftmap('protect', group.file, '--status');
    expect((await status()).stderr).toMatch(/not being protected/);
    await group.start();
    await group.streaming();
    expect(group.out).toMatch(/^system: nbd\+unix:\/\/\/system\?socket=\S+\ndata: nbd\+unix:/);
    expect(group.out).toMatch(/Z marking \(.*\), 24\.0 MiB marked\n(?:.*\n)*.*Z streaming\n/);
    expect(await status()).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/^test: streaming, since/),
    });
    const socket = join(group.folder, 'state', 'control.sock');
    expect(statSync(socket).mode % 0o1000).toBe(0o600);
    const unit = await group.client('system');
    await unit.write(0, Buffer.alloc(8 * KiB, 1));
    const named = await ask(socket, 'POST', '/bookmark', '{"name":"first","consistency":"application"}');
    expect(JSON.parse(named.text)).toMatchObject({ name: 'first', consistency: 'application' });
    const twice = await ask(socket, 'POST', '/bookmark', '{"name":"first"}');
    expect(twice).toMatchObject({ status: 400, text: expect.stringContaining("called 'first' already") });
    expect((await ask(socket, 'POST', '/bookmark', '{"name":7}')).status).toBe(400);
    const points = JSON.parse((await ask(socket, 'GET', '/points')).text) as {
      bookmarks: { name: string }[];
    };
    expect(points.bookmarks.map(({ name }) => name)).toEqual(['first']);
    expect((await ask(socket, 'POST', '/pause')).status).toBe(200);
    await unit.write(64 * KiB, Buffer.alloc(4 * KiB, 2));
    expect(await group.state()).toMatchObject({
      state: 'paused',
      why: 'somebody asked for it',
      markedBytes: 4 * KiB,
    });
    expect(await status()).toMatchObject({
      status: 1,
      stdout: expect.stringMatching(/paused.*4\.00 KiB marked/),
    });
    expect((await ask(socket, 'POST', '/bookmark', '{"name":"second"}')).status).toBe(409);
    const metrics = (await ask(socket, 'GET', '/metrics')).text;
    expect(metrics).toContain('driftmap_splitter_state{group="test",state="paused"} 1\n');
    expect(metrics).toContain('driftmap_splitter_marked_bytes{group="test",disk="system"} 4096\n');
    await ask(socket, 'POST', '/resume');
    await group.streaming();
    const json = JSON.parse((await driftmap('protect', group.file, '--status', '--json')).stdout) as object;
    expect(json).toMatchObject({ group: 'test', state: 'streaming', markedBytes: 0 });
    await unit.close();
    expect(await group.end('SIGTERM')).toBe(0);
    expect(group.err).toBe('');
    expect(await differing(group)).toEqual([]);
  });

  it('starts the replica anew when its process has died', async () => {
    const group = new Protected(join(folder, 'b'), shapes);
    await group.start('--json');
    await group.streaming();
    const first = group.replicaPid()!;
    process.kill(first, 'SIGKILL');
    await gone(first);
    const unit = await group.client('data');
    await unit.write(0, Buffer.alloc(100 * KiB, 3));
    await group.streaming();
    expect(group.replicaPid()).not.toBe(first);
    const lines = group.out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { exports?: object[]; state?: string; why?: string });
    expect(lines[0]!.exports).toHaveLength(2);
    expect(lines.some(({ state, why }) => state === 'marking' && /ended by SIGKILL/.test(why ?? ''))).toBe(
      true,
    );
    await unit.close();
    expect(await group.end('SIGINT')).toBe(0);
    expect(await differing(group)).toEqual([]);
  });

  it('says what is wrong with a group before it serves', async () => {
    const group = new Protected(join(folder, 'c'), shapes);
    await group.start();
    const again = await driftmap('protect', group.file);
    expect(again).toMatchObject({
      status: 2,
      stdout: '',
      stderr: expect.stringContaining('another splitter'),
    });
    const missing = join(folder, 'missing.json');
    writeFileSync(
      missing,
      readFileSync(group.file, 'utf8')
        .replace('system.raw', 'nowhere.raw')
        .replace('"state"', '"state":"x","stat"'),
    );
    expect((await driftmap('protect', missing)).status).toBe(2);
    expect(await group.end('SIGTERM')).toBe(0);
  });
});

describe('a replica at another site', () => {
  const children: number[] = [];
  afterAll(() => {
    for (const pid of children) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended.
      }
    }
  });

  function split(group: Protected, address: object): string {
    const both = JSON.parse(readFileSync(group.file, 'utf8')) as { production: object; replica: object };
    const far = join(group.folder, 'replica.json');
    writeFileSync(far, JSON.stringify({ group: 'test', replica: both.replica }));
    writeFileSync(
      group.file,
      JSON.stringify({ group: 'test', production: { ...both.production, ...address } }),
    );
    return far;
  }

  async function equalAtLast(group: Protected, far: string): Promise<void> {
    const unit = await group.client('data');
    await unit.write(1 * MiB, Buffer.alloc(300 * KiB, 9));
    await group.streaming();
    await unit.close();
    expect(await group.end('SIGTERM')).toBe(0);
    writeFileSync(group.file, readFileSync(far));
  }

  it('is reached by ssh', async () => {
    const group = new Protected(join(folder, 'd'), shapes);
    const far = split(group, { replica: `ssh://replica.example${join(group.folder, 'replica.json')}` });
    const ssh = join(folder, 'ssh');
    // The last word is what is run there, by its shell.
    writeFileSync(ssh, '#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\nexec sh -c "$1"\n');
    chmodSync(ssh, 0o755);
    const there = `${process.execPath} ${command} replica ${far} --stdio`;
    await group.start('--ssh', ssh, '--remote-command', there);
    await group.streaming();
    await equalAtLast(group, far);
    expect(await differing(group)).toEqual([]);
  });

  it('is reached by TCP with a token, and not without it', async () => {
    const group = new Protected(join(folder, 'e'), shapes);
    const token = join(group.folder, 'token');
    writeFileSync(token, 'a secret of two sites that nobody guesses', { mode: 0o600 });
    const port = 20_000 + (process.pid % 20_000);
    const far = split(group, { replica: `driftmap://localhost:${port}/test`, token: 'token' });
    const args = [command, 'replica', far, '--listen', `localhost:${port}`];
    expect((await run(process.execPath, args)).stderr).toMatch(/nobody would have to prove who he is/);
    const replica = spawn(process.execPath, [...args, '--token-file', token], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    children.push(replica.pid!);
    let words = '';
    replica.stderr.on('data', (text) => {
      words += text;
    });
    writeFileSync(join(group.folder, 'wrong'), 'a secret of two sites that somebody guesses', {
      mode: 0o600,
    });
    const right = readFileSync(group.file, 'utf8');
    writeFileSync(group.file, right.replace('"token":"token"', '"token":"wrong"'));
    await group.start();
    await group.until(({ why }) => /token is not the right one/.test(why ?? ''), 'refused');
    expect(await group.end('SIGTERM')).toBe(0);
    writeFileSync(group.file, right);
    await group.start();
    await group.streaming();
    await equalAtLast(group, far);
    const ended = new Promise((resolve) => replica.once('exit', resolve));
    replica.kill('SIGTERM');
    expect(await ended).toBe(0);
    expect(words).toMatch(/left in peace/);
    expect(await differing(group)).toEqual([]);
  });
});
