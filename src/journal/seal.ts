/**
 * The end of a sealed segment's metadata: a summary (how many records, their times, the marks), then a map of
 * its intervals, then one slot that says where both begin. So opening a journal reads two small pieces of each
 * segment, and a view of a point far away reads the maps between, not the records.
 */

import { endianness } from 'node:os';
import { DriftmapError } from '../base/errors.ts';
import { JOURNAL_MAX_META_FILE_BYTES } from '../base/protection-limits.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { alignUp } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { JournalFile } from './folder.ts';
import { FlatMap, type IntervalMap, ZEROS } from './interval-map.ts';
import {
  decodeRecord,
  encodeRecord,
  FRAME_BYTES,
  getU64,
  HEADER_BYTES,
  isWholeSlot,
  metaBytesOf,
  putU64,
  SEAL,
  SLOT_BYTES,
  viewOf,
} from './record.ts';
import { malformed, type Notable, type Seal, type Segment } from './segment.ts';

const FIXED_BYTES = 64;
const MAP_ENTRY_BYTES = 8;
const BYTES_PER_INTERVAL = 32;

/** The bytes that seal a segment whose records are all in it, to be written at the end of its metadata. */
export function encodeSeal(
  segment: Segment,
  maps: ReadonlyMap<number, IntervalMap>,
): { readonly bytes: Uint8Array; readonly seal: Seal } {
  const disks = [...maps.entries()].filter(([, map]) => map.count > 0).sort(([a], [b]) => a - b);
  const notes = segment.notables.map(({ record, timeBefore }) => {
    const text = new TextEncoder().encode(record.text);
    const bytes = new Uint8Array(8 + metaBytesOf(text.length));
    putU64(viewOf(bytes), 0, timeBefore);
    encodeRecord(record, text, segment.metaSalt, bytes, 8);
    return bytes;
  });
  const noteBytes = notes.reduce((sum, { length }) => sum + length, 0);
  const summaryBytes = alignUp(FIXED_BYTES + MAP_ENTRY_BYTES * disks.length + noteBytes, 8);
  const mapBytes = disks.reduce((sum, [, map]) => sum + BYTES_PER_INTERVAL * map.count, 0);
  const bytes = new Uint8Array(summaryBytes + mapBytes + SLOT_BYTES);
  let at = summaryBytes;
  for (const [, map] of disks) {
    const { starts, ends, places, heads } = map.flatten();
    for (const numbers of [starts, ends, places, heads]) {
      bytes.set(littleEnd(new Uint8Array(numbers.slice().buffer)), at);
      at += numbers.byteLength;
    }
  }
  const mapCrc = checksum(bytes.subarray(summaryBytes, summaryBytes + mapBytes));
  const view = viewOf(bytes);
  view.setUint32(0, segment.count, true);
  view.setUint32(4, segment.suspendedAfter ? 1 : 0, true);
  putU64(view, 8, segment.dataEnd);
  const { first, last, min, max } = segment.times;
  for (const [i, time] of [first, last, min, max].entries()) putU64(view, 16 + 8 * i, time);
  view.setUint32(48, disks.length, true);
  view.setUint32(52, notes.length, true);
  view.setUint32(56, mapCrc, true);
  at = FIXED_BYTES;
  for (const [disk, { count }] of disks) {
    view.setUint32(at, disk, true);
    view.setUint32(at + 4, count, true);
    at += MAP_ENTRY_BYTES;
  }
  for (const note of notes) {
    bytes.set(note, at);
    at += note.length;
  }
  const seal: Seal = {
    offset: segment.metaEnd,
    summaryBytes,
    mapBytes,
    mapCrc,
    maps: disks.map(([disk, { count }]) => ({ disk, count })),
  };
  putSealSlot(segment, seal, bytes);
  return { bytes, seal };
}

function putSealSlot(segment: Segment, seal: Seal, bytes: Uint8Array): void {
  const at = seal.summaryBytes + seal.mapBytes;
  const view = viewOf(bytes.subarray(at));
  bytes[at] = SEAL;
  putU64(view, 8, segment.last);
  putU64(view, 16, segment.times.last);
  putU64(view, 24, seal.summaryBytes);
  putU64(view, 32, seal.mapBytes);
  putU64(view, 40, seal.offset);
  putU64(view, 48, segment.last);
  view.setUint32(56, checksum(bytes.subarray(0, seal.summaryBytes)), true);
  view.setUint32(60, checksum(bytes.subarray(at, at + 60), segment.metaSalt), true);
}

/**
 * Takes a sealed segment's summary from the end of its metadata file.
 * @returns false when there is no seal: the segment was active
 * @throws DriftmapError `malformed` when there is one, and what it tells of is not so
 */
