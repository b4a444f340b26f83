/**
 * Blocks by signature: a folder in which each block is a file named by its BLAKE3, two levels deep.
 *
 *   store/ab/cd/abcd…   the bytes of a block
 *
 * A file's contents are not trusted: whoever takes a block computes its signature again.
 */

import { mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { DriftmapError, systemError } from '../base/errors.ts';
import { MAX_BLOCK_SIZE } from '../base/limits.ts';
import { readBounded, writeAtomically } from '../codec/atomic-file.ts';

export class BlockStore {
  readonly folder: string;

  /** @throws DriftmapError `not-found`, `argument` unless it is a folder */
  constructor(folder: string) {
    let there: boolean;
    try {
      there = statSync(folder).isDirectory();
    } catch (cause) {
      throw systemError(cause, { path: folder, operation: 'open' });
    }
    if (!there) throw new DriftmapError('argument', 'expected a folder of blocks', { path: folder });
    this.folder = folder;
  }

  /** The block of this signature; null when there is none here. */
  get(signature: Uint8Array): Uint8Array | null {
    const path = this.pathOf(signature);
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
    return readBounded(path, MAX_BLOCK_SIZE);
  }

  /** Keeps a block, durably; one that is there already is left as it is. */
  put(signature: Uint8Array, bytes: Uint8Array): void {
    const path = this.pathOf(signature);
    if (statSync(path, { throwIfNoEntry: false }) !== undefined) return;
    try {
      mkdirSync(dirname(path), { recursive: true });
    } catch (cause) {
      throw systemError(cause, { path: dirname(path), operation: 'make' });
    }
    writeAtomically(path, bytes);
  }

  private pathOf(signature: Uint8Array): string {
    const name = Buffer.from(signature).toString('hex');
    return join(this.folder, name.slice(0, 2), name.slice(2, 4), name);
  }
}
