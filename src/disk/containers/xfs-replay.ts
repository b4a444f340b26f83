/**
 * Replaying the log of an XFS file system in memory (XFS Algorithms & Data Structures, chapter "Journaling
 * Log"; in which order and under which conditions, as Linux's driver recovers).
 *
 * A file system that is in use, or whose machine stopped, or of which a snapshot was taken while it was
 * mounted, has its newest metadata in the log only. What is replayed is what a reader looks at: buffers
 * (directories, extent trees, long symbolic links, the superblock), inodes, and the making of new inodes. It is
 * laid over the unit as patches; nothing is written. Contents of files are never in the log.
 *
 *   - A buffer that was given up later in the log is not replayed up to there (a first pass gathers those):
 *     its blocks may hold a file's contents by now.
 *   - In version 5 every structure says with which transaction it was written. One that is newer on the unit
 *     than in the log stays as it is. In version 4 inodes count their writes instead.
 *   - Changes in several transactions announce themselves (an intent) and say when they are done. Those that
 *     were not done free space or change what only finds space; two kinds change the extents of a file, and a
 *     log that leaves one of them open is refused.
 */

import { DriftmapError } from '../../base/errors.ts';
import { type ByteCount, type ByteOffset, KiB } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';
import { type InodeItem, newInode, parseInodeItem, replayInode } from './xfs-inode-items.ts';
import { type ActiveLog, XfsLog } from './xfs-log.ts';
import { compareSequence, type LogItem, type LogSequence, visitTransactions } from './xfs-log-items.ts';
import { sameUuid } from './xfs-metadata.ts';
import { PatchedSource } from './xfs-patches.ts';
import {
  checksums,
  groupLength,
  inodeOffset,
  readSuperblock,
  runOffset,
  XFS_MAGIC,
  type XfsGeometry,
} from './xfs-superblock.ts';

const ITEM_INODE = 0x123b;
const ITEM_BUFFER = 0x123c;
const ITEM_NEW_INODES = 0x123f;
const MAP_INTENT = 0x1244;
const MAP_DONE = 0x1245;
const EXCHANGE_INTENT = 0x1248;
const EXCHANGE_DONE = 0x1249;
/** Freed extents, quotas, reverse maps, reference counts, attributes; intents and what ends them. */
const ITEMS_PASSED_OVER: ReadonlySet<number> = new Set([
  0x1236, 0x1237, 0x123d, 0x123e, 0x1240, 0x1241, 0x1242, 0x1243, 0x1246, 0x1247, 0x124a, 0x124b, 0x124c,
  0x124d, 0x124e, 0x124f,
]);
const KNOWN_LOG_FEATURES = 0x1;

/** Flags of a buffer item. */
const OF_INODES = 0x1;
const CANCEL = 0x2;
const CHUNK = 128;
const BUFFER_HEADER = 20;
const LARGEST_BUFFER = 64 * KiB;

/** Where structures of version 5 keep checksum, sequence and file system, by their magic. */
const SEQUENCED: ReadonlyMap<number, { checksum: number; sequence: number; uuid: number }> = new Map([
  [0x58444233, { checksum: 4, sequence: 16, uuid: 24 }],
  [0x58444433, { checksum: 4, sequence: 16, uuid: 24 }],
  [0x424d4133, { checksum: 64, sequence: 32, uuid: 40 }],
  [0x58534c4d, { checksum: 12, sequence: 48, uuid: 16 }],
  [XFS_MAGIC, { checksum: 224, sequence: 240, uuid: 32 }],
]);

export interface Replayed {
  readonly source: ByteSource;
  readonly geometry: XfsGeometry;
  /** Inodes whose extent trees were exchanged: their blocks may still name the former owner. */
  readonly exchanged: ReadonlySet<number>;
}

/**
 * The file system as it is after recovery; null where its log is clean.
 * @throws DriftmapError `malformed`, `limit`; `unsupported` for what a log may hold and is not replayed
 */
export async function replayLog(source: ByteSource, geometry: XfsGeometry): Promise<Replayed | null> {
  const log = new XfsLog(source, geometry);
  const active = await log.active();
  if (active === null) return null;
  const unknown = geometry.logIncompat - (geometry.logIncompat % (KNOWN_LOG_FEATURES + 1));
  if (unknown !== 0) {
    const reason = `the XFS log has features that are not known (bits ${unknown.toString(16)}): mount and unmount the file system`;
    throw new DriftmapError('unsupported', reason, { path: geometry.path, offset: 220 });
  }
  return new Replay(log, source, geometry).run(active);
}

interface BufferItem {
  readonly flags: number;
  /** In sectors of 512 bytes. */
  readonly sector: number;
  readonly sectors: number;
  /** A bit for each 128 bytes, in 32-bit words from byte 20 on. */
  readonly format: Uint8Array;
  readonly words: number;
}

class Replay {
  private readonly log: XfsLog;
  private readonly source: PatchedSource;
  private geometry: XfsGeometry;
  /** How often buffers are still to be given up, by their first sector and their length. */
  private readonly cancels = new Map<number, Map<number, number>>();
  private readonly intents = new Set<string>();
  private readonly exchanged = new Set<number>();

