import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openDisk } from '../../src/disk/open.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { buildIndex } from '../../src/scan/index-build.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { openIndex } from '../../src/signature/index-file.ts';
import { temporary } from '../tools.ts';
import { changeByte, openRaw } from './indexes.ts';
import { blocksOf } from './pairs.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);
const scanner = createScanner({ workers: 2 });
afterAll(() => scanner.close());

const size = 3 * 2 ** 20 + 700;
const blockSize = 4096;

function bytesOf(seed: number): Uint8Array {
  const bytes = new Uint8Array(size);
  for (let i = 2 ** 20; i < size; i++) bytes[i] = (Math.imul(i + seed, 2654435761) >>> 24) | 1;
  return bytes;
}

/** Two equal raw disks in files of their own, and an index of the first. */
async function indexedPair(name: string) {
  writeFileSync(path(`${name}.raw`), bytesOf(1));
  writeFileSync(path(`${name}-copy.raw`), bytesOf(1));
  const unit = openFileUnit(path(`${name}.raw`));
  await buildIndex({ of: unit, path: path(`${name}.sig`), blockSize, workers: 1 });
  unit.close();
  return { file: path(`${name}.raw`), copy: path(`${name}-copy.raw`), sig: path(`${name}.sig`) };
}

/** What a scan of the pair with the index says. */
async function outcome(
  { file, copy, sig }: { file: string; copy: string; sig: string },
  options: object = {},
): Promise<{ error: DriftmapError } | { marked: number[]; warnings: readonly string[] }> {
  const production = await openRaw(file);
  const replica = await openRaw(copy);
  try {
    const productionIndex = openIndex(sig);
    try {
      const common = { production, replica, blockSize, signature: 'blake3', productionIndex } as const;
      const { bitmap, warnings } = await scanner.scan({ ...common, ...options });
      return { marked: blocksOf(bitmap.runs()), warnings };
    } finally {
      productionIndex.close();
    }
  } catch (error) {
    expect(error).toBeInstanceOf(DriftmapError);
    return { error: error as DriftmapError };
  } finally {
    await production.close();
    await replica.close();
  }
}

async function refusal(pair: Parameters<typeof outcome>[0], options: object = {}): Promise<DriftmapError> {
  const result = await outcome(pair, options);
  if (!('error' in result)) throw new Error('expected it to be refused');
  return result.error;
}

describe('an index', () => {
  it('is used while nothing was written', async () => {
    expect(await outcome(await indexedPair('used'))).toEqual({ marked: [], warnings: [] });
  });

  it.each([
    ['is written to', (file: string) => changeByte(file, 2 ** 21)],
    ['is written to and its modification time set back', (file: string) => changeByte(file, 2 ** 21, true)],
    ['is cut', (file: string) => truncateSync(file, size - 100)],
    ['grows', (file: string) => truncateSync(file, size + 4096)],
  ])('is stale once its unit %s', async (_what, change) => {
    const pair = await indexedPair('stale');
    change(pair.file);
    const error = await refusal(pair);
    expect(error).toMatchObject({ kind: 'mismatch', path: pair.sig });
    expect(error.message).toMatch(/stale.*refresh it, or make it anew/);
  });

  it('is foreign to a copy, and to a new file under the old name', async () => {
    const pair = await indexedPair('foreign');
    const swapped = { file: pair.copy, copy: pair.file, sig: pair.sig };
    expect(await refusal(swapped)).toMatchObject({ kind: 'mismatch', path: pair.sig });
    expect((await refusal(swapped)).message).toMatch(/foreign/);
    rmSync(pair.file);
    writeFileSync(pair.file, bytesOf(1));
    expect((await refusal(pair)).message).toMatch(/foreign/);
  });

  it('of a virtual disk does not serve its unit, nor another disk', async () => {
    const pair = await indexedPair('kinds');
    const disk = await openRaw(pair.file);
    await buildIndex({ of: disk, path: pair.sig, blockSize, workers: 1 });
    await disk.close();
    expect(await outcome(pair)).toEqual({ marked: [], warnings: [] });
    const swapped = { file: pair.copy, copy: pair.file, sig: pair.sig };
    expect((await refusal(swapped)).message).toMatch(/foreign: expected one of the disk/);
  });

  it('of other blocks, for another algorithm, for bytes, and a sample of nothing are refused in words', async () => {
    const pair = await indexedPair('options');
    expect((await refusal(pair, { blockSize: 8192 })).message).toMatch(/scan with a block size of 4K/);
    expect((await refusal(pair, { signature: 'nh128' })).message).toMatch(/use the signature blake3/);
    expect((await refusal(pair, { compare: 'bytes' })).message).toMatch(/compares by bytes/);
    expect((await refusal(pair, { productionIndex: undefined, sample: 0.1 })).message).toMatch(/sample/);
    expect((await refusal(pair, { sample: 1.5 })).message).toMatch(/share from 0 to 1/);
    expect((await refusal(pair, { sampleSeed: -1 })).message).toMatch(/seed/);
    expect((await refusal(pair, { productionIndex: 'a.sig' })).message).toMatch(/indexes from openIndex/);
  });

  it('that was closed is an error, and one that is closed during a scan is read to its end', async () => {
    const pair = await indexedPair('closed');
    const production = await openRaw(pair.file);
    const replica = await openRaw(pair.copy);
    const productionIndex = openIndex(pair.sig);
    const common = { production, replica, blockSize, signature: 'blake3', productionIndex } as const;
    const running = scanner.scan(common);
    productionIndex.close();
    // A scan that waits for its turn has not begun: then the index is closed when it does.
    const late = await running.then(
      (result) => result.markedBlocks,
      (error: DriftmapError) => error.message,
    );
    expect(late).toMatch(/the index is closed: open it again/);
    const again = openIndex(pair.sig);
    let closed = false;
    const result = await scanner.scan({
      ...common,
      productionIndex: again,
      rangeBytes: 32 * blockSize,
      onProgress: () => {
        closed = true;
        again.close();
      },
    });
    expect([result.markedBlocks, closed]).toEqual([0, true]);
    await production.close();
    await replica.close();
  });

  it('that is damaged in any byte is refused', async () => {
    const pair = await indexedPair('damaged');
    const whole = readFileSync(pair.sig);
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
        const bytes = Uint8Array.from(whole);
        bytes[at]! ^= flip;
        writeFileSync(pair.sig, bytes);
        const error = await refusal(pair);
        expect(['malformed', 'unsupported']).toContain(error.kind);
        expect(error.message).toContain(pair.sig);
      }),
      { numRuns: 150 },
    );
  }, 30_000);

  it('that ends early is refused at every length', async () => {
    const pair = await indexedPair('short');
    const whole = readFileSync(pair.sig);
    for (let length = 0; length < whole.length; length += 1 + Math.floor(whole.length / 60)) {
      writeFileSync(pair.sig, whole.subarray(0, length));
      expect((await refusal(pair)).kind).toBe('malformed');
    }
    writeFileSync(pair.sig, Buffer.concat([whole, Buffer.alloc(1)]));
    expect((await refusal(pair)).kind).toBe('malformed');
  });
});

