/**
 * A disk that is written to: a raw file, a block device, an array image, or a qcow2 image as far as its clusters
 * are there already. Data goes to the places that the map has, and nowhere else: nothing is allocated, no table of
 * an image is touched, so a crash leaves an image as whole as it was.
 */

import { statSync, truncateSync } from 'node:fs';
import { extname } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { KiB, MiB } from '../base/units.ts';
import { parseAddress } from '../disk/address.ts';
import { openDisk } from '../disk/open.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { FileUnit, openFileUnit } from '../lu/file-unit.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import { hasNative } from '../lu/posix.ts';
import { Cursor } from '../mapping/cursor.ts';
import { isZero, Kind } from '../mapping/extent-map.ts';
import { dataUntil, zerosUntil } from './zero-runs.ts';

/** Zeros written at a time where a hole cannot be punched, so that the process stays awake. */
const ZERO_STEP = 64 * MiB;
/** After so much the system is asked to begin writing it out: a flush stops everything, and waits for all that is left. */
const WRITEBACK_BYTES = 8 * MiB;
/** Less is written before another thread is awake. */
const LEAST_ASIDE_BYTES = 128 * KiB;

export interface ReplicaDisk {
  readonly disk: VirtualDisk;
  readonly writer: DiskWriter;
  close(): Promise<void>;
}

export interface OpenReplicaOptions {
  readonly format?: string | undefined;
  readonly allowOutside?: boolean | undefined;
}

/** @throws DriftmapError `policy`, `unsupported` (a format that is not written to), and what opening throws */
export async function openReplicaDisk(
  source: string | LogicalUnit,
  options: OpenReplicaOptions = {},
): Promise<ReplicaDisk> {
  if (typeof source === 'string') refuseAddress(source);
  const unit = typeof source === 'string' ? openFileUnit(source, { write: true }) : source;
  try {
    if (!unit.canWrite) throw new DriftmapError('permission', 'opened for reading only', { path: unit.name });
    const disk = await openDisk(unit, options);
    if (typeof source === 'string' && options.format === undefined) refuseGuess(disk, source);
    const writer = await DiskWriter.create(disk, unit);
    const close = async () => {
      await disk.close();
      if (typeof source === 'string') await unit.close();
    };
    return { disk, writer, close };
  } catch (error) {
    if (typeof source === 'string') await unit.close();
    throw error;
  }
}

/**
 * Makes a raw file longer, or shorter, before it is opened.
 * @throws DriftmapError `argument` for what is no regular file, and what the system throws
 */
export function resizeFile(path: string, size: ByteCount): void {
  try {
    if (!statSync(path).isFile())
      throw new DriftmapError('argument', 'only a raw file can be resized here: resize the device itself', {
        path,
      });
    truncateSync(path, size);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'resize', length: size });
  }
}

function refuseAddress(path: string): void {
  if (parseAddress(path) === null) return;
  const reason =
    'a place inside a logical unit is not written to: name the device of the volume or partition';
  throw new DriftmapError('unsupported', reason, { path });
}

/** What is written to a raw replica is the guest's: it must not make an image of it, not even by its own first bytes. */
function refuseGuess(disk: VirtualDisk, path: string): void {
  if (disk.format === 'raw' || extname(path).toLowerCase() === `.${disk.format}`) return;
  const reason = `its contents look like ${disk.format}, its name does not: state the replica's format (--replica-format)`;
  throw new DriftmapError('policy', reason, { path });
}

export class DiskWriter {
  private readonly disk: VirtualDisk;
  private readonly unit: LogicalUnit;
  private readonly cursor: Cursor;
  /** Whether zeros within data are worth holes. A device would be asked to discard page by page, which takes it long. */
  private readonly thin: boolean;
  private unwritten: ByteCount = 0;

  private constructor(disk: VirtualDisk, unit: LogicalUnit) {
    this.thin = unit instanceof FileUnit && unit.sparse && hasNative();
    this.disk = disk;
    this.unit = unit;
    this.cursor = new Cursor(disk.map);
  }

  /** @throws DriftmapError `unsupported` where writing would break what else the image holds */
  static async create(disk: VirtualDisk, unit: LogicalUnit): Promise<DiskWriter> {
    if (disk.format === 'qcow2') await checkQcow2(unit);
    else if (disk.format !== 'raw') {
      const reason = `driftmap does not write to ${disk.format} images: use a raw replica (qemu-img convert -O raw)`;
      throw new DriftmapError('unsupported', reason, { path: disk.name });
    }
    return new DiskWriter(disk, unit);
  }

  get generation(): string {
    return this.disk.generation();
  }

  /**
   * Writes all of it, or throws: `unsupported` where the image has no place for it (nothing of that extent is
   * written then), and what the unit throws.
   * @param aside a file is written on another thread: while it is, this one can look after its connection
   */
  async write(offset: ByteOffset, source: Uint8Array, aside = false): Promise<void> {
    this.checkSize();
    for (let done = 0; done < source.length; ) {
      const { place, length } = this.placeAt(offset + done, source.length - done);
      if (place === null) throw this.noPlace(offset + done, length);
      const pending = this.writePart(place, source.subarray(done, done + length), aside);
      if (pending) await pending;
      done += length;
    }
    this.unwritten += source.length;
    if (this.unwritten < WRITEBACK_BYTES) return;
    this.unwritten = 0;
    if (this.unit instanceof FileUnit) this.unit.beginWriteback();
  }

