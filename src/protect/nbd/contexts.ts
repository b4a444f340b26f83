/** Metadata contexts of an export, and which of them a query means (proto.md, "Metadata querying"; QEMU's docs/interop/nbd.txt). */

import type { ByteRange } from '../../base/units.ts';
import type { UnitExtent } from '../../lu/logical-unit.ts';
import { ALLOCATION, DIRTY, DIRTY_BITMAP, State } from '../../lu/nbd/protocol.ts';
import type { DirtyRun, NbdBitmap, NbdExport } from './nbd-export.ts';

export interface MetaContext {
  readonly id: number;
  readonly name: string;
  /** Null for `base:allocation`. */
  readonly bitmap: NbdBitmap | null;
}

export function contextsOf(exported: NbdExport): MetaContext[] {
  const bitmaps = [...(exported.bitmaps ?? [])];
  return [
    { id: 1, name: ALLOCATION, bitmap: null },
    ...bitmaps.map(([name, bitmap], index) => ({ id: 2 + index, name: `${DIRTY_BITMAP}${name}`, bitmap })),
  ];
}

/** To list, a query may be a wildcard: a namespace, or QEMU's `qemu:dirty-bitmap:`; no query means all. */
export function listed(all: readonly MetaContext[], queries: readonly string[]): readonly MetaContext[] {
  if (queries.length === 0) return all;
  const wildcards = ['base:', 'qemu:', DIRTY_BITMAP];
  return all.filter(({ name }) =>
    queries.some((query) => query === name || (wildcards.includes(query) && name.startsWith(query))),
  );
}

/** To select, only whole names count. */
export function selected(all: readonly MetaContext[], queries: readonly string[]): readonly MetaContext[] {
  return all.filter(({ name }) => queries.includes(name));
}

/** Runs with the flags that the protocol has for them. */
export interface FlaggedRun {
  readonly length: number;
  readonly flags: number;
}

/** What a context says of a range: merged runs from its start, at least one, none past its end. */
export async function describe(
  exported: NbdExport,
  { bitmap }: MetaContext,
  range: ByteRange,
  limit: number,
): Promise<FlaggedRun[]> {
  if (bitmap === null) return merged(await exported.extents(range, limit), range, limit, allocationFlags);
  return merged(await bitmap.runs(range, limit), range, limit, (run) => (run.dirty ? DIRTY : 0));
}

/**
 * What reads as zeros is told as a hole too: to write there may need storage, and only what is no hole may never
 * fail for want of it.
 */
function allocationFlags({ kind }: UnitExtent): number {
  return kind === 'data' ? 0 : State.hole | State.zero;
}

function merged<R extends UnitExtent | DirtyRun>(
  runs: readonly R[],
  range: ByteRange,
  limit: number,
  flagsOf: (run: R) => number,
): FlaggedRun[] {
  const end = range.offset + range.length;
  const found: FlaggedRun[] = [];
  for (const run of runs) {
    const length = Math.min(run.offset + run.length, end) - run.offset;
    const flags = flagsOf(run);
    const last = found.at(-1);
    if (last?.flags === flags) found[found.length - 1] = { flags, length: last.length + length };
    else if (found.length < limit) found.push({ flags, length });
    else break;
  }
  return found;
}
