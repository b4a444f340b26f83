/**
 * One byte of an image's metadata is changed. Then either opening or reading fails with one of our errors, or
 * every byte read is the one that the damaged tables point to, by a second reading of the specification
 * (`naive-qcow2.ts`); where that reading finds nothing to read, ours must have failed. No mutant takes long.
 *
 * DRIFTMAP_FUZZ_SECONDS sets the time for the 10,000 mutants of each image; what was done is printed.
 */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openDisk } from '../../src/disk/open.ts';
import { BytesUnit } from '../disk/images.ts';
import { extendedImage, metadataOf, naiveContents, plainImage } from './naive-qcow2.ts';

const seconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 5);
const MUTANTS = 10_000;

async function contentsOf(image: Uint8Array): Promise<Uint8Array | null> {
  try {
    const disk = await openDisk(new BytesUnit(image), { format: 'qcow2' });
    const bytes = new Uint8Array(disk.size);
    for (let at = 0; at < bytes.length; at += 65536) {
      expect(disk.read(at, bytes.subarray(at, at + 65536))).toBeUndefined();
    }
    return bytes;
  } catch (error) {
    if (!(error instanceof DriftmapError) || error.kind === 'internal') throw error;
    expect(error.path).toBe('<bytes>');
    return null;
  }
}

function expectTruth(image: Uint8Array, contents: Uint8Array | null): void {
  if (contents === null) return;
  const naive = naiveContents(image);
  expect(Buffer.from(contents).equals(naive)).toBe(true);
}

describe.each([
  ['plain and compressed clusters', plainImage()],
  ['subclusters', extendedImage()],
])('%s', (_, good) => {
  it('undamaged: both readings agree', async () => {
    const contents = await contentsOf(good);
    expect(contents).not.toBeNull();
    expectTruth(good, contents);
  });

  it('with one byte damaged', { timeout: seconds * 1000 + 30_000 }, async () => {
    const places = metadataOf(good);
    let done = 0;
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.integer({ min: 1, max: 255 }),
        async (place, change) => {
          const image = good.slice();
          image[place]! ^= change;
          const begun = performance.now();
          const contents = await contentsOf(image);
          expect(performance.now() - begun).toBeLessThan(2000);
          expectTruth(image, contents);
          done++;
          if (contents !== null) opened++;
        },
      ),
      { numRuns: MUTANTS, interruptAfterTimeLimit: seconds * 1000 },
    );
    console.info(`${done} mutants of ${MUTANTS}, ${opened} of them readable`);
    // Damage of both outcomes was among them.
    expect(opened).toBeGreaterThan(0);
    expect(done - opened).toBeGreaterThan(0);
  });

  it('cut at every cluster, and on both sides of it', async () => {
    const whole = (await contentsOf(good))!;
    const step = 2 ** new DataView(good.buffer).getUint32(20);
    let refused = 0;
    for (let boundary = 0; boundary <= good.length; boundary += step) {
      for (const length of [boundary - 1, boundary, boundary + 1]) {
        if (length < 0 || length > good.length) continue;
        const cut = good.slice(0, length);
        const contents = await contentsOf(cut);
        if (contents === null) {
          refused++;
          continue;
        }
        expectTruth(cut, contents);
        // What is lost at the very end reads as zeros; nothing else may differ.
        const changed = contents.filter((byte, i) => byte !== whole[i]);
        expect(changed.every((byte) => byte === 0)).toBe(true);
        expect(changed.length).toBeLessThanOrEqual(step);
      }
    }
    expect(refused).toBeGreaterThan(good.length / step);
  });
});
