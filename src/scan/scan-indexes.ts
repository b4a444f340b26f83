/**
 * The signature indexes of a scan: whether they may be used, and what workers are told of them.
 *
 * An index is used for what it was made of and nothing else. One of another unit or disk (foreign), one made before
 * something was written (stale) or with blocks of another size is refused when the scan begins; one that is damaged
 * when it is opened, or when the damaged page is read.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_SIDE_INDEXES } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { exactSize } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { type IndexHandle, SignatureIndex } from '../signature/index-file.ts';
import { settleGeneration, vouchesForNothing } from './generation.ts';
import { makeSampling, type Sampling } from './sampling.ts';

export interface IndexOptions {
  /** Indexes of the production disk, or of units that it lies on: their signatures are used in place of bytes. */
  readonly productionIndex?: SignatureIndex | readonly SignatureIndex[] | undefined;
  /** The same for the replica. */
  readonly replicaIndex?: SignatureIndex | readonly SignatureIndex[] | undefined;
  /** 0 … 1: the share of the blocks taken from indexes that is verified against the bytes. 0 by default. */
  readonly sample?: number | undefined;
  /** Which blocks that are: 0 … 2^32−1; random by default. */
  readonly sampleSeed?: number | undefined;
}

/** The indexes of one side. */
export interface SideIndexes {
  /** Of the virtual disk itself. */
  readonly ofDisk: IndexHandle | null;
  /** Per unit of the disk's table: of that unit. */
  readonly ofUnits: readonly (IndexHandle | null)[];
}

/** What a scan's workers are told; plain data and shared memory. */
export interface ScanIndexes {
  readonly production: SideIndexes;
  readonly replica: SideIndexes;
  readonly sampling: Sampling;
}

export interface PreparedIndexes {
  readonly task: ScanIndexes;
  readonly warnings: readonly string[];
  /** Keeps the indexes open until the returned function is called. */
  readonly retain: () => () => void;
}

/**
 * @param comparedBy how the scan compares: `blake3`, or something that an index cannot serve
 * @returns null where there are no indexes
 * @throws DriftmapError `argument` or `mismatch`, naming the index
 */
export function prepareIndexes(
  options: IndexOptions & { readonly production: VirtualDisk; readonly replica: VirtualDisk },
  comparedBy: string,
  blockSize: ByteCount,
): PreparedIndexes | null {
  const production = listOf(options.productionIndex, 'productionIndex');
  const replica = listOf(options.replicaIndex, 'replicaIndex');
  const sampling = makeSampling(options.sample, options.sampleSeed);
  const all = [...production, ...replica];
  if (all.length === 0) {
    if (sampling.share === 0) return null;
    throw new DriftmapError('argument', 'a sample verifies indexes: give one, or leave the sample out');
  }
  if (comparedBy !== 'blake3') {
    const reason = `an index holds blake3 signatures, this scan compares by ${comparedBy}: use the signature blake3`;
    throw new DriftmapError('argument', reason, { path: all[0]!.path });
  }
  const warnings: string[] = [];
  const task = {
    production: sideIndexes(production, options.production, blockSize, warnings),
    replica: sideIndexes(replica, options.replica, blockSize, warnings),
    sampling,
  };
  const retain = () => {
    const releases = all.map((index) => index.retain());
    return () => {
      for (const release of releases) release();
    };
  };
  return { task, warnings, retain };
}

/**
 * The indexes of one side alone, for a comparison by blake3.
 * @param what for messages: the option's name
 * @throws DriftmapError as `prepareIndexes`
 */
export function prepareSide(
  indexes: readonly SignatureIndex[],
  disk: VirtualDisk,
  blockSize: ByteCount,
  what: string,
): { readonly side: SideIndexes; readonly warnings: readonly string[] } {
  const warnings: string[] = [];
  const side = sideIndexes(listOf(indexes, what), disk, blockSize, warnings);
  return { side, warnings };
}

