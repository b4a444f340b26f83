/**
 * The files of a journal as the journal uses them: created, written at a place, flushed, cut, removed. A journal
 * is handed a folder, so that a test can hand it one that loses what was not flushed.
 *
 * What the system promises, and no more is relied on: bytes of a file are durable after `sync` of the file; that
 * a file is there, or gone, after `sync` of the folder; `replace` is durable and whole when it returns.
 * Writing and flushing wait without holding up the thread, because a splitter shares it.
 */

import {
  close,
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  statSync,
  unlinkSync,
  write,
  writev,
} from 'node:fs';
import { join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_IO_BYTES } from '../base/limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { AsideFile, readBounded, writeAtomically } from '../codec/atomic-file.ts';
import { type Lock, takeLock } from './lock.ts';

/** Pieces of one call: Linux takes 1024. */
const PIECES_AT_ONCE = 64;

export interface JournalFile {
  /** For messages. */
  readonly path: string;
  size(): ByteCount;
  /** Fills `target` wholly, or throws `io`. */
  read(offset: ByteOffset, target: Uint8Array): void;
  write(offset: ByteOffset, bytes: Uint8Array): Promise<undefined>;
  /** Several pieces one after the other, where there is a way to do it in one. */
  writeAll?(offset: ByteOffset, pieces: readonly Uint8Array[]): Promise<undefined>;
  sync(): Promise<undefined>;
  truncate(size: ByteCount): void;
  close(): void;
}

export interface JournalFolder {
  readonly path: string;
  /** Names of its files. */
  list(): readonly string[];
  /** A new file for reading and writing; one that is there is emptied. */
  create(name: string): JournalFile;
  open(name: string, access: 'read' | 'write'): JournalFile;
  /** The whole of a small file. Errors as `readBounded`. */
  load(name: string, most: ByteCount): Uint8Array;
  /** Writes a small file, whole and durable. */
  replace(name: string, bytes: Uint8Array): void;
  /** The same, where there is a way that does not hold up the thread. */
  replaceAside?(name: string, bytes: Uint8Array): Promise<undefined>;
  rename(from: string, to: string): void;
  remove(name: string): void;
  /** Names that were made or removed become durable. */
  sync(): void;
  /** Another one whenever a name was made or removed, or a file replaced or made longer, of those that are named. */
  stamp(names: readonly string[]): string;
  /** Keeps others from writing; throws `policy` while somebody else does. */
  lock(): Lock;
}

/** @throws DriftmapError what making the folder throws; one that is there is taken */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (cause) {
    throw systemError(cause, { path, operation: 'create' });
  }
}

export function realFolder(path: string): JournalFolder {
  return new RealFolder(path);
}

class RealFolder implements JournalFolder {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  list(): readonly string[] {
    return this.call('list', this.path, () => readdirSync(this.path));
  }

  create(name: string): JournalFile {
    const flags = constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC;
    return this.opened(name, flags);
  }

  open(name: string, access: 'read' | 'write'): JournalFile {
    return this.opened(name, access === 'write' ? constants.O_RDWR : constants.O_RDONLY);
  }

  load(name: string, most: ByteCount): Uint8Array {
    return readBounded(join(this.path, name), most);
  }

  replace(name: string, bytes: Uint8Array): void {
    writeAtomically(join(this.path, name), bytes);
  }

  async replaceAside(name: string, bytes: Uint8Array): Promise<undefined> {
    const file = new AsideFile(join(this.path, name));
    try {
      file.append(bytes);
    } catch (error) {
      file.discard();
      throw error;
    }
    return file.commitAside();
  }

  rename(from: string, to: string): void {
    const path = join(this.path, from);
    this.call('rename', path, () => renameSync(path, join(this.path, to)));
  }

  remove(name: string): void {
    const path = join(this.path, name);
    this.call('remove', path, () => unlinkSync(path));
  }

  sync(): void {
    this.call('flush', this.path, () => {
      const fd = openSync(this.path, constants.O_RDONLY);
      try {
        fsyncSync(fd);
      } catch (cause) {
        // Some file systems cannot flush a folder; they order names themselves.
        const { code } = cause as NodeJS.ErrnoException;
        if (code !== 'EINVAL' && code !== 'ENOTSUP') throw cause;
      } finally {
        closeSync(fd);
      }
    });
  }

