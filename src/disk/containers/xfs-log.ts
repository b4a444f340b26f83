/**
 * The log of an XFS file system: what of it is to be replayed (XFS Algorithms & Data Structures, chapter
 * "Journaling Log"; where the head is, as Linux's driver finds it).
 *
 * The log is a ring of 512-byte blocks. The first word of every block is stamped with the number of the round
 * in which it was written, the cycle, and the words that were there are kept in the record's header; a header
 * has a magic number first and its cycle second. So the newest block is where cycles fall: the head. Up to
 * eight records are on their way to the disk at a time and may arrive in any order, so behind the head there
 * may be holes of the cycle before, and, in version 5, a record whose checksum does not fit: the head moves
 * back before the first of them. The record that ends at the head says where the tail is, the oldest record
 * that is needed. A log that ends with the record of an unmount is clean.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { KiB } from '../../base/units.ts';
import { crc32c } from '../../codec/checksum.ts';
import { type ByteSource, readWhole, viewOf } from '../formats/byte-source.ts';
import { sameUuid } from './xfs-metadata.ts';
import { hex, runOffset, type XfsGeometry, xfsFault } from './xfs-superblock.ts';

export const LOG_BLOCK = 512;
const RECORD_MAGIC = 0xfeedbabe;
const HEADER_BYTES = 328;
const EXTENSION_BYTES = 260;
/** Blocks of data whose first words one block of headers keeps. */
const WORDS_PER_HEADER = 64;
const LARGEST_RECORD = 256 * KiB;
/** Records that may be on their way at a time. */
const IN_FLIGHT = 8;
const LITTLE_END = 1;
const UNMOUNT = 0x20;

/** A record without its data. */
export interface LogRecord {
  /** Block of the log at which the header begins, and how many blocks of headers there are. */
  readonly at: number;
  readonly headerBlocks: number;
  readonly cycle: number;
  /** Bytes of data after the headers. */
  readonly length: ByteCount;
  readonly operations: number;
  readonly tail: { readonly cycle: number; readonly block: number };
}

/** From the tail up to the head, both blocks of the log. */
export interface ActiveLog {
  readonly tail: number;
  readonly head: number;
  readonly tailCycle: number;
}

export class XfsLog {
  readonly offset: ByteOffset;
  /** Blocks of 512 bytes. */
  readonly blocks: number;
  private readonly source: ByteSource;
  private readonly geometry: XfsGeometry;

  /** @throws DriftmapError `malformed` for a log that is no run of blocks, `unsupported` for one elsewhere */
  constructor(source: ByteSource, geometry: XfsGeometry) {
    const { path, logStart, logBlocks, blockSize } = geometry;
    if (logStart === 0) {
      const reason =
        'the log of this XFS file system is on another device, so whether it is clean cannot be seen: it is not read';
      throw new DriftmapError('unsupported', reason, { path, offset: 48 });
    }
    this.offset = logBlocks === 0 ? -1 : runOffset(geometry, logStart, logBlocks);
    if (this.offset < 0) {
      const reason = `XFS superblock: expected a log within one group, got ${logBlocks} blocks from ${logStart}`;
      throw xfsFault(path, 48, reason);
    }
    this.source = source;
    this.geometry = geometry;
    this.blocks = (logBlocks * blockSize) / LOG_BLOCK;
  }

  get path(): string {
    return this.geometry.path;
  }

  /**
   * What is to be replayed; null where the log is clean.
   * @throws DriftmapError `malformed` where head or tail cannot be found
   */
  async active(): Promise<ActiveLog | null> {
    let head = await this.findHead();
    if (head === null) return null;
    let last = await this.lastRecord(head);
    if (after(this, last) !== head) {
      head = last.at;
      last = await this.lastRecord(head);
    }
    if (await this.isUnmount(last, head)) return null;
    const torn = this.geometry.version === 5 ? await this.firstTorn(head) : null;
    if (torn !== null) {
      head = torn.at;
      last = await this.lastRecord(head);
      if (await this.isUnmount(last, head)) return null;
    }
    const { block, cycle } = last.tail;
    if (block >= this.blocks) {
      throw this.fault(last.at, `expected a tail within ${this.blocks} blocks of the log, got ${block}`);
    }
    return block === head ? null : { tail: block, head, tailCycle: cycle };
  }

