/** XFS file systems for tests: made by mkfs.xfs or by the kernel, kept as the few pages that are not zeros. */

import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmdirSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { gunzipSync, gzipSync } from 'node:zlib';
import { DriftmapError } from '../../src/base/errors.ts';
import type { FileSystem } from '../../src/disk/containers/container.ts';
import { openXfs } from '../../src/disk/containers/xfs.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { type ExtentMap, Kind } from '../../src/mapping/extent-map.ts';

export const PAGE = 4096;

/** A unit of which only pages that are not zeros are kept, so that hundreds of megabytes cost little. */
export class SparseUnit implements LogicalUnit {
  readonly name = '<xfs>';
  readonly identity = 'sparse';
  readonly canWrite = false;
  size: number;
  readonly pages: Map<number, Uint8Array>;
  bytesRead = 0;

  constructor(size: number, pages = new Map<number, Uint8Array>()) {
    this.size = size;
    this.pages = pages;
  }
  /** Another unit with the same bytes. */
  copy(): SparseUnit {
    return new SparseUnit(this.size, new Map([...this.pages].map(([page, bytes]) => [page, bytes.slice()])));
  }
  generation(): string {
    return 'still';
  }
  read(offset: number, target: Uint8Array): undefined {
    if (offset < 0 || offset + target.length > this.size) throw new Error(`read past the end: ${offset}`);
    this.bytesRead += target.length;
    for (let at = 0; at < target.length; ) {
      const from = (offset + at) % PAGE;
      const part = target.subarray(at, Math.min(at + PAGE - from, target.length));
      const page = this.pages.get(Math.floor((offset + at) / PAGE));
      if (page === undefined) part.fill(0);
      else part.set(page.subarray(from, from + part.length));
      at += part.length;
    }
    return undefined;
  }
  bytes(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.read(offset, bytes);
    return bytes;
  }
  view(offset: number, length: number): DataView {
    return new DataView(this.bytes(offset, length).buffer);
  }
  put(offset: number, bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) {
      const number = Math.floor((offset + i) / PAGE);
      const page = this.pages.get(number) ?? new Uint8Array(PAGE);
      page[(offset + i) % PAGE] = bytes[i]!;
      this.pages.set(number, page);
    }
  }
  write(): never {
    throw new Error('not for writing');
  }
  zero(): never {
    throw new Error('not for writing');
  }
  flush(): undefined {
    return undefined;
  }
  extents(range: { offset: number; length: number }) {
    return [{ ...range, kind: 'data' as const }];
  }
  handle(): never {
    throw new Error('not for workers');
  }
  close(): undefined {
    return undefined;
  }
}

const zeroPage = Buffer.alloc(PAGE);

export function sparseOf(path: string): SparseUnit {
  const fd = openSync(path, 'r');
  const { size } = fstatSync(fd);
  const pages = new Map<number, Uint8Array>();
  const piece = Buffer.alloc(256 * PAGE);
  for (let at = 0; at < size; at += piece.length) {
    const got = readSync(fd, piece, 0, Math.min(piece.length, size - at), at);
    for (let from = 0; from < got; from += PAGE) {
      const page = piece.subarray(from, from + PAGE);
      if (!page.equals(zeroPage)) pages.set((at + from) / PAGE, Uint8Array.from(page));
    }
  }
  closeSync(fd);
  return new SparseUnit(size, pages);
}

export function sparseFromBytes(bytes: Uint8Array): SparseUnit {
  const pages = new Map<number, Uint8Array>();
  for (let at = 0; at < bytes.length; at += PAGE) {
    const page = bytes.subarray(at, at + PAGE);
    if (Buffer.compare(page, zeroPage.subarray(0, page.length)) !== 0) {
      const kept = new Uint8Array(PAGE);
      kept.set(page);
      pages.set(at / PAGE, kept);
    }
  }
  return new SparseUnit(bytes.length, pages);
}

/** Writes a unit as a sparse file, for tools. */
export function writeSparse(unit: SparseUnit, path: string): void {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, unit.size);
  for (const [page, bytes] of unit.pages) {
    writeSync(fd, bytes, 0, Math.min(PAGE, unit.size - page * PAGE), page * PAGE);
  }
  closeSync(fd);
}

/** One run of a file: its offset, the place on the unit, its length, and whether it was never written. */
export type XfsRun = readonly [number, number, number, 0 | 1];

export interface KnownFile {
  readonly path: string;
  readonly size: number;
  /** Cut at the file's size. */
  readonly runs: readonly XfsRun[];
}

interface FrozenHead {
  readonly size: number;
  readonly files: readonly KnownFile[];
  readonly pages: readonly number[];
}

/** A frozen file system: a line of JSON, then its pages, all of it under gzip. Contents of files are left out. */
export function readFrozen(path: string): { unit: SparseUnit; files: readonly KnownFile[] } {
  const bytes = gunzipSync(readFileSync(path));
  const line = bytes.indexOf(10);
  const { size, files, pages } = JSON.parse(bytes.toString('utf8', 0, line)) as FrozenHead;
  const kept = new Map<number, Uint8Array>();
  pages.forEach((page, i) => {
    const from = line + 1 + i * PAGE;
    kept.set(page, Uint8Array.from(bytes.subarray(from, from + PAGE)));
  });
  return { unit: new SparseUnit(size, kept), files };
}

