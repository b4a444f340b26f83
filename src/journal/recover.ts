/**
 * Opening one direction of a journal: its segments are found by their names, sealed ones are taken at their seal's
 * word, and the last one, if it is not sealed, is read record by record.
 *
 * Where it ends is told by its records. Each says up to where everything had been durable when it was written, and
 * the position file says so too. A record that is not whole past that point was being written when the machine
 * stopped: the tail is torn, and is cut off. One before it that the file still holds is damage, which is an error;
 * but where the file itself ends too early, somebody cut it, and the journal opens with what is left and a warning.
 * Who only reads may ask for the same where the last segment is damaged: what comes before the damage is used as if
 * the rest had been cut off, and how far the rest had gone is told apart, because the disks may have taken it.
 */

import { DriftmapError } from '../base/errors.ts';
import { JOURNAL_MAX_META_FILE_BYTES, JOURNAL_MAX_SEGMENTS } from '../base/protection-limits.ts';
import type { ByteOffset } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { JournalFile } from './folder.ts';
import {
  type Direction,
  decodeFrame,
  decodeHeader,
  FRAME_BYTES,
  HEADER_BYTES,
  RecordKind,
  type Sequence,
} from './record.ts';
import { readMaps, readSeal } from './seal.ts';
import {
  malformed,
  newSegment,
  type Place,
  readSlots,
  type Segment,
  type Slots,
  segmentName,
} from './segment.ts';
import { type Beginning, Stream } from './stream.ts';

export interface Recovery {
  /** Everything of this stream up to here is known to have been durable. */
  readonly durable: Sequence;
  /** Whether torn tails are cut off and leftovers removed. */
  readonly write: boolean;
  /** Where the stream begins when it has no segment. */
  readonly beginning: Beginning;
  /** Told of what a user should know. */
  readonly warn: (line: string) => void;
  /** Passes over a damaged end, and is told up to where its records may have gone. Absent: damage is an error. */
  readonly passOver?: ((last: Sequence) => void) | undefined;
}

/** @throws DriftmapError `malformed`, `mismatch`, `unsupported`, `limit`, `io`, with the path and the offset */
export async function openStream(place: Place, direction: Direction, recovery: Recovery): Promise<Stream> {
  const firsts = findSegments(place, direction, recovery);
  const segments: Segment[] = [];
  for (const [i, first] of firsts.entries()) {
    const isLast = i === firsts.length - 1;
    const segment = await openSegment(place, { direction, first, isLast }, recovery);
    if (segment === null) continue;
    const before = segments.at(-1);
    if (before !== undefined && before.last + 1 !== segment.first) {
      const path = pathOf(place, segment.metaName);
      throw malformed(`expected a segment from sequence ${before.last + 1}: one is missing`, path, 32);
    }
    segments.push(segment);
  }
  return new Stream(place, direction, segments, recovery.beginning);
}

const pathOf = ({ folder }: Place, name: string) => `${folder.path}/${name}`;

/** The first sequences of the segments that there are, ascending. Removes what a crash left half made. */
function findSegments(place: Place, direction: Direction, { write }: Recovery): Sequence[] {
  const names = new Set(place.folder.list());
  const numbersOf = (part: string) =>
    [...names]
      .map((name) => ({ name, match: /^(undo|do)\.(data|meta)\.(\d{16})$/.exec(name) }))
      .filter(({ match }) => match !== null && match[1] === direction && match[2] === part)
      .map(({ name, match }) => ({ name, first: Number(match![3]) }));
  const metas = numbersOf('meta');
  if (metas.length > JOURNAL_MAX_SEGMENTS) {
    const reason = `expected at most ${JOURNAL_MAX_SEGMENTS} segments, got ${metas.length}`;
    throw new DriftmapError('limit', reason, { path: place.folder.path });
  }
  const firsts = metas.map(({ first }) => first).sort((a, b) => a - b);
  const known = new Set(firsts);
  for (const { name, first } of numbersOf('data')) {
    if (!known.has(first) && write) place.folder.remove(name);
  }
  for (const { name, first } of metas) {
    if (names.has(segmentName(`${direction}.data`, first))) continue;
    const isLast = first === firsts.at(-1);
    const meta = place.folder.open(name, 'read');
    const size = meta.size();
    meta.close();
    // Made by a crash before the folder was flushed; records are only written after that.
    if (!isLast || size > HEADER_BYTES) throw malformed('its data file is missing', pathOf(place, name));
    firsts.pop();
    if (write) place.folder.remove(name);
  }
  if (firsts.some((first) => !Number.isSafeInteger(first))) {
    throw malformed('a segment has an impossible name', place.folder.path);
  }
  return firsts;
}