export function readSeal(segment: Segment, meta: JournalFile): boolean {
  const size = meta.size();
  if (size < HEADER_BYTES + FIXED_BYTES + SLOT_BYTES) return false;
  const slot = new Uint8Array(SLOT_BYTES);
  meta.read(size - SLOT_BYTES, slot);
  const view = viewOf(slot);
  if (slot[0] !== SEAL || !isWholeSlot(slot, view, 0, segment.metaSalt)) return false;
  const fail = (reason: string, offset: ByteOffset) => malformed(`the seal: ${reason}`, meta.path, offset);
  if (size > JOURNAL_MAX_META_FILE_BYTES) {
    const reason = `expected at most ${JOURNAL_MAX_META_FILE_BYTES} bytes of metadata, got ${size}`;
    throw new DriftmapError('limit', reason, { path: meta.path });
  }
  const [summaryBytes, mapBytes, offset] = [24, 32, 40].map((at) => getU64(view, at)) as [
    number,
    number,
    number,
  ];
  const fits = offset >= HEADER_BYTES && summaryBytes >= FIXED_BYTES && summaryBytes % 8 === 0;
  if (!fits || offset + summaryBytes + mapBytes + SLOT_BYTES !== size) {
    throw fail('expected it to fill the end of the file', size - SLOT_BYTES);
  }
  const summary = new Uint8Array(summaryBytes);
  meta.read(offset, summary);
  if (checksum(summary) !== view.getUint32(56, true)) throw fail('its summary is damaged: checksum', offset);
  takeSummary(segment, summary, { offset, mapBytes, path: meta.path });
  if (segment.last !== getU64(view, 8)) throw fail(`expected ${getU64(view, 8)} as the last record`, offset);
  return true;
}

function takeSummary(
  segment: Segment,
  summary: Uint8Array,
  { offset, mapBytes, path }: { offset: ByteOffset; mapBytes: ByteCount; path: string },
): void {
  const fail = (reason: string) => malformed(`the seal: ${reason}`, path, offset);
  const view = viewOf(summary);
  segment.count = view.getUint32(0, true);
  segment.suspendedAfter = view.getUint32(4, true) === 1;
  segment.dataEnd = getU64(view, 8);
  segment.metaEnd = offset;
  const [first, last, min, max] = [16, 24, 32, 40].map((at) => getU64(view, at)) as [
    number,
    number,
    number,
    number,
  ];
  if (![segment.dataEnd, first, last, min, max].every(Number.isSafeInteger) || segment.count === 0) {
    throw fail('expected numbers of at most 2^53−1');
  }
  segment.times = { first, last, min, max };
  const diskCount = view.getUint32(48, true);
  const noteCount = view.getUint32(52, true);
  let at = FIXED_BYTES + MAP_ENTRY_BYTES * diskCount;
  if (at > summary.length) throw fail('expected the numbers of its intervals within the summary');
  const maps = Array.from({ length: diskCount }, (_, i) => {
    const entry = FIXED_BYTES + MAP_ENTRY_BYTES * i;
    return { disk: view.getUint32(entry, true), count: view.getUint32(entry + 4, true) };
  });
  const intervals = maps.reduce((sum, { count }) => sum + count, 0);
  if (BYTES_PER_INTERVAL * intervals !== mapBytes) throw fail('expected as many intervals as the map has');
  for (let i = 0; i < noteCount; i++) {
    if (at + 8 > summary.length) throw fail('expected as many marks as it counts');
    const record = decodeRecord(summary, view, at + 8, segment.metaSalt);
    if (typeof record === 'string') throw fail(`a mark: ${record}`);
    const timeBefore = getU64(view, at);
    const outside = record.sequence < segment.first || record.sequence > segment.last;
    if (outside || !Number.isSafeInteger(timeBefore)) throw fail('a mark of another segment');
    segment.notables.push({ record, timeBefore } satisfies Notable);
    at += 8 + metaBytesOf(Buffer.byteLength(record.text));
  }
  const mapCrc = view.getUint32(56, true);
  segment.seal = { offset, summaryBytes: summary.length, mapBytes, mapCrc, maps };
}

/**
 * Reads the map of a sealed segment.
 * @throws DriftmapError `malformed` when it is damaged, or leads out of the disk or the data
 */
export function readMaps(
  segment: Segment,
  seal: Seal,
  meta: JournalFile,
  sizes: readonly ByteCount[],
): Map<number, FlatMap> {
  const at = seal.offset + seal.summaryBytes;
  const bytes = new Uint8Array(seal.mapBytes);
  meta.read(at, bytes);
  if (checksum(bytes) !== seal.mapCrc) {
    throw malformed('the map of the segment is damaged: checksum', meta.path, at);
  }
  const numbers = new Float64Array(littleEnd(bytes).buffer);
  const maps = new Map<number, FlatMap>();
  let from = 0;
  for (const { disk, count } of seal.maps) {
    const map = new FlatMap(numbers.subarray(from, from + 4 * count), count);
    if (!isSound(map, sizes[disk], segment.dataEnd)) {
      throw malformed(`the map of disk ${disk} leads out of it or out of the data`, meta.path, at);
    }
    maps.set(disk, map);
    from += 4 * count;
  }
  return maps;
}

function isSound(map: FlatMap, size: ByteCount | undefined, dataEnd: ByteOffset): boolean {
  if (size === undefined) return false;
  const { starts, ends, places, heads, count } = map;
  let before = 0;
  for (let i = 0; i < count; i++) {
    const [start, end, place, head] = [starts[i]!, ends[i]!, places[i]!, heads[i]!];
    const ascends = start >= before && end > start;
    const framed = head >= HEADER_BYTES && place >= head + FRAME_BYTES && place + (end - start) <= dataEnd;
    if (!ascends || (place !== ZEROS && !framed)) return false;
    before = end;
  }
  return before <= size;
}

/** Numbers of 64 bits as they lie in files, and back. */
function littleEnd(bytes: Uint8Array): Uint8Array {
  return endianness() === 'LE' ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).swap64();
}
