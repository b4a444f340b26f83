/**
 * The course of a group's stream: whether writes are streamed or marked, and how it gets from one to the other.
 *
 *   marking     writes are marked: nobody is connected, or the replica is too slow, or its journal fails
 *   resyncing   writes are streamed again, and what was marked is copied between them
 *   streaming   writes are streamed, and nothing is marked
 *   paused      as marking, because somebody asked for it
 *
 * Falling to marking takes no time and waits for nobody: what was not sent is marked; what was sent is acknowledged
 * later, or marked when the connection ends. `era` counts falls: whatever was begun before one is void.
 *
 * The way back begins with the mark `suspend` in the stream: once the journal has it, it has everything that was sent
 * before and its points are closed. Then writes go into the stream, marked blocks are copied, and the mark `resume`
 * says that the disks are a moment of production's again.
 */

import { DriftmapError, systemError } from '../../base/errors.ts';
import { JOURNAL_MAX_TEXT_BYTES } from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import type { Reached } from '../../sync/connect.ts';
import { StreamLink } from '../stream/link.ts';
import { type Following, type Journaled, type Marked, STREAM_VERSION } from '../stream/messages.ts';
import { StreamQueue } from '../stream/queue.ts';
import { Backoff } from './backoff.ts';
import { Copier, type CopyTotals } from './copier.ts';
import type { Intents } from './intents.ts';
import type { Duplicator, SplitDisk } from './split-disk.ts';

export type Phase = 'streaming' | 'marking' | 'resyncing' | 'paused';

export interface CourseParts {
  readonly group: string;
  /** Of this run: 32 hexadecimal digits. */
  readonly run: string;
  readonly intents: Intents;
  /** Null where there is no replica to stream to: then all is marked. */
  readonly reach: ((signal: AbortSignal) => Promise<Reached>) | null;
  /** Describes the virtual machine, as it is now. */
  readonly configuration?: (() => string | null) | undefined;
  /** Seconds without an acknowledgement after which writes are marked. */
  readonly patience: number;
  /** Between attempts at most: 5 s to connect, 30 s to resynchronize, unless said. */
  readonly longestPauseMs?: number | undefined;
  readonly onChange: () => void;
}

/** Before another attempt to connect, or to resynchronize: doubled each time. */
const FIRST_PAUSE_MS = 250;
/** An attempt to connect costs nothing to speak of, and a network that is back should not be waited for. */
const LONGEST_RECONNECT_MS = 5000;
/** A replica that is too slow is not to be burdened with one resynchronization after another. */
const LONGEST_RETURN_MS = 30_000;
/** A connection, or a stream, that has lasted so long makes the next pause short again. */
const SETTLED_MS = 10_000;

export class Course implements Duplicator {
  readonly queue = new StreamQueue();
  phase: Phase = 'marking';
  why: string | null = 'not connected yet';
  since = Date.now();
  /** Why writes are missing, since they were last streamed whole; null where they never were, or are. */
  private fellBecause: string | null = null;
  /** Times that writes fell to being marked. */
  falls = 0;
  readonly totals: CopyTotals = { copiedBytes: 0, equalBytes: 0 };
  /** The journal's sequence up to which all that was acknowledged is durable. */
  sequence: number;
  disks: readonly SplitDisk[] = [];
  private readonly parts: CourseParts;
  /** Whether writes go into the stream. */
  private accepting = false;
  private link: StreamLink | null = null;
  private copier: Copier | null = null;
  private returning = false;
  private isPaused = false;
  private isClosed = false;
  private readonly reconnects: Backoff;
  private readonly returns: Backoff;
  private readonly stopping = new AbortController();
  private watch: NodeJS.Timeout | null = null;
  private course: Promise<void> | null = null;
  private nudge: (() => void) | null = null;

  constructor(parts: CourseParts) {
    this.parts = parts;
    this.sequence = parts.intents.state.sequence;
    const backoff = (longestMs: number) =>
      new Backoff({ firstMs: FIRST_PAUSE_MS, longestMs: parts.longestPauseMs ?? longestMs });
    this.reconnects = backoff(LONGEST_RECONNECT_MS);
    this.returns = backoff(LONGEST_RETURN_MS);
  }

  get isConnected(): boolean {
    return this.link !== null;
  }
  get markedBytes(): ByteCount {
    return this.disks.reduce((sum, { marks }) => sum + marks.bytes, 0);
  }
  /** Seconds for which the journal has got nothing, though something is on its way; 0 when it has all. */
  get lag(): number {
    return this.queue.stuckFor;
  }

  start(disks: readonly SplitDisk[]): void {
    this.disks = disks;
    if (this.parts.reach === null) {
      this.turn('marking', 'no replica is set up');
      return;
    }
    this.watch = setInterval(() => this.look(), 1000);
    this.course = this.keepConnected();
  }

