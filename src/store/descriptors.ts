/**
 * Calls of the file system on bare descriptors. `fs/promises` wraps each file in an object of its own, which costs as
 * much as the call; of thousands of small files a second that is most of what they cost. Opening, writing and flushing
 * happen on Node's threads. Closing does not: with everything flushed, or only read, it has nothing to wait for, and
 * another thread would have to be woken for it.
 */

import { close, closeSync, fstat, fsync, open, read, rename, type Stats, write } from 'node:fs';
import { promisify } from 'node:util';

type Descriptor = number;

export const openDescriptor: (path: string, flags: string, mode?: number) => Promise<Descriptor> =
  promisify(open);
export const renameFile: (from: string, to: string) => Promise<void> = promisify(rename);
export const flushDescriptor: (fd: Descriptor) => Promise<void> = promisify(fsync);
export const statDescriptor: (fd: Descriptor) => Promise<Stats> = promisify(fstat);
/** Of what may not be flushed: closing may write. */
export const closeAside: (fd: Descriptor) => Promise<void> = promisify(close);
export { closeSync as closeNow };

/** Writes some of `bytes` from `at` on, to the same place in the file; returns how many. */
export function writeSome(fd: Descriptor, bytes: Uint8Array, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, bytes, at, bytes.length - at, at, (cause, count) => (cause ? reject(cause) : resolve(count)));
  });
}

/** Reads some of what lies in the file from `at` on, to the same place in `bytes`; returns how many, 0 at the end. */
export function readSome(fd: Descriptor, bytes: Uint8Array, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, bytes, at, bytes.length - at, at, (cause, count) => (cause ? reject(cause) : resolve(count)));
  });
}
