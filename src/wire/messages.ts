/**
 * The layouts of messages that carry bulk: fixed, little end first, checked as they are taken apart. What a
 * peer counts is compared with the bytes that are there before anything is made of it. docs/PROTOCOL.md says the
 * same in tables.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_DATA_BYTES, MAX_DISK_SIZE, MAX_PLACING_BLOCKS, WINDOW_BLOCKS } from '../base/limits.ts';
import type { BlockRun, ByteCount, ByteOffset } from '../base/units.ts';
import { GiB } from '../base/units.ts';

/** A node's digest in a tree of signatures. */
export const DIGEST_BYTES = 16;
/** Children of a node, and the levels of a tree: leaves are level 0, the top is level 4. */
export const FANOUT = 16;
export const TOP_LEVEL = 4;
/** Bytes of the signature that a block is placed by: BLAKE3. */
export const SIGNATURE_BYTES = 32;

/** How the bytes of a data message are stored. */
export const Encoding = { plain: 0, zero: 1, deflate: 2, zstd: 3 } as const;
export type Encoding = (typeof Encoding)[keyof typeof Encoding];
/** Longest run of zeros in one message. */
export const MAX_ZERO_BYTES = 1 * GiB;

function viewOf(payload: Uint8Array): DataView<ArrayBuffer> {
  return new DataView(payload.buffer as ArrayBuffer, payload.byteOffset, payload.length);
}

function refuse(message: string, reason: string): never {
  throw new DriftmapError('malformed', `the message '${message}': ${reason}`);
}

/** A run of windows, `[first, end)`, whose trees all have this top. */
export interface TopRun {
  readonly first: number;
  readonly end: number;
  readonly digest: Uint8Array;
}

const TOP_ENTRY = 8 + DIGEST_BYTES;

export function encodeTops(runs: readonly TopRun[]): Uint8Array {
  const payload = new Uint8Array(runs.length * TOP_ENTRY);
  const view = viewOf(payload);
  runs.forEach(({ first, end, digest }, i) => {
    view.setUint32(i * TOP_ENTRY, first, true);
    view.setUint32(i * TOP_ENTRY + 4, end - first, true);
    payload.set(digest, i * TOP_ENTRY + 8);
  });
  return payload;
}

/** @param windows how many there are; runs must follow one another within them */
export function decodeTops(payload: Uint8Array, windows: number): TopRun[] {
  if (payload.length === 0 || payload.length % TOP_ENTRY !== 0) refuse('tops', `got ${payload.length} bytes`);
  const runs = decodeRuns('tops', payload, TOP_ENTRY, windows);
  return runs.map((run, i) => ({ ...run, digest: payload.subarray(i * TOP_ENTRY + 8, (i + 1) * TOP_ENTRY) }));
}

/** A run of windows, `[first, end)`. */
export interface WindowRun {
  readonly first: number;
  readonly end: number;
}

export function encodeEqual(runs: readonly WindowRun[]): Uint8Array {
  const payload = new Uint8Array(runs.length * 8);
  const view = viewOf(payload);
  runs.forEach(({ first, end }, i) => {
    view.setUint32(i * 8, first, true);
    view.setUint32(i * 8 + 4, end - first, true);
  });
  return payload;
}

export function decodeEqual(payload: Uint8Array, windows: number): WindowRun[] {
  if (payload.length === 0 || payload.length % 8 !== 0) refuse('equal', `got ${payload.length} bytes`);
  return decodeRuns('equal', payload, 8, windows);
}

function decodeRuns(message: string, payload: Uint8Array, entry: number, windows: number): WindowRun[] {
  const view = viewOf(payload);
  let next = 0;
  return Array.from({ length: payload.length / entry }, (_, i) => {
    const first = view.getUint32(i * entry, true);
    const length = view.getUint32(i * entry + 4, true);
    if (first < next || length === 0 || first + length > windows)
      refuse(message, `expected ascending windows below ${windows}, got ${length} from ${first}`);
    next = first + length;
    return { first, end: next };
  });
}

/** The digests below some nodes of one tree. */
export interface Nodes {
  readonly window: number;
  /** Of the digests; `parentLevel` is higher. */
  readonly level: number;
  readonly parentLevel: number;
  /** Positions of the nodes at `parentLevel`: ascending. */
  readonly parents: readonly number[];
  /** Of every parent's descendants at `level`, one parent after another. */
  readonly digests: Uint8Array;
}

const NODES_HEAD = 12;

/** How many nodes a tree over so many blocks has at a level; what lies past a disk's end is never sent. */
export function nodesAt(level: number, leaves = WINDOW_BLOCKS): number {
  return Math.ceil(leaves / FANOUT ** level);
}

