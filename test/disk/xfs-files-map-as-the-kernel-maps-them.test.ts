/** The kernel's own XFS as the judge of file systems that it filled. */

import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith, temporary } from '../tools.ts';
import { byPath, type KnownFile, kernelsFiles, listing, mkfsXfs, mounted, run } from './xfs-images.ts';
import { fill } from './xfs-workload.ts';

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
    const fs = await openXfs(openFileUnit(image));
    expect(fs.warnings).toEqual([]);
    expect(fs.kind).toBe('xfs');
    expect(fs.label).toBe(options.includes('-L') ? 'a label' : '');
    expect(await listing(fs)).toEqual(shown(known));
    expect(known.length).toBeGreaterThan(1000);
  });
});
