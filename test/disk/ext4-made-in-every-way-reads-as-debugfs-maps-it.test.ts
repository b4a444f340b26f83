import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { isExt4, openExt4 } from '../../src/disk/containers/ext4.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith, temporary } from '../tools.ts';
import {
  blockRunsFrom,
  blockRunsOf,
  collect,
  contents,
  debugfs,
  e2fsck,
  filesIn,
  makeFileSystem,
  makeTree,
  tools,
} from './ext4-images.ts';
import { sha256 } from './images.ts';

const ext2 = '^has_journal,^extents,^64bit,^metadata_csum,^flex_bg,^huge_file,^extra_isize,^dir_nlink';

/** Name, block size, further options. */
const ways: readonly (readonly [string, number, readonly string[]])[] = [
  ['ext2', 1024, ['-I', '128', '-O', `${ext2},^dir_index,^resize_inode`]],
  ['ext2 of revision 0', 1024, ['-r', '0']],
  ['ext2 without sparse_super or file types', 2048, ['-O', `${ext2},^sparse_super,^resize_inode,^filetype`]],
  ['ext3', 1024, ['-O', '^extents,^64bit,^metadata_csum,^flex_bg']],
  ['ext3, blocks of 4 KiB', 4096, ['-O', '^extents,^64bit,^metadata_csum']],
  ['ext4', 4096, []],
  ['ext4, blocks of 1 KiB', 1024, []],
  ['ext4, blocks of 2 KiB', 2048, []],
  ['ext4, blocks of 16 KiB', 16384, []],
  ['ext4, blocks of 64 KiB', 65536, []],
  ['without checksums', 4096, ['-O', '^metadata_csum']],
  ['with checksums of descriptors only', 1024, ['-O', '^metadata_csum,uninit_bg', '-g', '1024']],
  ['the same of 64 bytes', 1024, ['-O', '64bit,^metadata_csum,uninit_bg', '-g', '1024']],
  ['descriptors of 32 bytes', 1024, ['-O', '^64bit', '-g', '512']],
  ['many groups', 1024, ['-g', '256', '-N', '8192', '-O', '^resize_inode']],
  ['meta_bg', 1024, ['-g', '256', '-N', '8192', '-O', 'meta_bg,^resize_inode']],
  ['meta_bg of 32 bytes', 2048, ['-g', '256', '-N', '8192', '-O', 'meta_bg,^resize_inode,^64bit']],
  [
    'meta_bg with sparse_super2',
    1024,
    ['-g', '256', '-N', '8192', '-O', 'meta_bg,^resize_inode,sparse_super2'],
  ],
  ['meta_bg, bigalloc', 1024, ['-O', 'meta_bg,^resize_inode,bigalloc', '-C', '16384', '-g', '4096']],
  ['inodes of 128 bytes', 4096, ['-I', '128']],
  ['inodes of 512 bytes', 1024, ['-I', '512']],
  ['inline data', 4096, ['-O', 'inline_data']],
  ['inline data in inodes of 1024 bytes', 1024, ['-O', 'inline_data', '-I', '1024']],
  ['inline data without checksums', 4096, ['-O', 'inline_data,^metadata_csum', '-I', '512']],
  ['bigalloc', 1024, ['-O', 'bigalloc', '-C', '65536']],
  ['bigalloc, blocks of 4 KiB', 4096, ['-O', 'bigalloc', '-C', '16384']],
  ['sparse_super2', 1024, ['-O', 'sparse_super2']],
  ['without flex_bg', 1024, ['-O', '^flex_bg']],
  ['a checksum seed', 4096, ['-O', 'metadata_csum_seed']],
  ['names without case', 4096, ['-O', 'casefold', '-E', 'encoding=utf8']],
  ['an orphan file', 4096, ['-O', 'orphan_file']],
  ['fast commits', 4096, ['-O', 'fast_commit']],
  [
    'mmp, quota, project, verity, encrypt, ea_inode, large_dir',
    4096,
    ['-O', 'mmp,quota,project,verity,encrypt,ea_inode,large_dir', '-I', '256'],
  ],
];

