/**
 * The metadata of a thin pool: the superblock and its B-trees (Linux drivers/md/dm-thin-metadata.c and
 * drivers/md/persistent-data/dm-btree-internal.h; the kernel has no other specification of them).
 *
 * The metadata device is an array of 4 KiB blocks, each with a checksum and its own number. Block 0 is the
 * superblock. A B-tree node has a header of 32 bytes, all its keys, then all its values; the values of an
 * internal node are block numbers of nodes, and the key of each is the lowest key in its node.
 *
 * Every node is held to the keys that its parent leaves to it. That also bounds the walk: two nodes of one
 * level cannot hold the same key, so a node that is reached twice is an error and a loop ends by its depth.
 */

import { DriftmapError } from '../../base/errors.ts';
import { THIN_MAX_TREE_DEPTH } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';
import { blockChecksum } from './thin-checksum.ts';

const BLOCK = 4096;
const SECTOR = 512;
const SUPERBLOCK_SALT = 160774;
const NODE_SALT = 121107;
const MAGIC = 27022010;
const NODE_HEADER = 32;
const INTERNAL = 1;
const LEAF = 2;

export interface ThinSuperblock {
  readonly transaction: number;
  /** Blocks of the metadata device. */
  readonly mappingRoot: number;
  readonly detailsRoot: number;
  /** Bytes of one block of the data device. */
  readonly blockSize: ByteCount;
  /** How many of them there are. */
  readonly dataBlocks: number;
}

/** Reads and checks block 0. Throws `malformed` or `unsupported`. */
export async function readThinSuperblock(source: ByteSource): Promise<ThinSuperblock> {
  const block = new Uint8Array(BLOCK);
  await readWhole(source, "the thin pool's superblock", 0, block);
  const path = source.name;
  const view = viewOf(block);
  const malformed = (offset: ByteOffset, reason: string) =>
    new DriftmapError('malformed', `thin pool superblock: ${reason}`, { path, offset });
  const magic = littleUint64(view, 32);
  if (magic !== MAGIC) throw malformed(32, `expected magic ${MAGIC}, got ${magic}`);
  const written = view.getUint32(0, true);
  const actual = blockChecksum(block, SUPERBLOCK_SALT);
  if (written !== actual) throw malformed(0, `expected checksum ${hex(written)}, got ${hex(actual)}`);
  if (littleUint64(view, 8) !== 0)
    throw malformed(8, `expected to be block 0, it says ${littleUint64(view, 8)}`);
  const version = view.getUint32(40, true);
  if (version !== 1 && version !== 2) {
    const reason = `thin pool superblock: expected version 1 or 2, got ${version}`;
    throw new DriftmapError('unsupported', reason, { path, offset: 40 });
  }
  const incompatible = view.getUint32(360, true);
  if (incompatible !== 0) {
    const reason = `thin pool superblock: the pool needs features that driftmap does not know (${hex(incompatible)})`;
    throw new DriftmapError('unsupported', reason, { path, offset: 360 });
  }
  const sectors = view.getUint32(336, true);
  if (sectors < 128 || sectors > 2 ** 21 || sectors % 128 !== 0) {
    throw malformed(336, `expected data blocks of a multiple of 128 sectors, up to 2^21, got ${sectors}`);
  }
  const metadataSectors = view.getUint32(340, true);
  if (metadataSectors !== BLOCK / SECTOR) {
    throw malformed(340, `expected metadata blocks of ${BLOCK / SECTOR} sectors, got ${metadataSectors}`);
  }
  return {
    transaction: littleUint64(view, 48),
    mappingRoot: littleUint64(view, 320),
    detailsRoot: littleUint64(view, 328),
    blockSize: sectors * SECTOR,
    dataBlocks: littleUint64(view, 64),
  };
}

/** A node's entries as they lie in its block. The object is used again for the next node. */
export class ThinNode {
  readonly bytes = new Uint8Array(BLOCK);
  readonly view = viewOf(this.bytes);
  block = 0;
  internal = false;
  count = 0;
  private valuesAt = 0;
  private valueSize = 0;

  /** Keys are 64-bit; those from 2^53 on are good only for "too large". */
  keyOf(index: number): number {
    return littleUint64(this.view, NODE_HEADER + 8 * index);
  }
  /** Where in the block a value begins. */
  valueAt(index: number): number {
    return this.valuesAt + this.valueSize * index;
  }
  childOf(index: number): number {
    return littleUint64(this.view, this.valueAt(index));
  }