describe('a sample', () => {
  /** Memory does not tell of writes: an index of it can be wrong without being stale. */
  async function liveImage(name: string) {
    const bytes = bytesOf(2);
    const image = createArrayImage({ size, bytes });
    await buildIndex({ of: image, path: path(name), blockSize, workers: 1 });
    const production = await openDisk(image, { format: 'raw' });
    const replica = await openDisk(createArrayImage({ size, bytes }), { format: 'raw' });
    const productionIndex = openIndex(path(name));
    return {
      image,
      options: { production, replica, blockSize, signature: 'blake3', productionIndex } as const,
    };
  }

  it('finds the block where an index is wrong, and hands out nothing that was found with it', async () => {
    const { image, options } = await liveImage('wrong.sig');
    const block = 500;
    await image.write(block * blockSize + 17, new Uint8Array([0]));
    let partial = false;
    const onPartial = () => {
      partial = true;
    };
    const error = await scanner.scan({ ...options, sample: 1, onPartial }).then(
      () => null,
      (cause: unknown) => cause,
    );
    expect(error).toMatchObject({ kind: 'mismatch', path: path('wrong.sig'), offset: block * blockSize });
    expect((error as Error).message).toMatch(/verification failed: the index is wrong at block 500/);
    expect(partial).toBe(false);
    // What is not sampled is trusted, and the scan says so.
    const trusting = await scanner.scan(options);
    expect(trusting.markedBlocks).toBe(0);
    expect(trusting.warnings.join()).toMatch(/taken on trust/);
    options.productionIndex.close();
  });

  it('finds data where the index says zeros', async () => {
    const { image, options } = await liveImage('zeros.sig');
    await image.write(5 * blockSize, new Uint8Array([1]));
    await expect(scanner.scan({ ...options, sample: 1 })).rejects.toThrow(/wrong at block 5/);
    options.productionIndex.close();
  });

  it('is about as large as it should be, and the same for the same seed', async () => {
    const { options } = await liveImage('share.sig');
    const blocks = Math.ceil(size / blockSize);
    const counts: number[] = [];
    for (const sampleSeed of [7, 7, 8, 9]) {
      const result = await scanner.scan({ ...options, sample: 0.25, sampleSeed });
      expect(result.markedBlocks).toBe(0);
      counts.push(result.sampledBlocks);
    }
    expect(counts[0]).toBe(counts[1]);
    expect(new Set(counts).size).toBeGreaterThan(1);
    // Six standard deviations.
    for (const count of counts)
      expect(Math.abs(count - blocks / 4)).toBeLessThan(6 * Math.sqrt(blocks * 0.1875));
    options.productionIndex.close();
  });
});
