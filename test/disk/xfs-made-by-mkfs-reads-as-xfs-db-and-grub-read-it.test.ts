/** File systems of every geometry that mkfs.xfs makes, also of version 4, which newer kernels do not mount. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { isXfs, openXfs } from '../../src/disk/containers/xfs.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith, temporary } from '../tools.ts';
import { sha256 } from './images.ts';
import {
  bytesOf,
  listing,
  mkfsXfs,
  run,
  runsOfMap,
  sparseOf,
  writeFrozen,
  writeSparse,
  type XfsRun,
} from './xfs-images.ts';
import { NaiveXfs, plantTree } from './xfs-naive.ts';

interface Source {
  readonly path: string;
  readonly bytes: Uint8Array;
}

const filled = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 7 + (i >>> 9) + seed) % 255));

/** A prototype for mkfs.xfs with directories of all sizes, and its files. */
function prototype(folder: string, many: number): { lines: string[]; files: Source[] } {
  mkdirSync(folder, { recursive: true });
  const lines: string[] = [];
  const files: Source[] = [];
  const file = (parent: string, name: string, bytes: Uint8Array) => {
    const source = join(folder, `${files.length}`);
    writeFileSync(source, bytes);
    lines.push(`${name} ---644 0 0 ${source}`);
    files.push({ path: `${parent}/${name}`, bytes });
  };
  file('', 'disk.raw', filled(700_000, 1));
  file('', 'empty', new Uint8Array(0));
  file('', 'odd', filled(777, 2));
  for (const [name, count] of [
    ['short', 2],
    ['block', 9],
    ['many', many],
  ] as const) {
    lines.push(`${name} d--755 0 0`);
    for (let i = 0; i < count; i++) file(`/${name}`, `name-${i}-${'y'.repeat(i % 50)}`, filled(i % 700, i));
    lines.push('$');
  }
  lines.push('pipe p--644 0 0', 'null c--644 0 0 1 3', 'near l--777 0 0 many/../odd');
  lines.push(`far l--777 0 0 ${'./'.repeat(400)}disk.raw`, 'nowhere l--777 0 0 ../../odd');
  return { lines, files };
}

/** What xfs_db says of a file's data fork, cut at its size. */
function runsOfXfsDb(image: string, path: string, xfs: NaiveXfs, size: number): XfsRun[] {
  let inode = xfs.root;
  for (const part of path.split('/').slice(1)) inode = xfs.entries(inode).find(([name]) => name === part)![1];
  const runs: XfsRun[] = [];
  for (const line of run('xfs_db', '-r', '-c', `inode ${inode}`, '-c', 'bmap -d', image).split('\n')) {
    const match = /^data offset (\d+) startblock (\d+) \(.*\) count (\d+) flag (\d)$/.exec(line);
    if (!match) continue;
    const [start, block, count, flag] = match.slice(1).map(Number) as [number, number, number, 0 | 1];
    const offset = start * xfs.blockSize;
    runs.push([offset, xfs.placeOf(block), Math.min(count * xfs.blockSize, size - offset), flag]);
  }
  return runs;
}

