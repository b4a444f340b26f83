/** Real processes: `driftmap protect` with its replica's child, and who writes through it. */

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { NbdUnit } from '../../../src/lu/nbd/nbd-unit.ts';
import { openNbdUnit } from '../../../src/lu/nbd/nbd-unit.ts';
import { askControl } from '../../../src/protect/group/control.ts';
import { readGroupFile } from '../../../src/protect/group/group-file.ts';
import { openReplicaGroup } from '../../../src/protect/replica/open-replica.ts';
import type { SplitterState } from '../../../src/protect/splitter/splitter.ts';
import { root } from '../../tools.ts';
import { urlOf } from '../nbd-peers.ts';
import { type DiskShape, makeFile } from './site.ts';

export const command = join(root, 'dist', 'lib', 'main.js');
const running = new Set<ChildProcess>();
afterAll(() => {
  for (const child of running) child.kill('SIGKILL');
});

export class Protected {
  readonly folder: string;
  readonly shapes: readonly DiskShape[];
  readonly file: string;
  child: ChildProcess | null = null;
  /** What it printed. */
  out = '';
  err = '';

  constructor(folder: string, shapes: readonly DiskShape[], more: { readonly state?: string } = {}) {
    mkdirSync(folder, { recursive: true });
    this.folder = folder;
    this.shapes = shapes;
    this.file = join(folder, 'group.json');
    for (const { name, size } of shapes) makeFile(this.disk(name), size);
    const production = {
      state: more.state ?? 'state',
      disks: Object.fromEntries(
        shapes.map(({ name }) => [name, { disk: `${name}.raw`, socket: `${name}.sock` }]),
      ),
    };
    const replica = {
      journal: 'journal',
      disks: Object.fromEntries(shapes.map(({ name }) => [name, `${name}.replica`])),
    };
    writeFileSync(this.file, JSON.stringify({ group: 'test', production, replica }));
  }

  disk(name: string): string {
    return join(this.folder, `${name}.raw`);
  }
  url(name: string): string {
    return urlOf(join(this.folder, `${name}.sock`), name);
  }
  client(name: string): Promise<NbdUnit> {
    return openNbdUnit(this.url(name), { write: true }) as Promise<NbdUnit>;
  }

  /** Returns once clients can connect. */
  async start(...options: string[]): Promise<void> {
    const child = spawn(process.execPath, [command, 'protect', this.file, ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running.add(child);
    child.once('exit', () => running.delete(child));
    this.out = '';
    child.stdout.on('data', (text) => {
      this.out += text;
    });
    child.stderr.on('data', (text) => {
      this.err += text;
    });
    this.child = child;
    for (let tries = 0; this.out.split('\n').length <= this.shapes.length; tries++) {
      if (tries > 1500 || child.exitCode !== null)
        throw new Error(`protect does not serve: ${this.out}${this.err}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async state(): Promise<SplitterState> {
    const asked = await askControl(join(this.folder, 'state', 'control.sock'), 'GET /state');
    if (asked === null) throw new Error(`nobody listens: ${this.err}`);
    return asked.answer as SplitterState;
  }

  async until(isTrue: (state: SplitterState) => boolean, what: string, seconds = 30): Promise<SplitterState> {
    for (const end = performance.now() + seconds * 1000; ; ) {
      const state = await this.state();
      if (isTrue(state)) return state;
      if (performance.now() > end)
        throw new Error(`${what}: not within ${seconds} s: ${JSON.stringify(state)}\n${this.err}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  streaming(): Promise<SplitterState> {
    return this.until(
      (state) => state.state === 'streaming' && state.acknowledged === state.order,
      'streaming',
    );
  }

  /** The replica's process; null where there is none at this moment. */
  replicaPid(): number | null {
    const pid = this.child?.pid;
    if (pid === undefined) return null;
    try {
      const [first] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
      return first === undefined || first === '' ? null : Number(first);
    } catch {
      return null;
    }
  }

  /** Ends it, and waits until it and the replica's process are gone. @returns its exit status */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const { child } = this;
    if (child === null) return null;
    const replica = this.replicaPid();
    const ended = new Promise<number | null>((resolve) => child.once('exit', (status) => resolve(status)));
    child.kill(signal);
    const status = await ended;
    this.child = null;
    if (replica !== null) await gone(replica);
    return status;
  }
}

const PAGE = 4096;
/** Blocks in which the replica, as its journal has it, is another than production. */
export async function differing(group: Protected): Promise<{ disk: number; offset: number }[]> {
  const replica = await openReplicaGroup(readGroupFile(group.file));
  try {
    const found: { disk: number; offset: number }[] = [];
    for (const [disk, { name, size }] of group.shapes.entries()) {
      const unit = replica.journal.newest(name);
      const there = Buffer.alloc(size);
      await unit.read(0, there);
      await unit.close();
      const here = readFileSync(group.disk(name));
      for (let offset = 0; offset < size; offset += PAGE) {
        if (Buffer.compare(here.subarray(offset, offset + PAGE), there.subarray(offset, offset + PAGE)) !== 0)
          found.push({ disk, offset });
      }
    }
    return found;
  } finally {
    await replica.close();
  }
}

export async function gone(pid: number): Promise<void> {
  for (let tries = 0; tries < 1000; tries++) {
    try {
      // One that has ended and that nobody has waited for holds nothing.
      if (/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) return;
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`process ${pid} does not end`);
}
