/** Real NBD servers and clients, and a raw client that says what no real one would. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll } from 'vitest';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { ByteStream } from '../../src/lu/nbd/byte-stream.ts';
import { Magic, OPTION_HEADER_BYTES, write64, writeMagic } from '../../src/lu/nbd/protocol.ts';
import type { NbdExport } from '../../src/protect/nbd/nbd-export.ts';
import { type NbdServer, type ServeNbdOptions, serveNbd } from '../../src/protect/nbd/server.ts';
import { unitExport } from '../../src/protect/nbd/unit-export.ts';

/** What ends whatever was started: hooks that are registered while a test runs are not called. */
const endings: (() => Promise<unknown>)[] = [];
afterAll(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

/** Ends a process that a test has started, after the file's tests. */
export function endLater(child: ChildProcess): void {
  endings.push(async () => child.kill('SIGKILL'));
}

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command while this process goes on serving. */
export function run(
  command: string,
  args: readonly string[],
  { env = {} }: { readonly env?: Record<string, string> } = {},
): Promise<Outcome> {
  return new Promise((resolve) => {
    const options = { maxBuffer: 2 ** 26, timeout: 60_000, env: { ...process.env, ...env } };
    const child = execFile(command, args, options, (error, stdout, stderr) => {
      const status = error === null ? 0 : typeof error.code === 'number' ? error.code : null;
      resolve({ status, stdout, stderr });
    });
    // It has nothing to read; it may have ended already.
    child.stdin?.on('error', () => {});
    child.stdin?.end();
  });
}

/** Runs a command that must succeed. @returns what it printed */
export async function must(command: string, args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await run(command, args);
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: status ${status}\n${stdout}${stderr}`);
  return stdout;
}

/**
 * A script of nbdsh: `h` is a handle that is not connected, `nbd` the module. Its module belongs to the system's own
 * Python, which is not always the first on the path.
 */
export function nbdsh(script: string): Promise<Outcome> {
  return run('nbdsh', ['-c', script], { env: { PATH: `/usr/bin:${process.env.PATH}` } });
}

export interface Peer {
  readonly socket: string;
  url(exportName?: string): string;
  readonly process: ChildProcess;
  stop(): Promise<void>;
}

/** Starts a server that listens on `socket`, and ends it after the file's tests. @param isReady else than by listening */
export async function startPeer(
  command: string,
  args: readonly string[],
  socket: string,
  isReady: () => boolean | Promise<boolean> = () => accepts(socket),
): Promise<Peer> {
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  child.stderr.on('data', (text) => {
    words += text;
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const peer: Peer = {
    socket,
    url: (exportName = '') => urlOf(socket, exportName),
    process: child,
    stop: () => {
      child.kill('SIGKILL');
      return ended;
    },
  };
  endings.push(() => peer.stop());
  for (let tries = 0; !(await isReady()); tries++) {
    if (tries > 600 || child.exitCode !== null) throw new Error(`${command} does not listen: ${words}`);
    await pause(25);
  }
  return peer;
}

export function urlOf(socket: string, exportName = ''): string {
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${socket}`;
}

/** Nothing is said: servers take it for a client that changed its mind. */
function accepts(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ path: socket });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}

let sockets = 0;
/** A path in `folder` that is short enough for a socket. */
export function socketIn(folder: string): string {
  return join(folder, `s${sockets++}`);
}

export function nbdkit(folder: string, args: readonly string[]): Promise<Peer> {
  const socket = socketIn(folder);
  return startPeer('nbdkit', ['-f', '-U', socket, ...args], socket);
}

export function qemuNbd(folder: string, args: readonly string[]): Promise<Peer> {
  const socket = socketIn(folder);
  return startPeer('qemu-nbd', ['--persistent', '--shared=16', '-k', socket, ...args], socket);
}

export interface Served {
  readonly server: NbdServer;
  readonly socket: string;
  readonly troubles: string[];
  url(exportName?: string): string;
}

/** Serves in this process, until the file's tests are over. */
export async function serveHere(
  folder: string,
  exports: Readonly<Record<string, NbdExport>>,
  options: Partial<ServeNbdOptions> = {},
): Promise<Served> {
  const socket = socketIn(folder);
  const troubles: string[] = [];
  const onTrouble = (error: Error) => {
    troubles.push(error.message);
  };
  const server = await serveNbd({ exports, listen: { socket }, onTrouble, ...options });
  endings.push(() => server.close());
  return { server, socket, troubles, url: (exportName = '') => urlOf(socket, exportName) };
}

/** Zeros in memory. */
export function memoryExport(size: number): NbdExport {
  return unitExport(createArrayImage({ size }));
}

/** Says what it is told to, byte by byte. */
export class RawClient {
  readonly socket: Socket;
  readonly stream: ByteStream;
  /** Resolves when the server has ended the connection. */
  readonly closed: Promise<void>;

  constructor(socket: string) {
    this.socket = connect({ path: socket, allowHalfOpen: true });
    this.closed = new Promise((resolve) => this.socket.once('close', () => resolve()));
    this.socket.on('error', () => {});
    this.socket.on('end', () => this.socket.end());
    this.stream = new ByteStream(this.socket, 'raw client');
  }

  send(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  /** Reads the greeting, and answers with flags. */
  async greet(flags = 3): Promise<void> {
    await this.stream.take(18);
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags);
    this.send(answer);
  }

  option(option: number, data: Uint8Array = Buffer.alloc(0), claimed = data.length): void {
    const message = Buffer.alloc(OPTION_HEADER_BYTES);
    writeMagic(message, Magic.option, 0);
    message.writeUInt32BE(option, 8);
    message.writeUInt32BE(claimed, 12);
    this.send(Buffer.concat([message, data]));
  }

  async reply(): Promise<{ option: number; type: number; data: Buffer }> {
    const head = await this.stream.take(20);
    const data = await this.stream.take(head.readUInt32BE(16));
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data };
  }

  /** Asks for the default export without structured replies, and enters transmission. */
  async enter(): Promise<void> {
    await this.greet();
    this.option(1);
    await this.stream.take(10);
  }

  request(request: {
    type: number;
    flags?: number;
    offset?: number;
    length?: number;
    cookie?: number;
    magic?: number;
    payload?: Uint8Array;
  }): void {
    this.send(requestBytes(request));
  }

  async simpleReply(): Promise<{ error: number; cookie: number }> {
    const head = await this.stream.take(16);
    return { error: head.readUInt32BE(4), cookie: head.readUInt32BE(12) };
  }
}

export function requestBytes({
  type,
  flags = 0,
  offset = 0,
  length = 0,
  cookie = 1,
  magic = 0x25609513,
  payload = Buffer.alloc(0),
}: Parameters<RawClient['request']>[0]): Buffer {
  const head = Buffer.alloc(28);
  head.writeUInt32BE(magic, 0);
  head.writeUInt16BE(flags, 4);
  head.writeUInt16BE(type, 6);
  head.writeUInt32BE(cookie, 12);
  write64(head, offset, 16);
  head.writeUInt32BE(length, 24);
  return Buffer.concat([head, payload]);
}