  constructor(log: XfsLog, source: ByteSource, geometry: XfsGeometry) {
    this.log = log;
    this.source = new PatchedSource(source);
    this.geometry = geometry;
  }

  async run(active: ActiveLog): Promise<Replayed> {
    await visitTransactions(this.log, active, (items) => this.gatherCancels(items));
    await visitTransactions(this.log, active, (items, sequence) => this.commit(items, sequence));
    if (this.intents.size > 0) {
      const reason =
        'a change of the extents of a file was begun in the XFS log and not ended: mount and unmount the file system, which ends it';
      throw new DriftmapError('unsupported', reason, { path: this.geometry.path, offset: this.log.offset });
    }
    const { source, geometry, exchanged } = this;
    return { source, geometry, exchanged };
  }

  private gatherCancels(items: readonly LogItem[]): void {
    for (const item of items) {
      if (item.type !== ITEM_BUFFER) continue;
      const { flags, sector, sectors } = this.bufferItem(item);
      if ((flags & CANCEL) === 0) continue;
      const lengths = this.cancels.get(sector) ?? new Map<number, number>();
      lengths.set(sectors, (lengths.get(sectors) ?? 0) + 1);
      this.cancels.set(sector, lengths);
    }
  }

  /** Buffers and new inodes first, then inodes, then what is given up. */
  private async commit(items: readonly LogItem[], sequence: LogSequence): Promise<void> {
    for (const item of items) {
      if (item.type === ITEM_NEW_INODES) await this.makeInodes(item);
      else if (item.type === ITEM_BUFFER) await this.replayBuffer(item, sequence);
      else if (item.type !== ITEM_INODE) this.note(item);
    }
    for (const item of items) {
      if (item.type === ITEM_INODE) await this.replayInode(item, sequence);
    }
    for (const item of items) {
      if (item.type === ITEM_BUFFER) this.giveUp(this.bufferItem(item));
    }
  }

  private note({ type, regions }: LogItem): void {
    if (ITEMS_PASSED_OVER.has(type)) return;
    const isIntent = type === MAP_INTENT || type === EXCHANGE_INTENT;
    if (!isIntent && type !== MAP_DONE && type !== EXCHANGE_DONE) {
      const reason = `the XFS log has an item that is not known (type ${type.toString(16)}): mount and unmount the file system`;
      throw new DriftmapError('unsupported', reason, { path: this.geometry.path, offset: this.log.offset });
    }
    const first = regions[0]!;
    if (first.length < 16) throw this.fault('expected an intent of at least 16 bytes');
    const id = Buffer.from(first.subarray(8, 16)).toString('hex');
    if (isIntent) this.intents.add(`${type}:${id}`);
    else this.intents.delete(`${type - 1}:${id}`);
  }

  private bufferItem({ regions }: LogItem): BufferItem {
    const format = regions[0]!;
    const view = viewOf(format);
    const words = format.length < BUFFER_HEADER ? 0 : view.getUint32(16, true);
    if (format.length < BUFFER_HEADER || BUFFER_HEADER + 4 * words > format.length) {
      throw this.fault('expected a buffer with a map of what of it was changed');
    }
    const item = {
      flags: view.getUint16(4, true),
      sectors: view.getUint16(6, true),
      sector: littleUint64(view, 8),
      format,
      words,
    };
    const { sector, sectors } = item;
    const end = (sector + sectors) * 512;
    if (sectors * 512 > LARGEST_BUFFER || end > this.source.size) {
      throw this.fault(
        `expected a buffer of at most ${LARGEST_BUFFER} bytes on the unit, got ${sectors} sectors at ${sector}`,
      );
    }
    return item;
  }

  private async replayBuffer(logged: LogItem, at: LogSequence): Promise<void> {
    const item = this.bufferItem(logged);
    // Of inodes' buffers only the lists of unlinked inodes are in such an item.
    if ((item.flags & (CANCEL | OF_INODES)) !== 0 || this.isCancelled(item.sector, item.sectors)) return;
    const offset = item.sector * 512;
    const bytes = await this.read(offset, item.sectors * 512);
    if (this.isNewer(bytes, at)) return;
    this.patchChunks(bytes, item, logged.regions);
    this.seal(bytes, at);
    this.source.write(offset, bytes);
    if (offset === 0) this.geometry = await readSuperblock(this.source);
  }

