/**
 * A disk of a snapshot as a logical unit, straight from the store: blocks are fetched when they are read, zeros are
 * known from the pages without asking, and whoever reads on finds the next blocks on their way already.
 */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_PAGES_KEPT } from '../base/protection-limits.ts';
import type { BlockIndex, ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { blockAt, blocksTouching, MiB } from '../base/units.ts';
import type { LogicalUnit, UnitExtent, UnitHandle } from '../lu/logical-unit.ts';
import { checkRange } from '../lu/ranges.ts';
import { BlockLoader } from './block-loader.ts';
import type { SnapshotDisk, SnapshotInfo } from './manifest.ts';
import type { ObjectCache } from './object-cache.ts';
import { PAGE_BLOCKS, ROOT_BLOCKS } from './page.ts';
import type { Repository } from './repository.ts';
import { lengthOfBlock, TreeReader } from './tree.ts';

export interface SnapshotDiskOptions {
  /** Objects on their way at a time; 16 when absent. */
  readonly connections?: number | undefined;
  /** Blocks kept in memory; 64 MiB when absent. */
  readonly memoryBytes?: ByteCount | undefined;
  /** Objects kept on this host; several disks may share one. */
  readonly cache?: ObjectCache | null | undefined;
  /** Fetched beyond what is read in order, at most; 4 MiB when absent, 0 for none. */
  readonly readAheadBytes?: ByteCount | undefined;
}

const MEMORY = 64 * MiB;
const READ_AHEAD = 4 * MiB;
/** Readers in order that are told apart: `nbdcopy` has four, a guest a few. */
const STREAMS = 16;
const EXTENTS_PER_ANSWER = 1024;
/** Blocks of zeros looked at for one answer: pages are small, roots of zeros cost nothing. */
const PAGES_PER_ANSWER = 64;

export class SnapshotUnit implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly canWrite = false;
  readonly snapshot: SnapshotInfo;
  private readonly tree: TreeReader;
  private readonly roots: SnapshotDisk['roots'];
  private readonly loader: BlockLoader;
  private readonly blockSize: ByteCount;
  private readonly mostAhead: number;
  /** Block that a reader in order reads next → blocks to have on their way before it; the newest last. */
  private readonly streams = new Map<BlockIndex, number>();
  private closed = false;

  constructor(
    repository: Repository,
    snapshot: SnapshotInfo,
    disk: SnapshotDisk,
    options: SnapshotDiskOptions,
  ) {
    const { connections, memoryBytes = MEMORY, cache = null, readAheadBytes = READ_AHEAD } = options;
    this.snapshot = snapshot;
    this.name = `<${snapshot.group}/${disk.name} of snapshot ${snapshot.id.slice(0, 8)}>`;
    this.size = disk.size;
    this.identity = `snapshot:${repository.id}:${snapshot.id}:${disk.name}`;
    this.blockSize = repository.blockSize;
    this.mostAhead = Math.floor(readAheadBytes / repository.blockSize);
    this.loader = new BlockLoader(repository, { connections, memoryBytes, cache });
    this.roots = disk.roots;
    this.tree = new TreeReader(repository, disk, SNAPSHOT_PAGES_KEPT, this.loader.options);
  }

  /** Objects that came from the store itself. */
  get fetchedObjects(): number {
    return this.loader.fetched;
  }

  generation(): string {
    this.checkOpen('stat');
    return `snapshot ${this.snapshot.id}`;
  }

  async read(offset: ByteOffset, target: Uint8Array): Promise<undefined> {
    const range = { offset, length: target.length };
    checkRange(this, range, 'read');
    this.checkOpen('read');
    if (target.length === 0) return undefined;
    const { start, end } = blocksTouching(range, this.blockSize);
    const waits: Promise<void>[] = [];
    for (let block = start; block < end; block++) waits.push(this.readBlock(block, range, target));
    this.readAhead(start, end, blockAt(offset + target.length, this.blockSize));
    await Promise.all(waits);
    return undefined;
  }

  private async readBlock(block: BlockIndex, { offset }: ByteRange, target: Uint8Array): Promise<void> {
    const at = block * this.blockSize;
    const from = Math.max(offset, at);
    const length = lengthOfBlock(block, this.blockSize, this.size);
    const part = target.subarray(from - offset, Math.min(at + length - offset, target.length));
    const signature = await this.signatureOf(block);
    if (signature === null) part.fill(0);
    else part.set((await this.loader.load(signature, length)).subarray(from - at, from - at + part.length));
  }

  private async signatureOf(block: BlockIndex): Promise<Uint8Array | null> {
    const page = await this.tree.page(Math.floor(block / PAGE_BLOCKS));
    return page?.at(block % PAGE_BLOCKS) ?? null;
  }

  /** A reader in order has twice as many blocks on their way each time it goes on. */
  private readAhead(start: BlockIndex, end: BlockIndex, next: BlockIndex): void {
    const known = this.streams.get(start);
    this.streams.delete(start);
    const isOn = known !== undefined && next > start;
    const ahead = known === undefined ? 0 : isOn ? Math.min(Math.max(2 * known, 2), this.mostAhead) : known;
    this.streams.set(next, ahead);
    for (const oldest of this.streams.keys()) {
      if (this.streams.size <= STREAMS) break;
      this.streams.delete(oldest);
    }
    if (!isOn) return;
    const blocks = Math.ceil(this.size / this.blockSize);
    for (let block = end; block < Math.min(end + ahead, blocks) && this.loader.isIdle; block++)
      // Whoever reads it then gets the error.
      void this.bringAhead(block).catch(() => undefined);
  }

  private async bringAhead(block: BlockIndex): Promise<void> {
    const signature = await this.signatureOf(block);
    if (signature !== null)
      await this.loader.load(signature, lengthOfBlock(block, this.blockSize, this.size), true);
  }

  write(offset: ByteOffset, source: Uint8Array): undefined {
    checkRange(this, { offset, length: source.length }, 'write');
    throw this.readOnly('write');
  }

  zero(range: ByteRange): undefined {
    checkRange(this, range, 'zero');
    throw this.readOnly('zero');
  }

  flush(): undefined {
    this.checkOpen('flush');
  }

  async extents(range: ByteRange, limit = EXTENTS_PER_ANSWER): Promise<readonly UnitExtent[]> {
    checkRange(this, range, 'extents');
    this.checkOpen('extents');
    const end = range.offset + range.length;
    const found: UnitExtent[] = [];
    const most = Math.max(1, Math.min(limit, EXTENTS_PER_ANSWER));
    let pages = 0;
    for (let at = range.offset; at < end; ) {
      const run = await this.runAt(at);
      const to = Math.min(run.end, end);
      const last = found.at(-1);
      if (last?.kind === run.kind) found[found.length - 1] = { ...last, length: to - last.offset };
      else if (found.length === most) return found;
      else found.push({ offset: at, length: to - at, kind: run.kind });
      at = to;
      if (run.end % (PAGE_BLOCKS * this.blockSize) === 0 && ++pages >= PAGES_PER_ANSWER) return found;
    }
    return found;
  }

  /** The run at an offset, within its page, or its root where that is all zero. */
  private async runAt(offset: ByteOffset): Promise<{ kind: 'data' | 'zero'; end: ByteOffset }> {
    const block = blockAt(offset, this.blockSize);
    const endOf = (to: BlockIndex) => Math.min(to * this.blockSize, this.size);
    const root = Math.floor(block / ROOT_BLOCKS);
    if ((this.roots[root] ?? null) === null) return { kind: 'zero', end: endOf((root + 1) * ROOT_BLOCKS) };
    const page = await this.tree.page(Math.floor(block / PAGE_BLOCKS));
    const pageEnd = (Math.floor(block / PAGE_BLOCKS) + 1) * PAGE_BLOCKS;
    if (page === null) return { kind: 'zero', end: endOf(pageEnd) };
    const isThere = page.has(block % PAGE_BLOCKS);
    let to = block + 1;
    while (to < pageEnd && page.has(to % PAGE_BLOCKS) === isThere) to++;
    return { kind: isThere ? 'data' : 'zero', end: endOf(to) };
  }

  handle(): UnitHandle {
    const reason = 'a disk of a snapshot is of one thread: read it there, or export it';
    throw new DriftmapError('unsupported', reason, { path: this.name, operation: 'handle' });
  }

  close(): undefined {
    if (this.closed) return;
    this.closed = true;
    this.loader.close();
  }

  private readOnly(operation: string): DriftmapError {
    this.checkOpen(operation);
    const reason = 'expected an overlay to write to: a snapshot does not change';
    return new DriftmapError('permission', reason, { path: this.name, operation });
  }

  private checkOpen(operation: string): void {
    if (!this.closed) return;
    throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
  }
}

/** @throws DriftmapError `not-found` when the snapshot has no such disk */
export function openSnapshotDisk(
  repository: Repository,
  snapshot: SnapshotInfo,
  name: string,
  options: SnapshotDiskOptions = {},
): SnapshotUnit {
  return new SnapshotUnit(repository, snapshot, diskOf(snapshot, name), options);
}

/** @throws DriftmapError `not-found` */
export function diskOf(snapshot: SnapshotInfo, name: string): SnapshotDisk {
  const disk = snapshot.disks.find((one) => one.name === name);
  if (disk !== undefined) return disk;
  const names = snapshot.disks.map((one) => one.name).join(', ');
  const reason = `the snapshot has no disk '${name}': it has ${names}`;
  throw new DriftmapError('not-found', reason, { path: snapshot.id.slice(0, 8) });
}
