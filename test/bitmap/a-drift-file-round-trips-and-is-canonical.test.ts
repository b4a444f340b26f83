import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_IDENTITY_BYTES } from '../../src/base/limits.ts';
import { decodeBitmap, encodeBitmap, loadBitmap, saveBitmap } from '../../src/bitmap/drift-file.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { bitmapOf, cook, headerOf, recipes } from './bitmaps.ts';
import { listed } from './sets.ts';

describe('a .drift file', () => {
  it('gives back the bitmap that was written', () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const bitmap = cook(recipe);
        const again = decodeBitmap(encodeBitmap(bitmap));
        expect(again.equals(bitmap)).toBe(true);
        expect(again.header).toEqual(bitmap.header);
        expect(listed(again.marks)).toEqual(listed(bitmap.marks));
        expect(listed(again.coverage)).toEqual(listed(bitmap.coverage));
      }),
      { numRuns: 60 },
    );
  });

  it('has the same bytes however the bitmap came about', () => {
    fc.assert(
      fc.property(recipes, (recipe) => {
        const bitmap = cook(recipe);
        const other = new SyncBitmap({
          replica: bitmap.header.replica,
          production: bitmap.header.production,
          signature: bitmap.header.signature,
          blockSize: bitmap.blockSize,
          size: bitmap.size,
        });
        const runs = [...bitmap.runs()].reverse();
        for (const { start, end } of runs)
          for (let block = end - 1; block >= start; block--) other.mark(block);
        for (const run of [...bitmap.coverageRuns()].reverse()) other.cover(run);
        const bytes = encodeBitmap(bitmap);
        expect(Buffer.compare(encodeBitmap(other), bytes)).toBe(0);
        expect(Buffer.compare(encodeBitmap(decodeBitmap(bytes)), bytes)).toBe(0);
      }),
      { numRuns: 40 },
    );
  });

  it('holds disks of several 2^32 blocks', () => {
    const far = [0, 2 ** 32 - 1, 2 ** 32, 5 * 2 ** 32 + 65536, 2 ** 38 - 1];
    const bitmap = bitmapOf(headerOf(512 * 2 ** 38), far, far.slice(1, 3));
    const again = decodeBitmap(encodeBitmap(bitmap));
    expect(listed(again.marks)).toEqual(far);
    expect(listed(again.coverage)).toEqual(far.slice(1, 3));
    bitmap.cover({ start: 0, end: bitmap.blocks });
    expect(decodeBitmap(encodeBitmap(bitmap)).complete).toBe(true);
  });

  it('keeps names of every script', () => {
    const size = 4096;
    const header = headerOf(size, 512, {
      signature: 'none',
      production: { identity: 'file:/srv/диск/磁盘 "a"\n.raw', size, generation: '' },
      replica: { identity: '', size: 0, generation: 'mixed' },
    });
    expect(decodeBitmap(encodeBitmap(new SyncBitmap(header))).header).toEqual(header);
  });

  it('keeps the longest identities, and longer ones are refused before a scan begins', () => {
    const size = 4096;
    const text = 'é'.repeat(MAX_IDENTITY_BYTES / 2);
    const stamp = { identity: text, size, generation: text };
    const header = headerOf(size, 512, { production: stamp, replica: stamp });
    expect(decodeBitmap(encodeBitmap(new SyncBitmap(header))).header).toEqual(header);
    const longer = { ...header, production: { ...stamp, identity: `${text}.` } };
    expect(() => new SyncBitmap(longer)).toThrow(expect.objectContaining({ kind: 'limit' }));
  });

  it('is written to a file and read from it', () => {
    const folder = mkdtempSync(join(tmpdir(), 'driftmap-bitmap-'));
    try {
      const path = join(folder, 'a.drift');
      const bitmap = bitmapOf(headerOf(100_000), [1, 2, 3, 150], [0, 1, 2]);
      saveBitmap(bitmap, path);
      expect(loadBitmap(path).equals(bitmap)).toBe(true);
      bitmap.mark(7);
      saveBitmap(bitmap, path);
      expect(loadBitmap(path).test(7)).toBe(true);
      expect(Buffer.compare(readFileSync(path), encodeBitmap(bitmap))).toBe(0);
      const missing = join(folder, 'b.drift');
      expect(() => loadBitmap(missing)).toThrow(
        expect.objectContaining({ kind: 'not-found', path: missing }),
      );
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
