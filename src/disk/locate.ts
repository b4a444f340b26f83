/** Where the bytes of a range lie, for whoever is to read or write them there. */

import type { ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { isPacked, Kind } from '../mapping/extent-map.ts';
import type { VirtualDisk } from './virtual-disk.ts';

export interface LocatedRun extends ByteRange {
  /** `absent`: past the end of the disk, where it counts as zeros. */
  readonly kind: 'data' | 'zero' | 'unallocated' | 'compressed' | 'absent';
  /** The unit's name and the offset there; absent where there is no storage. A zero run may have some. */
  readonly unit?: string;
  readonly place?: ByteOffset;
  /** Compressed runs: bytes stored at `place`, of which the run is a part when they are unpacked. */
  readonly stored?: ByteCount;
}

/** The runs of a range in order, without a gap; nothing is kept of those that were given. */
export function* locate(disk: VirtualDisk, { offset, length }: ByteRange): Generator<LocatedRun, undefined> {
  const end = offset + length;
  const inside = Math.max(0, Math.min(end, disk.size) - offset);
  if (inside > 0) {
    for (const extent of disk.map.extents({ offset, length: inside })) {
      const run = { offset: extent.offset, length: extent.length, kind: nameOf(extent.kind) };
      if (extent.place < 0) {
        yield run;
        continue;
      }
      const at = { unit: disk.units[extent.unit]!.name, place: extent.place };
      yield isPacked(extent.kind) ? { ...run, ...at, stored: extent.stored! } : { ...run, ...at };
    }
  }
  if (inside < length) yield { offset: offset + inside, length: length - inside, kind: 'absent' };
  return undefined;
}

function nameOf(kind: Kind): LocatedRun['kind'] {
  if (isPacked(kind)) return 'compressed';
  if (kind === Kind.data) return 'data';
  return kind === Kind.zero ? 'zero' : 'unallocated';
}
