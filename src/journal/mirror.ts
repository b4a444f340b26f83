/**
 * The mirror of applying. Applying keeps what it overwrites in the UNDO direction; a roll backwards overwrites new
 * data, and the points that it leaves behind need that. While the DO direction still has it nothing is to be done.
 * Where retention has removed it, it is made anew before the disks are touched: record s held what its range holds
 * as of point s, and that can be read.
 *
 * Made from the newest record down, so that what is made always adjoins what is there, and in segments that get
 * their names when they are whole and durable.
 */

import { assert } from '../base/errors.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { MiB } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { Core } from './core.ts';
import type { JournalFile } from './folder.ts';
import { IntervalMap, ZEROS } from './interval-map.ts';
import { PointReader } from './point-reader.ts';
import {
  encodeFrame,
  encodeRecord,
  FRAME_BYTES,
  HEADER_BYTES,
  isWrite,
  type JournalRecord,
  metaBytesOf,
  RecordKind,
  type Sequence,
} from './record.ts';
import { encodeSeal } from './seal.ts';
import { headerOf, type Notable, newSegment, RecordTable, type Segment } from './segment.ts';
import { isZero } from './zeros.ts';

/** Bytes that are written at a time, unless one record has more. */
const PIECE = 4 * MiB;

/** What a file is called until it is whole. */
export const UNFINISHED = '.new';

/** Sees to it that the new data after `point`, up to where the disks are, is there. */
export async function mirror(core: Core, point: Sequence): Promise<undefined> {
  const { redo, undo } = core;
  while (redo.first > point + 1) {
    const to = redo.first - 1;
    const source = undo.segments[undo.indexOf(to)];
    assert(source !== undefined && to <= core.low, `overwritten data of sequence ${to} is there`);
    redo.prepend(await makeSegment(core, source, { from: Math.max(point, source.first - 1), to }));
  }
}

/** New data of the records after `from`, up to `to`; of fewer of the oldest where they are too many. */
async function makeSegment(
  core: Core,
  source: Segment,
  { from, to }: { from: Sequence; to: Sequence },
): Promise<Segment> {
  const { place, undo } = core;
  const table = undo.readers.of(source).records();
  let first = to;
  let sum = 0;
  for (; first > from && sum < place.segmentBytes; first--) sum += table.lengths[first - source.first]!;
  first++;
  const marks = new Map(source.notables.map((notable) => [notable.record.sequence, notable]));
  const { time: timeBefore, suspended: suspendedBefore } = core.beginningAt(first);
  const segment = newSegment(place, { direction: 'do', first, timeBefore, suspendedBefore });
  const data = place.folder.create(segment.dataName + UNFINISHED);
  const meta = place.folder.create(segment.metaName + UNFINISHED);
  try {
    await data.write(0, headerOf(place, segment, 'data'));
    const records = await makeData(core, { source, table, segment, to }, data);
    const notables = records.flatMap((record): Notable[] => {
      const notable = marks.get(record.sequence);
      return notable === undefined
        ? []
        : [{ record: { ...record, text: notable.record.text }, timeBefore: notable.timeBefore }];
    });
    const bytes = encodeMeta(segment, records, marks);
    segment.table = new RecordTable(records.length);
    for (const record of records) segment.table.push(record);
    const end = records.findLast(({ kind }) => kind === RecordKind.data);
    const dataEnd = end === undefined ? HEADER_BYTES : end.position + FRAME_BYTES + end.length;
    segment.admit(records.length, notables, dataEnd, HEADER_BYTES + bytes.length);
    const { bytes: sealBytes, seal } = encodeSeal(segment, segment.maps());
    await meta.write(0, headerOf(place, segment, 'meta'));
    await meta.write(HEADER_BYTES, bytes);
    await meta.write(segment.metaEnd, sealBytes);
    await data.sync();
    await meta.sync();
    segment.seal = seal;
    segment.table = null;
    segment.forgetMaps();
  } finally {
    data.close();
    meta.close();
  }
  const { folder } = place;
  folder.rename(segment.dataName + UNFINISHED, segment.dataName);
  folder.sync();
  folder.rename(segment.metaName + UNFINISHED, segment.metaName);
  folder.sync();
  segment.created = true;
  return segment;
}

function encodeMeta(
  segment: Segment,
  records: readonly JournalRecord[],
  marks: ReadonlyMap<Sequence, Notable>,
): Uint8Array {
  const texts = records.map(({ sequence }) =>
    new TextEncoder().encode(marks.get(sequence)?.record.text ?? ''),
  );
  const bytes = new Uint8Array(texts.reduce((sum, { length }) => sum + metaBytesOf(length), 0));
  let at = 0;
  for (const [i, record] of records.entries()) {
    at += encodeRecord(record, texts[i]!, segment.metaSalt, bytes, at);
  }
  return bytes;
}

