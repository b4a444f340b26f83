/**
 * MFT records and their attributes ("FILE record", "Attribute header", "Fixup").
 *
 * A record, like an index block, is protected against torn writes: the last two bytes of each of its 512-byte
 * sectors are replaced by an update sequence number, and what stood there is kept in an array at the record's
 * beginning. A record is whole when all its sectors end in the number. The stride is 512 bytes also where a
 * disk's sectors are larger.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { littleUint64, viewOf } from '../formats/byte-source.ts';

/** Attribute types of layout.h that are read. */
export const AttributeType = {
  attributeList: 0x20,
  volumeName: 0x60,
  volumeInformation: 0x70,
  data: 0x80,
  indexRoot: 0x90,
  indexAllocation: 0xa0,
  reparsePoint: 0xc0,
} as const;

/** Attribute flags. The low byte is the compression method, of which only 1 (LZNT1) was ever used. */
export const COMPRESSION_BITS = 0x00ff;
export const ENCRYPTED = 0x4000;
export const SPARSE = 0x8000;

export const FIXUP_STRIDE = 512;
const END_OF_ATTRIBUTES = 0xffffffff;
const IN_USE = 1;
const DIRECTORY = 2;
const RECORD_HEADER = 42;
/** Records that state their own number have it at 44, before the update sequence array. */
const NUMBERED_HEADER = 48;
const RESIDENT_HEADER = 24;
const NON_RESIDENT_HEADER = 64;

/** Where a structure lies, for messages. */
export interface Whereabouts {
  readonly path: string;
  readonly offset: ByteOffset;
}

/** Which record, and of which life of it: a record that is used anew has another sequence number. */
export interface FileReference {
  readonly number: number;
  readonly sequence: number;
}

export interface ResidentValue {
  /** Within the record. */
  readonly at: number;
  readonly length: ByteCount;
}

/** Clusters `[lowest, end)` of an attribute; the sizes hold for the whole and stand in the extent of cluster 0. */
export interface NonResidentExtent {
  readonly lowest: number;
  readonly end: number;
  /** Of the run list, within the record. */
  readonly pairsAt: number;
  readonly allocated: ByteCount;
  readonly size: ByteCount;
  readonly initialized: ByteCount;
}

export interface NtfsAttribute {
  readonly type: number;
  readonly name: string;
  readonly id: number;
  readonly flags: number;
  /** Within the record. */
  readonly at: number;
  readonly length: ByteCount;
  /** One of the two is null. */
  readonly resident: ResidentValue | null;
  readonly extent: NonResidentExtent | null;
}

export interface NtfsRecord {
  readonly number: number;
  readonly sequence: number;
  readonly inUse: boolean;
  readonly directory: boolean;
  /** Null in a base record: the record that this one extends. */
  readonly base: FileReference | null;
  readonly attributes: readonly NtfsAttribute[];
  /** With the fixups taken back. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Where the record has its update sequence array; its first entry is the number itself. */
  readonly fixupsAt: number;
  readonly where: Whereabouts;
}

export function readReference(view: DataView, at: number): FileReference {
  const number = view.getUint16(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  return { number, sequence: view.getUint16(at + 6, true) };
}

export function sameReference(a: FileReference, b: FileReference): boolean {
  return a.number === b.number && a.sequence === b.sequence;
}

/** UTF-16 as it is: lone surrogates, which NTFS allows in names, stay. */
export function readUtf16(bytes: Uint8Array, at: number, characters: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + at, 2 * characters).toString('utf16le');
}

export function damage(where: Whereabouts, at: number, reason: string): DriftmapError {
  return new DriftmapError('malformed', reason, { path: where.path, offset: where.offset + at });
}

/**
 * Checks the magic and the fixups of a block and takes the fixups back, in place.
 * @returns where the update sequence array begins
 */
export function undoFixups(block: Uint8Array, magic: string, what: string, where: Whereabouts): number {
  const found = String.fromCharCode(block[0]!, block[1]!, block[2]!, block[3]!);
  if (found === 'BAAD') throw damage(where, 0, `${what} was found torn before and is marked BAAD`);
  if (found !== magic) {
    const got = /^[\x20-\x7e]{4}$/.test(found) ? found : Buffer.from(found, 'latin1').toString('hex');
    throw damage(where, 0, `${what}: expected it to begin with ${magic}, got ${got}`);
  }
  const view = viewOf(block);
  const at = view.getUint16(4, true);
  const count = view.getUint16(6, true);
  const sectors = block.length / FIXUP_STRIDE;
  if (count !== sectors + 1) {
    throw damage(where, 6, `${what}: expected ${sectors + 1} fixups, got ${count}`);
  }
  if (at % 2 !== 0 || at < 8 || at + 2 * count > FIXUP_STRIDE - 2) {
    throw damage(where, 4, `${what}: expected its fixups within the first sector, got offset ${at}`);
  }
  const number = view.getUint16(at, true);
  for (let sector = 1; sector <= sectors; sector++) {
    const end = sector * FIXUP_STRIDE - 2;
    if (view.getUint16(end, true) !== number) {
      const reason = `${what} is torn: expected its sectors to end in ${hex(number)}, got ${hex(view.getUint16(end, true))}`;
      throw damage(where, end, reason);
    }
    view.setUint16(end, view.getUint16(at + 2 * sector, true), true);
  }
  return at;
}

/**
 * Reads a record out of its bytes, which it keeps and changes.
 * @param where of the record's first byte
 * @throws DriftmapError `malformed`
 */
