import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { blake3 } from 'hash-wasm';
import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { delayUnit, faultUnit } from '../../src/lu/filters.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { buildIndex } from '../../src/scan/index-build.ts';
import { openIndex } from '../../src/signature/index-file.ts';
import { temporary } from '../tools.ts';
import { changeByte, contentsOfSpec, diskSpec, writeSpec } from './indexes.ts';
import { contentsOf, pairSpec, sparseFile } from './pairs.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);

/** Block by block, `zero` or a signature in hexadecimal: what an index says, and what a library computes. */
function told(index: string): string[] {
  const opened = openIndex(index);
  const reader = opened.reader();
  const all = Array.from({ length: opened.blocks }, (_, block) => {
    const signature = reader.signature(block);
    return signature === 'zero' ? 'zero' : Buffer.from(signature).toString('hex');
  });
  opened.close();
  return all;
}

async function computed(bytes: Uint8Array, blockSize: number): Promise<string[]> {
  const all: string[] = [];
  for (let at = 0; at < bytes.length; at += blockSize) {
    const block = bytes.subarray(at, at + blockSize);
    all.push(block.every((byte) => byte === 0) ? 'zero' : await blake3(block));
  }
  return all;
}

async function indexed(of: LogicalUnit | VirtualDisk, blockSize: number, workers = 2): Promise<string[]> {
  await buildIndex({ of, path: path('made.sig'), blockSize, workers });
  return told(path('made.sig'));
}

describe('an index', () => {
  it('of a file with holes, or of memory, agrees with a library', async () => {
    await fc.assert(
      fc.asyncProperty(pairSpec, fc.constantFrom(512, 4096, 65536), async (spec, blockSize) => {
        const { production } = contentsOf(spec);
        const of =
          spec.media[0] === 'sparse file'
            ? openFileUnit(sparseFile(path('sparse'), production))
            : createArrayImage({ size: production.length, bytes: production });
        expect(await indexed(of, blockSize)).toEqual(await computed(production, blockSize));
        await of.close();
      }),
      { numRuns: 12 },
    );
  }, 30_000);

  it('of a qcow2 image agrees with a library on the virtual disk', async () => {
    await fc.assert(
      fc.asyncProperty(diskSpec, fc.constantFrom(512, 4096, 16384), async (spec, blockSize) => {
        const disk = await openDisk(writeSpec(spec, folder, 'disk'));
        expect(await indexed(disk, blockSize)).toEqual(await computed(contentsOfSpec(spec), blockSize));
        await disk.close();
      }),
      { numRuns: 12 },
    );
  }, 30_000);

  it('spans many pages, whose order does not depend on which is ready first', async () => {
    const blockSize = 512;
    const bytes = new Uint8Array(5 * 1024 * blockSize + 100);
    for (let i = 0; i < bytes.length; i += 1 + (i % 700)) bytes[i] = i % 251;
    bytes.fill(0, 1024 * blockSize, 2 * 1024 * blockSize);
    const image = createArrayImage({ size: bytes.length, bytes });
    const expected = await computed(bytes, blockSize);
    for (const workers of [1, 3]) expect(await indexed(image, blockSize, workers)).toEqual(expected);
    const slow = delayUnit(image, { on: ['read'], milliseconds: 1 });
    expect(await indexed(slow, blockSize, 3)).toEqual(expected);
    const opened = openIndex(path('made.sig'));
    expect(opened.signatures).toBe(expected.filter((signature) => signature !== 'zero').length);
    opened.close();
  });

  it('of nothing is an index of no blocks', async () => {
    expect(await indexed(createArrayImage({ size: 0 }), 65536)).toEqual([]);
  });

  it('of a mostly empty tebibyte takes a few kilobytes', async () => {
    execFileSync('truncate', ['-s', '1T', path('large.raw')]);
    changeByte(path('large.raw'), 700 * 2 ** 30);
    const unit = openFileUnit(path('large.raw'));
    const result = await buildIndex({ of: unit, path: path('large.sig'), workers: 2 });
    unit.close();
    expect(result.signatures).toBe(1);
    expect(result.fileLength).toBeLessThan(1024);
    // The file system may tell of data by pages or larger extents; never by gigabytes.
    expect(result.readBytes).toBeLessThan(2 ** 21);
    const opened = openIndex(path('large.sig'));
    const block = (700 * 2 ** 30) / 65536;
    expect([block - 1, block, block + 1].map((at) => opened.reader().signature(at) === 'zero')).toEqual([
      true,
      false,
      true,
    ]);
    opened.close();
  });
});

describe('an index that cannot be finished', () => {
  /** Several reads, also of large pieces. */
  const made = { size: 2 ** 23, bytes: new Uint8Array(2 ** 23).fill(3) };

  async function leavesTheOldOne(
    act: (of: LogicalUnit, target: string) => Promise<unknown>,
  ): Promise<unknown> {
    const target = path('kept.sig');
    await buildIndex({ of: createArrayImage({ size: 100 }), path: target, workers: 1 });
    const before = readFileSync(target);
    const error = await act(createArrayImage(made), target).then(
      () => null,
      (cause: unknown) => cause,
    );
    expect(readFileSync(target).equals(before)).toBe(true);
    expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    return error;
  }

  it('because a read fails, or a thread dies, leaves the older one and nothing else', async () => {
    for (const how of ['error', 'exit'] as const) {
      const error = await leavesTheOldOne((of, target) =>
        buildIndex({ of: faultUnit(of, [{ on: 'read', after: 2, how }]), path: target, workers: 2 }),
      );
      expect(error).toMatchObject({ name: 'DriftmapError', kind: how === 'exit' ? 'worker' : 'io' });
    }
  });

  it('because it is stopped leaves the older one and nothing else', async () => {
    const stop = new AbortController();
    const error = await leavesTheOldOne((of, target) => {
      const slow = delayUnit(of, { on: ['read'], milliseconds: 1000 });
      setTimeout(() => stop.abort(), 200);
      return buildIndex({ of: slow, path: target, blockSize: 512, workers: 1, signal: stop.signal });
    });
    expect(error).toMatchObject({ kind: 'aborted' });
    const before = await leavesTheOldOne((of, target) =>
      buildIndex({ of, path: target, workers: 1, signal: AbortSignal.abort() }),
    );
    expect(before).toMatchObject({ kind: 'aborted' });
  });

  it('because its file was written to meanwhile leaves the older one and says so', async () => {
    const file = path('busy.raw');
    writeFileSync(file, made.bytes);
    const unit = openFileUnit(file);
    const slow = delayUnit(unit, { on: ['read'], milliseconds: 50 });
    const error = await leavesTheOldOne((_, target) => {
      const running = buildIndex({ of: slow, path: target, workers: 1 });
      setTimeout(() => changeByte(file, 5), 30);
      return running;
    });
    unit.close();
    expect(error).toMatchObject({ kind: 'io', path: file });
    expect((error as Error).message).toMatch(/written to while it was signed/);
  });

  it('because something else has its name never replaces that', async () => {
    const target = path('precious');
    writeFileSync(target, 'a disk');
    const error = await buildIndex({ of: createArrayImage(made), path: target, workers: 1 }).then(
      () => null,
      (cause: unknown) => cause,
    );
    expect(error).toMatchObject({ kind: 'policy', path: target });
    expect(readFileSync(target, 'utf8')).toBe('a disk');
  });
});
