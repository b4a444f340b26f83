/**
 * The log of a VHDX ([MS-VHDX] 2.3). A writer changes metadata by writing the new sectors to the log first; a
 * file whose header names a log was not closed, and what its tables say counts only after the log is replayed.
 * driftmap never writes to an image: it replays in memory, and what comes of it is a map of the file as it
 * would be, over the file and the sectors that the log brings.
 *
 * The log is a ring of sectors of 4 KiB. An entry is a header, descriptors, and one sector for each data
 * descriptor, all under one CRC; a descriptor names a place in the file and either its sector of data (the
 * first eight and last four bytes are in the descriptor, where the sector has its own marks) or a run of
 * zeros. Entries with rising sequence numbers that follow one another are a sequence. The active one ends in
 * the entry with the largest number, and begins where that entry's tail says: what comes before has reached
 * the file. An entry that was being written when the power went has a wrong CRC and ends the sequence.
 *
 * The search is the specification's (2.3.3), with two bounds for logs made to be slow: what an offset holds is
 * decided once, and the bytes under CRCs that do not fit are counted.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE, VHDX_MAX_LOG_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, KiB, MiB } from '../../base/units.ts';
import { crc32c } from '../../codec/checksum.ts';
import type { ExtentMap } from '../../mapping/extent-map.ts';
import { guidAt } from '../guid.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';
import { type VhdxHeader, vhdxFault } from './vhdx-header.ts';
import { Patches } from './vhdx-patches.ts';

export interface VhdxReplay {
  /** The file as it would be: unit 0 is the file as it is, unit 1 holds `sectors`. */
  readonly map: ExtentMap;
  /** Sectors of data that the log brings. */
  readonly sectors: Uint8Array;
}

const LOG_SECTOR = 4 * KiB;
const HEADER_BYTES = 64;
const DESCRIPTOR_BYTES = 32;
/** Signatures, as little-endian numbers. */
const ENTRY = 0x65676f6c;
const ZEROS = 0x6f72657a;
const DATA = 0x63736564;
const SECTOR_OF_DATA = 0x61746164;
/** How many times its own length the log may be checksummed: twice is more than any writer's log needs. */
const CRC_ROUNDS = 4;

interface Entry {
  /** In the log. */
  readonly at: ByteOffset;
  readonly length: ByteCount;
  readonly tail: ByteOffset;
  readonly sequence: bigint;
  readonly descriptors: number;
  /** The file's size when the entry was written, and the size it must have after the replay. */
  readonly flushed: ByteCount;
  readonly last: ByteCount;
}

/**
 * Replays the log that the header names. Null where the log holds nothing but, at most, its first entry, not
 * whole: then its writer stopped before it touched any metadata, for an entry is whole before what it says is
 * done. (The specification calls that file corrupt too; QEMU, which begins a log for every change, leaves it
 * when it is killed, and reads it.)
 * @throws DriftmapError `malformed` where no sequence of entries is whole, or the file is shorter than the log
 *   says; `limit` for a log larger than any writer makes
 */
export async function replayLog(
  source: ByteSource,
  header: VhdxHeader & { readonly logGuid: string },
): Promise<VhdxReplay | null> {
  const path = source.name;
  const { logLength, logOffset } = header;
  if (logLength === 0 || logLength % MiB !== 0 || logOffset % MiB !== 0 || logOffset === 0) {
    const reason = `log: expected whole mebibytes after the first, got ${logLength} bytes at ${logOffset}`;
    throw vhdxFault(path, logOffset, reason);
  }
  if (logLength > VHDX_MAX_LOG_BYTES) {
    const reason = `the VHDX was not closed, and its log of ${logLength} bytes is larger than ${VHDX_MAX_LOG_BYTES}: let its hypervisor, or qemu-img check -r all, replay it`;
    throw new DriftmapError('limit', reason, { path, offset: logOffset });
  }
  const bytes = new Uint8Array(logLength);
  await readWhole(source, 'the VHDX log', logOffset, bytes);
  const log = new Log(path, logOffset, bytes, header.logGuid);
  const active = log.activeSequence();
  if (active.length === 0) {
    if (log.isOnlyBegun()) return null;
    const reason =
      'log: the image was not closed, and no sequence of log entries is whole: its metadata may be half written; let its hypervisor repair it, or copy what QEMU takes it for (qemu-img convert)';
    throw vhdxFault(path, logOffset, reason);
  }
  let size = source.size;
  for (const { flushed, last } of active) {
    if (flushed > source.size) {
      const reason = `log: the file had ${flushed} bytes when the log was written, and has ${source.size}: it is cut short`;
      throw vhdxFault(path, logOffset, reason);
    }
    size = Math.max(size, last);
  }
  const patches = new Patches();
  for (const entry of active) log.apply(entry, patches);
  size = Math.max(size, patches.end);
  if (size > MAX_DISK_SIZE - MiB) {
    throw vhdxFault(path, logOffset, `log: expected a file below 2^53 bytes after the replay, got ${size}`);
  }
  return { map: patches.mapOver(source.size, size), sectors: patches.sectors() };
}

