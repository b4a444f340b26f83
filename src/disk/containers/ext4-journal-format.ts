/**
 * What lies in a jbd2 journal (Linux kernel, Documentation/filesystems/ext4/journal.rst): its superblock, and
 * descriptor, revoke and commit blocks, which begin with a magic number, their type and the number of their
 * transaction. Unlike the rest of ext4 all of it is big-endian.
 */

import { DriftmapError } from '../../base/errors.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { uint64, viewOf } from '../formats/byte-source.ts';
import { ext4Crc } from './ext4-checksum.ts';
import { JOURNAL_MAGIC } from './ext4-metadata.ts';
import { ext4Fault, hex } from './ext4-superblock.ts';

export const BlockType = { descriptor: 1, commit: 2, superblock1: 3, superblock2: 4, revoke: 5 } as const;

const Feature = {
  revoke: 0x1,
  is64Bit: 0x2,
  asyncCommit: 0x4,
  csum2: 0x8,
  csum3: 0x10,
  fastCommit: 0x20,
} as const;
const ALL_FEATURES = 0x3f;
const COMPAT_CHECKSUM = 0x1;
const CRC32C = 4;
const CRC32 = 1;
const SUPERBLOCK_BYTES = 1024;
const CHECKSUM_AT = 0xfc;
const DEFAULT_FAST_COMMIT_BLOCKS = 256;
const TAIL = 4;
const HEADER = 12;

/** Flags of a tag. */
const ESCAPED = 0x1;
const SAME_UUID = 0x2;
const LAST = 0x8;

export interface JournalSuperblock {
  /** Blocks of the log itself: from `first` up to `end`, and round again. */
  readonly first: number;
  readonly end: number;
  /** The oldest transaction that is not in place yet: where it begins, 0 for none, and its number. */
  readonly start: number;
  readonly sequence: number;
  readonly is64Bit: boolean;
  readonly asyncCommit: boolean;
  readonly fastCommit: boolean;
  /** 0: none; 1: one of each transaction's blocks, in its commit block; 2 and 3: one of each block. */
  readonly checksums: 0 | 1 | 2 | 3;
  /** What checksums 2 and 3 begin with. */
  readonly seed: number;
}

/** Where the bytes came from, for messages. */
export interface Place {
  readonly path: string;
  readonly offset: ByteOffset;
}

/** @param blocks how many the journal's inode has @throws DriftmapError `malformed`, `unsupported` */
export function parseJournalSuperblock(
  bytes: Uint8Array,
  { path, offset }: Place,
  blocks: number,
): JournalSuperblock {
  const view = viewOf(bytes);
  const malformed = (at: number, reason: string) =>
    ext4Fault(path, offset + at, `journal superblock: ${reason}`);
  const magic = view.getUint32(0);
  if (magic !== JOURNAL_MAGIC) throw malformed(0, `expected the magic number c03b3998, got ${hex(magic)}`);
  const type = view.getUint32(4);
  if (type !== BlockType.superblock1 && type !== BlockType.superblock2) {
    throw malformed(4, `expected a block of type 3 or 4, got ${type}`);
  }
  const isNew = type === BlockType.superblock2;
  const incompat = isNew ? view.getUint32(0x28) : 0;
  if (incompat > ALL_FEATURES) {
    const reason = `ext4 journal superblock: features ${hex(incompat)}: of these some are not known to this driftmap`;
    throw new DriftmapError('unsupported', reason, { path, offset: offset + 0x28 });
  }
  const checksums = checksumsOf(incompat, isNew ? view.getUint32(0x24) : 0, malformed);
  if (checksums >= 2) checkOwnChecksum(bytes, view, malformed);

  const blockSize = view.getUint32(0xc);
  if (blockSize !== bytes.length) {
    throw malformed(0xc, `expected blocks of ${bytes.length} bytes, got ${blockSize}`);
  }
  const length = view.getUint32(0x10);
  const fastCommit = (incompat & Feature.fastCommit) !== 0;
  const reserved = fastCommit ? view.getUint32(0x54) || DEFAULT_FAST_COMMIT_BLOCKS : 0;
  const end = length - reserved;
  const first = view.getUint32(0x14);
  if (length > blocks) throw malformed(0x10, `expected at most ${blocks} blocks, got ${length}`);
  if (first === 0 || first >= end) throw malformed(0x14, `expected a log within 1 to ${end}, got ${first}`);
  const start = view.getUint32(0x1c);
  if (start !== 0 && (start < first || start >= end)) {
    throw malformed(0x1c, `expected a start within ${first} to ${end}, got ${start}`);
  }
  return {
    first,
    end,
    start,
    sequence: view.getUint32(0x18),
    is64Bit: (incompat & Feature.is64Bit) !== 0,
    asyncCommit: (incompat & Feature.asyncCommit) !== 0,
    fastCommit,
    checksums,
    seed: ext4Crc(0xffffffff, bytes.subarray(0x30, 0x40)),
  };
}

function checksumsOf(
  incompat: number,
  compat: number,
  malformed: (at: number, reason: string) => DriftmapError,
): 0 | 1 | 2 | 3 {
  const has2 = (incompat & Feature.csum2) !== 0;
  const has3 = (incompat & Feature.csum3) !== 0;
  const has1 = (compat & COMPAT_CHECKSUM) !== 0;
  if (Number(has1) + Number(has2) + Number(has3) > 1) {
    throw malformed(0x28, 'expected checksums of one version, got several');
  }
  return has3 ? 3 : has2 ? 2 : has1 ? 1 : 0;
}

