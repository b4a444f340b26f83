/**
 * Reads replies out of the bytes that a server sends (proto.md, "Simple reply message", "Structured reply chunk
 * message", "Structured reply types"). Data goes straight from the socket's memory to where the reader wants it. What
 * breaks the protocol ends the connection: nothing after it can be trusted to be a reply.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NBD_MAX_ANSWER_EXTENTS, NBD_MAX_TEXT_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import type { Inbox } from './inbox.ts';
import {
  CHUNK_DONE,
  Chunk,
  Command,
  isErrorChunk,
  read64,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';

/** A run of a metadata context. */
export interface StatusRun {
  readonly length: ByteCount;
  readonly flags: number;
}

/** A request that waits for its reply. */
export interface Pending {
  readonly type: number;
  readonly offset: ByteOffset;
  readonly length: ByteCount;
  /** Of a read: as long as `length`. */
  readonly target: Uint8Array | null;
  /** Of a read by chunks: start and end of each, within the target. */
  readonly parts: number[];
  /** Of a status: runs by the id of their context. */
  readonly runs: Map<number, StatusRun[]>;
  /** The first error of its reply: a number and the server's words. */
  error: { readonly code: number; readonly text: string } | null;
}

export interface ReplyOptions {
  readonly structured: boolean;
  readonly find: (cookie: number) => Pending | undefined;
  readonly onDone: (cookie: number, pending: Pending) => void;
}

/** What the next bytes are: a header, the rest of one, a body to be taken whole, or data for a target. */
type Expected =
  | { readonly what: 'header' }
  | { readonly what: 'length'; readonly head: Buffer }
  | { readonly what: 'body'; readonly chunk: ChunkHead; readonly pending: Pending }
  | {
      readonly what: 'data';
      readonly chunk: ChunkHead;
      readonly pending: Pending;
      readonly target: Uint8Array;
      done: number;
    };

interface ChunkHead {
  readonly cookie: number;
  readonly type: number;
  readonly isLast: boolean;
  readonly length: ByteCount;
}

const HEADER: Expected = { what: 'header' };

export class ReplyReader {
  private readonly inbox: Inbox;
  private readonly options: ReplyOptions;
  private expected: Expected = HEADER;

  constructor(inbox: Inbox, options: ReplyOptions) {
    this.inbox = inbox;
    this.options = options;
  }

  /** Reads as far as there are bytes. @throws DriftmapError `malformed` for what is no reply, without a path */
  readAll(): void {
    while (this.readOne());
  }

  private readOne(): boolean {
    const { expected } = this;
    if (expected.what === 'header') return this.readHeader();
    if (expected.what === 'length') return this.readLength(expected.head);
    if (expected.what === 'data') return this.readData(expected);
    return this.readBody(expected.chunk, expected.pending);
  }

  private readHeader(): boolean {
    const head = this.inbox.take(SIMPLE_REPLY_BYTES);
    if (head === null) return false;
    const magic = head.readUInt32BE(0);
    if (magic === STRUCTURED_REPLY_MAGIC && this.options.structured) {
      // Its memory may be another's when the rest comes.
      this.expected = { what: 'length', head: Buffer.from(head) };
      return true;
    }
    if (magic !== SIMPLE_REPLY_MAGIC) throw broken('expected a reply');
    const cookie = cookieOf(head);
    const pending = this.find(cookie);
    const code = head.readUInt32BE(4);
    const chunk = { cookie, type: Chunk.none, isLast: true, length: 0 };
    if (code !== 0) pending.error ??= { code, text: '' };
    if (pending.type === Command.read && code === 0) {
      if (this.options.structured) throw broken('a simple reply to a read');
      this.expectData(chunk, pending, 0, pending.length);
    } else {
      this.finish(chunk, pending);
    }
    return true;
  }

  private readLength(head: Buffer): boolean {
    const rest = this.inbox.take(4);
    if (rest === null) return false;
    const chunk: ChunkHead = {
      cookie: cookieOf(head),
      type: head.readUInt16BE(6),
      isLast: (head.readUInt16BE(4) & CHUNK_DONE) !== 0,
      length: rest.readUInt32BE(0),
    };
    const pending = this.find(chunk.cookie);
    checkLength(chunk, pending);
    this.expected = { what: 'body', chunk, pending };
    return true;
  }

