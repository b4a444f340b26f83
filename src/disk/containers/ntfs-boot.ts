/**
 * The boot sector of an NTFS volume: the geometry everything else is found by.
 *
 * NTFS has no public specification. These files follow the documentation of the Linux-NTFS project ("NTFS
 * Documentation", Russon and Fledel), named by its chapters, and the on-disk structures of ntfs-3g
 * (include/ntfs-3g/layout.h), checked against what ntfs-3g and GRUB make of the same volumes.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NTFS_MAX_CLUSTER_BYTES, NTFS_MAX_RECORD_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';

export interface NtfsGeometry {
  readonly clusterSize: ByteCount;
  /** Whole clusters of the volume; cluster numbers are below this. */
  readonly clusters: number;
  /** Of the volume, without the backup boot sector behind it. */
  readonly size: ByteCount;
  readonly mftCluster: number;
  readonly recordSize: ByteCount;
}

export const BOOT_BYTES = 512;
const OEM_OFFSET = 3;
const OEM = 'NTFS    ';
const BITLOCKER = '-FVE-FS-';

/** The eight characters that say what a boot sector begins. */
export function oemOf(sector: Uint8Array): string {
  return String.fromCharCode(...sector.subarray(OEM_OFFSET, OEM_OFFSET + 8));
}

export function hasNtfsMagic(sector: Uint8Array): boolean {
  return oemOf(sector) === OEM && sector[510] === 0x55 && sector[511] === 0xaa;
}

/**
 * Reads and checks the boot sector ("$Boot").
 * @throws DriftmapError `malformed`, `unsupported` for a volume under BitLocker, `limit`
 */
export async function readNtfsBoot(source: ByteSource): Promise<NtfsGeometry> {
  const sector = new Uint8Array(BOOT_BYTES);
  await readWhole(source, 'the NTFS boot sector', 0, sector);
  checkMagic(source, sector);
  const view = viewOf(sector);
  const malformed = (at: number, reason: string) =>
    new DriftmapError('malformed', `NTFS boot sector: ${reason}`, { path: source.name, offset: at });
  const sectorSize = view.getUint16(0x0b, true);
  if (!isPowerOfTwo(sectorSize) || sectorSize < 256 || sectorSize > 4096) {
    throw malformed(0x0b, `expected sectors of 256 to 4096 bytes, got ${sectorSize}`);
  }
  const clusterSize = readClusterSize(source, view, sectorSize);
  const sectors = littleUint64(view, 0x28);
  const size = sectors * sectorSize;
  if (sectors === 0 || !Number.isSafeInteger(size)) {
    throw malformed(0x28, `expected a volume of 1 to 2^53−1 bytes, got ${sectors} sectors`);
  }
  const clusters = Math.floor(size / clusterSize);
  const mftCluster = littleUint64(view, 0x30);
  if (mftCluster === 0 || mftCluster >= clusters) {
    throw malformed(0x30, `expected an MFT in clusters 1 to ${clusters - 1}, got ${mftCluster}`);
  }
  const recordSize = sizeOf(view.getInt8(0x40), clusterSize);
  if (!isPowerOfTwo(recordSize) || recordSize < 512 || recordSize > NTFS_MAX_RECORD_BYTES) {
    const wanted = `expected MFT records of 512 to ${NTFS_MAX_RECORD_BYTES} bytes`;
    throw malformed(0x40, `${wanted}, got the code ${view.getInt8(0x40)} (${recordSize} bytes)`);
  }
  return { clusterSize, clusters, size, mftCluster, recordSize };
}

function checkMagic(source: ByteSource, sector: Uint8Array): void {
  const place = { path: source.name, offset: OEM_OFFSET };
  const oem = oemOf(sector);
  if (oem === BITLOCKER) {
    const reason =
      'the volume is encrypted by BitLocker: unlock it and open the device that shows its contents';
    throw new DriftmapError('unsupported', reason, place);
  }
  if (oem !== OEM) {
    throw new DriftmapError('malformed', `expected an NTFS boot sector ('${OEM}'), got another one`, place);
  }
  if (sector[510] !== 0x55 || sector[511] !== 0xaa) {
    const reason = 'NTFS boot sector: expected 55 AA at its end';
    throw new DriftmapError('malformed', reason, { ...place, offset: 510 });
  }
}

/** Sectors of a cluster; from 129 on, 256 less the binary logarithm of it (clusters above 64 KiB). */
function readClusterSize(source: ByteSource, view: DataView, sectorSize: ByteCount): ByteCount {
  const code = view.getUint8(0x0d);
  const sectors = code > 128 ? 2 ** (256 - code) : code;
  const clusterSize = sectors * sectorSize;
  if (isPowerOfTwo(clusterSize) && clusterSize <= NTFS_MAX_CLUSTER_BYTES) return clusterSize;
  const reason = `NTFS boot sector: expected clusters of at most ${NTFS_MAX_CLUSTER_BYTES} bytes, a power of two, got the code ${code} (${clusterSize} bytes)`;
  throw new DriftmapError('malformed', reason, { path: source.name, offset: 0x0d });
}

/** Sizes of records and index blocks: clusters where positive, the binary logarithm of the bytes where negative. */
export function sizeOf(code: number, clusterSize: ByteCount): ByteCount {
  return code > 0 ? code * clusterSize : 2 ** -code;
}

export function clusterOffset(geometry: NtfsGeometry, cluster: number): ByteOffset {
  return cluster * geometry.clusterSize;
}
