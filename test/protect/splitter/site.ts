/** Two sites in this process: a splitter over real files, and a journal that its stream ends in. */

import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError } from '../../../src/base/errors.ts';
import type { Journal } from '../../../src/journal/journal.ts';
import { createJournal, openJournal } from '../../../src/journal/open.ts';
import { openFileUnit } from '../../../src/lu/file-unit.ts';
import type { LogicalUnit } from '../../../src/lu/logical-unit.ts';
import { openSplitter, type Splitter, type SplitterOptions } from '../../../src/protect/splitter/splitter.ts';
import { serveStream } from '../../../src/protect/stream/session.ts';
import type { Reached } from '../../../src/sync/connect.ts';
import { Connection } from '../../../src/wire/connection.ts';
import { greet, welcome } from '../../../src/wire/greeting.ts';
import { memoryPair, type Transport } from '../../../src/wire/transport.ts';
import { JournalTarget } from '../stream/journal-target.ts';

export interface DiskShape {
  readonly name: string;
  readonly size: number;
}

export function makeFile(path: string, size: number): string {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

/** What the network does. */
export interface Link {
  /** Nobody can connect while it is down. */
  down: boolean;
  /** Ends whatever connection there is. */
  cut(): void;
  /** Nothing arrives at the replica until it is thawed. */
  freeze(): void;
  thaw(): void;
}

export class Site {
  readonly folder: string;
  readonly shapes: readonly DiskShape[];
  readonly link: Link;
  journal: Journal | null = null;
  private units = new Map<string, LogicalUnit>();
  private target: JournalTarget | null = null;
  private connections: Connection[] = [];
  private transports: Transport[] = [];
  private frozen = false;
  private sessions: Promise<unknown>[] = [];

  constructor(folder: string, shapes: readonly DiskShape[]) {
    this.folder = folder;
    this.shapes = shapes;
    mkdirSync(folder, { recursive: true });
    for (const { name, size } of shapes) {
      makeFile(this.production(name), size);
      makeFile(this.replica(name), size);
    }
    this.link = {
      down: false,
      cut: () => {
        for (const connection of this.connections.splice(0))
          connection.fail(new DriftmapError('io', 'the cable was cut'));
      },
      freeze: () => {
        this.frozen = true;
        for (const transport of this.transports) transport.readable.pause();
      },
      thaw: () => {
        this.frozen = false;
        for (const transport of this.transports) transport.readable.resume();
      },
    };
  }

  production(name: string): string {
    return join(this.folder, `${name}.raw`);
  }
  replica(name: string): string {
    return join(this.folder, `${name}.replica`);
  }
  get state(): string {
    return join(this.folder, 'state');
  }
  bytes(name: string): Buffer {
    return readFileSync(this.production(name));
  }

  /** Opens the replica's journal, or makes it. */
  async startReplica(): Promise<Journal> {
    const at = join(this.folder, 'journal');
    this.units = new Map(
      this.shapes.map(({ name }) => [name, openFileUnit(this.replica(name), { write: true })]),
    );
    const made = { group: 'test', disks: this.shapes.map(({ name, size }) => ({ name, size })) };
    const isThere = await openJournal(at, { disks: this.units }).catch(() => null);
    this.journal = isThere ?? (await createJournal(at, made, { disks: this.units }));
    this.target = new JournalTarget(this.journal, this.units);
    return this.journal;
  }

  async stopReplica(): Promise<void> {
    this.link.cut();
    this.target = null;
    await Promise.allSettled(this.sessions.splice(0));
    await this.journal?.close();
    for (const unit of this.units.values()) await unit.close();
    this.journal = null;
  }

  async startSplitter(options: Partial<SplitterOptions> = {}): Promise<Splitter> {
    return openSplitter({
      group: 'test',
      state: this.state,
      disks: this.shapes.map(({ name }) => ({
        name,
        disk: this.production(name),
        listen: { socket: join(this.folder, `${name}.sock`) },
      })),
      reach: (signal) => this.reach(signal),
      drainMs: 300,
      longestPauseMs: 300,
      ...options,
    });
  }

  /** As `reachChild`, within this process. */
  private async reach(signal: AbortSignal): Promise<Reached> {
    const { target } = this;
    if (this.link.down || target === null) throw new DriftmapError('io', 'nobody listens there');
    const [near, far] = memoryPair();
    const client = new Connection(near, { deadAfterMs: 20_000 });
    const server = new Connection(far, { deadAfterMs: 20_000 });
    this.connections.push(client, server);
    this.transports.push(far);
    if (this.frozen) far.readable.pause();
    this.sessions.push(
      welcome(server)
        .then(() => serveStream(server, target))
        .catch(() => undefined),
    );
    signal.addEventListener('abort', () => client.fail(new DriftmapError('aborted', 'stopped')));
    await greet(client);
    return { connection: client, explain: async (cause) => cause, close: () => client.close() };
  }
}

/** Waits until something is true. */
export async function until(isTrue: () => boolean, what: string, seconds = 15): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !isTrue(); ) {
    if (performance.now() > end) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