  wrote(disk: SplitDisk, offset: ByteOffset, source: Uint8Array): number {
    if (this.accepting) {
      if (this.queue.add(disk.number, offset, source)) {
        this.link!.kick();
        return this.queue.next - 1;
      }
      this.fall('the replica takes writes more slowly than they come');
    }
    disk.marks.add(offset, source.length);
    return this.queue.next - 1;
  }

  zeroed(disk: SplitDisk, offset: ByteOffset, length: ByteCount): number {
    if (this.accepting) {
      if (this.queue.addZeros(disk.number, offset, length)) {
        this.link!.kick();
        return this.queue.next - 1;
      }
      this.fall('the replica takes writes more slowly than they come');
    }
    disk.marks.add(offset, length);
    return this.queue.next - 1;
  }

  spoilt(disk: SplitDisk, offset: ByteOffset, length: ByteCount): void {
    if (this.accepting) this.fall(`a write to disk '${disk.name}' failed`);
    disk.marks.add(offset, length);
  }

  /** @throws DriftmapError `policy` unless writes are streamed and nothing is marked */
  async bookmark(name: string, consistency: 'crash' | 'application'): Promise<Marked> {
    if (this.phase !== 'streaming' || this.link === null) {
      const reason = `no bookmark can be made while the group is ${this.phase} (${this.why ?? ''}): there is no point to name`;
      throw new DriftmapError('policy', reason);
    }
    const marked = await this.link.mark({ kind: 'bookmark', text: name, consistency });
    if (marked.error === null) return marked;
    throw new DriftmapError(marked.error.kind === 'argument' ? 'argument' : 'policy', marked.error.message);
  }

  ask(what: string, body: unknown): Promise<unknown> {
    if (this.link === null) throw new DriftmapError('io', `the replica is not connected: ${this.why ?? ''}`);
    return this.link.ask(what, JSON.stringify(body)).then((text) => JSON.parse(text) as unknown);
  }

  pause(): void {
    this.isPaused = true;
    this.fall('somebody asked for it');
  }

  resume(): void {
    if (!this.isPaused) return;
    this.isPaused = false;
    this.turn('marking', 'it is to go on');
    this.nudge?.();
    this.comeBack(0);
  }