interface Which {
  readonly direction: Direction;
  readonly first: Sequence;
  readonly isLast: boolean;
}

/** @returns null for a last segment of which nothing is left */
async function openSegment(
  place: Place,
  { direction, first, isLast }: Which,
  recovery: Recovery,
): Promise<Segment | null> {
  const access = recovery.write && isLast ? 'write' : 'read';
  const meta = place.folder.open(segmentName(`${direction}.meta`, first), access);
  const data = place.folder.open(segmentName(`${direction}.data`, first), access);
  try {
    const segment = headed(place, { direction, first, isLast }, meta, data, recovery);
    if (segment === null) {
      if (recovery.write) removeSegment(place, meta.path, data.path);
      return null;
    }
    const sealed = isLast ? isWhollySealed(place, segment, meta) : readSeal(segment, meta);
    if (sealed) {
      if (data.size() >= segment.dataEnd) return segment;
      throw malformed(
        `expected ${segment.dataEnd} bytes of data, got ${data.size()}`,
        data.path,
        data.size(),
      );
    }
    if (!isLast) {
      throw malformed('expected a seal at the end of a segment that others follow', meta.path, meta.size());
    }
    await readTail(place, segment, meta, data, recovery);
    return segment;
  } finally {
    meta.close();
    data.close();
  }
}

/**
 * Whether the last segment has its whole seal. It may have been cut off by a crash, in any part; then the segment is
 * read record by record, as one without a seal: there is nothing in a seal that the records do not tell.
 */
function isWhollySealed(place: Place, segment: Segment, meta: JournalFile): boolean {
  try {
    if (!readSeal(segment, meta)) return false;
    readMaps(segment, segment.seal!, meta, place.sizes);
    return true;
  } catch (error) {
    if (!(error instanceof DriftmapError) || error.kind !== 'malformed') throw error;
    segment.unseal();
    return false;
  }
}

/** The segment that both headers tell of; null for a last one that was just being made, or was cut to nothing. */
function headed(
  place: Place,
  { direction, first, isLast }: Which,
  meta: JournalFile,
  data: JournalFile,
  { warn, durable }: Recovery,
): Segment | null {
  const headers = [meta, data].map((file) => {
    const bytes = new Uint8Array(Math.min(HEADER_BYTES, file.size()));
    file.read(0, bytes);
    return bytes;
  });
  const fresh = meta.size() <= HEADER_BYTES && data.size() <= HEADER_BYTES;
  if (isLast && headers.some(({ length }) => length < HEADER_BYTES)) {
    if (durable >= first || !fresh)
      warn(`${meta.path}: this segment was cut to nothing; what it held is lost`);
    return null;
  }
  try {
    const expected = { journal: place.journal, first };
    const header = decodeHeader(headers[0]!, { ...expected, stream: `${direction}.meta` }, meta.path);
    decodeHeader(headers[1]!, { ...expected, stream: `${direction}.data` }, data.path);
    const segment = newSegment(place, { direction, ...header });
    segment.created = true;
    return segment;
  } catch (error) {
    // Headers are durable before the first record is written: these were not yet.
    if (isLast && fresh && durable < first) return null;
    throw error;
  }
}

