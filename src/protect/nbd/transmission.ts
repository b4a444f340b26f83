/**
 * The server's side of the transmission phase: one connection, one export (proto.md, "Transmission").
 *
 * Requests are begun in the order in which they came and answered as they complete. An export that completes at once
 * is answered in the same turn, and all answers of a turn leave together: at small requests that is most of the speed.
 * Data is read into the reply that carries it, and written from the memory into which the socket put it.
 *
 * Bounds: requests in flight and the bytes they hold are counted until the socket has taken their replies. Past
 * either bound nothing more is read from the client, so a client that asks and does not listen waits, and costs no
 * more. A client that stops halfway through a request is left alone: it may be a virtual machine that is paused, and
 * what it holds is bounded. (What has died is found by TCP's keepalive.)
 */

import type { DriftmapError } from '../../base/errors.ts';
import { NBD_BYTES_IN_FLIGHT, NBD_EXTENTS_PER_ANSWER, NBD_REQUESTS_IN_FLIGHT } from '../../base/limits.ts';
import type { Completion } from '../../lu/logical-unit.ts';
import type { ByteStream } from '../../lu/nbd/byte-stream.ts';
import {
  CHUNK_HEADER_BYTES,
  Chunk,
  Command,
  CommandFlag,
  Errno,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
  write64,
} from '../../lu/nbd/protocol.ts';
import { describe, type FlaggedRun, type MetaContext } from './contexts.ts';
import type { Agreement } from './handshake.ts';
import {
  emptyChunk,
  errorChunk,
  Outbox,
  simpleReply,
  writeChunkHeader,
  writeSimpleHeader,
} from './outbox.ts';
import { parseRequest, type Refusal, type Request, refusalFor, refusalOf } from './requests.ts';
import { Slabs } from './slabs.ts';
import { bringIntoCache } from './turns.ts';

/** Data of a write on its way in: into memory of its own, or nowhere where the request is refused. */
interface Incoming {
  readonly request: Request;
  readonly payload: Buffer | null;
  filled: number;
  readonly refusal: Refusal | null;
}

export interface TransmissionOptions {
  /** Told what the client learned only the kind of. */
  readonly onTrouble: (error: unknown, request: Request) => void;
}

export class Transmission {
  /** Resolves when the connection is over and nothing of it is in flight; with what ended it, if that was an error. */
  readonly done: Promise<DriftmapError | null>;
  private readonly agreement: Agreement;
  private readonly stream: ByteStream;
  private readonly slabs = new Slabs();
  private readonly outbox: Outbox;
  private readonly onTrouble: TransmissionOptions['onTrouble'];
  private incoming: Incoming | null = null;
  private requestsInFlight = 0;
  private bytesInFlight = 0;
  private isPumping = false;
  /** Nothing more is taken from the client. */
  private isStopped = false;
  private isClosing = false;
  private isOver = false;
  private isFlushDue = false;
  private finish: (reason: DriftmapError | null) => void = () => {};

  constructor(agreement: Agreement, { onTrouble }: TransmissionOptions) {
    this.agreement = agreement;
    this.stream = agreement.stream;
    this.onTrouble = onTrouble;
    this.outbox = new Outbox(this.stream.socket, this.slabs, (requests, bytes) =>
      this.release(requests, bytes),
    );
    this.done = new Promise((resolve) => {
      this.finish = resolve;
    });
  }

  start(): void {
    this.stream.pourInto(() => this.pump());
  }

  /** Answers what is in flight, refuses what still comes, and ends the connection. */
  close(): void {
    this.isClosing = true;
    this.pump();
  }

  /** Takes requests while there are any and there is room for them. */
  private pump(): void {
    if (this.isPumping) return;
    this.isPumping = true;
    // Nobody is left to be answered: what was asked, and not begun, is forgotten.
    if (!this.stream.socket.writable) this.isStopped = true;
    while (
      !this.isStopped &&
      this.hasRoom() &&
      (this.incoming !== null ? this.takePayload() : this.takeRequest())
    );
    this.isPumping = false;
    if (this.isStopped || (this.stream.ended && this.hasRoom())) this.abandon();
    this.outbox.flush();
    this.steer();
  }

