/**
 * The partition table of a logical unit, whichever kind it is (UEFI Specification 2.10, section 5).
 *
 * An MBR with an entry of type EE stands for a GUID partition table: then the GPT is read and the MBR's other
 * entries, if any (a hybrid MBR), are not. An MBR with partitions and no such entry is what an operating
 * system goes by, even where an older GPT is left on the disk. Without an MBR a whole primary GPT counts, and
 * a lone backup does not: it is what remains when a disk is given to a volume manager or a file system.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { readWhole } from '../formats/byte-source.ts';
import type { Partition } from './container.ts';
import { findGpt, GPT_SECTOR_SIZES, type GptFinding, type GptTable } from './gpt.ts';
import { MBR_BYTES, type Mbr, readMbr, readMbrPartitions } from './mbr.ts';

export interface PartitionTable {
  /** Null where the unit has none. */
  readonly table: 'gpt' | 'mbr' | null;
  /** In the order of their numbers. */
  readonly partitions: Partition[];
  /** One line each. */
  readonly warnings: string[];
}

export interface PartitionOptions {
  /** Bytes of the disk's sectors. A GPT tells by where it lies; an MBR does not, and 512 is assumed. */
  readonly sectorSize?: 512 | 4096 | undefined;
}

/**
 * Reads a unit's partition table.
 * @throws DriftmapError `malformed` where an MBR announces a GPT of which no copy is whole, and for a loop of
 *   extended boot records; `limit` for a chain of them that is too long
 */
export async function readPartitions(
  unit: LogicalUnit,
  { sectorSize }: PartitionOptions = {},
): Promise<PartitionTable> {
  if (unit.size < MBR_BYTES) return { table: null, partitions: [], warnings: [] };
  const first = new Uint8Array(MBR_BYTES);
  await readWhole(unit, 'the first sector', 0, first);
  const mbr = readMbr(first);
  const gpt = await findGpt(unit, sectorSize === undefined ? GPT_SECTOR_SIZES : [sectorSize]);
  if (mbr?.protective) return announcedGpt(unit, mbr, gpt);
  if (mbr === null || mbr.entries.length === 0) {
    const table = bareGpt(unit, mbr, gpt);
    if (table !== null) return table;
    if (mbr === null) return { table: null, partitions: [], warnings: [] };
  }
  const { partitions, warnings } = await readMbrPartitions(unit, mbr, sectorSize ?? 512);
  const found = [...staleGpt(unit, gpt), ...warnings, ...overlaps(unit.name, partitions)];
  return { table: 'mbr', partitions, warnings: found };
}

function announcedGpt(unit: LogicalUnit, mbr: Mbr, gpt: GptFinding): PartitionTable {
  if (gpt.table === null) {
    const reason = `the MBR announces a GUID partition table and neither copy is whole; primary: ${gpt.primary}; backup: ${gpt.backup}; repair it with gdisk`;
    throw new DriftmapError('malformed', reason, { path: unit.name, offset: 0 });
  }
  const hybrid = mbr.entries.length > 1;
  const warning = `${unit.name}: the MBR is a hybrid one, with partitions beside the GUID partition table: only the GUID partition table is read`;
  return fromGpt(unit, gpt.table, hybrid ? [warning] : []);
}

/** A whole primary GPT counts without the MBR that should announce it; a backup alone does not. */
function bareGpt(unit: LogicalUnit, mbr: Mbr | null, gpt: GptFinding): PartitionTable | null {
  if (gpt.table === null) return null;
  if (gpt.table.copy === 'primary') {
    const missing = mbr === null ? 'there is no MBR' : 'the MBR is empty';
    return fromGpt(unit, gpt.table, [
      `${unit.name}: ${missing} to announce the GUID partition table, which is read all the same`,
    ]);
  }
  if (mbr !== null) return null;
  const reason =
    'a backup GUID partition table at the end is ignored: neither an MBR nor a primary goes with it';
  return { table: null, partitions: [], warnings: [`${unit.name}: ${reason}`] };
}

function staleGpt(unit: LogicalUnit, gpt: GptFinding): string[] {
  if (gpt.table === null) return [];
  const reason = `a GUID partition table (${gpt.table.copy}) is ignored: the MBR has partitions of its own and does not announce it`;
  return [`${unit.name}: ${reason}`];
}

function fromGpt(unit: LogicalUnit, table: GptTable, warnings: readonly string[]): PartitionTable {
  const partitions = [...table.partitions];
  return {
    table: 'gpt',
    partitions,
    warnings: [...warnings, ...table.warnings, ...overlaps(unit.name, partitions)],
  };
}

/** Partitions that share bytes can each be read; that there are some is worth a word. */
function overlaps(name: string, partitions: readonly Partition[]): string[] {
  const sorted = [...partitions].sort((a, b) => a.offset - b.offset);
  let reach: { end: ByteCount; number: number } = { end: 0, number: 0 };
  for (const { number, offset, length } of sorted) {
    if (offset < reach.end) return [`${name}: partitions ${reach.number} and ${number} overlap`];
    if (offset + length > reach.end) reach = { end: offset + length, number };
  }
  return [];
}
