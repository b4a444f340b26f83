/** Reads files of NTFS volumes through their maps. */

import type { FileEntry } from '../../src/disk/containers/container.ts';
import { openNtfs } from '../../src/disk/containers/ntfs.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { BytesUnit } from './images.ts';

export const fuzzSeconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 4);

export function openBytes(bytes: Uint8Array) {
  return openNtfs(new BytesUnit(bytes));
}

export async function contentsOf(unit: LogicalUnit, entry: FileEntry): Promise<Buffer> {
  const map = await entry.map();
  const bytes = Buffer.alloc(map.size);
  await new DiskReader({ name: entry.path, map, units: [unit] }).readInto(0, bytes);
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
