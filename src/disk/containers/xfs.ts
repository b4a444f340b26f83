/**
 * XFS file systems: `openXfs`. Paths are followed and files listed from the root; a file's map leads to the
 * file system's unit. Sources: XFS Algorithms & Data Structures, 3rd edition (kernel.org), and, where it is
 * silent, what Linux's driver writes.
 */

import { DriftmapError } from '../../base/errors.ts';
import { XFS_MAX_DIRECTORIES, XFS_MAX_DIRECTORY_DEPTH, XFS_MAX_SYMLINKS } from '../../base/limits.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { ExtentMap } from '../../mapping/extent-map.ts';
import type { FileEntry, FileSystem } from './container.ts';
import { readDirectory, readLink, type XfsDirectoryEntry } from './xfs-directory.ts';
import { readFileMap } from './xfs-extents.ts';
import { readInode, type XfsInode } from './xfs-inode.ts';
import { XfsMetadata } from './xfs-metadata.ts';
import { replayLog } from './xfs-replay.ts';
import { readSuperblock, xfsFault } from './xfs-superblock.ts';

export { isXfs } from './xfs-superblock.ts';

/**
 * Opens the XFS file system that begins at the unit's first byte.
 * @throws DriftmapError `malformed`; `unsupported` for what is not read, by name
 */
export async function openXfs(unit: LogicalUnit): Promise<FileSystem> {
  const geometry = await readSuperblock(unit);
  const replayed = await replayLog(unit, geometry);
  if (replayed === null) return new XfsFileSystem(new XfsMetadata(unit, geometry), []);
  const warning = `${unit.name}: the XFS file system was not unmounted, as in a snapshot of a running machine: its log is replayed in memory`;
  return new XfsFileSystem(new XfsMetadata(replayed.source, replayed.geometry, replayed.exchanged), [
    warning,
  ]);
}

/** A directory on the way to be listed. */
interface Pending {
  readonly path: string;
  readonly inode: number;
  readonly depth: number;
}

class XfsFileSystem implements FileSystem {
  readonly kind = 'xfs';
  readonly label: string;
  readonly warnings: readonly string[];
  private readonly metadata: XfsMetadata;

  constructor(metadata: XfsMetadata, warnings: readonly string[]) {
    this.metadata = metadata;
    this.label = metadata.geometry.label;
    this.warnings = warnings;
  }

  async lookup(path: string): Promise<FileEntry> {
    const walk = new PathWalk(this.metadata, path);
    const inode = await walk.walk();
    if (inode.kind === 'file') return this.entry(walk.walked, inode);
    const reason = `expected a regular file, ${path} is a ${inode.kind}`;
    throw new DriftmapError('argument', reason, { path: this.metadata.path });
  }

  /** A directory's own files come before those of the directories in it. */
  async *files(): AsyncGenerator<FileEntry, undefined> {
    const { metadata } = this;
    const root = metadata.geometry.rootInode;
    const seen = new Set<number>([root]);
    const pending: Pending[] = [{ path: '', inode: root, depth: 0 }];
    for (let here = pending.pop(); here !== undefined; here = pending.pop()) {
      const directory = await readInode(metadata, here.inode, `directory ${here.path}/`);
      if (directory.kind !== 'directory') {
        throw xfsFault(
          metadata.path,
          directory.offset,
          `expected the root directory, inode ${root} is a ${directory.kind}`,
        );
      }
      const inside: Pending[] = [];
      for await (const entries of readDirectory(metadata, directory)) {
        for (const entry of entries) {
          const path = `${here.path}/${textOf(entry.name)}`;
          const inode = await readInode(metadata, entry.inode, path);
          if (inode.kind === 'file') yield this.entry(path, inode);
          if (inode.kind !== 'directory') continue;
          this.enter(seen, inode, path, here.depth + 1);
          inside.push({ path, inode: entry.inode, depth: here.depth + 1 });
        }
      }
      for (let next = inside.pop(); next !== undefined; next = inside.pop()) pending.push(next);
    }
  }

  private enter(seen: Set<number>, { number, offset }: XfsInode, path: string, depth: number): void {
    const place = { path: this.metadata.path, offset };
    if (seen.has(number)) {
      const reason = `directory ${path} is in two places of the tree: it is damaged`;
      throw new DriftmapError('malformed', reason, place);
    }
    if (depth > XFS_MAX_DIRECTORY_DEPTH || seen.size >= XFS_MAX_DIRECTORIES) {
      const reason = `expected at most ${XFS_MAX_DIRECTORIES} directories, ${XFS_MAX_DIRECTORY_DEPTH} in one another`;
      throw new DriftmapError('limit', reason, place);
    }
    seen.add(number);
  }

