/** File systems for the tests of ext4: made by mkfs.ext4 from a folder, changed and questioned by debugfs. */

import { spawnSync } from 'node:child_process';
import { linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { FileEntry, FileSystem } from '../../src/disk/containers/container.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { type ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import { randomFrom } from './lvm-builder.ts';

export const tools = ['mkfs.ext4', 'debugfs', 'e2fsck'];

export function noise(length: number, seed: number): Uint8Array {
  const below = randomFrom(seed);
  return Uint8Array.from({ length }, () => below(256));
}

/** Blocks of noise with holes between them: `pieces` of 5000 bytes, every `step` bytes, and some at the end. */
function holes(pieces: number, step: number): Uint8Array {
  const bytes = new Uint8Array(pieces * step + 77);
  const piece = noise(5000, 7);
  for (let i = 0; i < pieces; i++) bytes.set(piece.subarray(i), i * step);
  bytes.set(piece.subarray(0, 77), pieces * step);
  return bytes;
}

/** A folder with one of everything; returns it. */
export function makeTree(folder: string): string {
  const tree = join(folder, 'tree');
  mkdirSync(join(tree, 'images/deep/deeper'), { recursive: true });
  mkdirSync(join(tree, 'many'));
  writeFileSync(join(tree, 'empty'), '');
  writeFileSync(join(tree, 'tiny'), 'nine bytes');
  writeFileSync(join(tree, 'inline'), noise(140, 3));
  writeFileSync(join(tree, 'block'), noise(1024, 4));
  writeFileSync(join(tree, 'images/whole.raw'), noise(700_000, 5));
  writeFileSync(join(tree, 'images/holes.raw'), holes(60, 131072));
  // Past what doubly indirect blocks of 1 KiB reach. (mkfs -d with inline data loses a hole at a file's end.)
  const far = new Uint8Array(69_000_000);
  far.set(noise(3000, 6));
  far.set(noise(2000, 8), far.length - 2000);
  writeFileSync(join(tree, 'images/deep/far.raw'), far);
  writeFileSync(join(tree, 'images/deep/deeper/größe 日本.img'), noise(5000, 9));
  linkSync(join(tree, 'block'), join(tree, 'images/second name'));
  symlinkSync('images/whole.raw', join(tree, 'short link'));
  symlinkSync(`./${'images/../'.repeat(9)}images/deep/../whole.raw`, join(tree, 'long link'));
  symlinkSync('/images', join(tree, 'images/deep/absolute'));
  symlinkSync('loop b', join(tree, 'loop a'));
  symlinkSync('loop a', join(tree, 'loop b'));
  symlinkSync('../../../../../../../tiny', join(tree, 'images/deep/up'));
  for (let i = 0; i < 300; i++)
    writeFileSync(join(tree, 'many', `${i}-${'name'.repeat(i % 30)}`), `file ${i}`);
  return tree;
}

/** Paths of regular files in a folder as they are in the file system, sorted. */
export function filesIn(tree: string): string[] {
  const found: string[] = [];
  const walk = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (entry.isFile()) found.push(`/${relative(tree, path)}`);
    }
  };
  walk(tree);
  return found.sort();
}

/** Makes a file system in `image`; `size` as mkfs takes it. */
export function makeFileSystem(image: string, tree: string, options: readonly string[], size = '64M'): void {
  rmSync(image, { force: true });
  const words = ['-q', '-F', '-d', tree, ...options, image, size];
  const { status, stderr } = spawnSync('mkfs.ext4', words, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`mkfs.ext4 ${words.join(' ')}\n${stderr}`);
}

/** Runs debugfs commands over an image and returns what they print. */
export function debugfs(
  image: string,
  commands: readonly string[],
  options: readonly string[] = ['-w'],
): string {
  const folder = mkdtempSync(join(image, '..', 'debugfs-'));
  const script = join(folder, 'commands');
  writeFileSync(script, `${commands.join('\n')}\n`);
  const { stdout, stderr } = spawnSync('debugfs', [...options, '-f', script, image], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  rmSync(folder, { recursive: true });
  const said = stderr.replace(/^debugfs 1.*\n/, '');
  if (said.trim() !== '') throw new Error(`debugfs ${image}: ${said}\n${stdout}`);
  return stdout;
}

/** e2fsck with `options`; throws where it finds or leaves damage. */
export function e2fsck(image: string, options: readonly string[], allowed: readonly number[] = [0]): string {
  const { status, stdout, stderr } = spawnSync('e2fsck', [...options, image], { encoding: 'utf8' });
  if (!allowed.includes(status ?? -1))
    throw new Error(`e2fsck ${options.join(' ')}: ${status}\n${stdout}${stderr}`);
  return stdout;
}

export async function collect(fs: FileSystem): Promise<Map<string, FileEntry>> {
  const found = new Map<string, FileEntry>();
  for await (const entry of fs.files()) {
    if (found.has(entry.path)) throw new Error(`${entry.path} is listed twice`);
    found.set(entry.path, entry);
  }
  return found;
}

/** What a map reads as on its unit. */
export async function contents(map: ExtentMap, unit: LogicalUnit): Promise<Uint8Array> {
  const bytes = new Uint8Array(map.size);
  const reader = new DiskReader({ name: 'file', map, units: [unit] });
  for (let at = 0; at < bytes.length; at += 1 << 20) {
    const pending = reader.readInto(at, bytes.subarray(at, Math.min(at + (1 << 20), bytes.length)));
    if (pending) await pending;
  }
  return bytes;
}

/** A run in blocks: logical, physical, how many, unwritten. */
export type BlockRun = readonly [number, number, number, boolean];

/** What the map says, in blocks; a last block that the size cuts counts whole. */
export function blockRunsOf(map: ExtentMap, blockSize: number): BlockRun[] {
  const runs: BlockRun[] = [];
  for (const { offset, length, place, kind } of map.extents()) {
    if (place < 0) continue;
    runs.push([offset / blockSize, place / blockSize, Math.ceil(length / blockSize), kind === Kind.zero]);
  }
  return runs;
}

/** The same as debugfs `stat` prints it, joined where runs adjoin and cut at the file's size. */
export function blockRunsFrom(stat: string, blockSize: number): BlockRun[] {
  const size = Number(/Size: (\d+)\n/.exec(stat)![1]);
  const end = Math.ceil(size / blockSize);
  const runs: [number, number, number, boolean][] = [];
  for (const [, first, last, flag, place] of stat.matchAll(/\((\d+)(?:-(\d+))?(\[u\])?\):(\d+)/g)) {
    const start = Number(first);
    const count = Math.min(Number(last ?? first) + 1, end) - start;
    if (count <= 0) continue;
    const unwritten = flag !== undefined;
    const before = runs.at(-1);
    const continues =
      before?.[3] === unwritten && before[0] + before[2] === start && before[1] + before[2] === Number(place);
    if (continues) before[2] += count;
    else runs.push([start, Number(place), count, unwritten]);
  }
  return runs;
}
