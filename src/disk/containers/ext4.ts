/**
 * File systems ext2, ext3 and ext4: `openExt4`. What is read and what is refused is in docs/FORMATS.md.
 *
 * The parts: the superblock; the journal, replayed in memory where the file system was not unmounted; inodes,
 * found through group descriptors; an inode's extents, block numbers or inline data as an extent map;
 * directories. Everything after the superblock is read through `Metadata`, which lays the journal's blocks
 * over those in place.
 */

import type { LogicalUnit } from '../../lu/logical-unit.ts';
import type { FileEntry, FileSystem } from './container.ts';
import { Files } from './ext4-files.ts';
import { FileType, type Inode, ROOT_INODE } from './ext4-inode.ts';
import { isJournalInUse, replayJournal } from './ext4-journal.ts';
import { listFiles } from './ext4-listing.ts';
import { type Found, findFile } from './ext4-lookup.ts';
import { Metadata } from './ext4-metadata.ts';
import { Compat, has, hasExt4Magic, Incompat, readSuperblock, type Superblock } from './ext4-superblock.ts';

/** Whether the unit begins as an ext2, ext3 or ext4 file system does: a look at its magic number. */
export async function isExt4(unit: LogicalUnit): Promise<boolean> {
  return hasExt4Magic(unit);
}

/**
 * Opens a file system for reading.
 * @throws DriftmapError `malformed`; `unsupported` for a feature that is not read, by name, and for a journal on
 *   another device that is needed; `limit`; what the unit throws
 */
export async function openExt4(unit: LogicalUnit): Promise<FileSystem> {
  const warnings: string[] = [];
  const warn = (message: string) => warnings.push(`${unit.name}: ${message}`);
  const metadata = await openMetadata(unit, warn);
  const files = new Files(metadata);
  const root = await files.inode(ROOT_INODE, 0);
  if (root.type !== FileType.directory) {
    throw metadata.fault(root.offset, `expected inode ${ROOT_INODE}, the root, to be a directory`);
  }
  warnAbout(metadata.superblock, warn);
  return new Ext4FileSystem(files, warnings);
}

/** The file system as it would be after a mount. */
async function openMetadata(unit: LogicalUnit, warn: (message: string) => void): Promise<Metadata> {
  const superblock = await readSuperblock(unit);
  const metadata = new Metadata(unit, superblock);
  const { compat, incompat, journalInode } = superblock;
  const isDirty = has(incompat, Incompat.recover);
  if (!has(compat, Compat.hasJournal)) {
    if (isDirty) throw metadata.fault(1024 + 0x60, 'its journal is to be replayed, and it has none');
    return metadata;
  }
  if (journalInode === 0) {
    if (!isDirty) return metadata;
    const reason =
      'the file system was not unmounted and its journal is on another device, which is not read: let e2fsck or a mount replay it';
    throw metadata.unsupported(1024 + 0xe0, reason);
  }
  const files = new Files(metadata);
  const journal = await files.inode(journalInode, 1024 + 0xe0);
  if (journal.type !== FileType.regular) {
    throw metadata.fault(journal.offset, `expected the journal, inode ${journalInode}, to be a regular file`);
  }
  const map = await files.innerMap(journal);
  if (!isDirty) {
    if (await isJournalInUse(metadata, map)) {
      warn(
        'the journal holds transactions, and the superblock does not ask for them: they are left out, as Linux does',
      );
    }
    return metadata;
  }
  const { blocks, transactions } = await replayJournal(metadata, map);
  if (transactions === 0) return metadata;
  const of = `${transactions} transaction${transactions === 1 ? '' : 's'}`;
  warn(`was not unmounted: the journal was replayed in memory (${of}, ${blocks.count} blocks)`);
  // The superblock may be among them.
  const newest = await readSuperblock(new Metadata(unit, superblock, blocks));
  return new Metadata(unit, newest, blocks);
}

function warnAbout({ hasErrors, clean, compat }: Superblock, warn: (message: string) => void): void {
  if (hasErrors) warn('the file system is marked as damaged; e2fsck repairs');
  else if (!clean && !has(compat, Compat.hasJournal)) {
    warn('was not unmounted and has no journal: its newest files may be incomplete');
  }
}

class Ext4FileSystem implements FileSystem {
  readonly kind = 'ext4';
  readonly label: string;
  /** Grows while files are listed. */
  readonly warnings: string[];
  private readonly fileReader: Files;

  constructor(files: Files, warnings: string[]) {
    this.label = files.metadata.superblock.label;
    this.warnings = warnings;
    this.fileReader = files;
  }

  async lookup(path: string): Promise<FileEntry> {
    return new Ext4File(this.fileReader, await findFile(this.fileReader, path));
  }

  async *files(): AsyncGenerator<FileEntry, undefined> {
    const { fileReader, warnings } = this;
    const warn = (message: string) => {
      const line = `${fileReader.metadata.name}: ${message}`;
      if (!warnings.includes(line)) warnings.push(line);
    };
    for await (const found of listFiles(fileReader, warn)) yield new Ext4File(fileReader, found);
  }
}

class Ext4File implements FileEntry {
  readonly path: string;
  readonly size: number;
  private readonly files: Files;
  /** By number and place: a list of files does not keep their inodes. */
  private readonly number: number;
  private readonly offset: number;

  constructor(files: Files, { inode, path }: Found) {
    this.path = path;
    this.size = inode.size;
    this.files = files;
    this.number = inode.number;
    this.offset = inode.offset;
  }

  async map() {
    return this.files.map(await this.inode(), this.path);
  }

  private inode(): Promise<Inode> {
    return this.files.inode(this.number, this.offset);
  }
}
