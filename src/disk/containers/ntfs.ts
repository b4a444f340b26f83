/**
 * NTFS as a file system of files: lookup and listing (`ntfs-boot.ts` says by which documents).
 *
 * Opening reads the boot sector, the place of the MFT and what the volume says of its state. A lookup walks
 * the directories of a path. A listing takes directories in batches: their names come in the order of the
 * tree, the MFT is swept in its own order, and entries are given in the order of names. Nothing is followed
 * that leads to another file (links, junctions, mount points), so a walk cannot leave the tree; a directory
 * that is met twice is damage, so it ends.
 *
 * A log that was not replayed is a warning. On a volume that was in use a name may lead to a record that was
 * freed or used anew; such names are passed over there, and are damage on a volume that was left in order.
 */

import { DriftmapError, type ErrorKind } from '../../base/errors.ts';
import { NTFS_LISTING_BATCH, NTFS_MAX_PATH } from '../../base/limits.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { readWhole } from '../formats/byte-source.ts';
import type { FileEntry, FileSystem } from './container.ts';
import { BOOT_BYTES, hasNtfsMagic, readNtfsBoot } from './ntfs-boot.ts';
import { contentsOf, NtfsEntry, reparseTagOf, substituteOf } from './ntfs-file.ts';
import { type DirectoryEntry, directoryEntries, findName, type UpCase } from './ntfs-index.ts';
import { Mft, type NtfsFile } from './ntfs-mft.ts';
import type { FileReference } from './ntfs-record.ts';
import { readUpCase, readVolumeState, type VolumeState } from './ntfs-volume.ts';

const ROOT_RECORD = 5;
/** Records below this are the volume's own: its tables, and records kept for more of them. */
const FIRST_USER_RECORD = 24;
/** Kinds of errors that a listing goes on after: they say what is on the volume, not that it cannot be read. */
const damageKinds: readonly string[] = ['malformed', 'unsupported', 'limit'];

/** Whether a unit begins with the boot sector of an NTFS volume. */
export async function isNtfs(unit: LogicalUnit): Promise<boolean> {
  if (unit.size < BOOT_BYTES) return false;
  const sector = new Uint8Array(BOOT_BYTES);
  await readWhole(unit, 'the first sector', 0, sector);
  return hasNtfsMagic(sector);
}

/**
 * Opens an NTFS volume for reading.
 * @throws DriftmapError `malformed`, `limit`, `unsupported` for a volume under BitLocker
 */
export async function openNtfs(unit: LogicalUnit): Promise<FileSystem> {
  const geometry = await readNtfsBoot(unit);
  const mft = await Mft.open(unit, geometry);
  const root = await mft.metadata(ROOT_RECORD);
  const state = await readVolumeState(mft);
  const cut =
    geometry.size <= unit.size
      ? []
      : [
          `${unit.name}: the volume has ${geometry.size} bytes and the unit ${unit.size}: the unit is cut short or was copied in part`,
        ];
  return new NtfsFileSystem(mft, root.reference, state, [...cut, ...state.warnings]);
}

/** What a name leads to. */
type Found =
  | { readonly kind: 'directory' | 'file'; readonly file: NtfsFile; readonly tag: number | null }
  | { readonly kind: 'substitute'; readonly what: string }
  | { readonly kind: 'stale' };

class NtfsFileSystem implements FileSystem {
  readonly kind = 'ntfs';
  readonly label: string;
  readonly warnings: readonly string[];
  private readonly mft: Mft;
  private readonly root: FileReference;
  private readonly dirty: boolean;
  private letters: UpCase | undefined;

  constructor(mft: Mft, root: FileReference, { label, dirty }: VolumeState, warnings: readonly string[]) {
    this.mft = mft;
    this.root = root;
    this.label = label;
    this.dirty = dirty;
    this.warnings = warnings;
  }

  /** Parts that differ in case alone are the same, by the volume's own table of letters, unless both are there. */
  async lookup(path: string): Promise<FileEntry> {
    const parts = path.split('/').filter((part) => part !== '');
    if (!path.startsWith('/') || parts.length === 0 || path.length > NTFS_MAX_PATH) {
      throw this.error(
        'argument',
        path,
        `expected a path of at most ${NTFS_MAX_PATH} characters, as /images/vm.vhdx`,
      );
    }
    let here = await this.follow(this.root);
    let walked = '';
    for (const part of parts) {
      if (here.kind !== 'directory') throw this.error('not-found', walked, 'it is no directory');
      const entry = await findName(here.file, part, () => this.upCase());
      walked += `/${part}`;
      if (entry === null) throw this.error('not-found', walked, 'there is no such file or directory');
      walked = `${walked.slice(0, -part.length)}${entry.name}`;
      here = await this.follow(entry.reference);
      if (here.kind === 'substitute') {
        throw this.error(
          'argument',
          walked,
          `it is ${here.what}, which is not followed: name the file itself`,
        );
      }
      if (here.kind === 'stale') throw this.stale(walked);
    }
    if (here.kind !== 'file') throw this.error('argument', walked, 'it is a directory: name a file in it');
    return new NtfsEntry(walked, this.mft, here.file.reference, await contentsOf(here.file, here.tag));
  }

