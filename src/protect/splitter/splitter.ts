/**
 * The splitter of a consistency group: serves its disks over NBD, writes what the guest writes to them, and
 * duplicates it, into the stream to the replica or into marks. What it promises: a write that was acknowledged is in
 * its disk, and is in the replica's journal or marked, whatever is killed when; and the guest never waits for the
 * replica.
 *
 * `split-disk.ts` is the way of a write, `intents.ts` what outlives a crash, `course.ts` when what is streamed.
 */

import { randomBytes } from 'node:crypto';
import { DriftmapError, systemError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import { type NbdListen, type NbdServer, serveNbd } from '../nbd/server.ts';
import type { Marked } from '../stream/messages.ts';
import { Course, type CourseParts, type Phase } from './course.ts';
import type { Intents } from './intents.ts';
import { SplitDisk } from './split-disk.ts';
import type { Stamps } from './stamp.ts';
import { endState, type Held, hold, openState } from './state-folder.ts';
import { type Watch, Watches, type WatchState } from './watches.ts';

export interface SplitterOptions {
  readonly group: string;
  /** A folder of its own: intents, marks, the lock. */
  readonly state: string;
  readonly disks: readonly { readonly name: string; readonly disk: string; readonly listen: NbdListen }[];
  /** Connects to the replica and greets it; null marks everything. */
  readonly reach: CourseParts['reach'];
  /** Describes the virtual machine, for snapshots; asked for at each connection. */
  readonly configuration?: (() => string | null) | undefined;
  /** Seconds without an acknowledgement after which writes are marked; 10 by default. */
  readonly patience?: number | undefined;
  /** Between attempts to come back, at most: 30 s by default. */
  readonly longestPauseMs?: number | undefined;
  /** At a stop the journal gets what is on its way for so long: 5 s by default. */
  readonly drainMs?: number | undefined;
  readonly onChange?: ((state: SplitterState) => void) | undefined;
  readonly onTrouble?: ((error: DriftmapError) => void) | undefined;
}

export interface SplitterState {
  readonly group: string;
  readonly state: Phase;
  /** Null while it streams. */
  readonly why: string | null;
  /** When this state began: ISO 8601, UTC. */
  readonly since: string;
  readonly connected: boolean;
  /** What the replica lacks, in whole blocks: what is left while it is resyncing. */
  readonly markedBytes: ByteCount;
  /** Data on its way. */
  readonly queuedBytes: ByteCount;
  /** Writes and marks so far, and up to which of them the journal has all. */
  readonly order: number;
  readonly acknowledged: number;
  /** The journal's sequence there. */
  readonly sequence: number;
  /** Seconds for which the journal has got nothing though something is on its way. */
  readonly lag: number;
  readonly falls: number;
  /** What resynchronization sent, and what it found equal. */
  readonly copiedBytes: ByteCount;
  readonly equalBytes: ByteCount;
  readonly disks: readonly SplitDiskState[];
}

export interface SplitDiskState {
  readonly name: string;
  readonly disk: string;
  /** Of the file or device, as `LogicalUnit.identity`. */
  readonly identity: string;
  readonly size: ByteCount;
  /** Where clients find it. */
  readonly uri: string;
  readonly connections: number;
  readonly markedBytes: ByteCount;
  /** What would be compared after a crash now. */
  readonly hotBytes: ByteCount;
  readonly writes: number;
  readonly writtenBytes: ByteCount;
  readonly failedWrites: number;
  /** Who follows its writes. */
  readonly watches: readonly WatchState[];
}

/** Regions that were not written to for so long, and are in the journal and flushed, are cleared. */
const COOL_MS = 5000;
/** The splitter's own flushes of a disk take this share of the time at most: the guest's writes go on beside them. */
const FLUSH_SHARE = 0.1;
const DRAIN_MS = 5000;

/**
 * Opens the disks, recovers what an earlier run left, and serves; streams as soon as the replica is reached.
 * @throws DriftmapError `policy` while another splitter has a disk or the folder; what opening and listening throw
 */
export async function openSplitter(options: SplitterOptions): Promise<Splitter> {
  const held = await hold(options.state, options.disks);
  let intents: Intents | null = null;
  let stamps: Stamps | null = null;
  try {
    const disks = options.disks.map(({ name }, i) => ({ name, unit: held.units[i]! }));
    const opened = openState(options.state, options.group, disks);
    intents = opened.intents;
    stamps = opened.stamps;
    const course = new Course({
      group: options.group,
      run: randomBytes(16).toString('hex'),
      intents,
      reach: options.reach,
      configuration: options.configuration,
      patience: options.patience ?? 10,
      longestPauseMs: options.longestPauseMs,
      onChange: () => splitter.changed(),
    });
    const splits = disks.map(
      ({ name, unit }, number) =>
        new SplitDisk({
          number,
          name,
          unit,
          intents: intents!,
          duplicator: course,
          marks: opened.marks[number]!,
          stamp: opened.stamps.disks[number]!,
        }),
    );
    const { notes } = opened;
    const splitter = new Splitter({ options, held, intents, stamps, course, disks: splits, notes });
    await splitter.serve();
    course.start(splits);
    return splitter;
  } catch (error) {
    await intents?.close();
    await stamps?.close();
    held.release();
    throw error;
  }
}

interface SplitterParts {
  readonly options: SplitterOptions;
  readonly held: Held;
  readonly intents: Intents;
  readonly stamps: Stamps;
  readonly course: Course;
  readonly disks: readonly SplitDisk[];
  readonly notes: readonly string[];
}

export class Splitter {
  /** What the user should know of what was found at opening, one line each. */
  readonly notes: readonly string[];
  private readonly parts: SplitterParts;
  private readonly servers: NbdServer[] = [];
  private readonly cooling: NodeJS.Timeout;
  /** The order number that had been acknowledged at the last round of cooling. */
  private cooledTo = 0;
  private isCooling: Promise<void> | null = null;
  /** By disk: when the splitter may flush it again, in milliseconds of `performance.now()`. */
  private readonly mayFlushAt = new Map<SplitDisk, number>();
  private closing: Promise<void> | null = null;
  private readonly watches: Watches;

  constructor(parts: SplitterParts) {
    this.parts = parts;
    this.watches = new Watches(parts.disks);
    this.notes = parts.notes;
    this.cooling = setInterval(() => void this.coolDown(), COOL_MS);
    this.cooling.unref();
  }

  async serve(): Promise<void> {
    const { options, disks } = this.parts;
    try {
      for (const [i, disk] of disks.entries()) {
        const { listen } = options.disks[i]!;
        const onTrouble = (error: DriftmapError) => options.onTrouble?.(error);
        this.servers.push(await serveNbd({ exports: { [disk.name]: disk }, listen, onTrouble }));
      }
    } catch (error) {
      clearInterval(this.cooling);
      await Promise.all(this.servers.map((server) => server.close()));
      throw error;
    }
  }

  state(): SplitterState {
    const { options, course, disks } = this.parts;
    const { queue } = course;
    return {
      group: options.group,
      state: course.phase,
      why: course.why,
      since: new Date(course.since).toISOString(),
      connected: course.isConnected,
      markedBytes: course.markedBytes,
      queuedBytes: queue.bytes,
      order: queue.next - 1,
      acknowledged: queue.acknowledged,
      sequence: course.sequence,
      lag: course.lag,
      falls: course.falls,
      copiedBytes: course.totals.copiedBytes,
      equalBytes: course.totals.equalBytes,
      disks: disks.map((disk, i) => this.diskState(disk, i)),
    };
  }

  private diskState(disk: SplitDisk, i: number): SplitDiskState {
    const { name, size, unit, marks, writes, writtenBytes, failedWrites, region, watches } = disk;
    const server = this.servers[i];
    let hot = 0;
    for (const at of this.parts.intents.hot(i)) hot += Math.min(region, size - at * region);
    return {
      name,
      disk: unit.name,
      identity: unit.identity,
      size,
      uri: server?.uri(name) ?? '',
      connections: server?.connections ?? 0,
      markedBytes: marks.bytes,
      hotBytes: hot,
      writes,
      writtenBytes,
      failedWrites,
      watches: watches.map((watch) => watch.state()),
    };
  }

  /** Names the moment, in the order of the stream. @throws DriftmapError `policy` unless it streams, `argument` for a name that is taken */
  bookmark(name: string, consistency: 'crash' | 'application' = 'crash'): Promise<Marked> {
    return this.parts.course.bookmark(name, consistency);
  }

  /**
   * Marks what is written to a disk from now on, until the watch is ended.
   * @param blockSize what a mark is about; a disk that is too large for it is marked in larger blocks
   * @throws DriftmapError `not-found` for a disk that is none, `argument` for the block size, `limit`
   */
  watch(disk: string, blockSize?: ByteCount): Watch {
    return this.watches.begin(disk, blockSize);
  }

  /** @throws DriftmapError `not-found` */
  findWatch(id: string): Watch {
    return this.watches.find(id);
  }

  /** Marks instead of streaming, until `resume`. */
  pause(): void {
    this.parts.course.pause();
  }

  resume(): void {
    this.parts.course.resume();
  }

  /** Asks the replica. @throws DriftmapError `io` when it is not connected, and what it says against it */
  async ask(what: string, body: unknown): Promise<unknown> {
    return this.parts.course.ask(what, body);
  }

  /** Stops serving, lets the journal have what is on its way for a while, and saves what is left as marks. Idempotent. */
  close(): Promise<void> {
    this.closing ??= this.shutDown();
    return this.closing;
  }

  changed(): void {
    this.parts.options.onChange?.(this.state());
  }

  private async shutDown(): Promise<void> {
    const { options, held, intents, stamps, course, disks } = this.parts;
    clearInterval(this.cooling);
    this.watches.endAll(new DriftmapError('aborted', 'the splitter is stopped'));
    await this.isCooling;
    await Promise.all(this.servers.map((server) => server.close()));
    stamps.settle();
    await course.close(options.drainMs ?? DRAIN_MS);
    try {
      for (const disk of disks) {
        await disk.flush();
        disk.suspectDoubtful();
      }
      await endState(options.state, { intents, disks, sequence: course.sequence });
    } catch (cause) {
      // The intents go on speaking: the next start compares more.
      options.onTrouble?.(systemError(cause, { path: options.state, operation: 'save the marks' }));
    } finally {
      await intents.close();
      await stamps.close();
      held.release();
    }
  }

  /** One round of cooling; called again meanwhile, it is the same round. */
  coolDown(): Promise<void> {
    this.isCooling ??= this.cool().finally(() => {
      this.isCooling = null;
    });
    return this.isCooling;
  }

  /**
   * Clears the intents of regions that nobody writes to any more, that the journal has all of, and that the disk has
   * flushed since: a write that is in the journal and was never flushed is lost to the disk alone when the power fails.
   */
  private async cool(): Promise<void> {
    const { intents, course, disks } = this.parts;
    const before = this.cooledTo;
    this.cooledTo = course.queue.acknowledged;
    const isSettled = (disk: SplitDisk, region: number) =>
      disk.touched[region]! <= before &&
      !disk.marks.hasIn(region * disk.region, Math.min(disk.region, disk.size - region * disk.region));
    const settled = (disk: SplitDisk, i: number) =>
      [...intents.hot(i)].filter((region) => isSettled(disk, region));
    await Promise.all(disks.map((disk, i) => this.flushFor(disk, settled(disk, i))));
    const coolable = () =>
      disks.map((disk, i) => settled(disk, i).filter((region) => disk.isDurable(region)));
    if (coolable().every((regions) => regions.length === 0)) return;
    try {
      await intents.conclude({ sequence: course.sequence });
    } catch {
      // Nothing is cleared while the folder cannot be written; writes to cold regions tell of it.
      return;
    }
    for (const [disk, regions] of coolable().entries()) intents.coolDown(disk, regions);
  }

  /** Flushes a disk whose guest does not, where that lets regions be cleared. */
  private async flushFor(disk: SplitDisk, regions: readonly number[]): Promise<void> {
    const began = performance.now();
    if (began < (this.mayFlushAt.get(disk) ?? 0) || !regions.some((region) => disk.needsFlush(region)))
      return;
    try {
      await disk.flushOwn();
    } catch (error) {
      // The regions are never cleared.
      this.parts.options.onTrouble?.(systemError(error, { path: disk.unit.name, operation: 'flush' }));
    }
    const ended = performance.now();
    this.mayFlushAt.set(disk, ended + (ended - began) * (1 / FLUSH_SHARE - 1));
  }
}
