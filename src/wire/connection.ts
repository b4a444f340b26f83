/**
 * A connection: frames over a transport, with flow control, signs of life, and one clear end.
 *
 * Flow control is by credit. A frame costs its bytes, head and payload; who sends waits until it has them.
 * Credit comes back when the receiver has worked on the frame: when it asks for the next one. So what a peer can
 * make us hold is bounded, whatever it sends, and a peer that sends more than it was given is refused. Credits,
 * pings, errors and farewells cost nothing; answers to pings are dropped for a peer that does not read.
 *
 * Whatever ends a connection ends it once: the first reason is what every pending and later call throws. What the
 * peer says about the end goes before what the network says: who can send no more still listens for a while, and who
 * has said why it ends does not hang up on a peer that is still sending, which would lose those words.
 */

import { DriftmapError, systemError } from '../base/errors.ts';
import {
  LAST_WORDS_BYTES,
  LAST_WORDS_MS,
  MAX_FRAME_BYTES,
  MAX_GREETING_BYTES,
  MAX_UNREAD_ANSWERS_BYTES,
  WIRE_CREDIT_BYTES,
} from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import { encodeFrameHead, FRAME_HEAD_BYTES, type Frame, FrameReader, fillFrameHead } from './frame.ts';
import type { RateLimiter } from './limiter.ts';
import { crowded } from './lobby.ts';
import { isFree, isKnown, MessageType, messageName, OPTIONAL_FROM } from './message-types.ts';
import type { Outgoing, Whole } from './outgoing.ts';
import { Pulse } from './pulse.ts';
import type { Check } from './schema.ts';
import { errorShape, knownKind, wireText } from './session-messages.ts';
import { atMost, endOf, hearOut, type Transport } from './transport.ts';

/** What either side may send before it has been given credit: the greeting. */
export const FIRST_CREDIT_BYTES = MAX_GREETING_BYTES + FRAME_HEAD_BYTES;

export interface ConnectionOptions {
  /** Silence after which the peer counts as dead; 60 s by default. */
  readonly deadAfterMs?: number | undefined;
  readonly limiter?: RateLimiter | undefined;
  /** Called when a sign of life arrives or leaves: for tests and metrics. */
  readonly onTraffic?: ((received: ByteCount, sent: ByteCount) => void) | undefined;
}

/** One message waits while another is written: the network is never idle, and what is urgent waits for two at most. */
const MAX_UNSENT_BYTES = MAX_FRAME_BYTES + FRAME_HEAD_BYTES;

export class Connection {
  /** Bytes of frames, heads included. */
  bytesSent: ByteCount = 0;
  bytesReceived: ByteCount = 0;

  readonly transport: Transport;
  private readonly options: ConnectionOptions;
  private readonly reader: FrameReader;
  private readonly inbox: Frame[] = [];
  private waiter: { resolve: (frame: Frame) => void; reject: (reason: unknown) => void } | null = null;
  private readonly outbox: Outgoing[] = [];
  private pumping = false;
  private sequence = 0;
  /** What we may still send. */
  private credit = FIRST_CREDIT_BYTES;
  private creditCame: (() => void) | null = null;
  private written: (() => void) | null = null;
  /** What the peer may still send, what it was given in all, and what has been worked on and not given back yet. */
  private granted = FIRST_CREDIT_BYTES;
  private window = FIRST_CREDIT_BYTES;
  private worked: ByteCount = 0;
  private current: ByteCount = 0;
  private failure: DriftmapError | null = null;
  private trusted = false;
  private leaving = false;
  private broken = false;
  private peerLeft = false;
  /** The peer has said why it ends, or that it leaves. */
  private peerSpoke = false;
  /** Why nothing more can be sent: the way back may still work. */
  private mute: DriftmapError | null = null;
  /** Ends the listening then; it holds the process, which has a last word to say. */
  private lastWords: NodeJS.Timeout | undefined;
  private saidWhy = false;
  /** The peer has said why it ended the session, or was given up as silent. */
  ending: 'said' | 'silent' | null = null;
  /** Bytes that came after the connection could send no more, or had failed. */
  private late: ByteCount = 0;
  private readonly pulse: Pulse;
  private waited = 0;
  private waitingSince: number | null = null;