  /**
   * Every regular file under each of its names, files of a directory before those of directories in it;
   * the volume's own files ($MFT …) are left out. What is damaged is left out as well and not passed over in
   * silence: when all that can be listed was given, the first damage is thrown.
   */
  async *files(): AsyncGenerator<FileEntry, undefined> {
    const faults = new Faults();
    const seen = new Set<number>([this.root.number]);
    const waiting: Place[] = [{ path: '', reference: this.root }];
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const inside: Place[] = [];
      try {
        const here = await this.follow(next.reference);
        if (here.kind !== 'directory') continue;
        for await (const batch of batches(directoryEntries(here.file))) {
          for (const found of await this.sweep(next.path, batch, faults)) {
            if (found instanceof NtfsEntry) yield found;
            else if (this.isNew(found, seen, faults)) inside.push(found);
          }
        }
      } catch (error) {
        faults.add(error);
      }
      for (const each of inside.reverse()) waiting.push(each);
    }
    faults.report();
  }

  /** What the names of a batch lead to, in the order of names, read in the order of the MFT. */
  private async sweep(
    folder: string,
    batch: readonly DirectoryEntry[],
    faults: Faults,
  ): Promise<(NtfsEntry | Place)[]> {
    const order = batch.map((_, index) => index);
    order.sort((a, b) => batch[a]!.reference.number - batch[b]!.reference.number);
    const found = new Array<NtfsEntry | Place | null>(batch.length).fill(null);
    for (const index of order) {
      const { name, reference } = batch[index]!;
      const path = `${folder}/${name}`;
      try {
        const what = await this.follow(reference);
        if (what.kind === 'stale' && !this.dirty) throw this.stale(path);
        if (what.kind === 'directory') found[index] = { path, reference };
        if (what.kind !== 'file') continue;
        found[index] = new NtfsEntry(path, this.mft, reference, await contentsOf(what.file, what.tag));
      } catch (error) {
        faults.add(error);
      }
    }
    return found.filter((each) => each !== null);
  }

  /** A directory has one place in the tree; a tree that leads to it again is a loop, or shares a branch. */
  private isNew({ path, reference }: Place, seen: Set<number>, faults: Faults): boolean {
    if (seen.has(reference.number)) {
      faults.add(this.error('malformed', path, 'the tree of directories leads to this one twice'));
      return false;
    }
    if (path.length > NTFS_MAX_PATH) {
      const reason = `expected directories of at most ${NTFS_MAX_PATH} characters`;
      faults.add(this.error('limit', `${path.slice(0, 64)}…`, reason));
      return false;
    }
    seen.add(reference.number);
    return true;
  }

  private async follow(reference: FileReference): Promise<Found> {
    const file = await this.mft.file(reference);
    if (file === null) return { kind: 'stale' };
    const tag = await reparseTagOf(file);
    const what = tag === null ? null : substituteOf(tag);
    if (what !== null) return { kind: 'substitute', what };
    return { kind: file.base.directory ? 'directory' : 'file', file, tag };
  }

  private async upCase(): Promise<UpCase> {
    this.letters ??= await readUpCase(this.mft);
    return this.letters;
  }

  private stale(path: string): DriftmapError {
    const advice = this.dirty
      ? '; the volume was in use and its log was not replayed'
      : '; chkdsk repairs it';
    return this.error(
      'malformed',
      path,
      `the name leads to a record that is free or another file's${advice}`,
    );
  }

  private error(kind: ErrorKind, path: string, reason: string): DriftmapError {
    return new DriftmapError(kind, `${path}: ${reason}`, { path: this.mft.source.name });
  }
}

/** A directory that is still to be listed. */
interface Place {
  readonly path: string;
  readonly reference: FileReference;
}

/** The first thing that a listing could not read, and how many more there were. */
class Faults {
  private first: DriftmapError | null = null;
  private more = 0;

  /** Takes damage; anything else is thrown on. */
  add(error: unknown): void {
    if (!(error instanceof DriftmapError) || !damageKinds.includes(error.kind)) throw error;
    if (this.first === null) this.first = error;
    else this.more++;
  }

  report(): void {
    const { first, more } = this;
    if (first === null) return;
    const advice = `; what else there is was listed, but for ${more} more errors of this kind`;
    const message = more === 0 ? first.message : `${first.message}${advice}`;
    throw DriftmapError.fromPlain({ ...first.toPlain(), message });
  }
}

/** Names that stand for files of users, gathered from the nodes of a directory's tree. */
async function* batches(nodes: AsyncIterable<DirectoryEntry[]>): AsyncGenerator<DirectoryEntry[], undefined> {
  let batch: DirectoryEntry[] = [];
  let fault: unknown;
  try {
    for await (const entries of nodes) {
      for (const entry of entries) {
        if (!entry.isDosName && entry.reference.number >= FIRST_USER_RECORD) batch.push(entry);
      }
      if (batch.length < NTFS_LISTING_BATCH) continue;
      yield batch;
      batch = [];
    }
  } catch (error) {
    fault = error;
  }
  // Names before the damage count.
  if (batch.length > 0) yield batch;
  if (fault !== undefined) throw fault;
}
