/** What a mounted XFS file system is filled with and put through, so that every structure of it is there. */

import {
  closeSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { run } from './xfs-images.ts';

/** `pieces` blocks with a hole after each: as many extents. */
export function fragmented(path: string, pieces: number, block: number): void {
  const fd = openSync(path, 'w+');
  for (let i = 0; i < pieces; i++)
    writeSync(fd, new Uint8Array(block).fill(1 + (i % 250)), 0, block, 2 * i * block);
  ftruncateSync(fd, 2 * pieces * block + 777);
  closeSync(fd);
}

/** Every format of directories, forks and links. @param block the file system's block size */
export function fill(folder: string, block: number, scale = 1): void {
  const at = (...parts: string[]) => join(folder, ...parts);
  fragmented(at('tree'), Math.ceil(1500 * scale), block);
  fragmented(at('list'), 5, block);
  run('xfs_io', '-f', '-c', 'falloc 0 1m', '-c', 'pwrite -S 7 300k 100k', at('preallocated'));
  run('xfs_io', '-f', '-c', 'falloc -k 0 4m', '-c', 'pwrite -S 9 0 10k', at('longer-than-its-size'));
  run('xfs_io', '-f', '-c', 'truncate 5t', '-c', 'pwrite -S 9 4t 10k', at('huge'));
  writeFileSync(at('empty'), '');
  run('cp', '--reflink=auto', at('list'), at('clone'));
  run('xfs_io', '-c', 'pwrite -S 5 0 100', at('clone'));
  for (const [name, count] of [
    ['short', 3],
    ['block', 12],
    ['leaf', 250],
    ['node', Math.ceil(2500 * scale)],
  ] as const) {
    mkdirSync(at(name));
    // Links to one file take no inodes of their own.
    writeFileSync(at(name, 'first'), name);
    for (let i = 1; i < count; i++) linkSync(at(name, 'first'), at(name, `file-${i}-${'x'.repeat(i % 40)}`));
  }
  // Holes between the blocks of a directory, and blocks given back at its end.
  readdirSync(at('node')).forEach((name, i) => {
    if (name !== 'first' && (i % 3 === 0 || i % 500 > 350)) unlinkSync(at('node', name));
  });
  mkdirSync(at('a/b/c'), { recursive: true });
  writeFileSync(at('a/b/c/deep'), 'deep');
  symlinkSync('a/b/c/deep', at('relative'));
  symlinkSync('/a/../../../a/b/./c/deep', at('absolute'));
  symlinkSync('../../../etc/passwd', at('a/outside'));
  symlinkSync('loop-2', at('loop-1'));
  symlinkSync('loop-1', at('loop-2'));
  symlinkSync(`${'./'.repeat(200)}a/${'../a/'.repeat(100)}b/c/deep`, at('long'));
  run('mkfifo', at('fifo'));
  writeFileSync(
    Buffer.concat([Buffer.from(`${folder}/bad-`), Buffer.from([0xff]), Buffer.from('-name')]),
    'bad',
  );
}

/** Random changes to files and directories, the same for the same seed. */
export function change(folder: string, steps: number, below: (most: number) => number, tag: string): void {
  const files: string[] = [];
  const folders: string[] = [folder];
  const walk = (from: string) => {
    for (const entry of readdirSync(from, { withFileTypes: true })) {
      if (entry.name === 'huge' || entry.name.includes('\ufffd')) continue;
      if (entry.isFile()) files.push(join(from, entry.name));
      if (!entry.isDirectory()) continue;
      folders.push(join(from, entry.name));
      walk(join(from, entry.name));
    }
  };
  walk(folder);
  const pick = (of: readonly string[]) => of[below(of.length)]!;
  for (let step = 0; step < steps; step++) {
    const kind = below(100);
    const path = join(pick(folders), `${tag}-${step}-${'n'.repeat(below(50))}`);
    if (kind < 45 || files.length === 0) {
      const fd = openSync(path, 'w+');
      for (let i = 1 + below(3); i > 0; i--)
        writeSync(fd, new Uint8Array(1 + below(9000)).fill(step), 0, undefined, 4096 * below(300));
      if (below(5) === 0) fsyncSync(fd);
      closeSync(fd);
      files.push(path);
    } else if (kind < 60) {
      unlinkSync(files.splice(below(files.length), 1)[0]!);
    } else if (kind < 75) {
      const index = below(files.length);
      renameSync(files[index]!, path);
      files[index] = path;
    } else if (kind < 80) {
      mkdirSync(path);
      folders.push(path);
    } else if (kind < 82) {
      const gone = pick(folders);
      if (gone === folder || statSync(gone).nlink > 2) continue;
      rmSync(gone, { recursive: true });
      folders.splice(folders.indexOf(gone), 1);
      files.splice(0, files.length, ...files.filter((file) => !file.startsWith(`${gone}/`)));
    } else if (kind < 92) {
      truncateSync(pick(files), below(200_000));
    } else {
      const from = pick(files);
      run('cp', '--reflink=auto', from, path);
      files.push(path);
    }
  }
}
