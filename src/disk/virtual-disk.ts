/**
 * A virtual disk is what the guest sees: a size and an extent map onto logical units. Whatever the image
 * format, the file system or the volume manager below it, everything behind this face is one map.
 */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { Completion, LogicalUnit, UnitHandle } from '../lu/logical-unit.ts';
import type { ExtentMap, ExtentMapHandle } from '../mapping/extent-map.ts';
import type { ViewHandle } from './view-unit.ts';

export interface VirtualDisk {
  /** For messages: the path the user gave. */
  readonly name: string;
  /** `raw`, `qcow2`, … */
  readonly format: string;
  readonly size: ByteCount;
  readonly map: ExtentMap;
  /** Map tags index this table. Unit 0 is the image itself (or its data file); backing units follow. */
  readonly units: readonly LogicalUnit[];
  /** The same for every opening of the same disk (image identities, format, size); survives changes of contents. */
  readonly identity: string;
  /** Changes whenever the contents may have changed: the generations of its sources, with a space between two. */
  generation(): string;
  /** What the contents depend on, in an order that does not depend on how units were named. */
  readonly sources: readonly DiskSource[];
  /** The generation when the disk's tables were read: while `generation()` is the same, its map is true. */
  readonly openedGeneration: string;
  /** What the user should know: a guessed format, a corrupt mark … One line each. */
  readonly warnings: readonly string[];
  /** Fills `target` from a virtual offset, through the map; unmapped bytes are zeros. Range errors as `LogicalUnit.read`. */
  read(offset: ByteOffset, target: Uint8Array): Completion;
  handle(): DiskHandle;
  /** Keeps the disk open, also when it is closed meanwhile, until the returned function is called. */
  retain(): () => Completion;
  close(): Completion;
}

/** An opened unit that a disk's bytes lie on, or the tables that lead to them. */
export interface DiskSource {
  readonly unit: LogicalUnit;
  /** Whether an image below the top one, a backing file or a parent, depends on it. */
  readonly below: boolean;
}

/** An open disk as plain data, for worker threads (`attachDisk`). */
export interface DiskHandle {
  readonly name: string;
  readonly format: string;
  readonly size: ByteCount;
  readonly identity: string;
  readonly map: ExtentMapHandle;
  readonly units: readonly (UnitHandle | ViewHandle)[];
}
