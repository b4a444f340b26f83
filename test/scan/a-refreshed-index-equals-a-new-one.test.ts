import { closeSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DriftmapError } from '../../src/base/errors.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { buildIndex, type IndexResult, refreshIndex } from '../../src/scan/index-build.ts';
import { FIRST_DATA } from '../disk/qcow2-builder.ts';
import { temporary } from '../tools.ts';
import { changeByte, openRaw, writeSpec } from './indexes.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const size = 1024 * 512 * 3 + 123;

/** A bitmap of the disk as it is now, of which nothing is marked and everything is known. */
function bitmapOf(disk: VirtualDisk, blockSize: number, signature = 'none'): SyncBitmap {
  const stamp = { identity: disk.identity, size: disk.size, generation: disk.generation() };
  const bitmap = new SyncBitmap({
    size: disk.size,
    blockSize,
    signature,
    production: stamp,
    replica: stamp,
  });
  bitmap.cover({ start: 0, end: bitmap.blocks });
  return bitmap;
}

function writeAt(file: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(file, 'r+');
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

function contents(): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < 400_000; i++) bytes[i] = (Math.imul(i, 2654435761) >>> 24) | 1;
  return bytes;
}

const write = fc.record({
  offset: fc.nat(size - 1),
  length: fc.integer({ min: 1, max: 40_000 }),
  fill: fc.constantFrom(0, 7),
});

describe('a refreshed index', () => {
  it('equals a new one byte for byte, whatever was written and however coarse or fine the bitmap is', async () => {
    const file = path('disk.raw');
    await fc.assert(
      fc.asyncProperty(
        fc.array(write, { maxLength: 8 }),
        fc.constantFrom(512, 4096),
        fc.constantFrom(512, 2048, 65536),
        fc.boolean(),
        async (writes, blockSize, bitmapBlock, isUnit) => {
          writeFileSync(file, contents());
          const before = await openRaw(file);
          const of = (disk: VirtualDisk) => (isUnit ? disk.units[0]! : disk);
          await buildIndex({ of: of(before), path: path('old.sig'), blockSize, workers: 1 });
          await before.close();
          for (const { offset, length, fill } of writes)
            writeAt(file, offset, new Uint8Array(Math.min(length, size - offset)).fill(fill));
          const disk = await openRaw(file);
          const within = bitmapOf(disk, bitmapBlock);
          for (const { offset, length } of writes)
            within.markRange({ offset, length: Math.min(length, size - offset) });
          const options = { of: of(disk), path: path('new.sig'), workers: 2 };
          const refreshed = await refreshIndex({ ...options, old: path('old.sig'), within, sample: 0.05 });
          const fresh = await buildIndex({ ...options, path: path('fresh.sig'), blockSize });
          expect(readFileSync(path('new.sig')).equals(readFileSync(path('fresh.sig')))).toBe(true);
          expect(refreshed.signedBytes).toBeLessThanOrEqual(fresh.blocks * blockSize);
          if (writes.length === 0) expect(refreshed.signedBytes).toBe(0);
          await disk.close();
        },
      ),
      { numRuns: 12 },
    );
  }, 40_000);

  it('signs what the bitmap never looked at, and reads nothing of what it knows to be unchanged', async () => {
    const file = path('partly.raw');
    writeFileSync(file, contents());
    const disk = await openRaw(file);
    await buildIndex({ of: disk, path: path('partly.sig'), blockSize: 512, workers: 1 });
    const stamp = { identity: disk.identity, size, generation: disk.generation() };
    const within = new SyncBitmap({
      size,
      blockSize: 512,
      signature: 'none',
      production: stamp,
      replica: stamp,
    });
    within.cover({ start: 0, end: 700 });
    const options = { of: disk, path: path('partly.sig'), old: path('partly.sig'), within, workers: 1 };
    const half = await refreshIndex(options);
    expect(half.keptBlocks).toBe(700);
    expect(half.readBytes).toBe(half.signedBytes);
    expect(half.readBytes).toBeGreaterThan(0);
    within.cover({ start: 0, end: within.blocks });
    const nothing = await refreshIndex(options);
    expect([nothing.readBytes, nothing.keptBlocks]).toEqual([0, within.blocks]);
    expect(nothing.warnings.join()).toMatch(/trusts that the bitmap marks every write/);
    await disk.close();
  });

  it('of what the bitmap missed is found out by a sample, and the older index stays', async () => {
    const file = path('missed.raw');
    writeFileSync(file, contents());
    const before = await openRaw(file);
    await buildIndex({ of: before, path: path('missed.sig'), blockSize: 512, workers: 1 });
    await before.close();
    const old = readFileSync(path('missed.sig'));
    writeAt(file, 200 * 512 + 3, new Uint8Array([0]));
    const disk = await openRaw(file);
    const within = bitmapOf(disk, 512);
    const options = { of: disk, path: path('missed.sig'), old: path('missed.sig'), within, workers: 1 };
    await expect(refreshIndex({ ...options, sample: 1 })).rejects.toThrow(/verification failed.*block 200/);
    expect(readFileSync(path('missed.sig')).equals(old)).toBe(true);
    await disk.close();
  });
});

