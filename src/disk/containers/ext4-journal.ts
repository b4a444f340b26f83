/**
 * The journal's replay, in memory (Linux kernel, Documentation/filesystems/ext4/journal.rst). A file system that
 * was not unmounted, as every snapshot of a running machine, has its newest metadata in the journal and old
 * ones in place. Linux copies them into place when it mounts; driftmap writes nothing, and remembers where in
 * the journal the newest copy of each block is.
 *
 * The log is a ring of blocks. A transaction is descriptor blocks, each followed by copies of the blocks it
 * names, revoke blocks, and a commit block. Transactions are numbered, and the log ends at the first block
 * that is not of the transaction that comes next: what has no commit block did not happen. A revoke says that
 * earlier copies of a block are void: it was freed, and may hold a file's data now.
 *
 * A wrong checksum is damage, with one exception, as in Linux: a transaction whose commit is older than the one
 * before it is a remnant of the ring's last round, and the log ends there.
 */

import { DriftmapError } from '../../base/errors.ts';
import { EXT4_MAX_REPLAYED_BLOCKS, EXT4_MAX_REVOKED_BLOCKS } from '../../base/limits.ts';
import type { ByteOffset } from '../../base/units.ts';
import { type ExtentMap, Kind } from '../../mapping/extent-map.ts';
import { bigCrc32 } from './ext4-checksum.ts';
import {
  BlockType,
  beginsFastCommit,
  blockTypeOf,
  commitTimeOf,
  isCommitRight,
  isDataRight,
  isTailRight,
  type JournalSuperblock,
  parseJournalSuperblock,
  parseRevokes,
  parseTags,
  type Tag,
} from './ext4-journal-format.ts';
import type { Metadata } from './ext4-metadata.ts';
import { ReplayedBlocks } from './ext4-replayed.ts';

export interface Replay {
  readonly blocks: ReplayedBlocks;
  readonly transactions: number;
}

/**
 * Replays what a journal holds.
 * @param metadata the file system as it stands
 * @param map of the journal's inode, over the unit
 * @throws DriftmapError `malformed` for damage, `limit` for more than any journal holds, `unsupported` for
 *   features that are not read, and for fast commits
 */
export async function replayJournal(metadata: Metadata, map: ExtentMap): Promise<Replay> {
  const log = new Log(metadata, map);
  const superblock = await log.superblock();
  if (superblock.start === 0) return { blocks: new ReplayedBlocks(new Map()), transactions: 0 };
  return new Recovery(metadata, log, superblock).run();
}

/** Whether the journal holds anything that is not in place yet. */
export async function isJournalInUse(metadata: Metadata, map: ExtentMap): Promise<boolean> {
  return (await new Log(metadata, map).superblock()).start !== 0;
}

/** The journal as numbered blocks. */
class Log {
  readonly name: string;
  private readonly metadata: Metadata;
  private readonly map: ExtentMap;
  private readonly blockSize: number;

  constructor(metadata: Metadata, map: ExtentMap) {
    this.name = metadata.name;
    this.metadata = metadata;
    this.map = map;
    this.blockSize = metadata.superblock.blockSize;
  }

  async superblock(): Promise<JournalSuperblock> {
    const blocks = Math.floor(this.map.size / this.blockSize);
    if (blocks === 0) throw this.metadata.fault(0, 'the journal has no blocks');
    const place = { path: this.name, offset: this.placeOf(0) };
    return parseJournalSuperblock(await this.read(0), place, blocks);
  }

  /** Where block `number` of the journal lies on the unit. */
  placeOf(number: number): ByteOffset {
    const { map } = this;
    const at = number * this.blockSize;
    const index = map.indexAt(at);
    if (map.kindOf(index) !== Kind.data) {
      throw this.metadata.fault(0, `the journal has a hole at its block ${number}`);
    }
    return map.placeOf(index) + (at - map.startOf(index));
  }

  async read(number: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.blockSize);
    const pending = this.metadata.read(this.placeOf(number), bytes);
    if (pending) await pending;
    return bytes;
  }
}

/** The newest copy of a block of the file system. */
interface Copy {
  /** Its block in the journal, and where that is on the unit. */
  readonly logged: number;
  readonly place: ByteOffset;
  readonly escaped: boolean;
  readonly checksum: number;
  readonly sequence: number;
  /** Transactions counted from the log's start. */
  readonly order: number;
}

/** A transaction while its blocks are read. */
interface Transaction {
  readonly tags: { readonly tag: Tag; readonly logged: number }[];
  readonly revoked: number[];
  /** The first block whose checksum is wrong, and what it was. */
  suspect: { readonly logged: number; readonly what: string } | null;
  /** Running CRC-32 of its blocks, for checksums 1. */
  sum: number;
}

class Recovery {
  private readonly metadata: Metadata;
  private readonly log: Log;
  private readonly superblock: JournalSuperblock;
  private readonly copies = new Map<number, Copy>();
  /** The last transaction that revoked a block, counted as `order`. */
  private readonly revoked = new Map<number, number>();
  private at: number;
  /** Blocks of the ring passed so far: a log that passes them all does not end. */
  private passed = 0;
  private sequence: number;
  private order = 0;
  private lastCommitTime = 0;

  constructor(metadata: Metadata, log: Log, superblock: JournalSuperblock) {
    this.metadata = metadata;
    this.log = log;
    this.superblock = superblock;
    this.at = superblock.start;
    this.sequence = superblock.sequence;
  }

