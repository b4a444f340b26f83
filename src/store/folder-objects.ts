/**
 * A folder as an object store: every object is a file, its key the path below the folder.
 *
 *   FOLDER/blocks/ab/abcd…           an object
 *   FOLDER/blocks/ab/.driftmap-….tmp a put that is under way, or was killed
 *
 * A put is written aside, flushed, renamed, and then its folder is flushed: whatever happens in between, the name
 * holds the old bytes or the new ones. A killed put leaves its file aside. No key begins with a dot, so it is never
 * listed; a listing that comes by removes it once it is an hour old. (A put that slept for that hour finds its file
 * gone, and begins again.) Folders are made one by one below the store's own, and each is made durable in the one
 * above it before anything in it is said to be.
 *
 * The store's own folder must be there: it is often where another disk is mounted, and with that disk gone, objects
 * would fill the wrong one and a listing would say that there is nothing. So the folder is known by its device and
 * inode, and where an answer would be wrong if it were another, it is looked at again.
 *
 * Calls of the file system are asynchronous: a flush takes milliseconds, and many puts share them. Puts that end
 * together in one folder share its flush, and those that begin together the look at the store's own folder.
 */

import { randomBytes } from 'node:crypto';
import { mkdir, readdir, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import {
  STORE_LEFTOVER_SECONDS,
  STORE_REMOVALS_AT_ONCE,
  STORE_STATS_AT_ONCE,
} from '../base/protection-limits.ts';
import {
  closeAside,
  closeNow,
  flushDescriptor,
  openDescriptor,
  readSome,
  renameFile,
  statDescriptor,
  writeSome,
} from './descriptors.ts';
import { checkAborted, checkKey, checkObjectBytes, checkPrefix, isKey } from './object-keys.ts';
import type { ObjectStore, RemoveOptions, StoredObject, StoreOptions } from './object-store.ts';
import { Together } from './together.ts';

/**
 * @param folder is there, unless `create`: then the last part of the path is made where it is not
 * @throws DriftmapError `not-found`, `permission`, `argument` unless it is a folder
 */
export async function openFolderObjects(folder: string, { create = false } = {}): Promise<ObjectStore> {
  try {
    if (create) await makeFolder(folder);
    const stats = await stat(folder);
    if (!stats.isDirectory()) throw new DriftmapError('argument', 'expected a folder', { path: folder });
    return new FolderObjects(folder, { device: stats.dev, inode: stats.ino });
  } catch (cause) {
    if (codeOf(cause) !== 'ENOENT') throw systemError(cause, { path: folder, operation: 'open' });
    const reason = `no such folder: make it with 'mkdir -p', or mount the disk that holds it`;
    throw new DriftmapError('not-found', reason, { path: folder, cause });
  }
}

interface FolderId {
  readonly device: number;
  readonly inode: number;
}

interface FolderFlush {
  readonly together: Together;
  waiting: number;
}

class FolderObjects implements ObjectStore {
  readonly name: string;
  private readonly id: FolderId;
  /** Folders that are there and durable, as far as we made sure, by their paths below the store's folder. */
  private readonly made = new Map<string, Promise<undefined>>();
  /** Of folders in which puts end just now, by their paths. */
  private readonly flushes = new Map<string, FolderFlush>();
  private readonly look = new Together(() => this.lookAtFolder());

  constructor(folder: string, id: FolderId) {
    this.name = folder;
    this.id = id;
  }

  async put(key: string, bytes: Uint8Array, { signal }: StoreOptions = {}): Promise<undefined> {
    checkKey(key, this.name);
    const path = join(this.name, key);
    checkObjectBytes(bytes.length, path);
    try {
      await this.checkFolder();
      for (let attempt = 1; ; attempt++) {
        checkAborted(signal, path);
        try {
          await this.makeFolders(dirname(key));
          await writeFileAside(path, bytes, signal);
          await this.flushTogether(dirname(path));
          return;
        } catch (cause) {
          // Another process took the folder or the file aside: see above. What keeps doing so is a fault.
          if (codeOf(cause) !== 'ENOENT' || attempt === 3) throw cause;
          this.made.clear();
          await this.checkFolder();
        }
      }
    } catch (cause) {
      throw putError(cause, path);
    }
  }

  async get(key: string, { signal }: StoreOptions = {}): Promise<Uint8Array> {
    checkKey(key, this.name);
    const path = join(this.name, key);
    checkAborted(signal, path);
    try {
      return await readWhole(path);
    } catch (cause) {
      if (!isAbsent(cause)) throw systemError(cause, { path, operation: 'get' });
      await this.checkFolder();
      throw new DriftmapError('not-found', 'no such object', { path, cause });
    }
  }

  async has(key: string, { signal }: StoreOptions = {}): Promise<boolean> {
    checkKey(key, this.name);
    const path = join(this.name, key);
    checkAborted(signal, path);
    try {
      return (await stat(path)).isFile();
    } catch (cause) {
      if (!isAbsent(cause)) throw systemError(cause, { path, operation: 'look for' });
      await this.checkFolder();
      return false;
    }
  }

  async *list(prefix: string, { signal }: StoreOptions = {}): AsyncGenerator<StoredObject> {
    checkPrefix(prefix, this.name);
    await this.checkFolder();
    const slash = prefix.lastIndexOf('/') + 1;
    const folders = [prefix.slice(0, slash)];
    for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
      const beginning = folder === prefix.slice(0, slash) ? prefix.slice(slash) : '';
      const keys: string[] = [];
      for (const entry of await this.entriesOf(folder)) {
        if (isAsideName(entry.name)) await removeLeftover(join(this.name, folder, entry.name));
        const key = `${folder}${entry.name}`;
        if (!entry.name.startsWith(beginning) || !isKey(key)) continue;
        if (entry.isDirectory()) folders.push(`${key}/`);
        else keys.push(key);
      }
      for (let at = 0; at < keys.length; at += STORE_STATS_AT_ONCE) {
        checkAborted(signal, this.name);
        const some = keys.slice(at, at + STORE_STATS_AT_ONCE);
        for (const found of await Promise.all(some.map((key) => this.statOf(key)))) {
          if (found !== null) yield found;
        }
      }
    }
    // What was told may have been the folder below a mounted disk.
    await this.checkFolder();
  }

  async remove(keys: readonly string[], { signal, check }: RemoveOptions = {}): Promise<undefined> {
    for (const key of keys) checkKey(key, this.name);
    await this.checkFolder();
    const changed = new Set<string>();
    let at = 0;
    let failed = false;
    const lane = async () => {
      while (at < keys.length && !failed) {
        const path = join(this.name, keys[at++]!);
        try {
          checkAborted(signal, this.name);
          const wait = check?.();
          if (wait) await wait;
          if (failed) return;
          if (await removeFile(path)) changed.add(dirname(path));
        } catch (cause) {
          failed = true;
          throw cause;
        }
      }
    };
    // All have come to their end when this has, however.
    const lanes = await Promise.allSettled(Array.from({ length: STORE_REMOVALS_AT_ONCE }, lane));
    for (const path of changed) {
      try {
        await flushFolder(path);
      } catch (cause) {
        throw systemError(cause, { path, operation: 'remove' });
      }
    }
    for (const ended of lanes) if (ended.status === 'rejected') throw ended.reason;
  }

  async close(): Promise<undefined> {}

  /** What has the key, if it is an object. */
  private async statOf(key: string): Promise<StoredObject | null> {
    const path = join(this.name, key);
    try {
      const stats = await stat(path);
      return stats.isFile() ? { key, bytes: stats.size, modified: stats.mtimeMs } : null;
    } catch (cause) {
      if (isAbsent(cause)) return null;
      throw systemError(cause, { path, operation: 'list' });
    }
  }

  private async entriesOf(folder: string) {
    const path = join(this.name, folder);
    try {
      return await readdir(path, { withFileTypes: true });
    } catch (cause) {
      if (isAbsent(cause)) return [];
      throw systemError(cause, { path, operation: 'list' });
    }
  }

  /** @throws DriftmapError `not-found` when the store's folder is gone, or another one is in its place */
  private checkFolder(): Promise<undefined> {
    return this.look.run();
  }

  private async lookAtFolder(): Promise<undefined> {
    let reason = 'the folder of the store is gone';
    try {
      const { dev, ino } = await stat(this.name);
      if (dev === this.id.device && ino === this.id.inode) return;
      reason = 'is another folder than the store that was opened: was a disk mounted or unmounted there?';
    } catch (cause) {
      if (!isAbsent(cause)) throw systemError(cause, { path: this.name, operation: 'open' });
    }
    throw new DriftmapError('not-found', reason, { path: this.name });
  }

  /** Makes durable what was renamed into a folder before this call. */
  private async flushTogether(path: string): Promise<undefined> {
    let flush = this.flushes.get(path);
    if (flush === undefined) {
      flush = { together: new Together(() => flushFolder(path)), waiting: 0 };
      this.flushes.set(path, flush);
    }
    flush.waiting++;
    try {
      await flush.together.run();
    } finally {
      if (--flush.waiting === 0) this.flushes.delete(path);
    }
  }

  /** @param folder below the store's; `.` for that one itself */
  private makeFolders(folder: string): Promise<undefined> {
    if (folder === '.') return Promise.resolve(undefined);
    let made = this.made.get(folder);
    if (made === undefined) {
      made = this.makeFolders(dirname(folder)).then(() => makeFolder(join(this.name, folder)));
      this.made.set(folder, made);
      made.catch(() => this.made.delete(folder));
    }
    return made;
  }
}

