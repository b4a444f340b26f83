/**
 * Small VMFS 3 and 5 file systems for tests, written from the same descriptions as the reader and without its
 * code. Groups are smaller than ESX makes them, so that files soon need several clusters and groups.
 */

const MiB = 2 ** 20;
const DEVICE = MiB;
const DATA = 17 * MiB;

export type Addressing = 'file' | 'sub' | 'pointer' | 'pointer2' | 'double' | 'resident';
const numbers = { file: 1, sub: 2, pointer: 3, pointer2: 5, double: 0x10d0, resident: 0x10d1 } as const;

export interface FileSpec {
  readonly addressing: Addressing;
  readonly size: number;
  /** Which blocks there are; all others are holes. */
  readonly blocks?: ReadonlyMap<number, 'data' | 'zeroed'>;
  /** Instead of a pattern; for directories, links and files in descriptors. */
  readonly contents?: Uint8Array;
  /** 2 directory, 3 file, 4 link, 6 raw device. */
  readonly type?: number;
}

export interface VmfsOptions {
  readonly version?: 3 | 5;
  readonly blockSize?: number;
  readonly subBlockSize?: number;
  readonly volumeBytes?: number;
  /** Order on the unit of the volume's physical extents, and their size. */
  readonly extents?: readonly number[];
  readonly extentBytes?: number;
  readonly label?: string;
  /** Takes file blocks from the top down, so that no two of a file adjoin. */
  readonly downwards?: boolean;
  /** Descriptors to make room for. */
  readonly descriptors?: number;
  /** Sub-blocks to make room for. */
  readonly subBlocks?: number;
}

interface Layout {
  readonly itemsPerCluster: number;
  readonly clustersPerGroup: number;
  readonly firstGroup: number;
  readonly itemSize: number;
}

/** A resource file being filled: where its blocks are, and how many pieces are taken. */
class Resource {
  readonly layout: Layout;
  readonly blocks: number[];
  readonly blockSize: number;
  taken = 0;
  constructor(layout: Layout, blocks: number[], blockSize: number) {
    this.layout = layout;
    this.blocks = blocks;
    this.blockSize = blockSize;
  }
  get groupSize(): number {
    const { clustersPerGroup, itemsPerCluster, itemSize } = this.layout;
    return clustersPerGroup * (1024 + itemsPerCluster * itemSize);
  }
  get items(): number {
    const { clustersPerGroup, itemsPerCluster, firstGroup } = this.layout;
    const groups = Math.floor((this.blocks.length * this.blockSize - firstGroup) / this.groupSize);
    return groups * clustersPerGroup * itemsPerCluster;
  }
  /** Offset on the volume of byte `within` of a piece. */
  at(cluster: number, item: number, within = 0): number {
    const { clustersPerGroup, itemsPerCluster, firstGroup, itemSize } = this.layout;
    const group = Math.floor(cluster / clustersPerGroup);
    const offset =
      firstGroup +
      group * this.groupSize +
      clustersPerGroup * 1024 +
      ((cluster % clustersPerGroup) * itemsPerCluster + item) * itemSize +
      within;
    return this.blocks[Math.floor(offset / this.blockSize)]! * this.blockSize + (offset % this.blockSize);
  }
  take(): { cluster: number; item: number } {
    if (this.taken >= this.items) throw new Error('the resource file is full');
    const next = this.taken++;
    const { itemsPerCluster } = this.layout;
    return { cluster: Math.floor(next / itemsPerCluster), item: next % itemsPerCluster };
  }
}

/** Runs of the unit that hold tables: what damage is done to. */
export type Region = readonly [start: number, end: number];

export class VmfsBuilder {
  readonly bytes: Uint8Array;
  readonly regions: Region[] = [];
  readonly blockSize: number;
  readonly subBlockSize: number;
  readonly root: number;
  private readonly view: DataView;
  private readonly options: VmfsOptions;
  private readonly extentBytes: number;
  private readonly order: readonly number[];
  private readonly volumeBytes: number;
  private readonly fdc: Resource;
  private readonly sbc: Resource;
  private readonly pbc: Resource;
  private readonly pb2: Resource;
  private nextBlock: number;
  private lastBlock: number;
  private readonly directories = new Map<number, { entries: Uint8Array[]; descriptor: number }>();
  private readonly generations = new Map<number, number>();

