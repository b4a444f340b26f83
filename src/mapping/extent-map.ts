/**
 * The extent map: where every byte of a virtual disk lies. It is the centre of the house.
 *
 * A map is total: its extents adjoin and cover `[0, size)` without a gap, so an extent needs no length (it
 * ends where the next begins) and a lookup always answers. It is kept in flat typed arrays over shared
 * memory, 20 bytes an extent, so that it crosses to workers without copying:
 *
 *   starts  Float64Array(count + 1)  virtual offset of each extent; the last entry is the size
 *   places  Float64Array(count)      offset on the logical unit of the extent's first byte; −1 where there is none
 *   tags    Uint32Array(count)       kind, unit, depth in the backing chain, and log2 of a packed cluster's size
 *   packed  Uint32Array(2 · count)   only where a map has compressed clusters: stored bytes, and how many
 *                                    unpacked bytes of the cluster precede the extent's first byte
 *
 * Offsets are doubles, exact up to 2^53−1; only tags are handled with bitwise operators.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import { MAX_DISK_SIZE, MAX_EXTENTS } from '../base/limits.ts';
import { checkWithin } from '../base/ranges.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { isPowerOfTwo } from '../base/units.ts';
import { finishedPiece, finishInPlace, gather, LARGEST_PIECE, newPiece, type Piece } from './map-pieces.ts';

/** What an extent is. Compressed kinds name their codec: one extent never spans two compressed clusters. */
export const Kind = { unallocated: 0, zero: 1, data: 2, deflate: 3, zstd: 4, zlib: 5 } as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

/** Tag layout, low bits first: 3 kind, 5 log2 of the unpacked cluster size, 12 unit, 12 depth. */
const KIND_BITS = 0x7;
const CLUSTER_SHIFT = 3;
const UNIT_SHIFT = 8;
const DEPTH_SHIFT = 20;
const TWELVE_BITS = 0xfff;

/** The place of what lies nowhere. */
const NOWHERE = -1;

/** One extent as an object: for people, tests and slow paths. The hot path reads the arrays by index. */
export interface Extent extends ByteRange {
  readonly kind: Kind;
  /** Index into the disk's unit table; 0 where there is no place. */
  readonly unit: number;
  /** Offset on the unit: of the first byte (data), of the stored cluster (compressed); −1 where there is none. */
  readonly place: ByteOffset;
  /** How far down the backing chain it was found; 0 is the image itself. */
  readonly depth: number;
  /** Compressed extents only: bytes stored, unpacked size of the whole cluster, bytes of it to skip. */
  readonly stored?: ByteCount;
  readonly cluster?: ByteCount;
  readonly skip?: ByteCount;
}

/** The arrays of a map, all over `SharedArrayBuffer`s: post it to another thread and call `ExtentMap.fromHandle`. */
export interface ExtentMapHandle {
  readonly starts: Float64Array;
  readonly places: Float64Array;
  readonly tags: Uint32Array;
  readonly packed: Uint32Array | null;
}

export class ExtentMap {
  readonly size: ByteCount;
  readonly count: number;
  readonly starts: Float64Array;
  readonly places: Float64Array;
  readonly tags: Uint32Array;
  readonly packed: Uint32Array | null;

  private constructor({ starts, places, tags, packed }: ExtentMapHandle) {
    this.count = tags.length;
    this.size = starts[this.count]!;
    this.starts = starts;
    this.places = places;
    this.tags = tags;
    this.packed = packed;
  }

  static fromHandle(handle: ExtentMapHandle): ExtentMap {
    return new ExtentMap(handle);
  }

  handle(): ExtentMapHandle {
    const { starts, places, tags, packed } = this;
    return { starts, places, tags, packed };
  }

  /** A map that is one extent: a raw disk on a logical unit. */
  static identity(size: ByteCount, unit = 0): ExtentMap {
    const builder = new ExtentMapBuilder(1);
    builder.append({ offset: 0, length: size, kind: Kind.data, unit, place: 0, depth: 0 });
    return builder.finish();
  }