  /** Data as data; whole pages of zeros as holes, where a file can have them. */
  private writePart(place: ByteOffset, part: Uint8Array, aside: boolean): undefined | Promise<unknown> {
    if (!this.thin) return this.writeData(place, part, aside);
    const end = dataUntil(part, 0, place);
    return end === part.length ? this.writeData(place, part, aside) : this.writeThin(place, part, aside, end);
  }

  /** @param dataEnd where the data that the part begins with ends */
  private async writeThin(
    place: ByteOffset,
    part: Uint8Array,
    aside: boolean,
    dataEnd: ByteCount,
  ): Promise<undefined> {
    let to = dataEnd;
    for (let at = 0; at < part.length; to = dataUntil(part, at, place)) {
      if (to > at) {
        const pending = this.writeData(place + at, part.subarray(at, to), aside);
        if (pending) await pending;
      }
      at = zerosUntil(part, to, place);
      const pending = at > to ? this.unit.zero({ offset: place + to, length: at - to }) : undefined;
      if (pending) await pending;
    }
    return undefined;
  }

  private writeData(place: ByteOffset, part: Uint8Array, aside: boolean): undefined | Promise<unknown> {
    const { unit } = this;
    return aside && part.length >= LEAST_ASIDE_BYTES && unit instanceof FileUnit
      ? unit.writeAside(place, part)
      : unit.write(place, part);
  }

  /** Makes a range read as zeros, and gives its storage back where that is possible. */
  async zero({ offset, length }: ByteRange): Promise<void> {
    this.checkSize();
    for (let at = offset; at < offset + length; ) {
      const run = this.placeAt(at, Math.min(offset + length - at, ZERO_STEP));
      if (run.place !== null) {
        const pending = this.unit.zero({ offset: run.place, length: run.length });
        if (pending) await pending;
      } else if (!run.zero) throw this.noPlace(at, run.length);
      at += run.length;
    }
  }

  async flush(): Promise<void> {
    this.checkSize();
    await this.unit.flush();
  }

  /**
   * A file that was cut and written past its new end is as long as before, with a hole where data was. So its size
   * is asked before each write; a unit whose generation does not tell it cannot be cut unseen either.
   */
  private checkSize(): void {
    const generation = this.unit.generation();
    const at = generation.indexOf('@');
    if (at <= 0 || Number(generation.slice(0, at)) === this.unit.size) return;
    const reason = `it has ${generation.slice(0, at)} bytes now and had ${this.unit.size} when it was opened: somebody changed its size; compare everything (--full)`;
    throw new DriftmapError('io', reason, { path: this.disk.name, operation: 'write' });
  }

  /** Where the bytes at `offset` can be written, for how long; no place where the image has none. */
  private placeAt(
    offset: ByteOffset,
    most: ByteCount,
  ): { place: ByteOffset | null; zero: boolean; length: ByteCount } {
    const { map, units } = this.disk;
    if (offset >= map.size)
      throw new DriftmapError('argument', `expected a range within the disk's ${map.size} bytes`, {
        path: this.disk.name,
        offset,
        length: most,
        operation: 'write',
      });
    const index = this.cursor.seek(offset);
    const length = Math.min(most, map.endOf(index) - offset);
    const kind = map.kindOf(index);
    const own = kind === Kind.data && map.depthOf(index) === 0 && units[map.unitOf(index)] === this.unit;
    const place = own ? map.placeOf(index) + offset - map.startOf(index) : null;
    return { place, zero: isZero(kind), length };
  }

  private noPlace(offset: ByteOffset, length: ByteCount): DriftmapError {
    const reason =
      'the image has no place of its own for these bytes, and none is allocated: use a raw replica, or make the image with preallocation=falloc';
    return new DriftmapError('unsupported', reason, {
      path: this.disk.name,
      offset,
      length,
      operation: 'write',
    });
  }
}

/**
 * Clusters of a qcow2 image are written in place only when nothing else refers to them: no internal snapshot
 * (a snapshot shares them), and no bitmap that would have to be told (QEMU docs/interop/qcow2.txt, header:
 * nb_snapshots at 60, autoclear_features at 88, of which bit 0 is "bitmaps extension consistent").
 */
async function checkQcow2(unit: LogicalUnit): Promise<void> {
  const head = new Uint8Array(104);
  const pending = unit.read(0, head.subarray(0, Math.min(104, unit.size)));
  if (pending) await pending;
  const view = new DataView(head.buffer);
  const refuse = (what: string, advice: string): never => {
    throw new DriftmapError('unsupported', `the image has ${what}: ${advice}`, {
      path: unit.name,
      operation: 'open',
    });
  };
  if (view.getUint32(60) > 0) refuse('internal snapshots, which share its clusters', 'use a raw replica');
  if (view.getUint32(4) >= 3) {
    if ((view.getUint32(76) & 2) !== 0) refuse('been marked corrupt', 'repair it with qemu-img check -r');
    if ((view.getUint32(92) & 1) !== 0)
      refuse(
        'a persistent bitmap, which would miss these writes',
        'remove it (qemu-img bitmap --remove), or use a raw replica',
      );
  }
}
