/**
 * What LVM2 writes at the start of a physical volume, and how its metadata text is found (LVM2 source,
 * lib/label/label.h, lib/format_text/layout.h and format-text.c, which are the format's only specification).
 *
 *   label         one of the first four sectors: where the header is
 *   header        the volume's UUID, its size, and where its metadata areas are (none, one or two)
 *   metadata area a header of one sector, then a ring in which each new text is written behind the last; a
 *                 text that reaches the end goes on after the header
 *
 * Each is under a CRC-32 that begins with LVM's own value and is not inverted at the end.
 */

import { DriftmapError } from '../../base/errors.ts';
import { LVM_MAX_AREAS, LVM_MAX_METADATA_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { checksum } from '../../codec/checksum.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';

export interface PhysicalVolume {
  /** 32 characters, without the dashes that LVM prints. */
  readonly uuid: string;
  /** As written when it was made; the metadata's own number counts. */
  readonly deviceSize: ByteCount;
  readonly areas: readonly MetadataArea[];
}

export interface MetadataArea {
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

/** One copy of a volume group's metadata, as found. */
export interface MetadataText {
  /** Latin-1, so that a character's index is its byte's. */
  readonly text: string;
  readonly checksum: number;
  /** Where on the unit it begins. */
  readonly offset: ByteOffset;
}

const SECTOR = 512;
const LABEL_SECTORS = 4;
const LABEL_ID = 'LABELONE';
const LABEL_TYPE = 'LVM2 001';
const LABEL_SUMMED_FROM = 20;
const UUID_BYTES = 32;
const AREA_MAGIC = ' LVM2 x[5A%r0N*>';
const AREA_HEADER_BYTES = 512;
const TEXTS_AT = 40;
const TEXT_IGNORED = 1;

/** LVM's CRC-32: the usual polynomial over a start of its own, without the final inversion. */
export function lvmChecksum(bytes: Uint8Array, before = 0xf597a6cf): number {
  return ~checksum(bytes, ~before >>> 0) >>> 0;
}

/**
 * Finds and reads the label and the header behind it. Null where the unit is no physical volume; what is only
 * half of a label is told to `warn`.
 */
export async function readPhysicalVolume(
  source: ByteSource,
  warn: (message: string) => void,
): Promise<PhysicalVolume | null> {
  const sectors = Math.min(LABEL_SECTORS, Math.floor(source.size / SECTOR));
  const bytes = new Uint8Array(sectors * SECTOR);
  if (sectors > 0) await readWhole(source, 'the first sectors', 0, bytes);
  for (let i = 0; i < sectors; i++) {
    const sector = bytes.subarray(i * SECTOR, (i + 1) * SECTOR);
    if (latin1(sector.subarray(0, 8)) !== LABEL_ID) continue;
    try {
      return readHeader(source.name, sector, i * SECTOR);
    } catch (error) {
      warn(messageOfDamage(error));
    }
  }
  return null;
}

/** The message of an error about the contents; any other error goes on its way. */
export function messageOfDamage(error: unknown): string {
  const about: readonly string[] = ['malformed', 'unsupported', 'limit'];
  if (error instanceof DriftmapError && about.includes(error.kind)) return error.message;
  throw error;
}

function readHeader(path: string, sector: Uint8Array, offset: ByteOffset): PhysicalVolume {
  const view = viewOf(sector);
  const malformed = (at: number, reason: string) =>
    new DriftmapError('malformed', `LVM2 label: ${reason}`, { path, offset: offset + at });
  const written = view.getUint32(16, true);
  const actual = lvmChecksum(sector.subarray(LABEL_SUMMED_FROM));
  if (written !== actual) throw malformed(16, `expected checksum ${hex(written)}, got ${hex(actual)}`);
  const place = littleUint64(view, 8);
  if (place * SECTOR !== offset) {
    throw malformed(8, `expected to be in sector ${offset / SECTOR}, it says ${place}`);
  }
  const type = latin1(sector.subarray(24, 32));
  if (type !== LABEL_TYPE) {
    const reason = `LVM2 label: expected type '${LABEL_TYPE}', got '${printable(type)}'`;
    throw new DriftmapError('unsupported', reason, { path, offset: offset + 24 });
  }
  const at = view.getUint32(20, true);
  if (at < 32 || at > SECTOR - UUID_BYTES - 8) {
    throw malformed(20, `expected the header behind the label in its sector, got offset ${at}`);
  }
  const uuid = latin1(sector.subarray(at, at + UUID_BYTES));
  if (!/^[\w#!+-]{32}$/.test(uuid)) throw malformed(at, 'expected a UUID of 32 letters and digits');
  const afterData = skipAreas(view, at + UUID_BYTES + 8);
  const areas = afterData === null ? null : readAreas(view, afterData);
  if (areas === null) {
    throw malformed(at + UUID_BYTES + 8, 'expected lists of areas that end within the sector');
  }
  if (areas.length > LVM_MAX_AREAS) {
    const reason = `LVM2 label: expected at most ${LVM_MAX_AREAS} metadata areas, got ${areas.length}`;
    throw new DriftmapError('limit', reason, { path, offset });
  }
  return { uuid, deviceSize: littleUint64(view, at + UUID_BYTES), areas };
}

/** Areas from `at` up to the one of offset 0; null where there is no such end in the sector. */
function readAreas(view: DataView, at: number): MetadataArea[] | null {
  const areas: MetadataArea[] = [];
  for (let next = at; next + 16 <= view.byteLength; next += 16) {
    const offset = littleUint64(view, next);
    if (offset === 0) return areas;
    areas.push({ offset, length: littleUint64(view, next + 8) });
  }
  return null;
}

/** Where the list that begins at `at` has ended. */
function skipAreas(view: DataView, at: number): number | null {
  const areas = readAreas(view, at);
  return areas && at + (areas.length + 1) * 16;
}

/**
 * Reads the text that a metadata area holds now. Null where it holds none, or is marked as not in use.
 * @throws DriftmapError `malformed`, `limit`
 */
export async function readMetadataText(source: ByteSource, area: MetadataArea): Promise<MetadataText | null> {
  const { offset } = area;
  const header = new Uint8Array(AREA_HEADER_BYTES);
  await readWhole(source, 'an LVM2 metadata area', offset, header);
  const view = viewOf(header);
  const length = checkAreaHeader(source, area, header);
  const at = littleUint64(view, TEXTS_AT);
  const size = littleUint64(view, TEXTS_AT + 8);
  const flags = view.getUint32(TEXTS_AT + 20, true);
  if (at === 0 || size === 0 || (flags & TEXT_IGNORED) !== 0) return null;
  if (at < AREA_HEADER_BYTES || at >= length || size > length - AREA_HEADER_BYTES) {
    const reason = `LVM2 metadata area: expected a text within its ring of ${length} bytes, got ${size} bytes at ${at}`;
    throw new DriftmapError('malformed', reason, { path: source.name, offset: offset + TEXTS_AT });
  }
  if (size > LVM_MAX_METADATA_BYTES) {
    const reason = `LVM2 metadata: expected a text of at most ${LVM_MAX_METADATA_BYTES} bytes, got ${size}`;
    throw new DriftmapError('limit', reason, { path: source.name, offset: offset + TEXTS_AT });
  }
  const text = new Uint8Array(size);
  const before = Math.min(size, length - at);
  await readWhole(source, 'LVM2 metadata', offset + at, text.subarray(0, before));
  if (before < size) {
    await readWhole(source, 'LVM2 metadata', offset + AREA_HEADER_BYTES, text.subarray(before));
  }
  const written = view.getUint32(TEXTS_AT + 16, true);
  const actual = lvmChecksum(text);
  if (written !== actual) {
    const reason = `LVM2 metadata: expected a text with checksum ${hex(written)}, got ${hex(actual)}`;
    throw new DriftmapError('malformed', reason, {
      path: source.name,
      offset: offset + at,
      length: size,
    });
  }
  return { text: latin1(text), checksum: actual, offset: offset + at };
}

/** Checks an area's header; returns the area's length as it says it. */
function checkAreaHeader(source: ByteSource, area: MetadataArea, header: Uint8Array): ByteCount {
  const { offset } = area;
  const view = viewOf(header);
  const malformed = (at: number, reason: string) =>
    new DriftmapError('malformed', `LVM2 metadata area: ${reason}`, {
      path: source.name,
      offset: offset + at,
    });
  const written = view.getUint32(0, true);
  const actual = lvmChecksum(header.subarray(4));
  if (written !== actual) throw malformed(0, `expected checksum ${hex(written)}, got ${hex(actual)}`);
  if (latin1(header.subarray(4, 20)) !== AREA_MAGIC) throw malformed(4, `expected magic '${AREA_MAGIC}'`);
  const version = view.getUint32(20, true);
  if (version !== 1) {
    const reason = `LVM2 metadata area: expected version 1, got ${version}`;
    throw new DriftmapError('unsupported', reason, { path: source.name, offset: offset + 20 });
  }
  const start = littleUint64(view, 24);
  if (start !== offset) throw malformed(24, `expected to be at ${offset}, it says ${start}`);
  const length = littleUint64(view, 32);
  if (length <= AREA_HEADER_BYTES || offset + length > source.size) {
    throw malformed(
      32,
      `expected an area within the unit's ${source.size} bytes, got ${length} at ${offset}`,
    );
  }
  return length;
}

export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** For messages: control characters and what is not ASCII are replaced. */
export function printable(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, '?');
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}