  private readBody(chunk: ChunkHead, pending: Pending): boolean {
    const body = this.inbox.take(chunk.type === Chunk.offsetData ? 8 : chunk.length);
    if (body === null) return false;
    if (chunk.type === Chunk.offsetData) {
      const start = this.partOf(pending, read64(body, 0), chunk.length - 8);
      this.expectData(chunk, pending, start, chunk.length - 8);
      return true;
    }
    if (chunk.type === Chunk.offsetHole) {
      const length = body.readUInt32BE(8);
      const start = this.partOf(pending, read64(body, 0), length);
      pending.target!.fill(0, start, start + length);
    } else if (chunk.type === Chunk.blockStatus) {
      addRuns(pending, body);
    } else if (isErrorChunk(chunk.type)) {
      addError(pending, body);
    }
    this.finish(chunk, pending);
    return true;
  }

  private readData(expected: Expected & { readonly what: 'data' }): boolean {
    const { target } = expected;
    expected.done += this.inbox.copyInto(expected.done === 0 ? target : target.subarray(expected.done));
    if (expected.done < target.length) return false;
    this.finish(expected.chunk, expected.pending);
    return true;
  }

  private expectData(chunk: ChunkHead, pending: Pending, start: number, length: number): void {
    const target = pending.target!.subarray(start, start + length);
    this.expected = { what: 'data', chunk, pending, target, done: 0 };
  }

  /** Where in the target a part of a read lies. */
  private partOf(pending: Pending, offset: ByteOffset, length: ByteCount): number {
    const start = offset - pending.offset;
    if (!Number.isSafeInteger(offset) || start < 0 || length === 0 || start + length > pending.length) {
      throw broken('data outside of what was asked for');
    }
    pending.parts.push(start, start + length);
    return start;
  }

  private finish(chunk: ChunkHead, pending: Pending): void {
    this.expected = HEADER;
    if (!chunk.isLast) return;
    if (this.options.structured && pending.type === Command.read && pending.error === null)
      checkWhole(pending);
    this.options.onDone(chunk.cookie, pending);
  }

  private find(cookie: number): Pending {
    const pending = this.options.find(cookie);
    if (pending === undefined) throw broken('a reply to a request that was not made');
    return pending;
  }
}

/** Ours are small numbers: another's is none of them. */
function cookieOf(head: Buffer): number {
  return head.readUInt32BE(8) === 0 ? head.readUInt32BE(12) : -1;
}

function checkLength({ type, length, isLast }: ChunkHead, pending: Pending): void {
  const isRead = pending.type === Command.read;
  const fits =
    (type === Chunk.none && length === 0 && isLast) ||
    (type === Chunk.offsetData && isRead && length > 8 && length - 8 <= pending.length) ||
    (type === Chunk.offsetHole && isRead && length === 12) ||
    (type === Chunk.blockStatus && pending.type === Command.blockStatus && isStatusLength(length)) ||
    (isErrorChunk(type) && length >= 6 && length <= 6 + NBD_MAX_TEXT_BYTES + 8);
  if (!fits) throw broken(`a chunk of type ${type} and ${length} bytes`);
}

function isStatusLength(length: number): boolean {
  return length >= 12 && length % 8 === 4 && length <= 4 + 8 * NBD_MAX_ANSWER_EXTENTS;
}

function addRuns(pending: Pending, body: Buffer): void {
  const runs: StatusRun[] = [];
  for (let at = 4; at < body.length; at += 8) {
    const run = { length: body.readUInt32BE(at), flags: body.readUInt32BE(at + 4) };
    if (run.length === 0) throw broken('an extent of no length');
    runs.push(run);
  }
  pending.runs.set(body.readUInt32BE(0), runs);
}

function addError(pending: Pending, body: Buffer): void {
  const code = body.readUInt32BE(0);
  const length = body.readUInt16BE(4);
  if (code === 0 || 6 + length > body.length) throw broken('an error without a number, or cut short');
  pending.error ??= { code, text: body.toString('utf8', 6, 6 + length) };
}

/** Its parts must cover a read without a gap; they came in any order. */
function checkWhole({ parts, length }: Pending): void {
  if (parts.length === 2 && parts[1]! - parts[0]! === length) return;
  const sorted = Array.from(
    { length: parts.length / 2 },
    (_, i) => [parts[2 * i]!, parts[2 * i + 1]!] as const,
  );
  sorted.sort((a, b) => a[0] - b[0]);
  let end = 0;
  for (const [from, to] of sorted) {
    if (from !== end) throw broken('a read was answered with gaps, or twice');
    end = to;
  }
  if (end !== length) throw broken('a read was answered in part');
}

function broken(reason: string): DriftmapError {
  return new DriftmapError('malformed', `the server breaks the protocol: ${reason}`);
}