  stamp(names: readonly string[]): string {
    return this.call('stat', this.path, () => {
      const stats = [this.path, ...names.map((name) => join(this.path, name))].map((path) => {
        const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
        return stat === undefined ? 'gone' : `${stat.ino} ${stat.size} ${stat.ctimeNs}`;
      });
      return stats.join(', ');
    });
  }

  lock(): Lock {
    return takeLock(join(this.path, 'lock'));
  }

  private opened(name: string, flags: number): JournalFile {
    const path = join(this.path, name);
    // O_NONBLOCK: a FIFO under this name must not hold us up; O_NOFOLLOW: a link leads out of the folder.
    const fd = this.call('open', path, () =>
      openSync(path, flags | constants.O_NONBLOCK | constants.O_NOFOLLOW, 0o600),
    );
    const stat = fstatSync(fd);
    if (!stat.isFile()) {
      closeSync(fd);
      throw new DriftmapError('malformed', 'expected a regular file of the journal', { path });
    }
    return new RealFile(fd, path);
  }

  private call<T>(operation: string, path: string, act: () => T): T {
    try {
      return act();
    } catch (cause) {
      throw systemError(cause, { path, operation });
    }
  }
}

class RealFile implements JournalFile {
  readonly path: string;
  private fd: number;

  constructor(fd: number, path: string) {
    this.fd = fd;
    this.path = path;
  }

  size(): ByteCount {
    return fstatSync(this.fd).size;
  }

  read(offset: ByteOffset, target: Uint8Array): void {
    for (let done = 0; done < target.length; ) {
      const at = { path: this.path, offset: offset + done, length: target.length - done, operation: 'read' };
      let count: number;
      try {
        count = readSync(this.fd, target, done, Math.min(target.length - done, MAX_IO_BYTES), offset + done);
      } catch (cause) {
        throw systemError(cause, at);
      }
      if (count === 0) throw new DriftmapError('io', 'the file of the journal ends here', at);
      done += count;
    }
  }

  async write(offset: ByteOffset, bytes: Uint8Array): Promise<undefined> {
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, MAX_IO_BYTES);
      const at = { path: this.path, offset: offset + done, length, operation: 'write' };
      const count = await new Promise<number>((resolve, reject) => {
        write(this.fd, bytes, done, length, offset + done, (cause, written) =>
          cause ? reject(systemError(cause, at)) : resolve(written),
        );
      });
      if (count === 0) throw new DriftmapError('io', 'write failed: the system took no byte of it', at);
      done += count;
    }
  }

  async writeAll(offset: ByteOffset, pieces: readonly Uint8Array[]): Promise<undefined> {
    let at = offset;
    for (let i = 0; i < pieces.length; ) {
      const some = pieces.slice(i, i + PIECES_AT_ONCE);
      const place = { path: this.path, offset: at, operation: 'write' };
      const count = await new Promise<number>((resolve, reject) => {
        writev(this.fd, some, at, (cause, written) =>
          cause ? reject(systemError(cause, place)) : resolve(written),
        );
      });
      let left = count;
      for (; i < pieces.length && left >= pieces[i]!.length; i++) left -= pieces[i]!.length;
      at += count - left;
      if (left > 0 || count === 0) {
        // The system took less than it was given: the rest of that piece goes alone.
        await this.write(at, pieces[i]!);
        at += pieces[i]!.length;
        i++;
      }
    }
  }

  sync(): Promise<undefined> {
    return new Promise((resolve, reject) => {
      fdatasync(this.fd, (cause) =>
        cause ? reject(systemError(cause, { path: this.path, operation: 'flush' })) : resolve(undefined),
      );
    });
  }

  truncate(size: ByteCount): void {
    try {
      ftruncateSync(this.fd, size);
    } catch (cause) {
      throw systemError(cause, { path: this.path, offset: size, operation: 'cut' });
    }
  }

  close(): void {
    if (this.fd < 0) return;
    const { fd } = this;
    this.fd = -1;
    // Closing flushes on some network file systems: not on this thread. What had to be durable is.
    close(fd, () => {});
  }
}
