/**
 * A file or a block device as a logical unit. Reads are positional and synchronous, straight into the
 * caller's view (which may be shared memory); a descriptor serves every thread of the process.
 */

import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  fsyncSync,
  openSync,
  readSync,
  statfsSync,
  statSync,
  write as writeLater,
  writeSync,
} from 'node:fs';
import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_IO_BYTES, PAGE_BYTES } from '../base/limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import { inspect, refuseOthers } from './inspect.ts';
import type { LogicalUnit, UnitExtent, UnitHandle } from './logical-unit.ts';
import { beginWriteback, punchHole, seekData, seekHole } from './posix.ts';
import { checkRange } from './ranges.ts';

/** Extents of one answer: a caller that wants more asks again. */
const EXTENTS_PER_ANSWER = 64;
/** `statfs` of tmpfs (Linux, include/uapi/linux/magic.h). */
const TMPFS_MAGIC = 0x01021994;
const ZEROS = new Uint8Array(1 * MiB);

export interface FileUnitOptions {
  /** Opens for reading and writing; for reading only by default. */
  readonly write?: boolean;
}

/** @throws DriftmapError `not-found`, `permission`, `argument` (not a file or block device), `limit`, `io` */
export function openFileUnit(path: string, { write = false }: FileUnitOptions = {}): FileUnit {
  let fd: number;
  try {
    // Asked before opening too: opening a FIFO wakes whoever waits for it, and opening a tape may rewind it.
    refuseOthers(statSync(path), path);
    // O_NONBLOCK: should a FIFO have taken the name since, opening it must not wait for somebody to write to it.
    fd = openSync(path, (write ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK);
  } catch (cause) {
    throw systemError(cause, { path, operation: 'open' });
  }
  try {
    return new FileUnit({ fd, directFd: null, path, ...inspect(fd, path), canWrite: write, owned: true });
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** The open file `fd` once more, past the page cache; null where its file system cannot. */
function openDirect(path: string, fd: number): number | null {
  let directFd: number;
  try {
    directFd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_DIRECT);
  } catch {
    return null;
  }
  const [one, other] = [fd, directFd].map((open) => fstatSync(open, { bigint: true }));
  if (one!.ino === other!.ino && one!.dev === other!.dev) return directFd;
  // Another file took the name in between.
  closeSync(directFd);
  return null;
}

/** Of a file, in nanoseconds since 1970. */
export interface FileTimes {
  /** When it was last written to, or what somebody set (`touch`, `tar x`). */
  readonly modified: bigint;
  /** When it, or what is known of it, was last changed: nobody sets this one. */
  readonly changed: bigint;
}

/** The same open file in another thread; closing it there closes nothing. */
export function attachFileUnit(handle: Extract<UnitHandle, { kind: 'file' }>): FileUnit {
  return new FileUnit({ ...handle, owned: false });
}

/** @returns how many bytes were taken */
function writePart(fd: number, part: Uint8Array, offset: ByteOffset): Promise<number> {
  return new Promise((resolve, reject) => {
    writeLater(fd, part, 0, part.length, offset, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

interface FileUnitParts {
  readonly fd: number;
  readonly directFd: number | null;
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
  private directFd: number | null;
  /** Whether it may have holes: a file, and no device. */
  readonly sparse: boolean;
  private readonly owned: boolean;
  private closed = false;

  constructor({ fd, directFd, path, size, identity, sparse, canWrite, owned }: FileUnitParts) {
    this.fd = fd;
    this.directFd = directFd;
    this.name = path;
    this.size = size;
    this.identity = identity;
    this.sparse = sparse;
    this.canWrite = canWrite;
    this.owned = owned;
  }

  /**
   * Of a file: `size@mtime+d`, in bytes and nanoseconds, where `d` is the change time less the modification
   * time and is left out when it is 0. The modification time alone can be set back (`touch -r`, `tar x`,
   * `rsync -t`); the change time cannot, but some file systems have none. The change time also moves with a
   * rename, a link or a new owner: then nothing was written and a scan begins anew, which is the safe mistake.
   *
   * What it cannot tell: a second write within the same tick of the kernel's clock (1–10 ms; Linux 6.13 and
   * later tell even that on the common file systems), and stores through a mapping whose page is dirty already: a
   * flush makes pages clean, and the next store to each is told again (`tellsOfStores` says where it is not).
   *
   * A block device has nothing that tells of writes: always `device`.
   */
  generation(): string {
    this.checkOpen('stat');
    if (!this.sparse) return 'device';
    const { size, mtimeNs, ctimeNs } = this.stat();
    const later = ctimeNs - mtimeNs;
    return `${size}@${mtimeNs}${later === 0n ? '' : `${later > 0n ? '+' : ''}${later}`}`;
  }

  /** The times of which the generation is made; null of a block device. */
  times(): FileTimes | null {
    this.checkOpen('stat');
    if (!this.sparse) return null;
    const { mtimeNs, ctimeNs } = this.stat();
    return { modified: mtimeNs, changed: ctimeNs };
  }

  read(offset: ByteOffset, target: Uint8Array): undefined {
    checkRange(this, { offset, length: target.length }, 'read');
    this.checkOpen('read');
    for (let done = this.directFd === null ? 0 : this.readDirect(offset, target); done < target.length; ) {
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

  /**
   * From now on reads of whole pages, to whole pages of memory, go past the page cache (O_DIRECT), and others
   * through it as ever. @returns false where the file system cannot
   */
  goDirect(): boolean {
    this.checkOpen('open');
    this.directFd ??= openDirect(this.name, this.fd);
    return this.directFd !== null;
  }

  /** Reads the whole pages that `target` begins with. @returns how many bytes were read */
  private readDirect(offset: ByteOffset, target: Uint8Array): ByteCount {
    const whole = target.length - (target.length % PAGE_BYTES);
    if (offset % PAGE_BYTES !== 0 || target.byteOffset % PAGE_BYTES !== 0) return 0;
    let done = 0;
    while (done < whole) {
      const most = Math.min(whole - done, MAX_IO_BYTES - (MAX_IO_BYTES % PAGE_BYTES));
      let count: number;
      try {
        count = readSync(this.directFd!, target, done, most, offset + done);
      } catch (cause) {
        // Some file systems open a file so and then do not read it so (larger sectors, data in the inode).
        if ((cause as NodeJS.ErrnoException).code !== 'EINVAL') {
          throw systemError(cause, {
            path: this.name,
            offset: offset + done,
            length: most,
            operation: 'read',
          });
        }
        return done;
      }
      done += count;
      // The end of the file, or a signal: the rest is read as ever, with its errors.
      if (count % PAGE_BYTES !== 0 || count === 0) return done;
    }
    return done;
  }

  write(offset: ByteOffset, source: Uint8Array): undefined {
    this.checkWrite({ offset, length: source.length }, 'write');
    for (let done = 0; done < source.length; ) {
      const most = Math.min(source.length - done, MAX_IO_BYTES);
      const count = this.call('write', offset + done, most, () =>
        writeSync(this.fd, source, done, most, offset + done),
      );
      if (count === 0) throw this.tookNothing(offset + done, most);
      done += count;
    }
  }

  /**
   * As `write`, on another thread: this one is free meanwhile. `source` must not be changed before it is done, and
   * the unit not closed.
   */
  async writeAside(offset: ByteOffset, source: Uint8Array): Promise<void> {
    this.checkWrite({ offset, length: source.length }, 'write');
    for (let done = 0; done < source.length; ) {
      const most = Math.min(source.length - done, MAX_IO_BYTES);
      let count: number;
      try {
        count = await writePart(this.fd, source.subarray(done, done + most), offset + done);
      } catch (cause) {
        throw systemError(cause, {
          path: this.name,
          offset: offset + done,
          length: most,
          operation: 'write',
        });
      }
      if (count === 0) throw this.tookNothing(offset + done, most);
      done += count;
    }
  }

  private tookNothing(offset: ByteOffset, length: ByteCount): DriftmapError {
    const reason = 'write failed: the system took no byte of it';
    return new DriftmapError('io', reason, { path: this.name, offset, length, operation: 'write' });
  }

  zero({ offset, length }: ByteRange): undefined {
    this.checkWrite({ offset, length }, 'zero');
    if (length === 0) return;
    // A hole past the end of a file that was cut since it was opened would read as an error, not as zeros.
    if (punchHole(this.fd, offset, length) && !this.endsBefore(offset + length)) return;
    for (let done = 0; done < length; ) {
      const piece = ZEROS.subarray(0, Math.min(ZEROS.length, length - done));
      this.write(offset + done, piece);
      done += piece.length;
    }
  }

  /**
   * Whether the first store through a shared mapping after a flush changes the generation. On tmpfs none does:
   * it has nothing to write back, so its pages are never write-protected again. Unknown elsewhere than on Linux.
   */
  tellsOfStores(): boolean {
    this.checkOpen('stat');
    if (process.platform !== 'linux' || !this.sparse) return true;
    try {
      return statfsSync(`/proc/self/fd/${this.fd}`).type !== TMPFS_MAGIC;
    } catch {
      return true;
    }
  }

  /** What was written begins to go to the disk, so that a flush has less to wait for. Nothing is durable by it. */
  beginWriteback(): void {
    this.checkOpen('write');
    beginWriteback(this.fd);
  }

  flush(): undefined {
    this.checkOpen('flush');
    this.call('flush', undefined, undefined, () => fsyncSync(this.fd));
  }

  /** As `flush`, on another thread: this one goes on meanwhile. The unit must not be closed before it is done. */
  flushAside(): Promise<undefined> {
    this.checkOpen('flush');
    return new Promise((resolve, reject) => {
      fsync(this.fd, (cause) =>
        cause ? reject(systemError(cause, { path: this.name, operation: 'flush' })) : resolve(undefined),
      );
    });
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
    for (let at = range.offset; at < end && (found.length === 0 || found.length < limit); ) {
      const next = this.sparse ? this.runAt(at, end) : { kind: 'data' as const, end };
      const last = found.at(-1);
      // Equal neighbours: of a file that was cut, or that is changed at this moment.
      if (last?.kind === next.kind) {
        found[found.length - 1] = { ...last, length: next.end - last.offset };
      } else {
        found.push({ offset: at, length: next.end - at, kind: next.kind });
      }
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
      const cut = data >= end && this.endsBefore(end);
      return { kind: cut ? 'data' : 'zero', end: Math.min(data, end) };
    }
    const hole = seekHole(this.fd, at);
    return { kind: 'data', end: hole === null || hole <= at ? end : Math.min(hole, end) };
  }

  /** Not of a closed unit: its descriptor's number may be another file's by now. */
  handle(): UnitHandle {
    this.checkOpen('handle');
    const { fd, directFd, name: path, size, identity, sparse, canWrite } = this;
    return { kind: 'file', fd, directFd, path, size, identity, sparse, canWrite };
  }

  close(): undefined {
    if (this.closed) return;
    this.closed = true;
    if (!this.owned) return;
    if (this.directFd !== null) closeSync(this.directFd);
    this.call('close', undefined, undefined, () => closeSync(this.fd));
  }

  /** Whether a file has fewer bytes than this. A block device keeps its size. */
  private endsBefore(end: ByteOffset): boolean {
    return this.sparse && Number(this.stat().size) < end;
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