class Log {
  private readonly path: string;
  private readonly offset: ByteOffset;
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly guid: string;
  /** What begins at each sector, once it was looked at. */
  private readonly known: (Entry | null | undefined)[];
  private crcBudget: ByteCount;

  constructor(path: string, offset: ByteOffset, bytes: Uint8Array, guid: string) {
    this.path = path;
    this.offset = offset;
    this.bytes = bytes;
    this.view = viewOf(bytes);
    this.guid = guid;
    this.known = new Array(bytes.length / LOG_SECTOR);
    this.crcBudget = CRC_ROUNDS * bytes.length;
  }

  /** Entries to replay, oldest first; none where no sequence is whole. */
  activeSequence(): readonly Entry[] {
    let best: readonly Entry[] = [];
    for (let tail = 0; tail < this.bytes.length; ) {
      const sequence = this.sequenceFrom(tail);
      const head = sequence.at(-1);
      const from = head === undefined ? -1 : sequence.findIndex(({ at }) => at === head.tail);
      if (head === undefined || from < 0) {
        tail += LOG_SECTOR;
        continue;
      }
      if (best.length === 0 || head.sequence > best.at(-1)!.sequence) best = sequence.slice(from);
      for (const { length } of sequence) tail += length;
    }
    return best;
  }

  /** Whether no entry of this log was written, or only the first, which is its own tail, and that in part. */
  isOnlyBegun(): boolean {
    let begun = 0;
    for (let at = 0; at < this.bytes.length; at += LOG_SECTOR) {
      if (this.view.getUint32(at, true) !== ENTRY || guidAt(this.view, at + 32) !== this.guid) continue;
      if (this.view.getUint32(at + 12, true) !== at || this.entryAt(at) !== null) return false;
      begun++;
    }
    return begun <= 1;
  }

  private sequenceFrom(tail: ByteOffset): Entry[] {
    const { length } = this.bytes;
    const sequence: Entry[] = [];
    for (let at = tail, used = 0; used < length; ) {
      const entry = this.entryAt(at);
      const before = sequence.at(-1);
      if (entry === null || used + entry.length > length) break;
      if (before !== undefined && entry.sequence !== before.sequence + 1n) break;
      sequence.push(entry);
      used += entry.length;
      at = (at + entry.length) % length;
    }
    return sequence;
  }

  private entryAt(at: ByteOffset): Entry | null {
    const index = at / LOG_SECTOR;
    const known = this.known[index];
    if (known !== undefined) return known;
    const entry = this.readEntry(at);
    this.known[index] = entry;
    return entry;
  }

