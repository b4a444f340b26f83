import { spawnSync } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { encodeControl } from '../../src/codec/control.ts';
import { sync } from '../../src/sync/sync.ts';
import { Connection } from '../../src/wire/connection.ts';
import { encodeFrameHead } from '../../src/wire/frame.ts';
import { MessageType } from '../../src/wire/message-types.ts';
import { describeWith, root, temporary } from '../tools.ts';
import { fileOf, MiB, noise } from './disks.ts';
import { sshdNeeds, withSshd } from './sshd.ts';

const folder = temporary();
const command = join(root, 'dist', 'cli', 'main.js');
const full =
  'strace -f -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:error=ENOSPC:when=6+ ' +
  `${process.execPath} ${command} serve --stdio`;
const pair = () => ({
  production: fileOf(folder, noise(48 * MiB, 1)),
  replica: fileOf(folder, noise(48 * MiB, 2)),
});
const options = { remoteCommand: full, bySignature: false, compression: 'never', workers: 1 } as const;
const words = /the other site says: .*no space left on device/;

describeWith(['strace'], 'over ssh, a replica whose disk is full', () => {
  it('says so, while data is on its way', async () => {
    const ssh = join(folder, 'ssh');
    // As the real one: it ends with the command's status, and with it the pipe that data is written to.
    writeFileSync(ssh, '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n');
    chmodSync(ssh, 0o755);
    const { production, replica } = pair();
    await expect(sync({ ...options, production, replica: `ssh://host${replica}`, ssh })).rejects.toThrow(
      words,
    );
  });

  describeWith(sshdNeeds, 'through a real sshd', () => {
    it('says so too', async () => {
      await withSshd(folder, async ({ ssh, address }) => {
        const { production, replica } = pair();
        await expect(sync({ ...options, production, replica: `${address}${replica}`, ssh })).rejects.toThrow(
          words,
        );
      });
    });
  });
});

describe('a connection over two pipes', () => {
  const pipes = () => {
    const readable = new PassThrough();
    const writable = new Writable({ write: (_chunk, _encoding, done) => done(new Error('EPIPE')) });
    const destroy = () => {
      readable.destroy();
      writable.destroy();
    };
    const transport = { name: '<pipes>', readable, writable, secure: true, binding: null, destroy };
    return { readable, connection: new Connection(transport) };
  };
  const said = () => {
    const parts = [encodeControl({ kind: 'io', message: 'vm: no space' })];
    return Buffer.concat([encodeFrameHead(MessageType.error, 0, parts), ...parts]);
  };

  it('whose way out is broken reads what came before, and says that', async () => {
    const { readable, connection } = pipes();
    void connection.sendControl(MessageType.hello, {}).catch(() => undefined);
    setTimeout(() => readable.end(said()), 50);
    await expect(connection.receive()).rejects.toThrow('the other site says: vm: no space');
    expect(connection.endedByPeer).toBe(true);
  });

  it('waits for such words in bounds of time and of bytes', async () => {
    const silent = pipes();
    void silent.connection.sendControl(MessageType.hello, {}).catch(() => undefined);
    await expect(silent.connection.receive()).rejects.toThrow('EPIPE');
    const loud = pipes();
    void loud.connection.sendControl(MessageType.hello, {}).catch(() => undefined);
    const ping = Buffer.from(encodeFrameHead(MessageType.ping, 0, []));
    expect(ping.length).toBe(16);
    let pings = 0;
    const pushing = setInterval(() => {
      if (loud.readable.destroyed) return;
      const many = Buffer.concat(
        Array.from({ length: 20_000 }, () => Buffer.from(encodeFrameHead(MessageType.ping, pings++, []))),
      );
      loud.readable.write(many);
    }, 1);
    await expect(loud.connection.receive()).rejects.toThrow('EPIPE');
    clearInterval(pushing);
    expect(loud.connection.bytesReceived).toBeLessThan(18 * MiB);
  });

  it('that has said why it ends hears its peer out, who would lose these words', async () => {
    const { connect, createServer } = await import('node:net');
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const accepted = new Promise<Connection>((resolve) =>
      server.once('connection', (socket) => {
        const destroy = () => socket.destroy();
        const ways = { readable: socket, writable: socket, destroy };
        resolve(new Connection({ name: 'a', ...ways, secure: true, binding: null, copies: true }));
      }),
    );
    const socket = connect(port, '127.0.0.1');
    const ours = await accepted;
    ours.trust();
    // Unread bytes at our end: closing now would reset the connection.
    const head = encodeFrameHead(MessageType.ping, 0, []);
    for (let i = 0; i < 100; i++) socket.write(head);
    socket.pause();
    const abandoned = ours.abandon(new DriftmapError('io', 'no space'));
    const noise = setInterval(() => socket.write(head), 1);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const heard: Buffer[] = [];
    const ended = new Promise<unknown>((resolve) => {
      socket.once('error', resolve);
      socket.once('end', () => resolve(null));
    });
    socket.on('data', (chunk) => heard.push(chunk)).resume();
    expect(await ended).toBeNull();
    clearInterval(noise);
    socket.destroy();
    await abandoned;
    server.close();
    expect(Buffer.concat(heard).includes('no space')).toBe(true);
    expect(ours.toldPeer).toBe(true);
  });
});

describe('serve --stdio', () => {
  it('whose client is gone says on standard error what ended it', () => {
    const run = (input: string) =>
      spawnSync(process.execPath, [command, 'serve', '--stdio'], { input, encoding: 'utf8' });
    const gone = run('');
    expect(gone.status).toBe(2);
    expect(gone.stderr).toMatch(/^driftmap serve: .*the connection was lost\n$/);
  });
});