function checkOwnChecksum(
  bytes: Uint8Array,
  view: DataView,
  malformed: (at: number, reason: string) => DriftmapError,
): void {
  if (bytes[0x50] !== CRC32C) throw malformed(0x50, `expected checksums of type 4, got ${bytes[0x50]}`);
  const copy = bytes.slice(0, SUPERBLOCK_BYTES).fill(0, CHECKSUM_AT, CHECKSUM_AT + 4);
  const expected = ext4Crc(0xffffffff, copy);
  const got = view.getUint32(CHECKSUM_AT);
  if (got !== expected) throw malformed(CHECKSUM_AT, `expected checksum ${hex(expected)}, got ${hex(got)}`);
}

/** The type of a block of a transaction; null where it is none of this transaction: there the log ends. */
export function blockTypeOf(bytes: Uint8Array, sequence: number): number | null {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== JOURNAL_MAGIC || view.getUint32(8) !== sequence) return null;
  return view.getUint32(4);
}

/** What follows a descriptor block in the log, in its order: a block for every tag. */
export interface Tag {
  /** In the file system. */
  readonly block: number;
  readonly escaped: boolean;
  /** Of the copy in the log; its low 16 bits with checksums 2; 0 without. */
  readonly checksum: number;
}

/** @throws DriftmapError `malformed` where the tags do not end within the block */
export function parseTags(bytes: Uint8Array, journal: JournalSuperblock, place: Place): Tag[] {
  const { checksums, is64Bit } = journal;
  const view = viewOf(bytes);
  const width = tagBytes(journal);
  const end = bytes.length - (checksums >= 2 ? TAIL : 0);
  const tags: Tag[] = [];
  for (let at = HEADER; at + width <= end; ) {
    const flags = checksums === 3 ? view.getUint32(at + 4) : view.getUint16(at + 6);
    const high = is64Bit ? view.getUint32(at + 8) : 0;
    const checksum = checksums === 3 ? view.getUint32(at + 12) : checksums === 2 ? view.getUint16(at + 4) : 0;
    tags.push({
      block: high * 2 ** 32 + view.getUint32(at),
      escaped: (flags & ESCAPED) !== 0,
      checksum,
    });
    if ((flags & LAST) !== 0) return tags;
    at += width + ((flags & SAME_UUID) !== 0 ? 0 : 16);
  }
  // As Linux does: a full block may end without a last tag.
  if (tags.length > 0) return tags;
  throw ext4Fault(place.path, place.offset, 'journal: expected tags in a descriptor block, got none');
}

function tagBytes({ checksums, is64Bit }: JournalSuperblock): ByteCount {
  if (checksums === 3) return 16;
  return 8 + (checksums === 2 ? 2 : 0) + (is64Bit ? 4 : 0);
}

/** Calls back with every block of the file system that a revoke block names. */
export function parseRevokes(
  bytes: Uint8Array,
  { checksums, is64Bit }: JournalSuperblock,
  place: Place,
  revoke: (block: number) => void,
): void {
  const view = viewOf(bytes);
  const used = view.getUint32(0xc);
  const most = bytes.length - (checksums >= 2 ? TAIL : 0);
  if (used > most) {
    const reason = `journal: expected at most ${most} bytes in a revoke block, got ${used}`;
    throw ext4Fault(place.path, place.offset + 0xc, reason);
  }
  const width = is64Bit ? 8 : 4;
  for (let at = 16; at + width <= used; at += width) {
    revoke(is64Bit ? uint64(view, at) : view.getUint32(at));
  }
}

/** Whether the tail of a descriptor or revoke block is right, where such blocks have one. */
export function isTailRight(bytes: Uint8Array, { checksums, seed }: JournalSuperblock): boolean {
  if (checksums < 2) return true;
  const at = bytes.length - TAIL;
  return ext4Crc(seed, bytes.slice().fill(0, at)) === viewOf(bytes).getUint32(at);
}

/**
 * Whether a commit block's checksum is right.
 * @param blocksSum the running CRC-32 of its transaction, for checksums 1
 */
export function isCommitRight(
  bytes: Uint8Array,
  { checksums, seed }: JournalSuperblock,
  blocksSum: number,
): boolean {
  const got = viewOf(bytes).getUint32(0x10);
  if (checksums >= 2) return ext4Crc(seed, bytes.slice().fill(0, 0x10, 0x14)) === got;
  if (checksums === 0) return true;
  const isUnused = bytes[0xc] === 0 && bytes[0xd] === 0 && got === 0;
  return isUnused || (bytes[0xc] === CRC32 && bytes[0xd] === 4 && got === blocksSum);
}

/** Seconds, of the machine that wrote it. */
export function commitTimeOf(bytes: Uint8Array): number {
  return uint64(viewOf(bytes), 0x30);
}

/** Whether a logged block is as its tag says. */
export function isDataRight(
  bytes: Uint8Array,
  { checksums, seed }: JournalSuperblock,
  sequence: number,
  checksum: number,
): boolean {
  if (checksums < 2) return true;
  const number = new Uint8Array(4);
  viewOf(number).setUint32(0, sequence);
  const sum = ext4Crc(ext4Crc(seed, number), bytes);
  return (checksums === 3 ? sum : sum & 0xffff) === checksum;
}

/** Whether a fast commit of that transaction begins here (ext4 `fast_commit.h`: EXT4_FC_TAG_HEAD; little-endian). */
export function beginsFastCommit(bytes: Uint8Array, sequence: number): boolean {
  const view = viewOf(bytes);
  return view.getUint16(0, true) === 9 && view.getUint32(8, true) === sequence;
}
