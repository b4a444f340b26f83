/**
 * Restores disks of a snapshot onto units. What a unit has already is signed first and not fetched, so a restore that
 * was stopped goes on where it was, and a disk that is nearly right takes little. Zeros become holes where the unit
 * can.
 */

import { DriftmapError } from '../base/errors.ts';
import { SNAPSHOT_BYTES_IN_FLIGHT } from '../base/limits.ts';
import type { BlockIndex, ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { bytesOfBlocks, MiB } from '../base/units.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { Crew, checkAborted } from './crew.ts';
import { holdSnapshot } from './draft.ts';
import { ExtentCursor } from './extent-cursor.ts';
import { hasher, NAME_BYTES } from './hasher.ts';
import type { SnapshotDisk, SnapshotInfo } from './manifest.ts';
import { PAGE_BLOCKS, type Page, placesOfPage, treeShape } from './page.ts';
import type { Repository } from './repository.ts';
import { diskOf } from './snapshot-unit.ts';
import { lengthOfBlock, TreeReader } from './tree.ts';

export interface RestoreTarget {
  /** Name of a disk of the snapshot. */
  readonly disk: string;
  /** As large as the disk, and writable. */
  readonly unit: LogicalUnit;
  /** Whether it is known to read as zeros: nothing of it is read then. */
  readonly isEmpty: boolean;
}

export interface RestoreProgress {
  readonly totalBytes: ByteCount;
  readonly doneBytes: ByteCount;
  readonly bytesFetched: ByteCount;
  readonly bytesPerSecond: number;
  readonly secondsLeft: number | undefined;
}

export interface RestoreOptions {
  readonly connections?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: RestoreProgress) => void) | undefined;
}

export interface Restored {
  /** Unpacked bytes of blocks that came from the store. */
  readonly bytesFetched: ByteCount;
  /** Of blocks that were there already. */
  readonly bytesKept: ByteCount;
  /** Made zero. */
  readonly bytesZeroed: ByteCount;
  readonly milliseconds: number;
}

const PIECE = 2 * MiB;
const PROGRESS_MS = 100;
const PAGES = 4;

/**
 * Brings units to what the snapshot's disks are; durable when it returns. When it throws, the units hold some of
 * both, and the same call goes on from there.
 * @throws DriftmapError `argument`, `mismatch` (sizes), `not-found`, `malformed` (objects), `aborted`, and what units throw
 */
export async function restoreSnapshot(
  repository: Repository,
  snapshot: SnapshotInfo,
  targets: readonly RestoreTarget[],
  options: RestoreOptions = {},
): Promise<Restored> {
  const run = new RestoreRun(repository, options);
  const disks = targets.map((target) => {
    const disk = diskOf(snapshot, target.disk);
    const { unit } = target;
    if (unit.size !== disk.size)
      throw new DriftmapError('mismatch', `expected ${disk.size} bytes, as the disk has, got ${unit.size}`, {
        path: unit.name,
      });
    if (!unit.canWrite)
      throw new DriftmapError('permission', 'expected a unit to write to', { path: unit.name });
    run.totalBytes += disk.size;
    return { disk, target };
  });
  const release = await holdSnapshot(repository, snapshot, options.signal);
  try {
    for (const { disk, target } of disks) await run.restoreDisk(disk, target);
    await run.crew.done();
    for (const { target } of disks) await target.unit.flush();
  } catch (error) {
    await run.crew.abandon(error);
    throw error;
  } finally {
    await release();
  }
  return run.result();
}

class RestoreRun {
  readonly crew: Crew;
  totalBytes: ByteCount = 0;
  private readonly repository: Repository;
  private readonly options: RestoreOptions;
  private readonly began = performance.now();
  private toldAt = 0;
  private doneBytes: ByteCount = 0;
  private bytesFetched: ByteCount = 0;
  private bytesKept: ByteCount = 0;
  private bytesZeroed: ByteCount = 0;

  constructor(repository: Repository, options: RestoreOptions) {
    const { connections, signal } = options;
    this.repository = repository;
    this.options = options;
    this.crew = new Crew({ connections, signal, bytes: SNAPSHOT_BYTES_IN_FLIGHT });
  }

  async restoreDisk(disk: SnapshotDisk, target: RestoreTarget): Promise<undefined> {
    const { repository, crew } = this;
    const shape = treeShape(disk.size, repository.blockSize);
    const tree = new TreeReader(repository, disk, PAGES, { signal: crew.signal });
    const part = new DiskPart(repository, disk, target.unit);
    for (let page = 0; page < shape.pages; page++) {
      const wanted = await tree.page(page);
      const first = page * PAGE_BLOCKS;
      const end = first + placesOfPage(shape, page);
      if (target.isEmpty) {
        if (wanted !== null) await this.fill(part, wanted, first, end);
        this.doneBytes += bytesOfBlocks({ start: first, end }, repository.blockSize, disk.size).length;
      } else {
        await this.compare(part, wanted, first, end);
      }
      await this.step();
    }
    return undefined;
  }