  /**
   * Reads and checks a node whose keys must lie in `[from, to)`.
   * @param valueSize of the tree's leaves
   */
  async read(
    source: ByteSource,
    block: number,
    { from, to, valueSize }: { from: number; to: number; valueSize: ByteCount },
  ): Promise<void> {
    const { bytes, view } = this;
    const offset = block * BLOCK;
    await readWhole(source, "a node of the thin pool's trees", offset, bytes);
    const malformed = (at: number, reason: string) =>
      new DriftmapError('malformed', `thin pool tree node: ${reason}; thin_check tells more`, {
        path: source.name,
        offset: offset + at,
      });
    const written = view.getUint32(0, true);
    const actual = blockChecksum(bytes, NODE_SALT);
    if (written !== actual) throw malformed(0, `expected checksum ${hex(written)}, got ${hex(actual)}`);
    if (littleUint64(view, 8) !== block) {
      throw malformed(8, `expected to be block ${block}, it says ${littleUint64(view, 8)}`);
    }
    const flags = view.getUint32(4, true);
    if (flags !== INTERNAL && flags !== LEAF) {
      throw malformed(4, `expected an internal node (1) or a leaf (2), got ${flags}`);
    }
    this.block = block;
    this.internal = flags === INTERNAL;
    this.count = view.getUint32(16, true);
    const most = view.getUint32(20, true);
    this.valueSize = view.getUint32(24, true);
    const expected = this.internal ? 8 : valueSize;
    if (this.valueSize !== expected) {
      throw malformed(24, `expected values of ${expected} bytes, got ${this.valueSize}`);
    }
    if (this.count > most || NODE_HEADER + most * (8 + this.valueSize) > BLOCK) {
      throw malformed(16, `expected entries that fit into the node, got ${this.count} of ${most}`);
    }
    this.valuesAt = NODE_HEADER + 8 * most;
    let last = -1;
    for (let i = 0; i < this.count; i++) {
      const key = this.keyOf(i);
      if (key <= last || key < from || key >= to) {
        const reason = `expected keys that ascend from ${from} to below ${to}, got ${key} after ${last}`;
        throw malformed(NODE_HEADER + 8 * i, reason);
      }
      last = key;
    }
    if (this.internal && this.count === 0) throw malformed(16, 'an internal node has no entries');
  }
}

/** One B-tree. Keys at or past `2^53` are refused, but for `end`. */
export class ThinTree {
  private readonly source: ByteSource;
  private readonly root: number;
  private readonly valueSize: ByteCount;
  /** One for each level, so that a walk allocates nothing. */
  private readonly nodes: ThinNode[] = [];

  constructor(source: ByteSource, root: number, valueSize: ByteCount) {
    this.source = source;
    this.root = root;
    this.valueSize = valueSize;
  }

  /** Calls `visit` with every leaf that may hold keys below `end`, in ascending order. */
  async leaves(end: number, visit: (leaf: ThinNode) => void): Promise<void> {
    await this.walk(this.root, 0, 0, Number.POSITIVE_INFINITY, end, visit);
  }

  private async walk(
    block: number,
    depth: number,
    from: number,
    to: number,
    end: number,
    visit: (leaf: ThinNode) => void,
  ): Promise<void> {
    const node = await this.readNode(block, depth, from, to);
    if (!node.internal) {
      visit(node);
      return;
    }
    for (let i = 0; i < node.count; i++) {
      const key = node.keyOf(i);
      if (key >= end) return;
      const next = i + 1 < node.count ? node.keyOf(i + 1) : to;
      await this.walk(node.childOf(i), depth + 1, key, next, end, visit);
    }
  }

  /** The leaf entry of a key: the leaf and the index in it; null where there is none. */
  async find(key: number): Promise<{ leaf: ThinNode; index: number } | null> {
    let block = this.root;
    let from = 0;
    let to = Number.POSITIVE_INFINITY;
    for (let depth = 0; ; depth++) {
      const node = await this.readNode(block, depth, from, to);
      const index = lastAtMost(node, key);
      if (index < 0) return null;
      if (!node.internal) return node.keyOf(index) === key ? { leaf: node, index } : null;
      from = node.keyOf(index);
      if (index + 1 < node.count) to = node.keyOf(index + 1);
      block = node.childOf(index);
    }
  }

  private async readNode(block: number, depth: number, from: number, to: number): Promise<ThinNode> {
    if (depth >= THIN_MAX_TREE_DEPTH) {
      const reason = `thin pool: expected trees of at most ${THIN_MAX_TREE_DEPTH} levels: the tree is a loop or damaged`;
      throw new DriftmapError('malformed', reason, { path: this.source.name, offset: block * BLOCK });
    }
    this.nodes[depth] ??= new ThinNode();
    const node = this.nodes[depth];
    await node.read(this.source, block, { from, to, valueSize: this.valueSize });
    // An empty leaf is a tree without entries: below the root, nothing would bound how often it is reached.
    if (depth > 0 && node.count === 0) {
      const reason = 'thin pool tree node: expected entries below the root, got none; thin_check tells more';
      throw new DriftmapError('malformed', reason, { path: this.source.name, offset: block * BLOCK });
    }
    return node;
  }
}

/** The last entry whose key is at most `key`; −1 where all are above. */
function lastAtMost(node: ThinNode, key: number): number {
  let low = -1;
  let high = node.count;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (node.keyOf(middle) <= key) low = middle;
    else high = middle;
  }
  return low;
}

function hex(value: number): string {
  return value.toString(16).padStart(8, '0');
}
