/**
 * Directories of VMFS 3 and 5: files of entries of 140 bytes (vmfs-tools, libvmfs/vmfs_dirent.h; dissect.vmfs,
 * c_vmfs.py, FS3_DirEntry): type, descriptor, generation and 128 bytes of name. Entries whose type or
 * descriptor is 0 are free.
 */

import { DriftmapError } from '../../base/errors.ts';
import { VMFS_MAX_DIRECTORY_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, KiB } from '../../base/units.ts';
import type { ExtentMap } from '../../mapping/extent-map.ts';
import { readName, viewOf } from '../formats/byte-source.ts';
import { nameOf } from './vmfs-address.ts';
import { DescriptorField, FileType, type VmfsDescriptor } from './vmfs-descriptor.ts';
import { readMapped, readVmfsMap } from './vmfs-map.ts';
import type { VmfsTables } from './vmfs-tables.ts';

const ENTRY_BYTES = 140;
/** Whole entries, in about half a megabyte. */
const READ_BYTES = ENTRY_BYTES * 4 * KiB;

export interface VmfsEntry {
  readonly name: string;
  /** As in descriptors. */
  readonly type: number;
  readonly descriptor: number;
  readonly generation: number;
  /** Where on the unit the entry stands. */
  readonly place: ByteOffset;
}

/**
 * The entries of a directory in their order, some thousands at a time, without the two that stand for itself and
 * its parent.
 * @throws DriftmapError `malformed`, `limit`
 */
export async function* directoryEntries(
  tables: VmfsTables,
  directory: VmfsDescriptor,
): AsyncGenerator<VmfsEntry[], undefined> {
  const { path } = tables;
  const { id, size } = directory;
  const offset = directory.place + DescriptorField.size;
  if (size % ENTRY_BYTES !== 0) {
    const reason = `directory ${nameOf(id)}: expected whole entries of ${ENTRY_BYTES} bytes, got ${size} bytes`;
    throw new DriftmapError('malformed', reason, { path, offset });
  }
  if (size > VMFS_MAX_DIRECTORY_BYTES) {
    const reason = `directory ${nameOf(id)}: expected at most ${VMFS_MAX_DIRECTORY_BYTES} bytes, got ${size}`;
    throw new DriftmapError('limit', reason, { path, offset });
  }
  const map = await readVmfsMap(tables, directory);
  for (let at = 0; at < size; at += READ_BYTES) {
    const bytes = new Uint8Array(Math.min(READ_BYTES, size - at));
    await readMapped(tables.volume.source, 'a directory', map, at, bytes);
    yield entriesOf(path, map, at, bytes);
  }
}

function entriesOf(path: string, map: ExtentMap, from: ByteOffset, bytes: Uint8Array): VmfsEntry[] {
  const entries: VmfsEntry[] = [];
  const view = viewOf(bytes);
  for (let at = 0; at < bytes.length; at += ENTRY_BYTES) {
    const type = view.getUint32(at, true);
    const descriptor = view.getUint32(at + 4, true);
    if (type === 0 || descriptor === 0) continue;
    const extent = map.indexAt(from + at);
    const place = map.placeOf(extent) + from + at - map.startOf(extent);
    if (type < FileType.directory || type > FileType.rawDevice) {
      const reason = `directory entry: expected a type from 2 to 6, got ${type}`;
      throw new DriftmapError('malformed', reason, { path, offset: place });
    }
    const name = nameIn(bytes.subarray(at + 12, at + ENTRY_BYTES), path, place + 12);
    if (name === '.' || name === '..') continue;
    entries.push({ name, type, descriptor, generation: view.getUint32(at + 8, true), place });
  }
  return entries;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A name up to its first zero; it must be one part of a path. */
function nameIn(bytes: Uint8Array, path: string, offset: ByteOffset): string {
  const end = bytes.indexOf(0);
  let name = '';
  try {
    name = utf8.decode(end < 0 ? bytes : bytes.subarray(0, end));
  } catch {
    // Not UTF-8: the same error as below.
  }
  if (name !== '' && !name.includes('/')) return name;
  const reason = `directory entry: expected a name in UTF-8 without '/', got '${name}'`;
  throw new DriftmapError('malformed', reason, { path, offset });
}

/**
 * What a symbolic link holds.
 * @throws DriftmapError `malformed`
 */
export async function readLink(tables: VmfsTables, link: VmfsDescriptor, most: ByteCount): Promise<string> {
  const { path } = tables;
  const offset = link.place;
  if (link.size < 1 || link.size > most) {
    const reason = `symbolic link ${nameOf(link.id)}: expected 1 to ${most} bytes, got ${link.size}`;
    throw new DriftmapError('malformed', reason, { path, offset: offset + DescriptorField.size });
  }
  const map = await readVmfsMap(tables, link);
  const bytes = new Uint8Array(link.size);
  await readMapped(tables.volume.source, 'a symbolic link', map, 0, bytes);
  return readName(bytes, most, { path, offset });
}
