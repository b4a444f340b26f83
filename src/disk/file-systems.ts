/** Which file system is on a unit, and how it is opened. */

import { DriftmapError } from '../base/errors.ts';
import type { LogicalUnit } from '../lu/logical-unit.ts';
import type { FileSystem } from './containers/container.ts';
import { type FileSystemType, fileSystemTypes } from './containers/file-system-types.ts';
import { readPhysicalVolume } from './containers/lvm-label.ts';
import { readPartitions } from './containers/partitions.ts';

/** The file system on a unit, told by its magic; null where there is none that is known. */
export async function findFileSystem(unit: LogicalUnit): Promise<FileSystemType | null> {
  for (const type of fileSystemTypes) if (await type.is(unit)) return type;
  return null;
}

/**
 * Opens the file system of a kind on a unit.
 * @throws DriftmapError `not-found` where there is another, or none, saying what there is; and what opening throws
 */
export async function openFileSystem(unit: LogicalUnit, kind: FileSystemType['kind']): Promise<FileSystem> {
  const type = fileSystemTypes.find((each) => each.kind === kind);
  if (type !== undefined && (await type.is(unit))) return type.open(unit);
  const reason = `no ${kind} file system: ${await whatIsThere(unit)}`;
  throw new DriftmapError('not-found', reason, { path: unit.name });
}

async function whatIsThere(unit: LogicalUnit): Promise<string> {
  const other = await findFileSystem(unit);
  if (other !== null) return `there is ${other.kind}`;
  const { table, partitions } = await readPartitions(unit);
  if (partitions.length > 0) {
    return `there are partitions: ${partitions.map(({ number }) => `${table}${number}`).join(', ')}`;
  }
  const volume = await readPhysicalVolume(unit, () => {});
  return volume === null ? 'there is nothing that driftmap knows' : 'there is a physical volume of LVM2';
}
