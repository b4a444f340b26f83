/** Journals for tests: a log of transactions written into the journal of an image made by mkfs.ext4. */

import { crc32c } from '../../src/codec/checksum.ts';
import { debugfs } from './ext4-images.ts';

export const MAGIC = 0xc03b3998;

export interface Write {
  readonly block: number;
  readonly data: Uint8Array;
}

export interface Transaction {
  /** Each array is one descriptor block and what follows it. */
  readonly writes: readonly (readonly Write[])[];
  readonly revokes?: readonly number[];
  readonly time?: number;
  readonly committed?: boolean;
}

export interface Journal {
  readonly checksums: 0 | 1 | 2 | 3;
  readonly is64Bit: boolean;
  readonly asyncCommit?: boolean;
  readonly fastCommit?: boolean;
  /** Block of the log where it begins. */
  readonly start?: number;
  readonly sequence?: number;
  readonly transactions: readonly Transaction[];
}

/** Where things were written: offsets in the image. */
export interface Written {
  readonly superblock: number;
  readonly descriptors: number[];
  readonly data: number[];
  readonly revokes: number[];
  readonly commits: number[];
  /** Of any block of the journal. */
  placeOf(logged: number): number;
  readonly end: number;
}

const raw = (seed: number, bytes: Uint8Array) => ~crc32c(bytes, ~seed >>> 0) >>> 0;

function bigCrc(seed: number, bytes: Uint8Array): number {
  let crc = seed;
  for (const byte of bytes) {
    crc ^= byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 0x80000000) !== 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  }
  return crc >>> 0;
}

/** Fields of the file system's superblock, sealed again. */
export function editSuperblock(image: Uint8Array, edit: (view: DataView) => void): void {
  const bytes = image.subarray(1024, 2048);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  edit(view);
  if ((view.getUint32(0x64, true) & 0x400) !== 0) {
    view.setUint32(0x3fc, raw(0xffffffff, bytes.subarray(0, 0x3fc)), true);
  }
}

/** Runs of the journal of an image, in blocks: first in the journal, first in the file system, how many. */
export function journalRuns(path: string): [number, number, number][] {
  const stat = debugfs(path, ['stat <8>'], []);
  return [...stat.matchAll(/\((\d+)(?:-(\d+))?\):(\d+)/g)].map(([, first, last, place]) => [
    Number(first),
    Number(place),
    Number(last ?? first) - Number(first) + 1,
  ]);
}

/** Writes a log into `image`, and that it is to be replayed. */
export function writeJournal(
  image: Uint8Array,
  runs: readonly (readonly [number, number, number])[],
  journal: Journal,
): Written {
  const builder = new LogWriter(image, runs, journal);
  return builder.write();
}

class LogWriter {
  private readonly image: Uint8Array;
  private readonly runs: readonly (readonly [number, number, number])[];
  private readonly journal: Journal;
  private readonly blockSize: number;
  private readonly seed: number;
  private readonly first: number;
  private readonly end: number;
  private at: number;
  private readonly written: Written;

  constructor(image: Uint8Array, runs: readonly (readonly [number, number, number])[], journal: Journal) {
    this.image = image;
    this.runs = runs;
    this.journal = journal;
    this.blockSize = 1024 << new DataView(image.buffer, image.byteOffset).getUint32(1024 + 0x18, true);
    const superblock = this.block(0);
    this.seed = raw(0xffffffff, superblock.subarray(0x30, 0x40));
    const view = this.view(superblock);
    this.first = view.getUint32(0x14);
    this.end = view.getUint32(0x10) - (journal.fastCommit ? 256 : 0);
    this.at = journal.start ?? this.first;
    this.written = {
      superblock: superblock.byteOffset - image.byteOffset,
      descriptors: [],
      data: [],
      revokes: [],
      commits: [],
      placeOf: (logged) => this.block(logged).byteOffset - image.byteOffset,
      end: this.end,
    };
  }

  write(): Written {
    const { journal } = this;
    this.writeSuperblock();
    let sequence = journal.sequence ?? 1;
    for (const transaction of journal.transactions) {
      this.writeTransaction(transaction, sequence);
      sequence = (sequence + 1) >>> 0;
    }
    editSuperblock(this.image, (view) => view.setUint32(0x60, view.getUint32(0x60, true) | 0x4, true));
    return this.written;
  }

