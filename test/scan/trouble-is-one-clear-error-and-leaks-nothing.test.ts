import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, truncateSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import type { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { type Fault, faultUnit } from '../../src/lu/filters.ts';
import { createScanner, scan } from '../../src/scan/scan.ts';
import type { ScanOptions } from '../../src/scan/scan-options.ts';
import { blocksOf, sparseFile } from './pairs.ts';

const size = 16 * 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), 'driftmap-trouble-'));
const scanner = createScanner({ workers: 2 });
afterAll(async () => {
  await scanner.close();
  rmSync(folder, { recursive: true });
});

async function pairWith(faults: readonly Fault[]) {
  const bytes = new Uint8Array(size).fill(5);
  const image = createArrayImage({ size, name: 'production.img', bytes });
  const production = await openDisk(faultUnit(image, faults), { format: 'raw' });
  const changed = bytes.slice();
  changed[0] = 6;
  const replica = await openDisk(createArrayImage({ size, bytes: changed }), { format: 'raw' });
  return { production, replica, blockSize: 65536, rangeBytes: 2 ** 21 };
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => null,
    (error: unknown) => error,
  );
}

describe('a scan whose', () => {
  it('disk cannot be read in one place says which disk and where, and hands out what was found elsewhere', async () => {
    const range = { offset: 9 * 2 ** 20 + 5, length: 1 };
    let partial: SyncBitmap | undefined;
    const pair = await pairWith([{ on: 'read', range }]);
    const error = await failure(
      scanner.scan({
        ...pair,
        onPartial: (bitmap) => {
          partial = bitmap;
        },
      }),
    );
    expect(error).toMatchObject({
      name: 'DriftmapError',
      kind: 'io',
      path: 'production.img',
      operation: 'read',
    });
    const { offset, length } = error as { offset: number; length: number };
    expect(offset <= range.offset && range.offset < offset + length).toBe(true);
    expect(partial!.complete).toBe(false);
    expect(partial!.covered(Math.floor(range.offset / 65536))).toBe(false);
    const healed = await pairWith([]);
    expect(blocksOf((await scanner.scan(healed)).bitmap.runs())).toEqual([0]);
  });

  it.each(['exit', 'throw'] as const)(
    'worker meets its end by %s fails, and the scanner lives on',
    async (how) => {
      const error = await failure(scanner.scan(await pairWith([{ on: 'read', after: 3, times: 1, how }])));
      expect(error).toMatchObject({ name: 'DriftmapError', kind: 'worker' });
      expect((error as Error).message).toMatch(how === 'exit' ? /died/ : /planted/);
      const { bitmap } = await scanner.scan(await pairWith([]));
      expect(blocksOf(bitmap.runs())).toEqual([0]);
    },
  );

  it('file shrinks meanwhile says so', async () => {
    const path = sparseFile(join(folder, 'shrinks.raw'), new Uint8Array(size).fill(1));
    const production = await openDisk(path, { format: 'raw' });
    truncateSync(path, 5 * 2 ** 20);
    const error = await failure(scanner.scan({ production, replica: (await pairWith([])).replica }));
    expect(error).toMatchObject({ kind: 'io', path });
    expect((error as Error).message).toMatch(/ends here/);
    await production.close();
  });

  it('progress callback throws, rejects with that', async () => {
    const pair = await pairWith([]);
    const onProgress = () => {
      throw new RangeError('mine');
    };
    await expect(scanner.scan({ ...pair, onProgress })).rejects.toThrow('mine');
    await expect(scanner.scan(pair)).resolves.toMatchObject({ markedBlocks: 1 });
  });

  it('disk is written to meanwhile warns', async () => {
    const path = sparseFile(join(folder, 'written.raw'), new Uint8Array(size).fill(1));
    const production = await openDisk(path, { format: 'raw' });
    let once = false;
    const result = await scanner.scan({
      production,
      replica: production,
      onProgress: () => {
        if (!once) truncateSync(path, size);
        once = true;
      },
    });
    expect(result.warnings.join()).toMatch(/written\.raw: changed during the scan/);
    await production.close();
  });
});

