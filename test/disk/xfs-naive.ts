/**
 * A second reading of XFS, naive: no checks, no bounds but a count, numbers as BigInt. What it says of an intact
 * file system is true; of a damaged one it says what the bytes say. And a builder of extent trees.
 */

import { byPath, type KnownFile, type SparseUnit, type XfsRun } from './xfs-images.ts';

interface NaiveExtent {
  readonly start: number;
  readonly block: number;
  readonly count: number;
  readonly unwritten: boolean;
}

export class NaiveXfs {
  readonly unit: SparseUnit;
  readonly isNew: boolean;
  readonly blockSize: number;
  readonly inodeSize: number;
  readonly inodesPerBlock: number;
  readonly groupBlocks: number;
  readonly groupStride: number;
  readonly root: number;
  readonly logStart: number;
  readonly logBlocks: number;
  readonly uuid: Uint8Array;
  private readonly hasTypes: boolean;
  private readonly directoryBlock: number;
  private steps = 0;

  constructor(unit: SparseUnit) {
    this.unit = unit;
    const view = unit.view(0, 512);
    this.isNew = view.getUint16(100) % 16 === 5;
    this.blockSize = view.getUint32(4);
    this.inodeSize = view.getUint16(104);
    this.inodesPerBlock = this.blockSize / this.inodeSize;
    this.groupBlocks = view.getUint32(84);
    this.groupStride = 2 ** view.getUint8(124);
    this.root = Number(view.getBigUint64(56));
    this.logStart = Number(view.getBigUint64(48));
    this.logBlocks = view.getUint32(96);
    this.directoryBlock = this.blockSize * 2 ** view.getUint8(192);
    this.uuid = unit.bytes(32, 16);
    this.hasTypes = this.isNew ? view.getUint32(216) % 2 === 1 : (view.getUint32(200) & 0x200) !== 0;
  }

  placeOf(block: number): number {
    const group = Math.floor(block / this.groupStride);
    return (group * this.groupBlocks + (block % this.groupStride)) * this.blockSize;
  }

  inodePlace(inode: number): number {
    const within = inode % this.inodesPerBlock;
    return this.placeOf(Math.floor(inode / this.inodesPerBlock)) + within * this.inodeSize;
  }

  /** All regular files, or an error where it walks too long or out of the unit; without the runs of some. */
  files(unmapped?: RegExp): KnownFile[] {
    this.steps = 0;
    const found: KnownFile[] = [];
    this.walk(this.root, '', found, unmapped);
    return found.sort(byPath);
  }

  private walk(directory: number, path: string, found: KnownFile[], unmapped?: RegExp): void {
    for (const [name, number] of this.entries(directory)) {
      if (this.steps++ > 20_000) throw new Error('too long');
      const inode = this.unit.view(this.inodePlace(number), this.inodeSize);
      const kind = inode.getUint16(2) >>> 12;
      if (kind === 4) this.walk(number, `${path}/${name}`, found, unmapped);
      if (kind !== 8) continue;
      const size = Number(inode.getBigUint64(56));
      const runs = unmapped?.test(`${path}/${name}`) ? [] : this.runs(number, size);
      found.push({ path: `${path}/${name}`, size, runs });
    }
  }

  extents(number: number): NaiveExtent[] {
    const at = this.inodePlace(number);
    const inode = this.unit.view(at, this.inodeSize);
    const core = this.isNew ? 176 : 100;
    const words = inode.getUint8(82);
    const fork = this.unit.view(at + core, words === 0 ? this.inodeSize - core : 8 * words);
    const found: NaiveExtent[] = [];
    const isBig = this.isNew && (inode.getUint32(124) & 0x10) !== 0;
    const count = isBig ? Number(inode.getBigUint64(24)) : inode.getUint32(76);
    if (inode.getUint8(5) === 2) this.records(fork, 0, count, found);
    else {
      const room = Math.floor((fork.byteLength - 4) / 16);
      for (let i = 0; i < fork.getUint16(2); i++) this.tree(fork.getBigUint64(4 + 8 * (room + i)), found);
    }
    return found;
  }

