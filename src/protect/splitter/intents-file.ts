/**
 * The file of write intents (`intents`, version 1): where a group's disks may have been written to since the journal
 * last had all of it. Before the first write to a region of a disk its bit is set here, durably; after a kill or a
 * power cut, whatever is set is compared with the replica. (What md calls a write-intent bitmap, and DRBD an activity
 * log.)
 *
 * The file is made of sectors of 512 bytes, each with a checksum of its own, and has its whole length from the start:
 * setting a bit never needs storage. A sector that a power cut tore says nothing, and nothing is lost by that: a torn
 * sector of bits counts as all set, a torn condition leaves the one before it, and a torn front is a file of which
 * nothing is known, so that everything is compared.
 *
 *   0        header: magic, version, length and checksum of the table, a random salt of the file
 *   1, 2     the condition, in turns: the one with the higher number counts
 *   3 …      the table of disks: MessagePack, in as many sectors as it takes
 *   then     for each disk in turn its sectors of bits
 *
 * All checksums of conditions and bits start from the header's, so a sector of another file is never taken for one of
 * this one. All integers are little end first; docs/FORMATS.md has the tables.
 */

import { randomBytes } from 'node:crypto';
import { DriftmapError } from '../../base/errors.ts';
import { MAX_IDENTITY_BYTES } from '../../base/limits.ts';
import {
  INTENT_MAX_REGIONS,
  INTENT_MAX_TABLE_BYTES,
  INTENT_MIN_REGION_BYTES,
  JOURNAL_MAX_DISKS,
} from '../../base/protection-limits.ts';
import type { ByteCount } from '../../base/units.ts';
import { checksum } from '../../codec/checksum.ts';
import { decodeControl, encodeControl } from '../../codec/control.ts';
import { type Checked, count, list, record, text } from '../../wire/schema.ts';
import { getU64, putU64 } from '../stream/messages.ts';

export const SECTOR = 512;
/** Bytes of bits in a sector; the rest is its number and its checksum. */
const BITS_BYTES = 496;
export const REGIONS_PER_SECTOR = BITS_BYTES * 8;
const CRC_AT = SECTOR - 4;
const NUMBER_AT = SECTOR - 8;
const TABLE_SECTOR = 3;
const VERSION = 1;
const magic = new TextEncoder().encode('DINTENT\n');

const tableShape = record({
  group: text(1024),
  disks: list(
    record({
      name: text(1024),
      size: count(),
      identity: text(MAX_IDENTITY_BYTES),
      region: count(Number.MAX_SAFE_INTEGER, 1),
    }),
    JOURNAL_MAX_DISKS,
  ),
});
export type IntentTable = Checked<typeof tableShape>;
export type IntentDisk = IntentTable['disks'][number];

/** What is true of the whole group. */
export interface Condition {
  /** The higher one counts. */
  readonly number: number;
  /** The splitter ended in peace: the `.drift` files beside this one have the exact marks, and no bit speaks. */
  readonly clean: boolean;
  /** The journal that the bits are about: 32 hexadecimal digits, or null before there was one. */
  readonly journal: string | null;
  /** Whatever was cleared here was durable there by this sequence. */
  readonly sequence: number;
}

/** A file's bytes and what they say. */
export interface IntentImage {
  readonly bytes: Uint8Array;
  readonly salt: number;
  readonly table: IntentTable;
  readonly condition: Condition;
  /** First sector of each disk's bits. */
  readonly starts: readonly number[];
}

export function regionFor(size: ByteCount): ByteCount {
  let region = INTENT_MIN_REGION_BYTES;
  while (Math.ceil(size / region) > INTENT_MAX_REGIONS) region *= 2;
  return region;
}

export function regionCount({ size, region }: Pick<IntentDisk, 'size' | 'region'>): number {
  return Math.ceil(size / region);
}

