import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { decodeBitmap, encodeBitmap, loadBitmap } from '../../src/bitmap/drift-file.ts';
import { type BitmapHeader, SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';

interface Frozen {
  readonly header: BitmapHeader;
  readonly blocks: number;
  readonly markedBlocks: number;
  readonly coveredBlocks: number;
  /** Half-open runs; with a step, every step-th block of it. */
  readonly marks: readonly { start: number; end: number; step?: number }[];
  readonly coverage: readonly { start: number; end: number }[];
}

const path = join(import.meta.dirname, 'drift-v1.drift');
const frozen: Frozen = JSON.parse(readFileSync(join(import.meta.dirname, 'drift-v1.json'), 'utf8'));

function rebuilt(): SyncBitmap {
  const bitmap = new SyncBitmap(frozen.header);
  for (const { start, end, step } of frozen.marks) {
    if (step === undefined) bitmap.markRun({ start, end });
    else for (let block = start; block < end; block += step) bitmap.mark(block);
  }
  for (const run of frozen.coverage) bitmap.cover(run);
  return bitmap;
}

describe('the frozen .drift file of version 1', () => {
  it('is read as what it has always been', () => {
    const bitmap = loadBitmap(path);
    expect(bitmap.header).toEqual(frozen.header);
    expect(bitmap.blocks).toBe(frozen.blocks);
    expect(bitmap.count).toBe(frozen.markedBlocks);
    expect(bitmap.coveredBlocks).toBe(frozen.coveredBlocks);
    expect(bitmap.equals(rebuilt())).toBe(true);
    expect([...bitmap.coverageRuns()]).toEqual(frozen.coverage);
  });

  it('is written to the same bytes as ever', () => {
    const bytes = readFileSync(path);
    expect(Buffer.compare(encodeBitmap(rebuilt()), bytes)).toBe(0);
    expect(Buffer.compare(encodeBitmap(decodeBitmap(bytes)), bytes)).toBe(0);
  });
});
