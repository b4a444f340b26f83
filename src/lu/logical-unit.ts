/**
 * A logical unit is where bytes live: a file, a block device, an array image in shared memory, an
 * NBD export. Its verbs are those of the storage protocols (NBD, SCSI). What a unit can do is asked
 * (`canWrite`), not tried. Filters (fault, delay, log) are units that stand before another unit.
 */

import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';

/**
 * A unit whose bytes are at hand completes at once and returns nothing; one that has to wait returns a
 * promise. `await` suits both; the scan's inner loop awaits only a promise.
 */
export type Completion = undefined | Promise<undefined>;

export type ExtentKind = 'data' | 'zero' | 'unallocated';

/** What is known of a run without reading it: `zero` and `unallocated` read as zeros; `data` must be read. */
export interface UnitExtent extends ByteRange {
  readonly kind: ExtentKind;
}

export interface LogicalUnit {
  /** For messages: the path, or a label in angle brackets. */
  readonly name: string;
  readonly size: ByteCount;
  /**
   * The same for every opening of the same unit, whatever its name, and different for every other unit; survives
   * changes of contents. `inspect.ts` says what it is for files and devices, and where it must fall short.
   */
  readonly identity: string;
  /**
   * Another one whenever the contents may have changed; the same one vouches for the contents as far as the unit
   * can tell (`FileUnit.generation` says how far). `device` and `live` vouch for nothing: any thread or process may
   * write there unseen.
   */
  generation(): string;
  readonly canWrite: boolean;

  /**
   * Fills `target` wholly from `offset`, or throws: a short read is an error (`io`, with path, offset and
   * length), as is a range that does not lie within `[0, size)` (`argument`). `target` may be a view over
   * shared memory. Nothing else of `target`'s buffer is touched.
   */
  read(offset: ByteOffset, target: Uint8Array): Completion;
  /** Writes all of `source` at `offset`; never grows the unit. */
  write(offset: ByteOffset, source: Uint8Array): Completion;
  /** Makes a range read as zeros, giving its storage back where that is possible. */
  zero(range: ByteRange): Completion;
  /** Returns when all that was written is durable. */
  flush(): Completion;
  /**
   * What is known of the start of a range without reading data: at least one extent, adjoining, ascending,
   * the first beginning at `range.offset`, none reaching past the range's end, neighbours of different
   * kinds. It may describe only a prefix (at most `limit` extents, as NBD's block status does): ask again
   * from where it ended. An empty range gives an empty list.
   */
  extents(range: ByteRange, limit?: number): readonly UnitExtent[] | Promise<readonly UnitExtent[]>;
  /** What another thread needs to use the same open unit (`attachUnit`); plain data, structured-cloneable. */
  handle(): UnitHandle;
  /** Idempotent. Attached units (in workers) do not close what they were attached to. */
  close(): Completion;
}

/**
 * An open unit as plain data, for worker threads of this process: descriptors are shared by all threads
 * (reads are positional), and shared memories are posted by reference.
 */
export type UnitHandle =
  | {
      readonly kind: 'file';
      readonly fd: number;
      /** The same file opened past the page cache; null where reads go through it. */
      readonly directFd: number | null;
      readonly path: string;
      readonly size: ByteCount;
      readonly identity: string;
      readonly sparse: boolean;
      readonly canWrite: boolean;
    }
  | {
      readonly kind: 'array';
      readonly name: string;
      readonly size: ByteCount;
      readonly identity: string;
      readonly banks: readonly WebAssembly.Memory[];
      readonly bankBytes: ByteCount;
    }
  | {
      /** A connection belongs to its thread: every other one makes its own. */
      readonly kind: 'nbd';
      readonly url: string;
      readonly size: ByteCount;
      readonly canWrite: boolean;
    }
  | {
      readonly kind: 'filter';
      readonly filter: string;
      readonly options: unknown;
      readonly inner: UnitHandle;
    };
