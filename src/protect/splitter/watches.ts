/**
 * Watches: somebody follows what is written to a disk, as a live sync does, by a set of marks of his own that he takes
 * as often as he likes. They have nothing to do with what the replica of the group lacks.
 *
 * No write is lost between two who work at the same disk without a lock, and this is why. A write, or a piece of a
 * zeroing that goes on in turns, is put on the disk and marked in one turn of this thread; beginning a watch is one
 * turn, and taking its marks is one. So of a write and a take one is first:
 *
 *   the write   its bytes are on the disk when the take is answered, and whoever reads the disk after that, by its path
 *               or by the export, finds them: both go through the same page cache of this host
 *   the take    the write is marked for the next
 *
 * The same holds of a write and the beginning: who begins to read after it was answered reads all that is not marked,
 * whether it was acknowledged long ago or not yet. A write that fails, or a hole that could be made only in part, is
 * marked too: what the disk has there then may be new.
 *
 * Marks live as long as the watch, the watch as long as the request that began it (`control-routes.ts`). Both are in
 * memory: after a restart nobody knows what was written meanwhile, so a watch is never taken up again, and its
 * name, which is random, is nobody's any more.
 */

import { randomBytes } from 'node:crypto';
import { DriftmapError } from '../../base/errors.ts';
import { DEFAULT_BLOCK_SIZE } from '../../base/limits.ts';
import {
  MAX_WATCHES,
  WATCH_BYTES,
  WATCH_MAX_BLOCKS,
  WATCHES_PER_DISK,
} from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { LiveMarks } from '../../bitmap/live-marks.ts';

export interface WatchState {
  /** What the watch is called: 32 hexadecimal digits. */
  readonly watch: string;
  /** ISO 8601, UTC. */
  readonly since: string;
  readonly takes: number;
  /** Since the last take. */
  readonly writtenBytes: ByteCount;
}

/** What is watched: the splitter's `SplitDisk`. */
export interface WatchedDisk {
  readonly name: string;
  readonly size: ByteCount;
  readonly watches: Watch[];
}

export class Watch {
  readonly id = randomBytes(16).toString('hex');
  readonly disk: string;
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** So far. */
  takes = 0;
  private readonly since = new Date().toISOString();
  private marks: LiveMarks;
  private writtenBytes = 0;
  private readonly ending = new AbortController();

  constructor(disk: string, size: ByteCount, blockSize: ByteCount) {
    this.disk = disk;
    this.size = size;
    // Checks the block size before it is reckoned with.
    LiveMarks.create(0, blockSize);
    let larger = blockSize;
    while (size / larger > WATCH_MAX_BLOCKS) larger *= 2;
    this.blockSize = larger;
    this.marks = this.none();
  }

  /** Aborted, with a DriftmapError as its reason, when it has ended: marks are lost from then on. */
  get ended(): AbortSignal {
    return this.ending.signal;
  }

  state(): WatchState {
    const { id: watch, since, takes, writtenBytes } = this;
    return { watch, since, takes, writtenBytes };
  }

  /** Was written, or may have been, in this turn. */
  mark(offset: ByteOffset, length: ByteCount): void {
    this.marks.markDirty(offset, length);
    this.writtenBytes += length;
  }

  /**
   * The blocks that were marked since the last take, or the beginning; from this turn on none is. These marks are the
   * caller's, and nobody sets any more of them.
   * @throws DriftmapError why it has ended
   */
  take(): LiveMarks {
    if (this.ended.aborted) throw this.ended.reason;
    const { marks } = this;
    this.marks = this.none();
    this.writtenBytes = 0;
    this.takes++;
    return marks;
  }

  /** Idempotent. */
  end(reason: DriftmapError): void {
    if (!this.ended.aborted) this.ending.abort(reason);
  }

  private none(): LiveMarks {
    return LiveMarks.create(this.size, this.blockSize, WATCH_BYTES);
  }
}

/** Those of all disks of a splitter. */
export class Watches {
  private readonly disks: readonly WatchedDisk[];

  constructor(disks: readonly WatchedDisk[]) {
    this.disks = disks;
  }

  /** @throws DriftmapError `not-found`, `argument`, `limit` */
  begin(name: string, blockSize: ByteCount = DEFAULT_BLOCK_SIZE): Watch {
    const disk = this.disks.find((one) => one.name === name);
    if (disk === undefined) {
      const names = this.disks.map((one) => `'${one.name}'`).join(', ');
      throw new DriftmapError('not-found', `the group has no disk '${name}'; it has ${names}`);
    }
    const all = this.disks.reduce((sum, { watches }) => sum + watches.length, 0);
    if (disk.watches.length >= WATCHES_PER_DISK || all >= MAX_WATCHES) {
      const reason = `expected at most ${WATCHES_PER_DISK} watches of a disk and ${MAX_WATCHES} of a group: end one (state shows them)`;
      throw new DriftmapError('limit', reason, { path: name });
    }
    const watch = new Watch(name, disk.size, blockSize);
    disk.watches.push(watch);
    const remove = () => disk.watches.splice(disk.watches.indexOf(watch), 1);
    watch.ended.addEventListener('abort', remove, { once: true });
    return watch;
  }

  /** @throws DriftmapError `not-found` */
  find(id: string): Watch {
    for (const { watches } of this.disks) {
      const found = watches.find((watch) => watch.id === id);
      if (found !== undefined) return found;
    }
    const reason =
      'there is no such watch: it has ended, or the splitter was started anew, and what was written since is marked nowhere';
    throw new DriftmapError('not-found', reason);
  }

  endAll(reason: DriftmapError): void {
    for (const { watches } of this.disks) for (const watch of [...watches]) watch.end(reason);
  }
}