  /** The client left in the middle of a write: nothing of it is written. */
  private abandon(): void {
    if (this.incoming === null) return;
    const { request, payload } = this.incoming;
    this.incoming = null;
    this.requestsInFlight--;
    if (payload !== null) this.bytesInFlight -= request.length;
  }

  private hasRoom(): boolean {
    return this.requestsInFlight < NBD_REQUESTS_IN_FLIGHT && this.bytesInFlight < NBD_BYTES_IN_FLIGHT;
  }

  /** Lets more come, or not; ends what is over. */
  private steer(): void {
    const { socket, ended } = this.stream;
    const hasAll = this.isStopped || (ended && this.hasRoom()) || (this.isClosing && this.incoming === null);
    if (hasAll && this.requestsInFlight === 0) {
      this.end();
    } else if (this.isStopped || !this.hasRoom()) {
      socket.pause();
    } else if (socket.isPaused()) {
      socket.resume();
    }
  }

  private end(): void {
    if (this.isOver) return;
    this.isOver = true;
    this.isStopped = true;
    const { socket, failure } = this.stream;
    if (failure === null) endGently(this.stream);
    else socket.destroy();
    this.finish(failure);
  }

  private takeRequest(): boolean {
    const header = this.stream.inbox.take(REQUEST_BYTES);
    if (header === null) return false;
    const request = parseRequest(header);
    if (request === null || request.type === Command.disconnect) {
      // A stranger, or one who says goodbye: either way nothing after this is a request.
      this.isStopped = true;
      return false;
    }
    const refusal = this.isClosing
      ? { error: Errno.ESHUTDOWN, text: 'the server is being shut down' }
      : refusalOf(request, this.agreement);
    const payload = request.type === Command.write ? request.length : 0;
    const held = request.type === Command.read || payload > 0 ? request.length : 0;
    this.requestsInFlight++;
    if (refusal === null) this.bytesInFlight += held;
    if (payload === 0) {
      if (refusal !== null) this.refuse(request, refusal, 0);
      else this.begin(request, null);
      return true;
    }
    const whole = refusal === null ? this.stream.inbox.take(payload) : null;
    if (whole !== null) {
      this.begin(request, whole);
    } else {
      const memory = refusal === null ? this.slabs.take(payload) : null;
      this.incoming = { request, payload: memory, filled: 0, refusal };
    }
    return true;
  }

  private takePayload(): boolean {
    const incoming = this.incoming!;
    const { request, payload, refusal } = incoming;
    const { inbox } = this.stream;
    incoming.filled +=
      payload === null
        ? inbox.skip(request.length - incoming.filled)
        : this.stream.fill(payload.subarray(incoming.filled));
    if (incoming.filled < request.length) return false;
    this.incoming = null;
    if (refusal !== null) this.refuse(request, refusal, 0);
    else this.begin(request, payload);
    return true;
  }

  /** Serves a request that may be served. */
  private begin(request: Request, payload: Buffer | null): void {
    if (request.type === Command.read) {
      this.beginRead(request);
      return;
    }
    if (request.type === Command.blockStatus) {
      this.tellStatus(request).catch((cause) => this.fail(request, cause, 0));
      return;
    }
    const held = payload === null ? 0 : payload.length;
    const settle = (cause: unknown) => {
      if (payload !== null) this.slabs.give(payload);
      if (cause === null) this.answer(simpleReply(request.cookie, 0), held);
      else this.fail(request, cause, held);
    };
    try {
      const pending = this.act(request, payload);
      if (pending) pending.then(() => settle(null), settle);
      else settle(null);
    } catch (cause) {
      settle(cause);
    }
  }

  private act({ type, flags, offset, length }: Request, payload: Buffer | null): Completion {
    const { exported } = this.agreement;
    if (type === Command.flush) return exported.flush();
    if (length === 0) return undefined;
    const range = { offset, length };
    if (type === Command.cache)
      return exported.cache ? exported.cache(range) : bringIntoCache(exported, range);
    let pending: Completion;
    if (type === Command.write) {
      pending = exported.write(offset, payload!);
    } else if (type === Command.trim) {
      pending = exported.trim(range);
    } else {
      const mayPunch = (flags & CommandFlag.noHole) === 0;
      pending = exported.zero(range, { mayPunch, fast: (flags & CommandFlag.fastZero) !== 0 });
    }
    if ((flags & CommandFlag.fua) === 0) return pending;
    return pending ? pending.then(() => exported.flush()) : exported.flush();
  }

