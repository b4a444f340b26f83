import { describe, expect, it } from 'vitest';
import { TiB } from '../../src/base/units.ts';
import { decodeBitmap, encodeBitmap } from '../../src/bitmap/drift-file.ts';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import { PagedBits } from '../../src/bitmap/paged-bits.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { headerOf } from './bitmaps.ts';
import { sequence } from './sets.ts';

const PiB = 1024 * TiB;
const MB = 1e6;
const BLOCK = 65536;
const BLOCKS = PiB / BLOCK;

/** Ten thousand blocks all over the disk. */
function scattered(): number[] {
  const random = sequence(2024);
  const places = new Set<number>();
  while (places.size < 10_000) places.add(random() * 4 + (random() >>> 30));
  return [...places];
}

describe('1 PiB in blocks of 64 KiB', () => {
  it('with ten thousand scattered marks and full coverage takes under 8 MB of memory and 200 kB on disk', () => {
    const places = scattered();
    const bitmap = new SyncBitmap(headerOf(PiB, BLOCK));
    for (const place of places) bitmap.mark(place);
    bitmap.cover({ start: 0, end: BLOCKS });
    expect(bitmap.count).toBe(10_000);
    expect(bitmap.complete).toBe(true);
    expect(bitmap.marks.bytes + bitmap.coverage.bytes).toBeLessThan(8 * MB);
    const bytes = encodeBitmap(bitmap);
    expect(bytes.length).toBeLessThan(200_000);
    const again = decodeBitmap(bytes);
    expect(again.equals(bitmap)).toBe(true);
    expect(again.marks.bytes + again.coverage.bytes).toBeLessThan(8 * MB);
  });

  it('all marked, or none, or all but one, takes under a kilobyte on disk', () => {
    const bitmap = new SyncBitmap(headerOf(PiB, BLOCK));
    bitmap.cover({ start: 0, end: BLOCKS });
    expect(encodeBitmap(bitmap).length).toBeLessThan(1000);
    bitmap.markRun({ start: 0, end: BLOCKS });
    expect(encodeBitmap(bitmap).length).toBeLessThan(1000);
    bitmap.marks.clear(123_456_789);
    const bytes = encodeBitmap(bitmap);
    expect(bytes.length).toBeLessThan(1000);
    expect(decodeBitmap(bytes).equals(bitmap)).toBe(true);
    expect(bitmap.marks.bytes).toBeLessThan(10_000);
  });

  it('half covered, as when a scan is stopped, is written and read', () => {
    const bitmap = new SyncBitmap(headerOf(PiB, BLOCK));
    bitmap.cover({ start: 0, end: BLOCKS / 2 + 12_345 });
    const bytes = encodeBitmap(bitmap);
    expect(bytes.length).toBeLessThan(2 * MB);
    expect(decodeBitmap(bytes).coveredBlocks).toBe(BLOCKS / 2 + 12_345);
  });

  it('counts in kilobytes even for the largest disk in the smallest blocks', () => {
    const bits = new PagedBits(2 ** 44);
    bits.set(0);
    bits.set(2 ** 44 - 1);
    expect(bits.bytes).toBeLessThan(20_000);
    bits.setRun({ start: 1, end: 2 ** 44 - 1 });
    expect(bits.isFull).toBe(true);
  });

  it('takes ten thousand live marks in 8 MB of shared memory without marking too much', () => {
    const live = LiveMarks.create(PiB, BLOCK, 8 * 2 ** 20);
    const places = scattered();
    for (const place of places) live.markDirty(place * BLOCK + 17, 1);
    expect(live.overmarked).toBe(0);
    const bits = new PagedBits(BLOCKS);
    for (const place of places) bits.set(place);
    expect(live.snapshot().equals(bits)).toBe(true);
  });
});
