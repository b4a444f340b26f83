import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { encodeBitmap } from '../../src/bitmap/drift-file.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { algorithms } from '../../src/signature/algorithm.ts';
import { blocksOf, contentsOf, differingBlocks, diskOf, pairSpec } from './pairs.ts';

const folder = mkdtempSync(join(tmpdir(), 'driftmap-scan-'));
const scanners = [
  createScanner({ workers: 1 }),
  createScanner({ workers: 2 }),
  createScanner({ workers: 5 }),
];
afterAll(async () => {
  for (const scanner of scanners) await scanner.close();
  rmSync(folder, { recursive: true });
});

const ways = [...algorithms.map(({ name }) => ({ signature: name })), { compare: 'bytes' as const }];

describe('a scan', () => {
  it('marks exactly the blocks that differ, whatever the media, sizes, way of comparing and block size', async () => {
    await fc.assert(
      fc.asyncProperty(
        pairSpec,
        fc.constantFrom(...ways),
        fc.integer({ min: 9, max: 18 }),
        async (spec, way, bits) => {
          const blockSize = 2 ** bits;
          const contents = contentsOf(spec);
          const production = await diskOf(contents.production, spec.media[0], folder, 'production');
          const replica = await diskOf(contents.replica, spec.media[1], folder, 'replica');
          try {
            const result = await scanners[1]!.scan({ production, replica, blockSize, ...way });
            expect(blocksOf(result.bitmap.runs())).toEqual(differingBlocks(contents, blockSize));
            expect(result.bitmap.complete).toBe(true);
            expect(result.comparedBytes + result.skippedBytes).toBe(result.size);
            expect(result.markedBlocks).toBe(result.bitmap.count);
          } finally {
            await production.close();
            await replica.close();
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  it('gives the same bytes for any number of workers and any range size', async () => {
    await fc.assert(
      fc.asyncProperty(
        pairSpec,
        fc.integer({ min: 9, max: 14 }),
        fc.integer({ min: 1, max: 2 ** 21 }),
        async (spec, bits, rangeBytes) => {
          const contents = contentsOf(spec);
          const production = await diskOf(contents.production, spec.media[0], folder, 'production');
          const replica = await diskOf(contents.replica, spec.media[1], folder, 'replica');
          try {
            const files: string[] = [];
            for (const scanner of scanners) {
              for (const size of [undefined, rangeBytes]) {
                const { bitmap } = await scanner.scan({
                  production,
                  replica,
                  blockSize: 2 ** bits,
                  rangeBytes: size,
                });
                files.push(Buffer.from(encodeBitmap(bitmap)).toString('base64'));
              }
            }
            expect(new Set(files).size).toBe(1);
          } finally {
            await production.close();
            await replica.close();
          }
        },
      ),
      { numRuns: 25 },
    );
  });

  it.each([1, 511, 512, 513])('of disks of %d bytes', async (size) => {
    const bytes = new Uint8Array(size).fill(3);
    const other = bytes.slice();
    other[size - 1] = 4;
    const [production, replica] = [
      await diskOf(bytes, 'array', folder, 'a'),
      await diskOf(other, 'sparse file', folder, 'b'),
    ];
    const { markedBlocks, ranges } = await scanners[1]!.scan({ production, replica, blockSize: 512 });
    expect(markedBlocks).toBe(1);
    expect(ranges).toEqual([size <= 512 ? { offset: 0, length: size } : { offset: 512, length: 1 }]);
  });

  it('of two empty disks is equal and complete', async () => {
    const empty = await diskOf(new Uint8Array(0), 'sparse file', folder, 'empty');
    const result = await scanners[1]!.scan({ production: empty, replica: empty });
    expect([result.blocks, result.markedBlocks, result.bitmap.complete]).toEqual([0, 0, true]);
  });

  it('with blocks of 16 MiB compares whole blocks and the short last one', async () => {
    const bytes = new Uint8Array(40 * 2 ** 20).fill(1);
    const other = bytes.slice();
    other[33 * 2 ** 20] = 2;
    const [production, replica] = [
      await diskOf(bytes, 'array', folder, 'a'),
      await diskOf(other, 'sparse file', folder, 'b'),
    ];
    const { ranges } = await scanners[1]!.scan({
      production,
      replica,
      blockSize: 16 * 2 ** 20,
      signature: 'blake3',
    });
    expect(ranges).toEqual([{ offset: 32 * 2 ** 20, length: 8 * 2 ** 20 }]);
  });
});
