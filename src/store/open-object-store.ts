/** The one way to a store: by its address. */

import { fileURLToPath } from 'node:url';
import { DriftmapError } from '../base/errors.ts';
import { STORE_MAX_CONNECTIONS } from '../base/limits.ts';
import { openFolderObjects } from './folder-objects.ts';
import type { ObjectStore, OpenStoreOptions } from './object-store.ts';

/**
 * @param address the path of a folder, `file:///PATH`, or `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&path-style`
 *   (docs/SNAPSHOTS.md: "Stores")
 * @throws DriftmapError `argument`, `not-found`, `permission`, `io`, `aborted`, each saying what to do
 */
export async function openObjectStore(address: string, options: OpenStoreOptions = {}): Promise<ObjectStore> {
  checkNumbers(options);
  // The SDK takes a fifth of a second to load: nobody else is to pay for it.
  if (/^s3:/i.test(address)) return await (await import('./s3-objects.ts')).openS3Objects(address, options);
  return await openFolderObjects(folderOf(address), { create: options.create ?? false });
}

function checkNumbers({ patience = 0, silence = 1, connections = 1 }: OpenStoreOptions): void {
  if (!(patience >= 0) || !(silence > 0)) {
    throw new DriftmapError('argument', 'expected patience and silence in seconds');
  }
  if (!Number.isSafeInteger(connections) || connections < 1 || connections > STORE_MAX_CONNECTIONS) {
    throw new DriftmapError('argument', `expected 1 … ${STORE_MAX_CONNECTIONS} connections`);
  }
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
