/**
 * Signature indexes in sessions. A side that has a valid index of its disk answers from it, without reading the disk.
 * What the user names must fit, or the session is refused; what a server has beside a grant is used where it fits, and
 * else the disk is read, with a warning.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { settleGeneration } from '../scan/generation.ts';
import { prepareSide, type SideIndexes } from '../scan/scan-indexes.ts';
import { openIndex, SignatureIndex } from '../signature/index-file.ts';

/** A file, or an index that is open. */
export type GivenIndex = string | SignatureIndex;

export interface SessionIndexes {
  readonly side: SideIndexes | null;
  /** The same, for a scan. */
  readonly list: readonly SignatureIndex[];
  readonly warnings: readonly string[];
  close(): void;
}

const none: SessionIndexes = { side: null, list: [], warnings: [], close: () => undefined };

export interface IndexedSession {
  readonly blockSize: ByteCount;
  readonly signature: string;
}

/**
 * @throws DriftmapError `mismatch` for an index of another disk, of another state of it, or of other blocks;
 *   `argument` where blocks are not compared by blake3; `malformed`
 */
export async function openIndexes(
  given: readonly GivenIndex[] | undefined,
  disk: VirtualDisk,
  { blockSize, signature }: IndexedSession,
): Promise<SessionIndexes> {
  if (given === undefined || given.length === 0) return none;
  if (signature !== 'blake3') {
    const reason = `an index holds blake3 signatures, this session compares by ${signature}: use the signature blake3`;
    throw new DriftmapError('argument', reason);
  }
  const own: SignatureIndex[] = [];
  const releases: (() => void)[] = [];
  const close = () => {
    for (const release of releases) release();
    for (const index of own) index.close();
  };
  try {
    const list = given.map((one) => {
      if (one instanceof SignatureIndex) return one;
      const index = openIndex(one);
      own.push(index);
      return index;
    });
    const warnings = await settleGeneration(disk);
    const prepared = prepareSide(list, disk, blockSize, 'the index');
    releases.push(...list.map((index) => index.retain()));
    return { side: prepared.side, list, warnings: [...warnings, ...prepared.warnings], close };
  } catch (error) {
    close();
    throw error;
  }
}

/** The indexes of a grant, where they fit; else why not, as a warning. */
export async function openGranted(
  paths: readonly string[] | undefined,
  disk: VirtualDisk,
  session: IndexedSession,
): Promise<SessionIndexes> {
  try {
    return await openIndexes(paths, disk, session);
  } catch (cause) {
    if (!(cause instanceof DriftmapError)) throw cause;
    return { ...none, warnings: [`an index is not used, and the disk is read: ${cause.message}`] };
  }
}

/** The block size of the first index, which a session takes where none is said. */
export function blockSizeOf(given: readonly GivenIndex[] | undefined): ByteCount | undefined {
  const first = given?.[0];
  if (first === undefined) return undefined;
  if (first instanceof SignatureIndex) return first.header.blockSize;
  const index = openIndex(first);
  try {
    return index.header.blockSize;
  } finally {
    index.close();
  }
}
