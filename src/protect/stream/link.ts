/**
 * Production's end of a journal stream, for as long as one connection lasts: sends what the queue holds, hears how far
 * the journal is, and asks.
 *
 * Batching: while nothing is on its way, what a turn has brought leaves at its end. While something is, whole messages
 * leave at once and a part of one waits a moment for more: under load few large messages wake the replica seldom. Of
 * messages that are not whole only a few are on their way at a time, and what comes meanwhile fills the next: so the
 * queue, which is bounded by the number of its messages, holds as much as it may however small the writes and however
 * slow the journal.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { Connection } from '../../wire/connection.ts';
import { MessageType } from '../../wire/message-types.ts';
import {
  answerShape,
  decodeJournaled,
  decodeProbed,
  encodeProbe,
  type Follow,
  type Following,
  followingShape,
  type Journaled,
  type Mark,
  type Marked,
  markedShape,
  type Order,
  type Probe,
} from './messages.ts';
import type { StreamQueue } from './queue.ts';

/** How long a part of a message waits for more, while others are on their way. */
const LINGER_MS = 2;
/** So many on their way, and a message is sent only when it is whole, or when one of them is acknowledged. */
const MOST_IN_FLIGHT = 8;

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
}

export class StreamLink {
  readonly connection: Connection;
  private readonly queue: StreamQueue;
  private readonly onJournaled: (journaled: Journaled) => void;
  private isDue = false;
  private isPumping = false;
  private linger: NodeJS.Timeout | null = null;
  private readonly probes = new Map<number, Waiter<Uint8Array>>();
  private readonly questions = new Map<number, Waiter<string>>();
  private readonly marks = new Map<Order, Waiter<Marked>>();
  private nextId = 1;
  private failure: unknown = null;

  constructor(connection: Connection, queue: StreamQueue, onJournaled: (journaled: Journaled) => void) {
    this.connection = connection;
    this.queue = queue;
    this.onJournaled = onJournaled;
  }

  async follow(follow: Follow): Promise<Following> {
    await this.connection.sendControl(MessageType.follow, follow);
    return this.connection.expect(MessageType.following, followingShape);
  }

  /** Hears what the replica says, until the connection ends. @throws DriftmapError why it ended */
  async run(): Promise<never> {
    try {
      for (;;) await this.hear();
    } catch (cause) {
      this.end(cause);
      throw cause;
    }
  }

  /** Something was put into the queue. */
  kick(): void {
    if (this.isDue || this.isPumping) return;
    this.isDue = true;
    setImmediate(() => {
      this.isDue = false;
      this.pumpOrLinger();
    });
  }

  /** Puts a mark into the stream; resolves when the journal has it. */
  mark(mark: Omit<Mark, 'order'>): Promise<Marked> {
    if (this.failure !== null) return Promise.reject(this.failure);
    const order = this.queue.addMark(mark);
    const marked = new Promise<Marked>((resolve, reject) => {
      this.marks.set(order, { resolve, reject });
    });
    void this.pump();
    return marked;
  }

  /** Marks that were dropped from the queue will never be made. */
  dropMarks(marks: readonly Mark[], why: string): void {
    for (const { order } of marks) {
      const waiter = this.marks.get(order);
      this.marks.delete(order);
      waiter?.reject(new DriftmapError('policy', why));
    }
  }

  /** One byte for each block: 1 where it differs. */
  probe(probe: Omit<Probe, 'id'>): Promise<Uint8Array> {
    if (this.failure !== null) return Promise.reject(this.failure);
    const id = this.takeId();
    const answered = new Promise<Uint8Array>((resolve, reject) => {
      this.probes.set(id, { resolve, reject });
    });
    this.connection.send(MessageType.probe, ...encodeProbe({ ...probe, id })).catch(() => undefined);
    return answered;
  }

  /** @throws DriftmapError what the replica says against it */
  ask(what: string, body: string): Promise<string> {
    if (this.failure !== null) return Promise.reject(this.failure);
    const id = this.takeId();
    const answered = new Promise<string>((resolve, reject) => {
      this.questions.set(id, { resolve, reject });
    });
    this.connection.sendControl(MessageType.ask, { id, what, body }).catch(() => undefined);
    return answered;
  }

  private takeId(): number {
    this.nextId = (this.nextId + 1) % 2 ** 32;
    return this.nextId;
  }

  private async hear(): Promise<void> {
    const { connection } = this;
    const frame = await connection.receive();
    if (frame.type === MessageType.journaled) {
      const journaled = decodeJournaled(frame.payload);
      if (journaled.order > this.queue.lastSent)
        throw this.broken(`it acknowledged ${journaled.order}, which was not sent`);
      this.onJournaled(journaled);
      if (this.queue.hasUnsent) this.kick();
    } else if (frame.type === MessageType.marked) {
      const marked = connection.control(frame, markedShape);
      const waiter = this.marks.get(marked.order);
      if (waiter === undefined) throw this.broken(`it made the mark ${marked.order}, which was not sent`);
      this.marks.delete(marked.order);
      waiter.resolve(marked);
    } else if (frame.type === MessageType.probed) {
      const { id, differs } = decodeProbed(frame.payload);
      this.take(this.probes, id, 'probe').resolve(differs);
    } else if (frame.type === MessageType.answer) {
      const { id, ok, body } = connection.control(frame, answerShape);
      const question = this.take(this.questions, id, 'question');
      if (ok) question.resolve(body);
      else question.reject(new DriftmapError('policy', `the replica says: ${body}`));
    } else {
      throw connection.unexpected(frame, 'journaled');
    }
  }

  private take<T>(waiters: Map<number, Waiter<T>>, id: number, what: string): Waiter<T> {
    const waiter = waiters.get(id);
    if (waiter === undefined) throw this.broken(`it answered the ${what} ${id}, which was not asked`);
    waiters.delete(id);
    return waiter;
  }

  private broken(reason: string): DriftmapError {
    return new DriftmapError('malformed', reason, { path: this.connection.peer });
  }

  private end(cause: unknown): void {
    this.failure = cause;
    if (this.linger !== null) clearTimeout(this.linger);
    for (const waiters of [this.probes, this.questions, this.marks] as Map<number, Waiter<never>>[]) {
      for (const { reject } of waiters.values()) reject(cause);
      waiters.clear();
    }
  }

  private pumpOrLinger(): void {
    const { queue } = this;
    if (!queue.hasUnsent) return;
    if (queue.hasWholeUnsent || queue.inFlight === 0) {
      void this.pump();
      return;
    }
    // An acknowledgement comes back here.
    if (queue.inFlight >= MOST_IN_FLIGHT) return;
    this.linger ??= setTimeout(() => {
      this.linger = null;
      void this.pump();
    }, LINGER_MS);
  }

  /** Sends all that there is. */
  private async pump(): Promise<void> {
    if (this.isPumping || this.failure !== null) return;
    this.isPumping = true;
    const { connection, queue } = this;
    try {
      for (let item = queue.take(); item !== null; item = queue.hasWholeUnsent ? queue.take() : null) {
        if (item.kind === 'mark') await connection.sendControl(MessageType.mark, item.mark);
        else await connection.send(MessageType.writes, ...item.slab.parts());
      }
    } catch {
      // Whoever hears has learned of it.
      return;
    } finally {
      this.isPumping = false;
    }
    if (queue.hasUnsent) this.kick();
  }
}
