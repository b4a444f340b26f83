/**
 * A socket as a stream of bytes, for both sides of the protocol: during the handshake bytes are waited for, one
 * message at a time; afterwards whoever took the stream over is told when bytes have come.
 */

import { readSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { NBD_MAX_OPTION_BYTES } from '../../base/limits.ts';
import { KiB } from '../../base/units.ts';
import { Inbox } from './inbox.ts';

// biome-ignore lint/suspicious/noExplicitAny: what an event brings is the event's own
type Listener = (value: any) => void;

/** A call that finds nothing costs an exception: less than this is waited for. */
const WORTH_A_CALL = 64 * KiB;

interface Waiter {
  readonly count: number;
  readonly resolve: (bytes: Buffer) => void;
  readonly reject: (error: DriftmapError) => void;
}

export class ByteStream {
  readonly inbox = new Inbox();
  readonly socket: Duplex;
  /** For messages. */
  readonly name: string;
  /** Of a plain socket; negative where bytes come from elsewhere. */
  private readonly fd: number;
  /** Nothing more will come; `failure` says why where it was no plain end. */
  ended = false;
  failure: DriftmapError | null = null;
  private waiter: Waiter | null = null;
  private sink: (() => void) | null = null;
  private readonly listeners: readonly (readonly [string, Listener])[];

  constructor(socket: Duplex, name: string) {
    this.socket = socket;
    this.name = name;
    this.fd = descriptorOf(socket);
    this.listeners = [
      ['data', (piece: Buffer) => this.push(piece)],
      ['end', () => this.end(null)],
      ['error', (cause: Error) => this.end(systemError(cause, { path: name, operation: 'connection' }))],
      ['close', () => this.end(null)],
    ];
    for (const [event, listener] of this.listeners) socket.on(event, listener);
  }

  /**
   * Moves bytes that are here to the start of `target`, and then, where it is still worth it, what the system holds for
   * the socket already: a large write comes in a tenth of the calls, and is copied once. @returns how many
   */
  fill(target: Uint8Array): number {
    let done = this.inbox.copyInto(target);
    // What waits in the stream comes before what waits in the system.
    while (target.length - done >= WORTH_A_CALL && this.socket.readableLength === 0) {
      const count = this.readAhead(target.subarray(done));
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  /** 0 where nothing is there, and where the stream has ended or failed: its events will tell. */
  private readAhead(target: Uint8Array): number {
    if (this.fd < 0 || this.ended || this.socket.destroyed) return 0;
    try {
      return readSync(this.fd, target);
    } catch {
      return 0;
    }
  }

  /** Gives the socket away, to TLS. What was taken from it already is not given back. */
  detach(): Duplex {
    for (const [event, listener] of this.listeners) this.socket.off(event, listener);
    this.socket.pause();
    // Whoever has it now tells of its errors; an error that nobody listens to would end the process.
    this.socket.on('error', () => {});
    return this.socket;
  }

  /** From now on `sink` is called whenever bytes have come, and once when the stream has ended. */
  pourInto(sink: () => void): void {
    this.sink = sink;
    this.socket.resume();
    sink();
  }

  /** Bytes from elsewhere than the socket's events. `borrowed`: their memory is used again once this returns. */
  push(piece: Buffer, borrowed = false): void {
    this.inbox.push(piece);
    if (this.sink !== null) this.sink();
    else this.serveWaiter();
    if (borrowed) this.inbox.own();
    // Who is still shaking hands takes one message at a time: the rest waits where it came from.
    if (this.sink === null && this.waiter === null && this.inbox.length > NBD_MAX_OPTION_BYTES) {
      this.socket.pause();
    }
  }

  /**
   * Waits for `count` bytes; one call at a time.
   * @throws DriftmapError `io` when the stream ends before
   */
  take(count: number): Promise<Buffer> {
    const here = this.inbox.take(count);
    if (here !== null) return Promise.resolve(here);
    if (this.ended) return Promise.reject(this.cutShort());
    return new Promise((resolve, reject) => {
      this.waiter = { count, resolve, reject };
      this.socket.resume();
    });
  }

  /** Waits for `count` bytes and throws them away as they come. */
  async skip(count: number): Promise<void> {
    for (let left = count - this.inbox.skip(count); left > 0; ) {
      const piece = Math.min(left, NBD_MAX_OPTION_BYTES);
      await this.take(piece);
      left -= piece;
    }
  }

  /** Sends, and waits while the peer does not take what was sent before. */
  async send(bytes: Buffer): Promise<void> {
    if (this.socket.writable && this.socket.write(bytes)) return;
    await new Promise<void>((resolve) => {
      const done = () => {
        this.socket.off('drain', done);
        this.socket.off('close', done);
        resolve();
      };
      this.socket.on('drain', done);
      this.socket.on('close', done);
      if (this.socket.destroyed) done();
    });
  }

  /** The socket ends, or is ended: whoever waits is told. The first reason counts. */
  end(failure: DriftmapError | null): void {
    if (this.ended) return;
    this.ended = true;
    this.failure = failure;
    const { waiter } = this;
    this.waiter = null;
    waiter?.reject(this.cutShort());
    this.sink?.();
  }

  private serveWaiter(): void {
    const { waiter } = this;
    if (waiter === null) return;
    const bytes = this.inbox.take(waiter.count);
    if (bytes === null) return;
    this.waiter = null;
    // Its memory may be used again before whoever waits has run.
    waiter.resolve(Buffer.from(bytes));
  }

  private cutShort(): DriftmapError {
    return this.failure ?? new DriftmapError('io', 'the peer closed the connection', { path: this.name });
  }
}

/** Node keeps it in the handle, and tells no other way (nodejs/node#19761); without it bytes come by events alone. */
function descriptorOf(socket: Duplex): number {
  if (!(socket instanceof Socket) || socket instanceof TLSSocket) return -1;
  const { fd } = (socket as unknown as { _handle?: { fd?: unknown } })._handle ?? {};
  return typeof fd === 'number' ? fd : -1;
}
