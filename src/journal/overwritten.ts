/** What a roll forwards overwrites: read from the disks, and kept in the UNDO direction, before they are written. */

import type { ByteRange } from '../base/units.ts';
import type { Completion, LogicalUnit } from '../lu/logical-unit.ts';
import type { Core } from './core.ts';
import { IN_FLIGHT } from './disk-writer.ts';
import { type IntervalMap, ZEROS } from './interval-map.ts';
import { isWrite, RecordKind } from './record.ts';
import { bytesOf, type Round, type Scratch } from './round.ts';
import { mapRecords } from './segment.ts';
import type { Entry } from './stream.ts';
import { isZero } from './zeros.ts';

/** Appends to the UNDO direction what the records of a round overwrite, and makes it durable. */
export async function keepOverwritten(
  core: Core,
  disks: readonly LogicalUnit[],
  round: Round,
  memory: Scratch,
): Promise<undefined> {
  const { table, start, end, segment } = round;
  const { undo } = core;
  const first = segment.first + start;
  if (undo.next !== first) await undo.restart(core.beginningAt(first));
  const before = await readBefore(disks, round, memory);
  const notables = new Map(segment.notables.map(({ record }) => [record.sequence, record]));
  for (let i = start; i < end; i++) {
    const sequence = segment.first + i;
    const kind = table.kinds[i] as RecordKind;
    const mark = notables.get(sequence);
    const bytes = before[i - start] ?? null;
    const entry: Entry = {
      kind: !isWrite(kind) ? kind : bytes === null ? RecordKind.zero : RecordKind.data,
      flags: mark?.flags ?? 0,
      disk: table.disks[i]!,
      sequence,
      time: table.times[i]!,
      offset: table.offsets[i]!,
      length: table.lengths[i]!,
      bytes,
      text: mark?.text ?? '',
    };
    undo.stage(entry);
  }
  await undo.commit();
}

/**
 * What the bytes of each record were before it: the disk's, and over them what earlier records of the same round
 * put there. Null for marks and where all were zeros.
 */
async function readBefore(
  disks: readonly LogicalUnit[],
  round: Round,
  memory: Scratch,
): Promise<(Uint8Array | null)[]> {
  const { table, start, end } = round;
  const before: (Uint8Array | null)[] = [];
  let waits: Promise<unknown>[] = [];
  let at = 0;
  const room = memory.take(bytesOf(round));
  for (let i = start; i < end; i++) {
    if (!isWrite(table.kinds[i]!)) {
      before.push(null);
      continue;
    }
    const disk = disks[table.disks[i]!]!;
    const range = { offset: table.offsets[i]!, length: table.lengths[i]! };
    const bytes = room.subarray(at, at + range.length);
    at += range.length;
    if (table.kinds[i] === RecordKind.zero && (await isHole(disk, range))) {
      before.push(bytes.fill(0));
      continue;
    }
    before.push(bytes);
    const pending: Completion = disk.read(range.offset, bytes);
    if (pending) waits.push(handled(pending));
    if (waits.length < IN_FLIGHT) continue;
    await Promise.all(waits);
    waits = [];
  }
  await Promise.all(waits);
  const maps = new Map<number, IntervalMap>();
  for (let i = start; i < end; i++) {
    const bytes = before[i - start];
    if (!bytes) continue;
    const offset = table.offsets[i]!;
    maps.get(table.disks[i]!)?.each(offset, offset + bytes.length, (from, to, place) => {
      const target = bytes.subarray(from - offset, to - offset);
      if (place === ZEROS) target.fill(0);
      else target.set(round.data.subarray(place - round.base, place - round.base + target.length));
    });
    mapRecords(table, i, i + 1, 'do', maps);
    if (isZero(bytes)) before[i - start] = null;
  }
  return before;
}

/** A promise that is awaited later: one that is rejected before does not end the process. */
function handled(pending: Promise<undefined>): Promise<undefined> {
  pending.catch(() => undefined);
  return pending;
}

async function isHole(disk: LogicalUnit, range: ByteRange): Promise<boolean> {
  const [extent] = await disk.extents(range, 1);
  return extent !== undefined && extent.kind !== 'data' && extent.length === range.length;
}