  private writeSuperblock(): void {
    const { checksums, is64Bit, asyncCommit, fastCommit, start, sequence } = this.journal;
    const bytes = this.block(0);
    const view = this.view(bytes);
    view.setUint32(0x18, sequence ?? 1);
    view.setUint32(0x1c, start ?? this.first);
    view.setUint32(0x24, checksums === 1 ? 1 : 0);
    const csum = checksums === 2 ? 8 : checksums === 3 ? 0x10 : 0;
    view.setUint32(0x28, 1 | (is64Bit ? 2 : 0) | (asyncCommit ? 4 : 0) | csum | (fastCommit ? 0x20 : 0));
    bytes[0x50] = checksums >= 2 ? 4 : 0;
    view.setUint32(0xfc, 0);
    if (checksums >= 2) view.setUint32(0xfc, raw(0xffffffff, bytes.subarray(0, 1024)));
  }

  private writeTransaction(transaction: Transaction, sequence: number): void {
    const { written, journal } = this;
    const { checksums, is64Bit } = journal;
    let sum = 0xffffffff;
    for (const writes of transaction.writes) {
      const descriptor = this.next(1, sequence);
      written.descriptors.push(this.offsetOf(descriptor));
      sum = this.writeTags(descriptor, writes, sequence, sum);
    }
    const { revokes = [] } = transaction;
    if (revokes.length > 0) {
      const bytes = this.next(5, sequence);
      written.revokes.push(this.offsetOf(bytes));
      const view = this.view(bytes);
      let at = 16;
      for (const block of revokes) {
        view.setUint32(is64Bit ? at + 4 : at, block);
        at += is64Bit ? 8 : 4;
      }
      view.setUint32(0xc, at);
      this.seal(bytes);
    }
    if (transaction.committed === false) return;
    const bytes = this.next(2, sequence);
    written.commits.push(this.offsetOf(bytes));
    const view = this.view(bytes);
    view.setUint32(0x34, transaction.time ?? 1_700_000_000 + sequence);
    if (checksums === 1) {
      bytes.set([1, 4], 0xc);
      view.setUint32(0x10, sum);
    } else if (checksums >= 2) view.setUint32(0x10, raw(this.seed, bytes));
  }

  /** Tags, and the blocks that follow; returns the running checksum 1. */
  private writeTags(
    descriptor: Uint8Array,
    writes: readonly Write[],
    sequence: number,
    before: number,
  ): number {
    const { checksums, is64Bit } = this.journal;
    const view = this.view(descriptor);
    const number = new Uint8Array(4);
    this.view(number).setUint32(0, sequence);
    const copies: Uint8Array[] = [];
    let at = 12;
    for (const [i, { block, data }] of writes.entries()) {
      const copy = data.slice();
      const escaped = this.view(copy).getUint32(0) === MAGIC;
      if (escaped) copy.fill(0, 0, 4);
      copies.push(copy);
      const flags = (escaped ? 1 : 0) | (i > 0 ? 2 : 0) | (i === writes.length - 1 ? 8 : 0);
      const sum = raw(raw(this.seed, number), copy);
      view.setUint32(at, block);
      if (checksums === 3) {
        view.setUint32(at + 4, flags);
        view.setUint32(at + 12, sum);
        at += 16;
      } else {
        if (checksums === 2) view.setUint16(at + 4, sum & 0xffff);
        view.setUint16(at + 6, flags);
        at += 8 + (is64Bit ? 4 : 0) + (checksums === 2 ? 2 : 0);
      }
      if (i === 0) at += 16;
    }
    this.seal(descriptor);
    let sum = checksums === 1 ? bigCrc(before, descriptor) : 0;
    for (const copy of copies) {
      const bytes = this.next(null, 0);
      bytes.set(copy);
      this.written.data.push(this.offsetOf(bytes));
      if (checksums === 1) sum = bigCrc(sum, copy);
    }
    return sum;
  }

  private seal(bytes: Uint8Array): void {
    if (this.journal.checksums < 2) return;
    this.view(bytes).setUint32(bytes.length - 4, raw(this.seed, bytes));
  }

  /** The log's next block, empty or with its header. */
  private next(type: number | null, sequence: number): Uint8Array {
    const bytes = this.block(this.at).fill(0);
    this.at = this.at + 1 === this.end ? this.first : this.at + 1;
    if (type === null) return bytes;
    const view = this.view(bytes);
    view.setUint32(0, MAGIC);
    view.setUint32(4, type);
    view.setUint32(8, sequence);
    return bytes;
  }

  private block(logged: number): Uint8Array {
    for (const [first, place, count] of this.runs) {
      if (logged < first || logged >= first + count) continue;
      const at = (place + logged - first) * this.blockSize;
      return this.image.subarray(at, at + this.blockSize);
    }
    throw new Error(`the journal has no block ${logged}`);
  }

  private offsetOf(bytes: Uint8Array): number {
    return bytes.byteOffset - this.image.byteOffset;
  }

  private view(bytes: Uint8Array): DataView {
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }
}