  constructor(options: VmfsOptions = {}) {
    this.options = options;
    this.blockSize = options.blockSize ?? MiB;
    this.subBlockSize = options.subBlockSize ?? (options.version === 3 ? 65536 : 8192);
    this.volumeBytes = options.volumeBytes ?? 64 * this.blockSize;
    this.extentBytes = options.extentBytes ?? this.volumeBytes;
    const extents = Math.ceil(this.volumeBytes / this.extentBytes);
    this.order = options.extents ?? Array.from({ length: extents }, (_, i) => i);
    this.bytes = new Uint8Array(DATA + extents * this.extentBytes);
    this.view = new DataView(this.bytes.buffer);
    const base = Math.max(1, Math.floor((4 * MiB) / this.blockSize));
    let next = base;
    const blocks = (count: number) => Array.from({ length: count }, () => next++);
    const some = { itemsPerCluster: 16, clustersPerGroup: 4, firstGroup: 65536 };
    const descriptorBytes = (options.descriptors ?? 100) * 2300 + 400_000;
    const fdcLayout = { ...some, itemsPerCluster: 8, itemSize: 2048 };
    this.fdc = new Resource(fdcLayout, blocks(Math.ceil(descriptorBytes / this.blockSize)), this.blockSize);
    const fbb = blocks(1);
    this.pbc = new Resource({ ...some, itemSize: 4096 }, blocks(2), this.blockSize);
    // As VMFS 3 does it: the first piece is not on a multiple of its size, so that some lie in two blocks.
    const sbcBlocks = Math.max(
      2,
      Math.ceil(((options.subBlocks ?? 64) * (this.subBlockSize + 64) + 131072) / this.blockSize),
    );
    const sbcLayout = { ...some, clustersPerGroup: 1, firstGroup: 32768, itemSize: this.subBlockSize };
    this.sbc = new Resource(sbcLayout, blocks(sbcBlocks).reverse(), this.blockSize);
    this.pb2 = new Resource({ ...some, itemSize: 4096 }, blocks(2), this.blockSize);
    this.nextBlock = next;
    this.lastBlock = this.volumeBytes / this.blockSize - 1;
    this.root = this.newDescriptor();
    this.putDevice();
    this.putInfo();
    this.systemFile(fbb, 98304);
    this.systemFile(this.fdc.blocks, this.fdc.blocks.length * this.blockSize);
    this.systemFile(this.pbc.blocks, this.pbc.blocks.length * this.blockSize);
    this.systemFile(this.sbc.blocks, this.sbc.blocks.length * this.blockSize);
    this.fdc.take();
    let second = 0;
    if (options.version !== 3) {
      const id = this.systemFile(this.pb2.blocks, this.pb2.blocks.length * this.blockSize);
      this.put32(this.unitOf(2 * MiB) + 0xe9, id);
      this.put64(this.unitOf(2 * MiB) + 0xe1, this.descriptorAt(id));
      second = id;
    }
    for (const resource of [this.fdc, this.pbc, this.sbc, this.pb2]) this.putResource(resource);
    this.putBitmaps(fbb[0]!);
    this.directories.set(this.root, { entries: [], descriptor: this.root });
    this.link(this.root, '.', this.root, 2);
    this.link(this.root, '..', this.root, 2);
    for (const [item, name] of ['', '.fbb.sf', '.fdc.sf', '.pbc.sf', '.sbc.sf'].entries()) {
      if (item > 0) this.link(this.root, name, ((item << 22) | 4) >>> 0, 5);
    }
    if (second !== 0) this.link(this.root, '.pb2.sf', second, 5);
  }

