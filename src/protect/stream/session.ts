/**
 * The replica's end of a journal stream: takes writes and marks in their order, appends them to the journal, and says
 * how far it is durable. Everything else that a replica does (following with its disks, keeping, rolling) goes on
 * beside it and is none of its business.
 */

import { DriftmapError, systemError } from '../../base/errors.ts';
import { MAX_WIRE_TEXT_BYTES } from '../../base/limits.ts';
import { STREAM_MAX_STAGED_BYTES, STREAM_PROBES_AT_ONCE } from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import type { Appended, JournalWrite } from '../../journal/journal.ts';
import type { Point } from '../../journal/points.ts';
import type { Sequence, Time } from '../../journal/record.ts';
import type { Connection } from '../../wire/connection.ts';
import type { Frame } from '../../wire/frame.ts';
import { MessageType } from '../../wire/message-types.ts';
import {
  answerShape,
  askShape,
  decodeProbe,
  decodeWrites,
  encodeJournaled,
  encodeProbed,
  type Follow,
  followShape,
  type Mark,
  markShape,
  type Order,
  STREAM_VERSION,
} from './messages.ts';

/** What a stream ends in: the owner of a journal. */
export interface StreamTarget {
  /**
   * A production wants to stream; whoever streamed before is told to stop, which its `stop` does.
   * @throws DriftmapError `mismatch` for another group (`checkFollow`), `policy` when it may not: after a failover;
   *   and why nothing can be taken in now
   */
  follow(follow: Follow, peer: string, stop: (reason: DriftmapError) => void): Promise<Streaming>;
}

/** One stream's hold on the journal. After `end`, or once `stop` was called, nothing more is appended through it. */
export interface Streaming {
  readonly journal: string;
  readonly last: Sequence;
  readonly suspended: boolean;
  append(writes: readonly JournalWrite[], time: Time): Appended;
  /** Bytes that are appended and not durable. */
  readonly staged: ByteCount;
  /** Resolves when the stream may be read further. */
  ready(): Promise<unknown>;
  mark(kind: Mark['kind'], text: string, consistency: Mark['consistency']): Promise<Point>;
  /**
   * For each block from `offset` on, 1 where it is another one than its signature (or zeros, where `signatures` is null)
   * says, as of all that was appended, or of later.
   */
  probe(range: {
    readonly disk: string;
    readonly offset: ByteOffset;
    readonly length: ByteCount;
    readonly blockSize: ByteCount;
    readonly signatures: Uint8Array | null;
  }): Promise<Uint8Array>;
  /** What production passes on. */
  ask(what: string, body: unknown): Promise<unknown>;
  end(): void;
}

export interface StreamServed {
  readonly writes: number;
  readonly bytes: ByteCount;
}

/**
 * What a target has against a production that wants to stream to it.
 * @throws DriftmapError `unsupported` for another version, `mismatch` for another group, or other disks
 */
export function checkFollow(
  { version, group, disks }: Follow,
  here: {
    readonly group: string;
    /** Null where there are none yet: they are made as production says. */
    readonly disks: readonly { readonly name: string; readonly size: ByteCount }[] | null;
  },
): void {
  if (version !== STREAM_VERSION) {
    const reason = `expected a stream of version ${STREAM_VERSION}, got ${version}: use the same release at both sites`;
    throw new DriftmapError('unsupported', reason);
  }
  if (group !== here.group)
    throw new DriftmapError('mismatch', `expected the group '${here.group}', got '${group}'`);
  const names = new Set(disks.map(({ name }) => name));
  if (names.size !== disks.length) throw new DriftmapError('malformed', 'expected each disk once');
  if (here.disks === null) return;
  const known = new Map(here.disks.map(({ name, size }) => [name, size]));
  for (const { name, size } of disks) {
    const ours = known.get(name);
    if (ours === undefined) throw new DriftmapError('mismatch', `the replica has no disk '${name}'`);
    if (ours === size) continue;
    const reason = `disk '${name}' has ${size} bytes at production and ${ours} at the replica`;
    throw new DriftmapError('mismatch', reason);
  }
  const missing = here.disks.find(({ name }) => !names.has(name));
  if (missing === undefined) return;
  throw new DriftmapError('mismatch', `production has no disk '${missing.name}', and the replica has`);
}

