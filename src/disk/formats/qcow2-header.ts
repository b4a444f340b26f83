/**
 * The qcow2 header and its extensions (QEMU docs/interop/qcow2.txt, sections "Header", "Header extensions",
 * "Feature name table"), versions 2 and 3.
 *
 * Every field that leads elsewhere is checked here: alignment, caps, and that what must be in the file is.
 * What reading does not need (refcount table, snapshot table) is checked only as far as a bad value shows
 * that the header cannot be trusted. The bitmaps extension is looked into by `qcow2-bitmaps.ts` alone.
 */

import { DriftmapError } from '../../base/errors.ts';
import {
  MAX_DISK_SIZE,
  QCOW2_MAX_BACKING_NAME,
  QCOW2_MAX_L1_BYTES,
  QCOW2_MAX_REFCOUNT_TABLE_BYTES,
  QCOW2_MAX_SNAPSHOTS,
} from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, readName, readWhole, uint64, viewOf } from './byte-source.ts';
import { type Extensions, type RawExtension, readExtensions } from './qcow2-extensions.ts';

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly size: ByteCount;
  readonly clusterBits: number;
  readonly clusterSize: ByteCount;
  readonly extendedL2: boolean;
  /** Entries of one L2 table. */
  readonly l2Entries: number;
  readonly l1Offset: ByteOffset;
  /** L1 entries that the disk's size needs; entries after them hold the VM state of snapshots. */
  readonly l1Entries: number;
  readonly refcountTableOffset: ByteOffset;
  readonly refcountTableBytes: ByteCount;
  readonly refcountBits: number;
  readonly compression: 'deflate' | 'zstd';
  /** As written in the image; null where there is none. */
  readonly backingName: string | null;
  /** From the backing format extension; null where there is none. */
  readonly backingFormat: string | null;
  /** As written in the image; null unless clusters lie in an external data file. */
  readonly dataFileName: string | null;
  /** The bitmaps extension, unread; null where there is none. */
  readonly bitmaps: RawExtension | null;
  /** The autoclear bit of the bitmaps: no program that does not know them has written to the image. */
  readonly bitmapsConsistent: boolean;
  /** The image was marked corrupt by a program that found it so. */
  readonly corrupt: boolean;
}

const V2_LENGTH = 72;
const V3_LENGTH = 104;
/** The one additional field that is defined so far: the byte at 104. */
const COMPRESSION_TYPE_AT = 104;

/** Bits of the incompatible features. */
const DIRTY = 1n << 0n;
const CORRUPT = 1n << 1n;
const DATA_FILE = 1n << 2n;
const COMPRESSION = 1n << 3n;
const EXTENDED_L2 = 1n << 4n;
const KNOWN = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;

/** A bit of the autoclear features. */
const AUTOCLEAR_BITMAPS = 1n << 0n;

const MAGIC = 0x514649fb;

/** Reads and checks the header. Throws `malformed`, `unsupported` or `limit`, with the offset of the field. */
export async function readQcow2Header(source: ByteSource): Promise<Qcow2Header> {
  const path = source.name;
  const start = new Uint8Array(V2_LENGTH);
  // The magic is judged before the length: a short file of another format is that, not a short header.
  const present = Math.min(V2_LENGTH, source.size);
  await readWhole(source, 'the header', 0, start.subarray(0, present));
  checkMagic(path, start);
  await readWhole(source, 'the header', 0, start);
  const version = versionOf(path, start);
  const clusterBits = viewOf(start).getUint32(20);
  if (clusterBits < 9 || clusterBits > 21) {
    throw malformed(path, 20, `expected cluster_bits 9 to 21, got ${clusterBits}`);
  }

  const clusterSize = 2 ** clusterBits;
  const cluster = new Uint8Array(Math.min(clusterSize, source.size));
  await readWhole(source, 'the first cluster', 0, cluster);
  const headerLength = headerLengthOf(path, cluster, version);
  const fields = viewOf(cluster.subarray(0, headerLength));
  const backing = backingPlace(path, fields, clusterSize, cluster.length);
  const extensions = readExtensions(
    path,
    cluster.subarray(0, backing?.offset ?? cluster.length),
    headerLength,
  );
  const features = version === 2 ? 0n : fields.getBigUint64(72);
  refuseUnknownFeatures(path, features, extensions);
  refuseEncryption(path, fields.getUint32(32));

  const extendedL2 = (features & EXTENDED_L2) !== 0n;
  if (extendedL2 && clusterBits < 14) {
    throw malformed(
      path,
      20,
      `expected cluster_bits of at least 14 with extended L2 entries, got ${clusterBits}`,
    );
  }
  const geometry = { clusterBits, clusterSize, extendedL2, l2Entries: clusterSize / (extendedL2 ? 16 : 8) };
  checkSnapshotTable(path, fields, clusterSize);
  return {
    version,
    ...geometry,
    ...readL1Place(source, fields, geometry),
    ...readRefcountPlace(path, fields, version, clusterSize),
    compression: compressionOf(path, fields, features),
    backingName:
      backing &&
      readName(cluster.subarray(backing.offset, backing.end), QCOW2_MAX_BACKING_NAME, {
        path,
        offset: backing.offset,
      }),
    backingFormat: extensions.backingFormat,
    dataFileName: dataFileNameOf(path, features, extensions),
    bitmaps: extensions.bitmaps,
    bitmapsConsistent: version === 3 && (fields.getBigUint64(88) & AUTOCLEAR_BITMAPS) !== 0n,
    corrupt: (features & CORRUPT) !== 0n,
  };
}