  constructor(transport: Transport, options: ConnectionOptions = {}) {
    this.transport = transport;
    this.options = options;
    this.reader = new FrameReader(transport.name, MAX_GREETING_BYTES);
    const { readable, writable } = transport;
    readable.on('data', (chunk: Uint8Array) => this.take(chunk));
    readable.on('end', () => this.ended());
    readable.on('close', () => this.ended());
    const lost = (cause: unknown) =>
      transport.meaningOf?.(cause) ?? systemError(cause, { path: transport.name, operation: 'connection' });
    readable.on('error', (cause) => this.fail(lost(cause)));
    if (writable !== (readable as unknown)) writable.on('error', (cause) => this.becomeMute(lost(cause)));
    if (transport.lobby) transport.lobby.drop = () => void this.abandon(crowded(transport.name));
    this.pulse = new Pulse({
      peer: transport.name,
      deadAfterMs: options.deadAfterMs,
      ask: () => void this.send(MessageType.ping).catch(() => undefined),
      mayAsk: () => this.unsentBytes < MAX_UNREAD_ANSWERS_BYTES,
      onDeath: (reason) => this.fail(reason, 'silent'),
    });
  }

  /** Whether it can still carry a session. */
  get isOpen(): boolean {
    return this.failure === null && !this.leaving;
  }

  get peer(): string {
    return this.transport.name;
  }

  /** Whether what ended it came from the peer: an error, or its farewell. */
  get endedByPeer(): boolean {
    return this.peerSpoke;
  }

  /** Whether the peer could be told why it ended, as far as is known here. */
  get toldPeer(): boolean {
    return this.saidWhy && this.mute === null;
  }

  /** Milliseconds that messages have waited for the network, the peer's credit or the rate, so far. */
  get waitedMs(): number {
    return this.waited + (this.waitingSince === null ? 0 : performance.now() - this.waitingSince);
  }

  /** Bytes that wait for the network. */
  get unsentBytes(): ByteCount {
    return this.transport.writable.writableLength;
  }

  /** Seconds from a ping to its answer, the shortest so far; null before the first answer. */
  get roundTrip(): number | null {
    return this.pulse.roundTrip;
  }

  /** The peer has proved who it is: it may send whole messages, and many. */
  trust(): void {
    this.trusted = true;
    this.transport.lobby?.leave();
    this.reader.maxPayload = MAX_FRAME_BYTES;
    this.window = WIRE_CREDIT_BYTES;
    this.grant(WIRE_CREDIT_BYTES - FIRST_CREDIT_BYTES);
    this.ping();
  }

  /**
   * Asks for a sign of life, and measures the round trip by it. At the greeting both ends are busy opening disks, so
   * who chooses by the round trip asks again when they are not.
   */
  ping(): void {
    this.pulse.ask();
  }

