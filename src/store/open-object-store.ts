/** The one way to a store: by its address. */

import { fileURLToPath } from 'node:url';
import { DriftmapError } from '../base/errors.ts';
import { openFolderObjects } from './folder-objects.ts';
import type { ObjectStore } from './object-store.ts';

export interface OpenStoreOptions {
  /** Makes the folder (not those above it) where it is not there. Buckets are not made. */
  readonly create?: boolean | undefined;
}

/**
 * @param address a path or `file:///path` of a folder
 * @throws DriftmapError `argument`, `not-found`, `permission`, `io`, each saying what to do
 */
export async function openObjectStore(address: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
  return await openFolderObjects(folderOf(address), { create: options.create ?? false });
}

function folderOf(address: string): string {
  if (address === '') throw new DriftmapError('argument', 'expected the address of a store, got nothing');
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(address)?.[1]?.toLowerCase();
  if (scheme === undefined) return address;
  if (scheme !== 'file') {
    const reason = `expected a folder, file:///PATH or s3://BUCKET/PREFIX as a store, got ${scheme}://…`;
    throw new DriftmapError('argument', reason);
  }
  try {
    return fileURLToPath(address);
  } catch (cause) {
    throw new DriftmapError('argument', 'expected file:///PATH', { path: address, cause });
  }
}
