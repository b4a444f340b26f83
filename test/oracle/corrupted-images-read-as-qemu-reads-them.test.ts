/** Images with a damaged byte, read by both: where QEMU and driftmap both read, they read the same. */

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openDisk } from '../../src/disk/open.ts';
import { describeWith, qemuImg, readAll, temporaryFolder } from '../disk/images.ts';
import { extendedImage, metadataOf, plainImage } from '../fuzz/naive-qcow2.ts';

const seconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 5);

describeWith('qemu', 'damaged images and QEMU', () => {
  const folder = temporaryFolder();
  const path = join(folder, 'mutant.qcow2');
  const raw = join(folder, 'mutant.raw');

  function byQemu(): Uint8Array | null {
    rmSync(raw, { force: true });
    try {
      qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, raw);
      return readFileSync(raw);
    } catch {
      return null;
    }
  }

  async function byUs(): Promise<Uint8Array | null> {
    try {
      const disk = await openDisk(path, { format: 'qcow2' });
      try {
        return await readAll(disk);
      } finally {
        await disk.close();
      }
    } catch (error) {
      if (error instanceof DriftmapError && error.kind !== 'internal') return null;
      throw error;
    }
  }

  it.each([
    ['plain and compressed clusters', plainImage()],
    ['subclusters', extendedImage()],
  ])('%s', { timeout: seconds * 1000 + 30_000 }, async (_, good) => {
    const places = metadataOf(good);
    let both = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.integer({ min: 1, max: 255 }),
        async (place, change) => {
          const image = good.slice();
          image[place]! ^= change;
          writeFileSync(path, image);
          const ours = await byUs();
          const theirs = ours && byQemu();
          if (ours === null || theirs === null) return;
          // QEMU rounds a size down to whole sectors.
          expect(theirs.length).toBe(ours.length - (ours.length % 512));
          expect(Buffer.from(ours.subarray(0, theirs.length)).equals(theirs)).toBe(true);
          both++;
        },
      ),
      { numRuns: 200, interruptAfterTimeLimit: seconds * 1000, examples: [[0, 1]] },
    );
    console.info(`${both} mutants read by both`);
    expect(both).toBeGreaterThan(0);
  });
});