  async run(): Promise<Replay> {
    while (await this.readTransaction()) {
      this.order++;
      this.sequence = (this.sequence + 1) % 2 ** 32;
    }
    await this.refuseFastCommit();
    for (const [block, order] of this.revoked) {
      const copy = this.copies.get(block);
      if (copy !== undefined && copy.order <= order) this.copies.delete(block);
    }
    await this.checkCopies();
    return { blocks: new ReplayedBlocks(this.copies), transactions: this.order };
  }

  /** Reads one transaction and takes it over; false where the log ends before its commit. */
  private async readTransaction(): Promise<boolean> {
    const transaction: Transaction = { tags: [], revoked: [], suspect: null, sum: 0xffffffff };
    for (;;) {
      const logged = this.at;
      if (this.passed >= this.superblock.end - this.superblock.first) return false;
      const bytes = await this.log.read(logged);
      const type = blockTypeOf(bytes, this.sequence);
      this.step(1);
      if (type === BlockType.descriptor) await this.addDescriptor(transaction, bytes, logged);
      else if (type === BlockType.revoke) this.addRevokes(transaction, bytes, logged);
      else if (type === BlockType.commit) return this.commit(transaction, bytes, logged);
      else return false;
    }
  }

  /** Moves on, round the ring. */
  private step(count: number): void {
    const { first, end } = this.superblock;
    this.passed += count;
    this.at = first + ((this.at - first + count) % (end - first));
  }

  private async addDescriptor(transaction: Transaction, bytes: Uint8Array, logged: number): Promise<void> {
    const { superblock, log } = this;
    if (!isTailRight(bytes, superblock)) transaction.suspect ??= { logged, what: 'a descriptor block' };
    if (superblock.checksums === 1) transaction.sum = bigCrc32(transaction.sum, bytes);
    const place = { path: log.name, offset: log.placeOf(logged) };
    for (const tag of parseTags(bytes, superblock, place)) {
      if (superblock.checksums === 1) {
        transaction.sum = bigCrc32(transaction.sum, await log.read(this.at));
      }
      transaction.tags.push({ tag, logged: this.at });
      this.step(1);
    }
    this.checkCount(transaction.tags.length, EXT4_MAX_REPLAYED_BLOCKS, 'brings');
  }

  private addRevokes(transaction: Transaction, bytes: Uint8Array, logged: number): void {
    const { superblock, log } = this;
    if (!isTailRight(bytes, superblock)) {
      transaction.suspect ??= { logged, what: 'a revoke block' };
      return;
    }
    const place = { path: log.name, offset: log.placeOf(logged) };
    parseRevokes(bytes, superblock, place, (block) => transaction.revoked.push(block));
    this.checkCount(transaction.revoked.length, EXT4_MAX_REVOKED_BLOCKS, 'revokes');
  }

  /** Takes a transaction over; false where it turns out to be a remnant, or was never whole. */
  private commit(transaction: Transaction, bytes: Uint8Array, logged: number): boolean {
    const { superblock } = this;
    const time = commitTimeOf(bytes);
    const isRight = isCommitRight(bytes, superblock, transaction.sum);
    const suspect = transaction.suspect ?? (isRight ? null : { logged, what: 'a commit block' });
    if (suspect !== null) {
      if (time < this.lastCommitTime) return false;
      // With asynchronous commits the block may be older than what it commits: then the log ends here.
      if (transaction.suspect === null && superblock.asyncCommit) return false;
      throw this.fault(
        suspect.logged,
        `${suspect.what} of transaction ${this.sequence} has a wrong checksum`,
      );
    }
    this.lastCommitTime = time;
    this.takeOver(transaction);
    return true;
  }

  private takeOver({ tags, revoked }: Transaction): void {
    const { metadata, log, sequence, order } = this;
    const { blockCount } = metadata.superblock;
    for (const { tag, logged } of tags) {
      if (tag.block >= blockCount) {
        throw this.fault(logged, `expected a block within ${blockCount}, got a copy of ${tag.block}`);
      }
      const { escaped, checksum } = tag;
      this.copies.set(tag.block, {
        logged,
        place: log.placeOf(logged),
        escaped,
        checksum,
        sequence,
        order,
      });
    }
    for (const block of revoked) this.revoked.set(block, order);
    this.checkCount(this.copies.size, EXT4_MAX_REPLAYED_BLOCKS, 'brings');
    this.checkCount(this.revoked.size, EXT4_MAX_REVOKED_BLOCKS, 'revokes');
  }

  private checkCount(count: number, most: number, what: string): void {
    if (count <= most) return;
    const reason = `ext4: the journal ${what} more than ${most} blocks: let e2fsck or a mount replay it`;
    throw new DriftmapError('limit', reason, { path: this.log.name });
  }

  /** Fast commits say what was done, not which blocks changed; they follow the last whole commit. */
  private async refuseFastCommit(): Promise<void> {
    const { superblock, sequence, log } = this;
    if (!superblock.fastCommit || !beginsFastCommit(await log.read(superblock.end), sequence)) return;
    const reason = 'the journal ends in fast commits, which are not read: let e2fsck or a mount replay it';
    throw this.metadata.unsupported(log.placeOf(superblock.end), reason);
  }

  private async checkCopies(): Promise<void> {
    if (this.superblock.checksums < 2) return;
    for (const [block, { logged, sequence, checksum }] of this.copies) {
      if (isDataRight(await this.log.read(logged), this.superblock, sequence, checksum)) continue;
      throw this.fault(logged, `the copy of block ${block} has a wrong checksum`);
    }
  }

  private fault(logged: number, reason: string): DriftmapError {
    return this.metadata.fault(this.log.placeOf(logged), `journal: ${reason}`);
  }
}