function sectorsOf(disk: IntentDisk): number {
  return Math.ceil(regionCount(disk) / REGIONS_PER_SECTOR);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function layout(tableBytes: number, disks: readonly IntentDisk[]): { starts: number[]; sectors: number } {
  let next = TABLE_SECTOR + Math.ceil(tableBytes / SECTOR);
  const starts = disks.map((disk) => {
    const start = next;
    next += sectorsOf(disk);
    return start;
  });
  return { starts, sectors: next };
}

/** What tells this file from every other: 16 random bytes. */
export function runOf({ bytes }: IntentImage): Uint8Array {
  return bytes.slice(32, 48);
}

/** A new file: no bit is set. @param salt for frozen fixtures */
export function newImage(
  table: IntentTable,
  journal: string | null,
  sequence: number,
  salt: Uint8Array = randomBytes(16),
): IntentImage {
  const encoded = encodeControl(table);
  if (encoded.length > INTENT_MAX_TABLE_BYTES)
    throw new DriftmapError('limit', `the table of disks has more than ${INTENT_MAX_TABLE_BYTES} bytes`);
  const { starts, sectors } = layout(encoded.length, table.disks);
  const bytes = new Uint8Array(sectors * SECTOR);
  const view = viewOf(bytes);
  bytes.set(magic);
  view.setUint16(8, VERSION, true);
  view.setUint32(12, encoded.length, true);
  view.setUint32(16, checksum(encoded), true);
  bytes.set(salt, 32);
  view.setUint32(CRC_AT, checksum(bytes.subarray(0, CRC_AT)), true);
  bytes.set(encoded, TABLE_SECTOR * SECTOR);
  const condition: Condition = { number: 1, clean: false, journal, sequence };
  const image = { bytes, salt: view.getUint32(CRC_AT, true), table, condition, starts };
  for (const number of [0, 1]) putCondition(image, { ...condition, number });
  for (let sector = starts[0]!; sector < sectors; sector++) sealSector(image, sector);
  return image;
}

/** Writes a condition into the image. @returns the sector that it lies in */
export function putCondition({ bytes, salt }: IntentImage, condition: Condition): number {
  const sector = 1 + (condition.number % 2);
  const place = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
  const view = viewOf(place);
  place.fill(0);
  putU64(view, 0, condition.number);
  putU64(view, 8, condition.sequence);
  place[16] = condition.clean ? 1 : 0;
  place[17] = condition.journal === null ? 0 : 1;
  if (condition.journal !== null) place.set(Buffer.from(condition.journal, 'hex'), 32);
  view.setUint32(CRC_AT, checksum(place.subarray(0, CRC_AT), salt), true);
  return sector;
}

/** Makes a sector of bits valid again after its bits were changed. */
export function sealSector({ bytes, salt }: IntentImage, sector: number): void {
  const place = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
  const view = viewOf(place);
  view.setUint32(NUMBER_AT, sector, true);
  view.setUint32(CRC_AT, checksum(place.subarray(0, CRC_AT), salt), true);
}

/** Where the bit of a region lies: its sector, and its byte in the image. */
export function placeOfRegion(start: number, region: number): { sector: number; byte: number; mask: number } {
  const sector = start + Math.floor(region / REGIONS_PER_SECTOR);
  const bit = region % REGIONS_PER_SECTOR;
  return { sector, byte: sector * SECTOR + (bit >>> 3), mask: 1 << (bit & 7) };
}

/**
 * What a file says.
 * @returns `torn`: sectors of bits that say nothing; all their bits are set in the image
 * @throws DriftmapError `malformed` where nothing of it can be believed, `unsupported` for a newer version
 */
export function readImage(bytes: Uint8Array, path: string): { image: IntentImage; torn: number } {
  const fail = (reason: string, offset = 0): never => {
    throw new DriftmapError('malformed', reason, { path, offset });
  };
  if (bytes.length < TABLE_SECTOR * SECTOR || !magic.every((byte, i) => bytes[i] === byte))
    fail('this is no file of write intents');
  const view = viewOf(bytes);
  const salt = view.getUint32(CRC_AT, true);
  if (checksum(bytes.subarray(0, CRC_AT)) !== salt) fail('the header is damaged');
  const version = view.getUint16(8, true);
  if (version !== VERSION) {
    const reason = `write intents of version ${version}; this driftmap reads version ${VERSION}: use a newer driftmap`;
    throw new DriftmapError('unsupported', reason, { path, offset: 8 });
  }
  const length = view.getUint32(12, true);
  const tableAt = TABLE_SECTOR * SECTOR;
  if (length > INTENT_MAX_TABLE_BYTES || tableAt + length > bytes.length) fail('the table is cut off', 12);
  const encoded = bytes.subarray(tableAt, tableAt + length);
  if (checksum(encoded) !== view.getUint32(16, true)) fail('the table is damaged', tableAt);
  const table = tableShape(
    decodeControl(encoded, 'the table of disks', {}, { path, offset: tableAt }),
    'table',
  );
  const { starts, sectors } = layout(length, table.disks);
  if (sectors * SECTOR !== bytes.length) fail(`expected ${sectors * SECTOR} bytes, got ${bytes.length}`);
  const conditions = [1, 2].flatMap((sector) => readCondition(bytes, sector, salt) ?? []);
  const condition =
    conditions.sort((a, b) => b.number - a.number)[0] ?? fail('both conditions are damaged', SECTOR);
  const image = { bytes, salt, table, condition, starts };
  return { image, torn: setTorn(image, sectors) };
}

function readCondition(bytes: Uint8Array, sector: number, salt: number): Condition | null {
  const place = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
  const view = viewOf(place);
  if (checksum(place.subarray(0, CRC_AT), salt) !== view.getUint32(CRC_AT, true)) return null;
  return {
    number: getU64(view, 0),
    sequence: getU64(view, 8),
    clean: place[16] === 1,
    journal: place[17] === 1 ? Buffer.from(place.subarray(32, 48)).toString('hex') : null,
  };
}

function setTorn(image: IntentImage, sectors: number): number {
  const { bytes, salt, starts } = image;
  let torn = 0;
  for (let sector = starts[0] ?? sectors; sector < sectors; sector++) {
    const place = bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
    const view = viewOf(place);
    const isWhole =
      view.getUint32(NUMBER_AT, true) === sector &&
      checksum(place.subarray(0, CRC_AT), salt) === view.getUint32(CRC_AT, true);
    if (isWhole) continue;
    torn++;
    place.fill(0xff, 0, BITS_BYTES);
    sealSector(image, sector);
  }
  return torn;
}
