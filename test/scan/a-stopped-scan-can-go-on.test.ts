import { mkdtempSync, rmSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { encodeBitmap } from '../../src/bitmap/drift-file.ts';
import { LiveMarks } from '../../src/bitmap/live-marks.ts';
import { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { delayUnit } from '../../src/lu/filters.ts';
import type { ScanProgress } from '../../src/scan/progress.ts';
import { createScanner } from '../../src/scan/scan.ts';
import { blocksOf, contentsOf, differingBlocks, diskOf, pairSpec, sparseFile } from './pairs.ts';

const folder = mkdtempSync(join(tmpdir(), 'driftmap-resume-'));
const scanner = createScanner({ workers: 2 });
afterAll(async () => {
  await scanner.close();
  rmSync(folder, { recursive: true });
});

/** Two array images; with `slow`, every read of the production disk takes a few milliseconds. */
async function pairOf(size: number, changed: readonly number[], slow = false) {
  const [a, b] = [createArrayImage({ size }), createArrayImage({ size })];
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = (i * 31) >>> 5;
  await a.write(0, bytes);
  for (const at of changed) bytes[at]! ^= 1;
  await b.write(0, bytes);
  const production = await openDisk(slow ? delayUnit(a, { on: ['read'], milliseconds: 4 }) : a);
  return { production, replica: await openDisk(b), image: b };
}

describe('a scan that its signal stops', () => {
  it('rejects as aborted and hands out what it had found; resumed, it gives the same bytes as an undisturbed one', async () => {
    const { production, replica } = await pairOf(24 * 2 ** 20, [5, 9_000_000, 20_000_000], true);
    const whole = await scanner.scan({ production, replica, blockSize: 4096 });
    let shares = 0;
    for (let round = 0; round < 8; round++) {
      const stop = new AbortController();
      let partial: SyncBitmap | undefined;
      let progress: ScanProgress | undefined;
      const scan = scanner.scan({
        production,
        replica,
        blockSize: 4096,
        rangeBytes: 131072,
        signal: stop.signal,
        onProgress: (now) => {
          progress = now;
          if (now.doneBytes > (round * now.totalBytes) / 8) stop.abort();
        },
        onPartial: (bitmap) => {
          partial = bitmap;
        },
      });
      const error = await scan.then(
        () => null,
        (cause) => cause,
      );
      if (error === null) continue;
      expect(error).toMatchObject({ name: 'DriftmapError', kind: 'aborted' });
      expect(progress).toBeDefined();
      for (const { start, end } of partial!.runs()) {
        for (let block = start; block < end; block++) expect(whole.bitmap.test(block)).toBe(true);
      }
      if (!partial!.complete) shares++;
      const resumed = await scanner.scan({ production, replica, blockSize: 4096, resume: partial });
      expect(Buffer.from(encodeBitmap(resumed.bitmap)).equals(Buffer.from(encodeBitmap(whole.bitmap)))).toBe(
        true,
      );
      expect(resumed.warnings.join()).toMatch(/does not tell whether it was written to/);
      expect(resumed.comparedBytes + resumed.skippedBytes).toBe(
        (partial!.blocks - partial!.coveredBlocks) * 4096,
      );
    }
    expect(shares).toBeGreaterThan(0);
  });

  it('is stopped before it begins by a signal that was already aborted', async () => {
    const { production, replica } = await pairOf(65536, []);
    await expect(scanner.scan({ production, replica, signal: AbortSignal.abort() })).rejects.toMatchObject({
      kind: 'aborted',
    });
    await expect(scanner.scan({ production, replica })).resolves.toMatchObject({ markedBlocks: 0 });
  });

  it('refuses to resume when a disk has changed since', async () => {
    const path = sparseFile(join(folder, 'changed.raw'), new Uint8Array(100_000).fill(1));
    const open = () => openDisk(path, { format: 'raw' });
    const first = await open();
    const { bitmap } = await scanner.scan({ production: first, replica: first });
    await first.close();
    utimesSync(path, new Date(), new Date(Date.now() + 5000));
    const second = await open();
    await expect(scanner.scan({ production: second, replica: second, resume: bitmap })).rejects.toMatchObject(
      { kind: 'mismatch' },
    );
    await expect(
      scanner.scan({ production: second, replica: second, within: bitmap }),
    ).resolves.toMatchObject({ markedBlocks: 0 });
    await second.close();
  });
});

describe('a scan within an earlier bitmap', () => {
  it('looks at exactly the marked blocks, and resumed at exactly the rest of them', async () => {
    await fc.assert(
      fc.asyncProperty(
        pairSpec,
        fc.array(fc.nat(400), { maxLength: 40 }),
        fc.array(fc.nat(400), { maxLength: 40 }),
        async (spec, some, seen) => {
          const blockSize = 2048;
          const contents = contentsOf(spec);
          const production = await diskOf(contents.production, spec.media[0], folder, 'production');
          const replica = await diskOf(contents.replica, spec.media[1], folder, 'replica');
          try {
            const whole = await scanner.scan({ production, replica, blockSize });
            const { blocks, header } = whole.bitmap;
            const within = new SyncBitmap(header);
            const resume = new SyncBitmap(header);
            for (const block of some) if (block < blocks) within.mark(block);
            for (const block of seen) if (block < blocks) resume.cover({ start: block, end: block + 1 });
            const differing = new Set(differingBlocks(contents, blockSize));
            const result = await scanner.scan({ production, replica, blockSize, within, rangeBytes: 65536 });
            const marked = blocksOf(within.runs());
            expect(blocksOf(result.bitmap.coverageRuns())).toEqual(marked);
            expect(blocksOf(result.bitmap.runs())).toEqual(marked.filter((block) => differing.has(block)));
            const both = await scanner.scan({ production, replica, blockSize, within, resume });
            const left = marked.filter((block) => !resume.covered(block));
            expect(blocksOf(both.bitmap.runs())).toEqual(left.filter((block) => differing.has(block)));
            const covered = new Set([...left, ...blocksOf(resume.coverageRuns())]);
            expect(blocksOf(both.bitmap.coverageRuns())).toEqual([...covered].sort((x, y) => x - y));
          } finally {
            await production.close();
            await replica.close();
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  it('refuses a bitmap of other disks, and says which', async () => {
    const one = await pairOf(65536, []);
    const other = await pairOf(65536, []);
    const { bitmap } = await scanner.scan(one);
    await expect(scanner.scan({ ...other, within: bitmap })).rejects.toMatchObject({ kind: 'mismatch' });
    await expect(scanner.scan({ ...one, within: bitmap, blockSize: 4096 })).rejects.toMatchObject({
      kind: 'mismatch',
    });
  });
});

describe('live marks', () => {
  it('leave a block clean only when it was equal and was never marked', async () => {
    const { production, replica } = await pairOf(2 ** 20, [300_000]);
    const live = LiveMarks.create(2 ** 20, 4096);
    live.markDirty(4095, 2);
    const { bitmap } = await scanner.scan({ production, replica, blockSize: 4096, live });
    expect(blocksOf(bitmap.runs())).toEqual([0, 1, Math.floor(300_000 / 4096)]);
  });

  it('lose no write that arrives while the scan runs', async () => {
    const size = 32 * 2 ** 20;
    const { production, replica, image } = await pairOf(size, []);
    const live = LiveMarks.create(size, 4096);
    let writing = true;
    const written = new Set<number>();
    const scan = scanner.scan({ production, replica, blockSize: 4096, live }).finally(() => {
      writing = false;
    });
    function write() {
      if (!writing) return;
      for (let i = 0; i < 50; i++) {
        const block = Math.floor(Math.random() * (size / 4096));
        live.markDirty(block * 4096 + 17, 1);
        image.write(block * 4096 + 17, new Uint8Array([0xee]));
        written.add(block);
      }
      setImmediate(write);
    }
    write();
    const { bitmap } = await scan;
    for (const block of written) expect(bitmap.test(block)).toBe(true);
    const now = await scanner.scan({ production, replica, blockSize: 4096 });
    for (const block of blocksOf(now.bitmap.runs())) expect(bitmap.test(block)).toBe(true);
  });

  it('of another geometry are refused', async () => {
    const { production, replica } = await pairOf(65536, []);
    await expect(
      scanner.scan({ production, replica, live: LiveMarks.create(65536, 4096) }),
    ).rejects.toMatchObject({ kind: 'mismatch' });
  });
});
