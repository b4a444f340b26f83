/** Files by the ends of their names: of a folder of this host, and of a whole file system on a unit. */

import { opendirSync } from 'node:fs';
import { posix } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { VDI_MAX_CANDIDATES } from '../base/limits.ts';
import type { FileEntry, FileSystem } from './containers/container.ts';

/**
 * Names of the regular files (symbolic links are none) in a folder of this host, sorted.
 * @throws DriftmapError `limit`, and what reading the folder throws
 */
export function hostNames(folder: string, extension: string): string[] {
  const names: string[] = [];
  try {
    const open = opendirSync(folder);
    try {
      for (let entry = open.readSync(); entry !== null; entry = open.readSync()) {
        if (!entry.isFile() || !hasExtension(entry.name, extension)) continue;
        if (names.push(entry.name) > VDI_MAX_CANDIDATES) throw tooMany(extension, folder);
      }
    } finally {
      open.closeSync();
    }
  } catch (cause) {
    throw systemError(cause, { path: folder, operation: `looking for ${extension} files` });
  }
  return names.sort();
}

/**
 * The regular files of a file system, by folder. Damage to a part of it does not hide the rest, as in the finder.
 * @param unit for messages
 * @throws DriftmapError `limit` for too many in one folder; what listing throws where nothing was found
 */
export async function entriesByFolder(
  fileSystem: FileSystem,
  extension: string,
  unit: string,
): Promise<ReadonlyMap<string, readonly FileEntry[]>> {
  const found = new Map<string, FileEntry[]>();
  try {
    for await (const entry of fileSystem.files()) {
      if (!hasExtension(entry.path, extension)) continue;
      const folder = posix.dirname(entry.path);
      const here = found.get(folder) ?? [];
      found.set(folder, here);
      if (here.push(entry) > VDI_MAX_CANDIDATES) throw tooMany(extension, `${unit}: ${folder}`);
    }
  } catch (error) {
    const isDamage = error instanceof DriftmapError && error.kind === 'malformed';
    if (!isDamage || found.size === 0) throw error;
  }
  return found;
}

function hasExtension(name: string, extension: string): boolean {
  return name.toLowerCase().endsWith(extension);
}

function tooMany(extension: string, path: string): DriftmapError {
  const reason = `expected at most ${VDI_MAX_CANDIDATES} ${extension} files in a folder where a parent is looked for: move the image and its parents into one of their own`;
  return new DriftmapError('limit', reason, { path });
}