  private tree(block: bigint, found: NaiveExtent[]): void {
    if (this.steps++ > 20_000) throw new Error('too long');
    const view = this.unit.view(this.placeOf(Number(block)), this.blockSize);
    const header = this.isNew ? 72 : 24;
    const room = Math.floor((this.blockSize - header) / 16);
    if (view.getUint16(4) === 0) this.records(view, header, view.getUint16(6), found);
    else {
      for (let i = 0; i < view.getUint16(6); i++)
        this.tree(view.getBigUint64(header + 8 * (room + i)), found);
    }
  }

  private records(view: DataView, at: number, count: number, found: NaiveExtent[]): void {
    for (let i = 0; i < count; i++) {
      const bits = (view.getBigUint64(at + 16 * i) << 64n) + view.getBigUint64(at + 16 * i + 8);
      found.push({
        unwritten: bits >> 127n === 1n,
        start: Number((bits >> 73n) & (2n ** 54n - 1n)),
        block: Number((bits >> 21n) & (2n ** 52n - 1n)),
        count: Number(bits & (2n ** 21n - 1n)),
      });
    }
  }

  runs(number: number, size: number): XfsRun[] {
    const runs: XfsRun[] = [];
    for (const { start, block, count, unwritten } of this.extents(number)) {
      const offset = start * this.blockSize;
      const length = Math.min(count * this.blockSize, size - offset);
      if (length <= 0) continue;
      const place = this.placeOf(block);
      const flag = unwritten ? 1 : 0;
      const last = runs.at(-1);
      if (last && last[0] + last[2] === offset && last[1] + last[2] === place && last[3] === flag)
        runs[runs.length - 1] = [last[0], last[1], last[2] + length, flag];
      else runs.push([offset, place, length, flag]);
    }
    return runs;
  }

  /** Names and inodes of a directory. */
  entries(number: number): [string, number][] {
    const at = this.inodePlace(number);
    const inode = this.unit.view(at, this.inodeSize);
    if (inode.getUint8(5) === 1) return this.shortEntries(at + (this.isNew ? 176 : 100));
    const blocks = new Map<number, number>();
    for (const { start, block, count } of this.extents(number)) {
      for (let i = 0; i < count && (start + i) * this.blockSize < 32 * 2 ** 30; i++) {
        if (this.steps++ > 20_000) throw new Error('too long');
        blocks.set(start + i, block + i);
      }
    }
    const found: [string, number][] = [];
    const step = this.directoryBlock / this.blockSize;
    for (const first of [...blocks.keys()].sort((a, b) => a - b)) {
      if (first % step !== 0) continue;
      const bytes = new Uint8Array(this.directoryBlock);
      for (let i = 0; i < step; i++) {
        const part = this.unit.bytes(this.placeOf(blocks.get(first + i)!), this.blockSize);
        bytes.set(part, i * this.blockSize);
      }
      this.dataEntries(new DataView(bytes.buffer), found);
    }
    return found;
  }

  private shortEntries(at: number): [string, number][] {
    const view = this.unit.view(at, this.inodeSize - 100);
    const wide = view.getUint8(1) > 0;
    const found: [string, number][] = [];
    let here = wide ? 10 : 6;
    for (let i = 0; i < view.getUint8(wide ? 1 : 0); i++) {
      const length = view.getUint8(here);
      const name = text(this.unit.bytes(at + here + 3, length));
      here += 3 + length + (this.hasTypes ? 1 : 0);
      found.push([name, wide ? Number(view.getBigUint64(here)) : view.getUint32(here)]);
      here += wide ? 8 : 4;
    }
    return found;
  }