export function writeFrozen(path: string, unit: SparseUnit, files: readonly KnownFile[]): void {
  const pages = [...unit.pages.keys()].sort((a, b) => a - b);
  const head: FrozenHead = { size: unit.size, files, pages };
  const parts = [Buffer.from(`${JSON.stringify(head)}\n`), ...pages.map((page) => unit.pages.get(page)!)];
  writeFileSync(path, gzipSync(Buffer.concat(parts), { level: 9 }));
}

export function runsOfMap(map: ExtentMap): XfsRun[] {
  const runs: XfsRun[] = [];
  for (const { offset, place, length, kind } of map.extents()) {
    if (place < 0) continue;
    const last = runs.at(-1);
    const flag = kind === Kind.data ? 0 : 1;
    const goesOn = last && last[0] + last[2] === offset && last[1] + last[2] === place && last[3] === flag;
    if (goesOn) runs[runs.length - 1] = [last[0], last[1], last[2] + length, flag];
    else runs.push([offset, place, length, flag]);
  }
  return runs;
}

export async function listing(fs: FileSystem): Promise<KnownFile[]> {
  const found: KnownFile[] = [];
  for await (const { path, size, map } of fs.files())
    found.push({ path, size, runs: runsOfMap(await map()) });
  return found.sort(byPath);
}

export function byPath(a: KnownFile, b: KnownFile): number {
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0;
}

export async function bytesOf(unit: LogicalUnit, map: ExtentMap): Promise<Uint8Array> {
  const bytes = new Uint8Array(map.size);
  const pending = new DiskReader({ name: 'test', map, units: [unit] }).readInto(0, bytes);
  if (pending) await pending;
  return bytes;
}

/** What opening and listing it gives, or the error, which must be one of ours and no bug. */
export async function outcome(unit: LogicalUnit): Promise<KnownFile[] | DriftmapError> {
  try {
    return await listing(await openXfs(unit));
  } catch (error) {
    if (error instanceof DriftmapError && error.kind !== 'internal') return error;
    throw error;
  }
}

export function run(command: string, ...words: string[]): string {
  return execFileSync(command, words, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 2 ** 28,
  });
}

/** The environment in which mkfs.xfs makes file systems below 300 MB: that of its own project's tests. */
const small = { ...process.env, TEST_DIR: '/', TEST_DEV: '/', QA_CHECK_FS: '1' };

/** @param proto lines of a prototype file, as in mkfs.xfs(8), without the first three */
export function mkfsXfs(
  path: string,
  size: string,
  options: readonly string[],
  proto?: readonly string[],
): void {
  execFileSync('truncate', ['-s', size, path]);
  const words = ['-q', '-f', ...options];
  if (proto) {
    writeFileSync(`${path}.proto`, ['dummy', '0 0', 'd--755 0 0', ...proto, '$', ''].join('\n'));
    words.push('-p', `${path}.proto`);
  }
  const { status, stderr } = spawnSync('mkfs.xfs', [...words, path], { encoding: 'utf8', env: small });
  if (status !== 0) throw new Error(`mkfs.xfs ${words.join(' ')}: ${stderr}`);
}

/** Mounts an image, which takes root, loop devices and the kernel's XFS; the folder is given to `act`. */
export function mounted<T>(image: string, act: (folder: string) => T, options = 'loop'): T {
  const folder = `${image}.mnt`;
  mkdirSync(folder, { recursive: true });
  run('mount', '-t', 'xfs', '-o', options, image, folder);
  try {
    return act(folder);
  } finally {
    run('umount', folder);
    rmdirSync(folder);
  }
}

/** What the kernel says of the regular files of a mounted file system. */
export function kernelsFiles(folder: string): KnownFile[] {
  const list = run('find', folder, '-type', 'f', '-printf', '%s %P\\n').split('\n').filter(Boolean);
  // Names need not be UTF-8: they go from process to process.
  const command = `cd '${folder}' && find . -type f -print0 | xargs -0 xfs_io -r -c 'bmap -lpv'`;
  const runs = new Map<string, XfsRun[]>();
  let current: XfsRun[] = [];
  for (const line of run('sh', '-c', command).split('\n')) {
    const header = /^\.(\/.*?):(?: no extents)?$/.exec(line);
    if (!header) addKernelsRun(current, line);
    else runs.set(header[1]!, (current = []));
  }
  return list
    .map((line) => {
      const space = line.indexOf(' ');
      const path = `/${line.slice(space + 1)}`;
      const size = Number(line.slice(0, space));
      return { path, size, runs: cut(runs.get(path) ?? [], size) };
    })
    .sort(byPath);
}

function addKernelsRun(runs: XfsRun[], line: string): void {
  const match = /^\s*\d+: \[(\d+)\.\.(\d+)\]:\s+(\d+)\.\.\d+\s.*\s(\d+)$/.exec(line);
  if (!match) return;
  const [first, last, sector] = match.slice(1, 4).map(Number) as [number, number, number];
  const flag = Math.floor(Number.parseInt(match[4]!, 8) / 0o10000) % 2 === 1 ? 1 : 0;
  const [offset, place, length] = [first * 512, sector * 512, (last + 1 - first) * 512];
  const before = runs.at(-1);
  const goesOn =
    before && before[0] + before[2] === offset && before[1] + before[2] === place && before[3] === flag;
  if (goesOn) runs[runs.length - 1] = [before[0], before[1], before[2] + length, flag];
  else runs.push([offset, place, length, flag]);
}

function cut(runs: readonly XfsRun[], size: number): XfsRun[] {
  return runs
    .filter(([offset]) => offset < size)
    .map(([offset, place, length, flag]) => [offset, place, Math.min(length, size - offset), flag]);
}
