/**
 * VMDK images as bytes, written by hand from VMware's "Virtual Disk Format 5.0" and, for seSparse, from QEMU's
 * reading of it; and a second, naive reading of each.
 */

import { deflateSync, inflateSync } from 'node:zlib';

export const SECTOR = 512;

export interface DescriptorSpec {
  readonly cid?: string;
  readonly parentCid?: string;
  readonly hint?: string;
  readonly createType?: string;
  readonly version?: string;
  /** Whole lines. */
  readonly extents?: readonly string[];
  readonly more?: readonly string[];
  readonly newline?: string;
}

export function descriptorText(spec: DescriptorSpec = {}): string {
  const { newline = '\n', extents = [], more = [] } = spec;
  const hint = spec.hint === undefined ? [] : [`parentFileNameHint="${spec.hint}"`];
  return [
    '# Disk DescriptorFile',
    `version=${spec.version ?? '1'}`,
    `CID=${spec.cid ?? '1234abcd'}`,
    `parentCID=${spec.parentCid ?? 'ffffffff'}`,
    `createType="${spec.createType ?? 'monolithicSparse'}"`,
    ...hint,
    '',
    '# Extent description',
    ...extents,
    '',
    '# The Disk Data Base',
    '#DDB',
    'ddb.virtualHWVersion = "4"',
    'ddb.geometry.sectors = "63"',
    ...more,
    '',
  ].join(newline);
}

export function descriptorFile(spec: DescriptorSpec = {}): Uint8Array {
  return new Uint8Array(Buffer.from(descriptorText(spec), 'utf8'));
}

/** Contents of a grain; null was never written. */
export type Grain = Uint8Array | 'zero' | null;

export interface HostedSpec {
  /** In sectors. */
  readonly capacity: number;
  readonly grainSectors?: number;
  readonly entriesPerTable?: number;
  readonly grains: readonly Grain[];
  /** In which order the grains lie in the file. */
  readonly order?: readonly number[];
  readonly redundant?: boolean;
  readonly zeroFlag?: boolean;
  readonly packed?: boolean;
  /** Compressed, with directory and tables behind the grains, and a footer. */
  readonly atEnd?: boolean;
  readonly version?: number;
  /** Null: none, as in an extent of a split disk. */
  readonly descriptor?: DescriptorSpec | null;
  readonly unclean?: boolean;
}

interface Part {
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** A file that is written from its start on, in sectors. */
class Sectors {
  readonly parts: Part[] = [];
  end = 0;

  reserve(bytes: number): number {
    const at = this.end;
    this.end += Math.ceil(bytes / SECTOR);
    return at;
  }
  add(bytes: Uint8Array): number {
    const at = this.reserve(bytes.length);
    this.parts.push({ at, bytes });
    return at;
  }
  put(at: number, bytes: Uint8Array): void {
    this.parts.push({ at, bytes });
  }
  file(): Uint8Array {
    const file = new Uint8Array(this.end * SECTOR);
    for (const { at, bytes } of this.parts) file.set(bytes, at * SECTOR);
    return file;
  }
}

function words(values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => void view.setUint32(4 * i, value, true));
  return bytes;
}

function marker(type: number, sectors: number): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, sectors, true);
  view.setUint32(12, type, true);
  return bytes;
}

function packedGrain(sector: number, contents: Uint8Array): Uint8Array {
  const stored = deflateSync(contents);
  const bytes = new Uint8Array(12 + stored.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, sector, true);
  view.setUint32(8, stored.length, true);
  bytes.set(stored, 12);
  return bytes;
}

interface HeaderFields {
  readonly descriptorSectors: number;
  readonly redundantAt: number;
  readonly directoryAt: number;
  readonly overhead: number;
}

