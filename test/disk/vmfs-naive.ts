/**
 * A second, naive reading of VMFS 3 and 5: straight from the descriptions, one block at a time, with none of
 * the reader's checks or code. What both read has to be the same.
 */

const MiB = 2 ** 20;

/** A file as its blocks: where each is on the unit, −1 for zeros. */
export interface NaiveFile {
  readonly path: string;
  readonly size: number;
  /** Of the pieces in `places`: 512 where sub-blocks may lie in two parts, else the file's blocks. */
  readonly step: number;
  readonly places: readonly number[];
}

type Bitmap = { items: number; clusters: number; first: number; size: number; group: number; inode: number };

class Naive {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly blockSize: number;
  private fdc: Bitmap;
  private readonly pbc: Bitmap;
  private readonly sbc: Bitmap;
  private readonly pb2: Bitmap | null;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const info = this.place(2 * MiB);
    this.blockSize = Number(this.u64(info + 0xa1));
    const base = Math.max(1, Math.floor((4 * MiB) / this.blockSize)) * this.blockSize;
    // Until its own descriptor is found, the file of descriptors is its first block.
    this.fdc = this.bitmap(this.place(base), -base);
    this.fdc = this.bitmap(this.place(base), this.inode(2 * 2 ** 22 + 4));
    this.pbc = this.bitmapOf(3 * 2 ** 22 + 4);
    this.sbc = this.bitmapOf(4 * 2 ** 22 + 4);
    this.pb2 = this.u64(info + 0xe1) === 0 ? null : this.bitmapOf(this.u32(info + 0xe9));
  }

  u32(at: number): number {
    return this.view.getUint32(at, true);
  }
  u64(at: number): number {
    return Number(this.view.getBigUint64(at, true));
  }

  /** Looks the physical extent up, every time. */
  place(offset: number): number {
    const count = this.u32(MiB + 0x6a);
    for (let i = 0; i < count; i++) {
      const at = MiB + 0x80600 + i * 128;
      const start = this.u64(at + 17);
      if (this.bytes[at] === 1 && offset >= start && offset < start + this.u64(at + 25))
        return this.u64(at + 9) + offset - start;
    }
    throw new Error('not in the volume');
  }

  private bitmap(at: number, inode: number): Bitmap {
    const [items, clusters, first, size, group] = [0, 4, 8, 12, 16].map((field) => this.u32(at + field));
    return { items: items!, clusters: clusters!, first: first!, size: size!, group: group!, inode };
  }

  private bitmapOf(id: number): Bitmap {
    const inode = this.inode(id);
    return this.bitmap(this.fileByte(inode, 0), inode);
  }

  /** Where a byte of a system file is; a negative inode is the file of one block at that place of the volume. */
  private fileByte(inode: number, offset: number): number {
    if (inode < 0) return this.place(-inode + offset);
    const id = this.blockId(inode, Math.floor(offset / this.blockSize));
    return this.place(Math.floor(id / 64) * this.blockSize + (offset % this.blockSize));
  }

  private item(map: Bitmap, cluster: number, item: number, within: number): number {
    const index = cluster * map.items + item;
    const perGroup = map.items * map.clusters;
    const offset =
      map.first +
      Math.floor(index / perGroup) * map.group +
      map.clusters * 1024 +
      (index % perGroup) * map.size +
      within;
    return this.fileByte(map.inode, offset);
  }

  /** Where a descriptor is. */
  inode(id: number): number {
    return this.item(this.fdc, Math.floor(id / 64) % 65536, Math.floor(id / 2 ** 22), 0);
  }

  /** The id of a file's block. */
  blockId(inode: number, index: number): number {
    const zla = this.u32(inode + 512 + 68);
    let table = inode + 1024;
    let rest = index;
    const spans = zla === 3 || zla === 5 ? [1024] : zla === 0x10d0 ? [2 ** 20, 1024] : [];
    for (const span of spans) {
      const id = this.u32(table + 4 * Math.floor(rest / span));
      if (id === 0) return 0;
      const map = id % 8 === 5 ? this.pb2! : this.pbc;
      table = this.item(map, Math.floor(id / 64) % 2 ** 22, Math.floor(id / 2 ** 28), 0);
      rest %= span;
    }
    return this.u32(table + 4 * rest);
  }

  file(path: string, inode: number): NaiveFile {
    const size = this.u64(inode + 512 + 20);
    const zla = this.u32(inode + 512 + 68);
    const step = zla === 0x10d1 ? Math.max(size, 1) : zla === 2 ? 512 : this.blockSize;
    const places: number[] = [];
    for (let at = 0; at < size; at += step) places.push(this.byteOf(inode, zla, at));
    return { path, size, step, places };
  }

  private byteOf(inode: number, zla: number, at: number): number {
    if (zla === 0x10d1) return inode + 1024 + at;
    const size = zla === 2 ? this.sbc.size : this.blockSize;
    const id = this.blockId(inode, Math.floor(at / size));
    if (id === 0) return -1;
    if (id % 8 === 2) {
      const item = Math.floor(id / 2 ** 28) + (Math.floor(id / 8) % 4) * 16;
      return this.item(this.sbc, Math.floor(id / 64) % 2 ** 22, item, at % size);
    }
    if (Math.floor(id / 32) % 2 === 1) return -1;
    return this.place(Math.floor(id / 64) * this.blockSize);
  }

  contents(file: NaiveFile): Uint8Array {
    const out = new Uint8Array(file.size);
    for (const [i, place] of file.places.entries()) {
      const length = Math.min(file.step, file.size - i * file.step);
      if (place >= 0) out.set(this.bytes.subarray(place, place + length), i * file.step);
    }
    return out;
  }

  *walk(path: string, id: number, depth: number): Generator<NaiveFile> {
    if (depth > 200) throw new Error('too deep');
    const contents = this.contents(this.file(path, this.inode(id)));
    const view = new DataView(contents.buffer);
    for (let at = 0; at + 140 <= contents.length; at += 140) {
      const [type, entry] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
      const name = new TextDecoder().decode(contents.subarray(at + 12, at + 140)).split('\0')[0]!;
      if (type === 0 || entry === 0 || name === '.' || name === '..') continue;
      if (type === 2) yield* this.walk(`${path}/${name}`, entry, depth + 1);
      else if (type === 3) yield this.file(`${path}/${name}`, this.inode(entry));
    }
  }
}

/** All files by path; null where the tables make no sense. */
export function naiveVmfs(bytes: Uint8Array): Map<string, NaiveFile> | null {
  try {
    const files = new Map<string, NaiveFile>();
    for (const file of new Naive(bytes).walk('', 4, 0)) if (!files.has(file.path)) files.set(file.path, file);
    return files;
  } catch {
    return null;
  }
}
