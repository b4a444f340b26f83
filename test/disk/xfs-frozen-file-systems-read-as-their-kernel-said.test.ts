/** File systems that were frozen with what was known of them, so that no kernel is needed to hold to it. */

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { DriftmapError } from '../../src/base/errors.ts';
import { XFS_CACHED_PIECES } from '../../src/base/limits.ts';
import { isXfs, openXfs } from '../../src/disk/containers/xfs.ts';
import { viewOver } from '../../src/disk/view-unit.ts';
import { ExtentMapBuilder, Kind } from '../../src/mapping/extent-map.ts';
import { root, thrown } from '../tools.ts';
import { bytesOf, listing, readFrozen, runsOfMap, SparseUnit } from './xfs-images.ts';
import { NaiveXfs } from './xfs-naive.ts';

const frozen = (name: string) => readFrozen(join(root, 'test/disk/xfs-frozen', `${name}.gz`));

describe('a frozen XFS file system', () => {
  it.each([
    ['xfs-clean', /^$/],
    ['xfs-in-use', /its log is replayed in memory/],
    ['xfs-v4', /^$/],
  ])('%s maps every file as it was known', async (name, warning) => {
    const { unit, files } = frozen(name);
    expect(await isXfs(unit)).toBe(true);
    const fs = await openXfs(unit);
    expect(fs.kind).toBe('xfs');
    expect(fs.warnings.join()).toMatch(warning);
    expect(await listing(fs)).toEqual(files);
    expect(files.length).toBeGreaterThan(200);
    if (warning.source === '^$') expect(new NaiveXfs(unit).files()).toEqual(files);
  });

  it('has another state on the unit than after its log', async () => {
    const { unit, files } = frozen('xfs-in-use');
    let naive: unknown = null;
    const error = thrown(() => {
      naive = new NaiveXfs(unit).files();
    });
    expect(error !== null || JSON.stringify(naive) !== JSON.stringify(files)).toBe(true);
  });

  it('is looked up by paths; links are followed and never lead out', async () => {
    const { unit, files } = frozen('xfs-clean');
    const fs = await openXfs(unit);
    const deep = files.find(({ path }) => path === '/a/b/c/deep')!;
    for (const path of [
      '/a/b/c/deep',
      'a/b//c/./deep',
      '/../a/x/../b/c/deep',
      '/relative',
      '/absolute',
      '/long',
    ]) {
      if (path.includes('/x/')) {
        await expect(fs.lookup(path)).rejects.toThrow(/nothing is named 'x'/);
        continue;
      }
      const entry = await fs.lookup(path);
      expect([entry.size, runsOfMap(await entry.map())]).toEqual([deep.size, deep.runs]);
    }
    const refusal = async (path: string) =>
      (await fs.lookup(path).catch((error: unknown) => error)) as DriftmapError;
    for (const [path, kind, reason] of [
      ['/nobody', 'not-found', /no file \/nobody: nothing is named 'nobody'/],
      ['/a', 'argument', /expected a regular file, \/a is a directory/],
      ['/', 'argument', /is a directory/],
      ['/fifo', 'argument', /is a fifo/],
      ['/empty/more', 'not-found', /file where a directory is expected/],
      ['/a/outside', 'not-found', /nothing is named 'etc'/],
      ['/loop-1', 'limit', /at most 40 symbolic links/],
      ['/A', 'not-found', /nothing is named 'A'/],
    ] as const) {
      const error = await refusal(path);
      expect([error.kind, path]).toEqual([kind, path]);
      expect(error.message).toMatch(reason);
    }
    const odd = files.find(({ path }) => path.includes('\ufffd'))!;
    expect((await fs.lookup(odd.path)).size).toBe(odd.size);
  });

  it('tells holes from what was never written, and ends where the file ends', async () => {
    const fs = await openXfs(frozen('xfs-clean').unit);
    const map = await (await fs.lookup('/preallocated')).map();
    const zeros = [...map.extents()].filter(({ kind }) => kind === 1);
    expect(zeros.map(({ place }) => place >= 0)).toEqual(zeros.map(() => true));
    expect(map.size).toBe(2 ** 20);
    const huge = await (await fs.lookup('/huge')).map();
    expect(huge.size).toBe(5 * 2 ** 40);
    expect([...huge.extents()].map(({ kind, place }) => [kind, place >= 0])).toEqual([
      [1, false],
      [2, true],
      [1, false],
    ]);
    expect((await (await fs.lookup('/empty')).map()).count).toBe(0);
  });

  it('is read through a small cache, in bounded pieces', async () => {
    const { unit } = frozen('xfs-clean');
    let largest = 0;
    const read = unit.read.bind(unit);
    unit.read = (offset, target) => {
      largest = Math.max(largest, target.length);
      return read(offset, target);
    };
    await listing(await openXfs(unit));
    expect(largest).toBeLessThanOrEqual(4 * 2 ** 20);
    expect(XFS_CACHED_PIECES * 65536).toBeLessThanOrEqual(32 * 2 ** 20);
  });

  it('is the same on a striped volume over two units', async () => {
    const { unit, files } = frozen('xfs-v4');
    const stripe = 65536;
    const units = [new SparseUnit(unit.size / 2), new SparseUnit(unit.size / 2)];
    const builder = new ExtentMapBuilder();
    for (let i = 0; i < unit.size / stripe; i++) {
      const place = Math.floor(i / 2) * stripe;
      units[i % 2]!.put(place, unit.bytes(i * stripe, stripe));
      builder.append({ offset: i * stripe, length: stripe, kind: Kind.data, unit: i % 2, place, depth: 0 });
    }
    const whole = builder.finish();
    const view = viewOver({
      name: '<striped>',
      layer: 'volume',
      step: 'striped',
      map: whole,
      parents: units,
    });
    expect(await isXfs(view)).toBe(true);
    const fs = await openXfs(view);
    expect(await listing(fs)).toEqual(files);
    const map = await (await fs.lookup('/odd')).map();
    const apart = await (await (await openXfs(unit)).lookup('/odd')).map();
    expect(Buffer.compare(await bytesOf(view, map), await bytesOf(unit, apart))).toBe(0);
  });

  it('is not seen where there is none', async () => {
    expect(await isXfs(new SparseUnit(0))).toBe(false);
    expect(await isXfs(new SparseUnit(511))).toBe(false);
    expect(await isXfs(new SparseUnit(2 ** 20))).toBe(false);
    await expect(openXfs(new SparseUnit(100))).rejects.toThrow(/past the end/);
  });
});