interface Making {
  readonly source: Segment;
  readonly table: RecordTable;
  readonly segment: Segment;
  readonly to: Sequence;
}

/** Writes the frames of `[segment.first, to]`, from the last to the first, at the places that they would have had. */
async function makeData(
  core: Core,
  { source, table, segment, to }: Making,
  data: JournalFile,
): Promise<JournalRecord[]> {
  const positions: ByteOffset[] = [];
  let end: ByteOffset = HEADER_BYTES;
  for (let i = segment.first - source.first; i <= to - source.first; i++) {
    positions.push(end);
    if (isWrite(table.kinds[i]!)) end += FRAME_BYTES + table.lengths[i]!;
  }
  const past: Past = { core, source, base: new PointReader(core, to), local: new Map() };
  const records: JournalRecord[] = [];
  const frames = new Descending(data);
  const flags = new Map(source.notables.map(({ record }) => [record.sequence, record.flags]));
  for (let sequence = to; sequence >= segment.first; sequence--) {
    const i = sequence - source.first;
    const kind = table.kinds[i] as RecordKind;
    const [disk, offset, length] = [table.disks[i]!, table.offsets[i]!, table.lengths[i]!];
    const common = { flags: flags.get(sequence) ?? 0, disk, sequence, time: table.times[i]!, offset, length };
    const plain = { ...common, committed: to, text: '', position: 0 };
    if (!isWrite(kind)) {
      records.push({ ...plain, kind, crc: table.crcs[i]! });
      continue;
    }
    const frame = new Uint8Array(FRAME_BYTES + length);
    const bytes = frame.subarray(FRAME_BYTES);
    await readPast(past, { disk, offset, length }, bytes);
    goBack(past.local, table, i);
    if (isZero(bytes)) {
      records.push({ ...plain, kind: RecordKind.zero, crc: 0 });
      continue;
    }
    const position = positions[sequence - segment.first]!;
    const crc = checksum(bytes);
    encodeFrame({ length, sequence, disk, crc }, segment.dataSalt, frame, 0);
    await frames.put(position, frame);
    records.push({ ...plain, kind: RecordKind.data, position, crc });
  }
  await frames.finish();
  return records.reverse();
}

/** Writes frames that come from the last to the first, many at a time. */
class Descending {
  private readonly data: JournalFile;
  private frames: { readonly position: ByteOffset; readonly bytes: Uint8Array }[] = [];
  private end: ByteOffset = 0;

  constructor(data: JournalFile) {
    this.data = data;
  }

  async put(position: ByteOffset, bytes: Uint8Array): Promise<undefined> {
    if (this.frames.length > 0 && this.end - position > PIECE) await this.finish();
    if (this.frames.length === 0) this.end = position + bytes.length;
    this.frames.push({ position, bytes });
  }

  async finish(): Promise<undefined> {
    const first = this.frames.at(-1);
    if (first === undefined) return;
    const start = first.position;
    const piece = new Uint8Array(this.end - start);
    for (const { position, bytes } of this.frames) piece.set(bytes, position - start);
    this.frames = [];
    await this.data.write(start, piece);
  }
}

/** The disks as of a record of a segment: as of a later one, and over that what the records between overwrote. */
interface Past {
  readonly core: Core;
  readonly source: Segment;
  readonly base: PointReader;
  readonly local: Map<number, IntervalMap>;
}

/** From now on the range of a record holds what was there before it. */
function goBack(maps: Map<number, IntervalMap>, table: RecordTable, i: number): void {
  const disk = table.disks[i]!;
  const map = maps.get(disk) ?? new IntervalMap();
  maps.set(disk, map);
  const [start, head] = [table.offsets[i]!, table.positions[i]!];
  const isData = table.kinds[i] === RecordKind.data;
  map.set(start, start + table.lengths[i]!, isData ? head + FRAME_BYTES : ZEROS, isData ? head : 0);
}

async function readPast(
  { core, source, base, local }: Past,
  { disk, offset, length }: { disk: number; offset: ByteOffset; length: ByteCount },
  target: Uint8Array,
): Promise<undefined> {
  let at = offset;
  const gaps: number[] = [];
  local.get(disk)?.each(offset, offset + length, (from, until, place, head) => {
    if (from > at) gaps.push(at, from);
    at = until;
    const part = target.subarray(from - offset, until - offset);
    if (place === ZEROS) part.fill(0);
    else core.undo.readers.of(source).read(place, head, part);
  });
  if (at < offset + length) gaps.push(at, offset + length);
  for (let i = 0; i < gaps.length; i += 2) {
    await base.read(disk, gaps[i]!, target.subarray(gaps[i]! - offset, gaps[i + 1]! - offset));
  }
}
