/**
 * A thin volume as a map onto its pool's data volume (Linux drivers/md/dm-thin-metadata.c, "Metadata").
 *
 * The mapping tree has two levels: device numbers lead to the roots of trees from the volume's blocks to the
 * pool's. A value is a data block in its upper 40 bits and the time of its making, which decides about sharing
 * and is nothing to a reader, in its lower 24. A block that is in no tree was never written: it reads as zeros,
 * or as the volume's external origin.
 *
 * What the group's metadata and the pool's say of each other has to agree. They are written one after the
 * other, and where one is older, a device number may mean another volume.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, littleUint64 } from '../formats/byte-source.ts';
import { readThinSuperblock, type ThinNode, type ThinSuperblock, ThinTree } from './thin-metadata.ts';

export interface ThinMapRequest {
  readonly device: number;
  readonly size: ByteCount;
  /** What the volume group says of the pool. */
  readonly blockSize: ByteCount;
  readonly transaction: number;
  /** The group has changes that the pool has not been told of: then it may be one transaction ahead. */
  readonly pending: boolean;
  /** Of the pool's data volume. */
  readonly dataSize: ByteCount;
  /** Below this, blocks never written show the external origin; 0 where there is none. */
  readonly originSize: ByteCount;
}

const ROOT_BYTES = 8;
const DETAILS_BYTES = 24;
const MAPPING_BYTES = 8;

/**
 * Reads a device's mappings.
 * @param source the pool's metadata volume
 * @returns a map over unit 0, the pool's data volume: `zero` or, before `originSize`, `unallocated` where
 *   nothing was written
 * @throws DriftmapError `malformed`, `unsupported`, `mismatch` where the pool is of another time than the
 *   group, `not-found` where the pool has no such device
 */
export async function readThinMap(source: ByteSource, request: ThinMapRequest): Promise<ExtentMap> {
  const superblock = await readThinSuperblock(source);
  checkAgreement(source, superblock, request);
  const { device } = request;
  const details = await new ThinTree(source, superblock.detailsRoot, DETAILS_BYTES).find(device);
  const mapped = details && littleUint64(details.leaf.view, details.leaf.valueAt(details.index));
  const found = await new ThinTree(source, superblock.mappingRoot, ROOT_BYTES).find(device);
  if (found === null || mapped === null) {
    const reason = `the thin pool has no device ${device}: the volume was created and never activated, or the pool is damaged`;
    throw new DriftmapError('not-found', reason, { path: source.name });
  }
  const root = found.leaf.childOf(found.index);
  const collector = new MappingCollector(source.name, superblock, request);
  await new ThinTree(source, root, MAPPING_BYTES).leaves(Number.POSITIVE_INFINITY, (leaf) =>
    collector.add(leaf),
  );
  if (collector.mapped !== mapped) {
    const reason = `thin device ${device}: expected ${mapped} mapped blocks, the tree has ${collector.mapped}; thin_check tells more`;
    throw new DriftmapError('malformed', reason, { path: source.name });
  }
  return collector.finish();
}

function checkAgreement(source: ByteSource, superblock: ThinSuperblock, request: ThinMapRequest): void {
  const { blockSize, transaction, dataBlocks } = superblock;
  const path = source.name;
  if (blockSize !== request.blockSize) {
    const reason = `expected a thin pool with blocks of ${request.blockSize} bytes, its metadata says ${blockSize}`;
    throw new DriftmapError('malformed', reason, { path, offset: 336 });
  }
  if (dataBlocks * blockSize > request.dataSize) {
    const reason = `expected a thin pool of ${request.dataSize} bytes, its metadata says ${dataBlocks} blocks of ${blockSize}`;
    throw new DriftmapError('malformed', reason, { path, offset: 64 });
  }
  const behind = request.transaction - transaction;
  if (behind !== 0 && !(request.pending && behind === 1)) {
    const reason = `the thin pool's metadata is of transaction ${transaction}, the volume group expects ${request.transaction}: one of them is older, so that a device may be another volume`;
    throw new DriftmapError('mismatch', reason, { path, offset: 48 });
  }
}

/** Joins mappings that continue one another before they reach the builder: a pool may have many millions. */
class MappingCollector {
  /** Mappings seen, also those past the volume's end. */
  mapped = 0;
  private readonly path: string;
  private readonly superblock: ThinSuperblock;
  private readonly size: ByteCount;
  private readonly originSize: ByteCount;
  private readonly builder = new ExtentMapBuilder();
  /** The run being joined: volume blocks `[first, next)` at `data` and on. */
  private first = 0;
  private next = 0;
  private data = 0;

  constructor(path: string, superblock: ThinSuperblock, { size, originSize }: ThinMapRequest) {
    this.path = path;
    this.superblock = superblock;
    this.size = size;
    this.originSize = originSize;
  }

  add(leaf: ThinNode): void {
    const { view, count } = leaf;
    const { dataBlocks } = this.superblock;
    for (let i = 0; i < count; i++) {
      const at = leaf.valueAt(i);
      const data = view.getUint32(at + 4, true) * 256 + (view.getUint32(at, true) >>> 24);
      const block = leaf.keyOf(i);
      if (data >= dataBlocks) {
        const reason = `thin pool mapping: expected a data block below ${dataBlocks}, got ${data} for block ${block}`;
        throw new DriftmapError('malformed', reason, { path: this.path, offset: leaf.block * 4096 + at });
      }
      if (block !== this.next || data !== this.data + (block - this.first)) {
        this.flush();
        this.first = block;
        this.data = data;
      }
      this.next = block + 1;
    }
    this.mapped += count;
  }

  finish(): ExtentMap {
    this.flush();
    this.fill(this.size);
    return this.builder.finish();
  }

  /** Hands the run over. What lies past the volume's end was cut off it, and is not the volume's any more. */
  private flush(): void {
    const { first, next, data, size, builder } = this;
    const { blockSize } = this.superblock;
    const from = first * blockSize;
    const to = Math.min(next * blockSize, size);
    if (from >= to) return;
    this.fill(from);
    builder.append({
      offset: from,
      length: to - from,
      kind: Kind.data,
      unit: 0,
      place: data * blockSize,
      depth: 0,
    });
  }

  /** From where the map stands to `end` nothing was written. */
  private fill(end: ByteOffset): void {
    const shown = Math.min(end, this.originSize);
    this.fillWith(Kind.unallocated, shown);
    this.fillWith(Kind.zero, end);
  }

  private fillWith(kind: Kind, end: ByteOffset): void {
    const { builder } = this;
    const length = end - builder.size;
    if (length > 0) builder.append({ offset: builder.size, length, kind, unit: 0, place: -1, depth: 0 });
  }
}
