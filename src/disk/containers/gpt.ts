/**
 * GUID partition tables (UEFI Specification 2.10, section 5.3 "GUID Partition Table (GPT) Disk Layout").
 *
 * A table stands twice on a disk: at its beginning, after the protective MBR, and at its end. Each copy has a
 * header of one sector and an array of entries elsewhere, both under a CRC-32. The sector size is not written
 * anywhere; it is the one at which a header is found where it says that it is, 512 or 4096 bytes.
 *
 * The first copy that is whole is believed, the primary before the backup. A primary is compared with the
 * backup that it names, so that the user hears of a copy that is damaged or says something else.
 */

import { DriftmapError } from '../../base/errors.ts';
import { GPT_MAX_TABLE_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { checksum } from '../../codec/checksum.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';
import { guidAt } from '../guid.ts';
import type { Partition } from './container.ts';

export const GPT_SECTOR_SIZES: readonly ByteCount[] = [512, 4096];

export interface GptTable {
  readonly partitions: readonly Partition[];
  readonly sectorSize: ByteCount;
  /** Which copy was believed. */
  readonly copy: 'primary' | 'backup';
  readonly warnings: readonly string[];
}

/** What was found: a table, or why each copy was not believed. */
export type GptFinding =
  | { readonly table: GptTable }
  | { readonly table: null; readonly primary: string; readonly backup: string };

interface Header {
  readonly sectorSize: ByteCount;
  readonly offset: ByteOffset;
  readonly alternateLba: number;
  readonly firstUsable: number;
  readonly lastUsable: number;
  readonly diskGuid: string;
  readonly entryOffset: ByteOffset;
  readonly entryCount: number;
  readonly entrySize: ByteCount;
  readonly entriesChecksum: number;
}

interface Copy {
  readonly header: Header;
  readonly entries: Uint8Array;
}

const SIGNATURE = 'EFI PART';
const REVISION = 0x00010000;
const LEAST_HEADER = 92;
const LEAST_ENTRY = 128;
const UNUSED = '00000000-0000-0000-0000-000000000000';

/** Looks for a table at both ends of the unit. Damage is part of the answer; only reading throws. */
export async function findGpt(
  source: ByteSource,
  sectorSizes: readonly ByteCount[] = GPT_SECTOR_SIZES,
): Promise<GptFinding> {
  const primary = await firstCopy(source, sectorSizes, () => 1);
  if (typeof primary !== 'string') {
    const warnings = await checkBackup(source, primary);
    return { table: readEntries(source, primary, 'primary', warnings) };
  }
  const backup = await firstCopy(source, sectorSizes, (size) => Math.floor(source.size / size) - 1);
  if (typeof backup === 'string') return { table: null, primary, backup };
  const warning = `${source.name}: the primary partition table is damaged (${primary}): the backup at offset ${backup.header.offset} is used; sgdisk -e or gdisk restores the primary`;
  return { table: readEntries(source, backup, 'backup', [warning]) };
}

/** The copy at the first sector size for which it is whole; else the reason, of the size that had a header. */
async function firstCopy(
  source: ByteSource,
  sectorSizes: readonly ByteCount[],
  lbaOf: (sectorSize: ByteCount) => number,
): Promise<Copy | string> {
  let reason: string | null = null;
  for (const sectorSize of sectorSizes) {
    const lba = lbaOf(sectorSize);
    if (lba < 1 || (lba + 1) * sectorSize > source.size) continue;
    if (!(await hasSignature(source, lba * sectorSize))) continue;
    const copy = await tryCopy(source, sectorSize, lba);
    if (typeof copy !== 'string') return copy;
    reason ??= copy;
  }
  return reason ?? 'no header found';
}

async function hasSignature(source: ByteSource, offset: ByteOffset): Promise<boolean> {
  const bytes = new Uint8Array(SIGNATURE.length);
  await readWhole(source, 'a GPT header', offset, bytes);
  return latin1(bytes) === SIGNATURE;
}

async function tryCopy(source: ByteSource, sectorSize: ByteCount, lba: number): Promise<Copy | string> {
  try {
    return await readCopy(source, sectorSize, lba);
  } catch (error) {
    if (!(error instanceof DriftmapError)) throw error;
    if (error.kind !== 'malformed' && error.kind !== 'unsupported' && error.kind !== 'limit') throw error;
    return error.message.replace(`${source.name}: `, '');
  }
}

async function readCopy(source: ByteSource, sectorSize: ByteCount, lba: number): Promise<Copy> {
  const offset = lba * sectorSize;
  const sector = new Uint8Array(sectorSize);
  await readWhole(source, 'the GPT header', offset, sector);
  const header = readHeader(source, sector, offset, sectorSize);
  const entries = new Uint8Array(header.entryCount * header.entrySize);
  await readWhole(source, 'the GPT entry array', header.entryOffset, entries);
  if (checksum(entries) !== header.entriesChecksum) {
    const reason = `expected a GPT entry array with checksum ${hex(header.entriesChecksum)}, got ${hex(checksum(entries))}`;
    throw new DriftmapError('malformed', reason, {
      path: source.name,
      offset: header.entryOffset,
      length: entries.length,
    });
  }
  return { header, entries };
}

/** Table 5-5 of the specification, field by field. */
function readHeader(
  source: ByteSource,
  sector: Uint8Array,
  offset: ByteOffset,
  sectorSize: ByteCount,
): Header {
  const view = viewOf(sector);
  const malformed = (at: number, reason: string) =>
    new DriftmapError('malformed', `GPT header: ${reason}`, { path: source.name, offset: offset + at });
  const headerSize = view.getUint32(12, true);
  if (headerSize < LEAST_HEADER || headerSize > sectorSize) {
    throw malformed(12, `expected a size of ${LEAST_HEADER} to ${sectorSize} bytes, got ${headerSize}`);
  }
  const written = view.getUint32(16, true);
  const summed = sector.slice(0, headerSize).fill(0, 16, 20);
  if (checksum(summed) !== written) {
    throw malformed(16, `expected checksum ${hex(written)}, got ${hex(checksum(summed))}`);
  }
  const revision = view.getUint32(8, true);
  if (revision !== REVISION) throw malformed(8, `expected revision 1.0 (00010000), got ${hex(revision)}`);
  const lba = littleUint64(view, 24);
  if (lba * sectorSize !== offset) {
    throw malformed(24, `expected to be in sector ${offset / sectorSize}, it says ${lba}`);
  }
  const firstUsable = littleUint64(view, 40);
  const lastUsable = littleUint64(view, 48);
  if (firstUsable > lastUsable + 1) {
    throw malformed(40, `expected usable sectors from low to high, got ${firstUsable} to ${lastUsable}`);
  }
  const entryCount = view.getUint32(80, true);
  const entrySize = view.getUint32(84, true);
  if (entrySize < LEAST_ENTRY || !isPowerOfTwo(entrySize)) {
    throw malformed(84, `expected entries of 128 bytes times a power of two, got ${entrySize}`);
  }
  if (entryCount * entrySize > GPT_MAX_TABLE_BYTES) {
    const reason = `GPT header: expected at most ${GPT_MAX_TABLE_BYTES} bytes of entries, got ${entryCount} of ${entrySize}`;
    throw new DriftmapError('limit', reason, { path: source.name, offset: offset + 80 });
  }
  return {
    sectorSize,
    offset,
    alternateLba: littleUint64(view, 32),
    firstUsable,
    lastUsable,
    diskGuid: guidAt(view, 56),
    entryOffset: littleUint64(view, 72) * sectorSize,
    entryCount,
    entrySize,
    entriesChecksum: view.getUint32(88, true),
  };
}

/** What the user should hear of the backup that a good primary names. */
async function checkBackup(source: ByteSource, { header, entries }: Copy): Promise<string[]> {
  const { sectorSize, alternateLba } = header;
  const offset = alternateLba * sectorSize;
  if (alternateLba <= 1 || offset + sectorSize > source.size) {
    const reason = `the backup partition table is said to be at offset ${offset}, outside of the unit's ${source.size} bytes: the unit is cut short or was copied in part`;
    return [`${source.name}: ${reason}`];
  }
  if (!(await hasSignature(source, offset))) {
    return [`${source.name}: there is no backup partition table at offset ${offset}; the primary is used`];
  }
  const backup = await tryCopy(source, sectorSize, alternateLba);
  if (typeof backup === 'string') {
    return [`${source.name}: the backup partition table is damaged (${backup}); the primary is used`];
  }
  const same = backup.header.diskGuid === header.diskGuid && Buffer.compare(backup.entries, entries) === 0;
  return same
    ? []
    : [`${source.name}: the two partition tables differ; the primary is used, sgdisk -v tells more`];
}

function readEntries(
  source: ByteSource,
  { header, entries }: Copy,
  copy: 'primary' | 'backup',
  warnings: readonly string[],
): GptTable {
  const { sectorSize, entrySize, entryCount, firstUsable, lastUsable } = header;
  const view = viewOf(entries);
  const partitions: Partition[] = [];
  const found: string[] = [];
  for (let i = 0; i < entryCount; i++) {
    const at = i * entrySize;
    const type = guidAt(view, at);
    if (type === UNUSED) continue;
    const first = littleUint64(view, at + 32);
    const last = littleUint64(view, at + 40);
    const wrong = wrongRun(first, last, sectorSize, source.size);
    if (wrong !== null) {
      found.push(`${source.name}: partition ${i + 1} is left out: ${wrong}`);
      continue;
    }
    if (first < firstUsable || last > lastUsable) {
      found.push(
        `${source.name}: partition ${i + 1} (sectors ${first} to ${last}) reaches out of the usable sectors ${firstUsable} to ${lastUsable}`,
      );
    }
    partitions.push({
      number: i + 1,
      offset: first * sectorSize,
      length: (last - first + 1) * sectorSize,
      type,
      name: readPartitionName(entries.subarray(at + 56, at + 128)),
    });
  }
  return { partitions, sectorSize, copy, warnings: [...warnings, ...firstFew(source.name, found)] };
}

/** A damaged table can have something to say of thousands of entries. */
function firstFew(name: string, warnings: readonly string[]): string[] {
  const most = 8;
  if (warnings.length <= most) return [...warnings];
  return [...warnings.slice(0, most), `${name}: and as much of ${warnings.length - most} more partitions`];
}

function wrongRun(first: number, last: number, sectorSize: ByteCount, size: ByteCount): string | null {
  if (first > last) return `it begins in sector ${first} and ends before that, in sector ${last}`;
  if (first === 0) return 'it begins in sector 0, where the MBR is';
  if ((last + 1) * sectorSize <= size) return null;
  return `it ends in sector ${last}, past the end of the unit (${Math.floor(size / sectorSize)} sectors of ${sectorSize} bytes)`;
}

/** UTF-16 up to the first zero. Control characters, which could drive a terminal, become U+FFFD. */
function readPartitionName(bytes: Uint8Array): string {
  const text = new TextDecoder('utf-16le').decode(bytes);
  const end = text.indexOf('\0');
  return (end < 0 ? text : text.slice(0, end)).replace(/\p{Cc}/gu, '\ufffd');
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}