/** Blocks of a window: the last one of a disk may have fewer. */
export function leavesOfWindow(window: number, blocks: number): number {
  return Math.min(WINDOW_BLOCKS, blocks - window * WINDOW_BLOCKS);
}

/** Digests at `level` below some nodes at `parentLevel`: only the last node of a tree may have fewer than the others. */
export function digestsBelow(
  parentLevel: number,
  parents: readonly number[],
  level: number,
  leaves: number,
): number {
  const each = FANOUT ** (parentLevel - level);
  const last = parents[parents.length - 1]!;
  return (parents.length - 1) * each + Math.min(each, nodesAt(level, leaves) - last * each);
}

export function encodeNodes({ window, level, parentLevel, parents, digests }: Nodes): Uint8Array[] {
  const front = new Uint8Array(NODES_HEAD + 2 * parents.length);
  const view = viewOf(front);
  view.setUint32(0, window, true);
  front[4] = level;
  front[5] = parentLevel;
  view.setUint32(8, parents.length, true);
  for (const [i, parent] of parents.entries()) view.setUint16(NODES_HEAD + 2 * i, parent, true);
  return [front, digests];
}

/** @param blocks how many the disk has */
export function decodeNodes(payload: Uint8Array, windows: number, blocks: number): Nodes {
  if (payload.length < NODES_HEAD) refuse('nodes', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const window = view.getUint32(0, true);
  const level = payload[4]!;
  const parentLevel = payload[5]!;
  const count = view.getUint32(8, true);
  if (window >= windows) refuse('nodes', `expected a window below ${windows}, got ${window}`);
  if (parentLevel > TOP_LEVEL || level >= parentLevel || view.getUint16(6, true) !== 0)
    refuse('nodes', `expected levels from 0 to ${TOP_LEVEL}, got ${level} below ${parentLevel}`);
  const leaves = leavesOfWindow(window, blocks);
  const most = nodesAt(parentLevel, leaves);
  if (count === 0 || count > most || payload.length < NODES_HEAD + count * 2)
    refuse('nodes', `expected 1 to ${most} nodes, got ${count} in ${payload.length} bytes`);
  let last = -1;
  const parents = Array.from({ length: count }, (_, i) => {
    const parent = view.getUint16(NODES_HEAD + 2 * i, true);
    if (parent <= last || parent >= most)
      refuse('nodes', `expected ascending nodes below ${most}, got ${parent}`);
    last = parent;
    return parent;
  });
  const expected = digestsBelow(parentLevel, parents, level, leaves) * DIGEST_BYTES;
  if (payload.length !== NODES_HEAD + 2 * count + expected)
    refuse('nodes', `expected ${expected} bytes of digests, got ${payload.length - NODES_HEAD - 2 * count}`);
  return { window, level, parentLevel, parents, digests: payload.subarray(NODES_HEAD + 2 * count) };
}

/** The leaves of a window that differ: as a list where they are few, else one bit each. */
export function encodeDiffer(window: number, leaves: readonly number[]): Uint8Array {
  const asBits = leaves.length * 2 > WINDOW_BLOCKS / 8;
  const payload = new Uint8Array(8 + (asBits ? WINDOW_BLOCKS / 8 : leaves.length * 2));
  const view = viewOf(payload);
  view.setUint32(0, window, true);
  payload[4] = asBits ? 1 : 0;
  leaves.forEach((leaf, i) => {
    if (asBits) payload[8 + (leaf >>> 3)]! |= 1 << (leaf & 7);
    else view.setUint16(8 + 2 * i, leaf, true);
  });
  return payload;
}

export function decodeDiffer(payload: Uint8Array, windows: number): { window: number; leaves: number[] } {
  if (payload.length < 8) refuse('differ', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const window = view.getUint32(0, true);
  if (window >= windows) refuse('differ', `expected a window below ${windows}, got ${window}`);
  const leaves: number[] = [];
  if (payload[4] === 1) {
    if (payload.length !== 8 + WINDOW_BLOCKS / 8) refuse('differ', `got ${payload.length} bytes of bits`);
    for (let leaf = 0; leaf < WINDOW_BLOCKS; leaf++)
      if ((payload[8 + (leaf >>> 3)]! & (1 << (leaf & 7))) !== 0) leaves.push(leaf);
  } else {
    if (payload[4] !== 0 || payload.length % 2 !== 0 || payload.length > 8 + 2 * WINDOW_BLOCKS)
      refuse('differ', `got ${payload.length} bytes of form ${payload[4]}`);
    for (let at = 8; at < payload.length; at += 2) {
      const leaf = view.getUint16(at, true);
      if (leaves.length > 0 && leaf <= leaves[leaves.length - 1]!)
        refuse('differ', `expected ascending blocks, got ${leaf}`);
      leaves.push(leaf);
    }
  }
  return { window, leaves };
}

/** A part of an encoded bitmap (a `.drift` file's bytes). */
export interface BitmapPart {
  readonly total: ByteCount;
  readonly offset: ByteCount;
  readonly bytes: Uint8Array;
}

export function encodeBitmapPart({ total, offset, bytes }: BitmapPart): Uint8Array[] {
  const front = new Uint8Array(8);
  const view = viewOf(front);
  view.setUint32(0, total, true);
  view.setUint32(4, offset, true);
  return [front, bytes];
}

export function decodeBitmapPart(payload: Uint8Array): BitmapPart {
  if (payload.length <= 8) refuse('bitmap', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const total = view.getUint32(0, true);
  const offset = view.getUint32(4, true);
  if (offset + payload.length - 8 > total)
    refuse('bitmap', `expected ${total} bytes in all, got ${offset + payload.length - 8}`);
  return { total, offset, bytes: payload.subarray(8) };
}

/** Signatures of marked blocks, which the replica may hold elsewhere. */
export interface Signatures {
  readonly runs: readonly BlockRun[];
  /** 32 bytes a block, in the order of the runs. */
  readonly digests: Uint8Array;
}

const RUN_ENTRY = 12;

export function encodeSignatures({ runs, digests }: Signatures): Uint8Array[] {
  const front = new Uint8Array(4 + runs.length * RUN_ENTRY);
  const view = viewOf(front);
  view.setUint32(0, runs.length, true);
  runs.forEach(({ start, end }, i) => {
    view.setBigUint64(4 + i * RUN_ENTRY, BigInt(start), true);
    view.setUint32(12 + i * RUN_ENTRY, end - start, true);
  });
  return [front, digests];
}

/** @param blocks how many the disk has; @param from the first block that may come */
export function decodeSignatures(payload: Uint8Array, blocks: number, from: number): Signatures {
  if (payload.length < 4) refuse('signatures', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const count = view.getUint32(0, true);
  const digestsAt = 4 + count * RUN_ENTRY;
  if (count === 0 || digestsAt > payload.length) refuse('signatures', `got ${count} runs`);
  let next = from;
  let sum = 0;
  const runs = Array.from({ length: count }, (_, i) => {
    const start = Number(view.getBigUint64(4 + i * RUN_ENTRY, true));
    const length = view.getUint32(12 + i * RUN_ENTRY, true);
    if (start < next || length === 0 || start + length > blocks)
      refuse('signatures', `expected ascending blocks below ${blocks}, got ${length} from ${start}`);
    next = start + length;
    sum += length;
    return { start, end: next };
  });
  if (sum > MAX_PLACING_BLOCKS || payload.length !== digestsAt + sum * SIGNATURE_BYTES)
    refuse('signatures', `got ${payload.length} bytes for ${sum} blocks`);
  return { runs, digests: payload.subarray(digestsAt) };
}

/** For each block of a plan, in order: 1 where the replica has placed it. */
export function encodePlaced(placed: Uint8Array): Uint8Array {
  const payload = new Uint8Array(4 + Math.ceil(placed.length / 8));
  viewOf(payload).setUint32(0, placed.length, true);
  placed.forEach((one, i) => {
    if (one) payload[4 + (i >>> 3)]! |= 1 << (i & 7);
  });
  return payload;
}

/** @param count how many blocks the plan has */
export function decodePlaced(payload: Uint8Array, count: number): Uint8Array {
  if (payload.length !== 4 + Math.ceil(count / 8) || viewOf(payload).getUint32(0, true) !== count)
    refuse('placed', `expected answers for ${count} blocks, got ${payload.length} bytes`);
  return Uint8Array.from({ length: count }, (_, i) => (payload[4 + (i >>> 3)]! >>> (i & 7)) & 1);
}

/** Signatures of the pieces of marked blocks: which of them differ? */
export interface Refine {
  readonly runs: readonly BlockRun[];
  /** Bytes of a piece: a power of two, less than a block. */
  readonly piece: ByteCount;
  /** Of nh128. */
  readonly key: Uint8Array;
  /** 16 bytes a piece, in the order of the runs. */
  readonly digests: Uint8Array;
}

const REFINE_HEAD = 8 + 32;

export function encodeRefine({ runs, piece, key, digests }: Refine): Uint8Array[] {
  const front = new Uint8Array(REFINE_HEAD + runs.length * RUN_ENTRY);
  const view = viewOf(front);
  view.setUint32(0, runs.length, true);
  view.setUint32(4, piece, true);
  front.set(key, 8);
  runs.forEach(({ start, end }, i) => {
    view.setBigUint64(REFINE_HEAD + i * RUN_ENTRY, BigInt(start), true);
    view.setUint32(REFINE_HEAD + 8 + i * RUN_ENTRY, end - start, true);
  });
  return [front, digests];
}

/** The pieces of some runs of blocks, as runs of pieces. */
export function pieceRuns(
  runs: readonly BlockRun[],
  {
    piece,
    blockSize,
    size,
  }: { readonly piece: ByteCount; readonly blockSize: ByteCount; readonly size: ByteCount },
): BlockRun[] {
  return runs.map(({ start, end }) => ({
    start: (start * blockSize) / piece,
    end: Math.ceil(Math.min(end * blockSize, size) / piece),
  }));
}

export function decodeRefine(payload: Uint8Array, size: ByteCount, blockSize: ByteCount): Refine {
  if (payload.length < REFINE_HEAD) refuse('refine', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const count = view.getUint32(0, true);
  const piece = view.getUint32(4, true);
  if (piece < 512 || piece >= blockSize || blockSize % piece !== 0)
    refuse('refine', `expected pieces that divide a block of ${blockSize}, got ${piece}`);
  const digestsAt = REFINE_HEAD + count * RUN_ENTRY;
  if (count === 0 || digestsAt > payload.length) refuse('refine', `got ${count} runs`);
  const blocks = Math.ceil(size / blockSize);
  let next = 0;
  const runs = Array.from({ length: count }, (_, i) => {
    const start = Number(view.getBigUint64(REFINE_HEAD + i * RUN_ENTRY, true));
    const length = view.getUint32(REFINE_HEAD + 8 + i * RUN_ENTRY, true);
    if (start < next || length === 0 || start + length > blocks)
      refuse('refine', `expected ascending blocks below ${blocks}, got ${length} from ${start}`);
    next = start + length;
    return { start, end: next };
  });
  const pieces = pieceRuns(runs, { piece, blockSize, size }).reduce(
    (sum, { start, end }) => sum + end - start,
    0,
  );
  if (payload.length !== digestsAt + pieces * DIGEST_BYTES)
    refuse('refine', `got ${payload.length} bytes for ${pieces} pieces`);
  return { runs, piece, key: payload.slice(8, REFINE_HEAD), digests: payload.subarray(digestsAt) };
}

/** Bytes of the disk. */
export interface Data {
  readonly offset: ByteOffset;
  /** Of the disk: what the stored bytes unpack to. */
  readonly length: ByteCount;
  readonly encoding: Encoding;
  readonly stored: Uint8Array;
}

/** What goes before the stored bytes. */
export const DATA_HEAD_BYTES = 16;

export function encodeData(data: Data): Uint8Array[] {
  const front = new Uint8Array(DATA_HEAD_BYTES);
  fillDataHead(front, data);
  return [front, data.stored];
}

/** Fills in the head of a message whose stored bytes follow it in memory. */
export function fillDataHead(message: Uint8Array, { offset, length, encoding }: Omit<Data, 'stored'>): void {
  const view = viewOf(message);
  view.setBigUint64(0, BigInt(offset), true);
  view.setUint32(8, length, true);
  view.setUint32(12, encoding, true);
}

export function decodeData(payload: Uint8Array, size: ByteCount): Data {
  if (payload.length < DATA_HEAD_BYTES) refuse('data', `got ${payload.length} bytes`);
  const view = viewOf(payload);
  const offset = Number(view.getBigUint64(0, true));
  const length = view.getUint32(8, true);
  const encoding = payload[12]! as Encoding;
  const stored = payload.subarray(DATA_HEAD_BYTES);
  if (encoding > Encoding.zstd || payload[13] !== 0 || view.getUint16(14, true) !== 0)
    refuse('data', `expected an encoding from 0 to 3, got ${encoding}`);
  if (length === 0 || offset > MAX_DISK_SIZE || offset + length > size)
    refuse('data', `expected bytes of a disk of ${size}, got ${length} at ${offset}`);
  if (length > (encoding === Encoding.zero ? MAX_ZERO_BYTES : MAX_DATA_BYTES))
    refuse('data', `got ${length} bytes at a time`);
  const fits =
    encoding === Encoding.zero
      ? stored.length === 0
      : encoding === Encoding.plain
        ? stored.length === length
        : stored.length > 0 && stored.length < length;
  if (!fits) refuse('data', `got ${stored.length} stored bytes for ${length}`);
  return { offset, length, encoding, stored };
}

export function encodeNumber(value: number): Uint8Array {
  const payload = new Uint8Array(4);
  viewOf(payload).setUint32(0, value, true);
  return payload;
}

export function decodeNumber(payload: Uint8Array, message: string): number {
  if (payload.length !== 4) refuse(message, `expected 4 bytes, got ${payload.length}`);
  return viewOf(payload).getUint32(0, true);
}
