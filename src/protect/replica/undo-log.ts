/**
 * What the disks of a group held before somebody wrote to them, so that they can be brought back exactly: rolled
 * access. Before a block is written for the first time its old contents are put into this log, durably; afterwards
 * it is written at the disk's own speed.
 *
 * The log is a file of slots of one size, so that a damaged slot hides no other. Slots are written in batches; a batch
 * begins only when the one before it is durable, and its blocks are written to only when it is. Each slot says where
 * its batch began. So what a crash tears is in the last batch, whose blocks were not written to: it is left out. A
 * damaged slot before the last batch is damage, and told.
 */

import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { DriftmapError, systemError } from '../../base/errors.ts';
import { UNDO_LOG_BLOCK } from '../../base/protection-limits.ts';
import type { ByteCount, ByteOffset, ByteRange } from '../../base/units.ts';
import { checksum } from '../../codec/checksum.ts';
import type { LogicalUnit, UnitExtent } from '../../lu/logical-unit.ts';
import type { Shield } from './replica-disk.ts';

const MAGIC = new TextEncoder().encode('DRUNDO\r\n');
const VERSION = 1;
/** Before the first slot, and before the data of each: data lies on whole pages. */
const HEAD_BYTES = 4096;
const FILE_HEAD_BYTES = 48;
const SLOT_HEAD_BYTES = 40;
const SLOT_BYTES = HEAD_BYTES + UNDO_LOG_BLOCK;
const SLOT_MARK = 0x534c4f54;
/** Blocks whose old contents are saved together when a long range is written. */
const BLOCKS_AT_A_TIME = 64;

/** Whose log it is. */
export interface UndoOwner {
  /** 32 hexadecimal digits. */
  readonly journal: string;
  readonly sequence: number;
}

interface Pending {
  readonly disk: number;
  readonly block: number;
  readonly bytes: Uint8Array;
  resolve(): void;
  reject(cause: unknown): void;
}

export class UndoLog {
  readonly path: string;
  private readonly fd: number;
  private readonly disks: readonly LogicalUnit[];
  private readonly owner: UndoOwner;
  /** Of each disk: the slots of its blocks, and of those that are on their way. */
  private readonly slots: Map<number, number>[];
  private readonly coming: Map<number, Promise<void>>[];
  private next = 0;
  private pending: Pending[] = [];
  private writing = false;
  private closed = false;

  private constructor(path: string, fd: number, disks: readonly LogicalUnit[], owner: UndoOwner) {
    this.path = path;
    this.fd = fd;
    this.disks = disks;
    this.owner = owner;
    this.slots = disks.map(() => new Map());
    this.coming = disks.map(() => new Map());
  }

  /** A new, empty log, durable. @throws DriftmapError `policy` when there is one, `io` … */
  static create(path: string, disks: readonly LogicalUnit[], owner: UndoOwner): UndoLog {
    let fd: number | null = null;
    try {
      fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
      writeSync(fd, fileHead(owner), 0, FILE_HEAD_BYTES, 0);
      fsyncSync(fd);
      syncFolder(path);
      return new UndoLog(path, fd, disks, owner);
    } catch (cause) {
      if (fd !== null) closeSync(fd);
      throw systemError(cause, { path, operation: 'create' });
    }
  }