  /**
   * Sends one message; resolves when it has been handed to the network. Messages leave in the order of the
   * calls. The parts must not be changed afterwards.
   */
  send(type: number, ...parts: readonly Uint8Array[]): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    if (this.leaving) return Promise.reject(this.closedError());
    // What concerns the connection itself must not wait behind what waits for credit: the peer may wait for it.
    if (isFree(type) && type !== MessageType.bye) {
      this.write(type, parts, null);
      return Promise.resolve();
    }
    return this.enqueue(type, parts, null);
  }

  /**
   * As `send`, of a message that lies in one piece behind 16 bytes of room for its head: nothing is copied, and it is
   * one write. `free` is called when the memory may be used again, and never when it may not.
   */
  sendFrame(type: number, bytes: Uint8Array, free: () => void): Promise<void> {
    if (this.failure) return Promise.reject(this.failure);
    if (this.leaving) return Promise.reject(this.closedError());
    return this.enqueue(type, [bytes.subarray(FRAME_HEAD_BYTES)], { bytes, free });
  }

  private enqueue(type: number, parts: readonly Uint8Array[], whole: Whole | null): Promise<void> {
    let cost = FRAME_HEAD_BYTES;
    for (const part of parts) cost += part.length;
    return new Promise((sent, failed) => {
      this.outbox.push({ type, parts, whole, cost: isFree(type) ? 0 : cost, sent, failed });
      if (!this.pumping) void this.pump();
    });
  }

  /** Sends a control message. */
  sendControl(type: number, value: object): Promise<void> {
    return this.send(type, encodeControl(value));
  }

  /** The next message. The one before counts as worked on. Rejects when the connection has ended. */
  async receive(): Promise<Frame> {
    this.release();
    const frame = this.inbox.shift() ?? (await this.nextFrame());
    this.current = FRAME_HEAD_BYTES + frame.payload.length;
    return frame;
  }

  /** Gives the memory of a message that was received to later ones. Nobody may look at it any more. */
  recycle({ payload }: Frame): void {
    this.reader.recycle(payload);
  }

  /** The next message, which must be of this type. */
  async expect<T>(type: number, check: Check<T>): Promise<T> {
    const frame = await this.receive();
    if (frame.type !== type) throw this.unexpected(frame, messageName(type));
    return this.control(frame, check);
  }

  /** A control message, checked. */
  control<T>({ type, payload }: Frame, check: Check<T>): T {
    const name = messageName(type);
    try {
      return check(decodeControl(payload, `the message '${name}'`), name);
    } catch (cause) {
      if (cause instanceof DriftmapError && cause.path === undefined)
        throw new DriftmapError('malformed', cause.message, { path: this.peer, cause });
      throw cause;
    }
  }

  unexpected({ type }: Frame, expected: string): DriftmapError {
    const reason = `expected the message '${expected}', got '${messageName(type)}'`;
    return new DriftmapError('malformed', reason, { path: this.peer });
  }

  /** Says goodbye, and resolves when the last byte has been handed over. Idempotent; never throws. */
  async close(): Promise<void> {
    if (this.failure === null && !this.leaving) {
      const farewell = this.send(MessageType.bye).catch(() => undefined);
      this.leaving = true;
      // A peer that gives no credit any more does not keep us.
      await atMost(1000, farewell);
      this.fail(this.closedError());
    }
    await atMost(1000, endOf(this.transport));
    this.transport.destroy();
  }

  /** Tells the peer what went wrong, as far as it still listens, and ends the connection. Never throws. */
  async abandon(error: DriftmapError, text = error.message): Promise<void> {
    if (this.failure === null && !this.leaving) {
      const told = { kind: error.kind, message: wireText(text) };
      await this.sendControl(MessageType.error, told).catch(() => undefined);
      this.saidWhy = true;
    }
    this.leaving = true;
    this.fail(error);
    if (this.toldPeer && this.trusted) await hearOut(this.transport);
    await this.close();
  }

  /** What the peer has sent before is read, in bounds: it may have said why it listens no more. */
  private becomeMute(reason: DriftmapError): void {
    if (this.failure || this.mute) return;
    const { readable } = this.transport;
    this.mute = reason;
    if (readable.readableEnded || readable.destroyed) this.fail(reason);
    else this.lastWords = setTimeout(() => this.fail(reason), LAST_WORDS_MS);
  }

  /** Ends it for a reason of ours; what waits rejects with it. */
  fail(reason: DriftmapError, ending: 'said' | 'silent' | null = null): void {
    if (this.failure) return;
    this.failure = reason;
    this.ending = ending;
    this.pulse.stop();
    clearTimeout(this.lastWords);
    this.waiter?.reject(reason);
    this.waiter = null;
    for (const { failed } of this.outbox.splice(0)) failed(reason);
    this.creditCame?.();
    if (!this.leaving) this.transport.destroy();
  }

  private closedError(): DriftmapError {
    return new DriftmapError('io', 'the connection is closed', { path: this.peer });
  }

  private nextFrame(): Promise<Frame> {
    if (this.failure) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      this.waiter = { resolve, reject };
    });
  }

  private async pump(): Promise<void> {
    this.pumping = true;
    try {
      for (let next = this.outbox[0]; next !== undefined && !this.failure; next = this.outbox[0]) {
        while ((this.mute || this.credit < next.cost) && !this.failure) await this.timed(this.moreCredit());
        const wait = next.cost > 0 ? this.options.limiter?.take(next.cost) : undefined;
        if (wait) await this.timed(wait);
        if (this.failure) return;
        this.outbox.shift();
        this.credit -= next.cost;
        this.write(next.type, next.parts, next.whole);
        if (this.unsentBytes > MAX_UNSENT_BYTES) await this.timed(this.drained());
        next.sent();
      }
    } finally {
      this.pumping = false;
    }
  }

  private async timed(wait: Promise<void>): Promise<void> {
    this.waitingSince = performance.now();
    await wait;
    this.waited += performance.now() - this.waitingSince;
    this.waitingSince = null;
  }

  private moreCredit(): Promise<void> {
    return new Promise((resolve) => {
      this.creditCame = () => {
        this.creditCame = null;
        resolve();
      };
    });
  }

  private drained(): Promise<void> {
    const { writable } = this.transport;
    return new Promise((resolve) => {
      this.written = () => {
        if (!writable.destroyed && this.unsentBytes > MAX_UNSENT_BYTES) return;
        this.written = null;
        writable.off('close', this.onWritten);
        resolve();
      };
      writable.on('close', this.onWritten);
      // It was closed before.
      if (writable.destroyed) this.written();
    });
  }

  private readonly onWritten = () => this.written?.();

  private write(type: number, parts: readonly Uint8Array[], whole: Whole | null): void {
    if (this.mute) return;
    const { writable, copies } = this.transport;
    const { sequence } = this;
    this.sequence = (this.sequence + 1) % 2 ** 32;
    let bytes: ByteCount;
    if (whole !== null) {
      bytes = whole.bytes.length;
      fillFrameHead(whole.bytes.subarray(0, FRAME_HEAD_BYTES), type, sequence, parts);
      writable.write(whole.bytes, (error) => {
        if (copies && !error) whole.free();
        this.onWritten();
      });
    } else {
      const head = encodeFrameHead(type, sequence, parts);
      const filled = parts.filter((part) => part.length > 0);
      writable.cork();
      writable.write(head, this.onWritten);
      bytes = head.length;
      for (const part of filled) {
        writable.write(part, this.onWritten);
        bytes += part.length;
      }
      writable.uncork();
    }
    this.bytesSent += bytes;
    this.options.onTraffic?.(0, bytes);
  }

  private take(chunk: Uint8Array): void {
    if (this.failure || this.broken || this.mute) {
      this.late += chunk.length;
      if (this.late > LAST_WORDS_BYTES) {
        if (this.mute) this.fail(this.mute);
        this.transport.destroy();
      }
      if (this.failure || this.broken) return;
    }
    this.pulse.heard();
    this.bytesReceived += chunk.length;
    this.options.onTraffic?.(chunk.length, 0);
    try {
      this.reader.push(chunk, (frame) => this.deliver(frame));
    } catch (cause) {
      // What comes after a frame that is none cannot be understood.
      this.broken = true;
      void this.abandon(systemError(cause, { path: this.peer, operation: 'receive' }));
    }
  }

  private deliver(frame: Frame): void {
    const { type, payload } = frame;
    if (this.failure) return;
    if (isFree(type)) {
      this.handle(frame);
      return;
    }
    if (type < OPTIONAL_FROM && !isKnown(type)) {
      const reason = `a message of an unknown type, ${type}: use the same version of driftmap at both ends`;
      throw new DriftmapError('unsupported', reason, { path: this.peer });
    }
    const cost = FRAME_HEAD_BYTES + payload.length;
    this.granted -= cost;
    if (this.granted < 0)
      throw new DriftmapError('malformed', 'the peer sent more than it had credit for', { path: this.peer });
    if (type >= OPTIONAL_FROM) {
      this.worked += cost;
      this.giveBack();
      return;
    }
    if (this.waiter === null) {
      this.inbox.push(frame);
      return;
    }
    const { resolve } = this.waiter;
    this.waiter = null;
    resolve(frame);
  }

  /** What concerns the connection itself. */
  private handle(frame: Frame): void {
    const { type, payload } = frame;
    if (payload.length > MAX_GREETING_BYTES)
      throw new DriftmapError('limit', `'${messageName(type)}' is too long`, { path: this.peer });
    switch (type) {
      case MessageType.credit: {
        if (payload.length !== 4) throw this.unexpected(frame, 'credit of 4 bytes');
        const more = new DataView(payload.buffer, payload.byteOffset).getUint32(0, true);
        this.credit = Math.min(this.credit + more, Number.MAX_SAFE_INTEGER);
        this.creditCame?.();
        return;
      }
      case MessageType.ping:
        if (this.unsentBytes < MAX_UNREAD_ANSWERS_BYTES)
          void this.send(MessageType.pong).catch(() => undefined);
        return;
      case MessageType.pong:
        this.pulse.answered();
        return;
      case MessageType.bye:
        this.peerLeft = true;
        this.peerSpoke = true;
        this.fail(this.closedByPeer());
        return;
      default: {
        const { kind, message } = this.control(frame, errorShape);
        this.peerSpoke = true;
        const reason = `the other site says: ${message}`;
        this.fail(new DriftmapError(knownKind(kind), reason, { path: this.peer }), 'said');
      }
    }
  }

  private closedByPeer(): DriftmapError {
    return new DriftmapError('io', 'the other site ended the session', { path: this.peer });
  }

  private release(): void {
    this.worked += this.current;
    this.current = 0;
    this.giveBack();
  }

  /** Gives back what has been worked on, a quarter of the window at a time. */
  private giveBack(): void {
    if (this.worked < this.window / 4 || this.failure) return;
    const bytes = this.worked;
    this.worked = 0;
    this.grant(bytes);
  }

  private grant(bytes: ByteCount): void {
    const payload = new Uint8Array(4);
    new DataView(payload.buffer).setUint32(0, bytes, true);
    this.granted += bytes;
    void this.send(MessageType.credit, payload).catch(() => undefined);
  }

  private ended(): void {
    if (this.failure) return;
    if (this.peerLeft || this.leaving) this.fail(this.closedByPeer());
    else {
      const where = this.reader.between ? '' : ', in the middle of a message';
      this.fail(new DriftmapError('io', `the connection was lost${where}`, { path: this.peer }));
    }
  }
}