  /** Where a byte of the volume is on the unit. */
  unitOf(offset: number): number {
    const extent = Math.floor(offset / this.extentBytes);
    return DATA + this.order[extent]! * this.extentBytes + (offset % this.extentBytes);
  }

  /** Where a descriptor is on the unit. */
  descriptorPlace(id: number): number {
    return this.unitOf(this.descriptorAt(id));
  }

  addDirectory(parent: number, name: string): number {
    const id = this.newDescriptor();
    this.directories.set(id, { entries: [], descriptor: id });
    this.link(id, '.', id, 2);
    this.link(id, '..', parent, 2);
    this.link(parent, name, id, 2);
    return id;
  }

  addFile(parent: number, name: string, spec: FileSpec): number {
    const id = this.newDescriptor();
    this.putFile(id, spec);
    this.link(parent, name, id, spec.type ?? 3);
    return id;
  }

  addLink(parent: number, name: string, target: string): number {
    const contents = new TextEncoder().encode(target);
    return this.addFile(parent, name, { addressing: 'sub', size: contents.length, contents, type: 4 });
  }

  /** A directory entry; the directory itself is written by `finish`. */
  link(directory: number, name: string, id: number, type: number): void {
    const entry = new Uint8Array(140);
    const view = new DataView(entry.buffer);
    view.setUint32(0, type, true);
    view.setUint32(4, id, true);
    view.setUint32(8, this.generations.get(id) ?? 1, true);
    entry.set(new TextEncoder().encode(name), 12);
    this.directories.get(directory)!.entries.push(entry);
  }

  /** Writes the directories, and gives the unit's bytes. */
  finish(): Uint8Array {
    for (const { entries, descriptor } of this.directories.values()) {
      const contents = new Uint8Array(entries.length * 140);
      for (const [i, entry] of entries.entries()) contents.set(entry, i * 140);
      // The root directory lies in file blocks, others in sub-blocks while these suffice.
      const small = descriptor !== this.root && contents.length <= 256 * this.subBlockSize;
      const addressing = small && contents.length <= 16 * this.subBlockSize ? 'sub' : 'file';
      this.putFile(descriptor, { addressing, size: contents.length, contents, type: 2 });
    }
    return this.bytes;
  }

  private newDescriptor(): number {
    const { cluster, item } = this.fdc.take();
    const id = (cluster * 64 + item * 2 ** 22 + 4) >>> 0;
    this.generations.set(id, 1 + this.generations.size);
    return id;
  }

  private descriptorAt(id: number): number {
    return this.fdc.at((id >>> 6) & 0xffff, id >>> 22);
  }

  private systemFile(blocks: readonly number[], size: number): number {
    const id = this.newDescriptor();
    this.generations.set(id, 1);
    this.putDescriptor(id, { addressing: 'file', size, type: 5 }, this.blockSize, blocks.length, 0);
    for (const [i, block] of blocks.entries())
      this.put32(this.descriptorPlace(id) + 1024 + 4 * i, block * 64 + 1);
    return id;
  }

  private putFile(id: number, spec: FileSpec): void {
    const { addressing, contents } = spec;
    const blockSize = addressing === 'sub' || addressing === 'resident' ? this.subBlockSize : this.blockSize;
    const place = this.descriptorPlace(id);
    if (addressing === 'resident') {
      this.putDescriptor(id, spec, blockSize, 0, 0);
      this.bytes.set(contents ?? patternOf(0, spec.size), place + 1024);
      return;
    }
    const wanted = new Map(spec.blocks ?? []);
    if (contents) for (let i = 0; i * blockSize < contents.length; i++) wanted.set(i, 'data');
    const zeroed = [...wanted.values()].filter((kind) => kind === 'zeroed').length;
    this.putDescriptor(id, spec, blockSize, wanted.size, zeroed);
    const tables = new Map<string, number>();
    for (const [index, kind] of wanted) {
      const part = contents?.subarray(index * blockSize, (index + 1) * blockSize);
      const blockId = this.putBlock(addressing, blockSize, index, kind, part);
      this.put32(this.slotOf(place + 1024, addressing, index, tables), blockId);
    }
  }