describeWith(['mkfs.xfs', 'xfs_db', 'grub-fstest'], 'an XFS file system that mkfs.xfs made', () => {
  const folder = temporary();
  const few = prototype(join(folder, 'few'), 200);
  const more = prototype(join(folder, 'more'), 1500);

  it.each([
    ['-m crc=0', few],
    ['-m crc=0 -b size=512', few],
    ['-m crc=0 -b size=512 -i size=256 -n size=4096', more],
    ['-m crc=0 -b size=2048 -n ftype=1 -i size=512', few],
    ['-m crc=0 -b size=65536 -i size=2048', few],
    ['-m crc=0 -i attr=1,projid32bit=0 -l lazy-count=0', few],
    ['-m crc=0 -n version=ci', few],
    ['-m crc=0 -s size=4096 -d agcount=7', more],
    ['-m crc=1', more],
    ['-m crc=1 -b size=1024 -i size=512', more],
    ['-m crc=1 -b size=2048 -n size=16384', few],
    ['-m crc=1 -b size=65536 -i nrext64=1', few],
    ['-m crc=1,finobt=0,reflink=0,bigtime=0 -i sparse=0 -d agcount=9', few],
    ['-m crc=1,rmapbt=1,uuid=11111111-2222-3333-4444-555555555555 -d sunit=64,swidth=128', few],
  ] as const)('holds what was put in: %s', async (options, { lines, files }) => {
    const image = join(folder, 'image');
    mkfsXfs(image, '160M', options.split(' '), lines);
    const unit = openFileUnit(image);
    expect(await isXfs(unit)).toBe(true);
    const fs = await openXfs(unit);
    expect(fs.warnings).toEqual([]);
    const found = new Map<string, string>();
    for await (const { path, map } of fs.files()) found.set(path, sha256(await bytesOf(unit, await map())));
    expect(found).toEqual(new Map(files.map(({ path, bytes }) => [path, sha256(bytes)])));
    for (const link of ['/near', '/nowhere', '/many/../near']) expect((await fs.lookup(link)).size).toBe(777);
    // In version 5 mkfs.xfs 6.1 writes long links without their headers, which the kernel refuses, too.
    if (options.includes('crc=0')) expect((await fs.lookup('far')).size).toBe(700_000);
    const map = await (await fs.lookup('/disk.raw')).map();
    const xfs = new NaiveXfs(sparseOf(image));
    expect(runsOfMap(map)).toEqual(runsOfXfsDb(image, '/disk.raw', xfs, 700_000));
    expect(await listing(fs)).toEqual(xfs.files());
  });

  it.each([2, 3] as const)('reads trees of %i levels in version 4 as xfs_db and GRUB do', async (levels) => {
    const image = join(folder, 'tree');
    mkfsXfs(image, '32M', ['-m', 'crc=0', '-b', 'size=1024', '-i', 'size=256'], few.lines);
    const unit = sparseOf(image);
    const xfs = new NaiveXfs(unit);
    const inode = xfs.entries(xfs.root).find(([name]) => name === 'disk.raw')![1];
    const [whole] = xfs.extents(inode);
    // Blocks out of order, some of them together, some never written; the tree's own come after them.
    const all = Array.from({ length: 450 }, (_, i) => ({
      start: 3 * i,
      block: whole!.block + 1 + ((i * 211) % 450),
      count: 1,
      unwritten: i % 5 === 2,
    }));
    const free = Array.from({ length: 30 }, (_, i) => whole!.block + 500 + 2 * i);
    plantTree(xfs, inode, all, free, levels);
    writeSparse(unit, image);
    const fs = await openXfs(unit);
    const entry = await fs.lookup('/disk.raw');
    const map = await entry.map();
    expect(runsOfMap(map)).toEqual(runsOfXfsDb(image, '/disk.raw', xfs, entry.size));
    expect(runsOfMap(map).length).toBe(450);
    // GRUB reads what was never written as it stands there: give it a tree without such extents.
    plantTree(
      xfs,
      inode,
      all.map((extent) => ({ ...extent, unwritten: false })),
      free,
      levels,
    );
    writeSparse(unit, image);
    const written = await bytesOf(unit, await (await fs.lookup('/disk.raw')).map());
    const grub = execFileSync('grub-fstest', [image, 'cat', '/disk.raw'], { maxBuffer: 2 ** 26 });
    expect(sha256(written)).toBe(sha256(grub));
    expect(written.some((byte) => byte !== 0)).toBe(true);
    if (process.env.DRIFTMAP_FREEZE_XFS && levels === 3) {
      plantTree(xfs, inode, all, free, levels);
      const known = xfs.files();
      for (const { runs } of known) {
        // The tree lies in blocks that were the file's.
        for (const [, place, length] of runs) if (length <= 1024) unit.put(place, new Uint8Array(1024));
      }
      writeFrozen(join(process.env.DRIFTMAP_FREEZE_XFS, 'xfs-v4.gz'), unit, known);
    }
  });

  it('follows the superblock to a log on another device only to say that it does not', async () => {
    const image = join(folder, 'apart');
    const log = join(folder, 'log');
    run('truncate', '-s', '100M', log);
    mkfsXfs(image, '300M', ['-l', `logdev=${log},size=64m`]);
    await expect(openXfs(openFileUnit(image))).rejects.toThrow(/on another device/);
  });
});