  /**
   * The log that a process left. @throws DriftmapError `not-found`, `malformed` for damage, with the offset,
   * `mismatch` for that of another journal or point
   */
  static open(path: string, disks: readonly LogicalUnit[], owner: UndoOwner): UndoLog {
    let fd: number;
    try {
      fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (cause) {
      throw systemError(cause, { path, operation: 'open' });
    }
    try {
      const log = new UndoLog(path, fd, disks, owner);
      log.load();
      return log;
    } catch (cause) {
      closeSync(fd);
      throw systemError(cause, { path, operation: 'read' });
    }
  }

  /** Blocks that are saved, of all disks. */
  get savedBlocks(): number {
    return this.slots.reduce((sum, slots) => sum + slots.size, 0);
  }

  get bytes(): ByteCount {
    return HEAD_BYTES + this.next * SLOT_BYTES;
  }

  /** The saved blocks of a disk, ascending. */
  blocksOf(disk: number): readonly ByteRange[] {
    const blocks = [...this.slots[disk]!.keys()].sort((a, b) => a - b);
    return blocks.map((block) => this.rangeOf(disk, block));
  }

  /** Whether the old contents of all of a range are durable: then it may be written to. */
  holds(disk: number, range: ByteRange): boolean {
    const slots = this.slots[disk]!;
    const end = Math.ceil((range.offset + range.length) / UNDO_LOG_BLOCK);
    for (let block = Math.floor(range.offset / UNDO_LOG_BLOCK); block < end; block++)
      if (!slots.has(block)) return false;
    return true;
  }

  /** Makes them durable. Rejects when they cannot be: then nothing may be written there. */
  async save(disk: number, range: ByteRange): Promise<undefined> {
    const end = Math.ceil((range.offset + range.length) / UNDO_LOG_BLOCK);
    for (let at = Math.floor(range.offset / UNDO_LOG_BLOCK); at < end; at += BLOCKS_AT_A_TIME) {
      const waits: Promise<void>[] = [];
      for (let block = at; block < Math.min(end, at + BLOCKS_AT_A_TIME); block++) {
        if (!this.slots[disk]!.has(block))
          waits.push(this.coming[disk]!.get(block) ?? this.saveBlock(disk, block));
      }
      await Promise.all(waits);
    }
  }

  /** Noted before anything is waited for: whoever else writes to this block waits for the same. */
  private saveBlock(disk: number, block: number): Promise<void> {
    const { offset, length } = this.rangeOf(disk, block);
    const bytes = new Uint8Array(length);
    const saved = (async () => {
      await this.disks[disk]!.read(offset, bytes);
      await new Promise<void>((resolve, reject) => {
        this.pending.push({ disk, block, bytes, resolve, reject });
        this.pump();
      });
    })().finally(() => this.coming[disk]!.delete(block));
    this.coming[disk]!.set(block, saved);
    return saved;
  }

  /** One batch after the other; what arrives in one turn goes together. */
  private pump(): void {
    if (this.writing || this.pending.length === 0) return;
    this.writing = true;
    setImmediate(async () => {
      const batch = this.pending;
      this.pending = [];
      try {
        await this.writeBatch(batch);
        for (const { resolve } of batch) resolve();
      } catch (cause) {
        const error = systemError(cause, { path: this.path, operation: 'write' });
        for (const { reject } of batch) reject(error);
      }
      this.writing = false;
      this.pump();
    });
  }

  /** By one flush. Slots of a batch that failed are taken by the next. */
  private async writeBatch(batch: readonly Pending[]): Promise<void> {
    if (this.closed) throw new DriftmapError('argument', 'write after close', { path: this.path });
    const start = this.next;
    for (const [i, { disk, block, bytes }] of batch.entries()) {
      const at = HEAD_BYTES + (start + i) * SLOT_BYTES;
      const isZero = bytes.every((byte) => byte === 0);
      writeWhole(this.fd, this.slotHead({ disk, block, start }, bytes, isZero), at);
      if (!isZero) writeWhole(this.fd, bytes, at + HEAD_BYTES);
    }
    await new Promise<void>((resolve, reject) => {
      fdatasync(this.fd, (cause) => (cause ? reject(cause) : resolve()));
    });
    this.next = start + batch.length;
    for (const [i, { disk, block }] of batch.entries()) this.slots[disk]!.set(block, start + i);
  }

  /** Writes the old contents back, and flushes the disks. It may be done again after a crash in it. */
  async restore(): Promise<undefined> {
    for (const [disk, slots] of this.slots.entries()) {
      const unit = this.disks[disk]!;
      for (const [block, slot] of [...slots].sort((a, b) => a[0] - b[0])) {
        const range = this.rangeOf(disk, block);
        const bytes = this.readSlot(slot, range);
        if (bytes === null) await unit.zero(range);
        else await unit.write(range.offset, bytes);
      }
      await unit.flush();
    }
  }

  /** The disk as it was. */
  shieldOf(disk: number): Shield {
    const unit = this.disks[disk]!;
    const slots = this.slots[disk]!;
    return {
      read: (offset, target) => {
        const wait = unit.read(offset, target);
        if (wait) return wait.then(() => this.patch(disk, offset, target));
        this.patch(disk, offset, target);
        return undefined;
      },
      extents: async (range, limit) => {
        if (slots.size === 0) return unit.extents(range, limit);
        // What was saved is told as data: it is read from the log.
        const end = range.offset + range.length;
        const found: UnitExtent[] = [];
        for (let at = range.offset; at < end && found.length < Math.max(limit ?? 64, 1); ) {
          const block = Math.floor(at / UNDO_LOG_BLOCK);
          const to = Math.min(end, (block + 1) * UNDO_LOG_BLOCK);
          const next: UnitExtent = slots.has(block)
            ? { offset: at, length: to - at, kind: 'data' }
            : (await unit.extents({ offset: at, length: to - at }, 1))[0]!;
          const last = found.at(-1);
          if (last?.kind === next.kind)
            found[found.length - 1] = { ...last, length: last.length + next.length };
          else found.push(next);
          at = next.offset + next.length;
        }
        return found;
      },
    };
  }

  private patch(disk: number, offset: ByteOffset, target: Uint8Array): undefined {
    const slots = this.slots[disk]!;
    const end = offset + target.length;
    for (let at = offset; at < end; ) {
      const block = Math.floor(at / UNDO_LOG_BLOCK);
      const to = Math.min(end, (block + 1) * UNDO_LOG_BLOCK);
      const slot = slots.get(block);
      if (slot !== undefined) {
        const range = this.rangeOf(disk, block);
        const old = this.readSlot(slot, range);
        const part = target.subarray(at - offset, to - offset);
        if (old === null) part.fill(0);
        else part.set(old.subarray(at - range.offset, to - range.offset));
      }
      at = to;
    }
    return undefined;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    closeSync(this.fd);
  }

  /** Ends it: what was written to the disks stays. */
  remove(): void {
    this.close();
    removeUndoLog(this.path);
  }

  private rangeOf(disk: number, block: number): ByteRange {
    const offset = block * UNDO_LOG_BLOCK;
    return { offset, length: Math.min(UNDO_LOG_BLOCK, this.disks[disk]!.size - offset) };
  }

  /**
   *  0  4  'SLOT'           12  8  offset of the block       28  4  CRC-32 of its data (of none for zeros)
   *  4  4  disk             20  8  first slot of the batch   32  4  1 for data, 0 for zeros
   *  8  4  length                                            36  4  CRC-32 of all of these, after the file's head
   */
  private slotHead(
    { disk, block, start }: { disk: number; block: number; start: number },
    bytes: Uint8Array,
    isZero: boolean,
  ): Uint8Array {
    const head = new Uint8Array(SLOT_HEAD_BYTES);
    const view = new DataView(head.buffer);
    view.setUint32(0, SLOT_MARK, true);
    view.setUint32(4, disk, true);
    view.setUint32(8, bytes.length, true);
    view.setBigUint64(12, BigInt(block * UNDO_LOG_BLOCK), true);
    view.setBigUint64(20, BigInt(start), true);
    view.setUint32(28, isZero ? 0 : checksum(bytes), true);
    view.setUint32(32, isZero ? 0 : 1, true);
    view.setUint32(36, checksum(head.subarray(0, 36), checksum(fileHead(this.owner))), true);
    return head;
  }

  private load(): void {
    const head = new Uint8Array(FILE_HEAD_BYTES);
    readWhole(this.fd, head, 0, this.path);
    checkFileHead(head, this.owner, this.path);
    const size = fstatSync(this.fd).size;
    const count = Math.max(0, Math.ceil((size - HEAD_BYTES) / SLOT_BYTES));
    const bad: number[] = [];
    let lastStart = 0;
    for (let slot = 0; slot < count; slot++) {
      const found = this.slotAt(slot);
      if (found === null) {
        bad.push(slot);
        continue;
      }
      lastStart = Math.max(lastStart, found.start);
      this.slots[found.disk]!.set(found.block, slot);
      this.next = slot + 1;
    }
    const damaged = bad.find((slot) => slot < lastStart);
    if (damaged === undefined) return;
    throw new DriftmapError('malformed', 'what the disk held before it was written to is damaged', {
      path: this.path,
      offset: HEAD_BYTES + damaged * SLOT_BYTES,
      length: SLOT_BYTES,
    });
  }

  private slotAt(slot: number): { disk: number; block: number; start: number } | null {
    const at = HEAD_BYTES + slot * SLOT_BYTES;
    const head = new Uint8Array(SLOT_HEAD_BYTES);
    if (!readAll(this.fd, head, at)) return null;
    const view = new DataView(head.buffer);
    const disk = view.getUint32(4, true);
    const block = Number(view.getBigUint64(12, true)) / UNDO_LOG_BLOCK;
    const start = Number(view.getBigUint64(20, true));
    if (view.getUint32(0, true) !== SLOT_MARK) return null;
    if (view.getUint32(36, true) !== checksum(head.subarray(0, 36), checksum(fileHead(this.owner))))
      return null;
    const size = this.disks[disk]?.size ?? 0;
    if (!Number.isInteger(block) || block * UNDO_LOG_BLOCK >= size || start > slot) return null;
    if (view.getUint32(8, true) !== this.rangeOf(disk, block).length) return null;
    if (view.getUint32(32, true) === 0) return { disk, block, start };
    const bytes = new Uint8Array(view.getUint32(8, true));
    if (!readAll(this.fd, bytes, at + HEAD_BYTES) || checksum(bytes) !== view.getUint32(28, true))
      return null;
    return { disk, block, start };
  }

  /** Null for zeros. */
  private readSlot(slot: number, range: ByteRange): Uint8Array | null {
    const at = HEAD_BYTES + slot * SLOT_BYTES;
    const head = new Uint8Array(SLOT_HEAD_BYTES);
    readWhole(this.fd, head, at, this.path);
    const view = new DataView(head.buffer);
    if (view.getUint32(32, true) === 0) return null;
    const bytes = new Uint8Array(range.length);
    readWhole(this.fd, bytes, at + HEAD_BYTES, this.path);
    if (checksum(bytes) === view.getUint32(28, true)) return bytes;
    throw new DriftmapError('malformed', 'what the disk held before it was written to is damaged', {
      path: this.path,
      offset: at,
      length: SLOT_BYTES,
    });
  }
}

/** Does nothing where there is none. */
export function removeUndoLog(path: string): void {
  try {
    unlinkSync(path);
    syncFolder(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT')
      throw systemError(cause, { path, operation: 'remove' });
  }
}

/** 0 8 magic · 8 2 version · 10 2 zero · 12 4 block size · 16 8 point · 24 16 journal · 40 4 zero · 44 4 CRC-32 of these */
function fileHead({ journal, sequence }: UndoOwner): Uint8Array {
  const head = new Uint8Array(FILE_HEAD_BYTES);
  const view = new DataView(head.buffer);
  head.set(MAGIC);
  view.setUint16(8, VERSION, true);
  view.setUint32(12, UNDO_LOG_BLOCK, true);
  view.setBigUint64(16, BigInt(sequence), true);
  head.set(Buffer.from(journal, 'hex'), 24);
  view.setUint32(44, checksum(head.subarray(0, 44)), true);
  return head;
}

function checkFileHead(head: Uint8Array, owner: UndoOwner, path: string): void {
  const view = new DataView(head.buffer);
  const isWhole = view.getUint32(44, true) === checksum(head.subarray(0, 44));
  if (!isWhole || !MAGIC.every((byte, i) => head[i] === byte))
    throw new DriftmapError('malformed', 'this is no undo log of driftmap, or it is damaged', {
      path,
      offset: 0,
    });
  if (view.getUint16(8, true) !== VERSION) {
    const reason = `expected version ${VERSION}, got ${view.getUint16(8, true)}: use a newer driftmap`;
    throw new DriftmapError('unsupported', reason, { path, offset: 8 });
  }
  const expected = fileHead(owner);
  if (head.every((byte, i) => byte === expected[i])) return;
  throw new DriftmapError('mismatch', 'this undo log is of another journal, or of another point', { path });
}

function writeWhole(fd: number, bytes: Uint8Array, offset: ByteOffset): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, offset + at);
}

/** Whether the file was long enough. */
function readAll(fd: number, target: Uint8Array, offset: ByteOffset): boolean {
  for (let at = 0; at < target.length; ) {
    const count = readSync(fd, target, at, target.length - at, offset + at);
    if (count === 0) return false;
    at += count;
  }
  return true;
}

function readWhole(fd: number, target: Uint8Array, offset: ByteOffset, path: string): void {
  if (readAll(fd, target, offset)) return;
  throw new DriftmapError('malformed', 'the undo log ends here', { path, offset, length: target.length });
}

function syncFolder(path: string): void {
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EINVAL' && code !== 'ENOTSUP') throw cause;
  } finally {
    closeSync(folder);
  }
}
