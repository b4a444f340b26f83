/**
 * What an NBD server serves: verbs over a range of bytes. A unit or a disk is one by `unit-export.ts`; a splitter,
 * or a view of a past moment, is one by itself.
 */

import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import type { Completion, UnitExtent } from '../../lu/logical-unit.ts';

/** How a range is made to read as zeros. */
export interface ZeroManner {
  /** Whether its storage may be given back; otherwise it must stay allocated (`NBD_CMD_FLAG_NO_HOLE`). */
  readonly mayPunch: boolean;
  /**
   * Only if that is faster than writing zeros (`NBD_CMD_FLAG_FAST_ZERO`): else an `unsupported` error at once, and
   * nothing is changed.
   */
  readonly fast: boolean;
}

/**
 * Ranges are checked before a verb is called: they lie within the export, have at least one byte, keep to
 * `minimumBlock`, and those that write are never asked of an export that cannot. Calls of one client come in the
 * order in which it sent them, and the next comes before the last has completed: what overlaps in flight has no
 * order (proto.md, "Ordering of messages and writes"). Errors are DriftmapErrors; the client learns their kind.
 */
export interface NbdExport {
  readonly size: ByteCount;
  readonly canWrite: boolean;
  /** For people who list exports; at most 4096 bytes. */
  readonly description?: string;
  /** What offsets and lengths must be multiples of: a power of two up to 64 KiB; 1 by default. */
  readonly minimumBlock?: ByteCount;
  /** What they had better be multiples of: a power of two of at least 512 and `minimumBlock`; 4 KiB by default. */
  readonly preferredBlock?: ByteCount;
  /** Whether what one connection has written and flushed shows to all of them: true by default. */
  readonly isShared?: boolean;

  read(offset: ByteOffset, target: Uint8Array): Completion;
  /** `source` stays as it is until the write completes, and no longer: who wants to keep it copies it. */
  write(offset: ByteOffset, source: Uint8Array): Completion;
  zero(range: ByteRange, manner: ZeroManner): Completion;
  /** A hint that the range is not needed any more: what it reads as afterwards is left open. */
  trim(range: ByteRange): Completion;
  /** Returns when every write that had completed before is durable. Also asked after a write with FUA. */
  flush(): Completion;
  /** As `LogicalUnit.extents`. */
  extents(range: ByteRange, limit: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]>;
  /** A hint that the range will be read soon. Without it the range is read. */
  cache?(range: ByteRange): Completion;
  /** Dirty bitmaps by name, each to be seen as the context `qemu:dirty-bitmap:NAME`. */
  readonly bitmaps?: ReadonlyMap<string, NbdBitmap>;
}

export interface DirtyRun extends ByteRange {
  readonly dirty: boolean;
}

export interface NbdBitmap {
  /** Runs that adjoin from the range's start on, at least one and at most `limit`; a prefix of the range will do. */
  runs(range: ByteRange, limit: number): readonly DirtyRun[] | Promise<readonly DirtyRun[]>;
}
