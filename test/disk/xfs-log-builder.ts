/** Logs of XFS, written by hand from the specification, for file systems that are kept as sparse units. */

import { crc32c } from '../../src/codec/checksum.ts';
import type { SparseUnit } from './xfs-images.ts';
import type { NaiveXfs } from './xfs-naive.ts';

const BLOCK = 512;
export const START = 1;
export const COMMIT = 2;
export const CONTINUE = 4;
export const WAS_CONTINUED = 8;
export const END = 16;

/** One operation of a record. */
export interface Operation {
  readonly id: number;
  readonly flags: number;
  readonly bytes: Uint8Array;
  readonly client?: number;
}

export interface LogSpec {
  readonly records: readonly (readonly Operation[])[];
  /** Block of the log at which the first record begins, and its cycle. */
  readonly at: number;
  readonly cycle: number;
  /** Which record the last one names as the tail; the first by default. */
  readonly tail?: number;
  /** A last word on a record's header, before its checksum. */
  readonly patch?: (header: DataView, index: number) => void;
  /** Of the data, after the checksum. */
  readonly tear?: number;
  /** A record without a checksum, as mkfs.xfs writes its own. */
  readonly unsummed?: number;
}

export function little(size: number, change: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size);
  change(new DataView(bytes.buffer));
  return bytes;
}

/** A transaction of items, each a list of regions, that commits. */
export function transaction(id: number, items: readonly (readonly Uint8Array[])[]): Operation[] {
  const header = little(16, (view) => {
    view.setUint32(0, 0x5452414e, true);
    view.setUint32(12, items.length, true);
  });
  const none = new Uint8Array(0);
  return [
    { id, flags: START, bytes: none },
    { id, flags: 0, bytes: header },
    ...items.flat().map((bytes) => ({ id, flags: 0, bytes })),
    { id, flags: COMMIT, bytes: none },
  ];
}

/** A buffer, some chunks of 128 bytes of which were changed. */
export function bufferItem(
  offset: number,
  length: number,
  chunks: readonly (readonly [number, Uint8Array])[],
  flags = 0,
): Uint8Array[] {
  const words = Math.ceil(length / 128 / 32);
  const format = little(20 + 4 * words, (view) => {
    view.setUint16(0, 0x123c, true);
    view.setUint16(2, 1 + chunks.length, true);
    view.setUint16(4, flags, true);
    view.setUint16(6, length / BLOCK, true);
    view.setBigUint64(8, BigInt(offset / BLOCK), true);
    view.setUint32(16, words, true);
    for (const [first, bytes] of chunks) {
      for (let chunk = first; chunk < first + bytes.length / 128; chunk++) {
        const word = 20 + 4 * Math.floor(chunk / 32);
        view.setUint32(word, (view.getUint32(word, true) | (1 << (chunk % 32))) >>> 0, true);
      }
    }
  });
  return [format, ...chunks.map(([, bytes]) => bytes)];
}

/** An inode's core as it is on the unit, changed; and its data fork. */
export function inodeItem(
  xfs: NaiveXfs,
  inode: number,
  change: (core: DataView) => void,
  fork: { fields: number; bytes: Uint8Array } | null = null,
): Uint8Array[] {
  const core = xfs.unit.bytes(xfs.inodePlace(inode), xfs.isNew ? 176 : 96);
  const view = new DataView(core.buffer);
  const swap = (at: number, width: number) => core.subarray(at, at + width).reverse();
  for (const at of [0, 2, 20, 22, 80, 88, 90]) swap(at, 2);
  for (const at of [8, 12, 16, 72, 76, 84, 92]) swap(at, 4);
  for (const at of [32, 40, 48, 56, 64]) swap(at, 8);
  if (xfs.isNew) for (const at of [24, 104, 112, 120, 144, 152]) swap(at, 8);
  else swap(30, 2);
  if (xfs.isNew) swap(128, 4);
  change(view);
  const format = little(56, (view) => {
    view.setUint16(0, 0x123b, true);
    view.setUint16(2, fork === null ? 2 : 3, true);
    view.setUint32(4, 1 | (fork?.fields ?? 0), true);
    view.setUint16(10, fork?.bytes.length ?? 0, true);
    view.setBigUint64(16, BigInt(inode), true);
    view.setBigUint64(40, BigInt(Math.floor(xfs.inodePlace(inode) / 8192) * 16), true);
    view.setUint32(48, 16, true);
  });
  return fork === null ? [format, core] : [format, core, fork.bytes];
}