function hostedHeader(spec: HostedSpec, fields: HeaderFields): Uint8Array {
  const packed = spec.packed === true || spec.atEnd === true;
  const bytes = new Uint8Array(SECTOR);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0x564d444b, true);
  view.setUint32(4, spec.version ?? (packed ? 3 : spec.zeroFlag ? 2 : 1), true);
  view.setUint32(8, 1 + (spec.redundant ? 2 : 0) + (spec.zeroFlag ? 4 : 0) + (packed ? 0x30000 : 0), true);
  view.setBigUint64(12, BigInt(spec.capacity), true);
  view.setBigUint64(20, BigInt(spec.grainSectors ?? 16), true);
  view.setBigUint64(28, fields.descriptorSectors > 0 ? 1n : 0n, true);
  view.setBigUint64(36, BigInt(fields.descriptorSectors), true);
  view.setUint32(44, spec.entriesPerTable ?? 512, true);
  view.setBigUint64(48, BigInt(fields.redundantAt), true);
  view.setBigUint64(56, fields.directoryAt < 0 ? 2n ** 64n - 1n : BigInt(fields.directoryAt), true);
  view.setBigUint64(64, BigInt(fields.overhead), true);
  bytes[72] = spec.unclean ? 1 : 0;
  bytes.set([0x0a, 0x20, 0x0d, 0x0a], 73);
  view.setUint16(77, packed ? 1 : 0, true);
  return bytes;
}

export function buildHosted(spec: HostedSpec): Uint8Array {
  const { capacity, grainSectors = 16, entriesPerTable = 512, grains, descriptor = {} } = spec;
  const packed = spec.packed === true || spec.atEnd === true;
  const file = new Sectors();
  file.reserve(SECTOR);
  const text =
    descriptor === null
      ? null
      : descriptorFile({ extents: [`RW ${capacity} SPARSE "whatever.vmdk"`], ...descriptor });
  if (text) file.add(text);
  const descriptorSectors = file.end - 1;

  const count = Math.ceil(capacity / (grainSectors * entriesPerTable));
  const used = Array.from({ length: count }, (_, i) =>
    grains.slice(i * entriesPerTable, (i + 1) * entriesPerTable).some((grain) => grain !== null),
  );
  const reserveTables = (each: () => void) =>
    used.map((is) => {
      if (!is) return 0;
      each();
      return file.reserve(4 * entriesPerTable);
    });
  const nothing = () => {};
  let redundantAt = 0;
  let copies: number[] = [];
  if (spec.redundant) {
    redundantAt = file.reserve(4 * count);
    copies = reserveTables(nothing);
  }
  let directoryAt = 0;
  let tables: number[] = [];
  if (!spec.atEnd) {
    directoryAt = file.reserve(4 * count);
    tables = reserveTables(nothing);
  }
  const overhead = file.end;

  const entries: number[] = grains.map((grain) => (grain === 'zero' ? 1 : 0));
  const order = spec.order ?? grains.map((_, i) => i);
  for (const i of order) {
    const grain = grains[i]!;
    if (grain === null || grain === 'zero') continue;
    const whole = Math.min(grain.length, (capacity - i * grainSectors) * SECTOR);
    entries[i] = packed
      ? file.add(packedGrain(i * grainSectors, grain.subarray(0, whole)))
      : file.add(grain.subarray(0, grainSectors * SECTOR));
  }
  if (spec.atEnd) {
    tables = reserveTables(() => file.add(marker(1, Math.ceil((4 * entriesPerTable) / SECTOR))));
    file.add(marker(2, Math.ceil((4 * count) / SECTOR)));
    directoryAt = file.reserve(4 * count);
  }
  for (const [places, at] of [
    [tables, directoryAt],
    [copies, redundantAt],
  ] as const) {
    if (at === 0) continue;
    file.put(at, words(places));
    places.forEach((place, i) => {
      if (place !== 0) file.put(place, words(entries.slice(i * entriesPerTable, (i + 1) * entriesPerTable)));
    });
  }
  const fields = { descriptorSectors, redundantAt, directoryAt, overhead };
  file.put(0, hostedHeader(spec, spec.atEnd ? { ...fields, directoryAt: -1 } : fields));
  if (spec.atEnd) {
    file.add(marker(3, 1));
    file.add(hostedHeader(spec, fields));
    file.add(marker(0, 0));
  }
  return file.file();
}

export interface CowdSpec {
  readonly capacity: number;
  readonly grainSectors?: number;
  readonly grains: readonly (Uint8Array | null)[];
  readonly order?: readonly number[];
  readonly unclean?: boolean;
}

const COWD_ENTRIES = 4096;

