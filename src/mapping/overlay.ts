/**
 * A backing chain as maps: one image laid over the one that it is backed by.
 */

import type { ByteOffset } from '../base/units.ts';
import { Cursor } from './cursor.ts';
import { clip, type Extent, type ExtentMap, ExtentMapBuilder, Kind } from './extent-map.ts';

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
    const extent = top.extent(index);
    if (extent.kind !== Kind.unallocated || extent.offset >= bottom.size) {
      builder.append(extent);
      continue;
    }
    const end = extent.offset + extent.length;
    const shown = Math.min(end, bottom.size);
    appendShifted(builder, below, { from: extent.offset, to: shown }, shift);
    if (shown < end) builder.append(clip(extent, shown, end));
  }
  return builder.finish();
}

/** Appends `[from, to)` of the map under the cursor, at the same offsets. */
function appendShifted(
  builder: ExtentMapBuilder,
  cursor: Cursor,
  { from, to }: { from: ByteOffset; to: ByteOffset },
  shift: OverlayShift,
): void {
  const { map } = cursor;
  for (let index = cursor.seek(from); index < map.count && map.startOf(index) < to; index++) {
    const part: Extent = clip(map.extent(index), from, to);
    builder.append({ ...part, unit: part.unit + shift.units, depth: part.depth + shift.depth });
  }
}