  private dataEntries(view: DataView, found: [string, number][]): void {
    const withTable = view.getUint32(0) === (this.isNew ? 0x58444233 : 0x58443242);
    const size = view.byteLength;
    const end = withTable ? size - 8 - 8 * view.getUint32(size - 8) : size;
    for (let at = this.isNew ? 64 : 16; at < end; ) {
      if (this.steps++ > 20_000) throw new Error('too long');
      if (view.getUint16(at) === 0xffff) {
        at += view.getUint16(at + 2);
        continue;
      }
      const length = view.getUint8(at + 8);
      const name = text(new Uint8Array(view.buffer, at + 9, length));
      if (name !== '.' && name !== '..') found.push([name, Number(view.getBigUint64(at))]);
      at += Math.ceil((11 + length + (this.hasTypes ? 1 : 0)) / 8) * 8;
    }
  }
}

function text(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}

/**
 * Gives a file of version 4 another data fork: a tree over the extents, whose blocks are taken from `free`.
 * @param levels 2 or 3, the root in the inode included
 */
export function plantTree(
  xfs: NaiveXfs,
  inode: number,
  extents: readonly NaiveExtent[],
  free: readonly number[],
  levels: 2 | 3,
): void {
  const { unit, blockSize } = xfs;
  const blocks = [...free];
  const perBlock = Math.floor((blockSize - 24) / 16);
  const rows: { key: bigint; block: number }[] = [];
  const header = (level: number, count: number, last: number, next: number | undefined) => {
    const view = new DataView(new ArrayBuffer(blockSize));
    view.setUint32(0, 0x424d4150);
    view.setUint16(4, level);
    view.setUint16(6, count);
    view.setBigUint64(8, last < 0 ? 2n ** 64n - 1n : BigInt(last));
    view.setBigUint64(16, next === undefined ? 2n ** 64n - 1n : BigInt(next));
    return view;
  };
  for (let i = 0, last = -1; i < extents.length; i += perBlock) {
    const part = extents.slice(i, i + perBlock);
    const block = blocks.shift()!;
    const view = header(0, part.length, last, i + perBlock < extents.length ? blocks[0] : undefined);
    part.forEach(({ start, block, count, unwritten }, k) => {
      const bits =
        (unwritten ? 2n ** 127n : 0n) + (BigInt(start) << 73n) + (BigInt(block) << 21n) + BigInt(count);
      view.setBigUint64(24 + 16 * k, bits >> 64n);
      view.setBigUint64(32 + 16 * k, bits & (2n ** 64n - 1n));
    });
    unit.put(xfs.placeOf(block), new Uint8Array(view.buffer));
    rows.push({ key: BigInt(part[0]!.start), block });
    last = block;
  }
  if (levels === 3) {
    const block = blocks.shift()!;
    const view = header(1, rows.length, -1, undefined);
    rows.forEach(({ key, block }, k) => {
      view.setBigUint64(24 + 8 * k, key);
      view.setBigUint64(24 + 8 * (perBlock + k), BigInt(block));
    });
    unit.put(xfs.placeOf(block), new Uint8Array(view.buffer));
    rows.splice(0, rows.length, { key: rows[0]!.key, block });
  }
  const at = xfs.inodePlace(inode);
  const fork = new DataView(new ArrayBuffer(xfs.inodeSize - 100));
  const room = Math.floor((fork.byteLength - 4) / 16);
  fork.setUint16(0, levels - 1);
  fork.setUint16(2, rows.length);
  rows.forEach(({ key, block }, k) => {
    fork.setBigUint64(4 + 8 * k, key);
    fork.setBigUint64(4 + 8 * (room + k), BigInt(block));
  });
  unit.put(at + 100, new Uint8Array(fork.buffer));
  const core = unit.view(at, 100);
  core.setUint8(5, 3);
  core.setUint32(76, extents.length);
  const end = extents.at(-1)!;
  core.setBigUint64(56, BigInt((end.start + end.count) * blockSize));
  unit.put(at, new Uint8Array(core.buffer));
}