/**
 * Serves one stream to its end, after the greeting. @returns what came, when production left in peace
 * @throws DriftmapError what ended it; production has been told
 */
export async function serveStream(connection: Connection, target: StreamTarget): Promise<StreamServed> {
  const session = new StreamSession(connection, target);
  try {
    await session.begin();
    return await session.run();
  } catch (cause) {
    const error = systemError(cause, { operation: 'stream' });
    await connection.abandon(error);
    throw error;
  } finally {
    session.end();
  }
}

class StreamSession {
  private readonly connection: Connection;
  private readonly target: StreamTarget;
  private disks: Follow['disks'] = [];
  private streaming: Streaming | null = null;
  private next: Order = 0;
  private count = 0;
  private bytes: ByteCount = 0;
  private lastDurable: Promise<unknown> = Promise.resolve();
  private readonly probes = new Set<Promise<void>>();
  private failure: DriftmapError | null = null;
  private hasLeft = false;
  /** The highest that is durable and not told yet. */
  private told: { order: Order; sequence: Sequence } | null = null;

  constructor(connection: Connection, target: StreamTarget) {
    this.connection = connection;
    this.target = target;
  }

  async begin(): Promise<void> {
    const { connection, target } = this;
    const follow = await connection.expect(MessageType.follow, followShape);
    this.disks = follow.disks;
    this.streaming = await target.follow(follow, connection.peer, (reason) => this.fail(reason));
    this.next = follow.next;
    const { journal, last, suspended } = this.streaming;
    await connection.sendControl(MessageType.following, {
      version: STREAM_VERSION,
      journal,
      last,
      suspended,
    });
  }

  async run(): Promise<StreamServed> {
    for (;;) {
      let frame: Frame;
      try {
        frame = await this.connection.receive();
      } catch (cause) {
        if (this.failure !== null) throw this.failure;
        this.hasLeft = cause instanceof DriftmapError && /ended the session/.test(cause.message);
        if (!this.hasLeft) throw cause;
        await this.lastDurable.catch(() => undefined);
        return { writes: this.count, bytes: this.bytes };
      }
      if (this.failure !== null) throw this.failure;
      await this.take(frame);
    }
  }

  end(): void {
    this.streaming?.end();
  }

  private fail(reason: DriftmapError): void {
    if (this.failure !== null) return;
    this.failure = reason;
    void this.connection.abandon(reason);
  }

  private async take(frame: Frame): Promise<void> {
    const { connection } = this;
    if (frame.type === MessageType.writes) return this.takeWrites(frame.payload);
    if (frame.type === MessageType.mark) return this.takeMark(connection.control(frame, markShape));
    if (frame.type === MessageType.probe) return this.beginProbe(frame.payload);
    if (frame.type !== MessageType.ask) throw connection.unexpected(frame, 'writes');
    const { id, what, body } = connection.control(frame, askShape);
    // Not waited for: a snapshot takes long, and the stream goes on.
    void this.answer(id, what, body);
  }

  private async takeWrites(payload: Uint8Array): Promise<void> {
    const streaming = this.streaming!;
    const { first, writes } = decodeWrites(payload, this.disks);
    this.expectOrder(first);
    this.next = first + writes.length;
    let last: Appended | null = null;
    for (let at = 0; at < writes.length; ) {
      const { time } = writes[at]!;
      let end = at + 1;
      while (end < writes.length && writes[end]!.time === time) end++;
      const together = end - at === writes.length ? writes : writes.slice(at, end);
      last = streaming.append(together, time);
      at = end;
    }
    this.count += writes.length;
    this.bytes += payload.length;
    const order = this.next - 1;
    const { last: sequence, durable } = last!;
    this.lastDurable = durable.then(
      () => this.tell(order, sequence),
      (cause) => this.fail(systemError(cause, { operation: 'append' })),
    );
    if (streaming.staged > STREAM_MAX_STAGED_BYTES) await this.lastDurable;
    await streaming.ready();
  }

