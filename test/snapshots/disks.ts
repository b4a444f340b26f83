/** Disks in memory for snapshots, and repositories over stores in memory. */

import { DriftmapError } from '../../src/base/errors.ts';
import type { ByteRange } from '../../src/base/units.ts';
import type { LogicalUnit, UnitExtent } from '../../src/lu/logical-unit.ts';
import type { SnapshotDiskSource } from '../../src/snapshots/disk-taker.ts';
import type { SnapshotInfo } from '../../src/snapshots/manifest.ts';
import {
  type CreateRepositoryOptions,
  createRepository,
  type Repository,
} from '../../src/snapshots/repository.ts';
import { openSnapshotDisk } from '../../src/snapshots/snapshot-unit.ts';
import { type TakenSnapshot, type TakeOptions, takeSnapshot } from '../../src/snapshots/take.ts';
import type { ObjectStore } from '../../src/store/object-store.ts';

export const KIB = 1024;
export const BLOCK = 4 * KIB;

/** Plain bytes as a unit. Zeros of whole `grain`s are holes. */
export class MemoryUnit implements LogicalUnit {
  readonly name: string;
  readonly size: number;
  readonly identity: string;
  readonly canWrite = true;
  readonly bytes: Uint8Array;
  bytesRead = 0;
  flushes = 0;
  private readonly grain: number;

  constructor(bytes: Uint8Array, name = '<memory>', grain = BLOCK) {
    this.name = name;
    this.bytes = bytes;
    this.size = bytes.length;
    this.identity = name;
    this.grain = grain;
  }

  generation(): string {
    return 'live';
  }
  read(offset: number, target: Uint8Array): undefined {
    if (offset + target.length > this.size) throw new DriftmapError('argument', 'out of range');
    this.bytesRead += target.length;
    target.set(this.bytes.subarray(offset, offset + target.length));
  }
  write(offset: number, source: Uint8Array): undefined {
    this.bytes.set(source, offset);
  }
  zero({ offset, length }: ByteRange): undefined {
    this.bytes.fill(0, offset, offset + length);
  }
  flush(): undefined {
    this.flushes++;
  }
  extents({ offset, length }: ByteRange, limit = 64): readonly UnitExtent[] {
    const found: UnitExtent[] = [];
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const to = Math.min(Math.floor(at / this.grain + 1) * this.grain, end);
      const kind = this.bytes.subarray(at, to).every((byte) => byte === 0) ? 'zero' : 'data';
      const last = found.at(-1);
      if (last?.kind === kind) found[found.length - 1] = { ...last, length: to - last.offset };
      else if (found.length === limit) break;
      else found.push({ offset: at, length: to - at, kind });
      at = to;
    }
    return found;
  }
  handle(): never {
    throw new DriftmapError('unsupported', 'of one thread');
  }
  close(): undefined {}
}

export function source(
  name: string,
  unit: LogicalUnit,
  changed: Iterable<ByteRange> | null = null,
): SnapshotDiskSource {
  return { name, size: unit.size, unit, changed };
}

export function makeRepository(
  store: ObjectStore,
  options: CreateRepositoryOptions = {},
): Promise<Repository> {
  return createRepository(store, { blockSize: BLOCK, ...options });
}

export interface Taking extends TakeOptions {
  readonly group?: string;
  readonly parent?: SnapshotInfo | null;
  readonly time?: number;
  readonly sequence?: number;
}

export function take(
  repository: Repository,
  disks: readonly SnapshotDiskSource[],
  { group = 'web', parent = null, time = 1_000_000, sequence = 1, ...options }: Taking = {},
): Promise<TakenSnapshot> {
  const point = { sequence, time, consistency: 'crash', bookmark: null, journal: null } as const;
  return takeSnapshot(repository, { group, disks, point, parent, configuration: null }, options);
}

/** All bytes of a snapshot's disk, as the store has them. */
export async function bytesOf(
  repository: Repository,
  snapshot: SnapshotInfo,
  disk: string,
): Promise<Uint8Array> {
  const unit = openSnapshotDisk(repository, snapshot, disk);
  const bytes = new Uint8Array(unit.size);
  await unit.read(0, bytes);
  unit.close();
  return bytes;
}

/** Bytes as good as random, the same for one seed. */
export function noise(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed * 2654435761 + 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}