describe('a scan of what is not what it was', () => {
  it('refuses an image that was written to since it was opened, as its map may be old', async () => {
    const { makeDemoDisks } = await import('../../src/cli/demo-disks.ts');
    makeDemoDisks(join(folder, 'demo.qcow2'), join(folder, 'demo.raw'));
    const production = await openDisk(join(folder, 'demo.qcow2'));
    const replica = await openDisk(join(folder, 'demo.raw'), { format: 'raw' });
    await expect(scanner.scan({ production, replica })).resolves.toMatchObject({ warnings: [] });
    utimesSync(join(folder, 'demo.qcow2'), new Date(), new Date(Date.now() + 9000));
    await expect(scanner.scan({ production, replica })).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/open it again/),
    });
    await production.close();
    await replica.close();
  });

  it('keeps a disk open that is closed meanwhile, and closes it in the end', async () => {
    const path = sparseFile(join(folder, 'closed.raw'), new Uint8Array(size).fill(1));
    const production = await openDisk(path, { format: 'raw' });
    const { replica } = await pairWith([]);
    const { markedBlocks } = await scanner.scan({
      production,
      replica,
      live: LiveMarks.create(size, 65536),
      blockSize: 65536,
      onProgress: () => production.close(),
    });
    expect(markedBlocks).toBe(size / 65536);
    expect(() => production.generation()).toThrow(/after close/);
  });

  it('hands out live marks also when it is stopped', async () => {
    const pair = await pairWith([{ on: 'read', range: { offset: 9 * 2 ** 20, length: 1 } }]);
    const live = LiveMarks.create(size, 65536);
    live.markDirty(123, 1);
    let partial: SyncBitmap | undefined;
    await failure(
      scanner.scan({
        ...pair,
        live,
        onPartial: (bitmap) => {
          partial = bitmap;
        },
      }),
    );
    expect(partial!.test(0)).toBe(true);
    const clean = LiveMarks.create(size, 65536);
    clean.markDirty(15 * 2 ** 20, 1);
    await failure(
      scanner.scan({
        ...pair,
        live: clean,
        onPartial: (bitmap) => {
          partial = bitmap;
        },
      }),
    );
    expect(partial!.test((15 * 2 ** 20) / 65536)).toBe(true);
  });

  it('refuses to resume what another algorithm or a combination of bitmaps found', async () => {
    const pair = await pairWith([]);
    const { bitmap } = await scanner.scan({ ...pair, signature: 'crc32c' });
    await expect(scanner.scan({ ...pair, resume: bitmap })).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/crc32c/),
    });
    await expect(
      scanner.scan({ ...pair, signature: 'crc32c', resume: bitmap.andNot(bitmap) }),
    ).rejects.toMatchObject({ kind: 'mismatch' });
    await expect(scanner.scan({ ...pair, signature: 'crc32c', resume: bitmap })).resolves.toMatchObject({
      markedBlocks: 1,
    });
  });

  it.each([
    { rangeBytes: Number.NaN },
    { rangeBytes: -5 },
    { rangeBytes: 0 },
    { compare: 'foo' },
    { production: 'x' },
    { resume: {} },
    { within: 3 },
  ])('refuses %j with a clear error', async (wrong) => {
    const options = { ...(await pairWith([])), ...wrong } as unknown as ScanOptions;
    await expect(scanner.scan(options)).rejects.toMatchObject({ name: 'DriftmapError', kind: 'argument' });
  });
});

describe('a scanner', () => {
  it('refuses to work with no workers, too many, or after it was closed', async () => {
    for (const workers of [0, 1.5, 65]) expect(() => createScanner({ workers })).toThrow(/1 to 64 workers/);
    const closed = createScanner({ workers: 1 });
    await closed.close();
    await closed.close();
    await expect(closed.scan(await pairWith([]))).rejects.toMatchObject({ kind: 'argument' });
  });

  it('can be closed while its threads are starting', () => {
    // In a process of its own: what went wrong here was that the process aborted.
    const library = new URL('../../dist/lib/index.js', import.meta.url).href;
    const code = `import { createScanner } from ${JSON.stringify(library)};
      for (let i = 0; i < 8; i++) await createScanner({ workers: 3 }).close();`;
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });

  it('runs scans that were asked for at once one after the other', async () => {
    const pairs = await Promise.all([pairWith([]), pairWith([{ on: 'read', after: 2 }]), pairWith([])]);
    const results = await Promise.allSettled(pairs.map((pair) => scanner.scan(pair)));
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  });

  it('leaves no thread and no descriptor behind, whether scans end well or badly', async () => {
    const tasks = () => readdirSync('/proc/self/task').length;
    const descriptors = () => readdirSync('/proc/self/fd').length;
    const path = sparseFile(join(folder, 'leak.raw'), new Uint8Array(3 * 2 ** 20).fill(1));
    const once = async (faults: readonly Fault[], signal?: AbortSignal) => {
      const production = await openDisk(path, { format: 'raw' });
      await failure(scan({ ...(await pairWith(faults)), workers: 3, signal }));
      await failure(scan({ production, replica: production, workers: 3 }));
      await production.close();
    };
    await once([]);
    const before = [tasks(), descriptors()];
    for (const how of ['error', 'exit', 'throw'] as const) await once([{ on: 'read', after: 2, how }]);
    await once([], AbortSignal.abort());
    await once([]);
    // A thread that was ended needs a moment to leave /proc.
    for (let i = 0; i < 50 && tasks() > before[0]!; i++)
      await new Promise((resolve) => setTimeout(resolve, 20));
    expect([tasks(), descriptors()]).toEqual(before);
  });
});
