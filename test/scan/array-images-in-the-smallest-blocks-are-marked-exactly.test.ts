import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { algorithms } from '../../src/signature/algorithm.ts';

/** Larger than a piece for every worker: each fills its room for signatures while the others use theirs. */
const SIZE = 16 * 2 ** 20;
const BLOCK = 512;

async function pair() {
  const bytes = new Uint8Array(SIZE);
  for (let i = 0; i < SIZE; i += 4) bytes[i] = (i >>> 9) + (i >>> 17) + 1;
  const changed = bytes.slice();
  for (let block = 1; block < SIZE / BLOCK; block += 2) changed[block * BLOCK + (block % BLOCK)]! ^= 1;
  const open = (data: Uint8Array, name: string) =>
    openDisk(createArrayImage({ size: SIZE, bytes: data, name }), { format: 'raw' });
  return [await open(bytes, 'production'), await open(changed, 'replica')] as const;
}

describe('every second block of 512 bytes', () => {
  const ours = algorithms.filter(({ kernel }) => kernel === 'wasm').map(({ name }) => name);

  it.each([1, 2, 4])('is marked, and no other, by %d workers', async (workers) => {
    const [production, replica] = await pair();
    const scanner = createScanner({ workers });
    for (let run = 0; run < 3; run++) {
      for (const signature of ours) {
        const { bitmap, markedBlocks } = await scanner.scan({
          production,
          replica,
          blockSize: BLOCK,
          signature,
        });
        expect(markedBlocks).toBe(SIZE / BLOCK / 2);
        let next = 1;
        for (const { start, end } of bitmap.runs()) {
          if (start !== next || end !== next + 1) expect([start, end]).toEqual([next, next + 1]);
          next += 2;
        }
      }
      const { markedBlocks } = await scanner.scan({
        production,
        replica,
        blockSize: BLOCK,
        compare: 'bytes',
      });
      expect(markedBlocks).toBe(SIZE / BLOCK / 2);
    }
    await scanner.close();
  });
});