  /** The record whose header is at a block. */
  async readHeader(at: number): Promise<LogRecord> {
    const bytes = await this.readBlocks(at, 1);
    const view = viewOf(bytes);
    if (view.getUint32(0) !== RECORD_MAGIC) {
      throw this.fault(at, `expected a record, got the magic ${hex(view.getUint32(0))}`);
    }
    const version = view.getUint32(8);
    if (version < 1 || version > 3)
      throw this.fault(at, `expected a record of version 1 or 2, got ${version}`);
    if (view.getUint32(300) !== LITTLE_END) {
      const reason =
        'the log was written by a machine whose numbers are not little end first: mount and unmount it there';
      throw new DriftmapError('unsupported', reason, { path: this.geometry.path, offset: this.placeOf(at) });
    }
    if (!sameUuid(bytes, 304, this.geometry.uuid)) {
      throw this.fault(at, 'a record belongs to another file system: xfs_repair -L clears the log');
    }
    const room = version >= 2 ? view.getUint32(320) : 0;
    const headerBlocks = Math.max(1, Math.ceil(room / (WORDS_PER_HEADER * LOG_BLOCK)));
    const length = view.getUint32(12);
    const cycle = view.getUint32(4);
    if (length === 0 || length > LARGEST_RECORD || room > LARGEST_RECORD) {
      throw this.fault(at, `expected a record of 1 to ${LARGEST_RECORD} bytes, got ${length} (of ${room})`);
    }
    if (view.getUint32(16) !== cycle || view.getUint32(20) !== at) {
      const says = `${view.getUint32(20)} of cycle ${view.getUint32(16)}`;
      throw this.fault(at, `expected a record of block ${at} in cycle ${cycle}, it says ${says}`);
    }
    const tail = { cycle: view.getUint32(24), block: view.getUint32(28) };
    return { at, headerBlocks, cycle, length, operations: view.getUint32(40), tail };
  }

  /**
   * A record's data, with the words that were stamped over put back; null where the checksum does not fit.
   * Logs of version 4 may have none.
   */
  async readData(record: LogRecord): Promise<Uint8Array | null> {
    const { headerBlocks, length } = record;
    const dataBlocks = Math.ceil(length / LOG_BLOCK);
    if (dataBlocks > headerBlocks * WORDS_PER_HEADER) {
      throw this.fault(record.at, `expected headers for ${dataBlocks} blocks of data, got ${headerBlocks}`);
    }
    const all = await this.readBlocks(record.at, headerBlocks + dataBlocks);
    const view = viewOf(all);
    const data = all.subarray(headerBlocks * LOG_BLOCK);
    const written = view.getUint32(32, true);
    if ((this.geometry.version === 5 || written !== 0) && recordSum(all, record) !== written) return null;
    const dataView = viewOf(data);
    for (let i = 0; i < dataBlocks; i++) {
      const inHeader = i % WORDS_PER_HEADER;
      const header = (i - inHeader) / WORDS_PER_HEADER;
      const word = header === 0 ? 44 + 4 * inHeader : header * LOG_BLOCK + 4 + 4 * inHeader;
      dataView.setUint32(i * LOG_BLOCK, view.getUint32(word));
    }
    return data.subarray(0, length);
  }

  /** Reads around the end of the ring. */
  private async readBlocks(at: number, count: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(count * LOG_BLOCK);
    const first = Math.min(count, this.blocks - at) * LOG_BLOCK;
    await readWhole(this.source, 'the XFS log', this.placeOf(at), bytes.subarray(0, first));
    if (first < bytes.length) {
      await readWhole(this.source, 'the XFS log', this.offset, bytes.subarray(first));
    }
    return bytes;
  }

  private placeOf(block: number): ByteOffset {
    return this.offset + block * LOG_BLOCK;
  }

  private async cycleAt(block: number): Promise<number> {
    return cycleOf(viewOf(await this.readBlocks(block, 1)), 0);
  }

  /** Null for a log in which nothing was ever written. */
  private async findHead(): Promise<number | null> {
    const { blocks } = this;
    const first = await this.cycleAt(0);
    if (first === 0) return null;
    const last = await this.cycleAt(blocks - 1);
    if (last === 0 && first !== 1) {
      throw this.fault(0, `expected the first cycle in a log that was never full, got cycle ${first}`);
    }
    const head = first === last ? blocks : await this.firstOfCycle(last);
    const older = first === last ? last - 1 : last;
    const window = Math.min((IN_FLIGHT * LARGEST_RECORD) / LOG_BLOCK, blocks);
    if (head < window && last !== 0) {
      const hole = await this.findCycle(blocks - (window - head), blocks, older - 1);
      if (hole !== null) return hole;
    }
    const hole = await this.findCycle(Math.max(0, head - window), head, older);
    return (hole ?? head) % blocks;
  }

