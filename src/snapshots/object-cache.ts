/**
 * Objects of a store kept in a folder of this host, as they lie in the store (packed, and sealed where the repository
 * is), up to so many bytes; the least recently used go first. What lies there is trusted no more than the store: what
 * does not open, or has other contents than its name says, is fetched again.
 */

import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, statSync, unlinkSync } from 'node:fs';
import { readFile, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { StoreOptions } from '../store/object-store.ts';
import type { Fetch } from './repository.ts';

export class ObjectCache {
  private readonly folder: string;
  private readonly most: ByteCount;
  private bytes: ByteCount = 0;
  /** Bytes of each file, the least recently used first. */
  private readonly files = new Map<string, ByteCount>();

  /**
   * @param folder is made where it is not; several repositories may share one
   * @throws DriftmapError what making and reading a folder throws
   */
  constructor(folder: string, most: ByteCount) {
    this.folder = folder;
    this.most = most;
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      this.adopt();
    } catch (cause) {
      throw systemError(cause, { path: folder, operation: 'open' });
    }
  }

  /** The object, from here if it is here; else `get` brings it. */
  async fetch(key: string, get: Fetch, options: StoreOptions): Promise<Uint8Array> {
    const name = nameOf(key);
    const size = this.files.get(name);
    if (size !== undefined) {
      const found = await readFile(join(this.folder, name)).catch(() => null);
      if (found !== null) {
        this.files.delete(name);
        this.files.set(name, size);
        return found;
      }
      this.forget(name);
    }
    const bytes = await get(key, options);
    await this.keep(name, bytes);
    return bytes;
  }

  /** Lets go of an object. @returns whether it was here */
  async drop(key: string): Promise<boolean> {
    const name = nameOf(key);
    const wasHere = this.files.has(name);
    this.forget(name);
    await unlink(join(this.folder, name)).catch(() => undefined);
    return wasHere;
  }

  /** A cache that cannot be written is a slow one, not a fault. */
  private async keep(name: string, bytes: Uint8Array): Promise<void> {
    if (bytes.length > this.most) return;
    const aside = join(this.folder, `.${randomBytes(8).toString('hex')}.tmp`);
    try {
      await writeFile(aside, bytes, { flag: 'wx', mode: 0o600 });
      await rename(aside, join(this.folder, name));
    } catch {
      await unlink(aside).catch(() => undefined);
      return;
    }
    this.forget(name);
    this.files.set(name, bytes.length);
    this.bytes += bytes.length;
    await this.shrink();
  }

  private async shrink(): Promise<void> {
    for (const oldest of this.files.keys()) {
      if (this.bytes <= this.most) return;
      this.forget(oldest);
      await unlink(join(this.folder, oldest)).catch(() => undefined);
    }
  }

  private forget(name: string): void {
    this.bytes -= this.files.get(name) ?? 0;
    this.files.delete(name);
  }

  /** What an earlier run left, by when it was written; files that it had not finished go. */
  private adopt(): void {
    const found: { name: string; size: ByteCount; modified: number }[] = [];
    for (const name of readdirSync(this.folder)) {
      const path = join(this.folder, name);
      if (name.startsWith('.') && name.endsWith('.tmp')) unlinkSync(path);
      if (!/^(blocks|pages)-[0-9a-f]{64}$/.test(name)) continue;
      const stats = statSync(path, { throwIfNoEntry: false });
      if (stats?.isFile()) found.push({ name, size: stats.size, modified: stats.mtimeMs });
    }
    found.sort((a, b) => a.modified - b.modified);
    let total = found.reduce((sum, { size }) => sum + size, 0);
    for (const { name, size } of found) {
      if (total > this.most) {
        total -= size;
        unlinkSync(join(this.folder, name));
      } else {
        this.files.set(name, size);
      }
    }
    this.bytes = total;
  }
}

/** `blocks/ab/abcd…` → `blocks-abcd…` */
function nameOf(key: string): string {
  const parts = key.split('/');
  return `${parts[0]}-${parts.at(-1)}`;
}