  /** Where on the unit the id of a block stands; makes the pointer blocks on the way. */
  private slotOf(first: number, addressing: Addressing, index: number, tables: Map<string, number>): number {
    if (addressing === 'file' || addressing === 'sub') return first + 4 * index;
    const levels = addressing === 'double' ? [2 ** 20, 1024] : [1024];
    let slot = first;
    let rest = index;
    for (const [level, span] of levels.entries()) {
      slot += 4 * Math.floor(rest / span);
      rest %= span;
      const key = `${level} ${slot}`;
      let table = tables.get(key);
      if (table === undefined) {
        const second = addressing === 'pointer2' || (addressing === 'double' && level === 0);
        const resource = second ? this.pb2 : this.pbc;
        const { cluster, item } = resource.take();
        this.put32(slot, (item * 2 ** 28 + cluster * 64 + (second ? 5 : 3)) >>> 0);
        table = this.unitOf(resource.at(cluster, item));
        tables.set(key, table);
        this.regions.push([table, table + 4096]);
      }
      slot = table;
    }
    return slot + 4 * rest;
  }

  private putBlock(
    addressing: Addressing,
    blockSize: number,
    index: number,
    kind: 'data' | 'zeroed',
    part: Uint8Array | undefined,
  ): number {
    const data =
      part ?? (kind === 'data' ? patternOf(index, blockSize) : new Uint8Array(blockSize).fill(0xee));
    if (addressing === 'sub') {
      const { cluster, item } = this.sbc.take();
      for (let at = 0; at < data.length; at += 512) {
        const place = this.unitOf(this.sbc.at(cluster, item, at));
        this.bytes.set(data.subarray(at, at + 512), place);
        if (part) this.regions.push([place, place + Math.min(512, data.length - at)]);
      }
      return ((item % 16) * 2 ** 28 + cluster * 64 + (item >> 4) * 8 + 2) >>> 0;
    }
    const block = this.options.downwards ? this.lastBlock-- : this.nextBlock++;
    if (this.nextBlock > this.lastBlock + 1) throw new Error('the volume is full');
    const place = this.unitOf(block * this.blockSize);
    this.bytes.set(data, place);
    if (part) this.regions.push([place, place + data.length]);
    return block * 64 + (kind === 'zeroed' ? 32 : 0) + 1;
  }

  private putDescriptor(id: number, spec: FileSpec, blockSize: number, count: number, zeroed: number): void {
    const place = this.descriptorPlace(id);
    this.regions.push([place, place + 64], [place + 512, place + 640], [place + 1024, place + 1056]);
    this.put32(place, 0x10c00001);
    this.put64(place + 4, this.descriptorAt(id));
    const meta = place + 512;
    this.put32(meta, id);
    this.put32(meta + 4, this.generations.get(id) ?? 1);
    this.put32(meta + 8, 1);
    this.put32(meta + 12, spec.type ?? 3);
    this.put64(meta + 20, spec.size);
    this.put64(meta + 28, blockSize);
    this.put64(meta + 36, count);
    this.put32(meta + 64, spec.type === 2 ? 0o755 : 0o600);
    this.put32(meta + 68, numbers[spec.addressing]);
    this.put32(meta + 72, zeroed);
  }

  private putDevice(): void {
    this.regions.push([DEVICE, DEVICE + 0xc8], [DEVICE + 0x200, DEVICE + 0x294]);
    this.put32(DEVICE, 0xc001d00d);
    this.put32(DEVICE + 4, this.options.version ?? 5);
    this.put64(DEVICE + 0x5e, this.bytes.length);
    this.put32(DEVICE + 0x66, 1);
    this.put32(DEVICE + 0x6a, this.order.length);
    this.put64(DEVICE + 0x7a, DATA);
    const volume = DEVICE + 0x200;
    this.put64(volume, this.volumeBytes);
    this.put32(volume + 0x10, 1);
    this.putText(volume + 0x14, uuidText);
    this.bytes.set(volumeUuid, volume + 0x54);
    this.put32(volume + 0x64, 1);
    this.put32(volume + 0x74, this.order.length);
    this.put64(volume + 0x80, this.order.length - 1);
    this.put32(volume + 0x90, 1);
    for (const [i, where] of this.order.entries()) {
      const entry = DEVICE + 0x80600 + i * 128;
      this.regions.push([entry, entry + 37]);
      this.bytes[entry] = 1;
      this.put32(entry + 1, i);
      this.put64(entry + 9, DATA + where * this.extentBytes);
      this.put64(entry + 17, i * this.extentBytes);
      this.put64(entry + 25, this.extentBytes);
    }
  }

