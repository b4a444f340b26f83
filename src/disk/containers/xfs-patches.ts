/** Writes to a unit that are not made: kept by sector, and laid over what is read. */

import { DriftmapError } from '../../base/errors.ts';
import { XFS_MAX_PATCHED_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, readWhole } from '../formats/byte-source.ts';

const SECTOR = 512;

export class PatchedSource implements ByteSource {
  readonly name: string;
  readonly size: ByteCount;
  private readonly below: ByteSource;
  private readonly sectors = new Map<number, Uint8Array>();

  constructor(below: ByteSource) {
    this.below = below;
    this.name = below.name;
    this.size = below.size;
  }

  async read(offset: ByteOffset, target: Uint8Array): Promise<undefined> {
    await readWhole(this.below, 'metadata of XFS', offset, target);
    const end = offset + target.length;
    for (let sector = Math.floor(offset / SECTOR); sector * SECTOR < end; sector++) {
      const patch = this.sectors.get(sector);
      if (patch === undefined) continue;
      const at = sector * SECTOR;
      const from = Math.max(at, offset);
      target.set(patch.subarray(from - at, Math.min(SECTOR, end - at)), from - offset);
    }
    return undefined;
  }

  /** Whole sectors; the bytes are kept as they are, not copied. */
  write(offset: ByteOffset, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += SECTOR) {
      this.sectors.set((offset + at) / SECTOR, bytes.subarray(at, at + SECTOR));
    }
    if (this.sectors.size * SECTOR <= XFS_MAX_PATCHED_BYTES) return;
    const reason = `the XFS log changes more than ${XFS_MAX_PATCHED_BYTES} bytes of metadata; mount and unmount the file system instead`;
    throw new DriftmapError('limit', reason, { path: this.name });
  }
}
