import { closeSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeBitmap } from '../../src/bitmap/drift-file.ts';
import { openDisk } from '../../src/disk/open.ts';
import { scan } from '../../src/scan/scan.ts';
import { compareSites, verify } from '../../src/sync/compare-sites.ts';
import { nextLevel } from '../../src/sync/descent.ts';
import { contentsOf, pairSpec } from '../scan/pairs.ts';
import { temporary } from '../tools.ts';
import { changed, fileOf, KiB, MiB, noise, writeSparse } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer();
const workers = 1;

function sparse(name: string, size: number): string {
  const path = join(folder, name);
  const file = openSync(path, 'w');
  ftruncateSync(file, size);
  closeSync(file);
  return path;
}

describe('two sites', () => {
  it('find the very bitmap that a scan of both here finds, byte for byte', async () => {
    let turn = 0;
    await fc.assert(
      fc.asyncProperty(
        pairSpec,
        fc.constantFrom(512, 4 * KiB, 64 * KiB),
        fc.constantFrom('nh128' as const, 'blake3' as const, 'md5' as const),
        fc.boolean(),
        async (spec, blockSize, signature, pull) => {
          const contents = contentsOf(spec);
          const name = `c${turn++}`;
          const a = writeSparse(join(folder, `${name}-a.raw`), contents.production);
          const b = writeSparse(join(folder, `${name}-b.raw`), contents.replica);
          const [production, replica] = [await openDisk(a), await openDisk(b)];
          const local = await scan({ production, replica, blockSize, signature, workers });
          const remote = await compareSites({
            production: pull ? site.grant(`${name}-a`, { disk: a, readOnly: true }) : production,
            replica: pull ? replica : site.grant(`${name}-b`, { disk: b, readOnly: true }),
            ...{ blockSize, signature, workers, token: site.token },
          });
          expect(Buffer.compare(encodeBitmap(remote.bitmap), encodeBitmap(local.bitmap))).toBe(0);
          await production.close();
          await replica.close();
        },
      ),
      { numRuns: 10 },
    );
  });

  it('find every block when all of several windows differ', async () => {
    // Blocks of 512 bytes: a window is 32 MiB.
    const bytes = noise(70 * MiB, 1);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, noise(70 * MiB, 2))];
    const replica = site.grant('all', { disk: b });
    const result = await compareSites({ production: a, replica, blockSize: 512, token: site.token, workers });
    expect(result.markedBlocks).toBe((70 * MiB) / 512);
  });

  it('that are equal, 1 TiB and nearly empty, agree in less than 64 KiB', async () => {
    const TiB = 2 ** 40;
    const [a, b] = [sparse('a.tib', TiB), sparse('b.tib', TiB)];
    const result = await compareSites({
      production: a,
      replica: site.grant('tib', { disk: b }),
      ...{ token: site.token, workers },
    });
    expect(result.markedBlocks).toBe(0);
    expect(result.sentBytes + result.receivedBytes).toBeLessThan(2 * KiB);
    expect(result.bitmap.complete).toBe(true);
  });

  it('that are equal and full cost a window 64 bytes or so, whatever is in it', async () => {
    const bytes = noise(100 * MiB, 3);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, bytes)];
    const replica = site.grant('full', { disk: b });
    const result = await compareSites({ production: a, replica, blockSize: 512, token: site.token, workers });
    expect(result.markedBlocks).toBe(0);
    // Four windows of 32 MiB; the greeting is about a kilobyte. 256 windows of 4 GiB make 1 TiB: below 20 KiB.
    expect(result.sentBytes + result.receivedBytes).toBeLessThan(2 * KiB + 4 * 80);
  });

  it('in which 1 % of the blocks differ, scattered, cost less than 3 % of these in signatures', async () => {
    const blockSize = 16 * KiB;
    const bytes = noise(128 * MiB, 4);
    const blocks = Array.from({ length: 82 }, (_, i) => (i * 7919) % 8192);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, changed(bytes, blocks, blockSize))];
    const replica = site.grant('drift', { disk: b });
    for (const signature of ['nh128', 'blake3'] as const) {
      const result = await compareSites({
        production: a,
        replica,
        blockSize,
        signature,
        token: site.token,
        workers,
      });
      expect(result.markedBlocks).toBe(82);
      // Blocks a quarter of the default size: a share of 12 % here is one of 3 % at 64 KiB.
      const share = (result.sentBytes + result.receivedBytes) / result.bitmap.markedBytes;
      expect(share).toBeLessThan(4 * 0.03);
    }
  });

  it('verify without changing anything, and say where', async () => {
    const bytes = noise(4 * MiB, 5);
    const other = changed(bytes, [3, 30]);
    const [a, b] = [fileOf(folder, bytes), fileOf(folder, other)];
    const replica = site.grant('verify', { disk: b, readOnly: true });
    const result = await verify({ production: a, replica, token: site.token, workers });
    expect([...result.bitmap.ranges()].map(({ offset }) => offset / (64 * KiB))).toEqual([3, 30]);
    expect(Buffer.compare(readFileSync(b), other)).toBe(0);
    const here = await verify({ production: a, replica: b, workers });
    expect(here.markedBlocks).toBe(2);
  });

  it('refuse to compare two other sites with one another', async () => {
    const far = site.address('x');
    await expect(compareSites({ production: far, replica: far })).rejects.toThrow(
      'run driftmap at one of them',
    );
  });
});

describe('the level that is sent next', () => {
  const link = { roundTrip: 0.04, bytesPerSecond: 1e7, drift: 1e-4, leaves: 65_536, together: 1 };
  it('is far down when waiting is dear, and near when bytes are', () => {
    expect(nextLevel(4, { ...link, roundTrip: 10 })).toBe(0);
    expect(nextLevel(4, { ...link, roundTrip: 1e-6, bytesPerSecond: 1e4 })).toBe(3);
  });
  it('is always below the one before', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 10, noNaN: true }),
        (level, drift, roundTrip) => {
          const next = nextLevel(level, { ...link, drift, roundTrip });
          expect(next).toBeLessThan(level);
          expect(next).toBeGreaterThanOrEqual(0);
        },
      ),
    );
  });
});
