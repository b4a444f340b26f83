/** What of a disk was written between two points, as the journal says: nothing of the disk is read. */

import { assert, DriftmapError } from '../base/errors.ts';
import type { ByteRange } from '../base/units.ts';
import type { Core } from './core.ts';
import { isWrite, type Sequence } from './record.ts';

/**
 * Ranges in the order of their writing; they may overlap.
 * @throws DriftmapError `not-found` when the journal does not reach back or forth that far
 */
export function* changedRanges(
  core: Core,
  disk: number,
  { from, to }: { readonly from: Sequence; readonly to: Sequence },
): Generator<ByteRange, undefined> {
  const oldest = Math.min(core.undo.first, core.redo.first) - 1;
  const newest = Math.max(core.undo.last, core.redo.last, core.high);
  if (!(from >= oldest && from <= to && to <= newest)) {
    const reason = `expected two points of ${oldest} to ${newest}, got ${from} to ${to}`;
    throw new DriftmapError('not-found', reason, { path: core.path });
  }
  let reached = from;
  for (const { stream, segment, first, last } of core.history(from, to)) {
    assert(first === reached + 1, 'the records between two points adjoin', { path: core.path });
    reached = last;
    const table = stream.readers.of(segment).records();
    for (let i = first - segment.first; i <= last - segment.first; i++) {
      if (!isWrite(table.kinds[i]!) || table.disks[i] !== disk) continue;
      yield { offset: table.offsets[i]!, length: table.lengths[i]! };
    }
  }
  assert(reached === to, `the journal tells all changes up to ${to}`, { path: core.path });
}
