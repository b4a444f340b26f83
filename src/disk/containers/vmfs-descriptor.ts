/**
 * File descriptors of VMFS 3 and 5, its inodes: 2048 bytes each in .fdc.sf (vmfs-tools, libvmfs/vmfs_inode.h and
 * vmfs_metadata.h; dissect.vmfs, c_vmfs.py, FS3_DiskLock and FS3_FileMetadata).
 *
 * The first 512 bytes are the lock under which hosts change it, and say where on the volume it is; the next 512
 * are what one expects of an inode; the last 1024 are 256 block ids, or the contents of a small file.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { littleUint64 } from '../formats/byte-source.ts';
import { nameOf } from './vmfs-address.ts';

export const DESCRIPTOR_BYTES = 2048;
/** Where the block ids, or the contents, begin in it. */
export const DESCRIPTOR_DATA = 1024;
export const DESCRIPTOR_POINTERS = 256;
const LOCK_MAGIC = 0x10c00001;
const META = 512;

export const FileType = { directory: 2, file: 3, link: 4, system: 5, rawDevice: 6 } as const;

/** What the block ids in a descriptor are: dissect.vmfs calls it the zero level address type. */
export const Addressing = {
  file: 1,
  sub: 2,
  pointer: 3,
  pointer2: 5,
  /** VMFS 5: pointer blocks of pointer blocks. */
  double: 0x10d0,
  /** VMFS 5: the contents stand in the descriptor. */
  resident: 0x10d1,
} as const;

export interface VmfsDescriptor {
  readonly id: number;
  /** Another one whenever the descriptor is given to another file. */
  readonly generation: number;
  /** One of `FileType`. */
  readonly type: number;
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  /** Blocks that the file has, and how many of them are to be zeroed. */
  readonly blockCount: number;
  readonly toBeZeroed: number;
  /** One of `Addressing`, as far as it is known. */
  readonly addressing: number;
  /** Where the descriptor is on the unit. */
  readonly place: ByteOffset;
  /** All its bytes. */
  readonly view: DataView;
}

/** Where a descriptor was looked for. */
export interface DescriptorPlace {
  readonly path: string;
  readonly id: number;
  /** On the unit and on the volume. */
  readonly place: ByteOffset;
  readonly volumeOffset: ByteOffset;
}

/** Decodes a descriptor. Throws `malformed` where there is none, or another one. */
export function decodeDescriptor(
  view: DataView,
  { path, id, place, volumeOffset }: DescriptorPlace,
): VmfsDescriptor {
  const wrong = (at: number, reason: string) =>
    new DriftmapError('malformed', `${nameOf(id)}: ${reason}`, { path, offset: place + at });
  const magic = view.getUint32(0, true);
  if (magic !== LOCK_MAGIC)
    throw wrong(0, `expected magic 10c00001, got ${magic.toString(16).padStart(8, '0')}`);
  const said = littleUint64(view, 4);
  if (said !== volumeOffset) {
    throw wrong(4, `expected to be at ${volumeOffset} of the volume, it says ${said}`);
  }
  const itself = view.getUint32(META, true);
  if (itself !== id) throw wrong(META, `it says that it is ${nameOf(itself)}`);
  const type = view.getUint32(META + 12, true);
  if (type < FileType.directory || type > FileType.rawDevice) {
    throw wrong(META + 12, `expected a type from 2 to 6, got ${type}`);
  }
  const size = littleUint64(view, META + 20);
  if (!Number.isSafeInteger(size)) throw wrong(META + 20, `expected a size below 2^53, got ${size}`);
  return {
    id,
    generation: view.getUint32(META + 4, true),
    type,
    size,
    blockSize: littleUint64(view, META + 28),
    blockCount: littleUint64(view, META + 36),
    toBeZeroed: view.getUint32(META + 84, true) * 2 ** 32 + view.getUint32(META + 72, true),
    addressing: view.getUint32(META + 68, true),
    place,
    view,
  };
}

/** Offsets in a descriptor, for messages: where its size, its block size, its counts and its addressing stand. */
export const DescriptorField = {
  type: META + 12,
  size: META + 20,
  blockSize: META + 28,
  blockCount: META + 36,
  addressing: META + 68,
  toBeZeroed: META + 72,
} as const;
