/**
 * NTFS volumes for tests: formatted by mkntfs, filled through ntfs-3g's own library (no mount, no root). The
 * library is what ntfscp and ntfsls use; they alone make no folders, links or holes.
 */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

/** What a test of this kind asks of `describeWith`. The library comes with the tools. */
export const ntfsTools = ['mkntfs', 'ntfscat', 'ntfsls'] as const;

const ROOT = 5;
const DATA = 0x80;
const DIRECTORY = 0o040000;
const REGULAR = 0o100000;

type Pointer = unknown;

interface Library {
  mount(path: string, flags: number): Pointer;
  umount(volume: Pointer, force: number): number;
  openInode(volume: Pointer, number: number): Pointer;
  closeInode(inode: Pointer): number;
  create(folder: Pointer, security: number, name: Buffer, length: number, type: number): Pointer;
  link(inode: Pointer, folder: Pointer, name: Buffer, length: number): number;
  remove(volume: Pointer, path: null, inode: Pointer, folder: Pointer, name: Buffer, length: number): number;
  openAttribute(inode: Pointer, type: number, name: Buffer | null, length: number): Pointer;
  closeAttribute(attribute: Pointer): void;
  addAttribute(inode: Pointer, type: number, name: Buffer, length: number, value: null, size: number): number;
  write(attribute: Pointer, position: number, count: number, bytes: Uint8Array): number;
  truncate(attribute: Pointer, size: number): number;
  setReparse(inode: Pointer, value: Uint8Array, size: number, flags: number): number;
  setDosName(inode: Pointer, folder: Pointer, name: string, size: number, flags: number): number;
  numberOf(inode: Pointer): number;
  errno(): number;
}

let library: Library | undefined;

function libraryPath(): string {
  const folders = ['/lib', '/usr/lib', '/usr/lib64', '/lib64'];
  for (const folder of folders.flatMap((each) => [each, ...subfolders(each)])) {
    const found = existsSync(folder)
      ? readdirSync(folder).find((name) => /^libntfs-3g\.so\.\d+$/.test(name))
      : undefined;
    if (found !== undefined) return `${folder}/${found}`;
  }
  throw new Error('libntfs-3g is not where libraries are: it comes with the package ntfs-3g');
}

function subfolders(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.includes('linux-gnu'))
    .map((name) => `${folder}/${name}`);
}

function load(): Library {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const lib = koffi.load(libraryPath());
  return {
    mount: lib.func('void *ntfs_mount(const char *name, unsigned long flags)'),
    umount: lib.func('int ntfs_umount(void *vol, uint8_t force)'),
    openInode: lib.func('void *ntfs_inode_open(void *vol, uint64_t mref)'),
    closeInode: lib.func('int ntfs_inode_close(void *ni)'),
    create: lib.func(
      'void *ntfs_create(void *dir, uint32_t securid, const void *name, uint8_t len, uint32_t type)',
    ),
    link: lib.func('int ntfs_link(void *ni, void *dir, const void *name, uint8_t len)'),
    remove: lib.func(
      'int ntfs_delete(void *vol, const char *path, void *ni, void *dir, const void *name, uint8_t len)',
    ),
    openAttribute: lib.func('void *ntfs_attr_open(void *ni, uint32_t type, const void *name, uint32_t len)'),
    closeAttribute: lib.func('void ntfs_attr_close(void *na)'),
    addAttribute: lib.func(
      'int ntfs_attr_add(void *ni, uint32_t type, const void *name, uint8_t len, const void *val, int64_t size)',
    ),
    write: lib.func('int64_t ntfs_attr_pwrite(void *na, int64_t pos, int64_t count, const void *b)'),
    truncate: lib.func('int ntfs_attr_truncate(void *na, int64_t newsize)'),
    setReparse: lib.func('int ntfs_set_ntfs_reparse_data(void *ni, const void *v, size_t size, int flags)'),
    setDosName: lib.func(
      'int ntfs_set_ntfs_dos_name(void *ni, void *dir, const char *v, size_t n, int flags)',
    ),
    numberOf: (inode) => Number(koffi.decode(inode, 'uint64_t')),
    errno: () => koffi.errno(),
  } as Library;
}

export interface MkntfsOptions {
  readonly size: number;
  readonly cluster?: number;
  readonly sector?: number;
  readonly label?: string;
}

export function mkntfs(
  path: string,
  { size, cluster = 4096, sector = 512, label = '' }: MkntfsOptions,
): void {
  writeFileSync(path, '');
  truncateSync(path, size);
  const words = [
    '-q',
    '-F',
    '-f',
    '-c',
    String(cluster),
    '-s',
    String(sector),
    '-p',
    '0',
    '-H',
    '0',
    '-S',
    '0',
  ];
  execFileSync('mkntfs', [...words, ...(label ? ['-L', label] : []), path], { stdio: 'pipe' });
}

/** A file or folder that is open in a writer; its number is that of its MFT record. */
export interface Node {
  readonly number: number;
}

