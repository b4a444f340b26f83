/**
 * The head of a VMFS file system: 512 bytes at 2 MiB of the volume (vmfs-tools, libvmfs/vmfs_fs.h; dissect.vmfs,
 * c_vmfs.py, FS3_Descriptor), and the heartbeats of the hosts that have it open, at 3 MiB
 * (libvmfs/vmfs_heartbeat.h).
 */

import { DriftmapError } from '../../base/errors.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo, KiB, MiB } from '../../base/units.ts';
import { littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';
import type { VmfsVolume } from './vmfs-volume.ts';

const OFFSET = 2 * MiB;
const INFO_BYTES = 512;
const MAGIC = 0x2fabf15e;
/** Magics of relatives that are not read. */
const OTHERS: Readonly<Record<number, string>> = {
  799797599: 'VMFS-L, the local file system of ESXi itself',
  799797600: 'VMFS 6',
  799797601: 'VMFS-L 6, the local file system of ESXi itself',
};
/** The first major version that is VMFS 6: 64-bit block ids and other directories. */
const VMFS6_MAJOR = 24;
const HEARTBEATS = 3 * MiB;
const HEARTBEAT_BYTES = 512;
const HEARTBEAT_COUNT = 2048;
/** Bytes of them read at a time. */
const HEARTBEATS_READ = 64 * KiB;
const HEARTBEAT_ON = 0xabcdef02;
/** What follows the heartbeats: the file of descriptors, in the first block from here on. */
const AFTER_HEARTBEATS = 4 * MiB;

export interface VmfsInfo {
  /** Where on the unit it stands. */
  readonly place: ByteOffset;
  /** 4 for VMFS 3, 14 for VMFS 5. */
  readonly majorVersion: number;
  readonly label: string;
  readonly uuid: string;
  readonly blockSize: ByteCount;
  readonly subBlockSize: ByteCount;
  /** Where the file of descriptors begins on the volume, and how its first group is laid out. */
  readonly descriptorBase: ByteOffset;
  readonly descriptorGroup: ByteOffset;
  readonly descriptorClusters: number;
  /** The descriptor of .pb2.sf; 0 where the file system has none. */
  readonly pointer2Descriptor: number;
}

/**
 * Reads and checks the head of the file system.
 * @throws DriftmapError `malformed`; `unsupported` for VMFS 6 and VMFS-L
 */
export async function readVmfsInfo(volume: VmfsVolume): Promise<VmfsInfo> {
  const path = volume.path;
  const offset = volume.placeOf('the head of the file system', OFFSET, INFO_BYTES);
  const bytes = new Uint8Array(INFO_BYTES);
  await readWhole(volume.source, 'the head of the file system', offset, bytes);
  const view = viewOf(bytes);
  const wrong = (at: number, reason: string) =>
    new DriftmapError('malformed', `head of the VMFS file system: ${reason}`, { path, offset: offset + at });
  const magic = view.getUint32(0, true);
  const majorVersion = view.getUint32(4, true);
  refuseOthers(path, offset, magic, majorVersion);
  if (magic !== MAGIC) throw wrong(0, `expected magic 2fabf15e, got ${magic.toString(16).padStart(8, '0')}`);
  const blockSize = littleUint64(view, 0xa1);
  if (!isPowerOfTwo(blockSize) || blockSize < MiB || blockSize > 8 * MiB) {
    throw wrong(0xa1, `expected blocks of 1, 2, 4 or 8 MiB, got ${blockSize} bytes`);
  }
  const subBlockSize = view.getUint32(0xd9, true);
  if (!isPowerOfTwo(subBlockSize) || subBlockSize < KiB || subBlockSize > blockSize) {
    throw wrong(
      0xd9,
      `expected sub-blocks of a power of two from 1 KiB to a block, got ${subBlockSize} bytes`,
    );
  }
  if (Buffer.compare(bytes.subarray(0xb1, 0xc5), volume.device.volumeId) !== 0) {
    throw wrong(0xb1, 'it names another volume than the one that it lies on: the copy is of two volumes');
  }
  return {
    place: offset,
    majorVersion,
    label: readLabel(bytes.subarray(0x1d, 0x9d)),
    uuid: readUuid(view, 9),
    blockSize,
    subBlockSize,
    descriptorBase: Math.max(blockSize, AFTER_HEARTBEATS),
    descriptorGroup: view.getUint32(0xd1, true),
    descriptorClusters: view.getUint32(0xd5, true),
    pointer2Descriptor: littleUint64(view, 0xe1) === 0 ? 0 : view.getUint32(0xe9, true),
  };
}

function refuseOthers(path: string, offset: ByteOffset, magic: number, majorVersion: number): void {
  const sixth = magic === MAGIC && majorVersion >= VMFS6_MAJOR;
  const name = sixth ? 'VMFS 6' : OTHERS[magic];
  if (name === undefined) return;
  const reason = `the file system is ${name} (version ${majorVersion}), which is not read: only VMFS 3 and 5 are`;
  throw new DriftmapError('unsupported', reason, { path, offset });
}

/** One line when hosts have the file system open, or had it when the copy was made. */
export async function heartbeatWarnings(volume: VmfsVolume): Promise<string[]> {
  const bytes = new Uint8Array(HEARTBEATS_READ);
  const view = viewOf(bytes);
  let hosts = 0;
  for (let done = 0; done < HEARTBEAT_COUNT * HEARTBEAT_BYTES; done += HEARTBEATS_READ) {
    const offset = volume.placeOf('the heartbeats of VMFS', HEARTBEATS + done, HEARTBEATS_READ);
    await readWhole(volume.source, 'the heartbeats of VMFS', offset, bytes);
    for (let at = 0; at < HEARTBEATS_READ; at += HEARTBEAT_BYTES) {
      if (view.getUint32(at, true) === HEARTBEAT_ON) hosts++;
    }
  }
  if (hosts === 0) return [];
  const whose = hosts === 1 ? '1 host has' : `${hosts} hosts have`;
  return [
    `${volume.path}: ${whose} the file system open, or had when this copy was made: changes to it that stand only in a journal are not seen`,
  ];
}

/** Up to the first zero. Control characters, which could drive a terminal, become U+FFFD. */
function readLabel(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const text = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  return text.replace(/\p{Cc}/gu, '\ufffd');
}

/** As ESXi writes it, for example in /vmfs/volumes: two little-endian words, a half word, six bytes. */
function readUuid(view: DataView, at: number): string {
  const digits = (value: number, width: number) => value.toString(16).padStart(width, '0');
  let tail = '';
  for (let i = 10; i < 16; i++) tail += digits(view.getUint8(at + i), 2);
  const words = [view.getUint32(at, true), view.getUint32(at + 4, true)].map((word) => digits(word, 8));
  return `${words[0]}-${words[1]}-${digits(view.getUint16(at + 8, true), 4)}-${tail}`;
}
