/**
 * Maps laid end to end. An image lies in a file, the file on a logical volume, the volume on partitions of
 * a logical unit: each step is a map, and `compose` makes one map of two, from the disk to where its bytes
 * really lie.
 *
 * An extent of the outer map is looked up in the inner one at its *place*, cut where the inner extents end,
 * and each part takes the inner unit and place. The kinds combine so that the disk reads the same:
 *
 *   outer         inner                    result
 *   unallocated   (not looked at)          unallocated
 *   zero          data or zero             zero; its place moves along
 *   zero          otherwise, or past end   zero without a place
 *   data          data                     data
 *   data          zero, unallocated        zero
 *   data          compressed               compressed, with more of the inner cluster to skip
 *   compressed    all stored bytes in one  compressed, its place moved
 *                 run of plain data
 *   compressed    otherwise                stays on the outer unit's view, when there is one (see below)
 *
 * Data that falls on an unallocated inner run becomes zero, not unallocated: the outer image *has* those
 * bytes, and were they called unallocated, a backing image laid under the result (`overlay`) would show
 * through where zeros belong. So composing and overlaying may be done in either order.
 *
 * Depth is the outer extent's: it counts layers of the outer image's chain, and says nothing of how the
 * inner map came about.
 *
 * A compressed cluster whose stored bytes are not together, because the file it lies in is fragmented there,
 * has no single place on the inner units. A *view* is a logical unit of the result that reads as the outer
 * unit does, through its inner map; such an extent keeps its place and moves to the view.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { Cursor } from './cursor.ts';
import { clip, type Extent, type ExtentMap, ExtentMapBuilder, isPacked, Kind } from './extent-map.ts';

export interface ComposeOptions {
  /**
   * Index in the result's unit table of the view of the outer unit (one number for all, or one per outer
   * unit); null or absent where there is none.
   */
  readonly view?: number | null | readonly (number | null)[];
}

/** A map for every unit of the outer map, or one per unit of it; null leaves that unit's extents as they are. */
export type InnerMaps = ExtentMap | readonly (ExtentMap | null)[];

/**
 * The outer map with its places resolved through the inner one. Unit numbers of the result are those that
 * the inner maps use, beside those of outer units left as they are: the caller sees to it that they mean
 * one table. Takes O((n + result) · log m) time; monotone places cost less.
 *
 * Composing is associative where neither order is refused: a compressed cluster in pieces halfway may be
 * whole in the end, and a misplaced extent that nothing refers to is seen in one order only.
 *
 * A compressed cluster is cut short at the inner map's end: formats that count stored bytes in sectors may
 * count past the end of their file.
 *
 * @throws DriftmapError `malformed` when data is placed past the end of the inner map; `unsupported` when
 *   the bytes of a compressed cluster are not together and there is no view; both with the virtual offset.
 */
export function compose(outer: ExtentMap, inner: InnerMaps, options: ComposeOptions = {}): ExtentMap {
  return new Composer(outer, inner, options).compose();
}

class Composer {
  private readonly outer: ExtentMap;
  private readonly inner: InnerMaps;
  private readonly options: ComposeOptions;
  private readonly cursors: (Cursor | null | undefined)[] = [];
  private readonly builder: ExtentMapBuilder;

  constructor(outer: ExtentMap, inner: InnerMaps, options: ComposeOptions) {
    this.outer = outer;
    this.inner = inner;
    this.options = options;
    this.builder = new ExtentMapBuilder(outer.count);
  }

  compose(): ExtentMap {
    const { outer, builder } = this;
    const { places } = outer;
    for (let index = 0; index < outer.count; index++) {
      const cursor = places[index]! < 0 ? null : this.cursorOf(outer.unitOf(index));
      const kind = outer.kindOf(index);
      if (cursor === null) {
        if (isPacked(kind)) builder.append(outer.extent(index));
        else this.appendAsIs(index, outer.startOf(index), places[index]!);
      } else if (isPacked(kind)) {
        this.appendPacked(outer.extent(index), cursor);
      } else if (kind === Kind.zero) {
        this.appendZero(index, cursor);
      } else {
        this.appendData(index, cursor);
      }
    }
    return builder.finish();
  }

  /** The place in an outer unit's inner map; null where the unit stays as it is. */
  private cursorOf(unit: number): Cursor | null {
    const known = this.cursors[unit];
    if (known !== undefined) return known;
    const map = isMap(this.inner) ? this.inner : this.inner[unit];
    assert(map !== undefined, `expected an inner map or null for unit ${unit}`);
    const cursor = map && new Cursor(map);
    this.cursors[unit] = cursor;
    return cursor;
  }