  /** Index of the extent that holds `offset`, by binary search. `offset` must lie in `[0, size)`: it is not checked. */
  indexAt(offset: ByteOffset): number {
    const { starts } = this;
    let low = 0;
    let high = this.count;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (starts[middle]! <= offset) low = middle;
      else high = middle;
    }
    return low;
  }

  startOf(index: number): ByteOffset {
    return this.starts[index]!;
  }
  endOf(index: number): ByteOffset {
    return this.starts[index + 1]!;
  }
  kindOf(index: number): Kind {
    return (this.tags[index]! & KIND_BITS) as Kind;
  }
  unitOf(index: number): number {
    return (this.tags[index]! >>> UNIT_SHIFT) & TWELVE_BITS;
  }
  depthOf(index: number): number {
    return this.tags[index]! >>> DEPTH_SHIFT;
  }
  placeOf(index: number): ByteOffset {
    return this.places[index]!;
  }
  /** Compressed extents: bytes stored at `placeOf`. */
  storedOf(index: number): ByteCount {
    return this.packed === null ? 0 : this.packed[2 * index]!;
  }
  /** Compressed extents: unpacked bytes of the cluster that come before the extent's first byte. */
  skipOf(index: number): ByteCount {
    return this.packed === null ? 0 : this.packed[2 * index + 1]!;
  }
  /** Compressed extents: size of the whole cluster, unpacked. */
  clusterOf(index: number): ByteCount {
    return 2 ** ((this.tags[index]! >>> CLUSTER_SHIFT) & 0x1f);
  }

  /** The whole extent at an index, as an object. */
  extent(index: number): Extent {
    const offset = this.startOf(index);
    const kind = this.kindOf(index);
    const plain = {
      offset,
      length: this.endOf(index) - offset,
      kind,
      unit: this.unitOf(index),
      place: this.placeOf(index),
      depth: this.depthOf(index),
    };
    if (!isPacked(kind)) return plain;
    return {
      ...plain,
      stored: this.storedOf(index),
      cluster: this.clusterOf(index),
      skip: this.skipOf(index),
    };
  }

  /** The extents of a range, clipped to it; of the whole disk without one. */
  extents(range: ByteRange = { offset: 0, length: this.size }): Generator<Extent, undefined> {
    this.checkRange(range);
    return this.walk(range);
  }

  private *walk(range: ByteRange): Generator<Extent, undefined> {
    const end = range.offset + range.length;
    if (range.length === 0) return;
    for (let index = this.indexAt(range.offset); index < this.count; index++) {
      if (this.startOf(index) >= end) return;
      yield clip(this.extent(index), range.offset, end);
    }
  }

  /** The same map over another table, in which unit `n` of this map stands at `numbers[n]`. */
  withUnits(numbers: readonly number[]): ExtentMap {
    if (numbers.every((number, index) => number === index)) return this;
    const { starts, places, packed } = this;
    const tags = new Uint32Array(new SharedArrayBuffer(this.tags.byteLength));
    for (let index = 0; index < this.count; index++) {
      const tag = this.tags[index]!;
      if (places[index]! < 0) {
        tags[index] = tag;
        continue;
      }
      const number = numbers[this.unitOf(index)]!;
      if (number > TWELVE_BITS) {
        const reason = `expected at most ${TWELVE_BITS + 1} units`;
        throw new DriftmapError('limit', reason, { offset: starts[index]! });
      }
      tags[index] = ((tag & ~(TWELVE_BITS << UNIT_SHIFT)) | (number << UNIT_SHIFT)) >>> 0;
    }
    return new ExtentMap({ starts, places, tags, packed });
  }

  /** The one extent that holds a byte, clipped to begin at it: where does this byte lie, and for how long? */
  explain(offset: ByteOffset): Extent {
    this.checkRange({ offset, length: 1 });
    return clip(this.extent(this.indexAt(offset)), offset, this.size);
  }

  private checkRange(range: ByteRange): void {
    checkWithin(range, this.size, "the disk's");
  }
}

export function isPacked(kind: Kind): boolean {
  return kind === Kind.deflate || kind === Kind.zstd || kind === Kind.zlib;
}

/** Reads as zeros without reading. */
export function isZero(kind: Kind): boolean {
  return kind === Kind.unallocated || kind === Kind.zero;
}

/** The part of an extent within `[from, to)`, which must meet it; its place (or its skip) moves along. */
export function clip(extent: Extent, from: ByteOffset, to: ByteOffset): Extent {
  const offset = Math.max(extent.offset, from);
  const end = Math.min(extent.offset + extent.length, to);
  const moved = offset - extent.offset;
  if (isPacked(extent.kind)) return { ...extent, offset, length: end - offset, skip: extent.skip! + moved };
  return {
    ...extent,
    offset,
    length: end - offset,
    place: extent.place < 0 ? NOWHERE : extent.place + moved,
  };
}

/**
 * Builds a map by appending adjoining extents in ascending order; neighbours that continue one another are
 * merged, so that two maps that say the same are equal array by array. Parts of one compressed cluster are
 * merged again; two clusters never are.
 *
 * Extents gather in pieces of bounded size that never move, and are copied once, by `finish`: at the peak
 * there are the pieces and the finished arrays, 40 bytes an extent. Whoever knows how many there will be
 * (`ofCount`) has them laid down where they stay, in 20 bytes each.
 */
