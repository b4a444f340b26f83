/**
 * What holds virtual disks on a logical unit: partition tables, volume managers, file systems. Each is read
 * from a `LogicalUnit` and answers with extent maps over it; maps compose, so a parser knows nothing of what
 * lies below or above it. Nothing is ever written.
 */

import type { ByteCount } from '../../base/units.ts';
import type { ExtentMap } from '../../mapping/extent-map.ts';

/** A partition: one run of the unit. */
export interface Partition {
  /** As in addresses: `gpt2`, `mbr5`. Counted from 1. */
  readonly number: number;
  readonly offset: ByteCount;
  readonly length: ByteCount;
  /** GPT: the type GUID; MBR: the type byte as `0x83`. */
  readonly type: string;
  readonly name: string;
}

/** A logical volume of a volume group; its map's units index the units that were handed in. */
export interface Volume {
  readonly group: string;
  readonly name: string;
  /** `linear`, `striped`, `thin`, or what is not read: `raid1`, `cache` … */
  readonly kind: string;
  readonly size: ByteCount;
  /** Indices of the units that hold the group's physical volumes. */
  readonly places: readonly number[];
  /** @throws DriftmapError `unsupported` for a kind that is not read, `not-found` where a physical volume is missing */
  map(): Promise<ExtentMap>;
  /** Once it is mapped: indices of the units that its map leads to or was read from (a thin pool's metadata). */
  units(): readonly number[];
}

/** A regular file in a file system. */
export interface FileEntry {
  /** Absolute, with `/` between its parts, and without symbolic links in it: where the file is, however it was asked for. */
  readonly path: string;
  readonly size: ByteCount;
  /** For listings: `thin`, `thick` … where the file system tells such classes. */
  readonly kind?: string;
  /** Over unit 0, the file system's unit; exactly `size` bytes; what was never written is `zero`. */
  map(): Promise<ExtentMap>;
}

export interface FileSystem {
  /** `ext4`, `xfs`, `vmfs`, `ntfs`. */
  readonly kind: string;
  readonly label: string;
  /** One line each: a journal that was not replayed … */
  readonly warnings: readonly string[];
  /** @throws DriftmapError `not-found`, `argument` for what is no regular file, `malformed` */
  lookup(path: string): Promise<FileEntry>;
  /** Every regular file, directories first to last; loops and counts are bounded. */
  files(): AsyncIterable<FileEntry>;
}
