/**
 * Small files that are never half written. The new contents are written aside in the same folder, made
 * durable, and renamed over the old file; then the folder is made durable. Whatever happens in between, the
 * path holds the old contents or the new ones. A process killed in the middle may leave the file it wrote
 * aside (`.driftmap-….tmp`), which nothing reads.
 */

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsync,
  fsyncSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  type Stats,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_IO_BYTES } from '../base/limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';

/**
 * Replaces the contents of `path` by `bytes`, or creates it; returns when they are durable. Keeps the mode
 * of a file that is there and follows a symbolic link to it. Errors leave the old file untouched and
 * nothing behind: `permission`, `not-found` (the folder), `io` (no space …), `argument` (not a regular file).
 * Only when the folder itself cannot be flushed at the end, an `io` error, are the new contents in place.
 */
export function writeAtomically(path: string, bytes: Uint8Array): void {
  const operation = 'write';
  try {
    const { target, old } = resolveTarget(path);
    const folder = openSync(dirname(target), constants.O_RDONLY);
    try {
      const aside = join(dirname(target), asideName());
      writeAside(aside, bytes, old);
      try {
        renameSync(aside, target);
      } catch (cause) {
        removeQuietly(aside);
        throw cause;
      }
      syncFolder(folder);
    } finally {
      closeSync(folder);
    }
  } catch (cause) {
    throw systemError(cause, { path, operation });
  }
}

/**
 * The whole of a regular file of at most `maxBytes`. A larger one is a `limit` error, anything that is not
 * a regular file an `argument` error, one that shrinks meanwhile an `io` error.
 */
export function readBounded(path: string, maxBytes: ByteCount): Uint8Array {
  const operation = 'read';
  try {
    // A named pipe would block here for a writer that never comes; O_NONBLOCK does nothing to a regular file.
    const file = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    try {
      const stats = fstatSync(file);
      if (stats.isDirectory())
        throw new DriftmapError('argument', 'expected a file, got a directory', { path });
      if (!stats.isFile()) throw new DriftmapError('argument', 'expected a regular file', { path });
      if (stats.size > maxBytes) {
        throw new DriftmapError('limit', `expected at most ${maxBytes} bytes, got ${stats.size}`, { path });
      }
      const bytes = new Uint8Array(stats.size);
      for (let at = 0; at < bytes.length; ) {
        const count = readSync(file, bytes, at, Math.min(bytes.length - at, MAX_IO_BYTES), at);
        if (count === 0)
          throw new DriftmapError('io', 'the file became shorter while it was read', { path, offset: at });
        at += count;
      }
      return bytes;
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    throw systemError(cause, { path, operation });
  }
}

/**
 * A file that is too large to be made in memory: written aside piece by piece, and put in its place by `commit`.
 * Until then the old file is there untouched; `discard` (or a crash) leaves it so.
 */
export class AsideFile {
  readonly path: string;
  /** Bytes appended so far. */
  length: ByteCount = 0;
  private readonly target: string;
  private readonly aside: string;
  private readonly folder: number;
  private readonly file: number;
  private open = true;

  /** Errors as `writeAtomically`. */
  constructor(path: string) {
    this.path = path;
    try {
      const { target, old } = resolveTarget(path);
      this.target = target;
      this.aside = join(dirname(target), asideName());
      this.folder = openSync(dirname(target), constants.O_RDONLY);
      try {
        this.file = createAside(this.aside, old);
      } catch (cause) {
        closeSync(this.folder);
        throw cause;
      }
    } catch (cause) {
      throw systemError(cause, { path, operation: 'write' });
    }
  }

  append(bytes: Uint8Array): void {
    this.write(bytes, this.length);
    this.length += bytes.length;
  }

  /** Writes over bytes that were appended: a front that is known only at the end. */
  overwrite(offset: ByteOffset, bytes: Uint8Array): void {
    this.write(bytes, offset);
  }

  /** Makes it durable and gives it its name. */
  commit(): void {
    try {
      fsyncSync(this.file);
      renameSync(this.aside, this.target);
      syncFolder(this.folder);
    } catch (cause) {
      this.discard();
      throw systemError(cause, { path: this.path, operation: 'write' });
    }
    this.close();
  }

  /** As `commit`; the thread does other things while it waits for the disk. */
  async commitAside(): Promise<undefined> {
    try {
      await flushed(this.file);
      renameSync(this.aside, this.target);
      await flushed(this.folder).catch(unlessUnable);
    } catch (cause) {
      this.discard();
      throw systemError(cause, { path: this.path, operation: 'write' });
    }
    this.close();
  }

  /** Removes what was written; does nothing after `commit`. */
  discard(): void {
    if (!this.open) return;
    this.close();
    removeQuietly(this.aside);
  }

  private write(bytes: Uint8Array, offset: ByteOffset): void {
    try {
      writeWhole(this.file, bytes, offset);
    } catch (cause) {
      throw systemError(cause, { path: this.path, offset, length: bytes.length, operation: 'write' });
    }
  }

  private close(): void {
    this.open = false;
    closeSync(this.file);
    closeSync(this.folder);
  }
}

/**
 * Whether a file of ours may be written there: the path is free, or holds one of its kind or nothing. A disk image
 * named by mistake (`-o vm.qcow2`) must not be replaced.
 * @param what for messages: `bitmap`
 * @throws DriftmapError `policy`, and what reading the file throws
 */
export function checkOverwritable(path: string, magic: Uint8Array, what: string): void {
  const there = statSync(path, { throwIfNoEntry: false });
  if (there !== undefined && !there.isFile()) {
    throw new DriftmapError('argument', `expected a regular file to write the ${what} to`, { path });
  }
  const start = readStart(path, magic.length);
  if (start === null || start.length === 0) return;
  if (start.length === magic.length && magic.every((byte, i) => start[i] === byte)) return;
  const reason = `is there and is no ${what}: it is not overwritten; name another file, or remove it first`;
  throw new DriftmapError('policy', reason, { path });
}

function asideName(): string {
  return `.driftmap-${randomBytes(8).toString('hex')}.tmp`;
}

/** A new file, with the mode of `old`. */
function createAside(aside: string, old: Stats | null): number {
  const file = openSync(aside, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o666);
  try {
    if (old) fchmodSync(file, old.mode & 0o7777);
    return file;
  } catch (cause) {
    closeSync(file);
    removeQuietly(aside);
    throw cause;
  }
}

function writeWhole(file: number, bytes: Uint8Array, offset: ByteOffset): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(file, bytes, at, Math.min(bytes.length - at, MAX_IO_BYTES), offset + at);
  }
}