export class ExtentMapBuilder {
  private readonly most: number;
  private pieces: Piece[];
  /** The piece being filled, and how many extents are in it. */
  private piece: Piece;
  private used = 0;
  /** Extents in the pieces before it. */
  private before = 0;
  private end: ByteOffset = 0;
  private spent = false;
  /** The extent last pushed; a tag of −1 continues nothing. */
  private lastStart: ByteOffset = 0;
  private lastPlace: ByteOffset = NOWHERE;
  private lastTag = -1;
  private lastStored: ByteCount = 0;
  private lastSkip: ByteCount = 0;

  /**
   * @param capacity how many extents are expected; more and fewer are welcome.
   * @param most how many there may be after merging; one more is a `limit` error.
   */
  constructor(capacity = 1024, most = MAX_EXTENTS) {
    this.most = Math.min(most, MAX_EXTENTS);
    this.piece = newPiece(Math.min(Math.max(capacity, 1), LARGEST_PIECE));
    this.pieces = [this.piece];
  }

  /**
   * A builder for `count` extents, all of which are to come: memory for them is taken at once. More of them, or
   * compressed ones, are welcome and copied as ever.
   */
  static ofCount(count: number): ExtentMapBuilder {
    const builder = new ExtentMapBuilder(1);
    builder.piece = finishedPiece(Math.max(1, Math.min(count, MAX_EXTENTS)));
    builder.pieces = [builder.piece];
    return builder;
  }

  /** Where the next extent must begin. */
  get size(): ByteCount {
    return this.end;
  }

  /**
   * Appends an extent that begins where the last one ended; one of no length changes nothing. An extent
   * without a place loses its unit.
   *
   * @throws DriftmapError `limit` for offsets past 2^53−1, units and depths that do not fit a tag, and too
   *   many extents; `internal` for a gap, an overlap, or fields that contradict the kind.
   */
  append(extent: Extent): void {
    const { offset, length, kind, place, depth } = extent;
    if (this.spent || offset !== this.end || !isRun(extent)) throw refusal(extent, this.end, this.spent);
    if (length === 0) return;
    const unit = place < 0 ? 0 : extent.unit;
    checkTagFields(extent, unit);
    let bits = 0;
    let stored = 0;
    let skip = 0;
    if (isPacked(kind)) {
      bits = checkPacked(extent);
      stored = extent.stored!;
      skip = extent.skip!;
    }
    const tag = (kind | (bits << CLUSTER_SHIFT) | (unit << UNIT_SHIFT) | (depth << DEPTH_SHIFT)) >>> 0;
    if (!this.continues(offset, tag, place, stored, skip)) this.push(offset, tag, place, stored, skip);
    this.end = offset + length;
  }

  /**
   * The same for an extent that is not compressed and whose fields come from a finished map, so that they are
   * known to be sound: what composing and overlaying do millions of times. Nothing is allocated.
   */
  appendPlain(
    offset: ByteOffset,
    length: ByteCount,
    kind: Kind,
    unit: number,
    place: ByteOffset,
    depth: number,
  ): void {
    if (this.spent || offset !== this.end) {
      throw refusal({ offset, length, kind, unit, place, depth }, this.end, this.spent);
    }
    const placed = place < 0 ? 0 : unit;
    // Shifts can carry them too far.
    if (placed > TWELVE_BITS || depth > TWELVE_BITS) {
      checkTagFields({ offset, length, kind, unit, place, depth }, placed);
    }
    const tag = (kind | (placed << UNIT_SHIFT) | (depth << DEPTH_SHIFT)) >>> 0;
    if (!this.continues(offset, tag, place, 0, 0)) this.push(offset, tag, place, 0, 0);
    this.end = offset + length;
  }

  /** The finished map; the builder is spent. */
  finish(): ExtentMap {
    assert(!this.spent, 'a builder finishes once');
    this.spent = true;
    const { pieces } = this;
    const count = this.before + this.used;
    this.pieces = [];
    this.piece = newPiece(0);
    if (pieces.length === 1 && pieces[0]!.finished && pieces[0]!.packed === null)
      return ExtentMap.fromHandle(finishInPlace(pieces[0]!, count, this.end));
    const starts = new Float64Array(new SharedArrayBuffer(8 * (count + 1)));
    gather(starts.subarray(0, count), pieces, 1, (piece) => piece.starts);
    starts[count] = this.end;
    const places = new Float64Array(new SharedArrayBuffer(8 * count));
    gather(places, pieces, 1, (piece) => piece.places);
    let packed: Uint32Array | null = null;
    if (pieces.some((piece) => piece.packed !== null)) {
      packed = new Uint32Array(new SharedArrayBuffer(8 * count));
      gather(packed, pieces, 2, (piece) => piece.packed);
    }
    const tags = new Uint32Array(new SharedArrayBuffer(4 * count));
    gather(tags, pieces, 1, (piece) => piece.tags);
    return ExtentMap.fromHandle({ starts, places, tags, packed });
  }