  /** Null for what is no valid entry of this log ([MS-VHDX] 2.3.1). */
  private readEntry(at: ByteOffset): Entry | null {
    const { view, bytes } = this;
    if (view.getUint32(at, true) !== ENTRY) return null;
    const length = view.getUint32(at + 8, true);
    const tail = view.getUint32(at + 12, true);
    const sequence = view.getBigUint64(at + 16, true);
    const descriptors = view.getUint32(at + 24, true);
    if (length === 0 || length % LOG_SECTOR !== 0 || length > bytes.length) return null;
    if (tail % LOG_SECTOR !== 0 || tail >= bytes.length || sequence === 0n) return null;
    if (descriptorBytes(descriptors) > length || guidAt(view, at + 32) !== this.guid) return null;
    const flushed = littleUint64(view, at + 48);
    const entry = { at, length, tail, sequence, descriptors, flushed, last: littleUint64(view, at + 56) };
    return this.crcFits(entry) && this.partsFit(entry) ? entry : null;
  }

  private crcFits({ at, length }: Entry): boolean {
    const { bytes, view } = this;
    this.crcBudget -= length;
    if (this.crcBudget < 0) {
      const reason = 'log: entries lie over one another many times: it was not written by a hypervisor';
      throw vhdxFault(this.path, this.offset + at, reason);
    }
    const end = Math.min(at + length, bytes.length);
    let crc = crc32c(new Uint8Array(4), crc32c(bytes.subarray(at, at + 4)));
    crc = crc32c(bytes.subarray(at + 8, end), crc);
    crc = crc32c(bytes.subarray(0, length - (end - at)), crc);
    return crc === view.getUint32(at + 4, true);
  }

  /** Whether descriptors and sectors of data all belong to the entry. */
  private partsFit(entry: Entry): boolean {
    const low = Number(entry.sequence & 0xffffffffn);
    const high = Number(entry.sequence >> 32n);
    const { view } = this;
    let data = descriptorBytes(entry.descriptors);
    for (let i = 0; i < entry.descriptors; i++) {
      const at = this.descriptorAt(entry, i);
      const kind = view.getUint32(at, true);
      if (view.getUint32(at + 24, true) !== low || view.getUint32(at + 28, true) !== high) return false;
      if (littleUint64(view, at + 16) % LOG_SECTOR !== 0) return false;
      if (kind === ZEROS) {
        if (littleUint64(view, at + 8) % LOG_SECTOR !== 0) return false;
        continue;
      }
      if (kind !== DATA || data >= entry.length) return false;
      const sector = (entry.at + data) % this.bytes.length;
      if (view.getUint32(sector, true) !== SECTOR_OF_DATA) return false;
      if (view.getUint32(sector + 4, true) !== high) return false;
      if (view.getUint32(sector + LOG_SECTOR - 4, true) !== low) return false;
      data += LOG_SECTOR;
    }
    return true;
  }

  /** Where in the log a descriptor lies; none crosses the ring's end. */
  private descriptorAt({ at }: Entry, index: number): number {
    return (at + HEADER_BYTES + DESCRIPTOR_BYTES * index) % this.bytes.length;
  }

  apply(entry: Entry, patches: Patches): void {
    const { bytes, view } = this;
    let data = descriptorBytes(entry.descriptors);
    for (let i = 0; i < entry.descriptors; i++) {
      const at = this.descriptorAt(entry, i);
      const target = littleUint64(view, at + 16);
      const isData = view.getUint32(at, true) === DATA;
      const length = isData ? LOG_SECTOR : littleUint64(view, at + 8);
      if (target + length > MAX_DISK_SIZE) {
        const reason = `log: expected a place below 2^53 bytes, got ${length} bytes at ${target}`;
        throw vhdxFault(this.path, this.offset + at, reason);
      }
      if (!isData) {
        patches.zero(target, length);
        continue;
      }
      const from = (entry.at + data) % bytes.length;
      const sector = bytes.slice(from, from + LOG_SECTOR);
      sector.set(bytes.subarray(at + 8, at + 16), 0);
      sector.set(bytes.subarray(at + 4, at + 8), LOG_SECTOR - 4);
      patches.write(target, sector);
      data += LOG_SECTOR;
    }
  }
}

/** Whole sectors of an entry's header and descriptors, in bytes. */
function descriptorBytes(count: number): ByteCount {
  return Math.ceil((HEADER_BYTES + DESCRIPTOR_BYTES * count) / LOG_SECTOR) * LOG_SECTOR;
}