function resolveTarget(path: string): { target: string; old: Stats | null } {
  const old = statSync(path, { throwIfNoEntry: false });
  if (!old) return { target: path, old: null };
  if (old.isDirectory())
    throw new DriftmapError('argument', 'expected a file to write, got a directory', { path });
  if (!old.isFile()) throw new DriftmapError('argument', 'expected a regular file to write', { path });
  return { target: realpathSync(path), old };
}

/** Makes a new file, durable, with the mode of `old`; removes it when that fails. */
function writeAside(aside: string, bytes: Uint8Array, old: Stats | null): void {
  const file = createAside(aside, old);
  try {
    try {
      writeWhole(file, bytes, 0);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    removeQuietly(aside);
    throw cause;
  }
}

/** The rename itself becomes durable. */
function syncFolder(folder: number): void {
  try {
    fsyncSync(folder);
  } catch (cause) {
    unlessUnable(cause);
  }
}

/** Some file systems cannot flush a folder and say EINVAL; they order it themselves. */
function unlessUnable(cause: unknown): void {
  const { code } = cause as NodeJS.ErrnoException;
  if (code !== 'EINVAL' && code !== 'ENOTSUP') throw cause;
}

/** Flushes a file or a folder on another thread. */
function flushed(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fsync(descriptor, (cause) => (cause ? reject(cause) : resolve()));
  });
}

/** The error that brought us here is the one to report. */
function removeQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Renamed already, or the folder is gone.
  }
}

/**
 * The first `count` bytes of a file, fewer where it is shorter; null where there is no file. For telling, before
 * a file is replaced, what is in it.
 */
export function readStart(path: string, count: ByteCount): Uint8Array | null {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    const error = systemError(cause, { path, operation: 'read' });
    if (error.kind === 'not-found') return null;
    throw error;
  }
  try {
    const bytes = new Uint8Array(count);
    return bytes.subarray(0, readSync(file, bytes, 0, count, 0));
  } catch (cause) {
    throw systemError(cause, { path, operation: 'read' });
  } finally {
    closeSync(file);
  }
}
