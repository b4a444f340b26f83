/** Reads files of NTFS volumes through their maps. */

import type { FileEntry } from '../../src/disk/containers/container.ts';
import { openNtfs } from '../../src/disk/containers/ntfs.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';

export const fuzzSeconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 4);

export function openBytes(bytes: Uint8Array) {
  return openNtfs(new BytesUnit(bytes));
}

/** Extent by extent, with nothing kept between files: thousands of volumes are read in this way. */
export async function contentsOf(unit: LogicalUnit, entry: FileEntry): Promise<Buffer> {
  const map = await entry.map();
  const bytes = Buffer.alloc(map.size);
  for (const { offset, length, kind, place } of map.extents()) {
    if (kind === Kind.data) await unit.read(place, bytes.subarray(offset, offset + length));
    else if (kind !== Kind.zero) throw new Error(`${entry.path}: expected data and zeros, got kind ${kind}`);
  }
  return bytes;
}

export async function listed(files: AsyncIterable<FileEntry>): Promise<FileEntry[]> {
  const found: FileEntry[] = [];
  for await (const entry of files) found.push(entry);
  return found;
}

/** Bytes that are the same for a seed, different at every place, and never a whole sector of zeros. */
export function patterned(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = (seed * 2654435761) >>> 0;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}
