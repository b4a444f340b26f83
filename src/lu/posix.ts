/**
 * The door to the system calls that Node lacks: lseek(SEEK_DATA/SEEK_HOLE), fallocate, ioctl(FICLONE), flock, sync_file_range. koffi is an
 * optional dependency and loaded when first needed (about 8 ms): without it, on another system than 64-bit
 * Linux, or with DRIFTMAP_NO_NATIVE=1, every question is answered "unknown" and callers fall back.
 */

import { createRequire } from 'node:module';
import type { ByteCount, ByteOffset } from '../base/units.ts';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
/** Begins to write what is dirty, and waits for nothing (sync_file_range(2)). */
const SYNC_FILE_RANGE_WRITE = 2;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const ENXIO = 6;
const LOCK_EX = 2;
const LOCK_NB = 4;
/** EWOULDBLOCK is the same on every Linux that we have a door for. */
const EAGAIN = 11;
/**
 * Linux `_IOW(0x94, 9, int)`: bits of direction, size, type and number, which PowerPC packs in its own way
 * (include/uapi/asm-generic/ioctl.h, arch/powerpc/include/uapi/asm/ioctl.h).
 */
const FICLONE = process.arch === 'ppc64' ? 0x80049409 : 0x40049409;
/** Where `off_t` has 64 bits. Elsewhere `lseek` and `fallocate` would take an offset for another one. */
const wide: readonly string[] = ['arm64', 'loong64', 'ppc64', 'riscv64', 's390x', 'x64'];

interface Libc {
  lseek(fd: number, offset: number, whence: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number): number;
  ioctl(fd: number, request: number, kind: 'int', value: number): number;
  flock(fd: number, operation: number): number;
  /** Absent from C libraries of other systems than Linux's own two. */
  sync_file_range?(fd: number, offset: number, length: number, flags: number): number;
  errno(): number;
}

let libc: Libc | null | undefined;

function door(): Libc | null {
  if (libc === undefined) libc = process.env.DRIFTMAP_NO_NATIVE ? null : open();
  return libc;
}

function open(): Libc | null {
  if (process.platform !== 'linux' || !wide.includes(process.arch)) return null;
  try {
    const require = createRequire(import.meta.url);
    const koffi = require('koffi') as typeof import('koffi');
    // The C library is in the process already: its symbols need no file name, so glibc and musl are alike.
    const lib = koffi.load(null);
    let writeOut: Libc['sync_file_range'];
    try {
      writeOut = lib.func('int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)');
    } catch {
      // It only makes a later flush shorter.
    }
    return {
      ...(writeOut ? { sync_file_range: writeOut } : {}),
      lseek: lib.func('int64_t lseek(int fd, int64_t offset, int whence)'),
      fallocate: lib.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)'),
      ioctl: lib.func('int ioctl(int fd, unsigned long request, ...)'),
      flock: lib.func('int flock(int fd, int operation)'),
      errno: () => koffi.errno(),
    };
  } catch {
    return null;
  }
}

export function hasNative(): boolean {
  return door() !== null;
}

/** Where the next data at or after `offset` begins; `end` when there is none up to the file's end; null when unknown. */
export function seekData(fd: number, offset: ByteOffset, end: ByteOffset): ByteOffset | null {
  const found = door()?.lseek(fd, offset, SEEK_DATA);
  if (found === undefined) return null;
  if (found >= 0) return Number(found);
  return door()!.errno() === ENXIO ? end : null;
}

/** Where the next hole at or after `offset` begins (a file ends in one); null when unknown. */
export function seekHole(fd: number, offset: ByteOffset): ByteOffset | null {
  const found = door()?.lseek(fd, offset, SEEK_HOLE);
  return found === undefined || found < 0 ? null : Number(found);
}

/** Gives a range's storage back, so that it reads as zeros. False when that cannot be done here. */
export function punchHole(fd: number, offset: ByteOffset, length: ByteCount): boolean {
  return door()?.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) === 0;
}

/** Begins to write a file's dirty pages to its disk, so that a flush that follows finds less to do. It promises nothing. */
export function beginWriteback(fd: number): void {
  // A length of 0 means: to the end of the file.
  door()?.sync_file_range?.(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

/**
 * Makes an empty file share all the storage of another (a reflink), until either is written.
 * @returns 0 when it was done, else the system's error number; null where there is no native door
 */
export function cloneFile(from: number, to: number): number | null {
  const libc = door();
  if (libc === null) return null;
  return libc.ioctl(to, FICLONE, 'int', from) === 0 ? 0 : libc.errno();
}

/**
 * Locks an open file for its holder alone, by whatever name others open it, until it is closed; it waits for nobody.
 * @returns false where somebody else has it; null where that cannot be told here
 */
export function lockFile(fd: number): boolean | null {
  const libc = door();
  if (libc === null) return null;
  if (libc.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  return libc.errno() === EAGAIN ? false : null;
}
