import { describe, expect, it } from 'vitest';
import { HOLE_EXTENTS_PER_WINDOW, HOLE_WINDOW } from '../../src/base/limits.ts';
import { MiB } from '../../src/base/units.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import { ExtentMap } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';

function raw(bytes: Uint8Array): { reader: DiskReader; unit: BytesUnit } {
  const unit = new BytesUnit(bytes, { holes: true });
  return {
    reader: new DiskReader({ name: 'raw', map: ExtentMap.identity(bytes.length), units: [unit] }),
    unit,
  };
}

/** Walks the disk as a scan does, in pieces; returns how many bytes were skipped as known zeros. */
function walk(reader: DiskReader, size: number, piece: number): number {
  let skipped = 0;
  for (let offset = 0; offset < size; ) {
    const zero = reader.zeroUntil(offset, size) as number;
    skipped += zero - offset;
    offset = zero > offset ? zero : (reader.dataUntil(offset, Math.min(offset + piece, size)) as number);
  }
  return skipped;
}

describe('holes of a unit', () => {
  it('nothing is asked before the first question', () => {
    expect(raw(new Uint8Array(MiB)).unit.questions).toBe(0);
  });

  it('one hole over the whole disk costs one question', () => {
    const { reader, unit } = raw(new Uint8Array(8 * MiB));
    expect(walk(reader, 8 * MiB, 65536)).toBe(8 * MiB);
    expect(unit.questions).toBe(1);
  });

  it('data without a hole costs one question, however small the steps', () => {
    const { reader, unit } = raw(new Uint8Array(4 * MiB).fill(1));
    expect(walk(reader, 4 * MiB, 4096)).toBe(0);
    expect(unit.questions).toBe(1);
  });

  it('a few holes are all found', () => {
    const bytes = new Uint8Array(16 * MiB);
    for (let i = 0; i < 10; i++) bytes.fill(1, i * 1.5 * MiB, i * 1.5 * MiB + 4096);
    const { reader } = raw(bytes);
    expect(walk(reader, bytes.length, 65536)).toBe(bytes.length - 10 * 4096);
  });

  it('a sieve is asked about no more than the cap in each window, and is read', () => {
    const bytes = new Uint8Array(2 * HOLE_WINDOW);
    for (let at = 0; at < bytes.length; at += 8192) bytes[at] = 1;
    const { reader, unit } = raw(bytes);
    const skipped = walk(reader, bytes.length, 65536);
    expect(skipped).toBeGreaterThan(0);
    // Half of the extents that may be asked for are holes of a page.
    expect(skipped).toBeLessThanOrEqual((2 * HOLE_EXTENTS_PER_WINDOW * 4096) / 2);
    expect(unit.questions).toBeLessThanOrEqual(2 * HOLE_EXTENTS_PER_WINDOW);
  });
});
