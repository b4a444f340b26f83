/**
 * From a path to a file. Symbolic links lead on inside the file system only: an absolute target begins at its
 * own root, and `..` at the root stays there. How many are followed is bounded, so loops of links end.
 */

import type { DriftmapError } from '../../base/errors.ts';
import { EXT4_MAX_SYMLINKS } from '../../base/limits.ts';
import type { DirectoryEntry } from './ext4-directory.ts';
import type { Files } from './ext4-files.ts';
import { FileType, type Inode, InodeFlag, ROOT_INODE } from './ext4-inode.ts';
import { has } from './ext4-superblock.ts';

export interface Found {
  readonly inode: Inode;
  /** Without symbolic links in it. */
  readonly path: string;
}

/** A directory on the way, and its name. */
interface Step {
  readonly name: string;
  readonly inode: Inode;
}

const encoder = new TextEncoder();

/** @throws DriftmapError `not-found`, `argument` for what is no regular file, `unsupported`, `malformed`, `limit` */
export async function findFile(files: Files, path: string): Promise<Found> {
  const walk = new Walk(files, path);
  return walk.run();
}

class Walk {
  private readonly files: Files;
  private readonly asked: string;
  /** Parts of the path still to be walked, the next one last. */
  private readonly rest: string[];
  private readonly way: Step[] = [];
  private links = 0;

  constructor(files: Files, path: string) {
    this.files = files;
    this.asked = path;
    this.rest = partsOf(path);
  }

  async run(): Promise<Found> {
    const { files, rest, way } = this;
    way.push({ name: '', inode: await files.inode(ROOT_INODE, 0) });
    while (rest.length > 0) {
      const name = rest.pop()!;
      if (name === '..') {
        if (way.length > 1) way.pop();
        continue;
      }
      const here = way.at(-1)!.inode;
      const path = this.pathTo(name);
      const entry = await this.entry(here, name, path);
      const inode = await files.inode(entry.inode, entry.offset);
      if (inode.type === FileType.symlink) await this.follow(inode, path);
      else if (inode.type === FileType.directory) way.push({ name, inode });
      else if (rest.length > 0) throw files.refusal('not-found', `no ${this.asked}: ${path} is no directory`);
      else if (inode.type === FileType.regular) return { inode, path };
      else throw this.notRegular(path, nameOf(inode.type));
    }
    throw this.notRegular(this.pathTo(null), 'a directory');
  }

  private async entry(here: Inode, name: string, path: string): Promise<DirectoryEntry> {
    const { files } = this;
    if (has(here.flags, InodeFlag.encrypted)) {
      const reason = `${this.pathTo(null)} is encrypted: names in it cannot be read without its key`;
      throw files.metadata.unsupported(here.offset, reason);
    }
    const wanted = encoder.encode(name);
    for await (const entries of files.entries(here)) {
      const found = entries.find((entry) => isEqual(entry.name, wanted));
      if (found !== undefined) return found;
    }
    const among = path === this.asked ? '' : `: there is no ${path}`;
    throw files.refusal('not-found', `no ${this.asked}${among}`);
  }

  private async follow(link: Inode, path: string): Promise<void> {
    const { files, rest, way } = this;
    if (++this.links > EXT4_MAX_SYMLINKS) {
      const reason = `${this.asked} leads through more than ${EXT4_MAX_SYMLINKS} symbolic links: they are a loop`;
      throw files.refusal('limit', reason);
    }
    const target = await files.target(link, path);
    let text: string;
    try {
      text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(target);
    } catch {
      throw files.metadata.unsupported(link.offset, `the target of the link ${path} is not UTF-8`);
    }
    if (text.includes('\0')) {
      throw files.metadata.fault(link.offset, `the target of the link ${path} has a zero byte`);
    }
    if (text.startsWith('/')) way.length = 1;
    rest.push(...partsOf(text));
  }

  /** The path of the directory reached, or of a name in it. */
  private pathTo(name: string | null): string {
    const names = this.way.slice(1).map((step) => step.name);
    if (name !== null) names.push(name);
    return `/${names.join('/')}`;
  }

  private notRegular(path: string, what: string): DriftmapError {
    return this.files.refusal('argument', `expected a regular file, and ${path} is ${what}`);
  }
}

/** The last part first. */
function partsOf(path: string): string[] {
  return path
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .reverse();
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function nameOf(type: number): string {
  if (type === FileType.character || type === FileType.block) return 'a device';
  if (type === FileType.fifo) return 'a FIFO';
  if (type === FileType.socket) return 'a socket';
  return 'of no known type';
}