  /** The unit is all zero there. */
  private async fill(part: DiskPart, page: Page, first: BlockIndex, end: BlockIndex): Promise<undefined> {
    for (let block = first; block < end; block++) {
      const signature = page.at(block - first);
      if (signature !== null) await this.bring(part, block, signature);
    }
    return undefined;
  }

  /** Signs what is there; brings what is another block, and makes zero what is to be. */
  private async compare(
    part: DiskPart,
    page: Page | null,
    first: BlockIndex,
    end: BlockIndex,
  ): Promise<undefined> {
    const { blockSize } = this.repository;
    for (let block = first; block < end; ) {
      const to = Math.min(block + part.most, end);
      const range = bytesOfBlocks({ start: block, end: to }, blockSize, part.disk.size);
      await part.sign(range);
      for (let i = block; i < to; i++) {
        const wanted = page?.at(i - first) ?? null;
        const length = lengthOfBlock(i, blockSize, part.disk.size);
        if (part.isAt(i - block, wanted)) this.bytesKept += length;
        else if (wanted !== null) await this.bring(part, i, wanted);
        else {
          await part.unit.zero({ offset: i * blockSize, length });
          this.bytesZeroed += length;
        }
      }
      this.doneBytes += range.length;
      block = to;
      await this.step();
    }
    return undefined;
  }

  private bring(part: DiskPart, block: BlockIndex, signature: Uint8Array): Promise<undefined> {
    const { repository, crew } = this;
    const { unit, disk } = part;
    const length = lengthOfBlock(block, repository.blockSize, disk.size);
    return crew.add(length, async () => {
      const bytes = await repository.block(signature, length, { signal: crew.signal });
      crew.check();
      const wait = unit.write(block * repository.blockSize, bytes);
      if (wait) await wait;
      this.bytesFetched += length;
    });
  }

  private async step(): Promise<undefined> {
    checkAborted(this.options.signal);
    const now = performance.now();
    const { onProgress } = this.options;
    if (onProgress !== undefined && now - this.toldAt > PROGRESS_MS) {
      this.toldAt = now;
      const { totalBytes, doneBytes, bytesFetched } = this;
      const bytesPerSecond = doneBytes / Math.max((now - this.began) / 1000, 1e-3);
      const secondsLeft = doneBytes === 0 ? undefined : (totalBytes - doneBytes) / bytesPerSecond;
      onProgress({ totalBytes, doneBytes, bytesFetched, bytesPerSecond, secondsLeft });
    }
    await new Promise((resolve) => setImmediate(resolve));
    return undefined;
  }

  result(): Restored {
    const { bytesFetched, bytesKept, bytesZeroed } = this;
    return { bytesFetched, bytesKept, bytesZeroed, milliseconds: performance.now() - this.began };
  }
}

/** A unit that may hold something, signed piece by piece, in order. */
class DiskPart {
  readonly disk: SnapshotDisk;
  readonly unit: LogicalUnit;
  /** Blocks of one piece. */
  readonly most: number;
  private readonly blockSize: ByteCount;
  private readonly cursor: ExtentCursor;
  private readonly bytes: Uint8Array;
  private readonly signatures: Uint8Array;
  private readonly nonzero: Uint8Array;

  constructor({ blockSize }: Repository, disk: SnapshotDisk, unit: LogicalUnit) {
    this.disk = disk;
    this.unit = unit;
    this.blockSize = blockSize;
    this.cursor = new ExtentCursor(unit);
    this.most = Math.max(1, Math.floor(PIECE / blockSize));
    this.bytes = Buffer.allocUnsafe(this.most * blockSize);
    this.signatures = new Uint8Array(this.most * NAME_BYTES);
    this.nonzero = new Uint8Array(this.most);
  }

  async sign({ offset, length }: ByteRange): Promise<undefined> {
    if (await this.isHole(offset, offset + length)) {
      this.nonzero.fill(0);
      return undefined;
    }
    const bytes = this.bytes.subarray(0, length);
    const wait = this.unit.read(offset, bytes);
    if (wait) await wait;
    hasher().signBlocks(bytes, this.blockSize, this.signatures, this.nonzero);
    return undefined;
  }

  /** Whether a block of the piece that was signed has this signature; null for zeros. */
  isAt(index: number, signature: Uint8Array | null): boolean {
    const isZero = this.nonzero[index] === 0;
    if (signature === null || isZero) return (signature === null) === isZero;
    const own = this.signatures.subarray(index * NAME_BYTES, (index + 1) * NAME_BYTES);
    return Buffer.compare(own, signature) === 0;
  }

  private async isHole(from: ByteOffset, to: ByteOffset): Promise<boolean> {
    const run = await this.cursor.runAt(from, this.disk.size);
    return run.isZero && run.end >= to;
  }
}
