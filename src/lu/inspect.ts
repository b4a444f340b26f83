/**
 * What a file or block device is: its kind, its size, and what makes it this one and no other.
 *
 * A file is its inode and its time of birth. Both stay when it is written, renamed, moved within its file
 * system or given a second name (a hard link is the same unit); a copy has others, and so has a file that is
 * made anew under an old name, though inodes are used again at once. The device number is not part of it: many
 * file systems get another at each mount. So a file and its twin in a snapshot of the file system (btrfs, an LVM
 * snapshot) have one identity; what tells them apart is the generation, as soon as one of them is written.
 * Where a file system has no time of birth, the device number must do, and the identity lasts until it is
 * mounted anew.
 *
 * A block device is its number, its size, and what the kernel knows of its serial. Numbers may change with a
 * restart, and sizes when it is resized: then a bitmap is refused that might have been used, which is safe.
 */

import { fstatSync, readFileSync, readSync } from 'node:fs';
import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_DISK_SIZE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';

/** What tells kinds apart in a `stat`, with numbers or with bigints. */
interface Kind {
  isFile(): boolean;
  isBlockDevice(): boolean;
  isDirectory(): boolean;
  isFIFO(): boolean;
  isSocket(): boolean;
}

/** @throws DriftmapError `argument` for whatever is neither a file nor a block device */
export function refuseOthers(kind: Kind, path: string): void {
  if (kind.isFile() || kind.isBlockDevice()) return;
  const what = kind.isDirectory()
    ? 'a directory'
    : kind.isFIFO()
      ? 'a FIFO'
      : kind.isSocket()
        ? 'a socket'
        : 'a character device';
  const reason = `expected a file or a block device, got ${what}`;
  throw new DriftmapError('argument', reason, { path, operation: 'open' });
}

/**
 * @returns `size` in bytes; `sparse`: whether it may have holes that can be asked for (a file)
 * @throws DriftmapError `argument` (neither a file nor a block device), `limit`, `io`
 */
export function inspect(fd: number, path: string): { size: ByteCount; identity: string; sparse: boolean } {
  const stat = fstatSync(fd, { bigint: true });
  refuseOthers(stat, path);
  if (stat.isFile()) {
    const born = stat.birthtimeNs > 0n ? `${stat.birthtimeNs}` : `device ${stat.dev}`;
    return { size: boundedSize(Number(stat.size), path), identity: `file:${stat.ino}@${born}`, sparse: true };
  }
  const device = `${major(stat.rdev)}:${minor(stat.rdev)}`;
  const size = boundedSize(deviceSize(fd, device, path), path);
  const serial = ['dm/uuid', 'wwid', 'device/wwid', 'serial', 'device/serial', 'loop/backing_file']
    .map((file) => sysfs(device, file))
    .find((text) => text !== null);
  return { size, identity: `block:${device}:${size}${serial ? `:${serial}` : ''}`, sparse: false };
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
function deviceSize(fd: number, device: string, path: string): ByteCount {
  const sectors = Number(sysfs(device, 'size') ?? Number.NaN);
  return Number.isFinite(sectors) ? sectors * 512 : feltSize(fd, path);
}

/** What systems answer to a read past a device's end, where it is not simply empty. */
const pastTheEnd = ['EINVAL', 'ENXIO', 'ENOSPC'];

/**
 * The size as the number of readable bytes, by bisection: about 50 reads of one byte.
 * @throws DriftmapError `io` when a read fails: a bad sector must not look like the end
 */
export function feltSize(fd: number, path: string): ByteCount {
  const byte = new Uint8Array(1);
  const readable = (offset: number) => {
    try {
      return readSync(fd, byte, 0, 1, offset) === 1;
    } catch (cause) {
      if (pastTheEnd.includes((cause as NodeJS.ErrnoException).code ?? '')) return false;
      throw systemError(cause, { path, offset, length: 1, operation: 'read' });
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
