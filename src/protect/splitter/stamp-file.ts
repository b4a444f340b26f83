/**
 * The file of stamps (`stamp`, version 1): when the splitter last wrote to each disk of its group, and what times the
 * disk's file had then. `stamp.ts` says what it is for; docs/FORMATS.md has the tables.
 *
 *   0        header: magic, version, number of disks; the running system; the file of intents that it belongs to
 *   128 …    for each disk, in the order of the intents' table, a record of 64 bytes with a checksum of its own
 *
 * Records are written in place, one at a time, and lie within a sector each. Their checksums start from the header's,
 * so that the record of another run never passes for one of this one. What cannot be read says nothing, and a disk
 * of which nothing is said is compared: damage costs time and never a difference.
 */

import { DriftmapError } from '../../base/errors.ts';
import { JOURNAL_MAX_DISKS } from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { checksum } from '../../codec/checksum.ts';
import type { FileTimes } from '../../lu/file-unit.ts';
import { getU64, putU64 } from '../stream/messages.ts';

const VERSION = 1;
const HEADER_BYTES = 128;
export const RECORD_BYTES = 64;
export const MAX_STAMP_BYTES: ByteCount = HEADER_BYTES + JOURNAL_MAX_DISKS * RECORD_BYTES;
/** Of what names a running system, and of what names a file of intents. */
const NAME_BYTES = 16;
const magic = new TextEncoder().encode('DSTAMPS\n');

/** What is known of one disk. */
export interface StampRecord {
  /** `idle`: nothing was written since `times` were read. `writing`: something may have been, at `at` and shortly after. */
  readonly state: 'idle' | 'writing';
  /** When this was noted: milliseconds since 1970, by the clock of this host. */
  readonly at: number;
  /** Of the disk's file, as they were then. */
  readonly times: FileTimes;
  /** The change time that the last flush of the disk made durable, in nanoseconds; null before one did. */
  readonly durable: bigint | null;
}

export interface StampHead {
  /** The running system, 32 hexadecimal digits, as `hostId` tells; null where it does not. */
  readonly host: string | null;
  /** The random bytes of the file of intents. */
  readonly run: Uint8Array;
}

export interface Stamp extends StampHead {
  /** By disk; null of one of which nothing can be told: a block device, or a record that is damaged. */
  readonly records: readonly (StampRecord | null)[];
}

/** The file's bytes, and the checksum that its records start from. */
export interface StampImage {
  readonly bytes: Uint8Array;
  readonly salt: number;
}

export function recordAt(disk: number): ByteOffset {
  return HEADER_BYTES + disk * RECORD_BYTES;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

export function newStamp({ host, run, records }: Stamp): StampImage {
  const bytes = new Uint8Array(recordAt(records.length));
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint16(8, VERSION, true);
  view.setUint32(12, records.length, true);
  if (host !== null) bytes.set(Buffer.from(host, 'hex'), 16);
  bytes.set(run.subarray(0, NAME_BYTES), 32);
  const salt = checksum(bytes.subarray(0, HEADER_BYTES - 4));
  view.setUint32(HEADER_BYTES - 4, salt, true);
  const image = { bytes, salt };
  for (const [disk, record] of records.entries()) putRecord(image, disk, record);
  return image;
}

/** @returns the record's bytes in the image */
export function putRecord({ bytes, salt }: StampImage, disk: number, record: StampRecord | null): Uint8Array {
  const place = bytes.subarray(recordAt(disk), recordAt(disk + 1));
  const view = viewOf(place);
  place.fill(0);
  view.setUint32(0, disk, true);
  if (record !== null) {
    place[4] = record.state === 'idle' ? 1 : 2;
    place[5] = record.durable === null ? 0 : 1;
    putU64(view, 8, record.at);
    view.setBigInt64(16, record.times.modified, true);
    view.setBigInt64(24, record.times.changed, true);
    view.setBigInt64(32, record.durable ?? 0n, true);
  }
  view.setUint32(RECORD_BYTES - 4, checksum(place.subarray(0, RECORD_BYTES - 4), salt), true);
  return place;
}

/** @throws DriftmapError `malformed` where nothing of it can be believed, `unsupported` for another version */
export function readStamp(bytes: Uint8Array, path: string): Stamp {
  const fail = (reason: string, offset = 0): never => {
    throw new DriftmapError('malformed', reason, { path, offset });
  };
  if (bytes.length < HEADER_BYTES || !magic.every((byte, i) => bytes[i] === byte))
    fail('this is no file of stamps');
  const view = viewOf(bytes);
  const salt = view.getUint32(HEADER_BYTES - 4, true);
  if (checksum(bytes.subarray(0, HEADER_BYTES - 4)) !== salt) fail('the header is damaged');
  const version = view.getUint16(8, true);
  if (version !== VERSION) {
    const reason = `stamps of version ${version}; this driftmap reads version ${VERSION}`;
    throw new DriftmapError('unsupported', reason, { path, offset: 8 });
  }
  const disks = view.getUint32(12, true);
  if (disks > JOURNAL_MAX_DISKS || bytes.length !== recordAt(disks))
    fail(`expected the stamps of ${disks} disks, got ${bytes.length} bytes`, 12);
  const name = bytes.subarray(16, 16 + NAME_BYTES);
  return {
    host: name.every((byte) => byte === 0) ? null : Buffer.from(name).toString('hex'),
    run: bytes.slice(32, 32 + NAME_BYTES),
    records: Array.from({ length: disks }, (_, disk) => readRecord(bytes, disk, salt)),
  };
}

function readRecord(bytes: Uint8Array, disk: number, salt: number): StampRecord | null {
  const place = bytes.subarray(recordAt(disk), recordAt(disk + 1));
  const view = viewOf(place);
  const isWhole =
    view.getUint32(0, true) === disk &&
    checksum(place.subarray(0, RECORD_BYTES - 4), salt) === view.getUint32(RECORD_BYTES - 4, true);
  if (!isWhole || (place[4] !== 1 && place[4] !== 2)) return null;
  return {
    state: place[4] === 1 ? 'idle' : 'writing',
    at: getU64(view, 8),
    times: { modified: view.getBigInt64(16, true), changed: view.getBigInt64(24, true) },
    durable: place[5] === 1 ? view.getBigInt64(32, true) : null,
  };
}
