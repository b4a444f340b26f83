/**
 * File systems that were in use when they stopped: the kernel replays their logs in a copy, and is the judge. On
 * the way the frozen file systems of `xfs-frozen` can be made anew, where DRIFTMAP_FREEZE_XFS names a folder.
 */

import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith, temporary } from '../tools.ts';
import { randomFrom } from './vhd-loading.ts';
import {
  type KnownFile,
  kernelsFiles,
  listing,
  mkfsXfs,
  mounted,
  PAGE,
  run,
  SparseUnit,
  sparseOf,
  writeFrozen,
} from './xfs-images.ts';
import { change, fill } from './xfs-workload.ts';

/** Stops at once: what is only in memory is lost, and the log is as it is. */
const stopped = (at: string) => run('xfs_io', '-x', '-c', 'shutdown', at);
/** Stops after what is in memory has gone to the log. */
const flushed = (at: string) => run('xfs_io', '-x', '-c', 'shutdown -f', at);

/** A file system in use that stops, with how much is done before. */
function used(
  image: string,
  stop: (at: string) => void,
  mountOptions: string,
  block: number,
  scale: number,
): void {
  const below = randomFrom(5);
  const work = (at: string) => {
    fill(at, block, scale);
    run('sync', '-f', at);
    for (const tag of ['one', 'two']) {
      change(at, 500 * scale, below, tag);
      run('xfs_io', '-c', 'fsync', at);
    }
    change(at, 200 * scale, below, 'last');
    stop(at);
  };
  mounted(image, work, mountOptions);
}

describeWith(['mounted XFS', 'xfs_io'], 'an XFS file system in use', () => {
  const folder = temporary();
  let images = 0;

  it.each<[string, string[], string, (at: string) => void]>([
    ['stopped', [], 'loop', stopped],
    ['stopped after its log was written', [], 'loop', flushed],
    ['stopped with large log records', ['-d', 'agcount=2'], 'loop,logbsize=256k', stopped],
    ['stopped with aligned log records', ['-l', 'su=64k', '-b', 'size=1024'], 'loop,logbsize=128k', flushed],
    ['stopped with every feature', ['-m', 'rmapbt=1', '-i', 'nrext64=1'], 'loop', flushed],
  ])('reads as the kernel recovers it when it was %s', async (_, options, mountOptions, stop) => {
    const image = join(folder, `${images++}.img`);
    mkfsXfs(image, '320M', options);
    used(image, stop, mountOptions, options.includes('size=1024') ? 1024 : 4096, 0.2);
    const recovered = `${image}.recovered`;
    cpSync(image, recovered);
    const known = mounted(recovered, kernelsFiles);
    const fs = await openXfs(openFileUnit(image));
    expect(fs.warnings.join()).toMatch(/its log is replayed in memory/);
    const found = await listing(fs);
    expect(found).toEqual(known);
    expect(known.some(({ path }) => path.includes('two-'))).toBe(true);
    const clean = await openXfs(openFileUnit(recovered));
    expect(clean.warnings).toEqual([]);
    expect(await listing(clean)).toEqual(found);
  });

  const target = process.env.DRIFTMAP_FREEZE_XFS;
  it.runIf(target)('is frozen with what the kernel says of it', async () => {
    const image = join(folder, 'frozen.img');
    mkfsXfs(image, '320M', ['-b', 'size=1024']);
    used(image, flushed, 'loop', 1024, 0.1);
    const recovered = `${image}.recovered`;
    cpSync(image, recovered);
    const known = mounted(recovered, kernelsFiles);
    await freeze(image, known, join(target!, 'xfs-in-use.gz'));
    await freeze(recovered, known, join(target!, 'xfs-clean.gz'));
  });
});

/** Keeps the pages that a reading looks at, without contents of files. */
async function freeze(image: string, known: readonly KnownFile[], to: string): Promise<void> {
  const unit = sparseOf(image);
  const fs = await openXfs(unit);
  expect(await listing(fs)).toEqual(known);
  await fs.lookup('/long');
  const pages = new Map([...unit.pages].filter(([page]) => unit.touched.has(page)));
  const kept = new SparseUnit(unit.size, pages);
  for (const { runs } of known) {
    for (const [, place, length] of runs) kept.put(place, new Uint8Array(Math.ceil(length / 1024) * 1024));
  }
  for (const [page, bytes] of pages) if (bytes.every((byte) => byte === 0)) pages.delete(page);
  expect(await listing(await openXfs(kept))).toEqual(known);
  expect(PAGE * pages.size).toBeLessThan(8 * 2 ** 20);
  writeFrozen(to, kept, known);
}
