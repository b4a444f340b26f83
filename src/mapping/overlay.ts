/**
 * A backing chain as maps: one image laid over the one that it is backed by.
 */

import type { ByteOffset } from '../base/units.ts';
import { Cursor } from './cursor.ts';
import { clip, type ExtentMap, ExtentMapBuilder, isPacked, Kind } from './extent-map.ts';

/** What is added to the bottom map's unit indices and depths, so that they follow those of the top. */
export interface OverlayShift {
  /** How many units the top map's disk has. */
  readonly units: number;
  /** How many layers the top map holds: 1 for a single image. */
  readonly depth: number;
}

/**
 * The map of `top` where it says something, and of `bottom` where `top` is unallocated. The result has the
 * size of `top`. A bottom that ends earlier reads as zeros beyond its end, a longer one is cut.
 *
 * Depths are those of `qemu-img map`: a run that no layer allocates has the depth of the last layer that
 * was asked, the deepest one to which every layer from the top down is long enough to reach. Beyond the
 * end of `bottom` that is the top's own.
 *
 * Build a chain from its base upwards: `overlay(top, overlay(middle, base))`. The other way round is wrong
 * where the middle is shorter than the base: beyond the middle's end the disk reads as zeros, and not as
 * the base.
 *
 * @throws DriftmapError `limit` when a shifted unit or depth, or the number of extents, passes its cap.
 */
export function overlay(top: ExtentMap, bottom: ExtentMap, shift: OverlayShift): ExtentMap {
  const builder = new ExtentMapBuilder(top.count + 1);
  const below = new Cursor(bottom);
  for (let index = 0; index < top.count; index++) {
    const start = top.startOf(index);
    const kind = top.kindOf(index);
    if (isPacked(kind)) {
      builder.append(top.extent(index));
      continue;
    }
    const end = top.endOf(index);
    const shown = kind === Kind.unallocated ? Math.min(end, bottom.size) : start;
    if (shown > start) appendShifted(builder, below, start, shown, shift);
    if (shown >= end) continue;
    // Unallocated extents have no place that would have to move along.
    const from = Math.max(start, shown);
    builder.appendPlain(from, end - from, kind, top.unitOf(index), top.placeOf(index), top.depthOf(index));
  }
  return builder.finish();
}

/** Appends `[from, to)` of the map under the cursor, at the same offsets. Makes no objects, but for compressed clusters. */
function appendShifted(
  builder: ExtentMapBuilder,
  cursor: Cursor,
  from: ByteOffset,
  to: ByteOffset,
  shift: OverlayShift,
): void {
  const { map } = cursor;
  let at = from;
  for (let index = cursor.seek(from); at < to; index++) {
    const end = Math.min(map.endOf(index), to);
    const kind = map.kindOf(index);
    const unit = map.unitOf(index) + shift.units;
    const depth = map.depthOf(index) + shift.depth;
    if (isPacked(kind)) {
      builder.append({ ...clip(map.extent(index), at, end), unit, depth });
    } else {
      const place = map.placeOf(index);
      builder.appendPlain(
        at,
        end - at,
        kind,
        unit,
        place < 0 ? -1 : place + (at - map.startOf(index)),
        depth,
      );
    }
    at = end;
  }
}
