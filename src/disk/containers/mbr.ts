/**
 * MBR partition tables: four entries in the first sector, and logical partitions in a chain of extended boot
 * records (UEFI Specification 2.10, section 5.2 "LBA 0 Format", for the first sector; the chain has no
 * specification: the layout is the one that Linux block/partitions/msdos.c and util-linux libfdisk agree on).
 *
 * The mark 55 AA also ends the boot sectors of FAT, exFAT and NTFS, whose code or text stands where the
 * entries would be. A sector is a partition table when every entry has a boot indicator of 00 or 80; one
 * whose entries are all empty and which is a file system's boot sector is no table.
 *
 * An extended partition holds a chain: each record has one logical partition, relative to the record, and a
 * link to the next record, relative to the extended partition. A link to a record that was read already is
 * an error; the chain is not followed out of its extended partition.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MBR_MAX_LOGICAL } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, readWhole, viewOf } from '../formats/byte-source.ts';
import type { Partition } from './container.ts';

export interface MbrEntry {
  /** 0 to 3. */
  readonly slot: number;
  readonly type: number;
  /** In sectors. */
  readonly start: number;
  readonly sectors: number;
}

/** What the first sector says; empty entries are left out. */
export interface Mbr {
  readonly entries: readonly MbrEntry[];
  /** There is an entry of type EE, which stands for a GUID partition table. */
  readonly protective: boolean;
}

export const MBR_BYTES = 512;
const ENTRIES_AT = 446;
const ENTRY_BYTES = 16;
const MARK_AT = 510;
const PROTECTIVE = 0xee;
const EXTENDED: readonly number[] = [0x05, 0x0f, 0x85];

/** Reads a first sector; null where it holds no partition table. */
export function readMbr(sector: Uint8Array): Mbr | null {
  if (!hasMark(sector)) return null;
  for (let slot = 0; slot < 4; slot++) {
    const indicator = sector[ENTRIES_AT + slot * ENTRY_BYTES]!;
    if (indicator !== 0 && indicator !== 0x80) return null;
  }
  const entries = readEntries(sector);
  if (entries.length === 0 && isBootSector(sector)) return null;
  return { entries, protective: entries.some((entry) => entry.type === PROTECTIVE) };
}

function hasMark(sector: Uint8Array): boolean {
  return sector[MARK_AT] === 0x55 && sector[MARK_AT + 1] === 0xaa;
}

function readEntries(sector: Uint8Array): MbrEntry[] {
  const view = viewOf(sector);
  const entries: MbrEntry[] = [];
  for (let slot = 0; slot < 4; slot++) {
    const at = ENTRIES_AT + slot * ENTRY_BYTES;
    const entry = {
      slot,
      type: view.getUint8(at + 4),
      start: view.getUint32(at + 8, true),
      sectors: view.getUint32(at + 12, true),
    };
    if (entry.type !== 0 && entry.sectors !== 0) entries.push(entry);
  }
  return entries;
}

/** FAT, exFAT or NTFS: a jump, and a BIOS parameter block that makes sense or the name of one that has none. */
function isBootSector(sector: Uint8Array): boolean {
  if (sector[0] !== 0xeb && sector[0] !== 0xe9) return false;
  const maker = String.fromCharCode(...sector.subarray(3, 11));
  if (maker === 'NTFS    ' || maker === 'EXFAT   ') return true;
  const sectorBytes = viewOf(sector).getUint16(11, true);
  const media = sector[21]!;
  return [512, 1024, 2048, 4096].includes(sectorBytes) && (media >= 0xf8 || media === 0xf0);
}

/**
 * The partitions of a disk without a GUID partition table. Extended partitions themselves are left out: they
 * hold the logical ones, which are numbered from 5 in the order of their chain.
 * @throws DriftmapError `malformed` where the chain is a loop, `limit` where it is too long
 */