/** Of these e2fsck is to optimize the directories first. */
const hashed = new Set([
  'ext3',
  'ext4',
  'ext4, blocks of 1 KiB',
  'ext4, blocks of 64 KiB',
  'without checksums',
  'inline data',
  'names without case',
]);

describeWith([...tools, 'grub-fstest'], 'a file system made by mkfs.ext4', () => {
  const folder = temporary();
  let tree = '';
  let paths: string[] = [];
  const sums = new Map<string, string>();

  beforeAll(() => {
    tree = makeTree(folder);
    paths = filesIn(tree);
    for (const path of paths) sums.set(path, sha256(readFileSync(join(tree, path))));
  });

  it.each(ways)('reads and maps: %s', async (title, blockSize, options) => {
    const image = join(folder, 'image');
    makeFileSystem(image, tree, ['-b', String(blockSize), '-L', 'a label', ...options]);
    // It makes hashed directories, which mkfs does not; 1 says that it did something.
    if (hashed.has(title)) e2fsck(image, ['-fyD'], [0, 1]);
    const unit = openFileUnit(image);
    expect(await isExt4(unit)).toBe(true);
    const fs = await openExt4(unit);
    expect(fs.kind).toBe('ext4');
    expect(fs.label).toBe('a label');
    expect(fs.warnings).toEqual([]);

    const found = await collect(fs);
    expect([...found.keys()].sort()).toEqual(paths);
    const stats = debugfs(
      image,
      paths.map((path) => `stat "${path}"`),
      [],
    )
      .split(/^debugfs: .*\n/m)
      .slice(1);
    expect(stats.length).toBe(paths.length);
    for (const [i, path] of paths.entries()) {
      const entry = found.get(path)!;
      const map = await entry.map();
      expect(map.size).toBe(entry.size);
      expect(sha256(await contents(map, unit)), path).toBe(sums.get(path));
      const isInline = /Flags: 0x1.......$/m.test(stats[i]!);
      if (!isInline) expect(blockRunsOf(map, blockSize), path).toEqual(blockRunsFrom(stats[i]!, blockSize));
    }
    // Every path of the list is also found.
    for (const path of paths.slice(0, 40)) expect((await fs.lookup(path)).size).toBe(found.get(path)!.size);
    unit.close();
  });

  it('reads as GRUB reads it', async () => {
    const image = join(folder, 'grub');
    for (const options of [['-O', '^extents,^64bit,^metadata_csum'], []]) {
      makeFileSystem(image, tree, ['-b', '1024', ...options]);
      const unit = openFileUnit(image);
      const fs = await openExt4(unit);
      for (const path of ['/images/holes.raw', '/images/deep/far.raw', '/tiny']) {
        const bytes = await contents(await (await fs.lookup(path)).map(), unit);
        const other = execFileSync('grub-fstest', [image, 'cat', `(loop0)${path}`], { maxBuffer: 2 ** 28 });
        expect(sha256(bytes)).toBe(sha256(other));
      }
      unit.close();
    }
  });

  it('reads what was allocated and never written as zeros, with its place', async () => {
    const image = join(folder, 'unwritten');
    makeFileSystem(image, tree, ['-b', '1024']);
    debugfs(image, ['fallocate "/images/holes.raw" 0 3000', 'fallocate /tiny 1 100', 'fallocate /empty 0 5']);
    const unit = openFileUnit(image);
    const fs = await openExt4(unit);
    for (const path of ['/images/holes.raw', '/tiny', '/empty']) {
      const map = await (await fs.lookup(path)).map();
      expect(sha256(await contents(map, unit))).toBe(sums.get(path));
      const stat = debugfs(image, [`stat "${path}"`], []);
      expect(blockRunsOf(map, 1024)).toEqual(blockRunsFrom(stat, 1024));
    }
    const map = await (await fs.lookup('/images/holes.raw')).map();
    expect([...map.extents()].filter(({ kind, place }) => kind === 1 && place > 0).length).toBeGreaterThan(
      20,
    );
    unit.close();
  });
});