export function readRecord(bytes: Uint8Array, number: number, where: Whereabouts): NtfsRecord {
  const what = `MFT record ${number}`;
  const fixupsAt = undoFixups(bytes, 'FILE', what, where);
  const view = viewOf(bytes);
  if (fixupsAt < RECORD_HEADER) {
    throw damage(where, 4, `${what}: expected fixups behind its header, got offset ${fixupsAt}`);
  }
  // The field came with NTFS 3.1; before it the array began in its place.
  if (fixupsAt >= NUMBERED_HEADER && view.getUint32(44, true) !== number % 2 ** 32) {
    throw damage(where, 44, `${what}: it says it is record ${view.getUint32(44, true)}`);
  }
  const first = view.getUint16(20, true);
  const used = view.getUint32(24, true);
  if (used > bytes.length) {
    throw damage(where, 24, `${what}: expected at most ${bytes.length} bytes in use, got ${used}`);
  }
  if (first % 8 !== 0 || first < fixupsAt + 2 * (bytes.length / FIXUP_STRIDE + 1) || first + 8 > used) {
    throw damage(where, 20, `${what}: expected attributes behind its header, got offset ${first}`);
  }
  const flags = view.getUint16(22, true);
  const base = readReference(view, 32);
  const inUse = (flags & IN_USE) !== 0;
  return {
    number,
    sequence: view.getUint16(16, true),
    inUse,
    directory: (flags & DIRECTORY) !== 0,
    base: base.number === 0 && base.sequence === 0 ? null : base,
    attributes: inUse ? readAttributes({ bytes, view, first, used, what, where }) : [],
    bytes,
    view,
    fixupsAt,
    where,
  };
}

interface AttributeArea {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly first: number;
  readonly used: number;
  readonly what: string;
  readonly where: Whereabouts;
}

function readAttributes(area: AttributeArea): NtfsAttribute[] {
  const { view, first, used, what, where } = area;
  const found: NtfsAttribute[] = [];
  for (let at = first; ; at += found.at(-1)!.length) {
    if (at + 4 > used) throw damage(where, at, `${what}: expected an end of its attributes`);
    if (view.getUint32(at, true) === END_OF_ATTRIBUTES) return found;
    found.push(readAttribute(area, at));
  }
}

function readAttribute({ bytes, view, used, what, where }: AttributeArea, at: number): NtfsAttribute {
  const type = view.getUint32(at, true);
  const wrong = (where_: number, reason: string) =>
    damage(where, at + where_, `${what}, attribute ${hex(type)}: ${reason}`);
  const length = at + 8 <= used ? view.getUint32(at + 4, true) : 0;
  if (length < RESIDENT_HEADER || length % 8 !== 0 || at + length > used) {
    throw wrong(4, `expected a length within its record, got ${length}`);
  }
  const form = view.getUint8(at + 8);
  if (form > 1) throw wrong(8, `expected it to be resident (0) or not (1), got ${form}`);
  const header = form === 0 ? RESIDENT_HEADER : NON_RESIDENT_HEADER;
  if (length < header) throw wrong(4, `expected at least ${header} bytes, got ${length}`);
  const nameLength = view.getUint8(at + 9);
  const nameAt = view.getUint16(at + 10, true);
  if (nameLength > 0 && (nameAt < header || nameAt + 2 * nameLength > length)) {
    throw wrong(10, `expected a name within it, got ${nameLength} characters at ${nameAt}`);
  }
  const resident = form === 0 ? readResident(view, at, length) : null;
  if (form === 0 && resident === null) {
    const got = `${view.getUint32(at + 16, true)} bytes at ${view.getUint16(at + 20, true)}`;
    throw wrong(16, `expected a value within it, got ${got}`);
  }
  const extent = form === 1 ? readExtent(view, at, length) : null;
  if (typeof extent === 'string') throw wrong(16, extent);
  return {
    type,
    name: nameLength === 0 ? '' : readUtf16(bytes, at + nameAt, nameLength),
    id: view.getUint16(at + 14, true),
    flags: view.getUint16(at + 12, true),
    at,
    length,
    resident,
    extent,
  };
}

function readResident(view: DataView, at: number, length: ByteCount): ResidentValue | null {
  const valueLength = view.getUint32(at + 16, true);
  const valueAt = view.getUint16(at + 20, true);
  if (valueAt < RESIDENT_HEADER || valueAt + valueLength > length) return null;
  return { at: at + valueAt, length: valueLength };
}

/** The fields of a non-resident header, or what is wrong with them. */
function readExtent(view: DataView, at: number, length: ByteCount): NonResidentExtent | string {
  const lowest = littleUint64(view, at + 16);
  // The highest cluster; −1 (all ones) where there is none.
  const low = view.getUint32(at + 24, true);
  const high = view.getUint32(at + 28, true);
  const end = low === 0xffffffff && high === 0xffffffff ? 0 : high * 2 ** 32 + low + 1;
  const pairsAt = view.getUint16(at + 32, true);
  if (!Number.isSafeInteger(end) || lowest > end || (lowest === end && lowest > 0)) {
    return `expected clusters from low to high, got ${lowest} to ${end - 1}`;
  }
  if (pairsAt < NON_RESIDENT_HEADER || pairsAt >= length) {
    return `expected a run list within it, got offset ${pairsAt}`;
  }
  const extent = {
    lowest,
    end,
    pairsAt: at + pairsAt,
    allocated: littleUint64(view, at + 40),
    size: littleUint64(view, at + 48),
    initialized: littleUint64(view, at + 56),
  };
  if (lowest > 0) return extent;
  if (!Number.isSafeInteger(extent.allocated) || extent.size > extent.allocated) {
    return `expected a size within the ${extent.allocated} bytes allocated, got ${extent.size}`;
  }
  if (extent.initialized > extent.allocated) {
    return `expected at most ${extent.allocated} bytes initialized, got ${extent.initialized}`;
  }
  return extent;
}

function hex(value: number): string {
  return value.toString(16).toUpperCase().padStart(4, '0');
}
