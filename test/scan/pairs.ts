/** Pairs of disks for the scan's tests, and what a scan of them must find, worked out byte by byte. */

import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import type { BlockRun } from '../../src/base/units.ts';
import { openDisk } from '../../src/disk/open.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';

/** Contents as runs: `fill` 0 is a hole where the medium has holes. */
export interface Run {
  readonly length: number;
  readonly fill: number;
}

export type Medium = 'array' | 'banks' | 'sparse file';

export interface PairSpec {
  readonly runs: readonly Run[];
  /** Positions (as shares of the size) whose byte differs on the replica. */
  readonly changes: readonly number[];
  /** Added to the replica's size; the longer one's tail is `tailFill`. */
  readonly longer: number;
  readonly tailFill: number;
  readonly media: readonly [Medium, Medium];
}

export const pairSpec: fc.Arbitrary<PairSpec> = fc.record({
  runs: fc.array(
    fc.record({ length: fc.integer({ min: 1, max: 200_000 }), fill: fc.constantFrom(0, 0, 1, 255) }),
    { minLength: 1, maxLength: 12 },
  ),
  changes: fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { maxLength: 6 }),
  longer: fc.constantFrom(0, 0, 1, 511, 70_000, -70_000, -1),
  tailFill: fc.constantFrom(0, 9),
  media: fc.tuple(
    fc.constantFrom<Medium>('array', 'banks', 'sparse file'),
    fc.constantFrom<Medium>('array', 'banks', 'sparse file'),
  ),
});

export interface Contents {
  readonly production: Uint8Array;
  readonly replica: Uint8Array;
}

export function contentsOf({ runs, changes, longer, tailFill }: PairSpec): Contents {
  const base = new Uint8Array(runs.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const { length, fill } of runs) {
    // Data is never constant, so that a block read from the wrong place is noticed.
    if (fill > 0)
      for (let i = at; i < at + length; i++) base[i] = (Math.imul(i + fill, 2654435761) >>> 24) | 1;
    at += length;
  }
  const extend = (by: number) => {
    const bytes = new Uint8Array(base.length + Math.max(0, by));
    bytes.set(base);
    bytes.fill(tailFill, base.length);
    return bytes;
  };
  const production = extend(-longer);
  const replica = extend(longer);
  for (const change of changes) replica[Math.floor(change * replica.length)]! ^= 0x41;
  return { production, replica };
}

export async function diskOf(
  bytes: Uint8Array,
  medium: Medium,
  folder: string,
  name: string,
): Promise<VirtualDisk> {
  if (medium === 'sparse file') return openDisk(sparseFile(join(folder, name), bytes), { format: 'raw' });
  const image = createArrayImage({
    size: bytes.length,
    name,
    ...(medium === 'banks' ? { bankBytes: 100 * 4096 } : {}),
  });
  await image.write(0, bytes);
  return openDisk(image, { format: 'raw' });
}

/** Writes only pages that are not all zeros. */
export function sparseFile(path: string, bytes: Uint8Array): string {
  const fd = openSync(path, 'w');
  try {
    ftruncateSync(fd, bytes.length);
    for (let at = 0; at < bytes.length; at += 4096) {
      const page = bytes.subarray(at, at + 4096);
      if (page.some((byte) => byte !== 0)) writeSync(fd, page, 0, page.length, at);
    }
  } finally {
    closeSync(fd);
  }
  return path;
}

/** The blocks that differ, a disk being zeros past its end. */
export function differingBlocks({ production, replica }: Contents, blockSize: number): number[] {
  const size = Math.max(production.length, replica.length);
  const found: number[] = [];
  for (let block = 0; block * blockSize < size; block++) {
    for (let i = block * blockSize; i < Math.min((block + 1) * blockSize, size); i++) {
      if ((production[i] ?? 0) !== (replica[i] ?? 0)) {
        found.push(block);
        break;
      }
    }
  }
  return found;
}

export function blocksOf(runs: Iterable<BlockRun>): number[] {
  return [...runs].flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i));
}