function malformed(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `qcow2 header: ${reason}`, { path, offset });
}

function checkMagic(path: string, start: Uint8Array): void {
  const magic = viewOf(start).getUint32(0);
  if (magic !== MAGIC) {
    const got = magic.toString(16).padStart(8, '0');
    throw new DriftmapError(
      'malformed',
      `not a qcow2 image: expected magic 514649fb ("QFI\\xfb"), got ${got}`,
      {
        path,
        offset: 0,
      },
    );
  }
}

function versionOf(path: string, start: Uint8Array): 2 | 3 {
  const version = viewOf(start).getUint32(4);
  if (version === 2 || version === 3) return version;
  throw new DriftmapError('unsupported', `expected qcow2 version 2 or 3, got ${version}`, {
    path,
    offset: 4,
  });
}

function headerLengthOf(path: string, cluster: Uint8Array, version: 2 | 3): ByteCount {
  if (version === 2) return V2_LENGTH;
  if (cluster.length < V3_LENGTH) {
    throw malformed(path, 0, `expected ${V3_LENGTH} bytes of header, the file ends after ${cluster.length}`);
  }
  const length = viewOf(cluster).getUint32(100);
  if (length < V3_LENGTH || length % 8 !== 0 || length > cluster.length) {
    const most = cluster.length;
    throw malformed(
      path,
      100,
      `expected header_length to be a multiple of 8 from ${V3_LENGTH} to ${most}, got ${length}`,
    );
  }
  return length;
}

/** Where the backing file's name lies in the first cluster; null where the image has none. */
function backingPlace(
  path: string,
  fields: DataView,
  clusterSize: ByteCount,
  present: ByteCount,
): { offset: ByteOffset; end: ByteOffset } | null {
  const offset = uint64(fields, 8);
  if (offset === 0) return null;
  const length = fields.getUint32(16);
  const end = offset + length;
  if (offset < fields.byteLength || end > clusterSize) {
    throw malformed(
      path,
      8,
      `expected the backing file's name within the first cluster, got ${offset} to ${end}`,
    );
  }
  if (length > QCOW2_MAX_BACKING_NAME) {
    throw malformed(
      path,
      16,
      `expected a backing file name of at most ${QCOW2_MAX_BACKING_NAME} bytes, got ${length}`,
    );
  }
  if (end > present) throw malformed(path, offset, "the backing file's name lies past the end of the file");
  return length === 0 ? null : { offset, end };
}

function refuseUnknownFeatures(path: string, features: bigint, { featureNames }: Extensions): void {
  const unknown = features & ~KNOWN;
  if (unknown === 0n) return;
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    if ((unknown >> BigInt(bit)) & 1n) names.push(featureNames.get(bit) ?? `bit ${bit}`);
  }
  const reason = `the image needs features that driftmap does not know: ${names.join(', ')}`;
  throw new DriftmapError('unsupported', reason, { path, offset: 72 });
}

function refuseEncryption(path: string, method: number): void {
  if (method === 0) return;
  const names = ['', 'AES', 'LUKS'];
  if (method >= names.length) throw malformed(path, 32, `expected crypt_method 0 to 2, got ${method}`);
  const reason = `the image is encrypted (${names[method]}): decrypt it first, for example with qemu-img convert`;
  throw new DriftmapError('unsupported', reason, { path, offset: 32 });
}

