/** Suite `bitmap`: marking, walking, combining and encoding a sync bitmap with marks of every density. */

import { KiB } from '../base/units.ts';
import { decodeBitmap, encodeBitmap } from '../bitmap/drift-file.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { type BenchCase, type Suite, type SuiteOptions, shortDigest } from './bench-case.ts';
import { indexes } from './random.ts';

const BLOCK = 64 * KiB;
/** Blocks of the disk, and scattered marks on it. */
const SIZES = {
  full: { blocks: 2 ** 24, marks: 1_000_000 },
  gate: { blocks: 2 ** 21, marks: 40_000 },
  smoke: { blocks: 2 ** 17, marks: 1_000 },
} as const;

export async function openBitmapSuite({ scale }: SuiteOptions): Promise<Suite> {
  const { blocks, marks } = SIZES[scale];
  const at = indexes(5);
  const places = Float64Array.from({ length: marks }, () => at(blocks));
  const scattered = markAll(emptyBitmap(blocks), places);
  const dense = emptyBitmap(blocks);
  for (let start = 0; start + 96 < blocks; start += 256) dense.markRun({ start, end: start + 96 });
  const encoded = encodeBitmap(scattered);
  const cases: BenchCase[] = [];
  const add = (what: string, operations: number, work: () => SyncBitmap | Uint8Array | number) => {
    let result: SyncBitmap | Uint8Array | number = 0;
    cases.push({
      name: `bitmap/${what}`,
      suite: 'bitmap',
      bytes: 0,
      operations,
      limit: null,
      threads: 1,
      clock: 'processor',
      run: (): undefined => {
        result = work();
      },
      digest: () => digestOf(result),
    });
  };
  add('mark', marks, () => markAll(emptyBitmap(blocks), places));
  add('runs', scattered.count, () => {
    let sum = 0;
    for (const { start, end } of scattered.runs()) sum += start + end;
    return sum;
  });
  add('or', blocks, () => scattered.or(dense));
  add('encode', marks, () => encodeBitmap(scattered));
  add('decode', marks, () => decodeBitmap(encoded));
  return { cases, close: async () => {} };
}

function emptyBitmap(blocks: number): SyncBitmap {
  const size = blocks * BLOCK;
  const disk = { identity: 'bench', size, generation: '1' };
  return new SyncBitmap({ size, blockSize: BLOCK, signature: 'blake3', production: disk, replica: disk });
}

function markAll(bitmap: SyncBitmap, places: Float64Array): SyncBitmap {
  for (const place of places) bitmap.mark(place);
  return bitmap;
}

/** What is marked, whatever its encoding: a better encoding is no change of meaning. */
function digestOf(result: SyncBitmap | Uint8Array | number): string {
  if (typeof result === 'number') return shortDigest(String(result));
  return digestOfMarks(result instanceof SyncBitmap ? result : decodeBitmap(result));
}

export function digestOfMarks(bitmap: SyncBitmap): string {
  const text: string[] = [];
  for (const { start, end } of bitmap.runs()) text.push(`${start}-${end}`);
  return shortDigest(`${bitmap.blocks} ${bitmap.coveredBlocks} `, text.join(' '));
}