  /** Waits a while for the journal to have what is on its way; then what is left is marked. */
  async close(patienceMs: number): Promise<void> {
    const until = performance.now() + patienceMs;
    const { link } = this;
    while (this.accepting && this.link === link && !this.queue.isEmpty && performance.now() < until) {
      link?.kick();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    if (this.watch !== null) clearInterval(this.watch);
    this.isClosed = true;
    this.voidAll(new DriftmapError('aborted', 'the splitter is stopped'));
    // In peace: the replica hears a farewell rather than an error.
    await this.link?.connection.close();
    this.stopping.abort();
    this.nudge?.();
    await this.course;
    this.queue.dropAll((disk, offset, length) => this.disks[disk]!.marks.add(offset, length));
  }

  /** Writes are marked from now on. */
  private fall(reason: string): void {
    this.falls++;
    this.fellBecause ??= reason;
    this.voidAll(new DriftmapError('aborted', reason));
    const dropped = this.queue.dropUnsent((disk, offset, length) =>
      this.disks[disk]!.marks.add(offset, length),
    );
    this.link?.dropMarks(dropped, `the group fell to marking: ${reason}`);
    this.turn(this.isPaused ? 'paused' : 'marking', reason);
    if (!this.isPaused) this.comeBack(this.returns.next());
  }

  private voidAll(reason: DriftmapError): void {
    this.accepting = false;
    this.copier?.stop(reason);
    this.copier = null;
  }

  private turn(phase: Phase, why: string | null): void {
    if (this.isClosed) return;
    if (phase === this.phase && why === this.why) return;
    if (this.phase === 'streaming' && Date.now() - this.since > SETTLED_MS) this.returns.succeeded();
    if (phase !== this.phase) this.since = Date.now();
    if (phase === 'streaming') this.fellBecause = null;
    this.phase = phase;
    this.why = why;
    this.parts.onChange();
  }

  /** Once a second: a replica that is silent is not waited for. */
  private look(): void {
    if (this.accepting && this.lag > this.parts.patience) {
      this.fall(`the replica has acknowledged nothing for ${Math.round(this.lag)} s`);
    }
  }

  private async keepConnected(): Promise<void> {
    while (!this.isClosed) {
      try {
        await this.connectOnce();
      } catch (cause) {
        if (this.isClosed) return;
        this.turn(this.isPaused ? 'paused' : 'marking', systemError(cause, { operation: 'stream' }).message);
      }
      await this.rest(this.reconnects.next());
    }
  }

  private rest(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.nudge = () => {
        clearTimeout(timer);
        resolve();
      };
      if (this.isClosed) this.nudge();
    });
  }

  private async connectOnce(): Promise<void> {
    const { parts, queue } = this;
    const reached = await parts.reach!(this.stopping.signal);
    try {
      const link = new StreamLink(reached.connection, queue, (journaled) => this.journaled(journaled));
      const disks = this.disks.map(({ name, size }) => ({ name, size }));
      const { group, run } = parts;
      const configuration = parts.configuration?.() ?? null;
      const following = await link.follow({
        version: STREAM_VERSION,
        group,
        disks,
        run,
        next: queue.next,
        configuration,
      });
      await this.compareWith(following);
      this.link = link;
      const since = Date.now();
      const running = link.run();
      if (!this.isPaused) this.begin(following.suspended);
      await running.catch((cause) => {
        // At once: there is nobody to send to.
        this.link = null;
        if (Date.now() - since > SETTLED_MS) this.reconnects.succeeded();
        this.lost(systemError(cause, { operation: 'stream' }).message);
        throw cause;
      });
    } catch (cause) {
      const explained = await reached.explain(cause);
      // The journal's suspension says what the carrier knows, rather than that a pipe broke.
      if (cause instanceof Error && this.fellBecause === cause.message && explained instanceof Error)
        this.fellBecause = explained.message;
      throw explained;
    } finally {
      this.link = null;
      await reached.close();
    }
  }

  /** A replica that does not have what it had is compared as a whole. */
  private async compareWith({ journal, last }: Following): Promise<void> {
    const { intents } = this.parts;
    const then = intents.state;
    if (then.journal === journal && last >= this.sequence) return;
    for (const { marks, number, size, region } of this.disks) {
      if (size > 0) marks.suspect(0, size);
      // Durable before anything vouches for this journal: a crash in the middle begins with all of it again.
      await intents.heatUp(number, 0, Math.ceil(size / region));
    }
    await intents.conclude({ journal, sequence: last });
    this.sequence = last;
  }

  /** Nothing is missing: writes are streamed from this turn on. Else it is made up for. */
  private begin(suspended: boolean): void {
    if (this.disks.some(({ marks }) => !marks.isEmpty)) {
      this.comeBack(0);
      return;
    }
    this.accepting = true;
    if (suspended) {
      this.turn('resyncing', 'the journal was suspended');
      this.finish(this.link!).catch(() => undefined);
    } else this.turn('streaming', null);
  }

  private comeBack(pause: number): void {
    if (this.returning || this.link === null) return;
    this.returning = true;
    const { link } = this;
    void (async () => {
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause).unref());
      try {
        if (this.link === link && !this.isPaused && !this.accepting) await this.resynchronize(link);
      } catch {
        // It fell again, or the connection ended: either way somebody has seen to it.
      } finally {
        this.returning = false;
      }
      // It may have fallen while this way back was under way.
      if (this.link !== null && !this.isPaused && !this.accepting && !this.isClosed)
        this.comeBack(this.returns.next());
    })();
  }

  private async resynchronize(link: StreamLink): Promise<void> {
    const text = clipped(this.fellBecause ?? this.why ?? 'writes are missing');
    await link.mark({ kind: 'suspend', text, consistency: 'crash' });
    if (this.link !== link || this.isPaused || this.isClosed) return;
    const copier = new Copier({ disks: this.disks, queue: this.queue, link, totals: this.totals });
    this.copier = copier;
    this.accepting = true;
    this.turn('resyncing', this.why);
    try {
      await copier.run();
    } catch (cause) {
      if (this.copier === copier) this.fall(systemError(cause, { operation: 'copy' }).message);
      throw cause;
    }
    this.copier = null;
    await this.finish(link);
  }

  private async finish(link: StreamLink): Promise<void> {
    await link.mark({ kind: 'resume', text: 'consistent again', consistency: 'crash' });
    if (this.accepting && this.link === link) this.turn('streaming', null);
  }

  private journaled({ order, sequence }: Journaled): void {
    this.sequence = Math.max(this.sequence, sequence);
    this.queue.acknowledge(order);
    this.copier?.acknowledged(order);
  }

  /** The connection is gone: whatever is not acknowledged is marked. */
  private lost(reason: string): void {
    if (this.accepting) {
      this.falls++;
      this.fellBecause ??= reason;
    }
    this.voidAll(new DriftmapError('aborted', reason));
    this.queue.dropAll((disk, offset, length) => this.disks[disk]!.marks.add(offset, length));
    this.turn(this.isPaused ? 'paused' : 'marking', reason);
  }
}

/** As much of a text as a mark takes. */
function clipped(text: string): string {
  let short = text;
  while (Buffer.byteLength(short) > JOURNAL_MAX_TEXT_BYTES) short = [...short].slice(0, -8).join('');
  return short;
}