/** Before indexes are compared with their disks' generations. @returns warnings, as `settleGeneration` */
export async function settleIndexed(
  options: IndexOptions & { readonly production: VirtualDisk; readonly replica: VirtualDisk },
): Promise<string[]> {
  const { production, replica, productionIndex, replicaIndex } = options;
  return [
    ...(isThere(productionIndex) ? await settleGeneration(production) : []),
    ...(isThere(replicaIndex) ? await settleGeneration(replica) : []),
  ];
}

export function usesIndexes({ productionIndex, replicaIndex }: IndexOptions): boolean {
  return isThere(productionIndex) || isThere(replicaIndex);
}

function isThere(given: IndexOptions['productionIndex']): boolean {
  return given !== undefined && !(Array.isArray(given) && given.length === 0);
}

function listOf(given: IndexOptions['productionIndex'], what: string): readonly SignatureIndex[] {
  const list: readonly SignatureIndex[] =
    given === undefined ? [] : given instanceof SignatureIndex ? [given] : given;
  if (!Array.isArray(list) || !list.every((index) => index instanceof SignatureIndex))
    throw new DriftmapError('argument', `expected indexes from openIndex as ${what}`);
  if (list.length > MAX_SIDE_INDEXES)
    throw new DriftmapError('limit', `expected at most ${MAX_SIDE_INDEXES} indexes as ${what}`);
  return list;
}

function sideIndexes(
  indexes: readonly SignatureIndex[],
  disk: VirtualDisk,
  blockSize: ByteCount,
  warnings: string[],
): SideIndexes {
  let ofDisk: IndexHandle | null = null;
  const ofUnits: (IndexHandle | null)[] = disk.units.map(() => null);
  for (const index of indexes) {
    const { header, path } = index;
    checkBlocks(index, blockSize);
    if (header.subject === 'disk') {
      if (header.identity !== disk.identity) throw foreign(index, disk, disk.identity);
      checkFresh(index, disk.generation(), disk.size, disk.name);
      ofDisk = index.handle();
    } else {
      const found = disk.units.flatMap((unit, i) => (unit.identity === header.identity ? [i] : []));
      if (found.length === 0) {
        throw foreign(index, disk, disk.units.map((unit) => unit.identity).join(', '));
      }
      for (const i of found) {
        const unit = disk.units[i]!;
        checkFresh(index, unit.generation(), unit.size, unit.name);
        ofUnits[i] = index.handle();
      }
    }
    if (vouchesForNothing(header.generation)) {
      const reason = `${path}: what it was made of does not tell whether it was written to since; its signatures are taken on trust (a sample verifies some)`;
      warnings.push(reason);
    }
  }
  return { ofDisk, ofUnits };
}

function checkBlocks({ header, path }: SignatureIndex, blockSize: ByteCount): void {
  if (header.blockSize === blockSize) return;
  const reason = `the index has blocks of ${exactSize(header.blockSize)}, the scan has blocks of ${exactSize(blockSize)}: scan with a block size of ${exactSize(header.blockSize)}`;
  throw new DriftmapError('mismatch', reason, { path });
}

function foreign({ header, path }: SignatureIndex, disk: VirtualDisk, expected: string): DriftmapError {
  const what = header.subject === 'disk' ? 'the disk' : 'a unit of the disk';
  const reason = `the index is foreign: expected one of ${what} ${disk.name} (${expected}), got one of the ${header.subject} ${header.identity}`;
  return new DriftmapError('mismatch', reason, { path });
}

function checkFresh({ header, path }: SignatureIndex, now: string, size: ByteCount, name: string): void {
  if (header.generation === now && header.size === size) return;
  const reason = `the index is stale: ${name} was written to since it was made (generation ${header.generation}, now ${now}): refresh it, or make it anew`;
  throw new DriftmapError('mismatch', reason, { path });
}