/** Reads the records of a segment that is not sealed, and cuts off what is torn. */
async function readTail(
  place: Place,
  segment: Segment,
  meta: JournalFile,
  data: JournalFile,
  recovery: Recovery,
): Promise<undefined> {
  const size = meta.size();
  if (size > JOURNAL_MAX_META_FILE_BYTES) {
    const reason = `expected at most ${JOURNAL_MAX_META_FILE_BYTES} bytes of metadata, got ${size}`;
    throw new DriftmapError('limit', reason, { path: meta.path });
  }
  const bytes = new Uint8Array(size);
  meta.read(0, bytes);
  const slots = readSlots(bytes, segment, place.sizes);
  const durable = Math.max(recovery.durable, slots.committed);
  const isDamaged = checkStop(slots, segment, durable, meta.path, recovery);
  const whole = wholeRecords(slots, segment, data, durable);
  const { table } = slots;
  let dataEnd: ByteOffset = HEADER_BYTES;
  for (let i = whole - 1; i >= 0; i--) {
    if (table.kinds[i] !== RecordKind.data) continue;
    dataEnd = table.positions[i]! + FRAME_BYTES + table.lengths[i]!;
    break;
  }
  const metaEnd = whole === 0 ? HEADER_BYTES : slots.metaEnds[whole - 1]!;
  table.count = whole;
  segment.table = table;
  const kept = slots.notables.filter(({ record }) => record.sequence < segment.first + whole);
  segment.admit(whole, kept, dataEnd, metaEnd);
  if (isDamaged) recovery.passOver?.(slots.lastAfter);
  else if (segment.last < durable) {
    const lost = `${segment.last + 1} to ${durable}`;
    recovery.warn(`${meta.path}: cut off after it was durable; sequences ${lost} are lost`);
  }
  if (!recovery.write) return;
  if (meta.size() > metaEnd) meta.truncate(metaEnd);
  if (data.size() > dataEnd) data.truncate(dataEnd);
  // A writer that was killed may not have flushed what is whole here: from now on it counts as durable.
  await meta.sync();
  await data.sync();
}

/** Tells damage from a torn tail: throws for damage, unless it is to be passed over. @returns whether there is some */
function checkStop(
  { stopped, table }: Slots,
  segment: Segment,
  durable: Sequence,
  path: string,
  { passOver, warn }: Recovery,
): boolean {
  if (stopped === null) return false;
  const sequence = segment.first + table.count;
  if (sequence > durable || stopped.cut) return false;
  const error = malformed(`record ${sequence}, which was durable: ${stopped.reason}`, path, stopped.at);
  if (passOver === undefined) throw error;
  warn(`${error.message}; from there on this file is not used`);
  return true;
}

/** How many records from the start have their data: what was not known to be durable is checked byte by byte. */
function wholeRecords({ table }: Slots, segment: Segment, data: JournalFile, durable: Sequence): number {
  const size = data.size();
  for (let i = 0; i < table.count; i++) {
    if (table.kinds[i] !== RecordKind.data) continue;
    const position = table.positions[i]!;
    const length = table.lengths[i]!;
    if (position + FRAME_BYTES + length > size) return i;
    if (segment.first + i <= durable) continue;
    const frame = new Uint8Array(FRAME_BYTES + length);
    data.read(position, frame);
    const head = decodeFrame(frame, 0, segment.dataSalt);
    const fits = head !== null && head.sequence === segment.first + i && head.crc === table.crcs[i];
    if (!fits || checksum(frame.subarray(FRAME_BYTES)) !== table.crcs[i]) return i;
  }
  return table.count;
}

function removeSegment({ folder }: Place, meta: string, data: string): void {
  const name = (path: string) => path.slice(path.lastIndexOf('/') + 1);
  folder.remove(name(meta));
  folder.sync();
  folder.remove(name(data));
}
