/**
 * Replies of one connection on their way out. Small ones that are ready together leave in one piece, and what a reply
 * holds (a request in flight, its bytes) is given back when the socket has taken it.
 */

import type { Duplex } from 'node:stream';
import {
  CHUNK_DONE,
  CHUNK_HEADER_BYTES,
  Chunk,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../../lu/nbd/protocol.ts';

import type { Slabs } from './slabs.ts';

/** As the client sent it: 64 opaque bits. */
export interface Cookie {
  readonly high: number;
  readonly low: number;
}

/** Up to so many bytes are copied together rather than sent in pieces. */
const COPY_LIMIT = 32 * 1024;

export class Outbox {
  private readonly socket: Duplex;
  private readonly slabs: Slabs;
  /** Told of requests that are answered, and of the bytes they held. */
  private readonly onSent: (requests: number, bytes: number) => void;
  private waiting: Buffer[] = [];
  private waitingBytes = 0;
  private requests = 0;
  private held = 0;

  constructor(socket: Duplex, slabs: Slabs, onSent: (requests: number, bytes: number) => void) {
    this.socket = socket;
    this.slabs = slabs;
    this.onSent = onSent;
  }

  /** Adds a message; `isLast` of a request that held `held` bytes. */
  add(message: Buffer, isLast: boolean, held: number): void {
    this.waiting.push(message);
    this.waitingBytes += message.length;
    if (!isLast) return;
    this.requests++;
    this.held += held;
  }

  flush(): void {
    if (this.waiting.length === 0) return;
    const { socket, waiting, waitingBytes, requests, held } = this;
    this.waiting = [];
    this.waitingBytes = 0;
    this.requests = 0;
    this.held = 0;
    const sent = () => {
      for (const message of waiting) this.slabs.give(message);
      this.onSent(requests, held);
    };
    if (!socket.writable) {
      sent();
    } else if (waiting.length === 1 || waitingBytes <= COPY_LIMIT) {
      socket.write(waiting.length === 1 ? waiting[0]! : Buffer.concat(waiting, waitingBytes), sent);
    } else {
      socket.cork();
      for (const message of waiting.slice(0, -1)) socket.write(message);
      socket.write(waiting.at(-1)!, sent);
      socket.uncork();
    }
  }
}

export function simpleReply({ high, low }: Cookie, error: number): Buffer {
  const reply = Buffer.allocUnsafe(SIMPLE_REPLY_BYTES);
  writeSimpleHeader(reply, { high, low }, error);
  return reply;
}

export function writeSimpleHeader(reply: Buffer, { high, low }: Cookie, error: number): void {
  reply.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  reply.writeUInt32BE(error, 4);
  reply.writeUInt32BE(high, 8);
  reply.writeUInt32BE(low, 12);
}

/** The header of a chunk, at the start of `reply`. */
export function writeChunkHeader(
  reply: Buffer,
  { high, low }: Cookie,
  { type, isLast, length }: { readonly type: number; readonly isLast: boolean; readonly length: number },
): void {
  reply.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  reply.writeUInt16BE(isLast ? CHUNK_DONE : 0, 4);
  reply.writeUInt16BE(type, 6);
  reply.writeUInt32BE(high, 8);
  reply.writeUInt32BE(low, 12);
  reply.writeUInt32BE(length, 16);
}

/** The last chunk of a reply without contents. */
export function emptyChunk(cookie: Cookie): Buffer {
  const reply = Buffer.allocUnsafe(CHUNK_HEADER_BYTES);
  writeChunkHeader(reply, cookie, { type: Chunk.none, isLast: true, length: 0 });
  return reply;
}

export function errorChunk(cookie: Cookie, error: number, text: string): Buffer {
  const message = Buffer.from(text, 'utf8');
  const reply = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + 6 + message.length);
  writeChunkHeader(reply, cookie, { type: Chunk.error, isLast: true, length: 6 + message.length });
  reply.writeUInt32BE(error, CHUNK_HEADER_BYTES);
  reply.writeUInt16BE(message.length, CHUNK_HEADER_BYTES + 4);
  message.copy(reply, CHUNK_HEADER_BYTES + 6);
  return reply;
}