export function buildCowd({ capacity, grainSectors = 1, grains, order, unclean }: CowdSpec): Uint8Array {
  const file = new Sectors();
  file.reserve(2048);
  const count = Math.ceil(capacity / (grainSectors * COWD_ENTRIES));
  const directoryAt = file.reserve(4 * count);
  const tables = Array.from({ length: count }, (_, i) => {
    const has = grains.slice(i * COWD_ENTRIES, (i + 1) * COWD_ENTRIES).some((grain) => grain !== null);
    return has ? file.reserve(4 * COWD_ENTRIES) : 0;
  });
  const entries = grains.map(() => 0);
  for (const i of order ?? grains.map((_, i) => i)) {
    const grain = grains[i]!;
    if (grain !== null) entries[i] = file.add(grain);
  }
  file.put(directoryAt, words(tables));
  tables.forEach((place, i) => {
    if (place !== 0) file.put(place, words(entries.slice(i * COWD_ENTRIES, (i + 1) * COWD_ENTRIES)));
  });
  const header = new Uint8Array(2048);
  header.set(words([0x44574f43, 1, 3, capacity, grainSectors, directoryAt, count, file.end]));
  if (unclean) header[1648] = 1;
  file.put(0, header);
  return file.file();
}

export type SeGrain = Uint8Array | 'zero' | 'unmapped' | null;

export interface SeSpec {
  readonly capacity: number;
  /** By index; what is not here was never written. */
  readonly grains: ReadonlyMap<number, SeGrain>;
  /** Grain numbers go up by this, to make some above 4095 in a small file. */
  readonly firstNumber?: number;
  readonly patch?: (header: DataView) => void;
  readonly patchVolatile?: (header: DataView) => void;
}

export const SE_GRAIN = 4096;
const SE_ENTRIES = 4096;
const SE_TABLE = 32_768;

export function buildSeSparse({
  capacity,
  grains,
  firstNumber = 0,
  patch,
  patchVolatile,
}: SeSpec): Uint8Array {
  const count = Math.ceil((capacity * SECTOR) / (SE_GRAIN * SE_ENTRIES));
  const file = new Sectors();
  const headerAt = file.reserve(SECTOR);
  const volatileAt = file.reserve(SECTOR);
  const directoryAt = file.reserve(8 * count);
  const directorySectors = file.end - directoryAt;
  const used = [...new Set([...grains.keys()].map((i) => Math.floor(i / SE_ENTRIES)))];
  const tablesAt = file.reserve(SE_TABLE * used.length);
  const data = [...grains].filter(([, grain]) => grain instanceof Uint8Array);
  const grainsAt = file.reserve((firstNumber + data.length) * SE_GRAIN);

  const directory = new DataView(new ArrayBuffer(8 * count));
  const tables = new Map<number, DataView>();
  // The last table comes first, so that numbers are not places.
  [...used].reverse().forEach((index, number) => {
    directory.setBigUint64(8 * index, (1n << 60n) | BigInt(number), true);
    const table = new DataView(new ArrayBuffer(SE_TABLE));
    tables.set(index, table);
    file.put(tablesAt + (number * SE_TABLE) / SECTOR, new Uint8Array(table.buffer));
  });
  file.put(directoryAt, new Uint8Array(directory.buffer));
  let next = firstNumber + data.length;
  for (const [i, grain] of grains) {
    const table = tables.get(Math.floor(i / SE_ENTRIES))!;
    let entry = 0n;
    if (grain === 'unmapped') entry = 1n << 60n;
    else if (grain === 'zero') entry = 2n << 60n;
    else if (grain !== null) {
      const number = BigInt(--next);
      entry = (3n << 60n) | ((number & 0xfffn) << 48n) | (number >> 12n);
      file.put(grainsAt + (next * SE_GRAIN) / SECTOR, grain);
    }
    table.setBigUint64(8 * (i % SE_ENTRIES), entry, true);
  }
  const header = new DataView(new ArrayBuffer(SECTOR));
  const set = (at: number, value: number | bigint) => header.setBigUint64(at, BigInt(value), true);
  [0xcafebabe, 0x200000001, capacity, 8, 64, 0].forEach((value, i) => void set(8 * i, value));
  set(80, volatileAt);
  set(88, 1);
  set(128, directoryAt);
  set(136, directorySectors);
  set(144, tablesAt);
  set(152, Math.max(1, (SE_TABLE * used.length) / SECTOR));
  set(192, grainsAt);
  set(200, Math.max(8, ((firstNumber + data.length) * SE_GRAIN) / SECTOR));
  patch?.(header);
  file.put(headerAt, new Uint8Array(header.buffer));
  const volatile = new DataView(new ArrayBuffer(SECTOR));
  volatile.setBigUint64(0, 0xcafecafen, true);
  patchVolatile?.(volatile);
  file.put(volatileAt, new Uint8Array(volatile.buffer));
  return file.file();
}

