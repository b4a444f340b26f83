/** What a scan is asked, what it answers, and what of the asking is refused. */

import { DriftmapError } from '../base/errors.ts';
import type { BlockCount, ByteCount, ByteRange } from '../base/units.ts';
import type { LiveMarks } from '../bitmap/live-marks.ts';
import { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import type { AlgorithmName } from '../signature/algorithm.ts';
import type { ScanProgress } from './progress.ts';
import type { IndexOptions } from './scan-indexes.ts';
import type { CompareMethod } from './task.ts';

export interface ScanOptions extends IndexOptions {
  /** The disk that is right. */
  readonly production: VirtualDisk;
  /** The disk that is to become equal to it. */
  readonly replica: VirtualDisk;
  /** Bytes of a block: a power of two, 512 … 16 MiB; 64 KiB by default. */
  readonly blockSize?: ByteCount | undefined;
  /** How blocks are signed; `nh128`, under a fresh random key, by default. */
  readonly signature?: AlgorithmName | undefined;
  /** `signatures` by default; `bytes` compares byte by byte, exactly and faster, and signs nothing. */
  readonly compare?: CompareMethod | undefined;
  /** Look only at the blocks that this earlier bitmap of the same disks marks. */
  readonly within?: SyncBitmap | undefined;
  /** Go on from a scan that ended early: keep its marks, skip the blocks it covers. */
  readonly resume?: SyncBitmap | undefined;
  /** Writes that arrive while the scan runs: every block marked there ends marked. */
  readonly live?: LiveMarks | undefined;
  /** Stops the scan: it rejects with an `aborted` error. */
  readonly signal?: AbortSignal | undefined;
  /** Called at most ten times a second, and once at the end. */
  readonly onProgress?: ((progress: ScanProgress) => void) | undefined;
  /** Called before the scan rejects, whatever the cause, with what it had found by then: enough to resume from. */
  readonly onPartial?: ((bitmap: SyncBitmap) => void) | undefined;
  /** Bytes of the disk that a worker takes at a time; chosen by size when absent. Never changes the result. */
  readonly rangeBytes?: ByteCount | undefined;
}

export interface ScanResult {
  /** Marks, coverage, and which disks they are about. */
  readonly bitmap: SyncBitmap;
  /** The larger disk's size; the shorter one counts as zeros beyond its end. */
  readonly size: ByteCount;
  readonly productionSize: ByteCount;
  readonly replicaSize: ByteCount;
  readonly blockSize: ByteCount;
  /** How blocks were compared: the algorithm, or `bytes`. */
  readonly signature: AlgorithmName | 'bytes';
  readonly blocks: BlockCount;
  readonly markedBlocks: BlockCount;
  /** Merged, ascending, clipped at the size. Made when first asked for: `bitmap.ranges()` gives them one by one. */
  readonly ranges: readonly ByteRange[];
  readonly comparedBytes: ByteCount;
  readonly skippedBytes: ByteCount;
  readonly readBytes: ByteCount;
  /** Bytes of blocks whose signature an index had, both sides together: they were not read. */
  readonly indexedBytes: ByteCount;
  /** Blocks from indexes that were verified against their bytes. */
  readonly sampledBlocks: BlockCount;
  readonly seconds: number;
  /** From the call to the first block looked at. */
  readonly startupSeconds: number;
  readonly workers: number;
  /** What the user should know: a disk that changed meanwhile. */
  readonly warnings: readonly string[];
}

/** Callers from plain JavaScript get a word, not a `TypeError` from the depths. */
export function checkOptions({
  production,
  replica,
  compare,
  rangeBytes,
  within,
  resume,
}: ScanOptions): void {
  for (const [what, disk] of Object.entries({ production, replica })) {
    if (disk?.map === undefined)
      throw new DriftmapError('argument', `expected a disk from openDisk as ${what}`);
  }
  if (compare !== undefined && compare !== 'signatures' && compare !== 'bytes') {
    throw new DriftmapError('argument', `expected compare: 'signatures' or 'bytes', got '${compare}'`);
  }
  if (rangeBytes !== undefined && !(Number.isSafeInteger(rangeBytes) && rangeBytes > 0)) {
    throw new DriftmapError('argument', `expected rangeBytes to be a number of bytes, got ${rangeBytes}`);
  }
  for (const [what, bitmap] of Object.entries({ within, resume })) {
    if (bitmap === undefined || bitmap instanceof SyncBitmap) continue;
    throw new DriftmapError('argument', `expected a SyncBitmap as ${what}`);
  }
}

/** What one algorithm found equal says nothing of another's bound, and a combination of bitmaps nothing of any. */
export function checkSameSignature(resume: SyncBitmap, comparedBy: string): void {
  if (resume.header.signature === comparedBy) return;
  const reason = `--resume: the bitmap was compared by '${resume.header.signature}', this scan compares by '${comparedBy}': use the same, or scan anew`;
  throw new DriftmapError('mismatch', reason, { operation: 'scan' });
}

export function checkLive(live: LiveMarks | undefined, bitmap: SyncBitmap): void {
  if (live && (live.size !== bitmap.size || live.blockSize !== bitmap.blockSize)) {
    throw new DriftmapError(
      'mismatch',
      `live marks are for ${live.size} bytes in blocks of ${live.blockSize}, the scan for ${bitmap.size} in blocks of ${bitmap.blockSize}`,
    );
  }
}