/** A volume that is open for writing. Nodes are numbers: every call opens what it needs and closes it again. */
export class NtfsWriter {
  readonly root: Node = { number: ROOT };
  private readonly lib: Library;
  private readonly volume: Pointer;

  constructor(path: string) {
    library ??= load();
    this.lib = library;
    this.volume = this.lib.mount(path, 0);
    if (!this.volume) throw this.failure('mount');
  }

  folder(parent: Node, name: string): Node {
    return this.create(parent, name, DIRECTORY);
  }

  file(parent: Node, name: string, bytes: Uint8Array = new Uint8Array(0), at = 0): Node {
    const node = this.create(parent, name, REGULAR);
    if (bytes.length > 0) this.write(node, bytes, at);
    return node;
  }

  /** Many empty files in one folder, which stays open; fewer where the volume is full. */
  emptyFiles(parent: Node, names: Iterable<string>): Node[] {
    const folder = this.open(parent);
    const made: Node[] = [];
    for (const name of names) {
      const inode = this.lib.create(folder, 0, utf16(name), name.length, REGULAR);
      if (!inode) break;
      made.push({ number: this.lib.numberOf(inode) });
      this.close(inode);
    }
    this.close(folder);
    return made;
  }

  write(node: Node, bytes: Uint8Array, at = 0): void {
    this.withData(node, (data) => {
      if (this.lib.write(data, at, bytes.length, bytes) !== bytes.length) throw this.failure('write');
    });
  }

  /** Writes one piece at each place, the file being open once. */
  writeEach(node: Node, bytes: Uint8Array, places: Iterable<number>): void {
    this.withData(node, (data) => {
      for (const at of places) {
        if (this.lib.write(data, at, bytes.length, bytes) !== bytes.length) throw this.failure('write');
      }
    });
  }

  truncate(node: Node, size: number): void {
    this.withData(node, (data) => {
      if (this.lib.truncate(data, size) !== 0) throw this.failure('truncate');
    });
  }

  link(node: Node, parent: Node, name: string): void {
    const folder = this.open(parent);
    const inode = this.open(node);
    if (this.lib.link(inode, folder, utf16(name), name.length) !== 0) throw this.failure('link');
    this.close(inode);
    this.close(folder);
  }

  remove(node: Node, parent: Node, name: string): void {
    // It closes both.
    const folder = this.open(parent);
    const inode = this.open(node);
    const status = this.lib.remove(this.volume, null, inode, folder, utf16(name), name.length);
    if (status !== 0) throw this.failure('remove');
  }

  /** A second, named stream, as long as it is wide. */
  stream(node: Node, name: string, size: number): void {
    const inode = this.open(node);
    if (this.lib.addAttribute(inode, DATA, utf16(name), name.length, null, size) !== 0) {
      throw this.failure('add stream');
    }
    this.close(inode);
  }

  reparse(node: Node, tag: number, data: Uint8Array = new Uint8Array(8)): void {
    const value = Buffer.alloc(8 + data.length);
    value.writeUInt32LE(tag, 0);
    value.writeUInt16LE(data.length, 4);
    value.set(data, 8);
    const inode = this.open(node);
    if (this.lib.setReparse(inode, value, value.length, 0) !== 0) throw this.failure('set reparse point');
    this.close(inode);
  }

  dosName(node: Node, parent: Node, name: string): void {
    // It closes both.
    const folder = this.open(parent);
    const inode = this.open(node);
    if (this.lib.setDosName(inode, folder, name, name.length, 0) !== 0) throw this.failure('set DOS name');
  }

  close(inode?: Pointer): void {
    const status = inode === undefined ? this.lib.umount(this.volume, 0) : this.lib.closeInode(inode);
    if (status !== 0) throw this.failure('close');
  }

  private create(parent: Node, name: string, type: number): Node {
    const folder = this.open(parent);
    const inode = this.lib.create(folder, 0, utf16(name), name.length, type);
    if (!inode) throw this.failure(`create ${name}`);
    const number = this.lib.numberOf(inode);
    this.close(inode);
    this.close(folder);
    return { number };
  }

  private withData(node: Node, act: (data: Pointer) => void): void {
    const inode = this.open(node);
    const data = this.lib.openAttribute(inode, DATA, null, 0);
    if (!data) throw this.failure('open data');
    act(data);
    this.lib.closeAttribute(data);
    this.close(inode);
  }

  private open({ number }: Node): Pointer {
    const inode = this.lib.openInode(this.volume, number);
    if (!inode) throw this.failure(`open record ${number}`);
    return inode;
  }

  private failure(what: string): Error {
    return new Error(`ntfs-3g: ${what}: errno ${this.lib.errno()}`);
  }
}

function utf16(name: string): Buffer {
  return Buffer.from(name, 'utf16le');
}

/** A file's contents as ntfs-3g reads them; by its path, or as `inode` by the number of its record. */
export function ntfscat(image: string, path: string): Buffer {
  return execFileSync('ntfscat', ['-f', image, path], {
    maxBuffer: 2 ** 30,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}