/** A table must begin at a cluster; its end must be an exact number. */
function checkTable(
  path: string,
  at: ByteOffset,
  what: string,
  offset: ByteOffset,
  clusterSize: ByteCount,
): void {
  if (offset % clusterSize !== 0 || offset > MAX_DISK_SIZE) {
    throw malformed(path, at, `expected ${what} at a cluster boundary, got offset ${offset}`);
  }
}

function checkSnapshotTable(path: string, fields: DataView, clusterSize: ByteCount): void {
  const count = fields.getUint32(60);
  if (count > QCOW2_MAX_SNAPSHOTS) {
    throw malformed(path, 60, `expected at most ${QCOW2_MAX_SNAPSHOTS} snapshots, got ${count}`);
  }
  checkTable(path, 64, 'the snapshot table', uint64(fields, 64), clusterSize);
}

function readRefcountPlace(path: string, fields: DataView, version: 2 | 3, clusterSize: ByteCount) {
  const refcountTableOffset = uint64(fields, 48);
  const refcountTableBytes = fields.getUint32(56) * clusterSize;
  const order = version === 2 ? 4 : fields.getUint32(96);
  if (order > 6) throw malformed(path, 96, `expected refcount_order 0 to 6, got ${order}`);
  if (refcountTableBytes === 0) throw malformed(path, 56, 'expected a refcount table, got one of 0 clusters');
  if (refcountTableBytes > QCOW2_MAX_REFCOUNT_TABLE_BYTES) {
    const most = QCOW2_MAX_REFCOUNT_TABLE_BYTES;
    throw malformed(
      path,
      56,
      `expected a refcount table of at most ${most} bytes, got ${refcountTableBytes}`,
    );
  }
  checkTable(path, 48, 'the refcount table', refcountTableOffset, clusterSize);
  return { refcountTableOffset, refcountTableBytes, refcountBits: 2 ** order };
}

function readL1Place(
  source: ByteSource,
  fields: DataView,
  { clusterSize, l2Entries }: { clusterSize: ByteCount; l2Entries: number },
) {
  const path = source.name;
  const size = uint64(fields, 24);
  if (size > MAX_DISK_SIZE) {
    throw new DriftmapError(
      'limit',
      `qcow2 header: the virtual size ${fields.getBigUint64(24)} is above 2^53−1 bytes`,
      {
        path,
        offset: 24,
      },
    );
  }
  const written = fields.getUint32(36);
  if (written * 8 > QCOW2_MAX_L1_BYTES) {
    throw malformed(path, 36, `expected at most ${QCOW2_MAX_L1_BYTES / 8} L1 entries, got ${written}`);
  }
  const l1Entries = Math.ceil(size / (clusterSize * l2Entries));
  if (written < l1Entries) {
    throw malformed(path, 36, `expected at least ${l1Entries} L1 entries for ${size} bytes, got ${written}`);
  }
  const l1Offset = uint64(fields, 40);
  checkTable(path, 40, 'the L1 table', l1Offset, clusterSize);
  if (l1Entries > 0 && (l1Offset === 0 || l1Offset + l1Entries * 8 > source.size)) {
    throw malformed(
      path,
      40,
      `expected the L1 table within the file's ${source.size} bytes, got offset ${l1Offset}`,
    );
  }
  return { size, l1Offset, l1Entries };
}

function compressionOf(path: string, fields: DataView, features: bigint): 'deflate' | 'zstd' {
  const type = fields.byteLength > COMPRESSION_TYPE_AT ? fields.getUint8(COMPRESSION_TYPE_AT) : 0;
  const flagged = (features & COMPRESSION) !== 0n;
  if (flagged !== (type !== 0)) {
    const feature = flagged ? 'set' : 'clear';
    throw malformed(
      path,
      COMPRESSION_TYPE_AT,
      `compression type ${type} while its feature bit is ${feature}`,
    );
  }
  if (type === 0) return 'deflate';
  if (type === 1) return 'zstd';
  const reason = `expected compression type 0 (zlib) or 1 (zstd), got ${type}`;
  throw new DriftmapError('unsupported', reason, { path, offset: COMPRESSION_TYPE_AT });
}

function dataFileNameOf(path: string, features: bigint, { dataFileName }: Extensions): string | null {
  if ((features & DATA_FILE) === 0n) return null;
  if (dataFileName !== null && dataFileName !== '') return dataFileName;
  throw malformed(path, 72, 'the image keeps its data in an external file and does not name it');
}