  /** Each run of changed chunks is a region; a long one may be in several. */
  private patchChunks(
    bytes: Uint8Array,
    { format, words }: BufferItem,
    regions: readonly Uint8Array[],
  ): void {
    const view = viewOf(format);
    const isSet = (bit: number) =>
      bit < words * 32 &&
      (view.getUint32(BUFFER_HEADER + 4 * Math.floor(bit / 32), true) >>> (bit % 32)) % 2 === 1;
    let used = 1;
    for (let bit = 0; bit < words * 32; ) {
      if (!isSet(bit)) {
        bit++;
        continue;
      }
      let count = 1;
      while (isSet(bit + count)) count++;
      const region = regions[used++];
      const chunks = region === undefined ? 0 : Math.min(count, Math.floor(region.length / CHUNK));
      if (region === undefined || chunks === 0)
        throw this.fault('expected the bytes of a buffer that was changed');
      if ((bit + chunks) * CHUNK > bytes.length) throw this.fault('expected changes within the buffer');
      bytes.set(region.subarray(0, chunks * CHUNK), bit * CHUNK);
      bit += chunks;
    }
    if (used !== regions.length)
      throw this.fault(`expected ${used - 1} regions of a buffer, got ${regions.length - 1}`);
  }

  /** Whether what is on the unit was written by this transaction or a later one. */
  private isNewer(bytes: Uint8Array, at: LogSequence): boolean {
    const layout = this.layoutOf(bytes);
    if (layout === undefined || !sameUuid(bytes, layout.uuid, this.uuidFor(bytes))) return false;
    return compareSequence(viewOf(bytes), layout.sequence, at) >= 0;
  }

  private seal(bytes: Uint8Array, { cycle, block }: LogSequence): void {
    const layout = this.layoutOf(bytes);
    if (layout === undefined) return;
    const view = viewOf(bytes);
    view.setUint32(layout.sequence, cycle);
    view.setUint32(layout.sequence + 4, block);
    view.setUint32(layout.checksum, checksums(bytes, layout.checksum).computed, true);
  }

  private layoutOf(bytes: Uint8Array) {
    return this.geometry.version === 5 ? SEQUENCED.get(viewOf(bytes).getUint32(0)) : undefined;
  }

  private uuidFor(bytes: Uint8Array): Uint8Array {
    const { uuid, metaUuid } = this.geometry;
    return viewOf(bytes).getUint32(0) === XFS_MAGIC ? uuid : metaUuid;
  }

  private async replayInode(logged: LogItem, at: LogSequence): Promise<void> {
    const item = parseInodeItem(logged.regions, (reason) => this.fault(reason));
    const offset = this.inodeOffset(item);
    if (this.isCancelled(item.bufferSector, item.bufferSectors)) return;
    const bytes = await this.read(offset, this.geometry.inodeSize);
    if (item.hasNewOwner) this.exchanged.add(item.number);
    if (!replayInode(this.geometry, bytes, item, at, (reason) => this.fault(reason))) return;
    this.source.write(offset, bytes);
  }

  private inodeOffset({ number }: InodeItem): ByteOffset {
    const offset = inodeOffset(this.geometry, number);
    if (offset < 0) throw this.fault(`expected an inode of this file system, got ${number}`);
    return offset;
  }

  /** Inodes that were just made are not in the log one by one: only where they are. */
  private async makeInodes({ regions }: LogItem): Promise<void> {
    const { inodeSize, inodesPerBlock, blockSize, groupStride, groups } = this.geometry;
    const view = viewOf(regions[0]!);
    if (view.byteLength < 28) throw this.fault('expected new inodes in an item of 28 bytes');
    const group = view.getUint32(4);
    const block = view.getUint32(8);
    const count = view.getUint32(12);
    const length = view.getUint32(20);
    const most = 64 * Math.max(1, Math.ceil(inodesPerBlock / 64));
    const fits =
      view.getUint32(16) === inodeSize &&
      count <= most &&
      count === length * inodesPerBlock &&
      group < groups;
    const offset =
      fits && block + length <= groupLength(this.geometry, group)
        ? runOffset(this.geometry, group * groupStride + block, length)
        : -1;
    if (offset < 0) throw this.fault(`expected new inodes within a group, got ${count} in ${length} blocks`);
    for (let i = 0; i < length; i++) {
      if (this.cancels.has((offset + i * blockSize) / 512)) return;
    }
    const first = (group * groupStride + block) * inodesPerBlock;
    const generation = view.getUint32(24);
    const bytes = new Uint8Array(length * blockSize);
    for (let i = 0; i < count; i++) {
      newInode(this.geometry, bytes.subarray(i * inodeSize, (i + 1) * inodeSize), first + i, generation);
    }
    this.source.write(offset, bytes);
  }

  private isCancelled(sector: number, sectors: number): boolean {
    return this.cancels.get(sector)?.has(sectors) ?? false;
  }

  private giveUp({ flags, sector, sectors }: BufferItem): void {
    const lengths = this.cancels.get(sector);
    if ((flags & CANCEL) === 0 || lengths === undefined) return;
    const left = (lengths.get(sectors) ?? 1) - 1;
    if (left > 0) lengths.set(sectors, left);
    else lengths.delete(sectors);
    if (lengths.size === 0) this.cancels.delete(sector);
  }

  private async read(offset: ByteOffset, length: ByteCount): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await readWhole(this.source, 'metadata in the XFS log', offset, bytes);
    return bytes;
  }

  private fault(reason: string): DriftmapError {
    return this.log.fault(0, reason);
  }
}
