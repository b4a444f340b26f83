/**
 * A folder of files in memory that forgets: what was not flushed may be lost when the power fails, wholly or in
 * part and in any order, as `src/journal/folder.ts` allows. It can also be full, or fail at a given call.
 */

import { DriftmapError } from '../../src/base/errors.ts';
import type { ByteRange } from '../../src/base/units.ts';
import type { JournalFile, JournalFolder } from '../../src/journal/folder.ts';
import type { Lock } from '../../src/journal/lock.ts';
import type { LogicalUnit, UnitExtent, UnitHandle } from '../../src/lu/logical-unit.ts';

const SECTOR = 512;

type Change =
  | { readonly kind: 'write'; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'truncate'; readonly size: number };

class Inode {
  /** What a reader sees. */
  bytes = new Uint8Array(0);
  /** What is durable, and what was done since. */
  durable = new Uint8Array(0);
  changes: Change[] = [];

  apply(change: Change): void {
    this.bytes = applied(this.bytes, change);
    this.changes.push(change);
  }

  flush(): void {
    this.durable = this.bytes.slice();
    this.changes = [];
  }

  /** After the power failed: each change is there, or not, or some sectors of it are. */
  crash(random: (below: number) => number): void {
    let { durable } = this;
    for (const change of this.changes) {
      const fate = random(3);
      if (fate === 0) continue;
      if (change.kind === 'truncate' || fate === 1) {
        durable = applied(durable, change);
        continue;
      }
      for (let at = 0; at < change.bytes.length; ) {
        const end = Math.min(change.bytes.length, at + SECTOR - ((change.offset + at) % SECTOR));
        if (random(2) === 0) {
          durable = applied(durable, {
            kind: 'write',
            offset: change.offset + at,
            bytes: change.bytes.slice(at, end),
          });
        }
        at = end;
      }
    }
    this.durable = durable;
    this.bytes = durable.slice();
    this.changes = [];
  }
}

function applied(before: Uint8Array, change: Change): Uint8Array<ArrayBuffer> {
  if (change.kind === 'truncate') {
    const shorter = new Uint8Array(change.size);
    shorter.set(before.subarray(0, change.size));
    return shorter;
  }
  const end = change.offset + change.bytes.length;
  const longer = new Uint8Array(Math.max(before.length, end));
  longer.set(before);
  longer.set(change.bytes, change.offset);
  return longer;
}

type Renaming = (names: Map<string, Inode>) => void;

export class SimFolder implements JournalFolder {
  readonly path = '<sim>';
  names = new Map<string, Inode>();
  private durableNames = new Map<string, Inode>();
  private renamings: Renaming[] = [];
  /** Bytes that all files together may take. */
  capacity = Number.POSITIVE_INFINITY;
  /** Calls that change something, so far; and at which of them the power fails. */
  calls = 0;
  failAt = Number.POSITIVE_INFINITY;
  /** Flushes fail, as of a broken disk. */
  failSyncs = false;
  private locked = false;

  /** Counts a call; throws once the power has failed. */
  step(): void {
    this.calls++;
    if (this.calls >= this.failAt)
      throw new DriftmapError('io', 'the power failed (planted)', { path: this.path });
  }

  /** What the next start finds. */
  crashed(random: (below: number) => number): SimFolder {
    const after = new SimFolder();
    const names = new Map(this.durableNames);
    // Names are kept in order: a file system's own journal sees to that.
    const kept = random(this.renamings.length + 1);
    for (const renaming of this.renamings.slice(0, kept)) renaming(names);
    const copies = new Map<Inode, Inode>();
    for (const [name, inode] of names) {
      let copy = copies.get(inode);
      if (copy === undefined) {
        copy = new Inode();
        copy.durable = inode.durable.slice();
        copy.bytes = inode.bytes.slice();
        copy.changes = [...inode.changes];
        copy.crash(random);
        copies.set(inode, copy);
      }
      after.names.set(name, copy);
    }
    after.durableNames = new Map(after.names);
    return after;
  }

  /** The same files, all of them durable. */
  copy(): SimFolder {
    const after = new SimFolder();
    for (const [name, { bytes }] of this.names) after.put(name, bytes);
    return after;
  }

  put(name: string, bytes: Uint8Array): void {
    const inode = new Inode();
    inode.bytes = bytes.slice();
    inode.flush();
    this.names.set(name, inode);
    this.durableNames.set(name, inode);
  }

  get(name: string): Uint8Array {
    return this.names.get(name)!.bytes;
  }

