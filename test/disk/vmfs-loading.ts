/** What the tests of VMFS share: maps against the naive reading, contents, refusals. */

import { DriftmapError } from '../../src/base/errors.ts';
import type { FileEntry, FileSystem } from '../../src/disk/containers/container.ts';
import { openVmfs } from '../../src/disk/containers/vmfs.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { type ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import type { NaiveFile } from './vmfs-naive.ts';

export const fuzzSeconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 4);

export async function filesOf(fs: FileSystem): Promise<Map<string, FileEntry>> {
  const found = new Map<string, FileEntry>();
  for await (const file of fs.files()) if (!found.has(file.path)) found.set(file.path, file);
  return found;
}

export async function contentsOf(unit: LogicalUnit, map: ExtentMap): Promise<Uint8Array> {
  const bytes = new Uint8Array(map.size);
  await new DiskReader({ name: unit.name, map, units: [unit] }).readInto(0, bytes);
  return bytes;
}

export async function read(unit: LogicalUnit, path: string): Promise<Uint8Array> {
  const file = await (await openVmfs(unit)).lookup(path);
  return contentsOf(unit, await file.map());
}

/** The first difference between a map and a naive reading; null when they say the same. */
export function difference(map: ExtentMap, { size, step, places }: NaiveFile): string | null {
  if (map.size !== size) return `size ${map.size} and ${size}`;
  for (const [i, place] of places.entries()) {
    const { kind, place: found } = map.explain(i * step);
    const says = kind === Kind.data ? found : -1;
    if (says !== place) return `at ${i * step}: ${says} and ${place}`;
  }
  return null;
}

/** Every file's map, or the error of ours that opening, listing or mapping ends in; anything else is thrown. */
export async function mapsOrRefusal(unit: LogicalUnit): Promise<Map<string, ExtentMap> | DriftmapError> {
  try {
    const maps = new Map<string, ExtentMap>();
    for (const [path, file] of await filesOf(await openVmfs(unit))) {
      if (file.kind !== 'rdm') maps.set(path, await file.map());
    }
    return maps;
  } catch (error) {
    if (error instanceof DriftmapError && error.kind !== 'internal') return error;
    throw error;
  }
}

export async function refusalOf(act: () => Promise<unknown>): Promise<DriftmapError> {
  try {
    await act();
  } catch (error) {
    if (error instanceof DriftmapError) return error;
    throw error;
  }
  throw new Error('expected an error');
}