/** Makes the folder unless it is there, and flushes the one above it either way: whoever made it may not have yet. */
async function makeFolder(path: string): Promise<undefined> {
  try {
    await mkdir(path);
  } catch (cause) {
    if (codeOf(cause) !== 'EEXIST') throw cause;
  }
  await flushFolder(dirname(path));
}

/** Flushed and under its name; the name is durable when its folder is flushed. */
async function writeFileAside(
  path: string,
  bytes: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<undefined> {
  const aside = join(dirname(path), `${asideStart}${ours}-${(asides++).toString(36)}${asideEnd}`);
  try {
    await writeFlushed(aside, bytes);
    checkAborted(signal, path);
    await renameFile(aside, path);
  } catch (cause) {
    // The error that brought us here is the one to report.
    await unlink(aside).catch(() => {});
    throw cause;
  }
}

async function writeFlushed(path: string, bytes: Uint8Array): Promise<undefined> {
  const file = await openDescriptor(path, 'wx', 0o666);
  try {
    for (let at = 0; at < bytes.length; ) at += await writeSome(file, bytes, at);
    await flushDescriptor(file);
  } catch (cause) {
    await closeAside(file).catch(() => {});
    throw cause;
  }
  closeNow(file);
}

async function readWhole(path: string): Promise<Uint8Array> {
  const file = await openDescriptor(path, 'r');
  try {
    const stats = await statDescriptor(file);
    if (!stats.isFile()) throw new DriftmapError('not-found', 'no such object: a folder is there', { path });
    checkObjectBytes(stats.size, path);
    // Every byte of it is read over; zeroing it first would cost as much as reading.
    const bytes = Buffer.allocUnsafeSlow(stats.size);
    for (let at = 0; at < bytes.length; ) {
      const count = await readSome(file, bytes, at);
      // Objects are replaced, never changed: somebody else did this.
      if (count === 0) throw new DriftmapError('io', 'became shorter while it was read', { path });
      at += count;
    }
    return new Uint8Array(bytes.buffer);
  } finally {
    closeNow(file);
  }
}

/** @returns whether there was one */
async function removeFile(path: string): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (cause) {
    if (isAbsent(cause)) return false;
    throw systemError(cause, { path, operation: 'remove' });
  }
}