export async function readMbrPartitions(
  source: ByteSource,
  mbr: Mbr,
  sectorSize: ByteCount,
): Promise<{ partitions: Partition[]; warnings: string[] }> {
  const list = new PartitionList(source, sectorSize);
  let extended: MbrEntry | null = null;
  for (const entry of mbr.entries) {
    if (!isExtended(entry)) list.add(entry.slot + 1, entry, 0);
    else if (extended === null) extended = entry;
    else list.warn(`extended partition ${entry.slot + 1} is left out: there is another before it`);
  }
  if (extended !== null) await readLogical(source, extended, list);
  const { partitions, warnings } = list;
  return { partitions, warnings };
}

function isExtended({ type }: MbrEntry): boolean {
  return EXTENDED.includes(type);
}

class PartitionList {
  readonly sectorSize: ByteCount;
  readonly partitions: Partition[] = [];
  readonly warnings: string[] = [];
  private readonly source: ByteSource;

  constructor(source: ByteSource, sectorSize: ByteCount) {
    this.source = source;
    this.sectorSize = sectorSize;
  }

  warn(message: string): void {
    this.warnings.push(`${this.source.name}: ${message}`);
  }

  /** Adds an entry whose start counts from sector `from`, unless it reaches past the end of the unit. */
  add(number: number, { type, start, sectors }: MbrEntry, from: number): void {
    const offset = (from + start) * this.sectorSize;
    const length = sectors * this.sectorSize;
    const { size } = this.source;
    if (offset + length > size) {
      const reason = `it ends at byte ${offset + length}, past the end of the unit (${size} bytes)`;
      this.warn(`partition ${number} is left out: ${reason}`);
      return;
    }
    const typeName = `0x${type.toString(16).padStart(2, '0')}`;
    this.partitions.push({ number, offset, length, type: typeName, name: '' });
  }
}

async function readLogical(source: ByteSource, extended: MbrEntry, list: PartitionList): Promise<void> {
  const { sectorSize } = list;
  const end = extended.start + extended.sectors;
  const seen = new Set<number>();
  const record = new Uint8Array(MBR_BYTES);
  let number = 5;
  for (let at = extended.start; ; ) {
    const offset: ByteOffset = at * sectorSize;
    if (seen.has(at)) {
      const reason = 'the extended boot records link back to this one: the chain is a loop';
      throw new DriftmapError('malformed', reason, { path: source.name, offset });
    }
    if (seen.size >= MBR_MAX_LOGICAL) {
      const reason = `expected at most ${MBR_MAX_LOGICAL} extended boot records, this one is linked after them`;
      throw new DriftmapError('limit', reason, { path: source.name, offset });
    }
    seen.add(at);
    if (offset + MBR_BYTES > source.size) {
      list.warn(`the extended boot record at offset ${offset} lies past the end of the unit: its chain ends`);
      return;
    }
    await readWhole(source, 'an extended boot record', offset, record);
    if (!hasMark(record)) {
      list.warn(
        `there is no extended boot record at offset ${offset}: expected one that ends in 55 aa; logical partitions from ${number} on are not found`,
      );
      return;
    }
    const entries = readEntries(record);
    const data = entries.find((entry) => entry.slot < 2 && !isExtended(entry));
    const link = entries.find((entry) => entry.slot < 2 && isExtended(entry));
    if (entries.length > (data ? 1 : 0) + (link ? 1 : 0)) {
      list.warn(`further entries of the extended boot record at offset ${offset} are left out`);
    }
    if (data) addLogical(list, number++, data, at, { from: extended.start, to: end });
    if (!link) return;
    at = extended.start + link.start;
    if (at >= end) {
      list.warn(
        `the extended boot record at offset ${offset} links to sector ${at}, out of its extended partition (sectors ${extended.start} to ${end - 1}): the chain ends`,
      );
      return;
    }
  }
}

function addLogical(
  list: PartitionList,
  number: number,
  entry: MbrEntry,
  from: number,
  extended: { from: number; to: number },
): void {
  const first = from + entry.start;
  if (entry.start === 0 || first + entry.sectors > extended.to) {
    const reason = `its sectors ${first} to ${first + entry.sectors - 1} do not lie behind its record, within the extended partition (sectors ${extended.from} to ${extended.to - 1})`;
    list.warn(`partition ${number} is left out: ${reason}`);
    return;
  }
  list.add(number, entry, from);
}