  get used(): number {
    return [...this.names.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  list(): readonly string[] {
    return [...this.names.keys()];
  }

  create(name: string): JournalFile {
    this.step();
    const inode = new Inode();
    this.renamed((names) => names.set(name, inode));
    return this.fileOf(name, inode);
  }

  open(name: string): JournalFile {
    return this.fileOf(name, this.inode(name, 'open'));
  }

  load(name: string, most: number): Uint8Array {
    const { bytes } = this.inode(name, 'read');
    if (bytes.length > most)
      throw new DriftmapError('limit', `expected at most ${most} bytes`, { path: name });
    return bytes.slice();
  }

  replace(name: string, bytes: Uint8Array): void {
    this.step();
    this.room(bytes.length - (this.names.get(name)?.bytes.length ?? 0));
    const inode = new Inode();
    inode.bytes = bytes.slice();
    inode.flush();
    this.renamed((names) => names.set(name, inode));
    this.flushNames();
  }

  rename(from: string, to: string): void {
    this.step();
    const inode = this.inode(from, 'rename');
    this.renamed((names) => {
      names.delete(from);
      names.set(to, inode);
    });
  }

  remove(name: string): void {
    this.step();
    this.inode(name, 'remove');
    this.renamed((names) => names.delete(name));
  }

  sync(): void {
    this.step();
    this.flushNames();
  }

  stamp(): string {
    return String(this.calls);
  }

  lock(): Lock {
    if (this.locked)
      throw new DriftmapError('policy', 'this journal is open for writing', { path: this.path });
    this.locked = true;
    return {
      release: () => {
        this.locked = false;
      },
    };
  }

  room(more: number): void {
    if (this.used + more <= this.capacity) return;
    throw new DriftmapError('io', 'write failed: no space left on device [ENOSPC]', { path: this.path });
  }

  private renamed(renaming: Renaming): void {
    renaming(this.names);
    this.renamings.push(renaming);
  }

  private flushNames(): void {
    this.durableNames = new Map(this.names);
    this.renamings = [];
  }

  private inode(name: string, operation: string): Inode {
    const inode = this.names.get(name);
    if (inode) return inode;
    throw new DriftmapError('not-found', 'no such file or directory', { path: name, operation });
  }

  private fileOf(name: string, inode: Inode): JournalFile {
    const path = `${this.path}/${name}`;
    return {
      path,
      size: () => inode.bytes.length,
      read: (offset, target) => {
        const piece = inode.bytes.subarray(offset, offset + target.length);
        if (piece.length < target.length) {
          throw new DriftmapError('io', 'the file of the journal ends here', {
            path,
            offset,
            operation: 'read',
          });
        }
        target.set(piece);
      },
      write: async (offset, bytes) => {
        await Promise.resolve();
        this.step();
        this.room(Math.max(0, offset + bytes.length - inode.bytes.length));
        inode.apply({ kind: 'write', offset, bytes: bytes.slice() });
      },
      sync: async () => {
        await Promise.resolve();
        this.step();
        if (this.failSyncs)
          throw new DriftmapError('io', 'flush failed (planted)', { path, operation: 'flush' });
        inode.flush();
      },
      truncate: (size) => {
        this.step();
        inode.apply({ kind: 'truncate', size });
      },
      close: () => {},
    };
  }
}

/**
 * A disk in memory whose writes may be lost, as a folder's, when they were not flushed. It waits, as a disk over a
 * network does.
 */
export class SimDisk implements LogicalUnit {
  readonly name: string;
  readonly canWrite = true;
  readonly identity: string;
  /** Told of each call that changes something, before it does. */
  step: () => void = () => {};
  private readonly inode = new Inode();

  constructor(name: string, size: number) {
    this.name = name;
    this.identity = `sim:${name}`;
    this.inode.apply({ kind: 'truncate', size });
    this.inode.flush();
  }

  get size(): number {
    return this.inode.bytes.length;
  }
  get bytes(): Uint8Array {
    return this.inode.bytes;
  }

  crashed(random: (below: number) => number): SimDisk {
    const after = new SimDisk(this.name, 0);
    after.inode.durable = this.inode.durable.slice();
    after.inode.changes = [...this.inode.changes];
    after.inode.crash(random);
    return after;
  }

  generation(): string {
    return 'live';
  }
  async read(offset: number, target: Uint8Array): Promise<undefined> {
    await Promise.resolve();
    target.set(this.inode.bytes.subarray(offset, offset + target.length));
  }
  async write(offset: number, source: Uint8Array): Promise<undefined> {
    const bytes = source.slice();
    await Promise.resolve();
    this.step();
    this.inode.apply({ kind: 'write', offset, bytes });
  }
  zero({ offset, length }: ByteRange): Promise<undefined> {
    return this.write(offset, new Uint8Array(length));
  }
  async flush(): Promise<undefined> {
    await Promise.resolve();
    this.step();
    this.inode.flush();
  }
  extents(range: ByteRange): readonly UnitExtent[] {
    return range.length === 0 ? [] : [{ ...range, kind: 'data' }];
  }
  handle(): UnitHandle {
    throw new Error('of one thread');
  }
  close(): undefined {
    return undefined;
  }
}