/** Some file systems cannot flush a folder and say EINVAL; they order renames themselves. */
async function flushFolder(path: string): Promise<undefined> {
  const folder = await openDescriptor(path, 'r');
  try {
    await flushDescriptor(folder);
  } catch (cause) {
    const code = codeOf(cause);
    if (code !== 'EINVAL' && code !== 'ENOTSUP') throw cause;
  } finally {
    closeNow(folder);
  }
}

const asideStart = '.driftmap-';
const asideEnd = '.tmp';
/** No other process or thread has this; the count tells the puts of this one apart. */
const ours = randomBytes(8).toString('hex');
let asides = 0;

function isAsideName(name: string): boolean {
  return name.startsWith(asideStart) && name.endsWith(asideEnd);
}

/** Whoever may not remove it may still list. */
async function removeLeftover(path: string): Promise<undefined> {
  try {
    const age = Date.now() - (await stat(path)).mtimeMs;
    if (age > STORE_LEFTOVER_SECONDS * 1000) await unlink(path);
  } catch {
    // Renamed by its living put meanwhile, or removed by another listing.
  }
}

function putError(cause: unknown, path: string): DriftmapError {
  const code = codeOf(cause);
  if (code === 'EISDIR' || code === 'ENOTDIR' || code === 'ENOTEMPTY') {
    const reason = 'a key cannot be the folder of another: a file or folder of this name is in the way';
    return new DriftmapError('argument', reason, { path, cause });
  }
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new DriftmapError('io', `the store is full [${code}]`, { path, operation: 'put', cause });
  }
  return systemError(cause, { path, operation: 'put' });
}

function isAbsent(cause: unknown): boolean {
  const code = codeOf(cause);
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function codeOf(cause: unknown): string | undefined {
  return (cause as NodeJS.ErrnoException | undefined)?.code;
}