  /** Together with whatever else this turn makes durable. */
  private tell(order: Order, sequence: Sequence): void {
    const isDue = this.told !== null;
    this.told = { order, sequence: Math.max(this.told?.sequence ?? 0, sequence) };
    if (isDue) return;
    setImmediate(() => {
      const told = this.told!;
      this.told = null;
      this.connection.send(MessageType.journaled, encodeJournaled(told)).catch(() => undefined);
    });
  }

  private async takeMark({ order, kind, text, consistency }: Mark): Promise<void> {
    this.expectOrder(order);
    this.next = order + 1;
    const marking = this.streaming!.mark(kind, text, consistency);
    // What comes after it is appended after it, whether it is durable by then or not.
    const before = this.lastDurable;
    this.lastDurable = this.finishMark({ order, kind, text, consistency }, marking, before);
  }

  private async finishMark(
    { order, kind }: Mark,
    marking: Promise<Point>,
    before: Promise<unknown>,
  ): Promise<void> {
    const { connection } = this;
    try {
      const { sequence, time } = await marking;
      await before;
      await connection.sendControl(MessageType.marked, { order, sequence, time, error: null });
      this.tell(order, sequence);
    } catch (cause) {
      const error = systemError(cause, { operation: kind });
      if (kind !== 'bookmark' || error.kind === 'io') {
        this.fail(error);
        return;
      }
      await before;
      const told = { kind: error.kind, message: clipped(error.message) };
      await connection
        .sendControl(MessageType.marked, { order, sequence: 0, time: 0, error: told })
        .catch(() => undefined);
      this.tell(order, 0);
    }
  }

  /** A few at a time: each waits until what was appended before is durable. */
  private async beginProbe(payload: Uint8Array): Promise<void> {
    while (this.probes.size >= STREAM_PROBES_AT_ONCE) await Promise.race(this.probes);
    const probe = this.takeProbe(payload)
      .catch((cause) => this.fail(systemError(cause, { operation: 'probe' })))
      .finally(() => this.probes.delete(probe));
    this.probes.add(probe);
  }

  private async takeProbe(payload: Uint8Array): Promise<void> {
    const { id, disk, blockSize, first, count, signatures } = decodeProbe(payload, this.disks);
    const offset = first * blockSize;
    const { name, size } = this.disks[disk]!;
    const length = Math.min(count * blockSize, size - offset);
    const range = { disk: name, offset, length, blockSize, signatures };
    const differs = await this.streaming!.probe(range);
    await this.connection.send(MessageType.probed, encodeProbed(id, differs));
  }

  private async answer(id: number, what: string, body: string): Promise<void> {
    let answer: { ok: boolean; body: string };
    try {
      const value = await this.streaming!.ask(what, JSON.parse(body));
      answer = { ok: true, body: JSON.stringify(value) ?? 'null' };
    } catch (cause) {
      answer = { ok: false, body: clipped(cause instanceof Error ? cause.message : String(cause)) };
    }
    const checked = answerShape({ id, ...answer }, 'answer');
    await this.connection.sendControl(MessageType.answer, checked).catch(() => undefined);
  }

  private expectOrder(order: Order): void {
    if (order === this.next) return;
    const reason = `expected order number ${this.next}, got ${order}`;
    throw new DriftmapError('malformed', reason, { path: this.connection.peer });
  }
}

function clipped(text: string): string {
  return Buffer.from(text)
    .subarray(0, MAX_WIRE_TEXT_BYTES - 4)
    .toString();
}