  /** The first block of the run of a cycle that reaches the end of the log. */
  private async firstOfCycle(cycle: number): Promise<number> {
    let low = 0;
    let high = this.blocks - 1;
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2);
      if ((await this.cycleAt(middle)) === cycle) high = middle;
      else low = middle;
    }
    return high;
  }

  /** The first block of a cycle in `[from, to)`; null where there is none. */
  private async findCycle(from: number, to: number, cycle: number): Promise<number | null> {
    if (to <= from) return null;
    const view = viewOf(await this.readBlocks(from, to - from));
    for (let i = 0; i < to - from; i++) if (cycleOf(view, i * LOG_BLOCK) === cycle) return from + i;
    return null;
  }

  /** The last record that begins before a block. */
  private async lastRecord(before: number): Promise<LogRecord> {
    const window = Math.min(
      this.blocks,
      LARGEST_RECORD / LOG_BLOCK + LARGEST_RECORD / (WORDS_PER_HEADER * LOG_BLOCK),
    );
    const from = (before - window + this.blocks) % this.blocks;
    const view = viewOf(await this.readBlocks(from, window));
    for (let i = window - 1; i >= 0; i--) {
      if (view.getUint32(i * LOG_BLOCK) === RECORD_MAGIC) return this.readHeader((from + i) % this.blocks);
    }
    throw this.fault(before % this.blocks, 'expected a record before the head of the log, got none');
  }

  private async isUnmount(record: LogRecord, head: number): Promise<boolean> {
    if (record.operations !== 1 || after(this, record) !== head) return false;
    const bytes = await this.readBlocks((record.at + record.headerBlocks) % this.blocks, 1);
    return Math.floor(bytes[9]! / UNMOUNT) % 2 === 1;
  }

  /** Of the records that may have been on their way, the oldest that is not whole. */
  private async firstTorn(head: number): Promise<LogRecord | null> {
    let torn: LogRecord | null = null;
    for (let i = 0, end = head; i < IN_FLIGHT; i++) {
      const record = await this.recordOrNull(end);
      if (record === null || after(this, record) !== end) break;
      if ((await this.readData(record)) === null) torn = record;
      end = record.at;
    }
    return torn;
  }

  private async recordOrNull(before: number): Promise<LogRecord | null> {
    try {
      return await this.lastRecord(before);
    } catch (error) {
      if (error instanceof DriftmapError && error.kind === 'malformed') return null;
      throw error;
    }
  }

  fault(block: number, reason: string): DriftmapError {
    const advice = 'mount it and unmount it, or clear the log with xfs_repair -L, which loses what it holds';
    return xfsFault(this.geometry.path, this.placeOf(block), `XFS log: ${reason}; ${advice}`);
  }
}

/** The block after a record. */
export function after(log: { readonly blocks: number }, { at, headerBlocks, length }: LogRecord): number {
  return (at + headerBlocks + Math.ceil(length / LOG_BLOCK)) % log.blocks;
}

function cycleOf(view: DataView, at: number): number {
  const first = view.getUint32(at);
  return first === RECORD_MAGIC ? view.getUint32(at + 4) : first;
}

/** Of the fields of the headers that are filled, with the checksum itself as zeros, and of the data as it is stamped. */
function recordSum(all: Uint8Array, { headerBlocks, length }: LogRecord): number {
  let crc = crc32c(new Uint8Array(4), crc32c(all.subarray(0, 32)));
  crc = crc32c(all.subarray(36, HEADER_BYTES), crc);
  const filled = Math.ceil(length / (WORDS_PER_HEADER * LOG_BLOCK));
  for (let i = 1; i < filled; i++) {
    crc = crc32c(all.subarray(i * LOG_BLOCK, i * LOG_BLOCK + EXTENSION_BYTES), crc);
  }
  const data = headerBlocks * LOG_BLOCK;
  return crc32c(all.subarray(data, data + length), crc);
}