  private entry(path: string, { number, generation, size }: XfsInode): FileEntry {
    return { path, size, map: () => this.map(path, number, generation, size) };
  }

  private async map(path: string, number: number, generation: number, size: number): Promise<ExtentMap> {
    const inode = await readInode(this.metadata, number, path);
    const at = { path: this.metadata.path, offset: inode.offset };
    if (inode.kind !== 'file' || inode.generation !== generation || inode.size !== size) {
      throw new DriftmapError(
        'io',
        `${path} changed after it was found: read it when nobody writes to it`,
        at,
      );
    }
    if (inode.isRealtime) {
      throw new DriftmapError('unsupported', `${path} is on the realtime device, which is not read`, at);
    }
    return readFileMap(this.metadata, inode);
  }
}

/** From the root along a path; `..` and symbolic links never lead out of the file system. */
class PathWalk {
  private readonly metadata: XfsMetadata;
  private readonly path: string;
  /** What is still to be followed, the next part last. */
  private readonly parts: Uint8Array[] = [];
  private links = 0;
  /** The names of what was reached, the root left out: no symbolic link is among them. */
  private readonly names: string[] = [];

  constructor(metadata: XfsMetadata, path: string) {
    this.metadata = metadata;
    this.path = path;
    this.push(new TextEncoder().encode(path));
  }

  /** Where the walk has led. */
  get walked(): string {
    return `/${this.names.join('/')}`;
  }

  async walk(): Promise<XfsInode> {
    const { metadata, path } = this;
    const root = await readInode(metadata, metadata.geometry.rootInode, 'the superblock');
    const trail = [root];
    for (let part = this.parts.pop(); part !== undefined; part = this.parts.pop()) {
      const here = trail.at(-1)!;
      if (here.kind !== 'directory') throw this.missing(`${here.kind} where a directory is expected`);
      if (isDots(part, 1)) continue;
      if (isDots(part, 2)) {
        if (trail.length > 1) trail.pop();
        this.names.pop();
        continue;
      }
      const found = await this.find(here, part);
      const inode = await readInode(metadata, found.inode, path);
      if (inode.kind !== 'symlink') {
        trail.push(inode);
        this.names.push(textOf(found.name));
        continue;
      }
      if (++this.links > XFS_MAX_SYMLINKS) {
        const reason = `expected at most ${XFS_MAX_SYMLINKS} symbolic links on the way to ${path}`;
        throw new DriftmapError('limit', reason, { path: metadata.path, offset: inode.offset });
      }
      const target = await readLink(metadata, inode);
      if (target[0] === SLASH) {
        trail.length = 1;
        this.names.length = 0;
      }
      this.push(target);
    }
    return trail.at(-1)!;
  }

  private push(path: Uint8Array): void {
    const parts: Uint8Array[] = [];
    for (let at = 0; at <= path.length; ) {
      const slash = path.indexOf(SLASH, at);
      const end = slash < 0 ? path.length : slash;
      if (end > at) parts.push(path.subarray(at, end));
      at = end + 1;
    }
    for (let next = parts.pop(); next !== undefined; next = parts.pop()) this.parts.push(next);
  }

  /** By its bytes; a name that is not UTF-8 also by the text that listings show, where that is one file's only. */
  private async find(directory: XfsInode, name: Uint8Array): Promise<XfsDirectoryEntry> {
    const text = textOf(name);
    const alike: XfsDirectoryEntry[] = [];
    for await (const entries of readDirectory(this.metadata, directory)) {
      for (const entry of entries) {
        if (sameBytes(entry.name, name)) return entry;
        if (text.includes('\ufffd') && alike.length < 2 && textOf(entry.name) === text) alike.push(entry);
      }
    }
    if (alike.length === 1) return alike[0]!;
    throw this.missing(`nothing is named '${text}' there`);
  }

  private missing(reason: string): DriftmapError {
    return new DriftmapError('not-found', `no file ${this.path}: ${reason}`, { path: this.metadata.path });
  }
}

const SLASH = 0x2f;
const DOT = 0x2e;

function isDots(name: Uint8Array, count: number): boolean {
  return name.length === count && name.every((byte) => byte === DOT);
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** What is not UTF-8 shows as U+FFFD. */
function textOf(name: Uint8Array): string {
  return decoder.decode(name);
}
