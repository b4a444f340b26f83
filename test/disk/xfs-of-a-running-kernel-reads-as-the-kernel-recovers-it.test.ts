/**
 * The kernel's own XFS as the judge: file systems that it filled, and file systems that were in use when they
 * stopped, whose logs it replays in a copy.
 */

import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { describeWith, temporary } from '../tools.ts';
import { randomFrom } from './vhd-loading.ts';
import {
  byPath,
  type KnownFile,
  kernelsFiles,
  listing,
  mkfsXfs,
  mounted,
  run,
  sparseOf,
} from './xfs-images.ts';
import { change, fill } from './xfs-workload.ts';

const shown = (files: readonly KnownFile[]) => [...files].sort(byPath);

describeWith(['mounted XFS', 'xfs_io'], 'an XFS file system that the kernel wrote', () => {
  const folder = temporary();
  let images = 0;
  const made = (options: readonly string[]) => {
    const image = join(folder, `${images++}.img`);
    mkfsXfs(image, '400M', options);
    return image;
  };

  it.each<[string[], number]>([
    [[], 4096],
    [['-b', 'size=1024'], 1024],
    [['-b', 'size=1024', '-n', 'size=8192', '-L', 'a label'], 1024],
    [['-n', 'size=65536', '-i', 'nrext64=1'], 4096],
    [['-i', 'size=1024,sparse=0', '-m', 'rmapbt=1', '-d', 'agcount=2'], 4096],
    [['-m', 'bigtime=0,reflink=0,finobt=0', '-s', 'size=4096'], 4096],
  ])('maps every file as the kernel does: mkfs.xfs %j', async (options, block) => {
    const image = made(options);
    const known = mounted(image, (at) => {
      fill(at, block);
      run('sync', '-f', at);
      return kernelsFiles(at);
    });
    const fs = await openXfs(sparseOf(image));
    expect(fs.warnings).toEqual([]);
    expect(fs.kind).toBe('xfs');
    expect(fs.label).toBe(options.includes('-L') ? 'a label' : '');
    expect(await listing(fs)).toEqual(shown(known));
    expect(known.length).toBeGreaterThan(1000);
  });

  /** Stops at once: what is only in memory is lost, and the log is as it is. */
  const stopped = (at: string) => run('xfs_io', '-x', '-c', 'shutdown', at);
  /** Stops after what is in memory has gone to the log. */
  const flushed = (at: string) => run('xfs_io', '-x', '-c', 'shutdown -f', at);

  it.each<[string, string[], string, (at: string) => void]>([
    ['stopped', [], 'loop', stopped],
    ['stopped after its log was written', [], 'loop', flushed],
    ['stopped with large log records', ['-d', 'agcount=2'], 'loop,logbsize=256k', stopped],
    ['stopped with aligned log records', ['-l', 'su=64k', '-b', 'size=1024'], 'loop,logbsize=128k', flushed],
    ['stopped with every feature', ['-m', 'rmapbt=1', '-i', 'nrext64=1'], 'loop', flushed],
  ])('reads as the kernel recovers it when it was %s', async (_, options, mountOptions, stop) => {
    const image = made(options);
    const below = randomFrom(images);
    mounted(
      image,
      (at) => {
        fill(at, options.includes('size=1024') ? 1024 : 4096, 0.2);
        run('sync', '-f', at);
        for (const tag of ['one', 'two']) {
          change(at, 250, below, tag);
          run('xfs_io', '-c', 'fsync', at);
        }
        change(at, 100, below, 'last');
        stop(at);
      },
      mountOptions,
    );
    const recovered = `${image}.recovered`;
    cpSync(image, recovered);
    const known = mounted(recovered, kernelsFiles);
    const fs = await openXfs(sparseOf(image));
    expect(fs.warnings.join()).toMatch(/its log is replayed in memory/);
    const found = await listing(fs);
    expect(found).toEqual(shown(known));
    expect(known.some(({ path }) => path.includes('two-'))).toBe(true);
    const clean = await openXfs(sparseOf(recovered));
    expect(clean.warnings).toEqual([]);
    expect(await listing(clean)).toEqual(found);
  });
});