  // The methods below are called a million times for a million extents: they pass numbers and make no objects.

  /** Appends a plain outer extent from `offset` on, with nothing looked up. */
  private appendAsIs(index: number, offset: ByteOffset, place: ByteOffset): void {
    const { outer } = this;
    const length = outer.endOf(index) - offset;
    this.builder.appendPlain(
      offset,
      length,
      outer.kindOf(index),
      outer.unitOf(index),
      place,
      outer.depthOf(index),
    );
  }

  private appendData(index: number, cursor: Cursor): void {
    const { outer } = this;
    const length = outer.endOf(index) - outer.startOf(index);
    if (outer.placeOf(index) + length > cursor.map.size) {
      checkInside(outer.extent(index), length, cursor.map);
    }
    this.appendParts(index, length, cursor, false);
  }

  /** A zero extent's place tells where it would be written: there need be nothing there yet. */
  private appendZero(index: number, cursor: Cursor): void {
    const { outer } = this;
    const start = outer.startOf(index);
    const length = outer.endOf(index) - start;
    const inside = Math.min(length, Math.max(0, cursor.map.size - outer.placeOf(index)));
    if (inside > 0) this.appendParts(index, inside, cursor, true);
    if (inside < length) this.appendAsIs(index, start + inside, -1);
  }

  /** Appends what the first `length` bytes of a placed, plain outer extent are in the inner map. */
  private appendParts(outerIndex: number, length: ByteCount, cursor: Cursor, asZero: boolean): void {
    const { outer, builder } = this;
    const { map } = cursor;
    const { starts } = map;
    const place = outer.placeOf(outerIndex);
    const depth = outer.depthOf(outerIndex);
    const end = place + length;
    const moved = outer.startOf(outerIndex) - place;
    let at = place;
    for (let index = cursor.seek(place); at < end; index++) {
      const to = Math.min(starts[index + 1]!, end);
      const kind = map.kindOf(index);
      const packed = isPacked(kind);
      if (packed && !asZero) {
        builder.append({ ...clip(map.extent(index), at, to), offset: at + moved, depth });
      } else {
        const found = packed ? -1 : map.placeOf(index);
        const inner = found < 0 ? -1 : found + (at - starts[index]!);
        const result = asZero || kind !== Kind.data ? Kind.zero : Kind.data;
        builder.appendPlain(at + moved, to - at, result, map.unitOf(index), inner, depth);
      }
      at = to;
    }
  }

  private appendPacked(extent: Extent, cursor: Cursor): void {
    const { map } = cursor;
    checkInside(extent, 1, map);
    const { place } = extent;
    const stored = Math.min(extent.stored!, map.size - place);
    const index = cursor.seek(place);
    if (plainRunEnd(map, index, place + stored) >= place + stored) {
      const unit = map.unitOf(index);
      const moved = map.placeOf(index) + (place - map.startOf(index));
      this.builder.append({ ...extent, unit, place: moved, stored });
      return;
    }
    const view = this.viewOf(extent.unit);
    if (view === null) {
      const reason = `a compressed cluster lies in pieces: expected its ${stored} bytes at ${place} of unit ${extent.unit} in one run; copy the image to make it whole`;
      throw new DriftmapError('unsupported', reason, { offset: extent.offset, length: extent.length });
    }
    this.builder.append({ ...extent, unit: view, stored });
  }

  private viewOf(unit: number): number | null {
    const { view } = this.options;
    return (typeof view === 'object' && view !== null ? view[unit] : view) ?? null;
  }
}

function isMap(inner: InnerMaps): inner is ExtentMap {
  return !Array.isArray(inner);
}

/**
 * How far plain data goes on from the beginning of the extent at `index`, on one unit and without a jump; no
 * further than is `wanted`. Extents of different depth may continue one another.
 */
function plainRunEnd(map: ExtentMap, index: number, wanted: ByteOffset): ByteOffset {
  const unit = map.unitOf(index);
  const gap = map.placeOf(index) - map.startOf(index);
  let end = map.startOf(index);
  for (let at = index; at < map.count && end < wanted; at++) {
    const continues =
      map.kindOf(at) === Kind.data && map.unitOf(at) === unit && map.placeOf(at) - map.startOf(at) === gap;
    if (!continues) break;
    end = map.endOf(at);
  }
  return end;
}

/** The first `needed` bytes at an extent's place have to lie within the map that they are looked up in. */
function checkInside({ offset, length, place, unit }: Extent, needed: ByteCount, map: ExtentMap): void {
  if (place + needed <= map.size) return;
  const reason = `expected data within the ${map.size} bytes of unit ${unit}, got a place of ${place}`;
  throw new DriftmapError('malformed', reason, { offset, length });
}
