import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { SyncBitmap } from '../../src/bitmap/sync-bitmap.ts';
import { openDisk } from '../../src/disk/open.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { scan } from '../../src/scan/scan.ts';
import { compareSites } from '../../src/sync/compare-sites.ts';
import { loadState, statePath } from '../../src/sync/state-file.ts';
import { sync } from '../../src/sync/sync.ts';
import { temporary } from '../tools.ts';
import { KiB, MiB, noise, sameFiles } from './disks.ts';
import { testServer } from './server.ts';

const folder = temporary();
const site = await testServer({ workers: 0 });
const { token } = site;
/** A window of such blocks is 32 MiB. */
const BLOCK = 512;
const WINDOW = 32 * MiB;
const SIZE = 4 * WINDOW;
let made = 0;

/** Some data at the start of each window. */
function thin(seeds: readonly number[]): string {
  const path = join(folder, `${made++}.raw`);
  const file = openSync(path, 'w');
  ftruncateSync(file, SIZE);
  for (const [i, seed] of seeds.entries()) writeSync(file, noise(8 * KiB, seed), 0, 8 * KiB, i * WINDOW);
  closeSync(file);
  return path;
}

/** A disk that cannot be read from the last window on until it is mended, and that tells where it was read. */
async function fragile(path: string) {
  const told = { from: Number.POSITIVE_INFINITY, broken: true };
  const unit = new Proxy(openFileUnit(path), {
    get(target, name) {
      if (name === 'read') {
        return async (offset: number, into: Uint8Array) => {
          told.from = Math.min(told.from, offset);
          if (told.broken && offset >= 3 * WINDOW) {
            // The windows before are settled meanwhile.
            await setTimeout(1000);
            throw new DriftmapError('io', 'a bad sector', { path, offset });
          }
          return target.read(offset, into);
        };
      }
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const disk: VirtualDisk = await openDisk(unit, { format: 'raw' });
  told.from = Number.POSITIVE_INFINITY;
  return { disk, told };
}

const seeds = [1, 2, 3, 4];
const differing = [1, 20, 3, 40];

describe('a sync that is cut off while it compares', () => {
  async function cutOff() {
    const production = thin(seeds);
    const replica = thin(differing);
    const { disk, told } = await fragile(production);
    const address = site.grant(`cut${made}`, { disk: replica });
    const options = { production: disk, replica: address, token, blockSize: BLOCK, workers: 0 } as const;
    await expect(sync(options)).rejects.toThrow(/a bad sector/);
    const notes = `${statePath(replica)}.comparing`;
    for (let tries = 0; !existsSync(notes) && tries < 100; tries++) await setTimeout(10);
    expect(existsSync(notes)).toBe(true);
    // Nothing was written: the replica's state is what it was.
    expect(loadState(statePath(replica))).toBe(null);
    told.broken = false;
    told.from = Number.POSITIVE_INFINITY;
    return { production, replica, told, notes, options };
  }

  it('looks only at the rest and at what differed, and ends equal', async () => {
    const { production, replica, told, notes, options } = await cutOff();
    const result = await sync(options);
    expect(result.consistent).toBe(true);
    expect(result.comparedBytes).toBeLessThan(2.1 * WINDOW);
    // The first window was equal: it was not looked at again.
    expect(told.from).toBeGreaterThanOrEqual(WINDOW);
    expect(sameFiles(production, replica)).toBe(true);
    expect(existsSync(notes)).toBe(false);
    expect(loadState(statePath(replica))!.status).toBe('consistent');
  });

  it.each(['production', 'replica'] as const)(
    'compares all when it was written to since: %s',
    async (side) => {
      const cut = await cutOff();
      const unit = openFileUnit(cut[side], { write: true });
      unit.write(0, noise(600, 77));
      unit.close();
      utimesSync(cut[side], new Date(), new Date());
      const result = await sync({ ...cut.options, production: cut.production });
      expect(result.comparedBytes).toBe(SIZE);
      expect(sameFiles(cut.production, cut.replica)).toBe(true);
    },
  );

  it('compares all when its notes are damaged, or when it is told to', async () => {
    const cut = await cutOff();
    const bytes = readFileSync(cut.notes);
    bytes[bytes.length - 5]! ^= 1;
    writeFileSync(cut.notes, bytes);
    const result = await sync(cut.options);
    expect([result.comparedBytes, result.consistent]).toEqual([SIZE, true]);
    const other = await cutOff();
    expect((await sync({ ...other.options, full: true })).comparedBytes).toBe(SIZE);
  });

  it('goes on here, too, where both disks are', async () => {
    const production = thin(seeds);
    const replica = thin(differing);
    const stop = new AbortController();
    const options = { production, replica, blockSize: BLOCK, workers: 1 };
    const cut = sync({
      ...options,
      signal: stop.signal,
      onProgress: ({ phase, doneBytes }) => {
        if (phase === 'comparing' && doneBytes > 0) stop.abort('enough');
      },
    });
    await expect(cut).rejects.toMatchObject({ kind: 'aborted' });
    const before = existsSync(`${statePath(replica)}.comparing`);
    const result = await sync(options);
    expect([result.consistent, sameFiles(production, replica)]).toEqual([true, true]);
    if (before) expect(result.comparedBytes).toBeLessThan(SIZE);
    expect(existsSync(`${statePath(replica)}.comparing`)).toBe(false);
  });
});

describe('a scan of two sites', () => {
  /** What a scan of both here finds. */
  async function here(production: string, replica: string, within?: SyncBitmap): Promise<SyncBitmap> {
    const [a, b] = [
      await openDisk(production, { format: 'raw' }),
      await openDisk(replica, { format: 'raw' }),
    ];
    const { bitmap } = await scan({ production: a, replica: b, blockSize: BLOCK, within, workers: 1 });
    await a.close();
    await b.close();
    return bitmap;
  }

  it.each(['production', 'replica'] as const)(
    'hands out what it had, and goes on from it: %s here',
    async (side) => {
      const paths = { production: thin(seeds), replica: thin(differing) };
      const { disk, told } = await fragile(paths[side]);
      const far = side === 'production' ? 'replica' : 'production';
      const address = site.grant(`far-${side}`, { disk: paths[far] });
      const common = { token, blockSize: BLOCK, workers: 0, [side]: disk, [far]: address } as const;
      const options = common as unknown as Parameters<typeof compareSites>[0];
      let partial: SyncBitmap | undefined;
      const onPartial = (bitmap: SyncBitmap) => {
        partial = bitmap;
      };
      await expect(compareSites({ ...options, onPartial })).rejects.toThrow(/a bad sector/);
      expect(partial!.complete).toBe(false);
      expect(partial!.coveredBlocks).toBeGreaterThanOrEqual(65536);
      told.broken = false;
      told.from = Number.POSITIVE_INFINITY;
      const result = await compareSites({ ...options, resume: partial });
      expect(told.from).toBeGreaterThanOrEqual(WINDOW);
      const whole = await here(paths.production, paths.replica);
      expect(result.bitmap.equals(whole)).toBe(true);
      // And within what is marked, which is all that is looked at.
      const again = await compareSites({ ...options, within: whole });
      expect(again.bitmap.equals(await here(paths.production, paths.replica, whole))).toBe(true);
      expect(again.comparedBytes).toBe(whole.count * BLOCK);
    },
  );

  it('refuses bitmaps of other disks, of other blocks, and compared in another way', async () => {
    const [a, b, c] = [thin(seeds), thin(differing), thin(differing)];
    const bitmap = await here(a, b);
    const options = { production: a, replica: site.grant('refuse', { disk: c }), token, workers: 1 };
    await expect(compareSites({ ...options, blockSize: BLOCK, within: bitmap })).rejects.toThrow(
      /--within: expected a bitmap about the replica/,
    );
    await expect(compareSites({ ...options, within: bitmap })).rejects.toThrow(/use the same block size/);
    const signature = 'blake3';
    await expect(compareSites({ ...options, blockSize: BLOCK, resume: bitmap, signature })).rejects.toThrow(
      /compared by 'nh128'/,
    );
    const [same, changed] = [site.grant('same', { disk: b }), openFileUnit(b, { write: true })];
    changed.write(5, new Uint8Array(9));
    changed.close();
    await expect(
      compareSites({ ...options, replica: same, blockSize: BLOCK, resume: bitmap }),
    ).rejects.toThrow(/changed since the bitmap was made/);
    const stale = await compareSites({ ...options, replica: same, blockSize: BLOCK, within: bitmap });
    expect(stale.warnings.join()).toMatch(/replica: was written to since/);
  });
});