  private putInfo(): void {
    const info = this.unitOf(2 * MiB);
    this.regions.push([info, info + 0xf0]);
    this.put32(info, 0x2fabf15e);
    this.put32(info + 4, this.options.version === 3 ? 4 : 14);
    this.bytes[info + 8] = this.options.version === 3 ? 31 : 81;
    this.bytes.set(fileSystemUuid, info + 9);
    this.putText(info + 0x1d, this.options.label ?? 'datastore1');
    this.put32(info + 0x9d, 512);
    this.put64(info + 0xa1, this.blockSize);
    this.bytes.set(volumeUuid, info + 0xb1);
    this.put32(info + 0xc1, 1);
    this.put32(info + 0xd1, this.fdc.layout.firstGroup);
    this.put32(info + 0xd5, this.fdc.layout.clustersPerGroup);
    this.put32(info + 0xd9, this.subBlockSize);
  }

  private putResource(resource: Resource): void {
    const { itemsPerCluster, clustersPerGroup, firstGroup, itemSize } = resource.layout;
    const place = this.unitOf(resource.blocks[0]! * this.blockSize);
    this.regions.push([place, place + 28]);
    const groups = Math.floor((resource.blocks.length * this.blockSize - firstGroup) / resource.groupSize);
    const fields = [
      itemsPerCluster,
      clustersPerGroup,
      firstGroup,
      itemSize,
      resource.groupSize,
      resource.items,
    ];
    for (const [i, field] of [...fields, groups].entries()) this.put32(place + 4 * i, field);
  }

  private putBitmaps(block: number): void {
    const place = this.unitOf(block * this.blockSize);
    this.regions.push([place, place + 28]);
    const fields = [200, 32, 65536, 0, 32768, this.volumeBytes / this.blockSize, 1];
    for (const [i, field] of fields.entries()) this.put32(place + 4 * i, field);
  }

  put32(at: number, value: number): void {
    this.view.setUint32(at, value, true);
  }
  put64(at: number, value: number): void {
    this.view.setBigUint64(at, BigInt(value), true);
  }
  private putText(at: number, text: string): void {
    this.bytes.set(new TextEncoder().encode(text), at);
  }
}

const volumeUuid = Uint8Array.from([
  0x42, 0xf8, 0xed, 0x49, 0x37, 0x5d, 0xb3, 0xdc, 0x83, 0xb3, 1, 2, 3, 4, 5, 6,
]);
const uuidText = '49edf842-dcb35d37-b383-010203040506';
const fileSystemUuid = Uint8Array.from([
  0x44, 0xf8, 0xed, 0x49, 0xf3, 0x28, 0xfc, 0xeb, 0xcb, 0x65, 1, 2, 3, 4, 5, 6,
]);
/** As ESXi writes the file system's UUID. */
export const builtUuid = '49edf844-ebfc28f3-65cb-010203040506';

const patterns = new Map<string, Uint8Array>();

/** What a data block holds: no zeros, and another byte in every block. */
export function patternOf(index: number, length: number): Uint8Array {
  const byte = 1 + (index % 255);
  const key = `${byte} ${length}`;
  let pattern = patterns.get(key);
  if (pattern === undefined) {
    pattern = new Uint8Array(length).fill(byte);
    patterns.set(key, pattern);
  }
  return pattern;
}
