/**
 * A second reading of ext4 for the tests, written for clarity and nothing else: one block, one number, one name
 * at a time, no checks and no caches. It throws (RangeError and the like) where damage leads it astray, and
 * stops after so much work. It knows nothing of journals and checksums.
 */

import { Buffer } from 'node:buffer';

const DIRECTORY = 0x4000;
const REGULAR = 0x8000;

export interface NaiveFile {
  readonly inode: number;
  readonly size: number;
}

export class NaiveExt4 {
  private readonly image: Buffer;
  private readonly blockSize: number;
  private readonly is64: boolean;
  private work = 0;

  constructor(image: Uint8Array) {
    this.image = Buffer.from(image.buffer, image.byteOffset, image.length);
    this.blockSize = 1024 * 2 ** this.superblock(0x18);
    this.is64 = (this.superblock(0x60) & 0x80) !== 0;
  }

  private superblock(at: number): number {
    return this.image.readUInt32LE(1024 + at);
  }

  private spend(): void {
    if (++this.work > 3_000_000) throw new Error('too much work');
  }

  private inodeAt(number: number): number {
    const perGroup = this.superblock(0x28);
    const group = Math.floor((number - 1) / perGroup);
    const size = this.superblock(0x4c) === 0 ? 128 : this.image.readUInt16LE(1024 + 0x58);
    const descriptorSize = this.is64 ? this.image.readUInt16LE(1024 + 0xfe) : 32;
    const descriptor = (this.blockSize === 1024 ? 2048 : this.blockSize) + group * descriptorSize;
    const table = this.image.readUInt32LE(descriptor + 8);
    return table * this.blockSize + ((number - 1) % perGroup) * size;
  }

  private sizeOf(at: number): number {
    const isRegular = (this.image.readUInt16LE(at) & 0xf000) === REGULAR;
    return this.image.readUInt32LE(at + 4) + (isRegular ? this.image.readUInt32LE(at + 0x6c) * 2 ** 32 : 0);
  }

  /** The block that holds a block of a file; 0 for zeros. */
  private blockOf(at: number, logical: number): number {
    const flags = this.image.readUInt32LE(at + 0x20);
    return (flags & 0x80000) !== 0 ? this.inTree(at + 0x28, logical) : this.inTable(at + 0x28, logical);
  }

  private inTree(node: number, logical: number): number {
    this.spend();
    const entries = this.image.readUInt16LE(node + 2);
    const depth = this.image.readUInt16LE(node + 6);
    let child = 0;
    for (let i = 0; i < entries; i++) {
      const at = node + 12 + 12 * i;
      const first = this.image.readUInt32LE(at);
      if (depth > 0) {
        if (first <= logical)
          child = this.image.readUInt32LE(at + 4) + this.image.readUInt16LE(at + 8) * 2 ** 32;
        continue;
      }
      const length = this.image.readUInt16LE(at + 4);
      const count = length > 32768 ? length - 32768 : length;
      if (logical < first || logical >= first + count) continue;
      if (length > 32768) return 0;
      return this.image.readUInt32LE(at + 8) + this.image.readUInt16LE(at + 6) * 2 ** 32 + (logical - first);
    }
    return child === 0 ? 0 : this.inTree(child * this.blockSize, logical);
  }

  private inTable(table: number, logical: number): number {
    this.spend();
    const number = (at: number, index: number) => (at === 0 ? 0 : this.image.readUInt32LE(at + 4 * index));
    const per = this.blockSize / 4;
    if (logical < 12) return number(table, logical);
    let rest = logical - 12;
    for (let level = 1; level <= 3; level++) {
      if (rest >= per ** level) {
        rest -= per ** level;
        continue;
      }
      let block = number(table, 11 + level);
      for (let below = level - 1; below >= 0; below--) {
        block = number(block * this.blockSize, Math.floor(rest / per ** below) % per);
      }
      return block;
    }
    throw new RangeError('past the table');
  }

  /** Inline data: all there are, or `size` bytes of them and of zeros. */
  private inline(at: number, size: number | null): Buffer {
    const extra = this.image.readUInt16LE(at + 0x80);
    const first = at + 128 + extra + 4;
    const parts = [this.image.subarray(at + 0x28, at + 0x28 + 60)];
    for (let entry = first; this.image.readUInt32LE(entry) !== 0; ) {
      this.spend();
      const length = this.image[entry]!;
      if (
        this.image[entry + 1] === 7 &&
        this.image.toString('latin1', entry + 16, entry + 16 + length) === 'data'
      ) {
        const value = first + this.image.readUInt16LE(entry + 2);
        parts.push(this.image.subarray(value, value + this.image.readUInt32LE(entry + 8)));
        break;
      }
      entry += 4 * Math.ceil((16 + length) / 4);
    }
    const all = Buffer.concat(parts);
    if (size === null) return all;
    const bytes = Buffer.alloc(size);
    all.copy(bytes);
    return bytes;
  }

  /** The first `most` bytes of a file. */
  read(inode: number, most = Number.POSITIVE_INFINITY): Buffer {
    const at = this.inodeAt(inode);
    const size = Math.min(this.sizeOf(at), most);
    if (size > 2 ** 27) throw new RangeError('too large');
    if ((this.image.readUInt32LE(at + 0x20) & 0x10000000) !== 0) return this.inline(at, size);
    const bytes = Buffer.alloc(size);
    for (let offset = 0; offset < size; offset += this.blockSize) {
      const block = this.blockOf(at, offset / this.blockSize);
      if (block === 0) continue;
      const place = block * this.blockSize;
      if (place + this.blockSize > this.image.length) throw new RangeError('past the end');
      this.image.copy(bytes, offset, place, place + this.blockSize);
    }
    return bytes;
  }

  /** Every regular file by its path, its name as latin1. */
  files(): Map<string, NaiveFile> {
    const found = new Map<string, NaiveFile>();
    this.list(2, '', found, 0);
    return found;
  }

  private list(directory: number, path: string, found: Map<string, NaiveFile>, depth: number): void {
    if (depth > 20) throw new RangeError('too deep');
    const at = this.inodeAt(directory);
    const isInline = (this.image.readUInt32LE(at + 0x20) & 0x10000000) !== 0;
    const bytes = isInline ? this.inline(at, null) : this.read(directory);
    const chains = isInline
      ? [bytes.subarray(4, 60), bytes.subarray(60)]
      : Array.from({ length: bytes.length / this.blockSize }, (_, i) =>
          bytes.subarray(i * this.blockSize, (i + 1) * this.blockSize),
        );
    for (const chain of chains) {
      for (let entry = 0; entry < chain.length; entry += chain.readUInt16LE(entry + 4)) {
        this.spend();
        const inode = chain.readUInt32LE(entry);
        const name = chain.toString('latin1', entry + 8, entry + 8 + chain[entry + 6]!);
        if (inode === 0 || name === '.' || name === '..') continue;
        const said = chain[entry + 7]!;
        if (said !== 0 && said !== 1 && said !== 2) continue;
        const inner = this.inodeAt(inode);
        const type = this.image.readUInt16LE(inner) & 0xf000;
        if (type === REGULAR) found.set(`${path}/${name}`, { inode, size: this.sizeOf(inner) });
        else if (type === DIRECTORY) this.list(inode, `${path}/${name}`, found, depth + 1);
      }
    }
  }
}