  private beginRead(request: Request): void {
    const { structured, exported } = this.agreement;
    const { offset, length } = request;
    if (length === 0) {
      this.answer(structured ? emptyChunk(request.cookie) : simpleReply(request.cookie, 0), 0);
      return;
    }
    const before = structured ? CHUNK_HEADER_BYTES + 8 : SIMPLE_REPLY_BYTES;
    const reply = this.slabs.take(before + length);
    const send = () => {
      if (structured) {
        const chunk = { type: Chunk.offsetData, isLast: true, length: 8 + length };
        writeChunkHeader(reply, request.cookie, chunk);
        write64(reply, offset, CHUNK_HEADER_BYTES);
      } else {
        writeSimpleHeader(reply, request.cookie, 0);
      }
      this.answer(reply, length);
    };
    try {
      const pending = exported.read(offset, reply.subarray(before));
      if (pending) pending.then(send, (cause) => this.fail(request, cause, length));
      else send();
    } catch (cause) {
      this.fail(request, cause, length);
    }
  }

  /** One chunk for each context that was agreed on; none is sent before all are known. */
  private async tellStatus(request: Request): Promise<void> {
    const { exported, contexts } = this.agreement;
    const { offset, length } = request;
    const limit = (request.flags & CommandFlag.reqOne) !== 0 ? 1 : NBD_EXTENTS_PER_ANSWER;
    const told: (readonly [MetaContext, readonly FlaggedRun[]])[] = [];
    for (const context of contexts) {
      told.push([context, await describe(exported, context, { offset, length }, limit)]);
    }
    for (const [index, [{ id }, runs]] of told.entries()) {
      const isLast = index === told.length - 1;
      const reply = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + 4 + 8 * runs.length);
      const chunk = { type: Chunk.blockStatus, isLast, length: 4 + 8 * runs.length };
      writeChunkHeader(reply, request.cookie, chunk);
      reply.writeUInt32BE(id, CHUNK_HEADER_BYTES);
      let at = CHUNK_HEADER_BYTES + 4;
      for (const run of runs) {
        reply.writeUInt32BE(run.length, at);
        reply.writeUInt32BE(run.flags, at + 4);
        at += 8;
      }
      this.outbox.add(reply, isLast, 0);
    }
    this.flushSoon();
  }

  private fail(request: Request, cause: unknown, held: number): void {
    this.onTrouble(cause, request);
    this.refuse(request, refusalFor(cause, request), held);
  }

  private refuse({ cookie }: Request, { error, text }: Refusal, held: number): void {
    const { structured } = this.agreement;
    this.answer(structured ? errorChunk(cookie, error, text) : simpleReply(cookie, error), held);
  }

  private answer(reply: Buffer, held: number): void {
    this.outbox.add(reply, true, held);
    this.flushSoon();
  }

  /** At the end of this turn, together with whatever else it completes. */
  private flushSoon(): void {
    if (this.isPumping || this.isFlushDue) return;
    this.isFlushDue = true;
    setImmediate(() => {
      this.isFlushDue = false;
      this.outbox.flush();
    });
  }

  private release(requests: number, bytes: number): void {
    const wasFull = !this.hasRoom();
    this.requestsInFlight -= requests;
    this.bytesInFlight -= bytes;
    if (wasFull || this.requestsInFlight === 0) this.pump();
  }
}

/** Ends our side, and forgets a peer that does not end its own; what it still sends goes nowhere. */
function endGently(stream: ByteStream): void {
  const { socket, inbox } = stream;
  const impatience = setTimeout(() => socket.destroy(), 1000);
  socket.once('close', () => clearTimeout(impatience));
  stream.pourInto(() => inbox.skip(inbox.length));
  socket.end();
}
