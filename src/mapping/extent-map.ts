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
import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';

/** What an extent is. Compressed kinds name their codec: one extent never spans two compressed clusters. */
export const Kind = { unallocated: 0, zero: 1, data: 2, deflate: 3, zstd: 4 } as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

/** Tag layout, low bits first: 3 kind, 5 log2 of the unpacked cluster size, 12 unit, 12 depth. */
const KIND_BITS = 0x7;
const CLUSTER_SHIFT = 3;
const UNIT_SHIFT = 8;
const DEPTH_SHIFT = 20;
const TWELVE_BITS = 0xfff;

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

  /** Index of the extent that holds `offset`, by binary search. `offset` must lie in `[0, size)`. */
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
  *extents(range: ByteRange = { offset: 0, length: this.size }): Generator<Extent, undefined> {
    const end = range.offset + range.length;
    this.checkRange(range);
    if (range.length === 0) return;
    for (let index = this.indexAt(range.offset); index < this.count; index++) {
      if (this.startOf(index) >= end) return;
      yield clip(this.extent(index), range.offset, end);
    }
  }

  /** The one extent that holds a byte, clipped to begin at it: where does this byte lie, and for how long? */
  explain(offset: ByteOffset): Extent {
    this.checkRange({ offset, length: 1 });
    return clip(this.extent(this.indexAt(offset)), offset, this.size);
  }

  private checkRange({ offset, length }: ByteRange): void {
    const inside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      offset + length <= this.size;
    if (!inside) {
      throw new DriftmapError('argument', `expected a range within the disk's ${this.size} bytes`, {
        offset,
        length,
      });
    }
  }
}

export function isPacked(kind: Kind): boolean {
  return kind === Kind.deflate || kind === Kind.zstd;
}

/** Reads as zeros without reading. */
export function isZero(kind: Kind): boolean {
  return kind === Kind.unallocated || kind === Kind.zero;
}

/** The part of an extent within `[from, to)`, its place (or its skip) moved along. */
export function clip(extent: Extent, from: ByteOffset, to: ByteOffset): Extent {
  const offset = Math.max(extent.offset, from);
  const end = Math.min(extent.offset + extent.length, to);
  const moved = offset - extent.offset;
  if (isPacked(extent.kind)) return { ...extent, offset, length: end - offset, skip: extent.skip! + moved };
  return { ...extent, offset, length: end - offset, place: extent.place < 0 ? -1 : extent.place + moved };
}

/**
 * Builds a map by appending adjoining extents in ascending order; neighbours that continue one another are
 * merged. Memory grows by half at a time; `finish` trims. More than `MAX_EXTENTS` is a `limit` error.
 */
export class ExtentMapBuilder {
  private starts: Float64Array;
  private places: Float64Array;
  private tags: Uint32Array;
  private packed: Uint32Array | null = null;
  private count = 0;
  private end: ByteOffset = 0;

  constructor(capacity = 1024) {
    this.starts = new Float64Array(capacity);
    this.places = new Float64Array(capacity);
    this.tags = new Uint32Array(capacity);
  }

  /** Where the next extent must begin. */
  get size(): ByteCount {
    return this.end;
  }

  append(extent: Extent): void {
    const { offset, length, kind, unit, depth } = extent;
    assert(offset === this.end, `expected an extent at ${this.end}, got ${offset}`);
    assert(length >= 0 && unit <= TWELVE_BITS && depth <= TWELVE_BITS, 'extent fields fit their tag');
    if (offset + length > MAX_DISK_SIZE)
      throw new DriftmapError('limit', 'offsets reach past 2^53−1', { offset, length });
    if (length === 0) return;
    if (isPacked(kind)) this.appendPacked(extent);
    else
      this.appendPlain(
        offset,
        length,
        (kind | (unit << UNIT_SHIFT) | (depth << DEPTH_SHIFT)) >>> 0,
        extent.place,
      );
    this.end = offset + length;
  }

  private appendPlain(offset: ByteOffset, length: ByteCount, tag: number, place: ByteOffset): void {
    const last = this.count - 1;
    if (last >= 0 && this.tags[last] === tag) {
      const lastPlace = this.places[last]!;
      const continues = lastPlace < 0 ? place < 0 : place === lastPlace + (offset - this.starts[last]!);
      if (continues) return;
    }
    this.push(offset, tag, place);
    if (this.packed) this.packed.fill(0, 2 * this.count - 2, 2 * this.count);
    assert(length > 0, 'length is positive');
  }

  private appendPacked({ offset, kind, unit, depth, place, stored, cluster, skip }: Extent): void {
    assert(
      stored !== undefined && cluster !== undefined && skip !== undefined,
      'a compressed extent says how it is stored',
    );
    const bits = Math.log2(cluster);
    assert(Number.isInteger(bits) && bits < 32, 'a compressed cluster is a power of two');
    this.push(
      offset,
      (kind | (bits << CLUSTER_SHIFT) | (unit << UNIT_SHIFT) | (depth << DEPTH_SHIFT)) >>> 0,
      place,
    );
    this.packed ??= new Uint32Array(2 * this.tags.length);
    this.packed[2 * this.count - 2] = stored;
    this.packed[2 * this.count - 1] = skip;
  }

  private push(offset: ByteOffset, tag: number, place: ByteOffset): void {
    if (this.count === this.tags.length) this.grow();
    this.starts[this.count] = offset;
    this.places[this.count] = place;
    this.tags[this.count] = tag;
    this.count++;
  }

  private grow(): void {
    if (this.count >= MAX_EXTENTS)
      throw new DriftmapError('limit', `more than ${MAX_EXTENTS} extents in one map`);
    const capacity = Math.min(MAX_EXTENTS, Math.ceil(this.count * 1.5) + 16);
    this.starts = resized(this.starts, capacity, Float64Array);
    this.places = resized(this.places, capacity, Float64Array);
    this.tags = resized(this.tags, capacity, Uint32Array);
    if (this.packed) this.packed = resized(this.packed, 2 * capacity, Uint32Array);
  }

  /** The finished map; the builder is spent. */
  finish(): ExtentMap {
    const { count } = this;
    const starts = shared(this.starts.subarray(0, count), count + 1, Float64Array);
    starts[count] = this.end;
    const places = shared(this.places.subarray(0, count), count, Float64Array);
    const tags = shared(this.tags.subarray(0, count), count, Uint32Array);
    const packed = this.packed && shared(this.packed.subarray(0, 2 * count), 2 * count, Uint32Array);
    this.starts = this.places = new Float64Array(0);
    this.tags = new Uint32Array(0);
    this.packed = null;
    return ExtentMap.fromHandle({ starts, places, tags, packed });
  }
}

function resized<A extends Float64Array | Uint32Array>(
  from: A,
  length: number,
  Type: new (length: number) => A,
): A {
  const to = new Type(length);
  to.set(from);
  return to;
}

function shared<A extends Float64Array | Uint32Array>(
  from: A,
  length: number,
  Type: { new (buffer: SharedArrayBuffer): A; readonly BYTES_PER_ELEMENT: number },
): A {
  const to = new Type(new SharedArrayBuffer(length * Type.BYTES_PER_ELEMENT));
  to.set(from);
  return to;
}
