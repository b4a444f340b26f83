/**
 * The sparse extent of ESX before version 6.5, a file of snapshots (VMware, "Virtual Disk Format 5.0", section
 * "ESXi Host Sparse Extents"): `COWD`. Little-endian, 32 bits; offsets and sizes are in sectors.
 */

import { DriftmapError } from '../../base/errors.ts';
import { VMDK_MAX_GRAIN_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { type ByteSource, readWhole, viewOf } from './byte-source.ts';
import { SECTOR } from './vmdk-descriptor.ts';
import type { GrainLayout } from './vmdk-grains.ts';
import { readDirectory32 } from './vmdk-sparse.ts';

const HEADER_BYTES = 2048;
const MAGIC = 0x44574f43;
const ENTRIES = 4096;
const FLAGS = 3;

export interface CowdHeader {
  readonly capacity: ByteCount;
  readonly grainBytes: ByteCount;
  readonly directoryOffset: ByteOffset;
  readonly unclean: boolean;
}

export function isCowd(head: Uint8Array): boolean {
  return head.length >= 4 && viewOf(head).getUint32(0, true) === MAGIC;
}

/** @throws DriftmapError `malformed`, `unsupported`, with the offset of the field */
export async function readCowdHeader(source: ByteSource): Promise<CowdHeader> {
  const path = source.name;
  const bytes = new Uint8Array(HEADER_BYTES);
  await readWhole(source, 'the header of an ESX sparse extent', 0, bytes);
  const view = viewOf(bytes);
  const bad = (offset: ByteOffset, reason: string) =>
    new DriftmapError('malformed', `COWD header: ${reason}`, { path, offset });
  if (!isCowd(bytes)) throw bad(0, `expected 'COWD', got ${view.getUint32(0).toString(16).padStart(8, '0')}`);
  const version = view.getUint32(4, true);
  const flags = view.getUint32(8, true);
  if (version !== 1 || flags !== FLAGS) {
    const reason = `COWD header: expected version 1 and flags ${FLAGS}, got ${version} and ${flags}`;
    throw new DriftmapError('unsupported', reason, { path, offset: 4 });
  }
  const capacity = view.getUint32(12, true) * SECTOR;
  if (capacity === 0) throw bad(12, 'expected a capacity of at least one sector, got 0');
  const grainSectors = view.getUint32(16, true);
  const grainBytes = grainSectors * SECTOR;
  if (!isPowerOfTwo(grainSectors) || grainBytes > VMDK_MAX_GRAIN_BYTES) {
    throw bad(16, `expected grains of a power of two sectors, got ${grainSectors}`);
  }
  const directoryOffset = view.getUint32(20, true) * SECTOR;
  if (directoryOffset < HEADER_BYTES) {
    throw bad(20, `expected the grain directory after the header, got offset ${directoryOffset}`);
  }
  const entries = view.getUint32(24, true);
  const needed = Math.ceil(capacity / (grainBytes * ENTRIES));
  if (entries < needed) throw bad(24, `expected at least ${needed} directory entries, got ${entries}`);
  return { capacity, grainBytes, directoryOffset, unclean: view.getUint32(1648, true) !== 0 };
}

export async function cowdLayout(source: ByteSource, header: CowdHeader): Promise<GrainLayout> {
  const { capacity, grainBytes, directoryOffset } = header;
  const count = Math.ceil(capacity / (grainBytes * ENTRIES));
  return {
    source,
    format: 'cowd',
    zeroGrains: false,
    grainBytes,
    entriesPerTable: ENTRIES,
    tableBytes: 4 * ENTRIES,
    directory: await readDirectory32(source, directoryOffset, count),
    redundant: null,
    metadata: [
      { offset: 0, length: HEADER_BYTES },
      { offset: directoryOffset, length: 4 * count },
    ],
  };
}
