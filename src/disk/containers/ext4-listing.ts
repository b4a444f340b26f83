/**
 * Every regular file of a file system. Directories are read in pieces; the inodes of a piece are read in rising
 * order, so that each part of the inode table is read about once, and handed out in the directory's order.
 *
 * A directory has one name. One that is reached twice is damage, and so is every loop: the listing ends there.
 */

import { EXT4_MAX_DIRECTORY_DEPTH, EXT4_MAX_LISTED_BYTES } from '../../base/limits.ts';
import type { ByteOffset } from '../../base/units.ts';
import { type DirectoryEntry, EntryType } from './ext4-directory.ts';
import type { Files } from './ext4-files.ts';
import { FileType, type Inode, InodeFlag, ROOT_INODE } from './ext4-inode.ts';
import type { Found } from './ext4-lookup.ts';
import { has } from './ext4-superblock.ts';

/** A directory to be read. */
interface Pending {
  readonly path: string;
  readonly number: number;
  /** Where it is named. */
  readonly from: ByteOffset;
  readonly depth: number;
}

/** @param warn takes one line for the user @throws DriftmapError `malformed`, `limit` */
export async function* listFiles(
  files: Files,
  warn: (message: string) => void,
): AsyncGenerator<Found, undefined> {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const seen = new Set<number>([ROOT_INODE]);
  const pending: Pending[] = [{ path: '', number: ROOT_INODE, from: 0, depth: 0 }];
  let bytes = 0;
  for (let here = pending.pop(); here !== undefined; here = pending.pop()) {
    const directory = await files.inode(here.number, here.from);
    if (has(directory.flags, InodeFlag.encrypted)) {
      warn(`${here.path} is encrypted: what is in it is not listed`);
      continue;
    }
    bytes += directory.size;
    if (bytes > EXT4_MAX_LISTED_BYTES) {
      const reason = `expected at most ${EXT4_MAX_LISTED_BYTES} bytes of directories to list: name the file that is meant`;
      throw files.refusal('limit', reason);
    }
    const inside: Pending[] = [];
    for await (const entries of files.entries(directory)) {
      const inodes = await inodesOf(files, entries);
      for (const [i, { name, inode: number, offset }] of entries.entries()) {
        const inode = inodes[i];
        if (!inode) continue;
        const path = `${here.path}/${decoder.decode(name)}`;
        if (inode.type === FileType.regular) yield { inode, path };
        if (inode.type !== FileType.directory) continue;
        if (seen.has(number)) {
          const reason = `directory inode ${number} is named a second time, as ${path}: a loop, or damage`;
          throw files.metadata.fault(offset, reason);
        }
        if (here.depth >= EXT4_MAX_DIRECTORY_DEPTH) {
          const reason = `expected at most ${EXT4_MAX_DIRECTORY_DEPTH} directories in one another`;
          throw files.refusal('limit', reason);
        }
        seen.add(number);
        inside.push({ path, number, from: offset, depth: here.depth + 1 });
      }
    }
    // The last is read next.
    for (const directory of inside.reverse()) pending.push(directory);
  }
}

/** The inodes of a piece of a directory, by the index of their entries; none for what cannot be a file or directory. */
async function inodesOf(files: Files, entries: readonly DirectoryEntry[]): Promise<(Inode | undefined)[]> {
  const wanted: number[] = [];
  entries.forEach(({ type }, i) => {
    if (type === EntryType.unknown || type === EntryType.regular || type === EntryType.directory) {
      wanted.push(i);
    }
  });
  wanted.sort((a, b) => entries[a]!.inode - entries[b]!.inode);
  const inodes = new Array<Inode | undefined>(entries.length);
  for (const i of wanted) inodes[i] = await files.inode(entries[i]!.inode, entries[i]!.offset);
  return inodes;
}