function viewOf(image: Uint8Array): DataView {
  return new DataView(image.buffer, image.byteOffset, image.length);
}

/**
 * What a hosted extent shows, sector by sector, without a check; null where a byte that it needs is not there. What
 * is the parent's is 0.
 */
export function naiveHosted(image: Uint8Array, bytes: number): Uint8Array | null {
  const view = viewOf(image);
  const contents = new Uint8Array(bytes);
  const atEnd = view.getBigUint64(56, true) === 2n ** 64n - 1n;
  const header = atEnd ? image.length - 1024 : 0;
  const flags = view.getUint32(header + 8, true);
  const grain = Number(view.getBigUint64(header + 20, true));
  const perTable = view.getUint32(header + 44, true);
  const directory = Number(view.getBigUint64(header + 56, true)) * SECTOR;
  for (let sector = 0; sector < bytes / SECTOR; sector++) {
    const index = Math.floor(sector / grain);
    const table = view.getUint32(directory + 4 * Math.floor(index / perTable), true);
    if (table === 0) continue;
    const entry = view.getUint32(table * SECTOR + 4 * (index % perTable), true);
    if (entry === 0 || (entry === 1 && (flags & 4) !== 0)) continue;
    const within = (sector % grain) * SECTOR;
    let from = image;
    let place = entry * SECTOR + within;
    if ((flags & 0x10000) !== 0) {
      const stored = view.getUint32(entry * SECTOR + 8, true);
      try {
        from = inflateSync(image.subarray(entry * SECTOR + 12, entry * SECTOR + 12 + stored));
      } catch {
        return null;
      }
      place = within;
    }
    if (place + SECTOR > from.length) return null;
    contents.set(from.subarray(place, place + SECTOR), sector * SECTOR);
  }
  return contents;
}

/** The same of a COWD extent. */
export function naiveCowd(image: Uint8Array, bytes: number): Uint8Array | null {
  const view = viewOf(image);
  const contents = new Uint8Array(bytes);
  const grain = view.getUint32(16, true);
  const directory = view.getUint32(20, true) * SECTOR;
  for (let sector = 0; sector < bytes / SECTOR; sector++) {
    const index = Math.floor(sector / grain);
    const table = view.getUint32(directory + 4 * Math.floor(index / COWD_ENTRIES), true);
    if (table === 0) continue;
    const entry = view.getUint32(table * SECTOR + 4 * (index % COWD_ENTRIES), true);
    if (entry === 0) continue;
    const place = (entry + (sector % grain)) * SECTOR;
    if (place + SECTOR > image.length) return null;
    contents.set(image.subarray(place, place + SECTOR), sector * SECTOR);
  }
  return contents;
}

/** The same of an seSparse extent. */
export function naiveSeSparse(image: Uint8Array, bytes: number): Uint8Array | null {
  const view = viewOf(image);
  const contents = new Uint8Array(bytes);
  const at = (field: number) => Number(view.getBigUint64(field, true)) * SECTOR;
  for (let i = 0; i < Math.ceil(bytes / SE_GRAIN); i++) {
    const table = view.getBigUint64(at(128) + 8 * Math.floor(i / SE_ENTRIES), true);
    if (table === 0n) continue;
    const place = at(144) + Number(table & 0xffffffffn) * SE_TABLE + 8 * (i % SE_ENTRIES);
    const entry = view.getBigUint64(place, true);
    if (entry >> 60n !== 3n) continue;
    const number = ((entry & 0xffffffffffffn) << 12n) | ((entry >> 48n) & 0xfffn);
    const from = at(192) + Number(number) * SE_GRAIN;
    const length = Math.min(SE_GRAIN, bytes - i * SE_GRAIN);
    if (from + length > image.length) return null;
    contents.set(image.subarray(from, from + length), i * SE_GRAIN);
  }
  return contents;
}
