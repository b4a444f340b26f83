/**
 * A file or a block device as a logical unit. Reads are positional and synchronous, straight into the
 * caller's view (which may be shared memory); a descriptor serves every thread of the process.
 */

import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  writeSync,
} from 'node:fs';
import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_DISK_SIZE, MAX_IO_BYTES } from '../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import type { LogicalUnit, UnitExtent, UnitHandle } from './logical-unit.ts';
import { punchHole, seekData, seekHole } from './posix.ts';
import { checkRange } from './ranges.ts';

/** Extents of one answer: a caller that wants more asks again. */
const EXTENTS_PER_ANSWER = 64;
const ZEROS = new Uint8Array(1 * MiB);

export interface FileUnitOptions {
  /** Opens for reading and writing; for reading only by default. */
  readonly write?: boolean;
}

/** @throws DriftmapError `not-found`, `permission`, `argument` (not a file or block device), `limit`, `io` */
export function openFileUnit(path: string, { write = false }: FileUnitOptions = {}): FileUnit {
  let fd: number;
  try {
    // O_NONBLOCK: opening a FIFO must not wait for somebody to write to it.
    fd = openSync(path, (write ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'open' });
  }
  try {
    return new FileUnit({ fd, path, ...inspect(fd, path), canWrite: write, owned: true });
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** The same open file in another thread; closing it there closes nothing. */
export function attachFileUnit(handle: Extract<UnitHandle, { kind: 'file' }>): FileUnit {
  return new FileUnit({ ...handle, owned: false });
}

interface FileUnitParts {
  readonly fd: number;
  readonly path: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly sparse: boolean;
  readonly canWrite: boolean;
  readonly owned: boolean;
}

export class FileUnit implements LogicalUnit {
  readonly name: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly canWrite: boolean;
  private readonly fd: number;
  private readonly sparse: boolean;
  private readonly owned: boolean;
  private closed = false;

  constructor({ fd, path, size, identity, sparse, canWrite, owned }: FileUnitParts) {
    this.fd = fd;
    this.name = path;
    this.size = size;
    this.identity = identity;
    this.sparse = sparse;
    this.canWrite = canWrite;
    this.owned = owned;
  }

  /** Size and modification time of a file. A block device has neither that tells of writes: always `device`. */
  generation(): string {
    this.checkOpen('stat');
    const { size, mtimeNs } = this.stat();
    return this.sparse ? `${size}@${mtimeNs}` : 'device';
  }

  read(offset: ByteOffset, target: Uint8Array): undefined {
    checkRange(this, { offset, length: target.length }, 'read');
    this.checkOpen('read');
    for (let done = 0; done < target.length; ) {
      const most = Math.min(target.length - done, MAX_IO_BYTES);
      const count = this.call('read', offset + done, most, () =>
        readSync(this.fd, target, done, most, offset + done),
      );
      if (count === 0) {
        const reason = `the file ends here, though it had ${this.size} bytes when it was opened`;
        throw new DriftmapError('io', reason, {
          path: this.name,
          offset: offset + done,
          length: most,
          operation: 'read',
        });
      }
      done += count;
    }
  }

  write(offset: ByteOffset, source: Uint8Array): undefined {
    this.checkWrite({ offset, length: source.length }, 'write');
    for (let done = 0; done < source.length; ) {
      const most = Math.min(source.length - done, MAX_IO_BYTES);
      done += this.call('write', offset + done, most, () =>
        writeSync(this.fd, source, done, most, offset + done),
      );
    }
  }

  zero({ offset, length }: ByteRange): undefined {
    this.checkWrite({ offset, length }, 'zero');
    if (length === 0 || punchHole(this.fd, offset, length)) return;
    for (let done = 0; done < length; ) {
      const piece = ZEROS.subarray(0, Math.min(ZEROS.length, length - done));
      this.write(offset + done, piece);
      done += piece.length;
    }
  }

  flush(): undefined {
    this.checkOpen('flush');
    this.call('flush', undefined, undefined, () => fsyncSync(this.fd));
  }

  /**
   * Holes of a file by SEEK_DATA and SEEK_HOLE; without them everything is data. The calls move the
   * descriptor's file position, which all threads share: harmless, because no read or write uses it.
   */
  extents(range: ByteRange, limit = EXTENTS_PER_ANSWER): readonly UnitExtent[] {
    checkRange(this, range, 'extents');
    this.checkOpen('extents');
    const end = range.offset + range.length;
    const found: UnitExtent[] = [];
    for (let at = range.offset; at < end && found.length < limit; ) {
      const next = this.sparse ? this.runAt(at, end) : { kind: 'data' as const, end };
      found.push({ offset: at, length: next.end - at, kind: next.kind });
      at = next.end;
    }
    return found;
  }

  /**
   * The run that begins at `at`, ended at `end`. A file that is changed meanwhile may answer oddly, but always
   * forward; and past the end of a file that has shrunk there is no hole but an error, which reading finds.
   */
  private runAt(at: ByteOffset, end: ByteOffset): { kind: 'data' | 'zero'; end: ByteOffset } {
    const data = seekData(this.fd, at, end);
    if (data === null) return { kind: 'data', end };
    if (data > at) {
      const shrunk = data >= end && Number(this.stat().size) < this.size;
      return { kind: shrunk ? 'data' : 'zero', end: Math.min(data, end) };
    }
    const hole = seekHole(this.fd, at);
    return { kind: 'data', end: hole === null || hole <= at ? end : Math.min(hole, end) };
  }

  handle(): UnitHandle {
    const { fd, name: path, size, identity, sparse, canWrite } = this;
    return { kind: 'file', fd, path, size, identity, sparse, canWrite };
  }

  close(): undefined {
    if (this.closed) return;
    this.closed = true;
    if (this.owned) this.call('close', undefined, undefined, () => closeSync(this.fd));
  }

  private stat() {
    return this.call('stat', undefined, undefined, () => fstatSync(this.fd, { bigint: true }));
  }

  private checkWrite(range: ByteRange, operation: string): void {
    checkRange(this, range, operation);
    this.checkOpen(operation);
    if (!this.canWrite)
      throw new DriftmapError('permission', 'opened for reading only', {
        path: this.name,
        ...range,
        operation,
      });
  }

  private checkOpen(operation: string): void {
    if (this.closed)
      throw new DriftmapError('argument', `${operation} after close`, { path: this.name, operation });
  }

  private call<T>(
    operation: string,
    offset: number | undefined,
    length: number | undefined,
    act: () => T,
  ): T {
    try {
      return act();
    } catch (cause) {
      throw systemError(cause, { path: this.name, offset, length, operation });
    }
  }
}

/** What kind of file it is, how large, and what makes it this file and no other. */
function inspect(fd: number, path: string): { size: ByteCount; identity: string; sparse: boolean } {
  const stat = fstatSync(fd, { bigint: true });
  if (stat.isFile()) {
    // Inodes are used again soon after a file is removed: the time of birth tells the next file from it.
    const born = stat.birthtimeNs > 0n ? `${stat.birthtimeNs}` : `device ${stat.dev}`;
    return { size: boundedSize(Number(stat.size), path), identity: `file:${stat.ino}@${born}`, sparse: true };
  }
  if (stat.isBlockDevice()) {
    const device = `${major(stat.rdev)}:${minor(stat.rdev)}`;
    const size = boundedSize(deviceSize(fd, device), path);
    const serial = ['dm/uuid', 'wwid', 'device/wwid', 'serial', 'device/serial', 'loop/backing_file']
      .map((file) => sysfs(device, file))
      .find((text) => text !== null);
    return { size, identity: `block:${device}:${size}${serial ? `:${serial}` : ''}`, sparse: false };
  }
  const what = stat.isDirectory()
    ? 'a directory'
    : stat.isFIFO()
      ? 'a FIFO'
      : stat.isSocket()
        ? 'a socket'
        : 'a character device';
  throw new DriftmapError('argument', `expected a file or a block device, got ${what}`, {
    path,
    operation: 'open',
  });
}

function boundedSize(size: number, path: string): ByteCount {
  if (size > MAX_DISK_SIZE)
    throw new DriftmapError('limit', 'larger than 2^53−1 bytes', { path, length: size });
  return size;
}

/** Linux's encoding of device numbers (glibc `gnu_dev_major`, `gnu_dev_minor`). */
function major(device: bigint): bigint {
  return ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
}
function minor(device: bigint): bigint {
  return (device & 0xffn) | ((device >> 12n) & ~0xffn);
}

function sysfs(device: string, file: string): string | null {
  try {
    return readFileSync(`/sys/dev/block/${device}/${file}`, 'utf8').trim() || null;
  } catch {
    return null;
  }
}

/** A block device's stat says 0. The kernel tells its size in sectors of 512 bytes; else it is felt for. */
function deviceSize(fd: number, device: string): ByteCount {
  const sectors = Number(sysfs(device, 'size') ?? Number.NaN);
  return Number.isFinite(sectors) ? sectors * 512 : feltSize(fd);
}

/** The size as the number of readable bytes, by bisection. */
function feltSize(fd: number): ByteCount {
  const byte = new Uint8Array(1);
  const readable = (offset: number) => {
    try {
      return readSync(fd, byte, 0, 1, offset) === 1;
    } catch {
      return false;
    }
  };
  if (!readable(0)) return 0;
  let [low, high] = [0, 512];
  while (high < MAX_DISK_SIZE / 2 && readable(high)) [low, high] = [high, high * 2];
  while (high - low > 1) {
    const middle = low + Math.floor((high - low) / 2);
    if (readable(middle)) low = middle;
    else high = middle;
  }
  return high;
}