describe('a refresh is refused when', () => {
  async function refusal(
    change: (
      file: string,
      disk: VirtualDisk,
      bitmap: SyncBitmap,
    ) => Promise<Partial<Parameters<typeof refreshIndex>[0]>>,
  ): Promise<DriftmapError> {
    const file = path('refused.raw');
    writeFileSync(file, contents());
    const disk = await openRaw(file);
    await buildIndex({ of: disk, path: path('refused.sig'), blockSize: 512, workers: 1 });
    const within = bitmapOf(disk, 512);
    const options = { of: disk, path: path('refused.sig'), old: path('refused.sig'), within, workers: 1 };
    const changed = await change(file, disk, within);
    const result = await refreshIndex({ ...options, ...changed }).then(
      (made: IndexResult) => made,
      (error: DriftmapError) => error,
    );
    await disk.close();
    if (!('kind' in result)) throw new Error('expected it to be refused');
    return result;
  }

  it('the index is of another disk, or of the unit in place of the disk', async () => {
    writeFileSync(path('other.raw'), contents());
    const other = await openRaw(path('other.raw'));
    const ofOther = await refusal(async () => ({ of: other, within: bitmapOf(other, 512) }));
    expect(ofOther).toMatchObject({ kind: 'mismatch', path: path('refused.sig') });
    const ofUnit = await refusal(async (_file, disk) => ({ of: disk.units[0]! }));
    expect(ofUnit.message).toMatch(/expected an index of the unit .* got one of the disk/);
    await other.close();
  });

  it('the bitmap is of another disk', async () => {
    writeFileSync(path('other.raw'), contents());
    const other = await openRaw(path('other.raw'));
    const error = await refusal(async () => ({ within: bitmapOf(other, 512) }));
    expect(error.message).toMatch(/use a bitmap of this disk/);
    await other.close();
  });

  it('the disk was written to after the bitmap was taken', async () => {
    const error = await refusal(async (file) => {
      writeAt(file, 0, new Uint8Array([1]));
      return {};
    });
    expect(error).toMatchObject({ kind: 'mismatch' });
    expect(error.message).toMatch(/take the bitmap again/);
  });

  it.each(['nh128', 'blake3', 'bytes', 'combined'])(
    "the bitmap's marks are differences (%s), not writes",
    async (signature) => {
      const error = await refusal(async (_file, disk) => ({ within: bitmapOf(disk, 512, signature) }));
      expect(error).toMatchObject({ kind: 'mismatch' });
      expect(error.message).toMatch(/expected a bitmap that marks every write .* make the index anew/);
    },
  );

  it('the bitmap was disabled', async () => {
    const error = await refusal(async (_file, disk) => ({ within: bitmapOf(disk, 512, 'disabled') }));
    expect(error).toMatchObject({ kind: 'policy' });
    expect(error.message).toMatch(/stopped recording/);
  });

  it('a backing file was written to, of which the bitmap of the image knows nothing', async () => {
    const fill = { fill: 1 };
    const clusters = (['image', 'backing'] as const).map((placement) => ({ placement, ...fill }));
    const image = writeSpec({ clusterBits: 12, shift: 0, clusters, order: 0, cut: 0 }, folder, 'chain');
    const before = await openDisk(image);
    const options = { of: before, path: path('chain.sig'), workers: 1 };
    await buildIndex({ ...options, blockSize: 4096 });
    await before.close();
    const refresh = async () => {
      const disk = await openDisk(image);
      const within = bitmapOf(disk, 4096);
      within.mark(0);
      const made = refreshIndex({ ...options, of: disk, old: path('chain.sig'), within });
      return made.finally(() => disk.close());
    };
    // A write to the image itself is the bitmap's to know.
    changeByte(image, 2 ** 12 * FIRST_DATA);
    expect((await refresh()).keptBlocks).toBe(1);
    changeByte(path('chain.base'), 2 ** 12);
    const error = await refresh().catch((thrown: DriftmapError) => thrown);
    expect(error).toMatchObject({ kind: 'mismatch', path: path('chain.sig') });
    expect((error as DriftmapError).message).toMatch(
      /chain\.base, which holds a backing file of .* was written/,
    );
  });

  it('the disk has another size', async () => {
    const grown = await refusal(async (file) => {
      truncateSync(file, size + 512);
      const disk = await openRaw(file);
      return { of: disk, within: bitmapOf(disk, 512) };
    });
    expect(grown).toMatchObject({ kind: 'mismatch' });
  });
});
