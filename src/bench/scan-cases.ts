/**
 * Suites `array-scan`, `file-scan` and `dispatch`: whole scans of a drifted pair, by block size, algorithm
 * and number of workers. Files are in the page cache, so that what is measured is driftmap and not a disk;
 * bytes are those of both sides together. `dispatch` is a scan of next to nothing: what a scan costs before
 * its first byte.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { exactSize, KiB, MiB } from '../base/units.ts';
import { openDisk } from '../disk/open.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { createArrayImage } from '../lu/array-image.ts';
import { createScanner, type Scanner } from '../scan/scan.ts';
import type { ScanResult } from '../scan/scan-options.ts';
import type { CompareMethod } from '../scan/task.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { BenchCase, Suite, SuiteOptions } from './bench-case.ts';
import { digestOfMarks } from './bitmap-cases.ts';
import { fillRandom, indexes } from './random.ts';
import { temporaryFolder } from './temporary-folder.ts';

const DISK = { full: 128 * MiB, gate: 16 * MiB, smoke: 2 * MiB } as const;
const BLOCKS = { full: [4 * KiB, 64 * KiB, MiB], gate: [64 * KiB], smoke: [64 * KiB] } as const;
/** Of every so many 64 KiB one byte differs: 1 %, and at least one block of the smallest disk. */
const DRIFT_EVERY = 100;
const SMALL_DISK = 64 * KiB;

type Pair = readonly [VirtualDisk, VirtualDisk];
type Compared = AlgorithmName | 'bytes';

export const compared: readonly Compared[] = ['blake3', 'nh128', 'xxh3-128', 'bytes'];

export async function openArrayScanSuite(options: SuiteOptions): Promise<Suite> {
  const pair = await arrayPair(DISK[options.scale]);
  return scanSuite('array-scan', 'memory-read', pair, options, () => {});
}

export async function openFileScanSuite(options: SuiteOptions): Promise<Suite> {
  const { path: folder, remove } = temporaryFolder();
  try {
    const [production, replica] = contents(DISK[options.scale]);
    writeFileSync(join(folder, 'production.raw'), production);
    writeFileSync(join(folder, 'replica.raw'), replica);
    const open = (name: string) => openDisk(join(folder, name), { format: 'raw' });
    const pair: Pair = [await open('production.raw'), await open('replica.raw')];
    return await scanSuite('file-scan', 'read-file', pair, options, remove);
  } catch (error) {
    remove();
    throw error;
  }
}

export async function openDispatchSuite({ workers }: SuiteOptions): Promise<Suite> {
  const pair = await arrayPair(SMALL_DISK);
  const scanners = workers.map((count) => createScanner({ workers: count }));
  const cases = scanners.map((scanner) => {
    const work = { scanner, pair, blockSize: 64 * KiB, by: 'nh128' as const };
    const scanned = scanCase(`dispatch/scan/j${scanner.workers}`, 'dispatch', work);
    return { ...scanned, bytes: 0, operations: 1, limit: null };
  });
  return { cases, close: () => closeAll(scanners, pair) };
}

async function scanSuite(
  suite: string,
  limit: string,
  pair: Pair,
  { scale, workers }: SuiteOptions,
  remove: () => void,
): Promise<Suite> {
  const scanners = workers.map((count) => createScanner({ workers: count }));
  const cases = scanners.flatMap((scanner) =>
    BLOCKS[scale].flatMap((blockSize) =>
      compared.map((by) => {
        const name = `${suite}/${by}/${exactSize(blockSize)}/j${scanner.workers}`;
        const made = scanCase(name, suite, { scanner, pair, blockSize, by });
        return { ...made, limit: `machine/${limit}/${scanner.workers}` };
      }),
    ),
  );
  const close = async () => {
    await closeAll(scanners, pair);
    remove();
  };
  return { cases, close };
}

interface ScanWork {
  readonly scanner: Scanner;
  readonly pair: Pair;
  readonly blockSize: number;
  readonly by: Compared;
}

function scanCase(name: string, suite: string, { scanner, pair, blockSize, by }: ScanWork): BenchCase {
  const [production, replica] = pair;
  const compare: CompareMethod = by === 'bytes' ? 'bytes' : 'signatures';
  const signature = by === 'bytes' ? undefined : by;
  let last: ScanResult | undefined;
  return {
    name,
    suite,
    bytes: production.size + replica.size,
    operations: 0,
    limit: null,
    threads: scanner.workers,
    clock: 'wall',
    run: async () => {
      last = await scanner.scan({ production, replica, blockSize, compare, signature });
    },
    digest: () => (last === undefined ? '' : digestOfMarks(last.bitmap)),
  };
}

/** A disk without holes, and its replica: every block must be read, so bytes a second mean what they say. */
export function contents(size: number): [Uint8Array, Uint8Array] {
  const production = new Uint8Array(size);
  fillRandom(production, 7);
  const replica = production.slice();
  const at = indexes(9);
  const drifted = Math.max(1, Math.floor(size / (64 * KiB) / DRIFT_EVERY));
  for (let i = 0; i < drifted; i++) {
    const place = at(size);
    replica[place] = production[place]! ^ 0xff;
  }
  return [production, replica];
}

async function arrayPair(size: number): Promise<Pair> {
  const names = ['production', 'replica'];
  const images = contents(size).map((bytes, i) => createArrayImage({ size, bytes, name: names[i]! }));
  return [await openDisk(images[0]!, { format: 'raw' }), await openDisk(images[1]!, { format: 'raw' })];
}

async function closeAll(scanners: readonly Scanner[], pair: Pair): Promise<void> {
  for (const scanner of scanners) await scanner.close();
  for (const disk of pair) await disk.close();
}