  /** Whether an extent that begins here only makes the last one longer. */
  private continues(
    offset: ByteOffset,
    tag: number,
    place: ByteOffset,
    stored: ByteCount,
    skip: ByteCount,
  ): boolean {
    if (tag !== this.lastTag) return false;
    const moved = offset - this.lastStart;
    if (stored > 0)
      return place === this.lastPlace && stored === this.lastStored && skip === this.lastSkip + moved;
    return place < 0 ? this.lastPlace < 0 : this.lastPlace >= 0 && place === this.lastPlace + moved;
  }

  private push(offset: ByteOffset, tag: number, place: ByteOffset, stored: ByteCount, skip: ByteCount): void {
    if (this.used === this.piece.tags.length) this.nextPiece();
    if (this.before + this.used >= this.most)
      throw new DriftmapError('limit', `expected at most ${this.most} extents in one map`, { offset });
    const { piece, used } = this;
    piece.starts[used] = offset;
    piece.places[used] = place;
    piece.tags[used] = tag;
    if (stored > 0) {
      piece.packed ??= new Uint32Array(2 * piece.tags.length);
      piece.packed[2 * used] = stored;
      piece.packed[2 * used + 1] = skip;
    }
    this.used = used + 1;
    this.lastStart = offset;
    this.lastPlace = place;
    this.lastTag = tag;
    this.lastStored = stored;
    this.lastSkip = skip;
  }

  private nextPiece(): void {
    this.before += this.used;
    this.used = 0;
    this.piece = newPiece(Math.min(2 * this.piece.tags.length, LARGEST_PIECE));
    this.pieces.push(this.piece);
  }
}

// What an append checks is small enough to be compiled into it; the words for a refusal are found afterwards.

/** Whether length and place are numbers of bytes that end within 2^53−1, and the place suits the kind. */
function isRun({ offset, length, kind, place }: Extent): boolean {
  if (!isWhole(length) || offset + length > MAX_DISK_SIZE || place + length > MAX_DISK_SIZE) return false;
  return place === NOWHERE ? isZero(kind) : isWhole(place) && kind !== Kind.unallocated;
}

/** What is wrong with an extent that was not appended. */
function refusal({ offset, length, kind, place }: Extent, end: ByteOffset, spent: boolean): DriftmapError {
  const at = { offset, length, operation: 'build extent map' };
  const bug = (reason: string) => new DriftmapError('internal', reason, at);
  if (spent) return bug('expected a builder that is not finished yet');
  if (offset !== end) return bug(`expected an extent at ${end}, got one at ${offset}`);
  if (!isWhole(length)) return bug(`expected a length in bytes, got ${length}`);
  if (offset + length > MAX_DISK_SIZE)
    return new DriftmapError('limit', 'expected a disk of at most 2^53−1 bytes', at);
  if (place + length > MAX_DISK_SIZE) {
    const reason = `expected data that ends at 2^53−1 or before, got a place of ${place}`;
    return new DriftmapError('limit', reason, at);
  }
  if (place === NOWHERE) return bug(`expected a place for an extent of kind ${kind}, got none`);
  return bug(`expected a place in bytes, or −1 for unallocated and zero, got ${place} of kind ${kind}`);
}

function checkTagFields({ offset, length, depth }: Extent, unit: number): void {
  if (isTagField(unit) && isTagField(depth)) return;
  const reason = `expected a unit and a depth of at most ${TWELVE_BITS}, got ${unit} and ${depth}`;
  throw new DriftmapError('limit', reason, { offset, length });
}

function isTagField(value: number): boolean {
  return isWhole(value) && value <= TWELVE_BITS;
}

/** Checks what a compressed extent says of its cluster; returns the binary logarithm of the cluster's size. */
function checkPacked({ offset, length, stored, cluster, skip }: Extent): number {
  const valid =
    isUint32(stored) &&
    stored > 0 &&
    isUint32(cluster) &&
    isPowerOfTwo(cluster) &&
    isUint32(skip) &&
    skip + length <= cluster;
  if (!valid) {
    const got = `${stored} stored bytes of a cluster of ${cluster}, skipping ${skip}`;
    const reason = `expected a part of one compressed cluster whose size is a power of two, got ${got}`;
    throw new DriftmapError('internal', reason, { offset, length });
  }
  return 31 - Math.clz32(cluster);
}

function isUint32(value: number | undefined): value is number {
  return value !== undefined && isWhole(value) && value <= 0xffffffff;
}

/** A whole number from 0 on. */
function isWhole(value: number): boolean {
  return value >= 0 && Math.floor(value) === value;
}