/** An item of one region that says its type and an identity at byte 8. */
export function plainItem(type: number, id: number, size = 32): Uint8Array[] {
  return [
    little(size, (view) => {
      view.setUint16(0, type, true);
      view.setUint16(2, 1, true);
      if (size >= 16) view.setUint32(8, id, true);
    }),
  ];
}

/**
 * Gives a unit a log with these records and nothing else. A log in its first cycle is empty after them; in a
 * later one it is full of the cycle before.
 * @returns where each record begins, and the head, as blocks of the log
 */
export function writeLog(unit: SparseUnit, xfs: NaiveXfs, spec: LogSpec): { starts: number[]; head: number } {
  const offset = xfs.placeOf(xfs.logStart);
  const blocks = (xfs.logBlocks * xfs.blockSize) / BLOCK;
  for (const [page, bytes] of [...unit.pages]) {
    const [from, to] = [offset - page * 4096, offset + blocks * BLOCK - page * 4096];
    if (from < 4096 && to > 0) bytes.fill(0, Math.max(from, 0), Math.min(to, 4096));
  }
  const put = (block: number, bytes: Uint8Array) => unit.put(offset + (block % blocks) * BLOCK, bytes);
  const stamp = (cycle: number) => little(4, (view) => view.setUint32(0, cycle));
  // Before the first record there is its own cycle, after the last one the cycle before.
  for (let block = 0; block < blocks; block++) {
    const cycle = block < spec.at ? spec.cycle : spec.cycle - 1;
    if (cycle > 0) put(block, stamp(cycle));
  }
  const starts: number[] = [];
  let at = spec.at;
  spec.records.forEach((operations, index) => {
    starts.push(at);
    const tail = spec.tail === undefined ? 0 : Math.min(spec.tail, index);
    at += writeRecord(put, xfs, spec, { operations, index, at, blocks, tail: starts[tail]! });
  });
  return { starts: starts.map((start) => start % blocks), head: at % blocks };
}

function writeRecord(
  put: (block: number, bytes: Uint8Array) => void,
  xfs: NaiveXfs,
  spec: LogSpec,
  record: { operations: readonly Operation[]; index: number; at: number; blocks: number; tail: number },
): number {
  const { operations, index, at, blocks, tail } = record;
  const cycleOf = (block: number) => (block < blocks ? spec.cycle : spec.cycle + 1);
  const length = operations.reduce((sum, { bytes }) => sum + 12 + bytes.length, 0);
  const dataBlocks = Math.ceil(length / BLOCK);
  const data = new Uint8Array(dataBlocks * BLOCK);
  const dataView = new DataView(data.buffer);
  let here = 0;
  for (const { id, flags, bytes, client } of operations) {
    dataView.setUint32(here, id);
    dataView.setUint32(here + 4, bytes.length);
    dataView.setUint8(here + 8, client ?? 0x69);
    dataView.setUint8(here + 9, flags);
    data.set(bytes, here + 12);
    here += 12 + bytes.length;
  }
  const header = new Uint8Array(BLOCK);
  const view = new DataView(header.buffer);
  view.setUint32(0, 0xfeedbabe);
  view.setUint32(4, cycleOf(at));
  view.setUint32(8, 2);
  view.setUint32(12, data.length);
  view.setUint32(16, cycleOf(at));
  view.setUint32(20, at % blocks);
  view.setUint32(24, cycleOf(tail));
  view.setUint32(28, tail % blocks);
  view.setUint32(40, operations.length);
  view.setUint32(300, 1);
  header.set(xfs.uuid, 304);
  view.setUint32(320, 32768);
  for (let i = 0; i < dataBlocks; i++) {
    view.setUint32(44 + 4 * i, dataView.getUint32(i * BLOCK));
    dataView.setUint32(i * BLOCK, cycleOf(at + 1 + i));
  }
  spec.patch?.(view, index);
  view.setUint32(32, 0, true);
  if (spec.unsummed !== index) view.setUint32(32, crc32c(data, crc32c(header.subarray(0, 328))), true);
  if (spec.tear === index) data[20] = data[20]! ^ 0xff;
  put(at, header);
  for (let i = 0; i < dataBlocks; i++) put(at + 1 + i, data.subarray(i * BLOCK, (i + 1) * BLOCK));
  return 1 + dataBlocks;
}
