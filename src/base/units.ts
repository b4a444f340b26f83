/**
 * Units as types. They are flavoured, not opaque: a plain number may be used as any of them, but bytes
 * may not be used as blocks nor the reverse, which is the mistake that happens. An offset is a count of
 * bytes from the start, so those two mix freely. All conversions live here.
 */

import { DriftmapError } from './errors.ts';

/** Bytes from the start of a disk or logical unit: 0 … 2^53−1. */
export type ByteOffset = number & { readonly __unit?: 'bytes' };
/** How many bytes. */
export type ByteCount = number & { readonly __unit?: 'bytes' };
/** Blocks from the start of a disk. */
export type BlockIndex = number & { readonly __unit?: 'blocks' };
/** How many blocks. */
export type BlockCount = number & { readonly __unit?: 'blocks' };

/** A half-open run of bytes, `[offset, offset + length)`. */
export interface ByteRange {
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

/** A half-open run of blocks, `[start, end)`. */
export interface BlockRun {
  readonly start: BlockIndex;
  readonly end: BlockIndex;
}

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
export const TiB = 1024 * GiB;

/** How many blocks a disk of `size` bytes has; the last one may be short. */
export function blockCount(size: ByteCount, blockSize: ByteCount): BlockCount {
  return Math.ceil(size / blockSize);
}

/** The block that holds a byte. */
export function blockAt(offset: ByteOffset, blockSize: ByteCount): BlockIndex {
  return Math.floor(offset / blockSize);
}

/** The blocks that a byte range touches, wholly or in part. */
export function blocksTouching({ offset, length }: ByteRange, blockSize: ByteCount): BlockRun {
  if (length === 0) return { start: blockAt(offset, blockSize), end: blockAt(offset, blockSize) };
  return { start: blockAt(offset, blockSize), end: blockAt(offset + length - 1, blockSize) + 1 };
}

/** The bytes of a run of blocks, clipped at the disk's size. */
export function bytesOfBlocks({ start, end }: BlockRun, blockSize: ByteCount, size: ByteCount): ByteRange {
  const offset = start * blockSize;
  return { offset, length: Math.min(end * blockSize, size) - offset };
}

export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && 2 ** Math.round(Math.log2(value)) === value;
}

export function alignDown(value: number, unit: number): number {
  return value - (value % unit);
}

export function alignUp(value: number, unit: number): number {
  return alignDown(value + unit - 1, unit);
}

const suffixes: Readonly<Record<string, number>> = { '': 1, K: KiB, M: MiB, G: GiB, T: TiB };

/** Reads `64K`, `1.5G`, `4096`, `512KiB`; powers of 1024, as qemu-img does. */
export function parseSize(text: string): ByteCount {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  const size = match ? Number(match[1]) * suffixes[match[2]!.toUpperCase()]! : Number.NaN;
  if (!Number.isSafeInteger(size)) {
    throw new DriftmapError('argument', `expected a size such as 4096, 64K, 16M or 1T, got '${text}'`);
  }
  return size;
}

/** `65536` → `64K`, `1000` → `1000`: the shortest exact form, readable by `parseSize`. */
export function exactSize(size: ByteCount): string {
  for (const [suffix, unit] of [
    ['T', TiB],
    ['G', GiB],
    ['M', MiB],
    ['K', KiB],
  ] as const) {
    if (size > 0 && size % unit === 0) return `${size / unit}${suffix}`;
  }
  return String(size);
}

/** `1234567` → `1.18 MiB`: for people. */
export function humanSize(size: ByteCount): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let power = 0;
  let value = size;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power++;
  }
  if (power === 0 && size === 1) return '1 byte';
  return `${power === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[power]}`;
}
