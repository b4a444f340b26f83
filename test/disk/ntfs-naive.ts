/**
 * A second reading of NTFS, for tests: it holds the whole volume in memory, looks at no directory tree and no
 * attribute list, and gathers everything from one pass over all MFT records: names and parents from $FILE_NAME
 * attributes, extents from whichever records say that they extend a file. It checks next to nothing. Beside it
 * are tools to change records of a volume, fixups and all.
 */

import type { Run } from './ntfs-builder.ts';

export interface NaiveFile {
  readonly record: number;
  readonly paths: readonly string[];
  /** Null where the contents are not plain, or cannot be made out. */
  readonly contents: Buffer | null;
}

interface NaiveRecord {
  readonly number: number;
  readonly bytes: Buffer;
  readonly attributes: readonly Attribute[];
}

interface Attribute {
  readonly type: number;
  readonly name: string;
  /** Its own bytes, header first. */
  readonly bytes: Buffer;
  /** Within the record. */
  readonly at: number;
}

const big = (bytes: Buffer, at: number) => Number(bytes.readBigUInt64LE(at));
const reference = (bytes: Buffer, at: number) => bytes.readUIntLE(at, 6);
/** The record that a record extends; null for a base record. */
const baseOf = ({ bytes }: NaiveRecord) => (bytes.readBigUInt64LE(32) === 0n ? null : reference(bytes, 32));
/** Whether a record is this file's: its base record, or one that extends it as it is now. */
const belongs = (record: NaiveRecord, base: NaiveRecord) =>
  record.number === base.number ||
  (baseOf(record) === base.number && record.bytes.readUInt16LE(38) === base.bytes.readUInt16LE(16));
/** More than any test's volume has: what asks for more is damaged. */
const TOO_MANY = 1_000_000;

export class NaiveNtfs {
  private readonly image: Buffer;
  readonly clusterSize: number;
  readonly recordSize: number;
  /** Where each cluster of the MFT lies. */
  private mft: readonly number[] = [];

  constructor(image: Uint8Array) {
    this.image = Buffer.from(image.buffer, image.byteOffset, image.byteLength);
    const perCluster = this.image[13]!;
    const sectors = perCluster > 128 ? 2 ** (256 - perCluster) : perCluster;
    this.clusterSize = sectors * this.image.readUInt16LE(11);
    const code = this.image.readInt8(0x40);
    this.recordSize = code > 0 ? code * this.clusterSize : 2 ** -code;
    const start = big(this.image, 0x30) * this.clusterSize;
    const first = parse(0, Buffer.from(this.image.subarray(start, start + this.recordSize)));
    let clusters = spread(runsOf(first.attributes.find(isData)!.bytes));
    // Records that go on with the MFT are found in what is known of it, until that grows no more.
    for (let before = 0; before < clusters.length; ) {
      before = clusters.length;
      this.mft = clusters;
      clusters = spread(extentsOf(this.group(0)).flatMap(({ bytes }) => runsOf(bytes)));
    }
    this.mft = clusters;
  }

  /** Where a byte of a record lies in the volume. */
  placeOf(record: number, at = 0): number {
    const offset = record * this.recordSize + at;
    const cluster = this.mft[Math.floor(offset / this.clusterSize)];
    if (cluster === undefined) throw new Error(`no record ${record}`);
    return cluster * this.clusterSize + (offset % this.clusterSize);
  }

  /** Every record that is in use and whole. */
  records(): NaiveRecord[] {
    const found: NaiveRecord[] = [];
    const count = Math.floor((this.mft.length * this.clusterSize) / this.recordSize);
    for (let number = 0; number < count; number++) {
      try {
        const record = this.record(number);
        if (record.bytes.readUInt16LE(22) % 2 === 1) found.push(record);
      } catch {
        // Never used, or damaged.
      }
    }
    return found;
  }

  record(number: number): NaiveRecord {
    return parse(number, this.raw(number));
  }

  /** Changes a record as it is without fixups, and writes it back with them. */
  change(number: number, edit: (bytes: Buffer, attributeAt: (type: number) => number) => void): void {
    const raw = this.raw(number);
    const record = parse(number, Buffer.from(raw));
    edit(record.bytes, (type) => record.attributes.find((each) => each.type === type)!.at);
    const array = record.bytes.readUInt16LE(4);
    for (let sector = 1; sector <= raw.length / 512; sector++) {
      record.bytes.copy(record.bytes, array + 2 * sector, sector * 512 - 2, sector * 512);
      record.bytes.copy(record.bytes, sector * 512 - 2, array, array + 2);
    }
    for (let at = 0; at < raw.length; at++) this.image[this.placeOf(number, at)] = record.bytes[at]!;
  }

  /** Bytes of an attribute that is not resident, as runs of the volume. */
  rangesOf(number: number, type: number): [offset: number, length: number][] {
    return this.runsOf(number, type).flatMap(([count, cluster]) =>
      cluster === null ? [] : [[cluster * this.clusterSize, count * this.clusterSize]],
    );
  }

  /** Files of users, by record. */
  files(): NaiveFile[] {
    const groups = new Map<number, NaiveRecord[]>();
    for (const record of this.records()) {
      const number = baseOf(record) ?? record.number;
      const group = groups.get(number);
      if (group) group.push(record);
      else groups.set(number, [record]);
    }
    const found: NaiveFile[] = [];
    for (const [number, group] of groups) {
      const base = group.find((record) => record.number === number);
      if (base) group.splice(0, group.length, ...group.filter((record) => belongs(record, base)));
      if (number < 24 || !base || baseOf(base) !== null || (base.bytes.readUInt16LE(22) & 2) !== 0) continue;
      const attributes = group.flatMap((record) => record.attributes);
      if (attributes.some(({ type }) => type === 0xc0)) continue;
      const names = attributes.filter(({ type }) => type === 0x30);
      const paths = names.flatMap((name) => this.pathsOf(name, groups, 0));
      found.push({ record: number, paths, contents: this.contents(group) });
    }
    return found;
  }

  private pathsOf({ bytes }: Attribute, groups: Map<number, NaiveRecord[]>, depth: number): string[] {
    const value = bytes.subarray(bytes.readUInt16LE(20));
    if (value[65] === 2 || depth > 50) return [];
    const name = value.subarray(66, 66 + 2 * value[64]!).toString('utf16le');
    const parent = reference(value, 0);
    if (parent === 5) return [`/${name}`];
    const attributes = groups.get(parent)?.flatMap((record) => record.attributes) ?? [];
    const names = attributes.filter(({ type }) => type === 0x30);
    return names.flatMap((each) => this.pathsOf(each, groups, depth + 1)).map((path) => `${path}/${name}`);
  }

  private contents(group: readonly NaiveRecord[]): Buffer | null {
    try {
      const extents = extentsOf(group);
      const first = extents[0]!.bytes;
      if (first[8] === 0) {
        const at = first.readUInt16LE(20);
        return Buffer.from(first.subarray(at, at + first.readUInt32LE(16)));
      }
      const size = big(first, 48);
      if (first.readUInt16LE(12) % 0x8000 !== 0 || size > 512 * TOO_MANY) return null;
      return this.gather(extents, size, Math.min(big(first, 56), size));
    } catch {
      return null;
    }
  }

  private gather(extents: readonly Attribute[], size: number, written: number): Buffer | null {
    const contents = Buffer.alloc(size);
    let at = 0;
    for (const [count, cluster] of extents.flatMap(({ bytes }) => runsOf(bytes))) {
      const length = Math.max(0, Math.min(count * this.clusterSize, written - at));
      if (cluster !== null && length > 0) {
        const place = cluster * this.clusterSize;
        if (place + length > this.image.length) return null;
        this.image.copy(contents, at, place, place + length);
      }
      at += count * this.clusterSize;
    }
    return at < size ? null : contents;
  }

  /** A record and those that extend it. */
  private group(number: number): NaiveRecord[] {
    const base = this.record(number);
    return this.records().filter((each) => belongs(each, base));
  }

  /** An attribute's runs, all extents together. */
  runsOf(number: number, type = 0x80): Run[] {
    return extentsOf(this.group(number), type).flatMap(({ bytes }) => runsOf(bytes));
  }

  private raw(number: number): Buffer {
    const bytes = Buffer.alloc(this.recordSize);
    for (let at = 0; at < bytes.length; at += 512) {
      const place = this.placeOf(number, at);
      this.image.copy(bytes, at, place, place + 512);
    }
    return bytes;
  }
}

/** An attribute's extents, in order. */
function extentsOf(group: readonly NaiveRecord[], type = 0x80): Attribute[] {
  const lowest = ({ bytes }: Attribute) => (bytes[8] === 0 ? 0 : big(bytes, 16));
  return group
    .flatMap(({ attributes }) => attributes)
    .filter((each) => each.type === type && (type !== 0x80 || isData(each)))
    .sort((a, b) => lowest(a) - lowest(b));
}

const isData = ({ type, name }: Attribute) => type === 0x80 && name === '';

function parse(number: number, bytes: Buffer): NaiveRecord {
  if (bytes.toString('latin1', 0, 4) !== 'FILE') throw new Error('no record');
  const array = bytes.readUInt16LE(4);
  for (let sector = 1; sector <= bytes.length / 512; sector++) {
    bytes.copy(bytes, sector * 512 - 2, array + 2 * sector, array + 2 * sector + 2);
  }
  const attributes: Attribute[] = [];
  for (let at = bytes.readUInt16LE(20); bytes.readUInt32LE(at) !== 0xffffffff; ) {
    const length = bytes.readUInt32LE(at + 4);
    if (length < 16) throw new Error('no attribute');
    const own = bytes.subarray(at, at + length);
    const nameAt = own.readUInt16LE(10);
    const name = own.subarray(nameAt, nameAt + 2 * own[9]!).toString('utf16le');
    attributes.push({ type: own.readUInt32LE(0), name, bytes: own, at });
    at += length;
  }
  return { number, bytes, attributes };
}

function runsOf(bytes: Buffer): Run[] {
  const runs: Run[] = [];
  let cluster = 0;
  for (let at = bytes.readUInt16LE(32); bytes[at] !== 0; ) {
    const countBytes = bytes[at]! & 15;
    const moveBytes = bytes[at]! >> 4;
    const count = bytes.readIntLE(at + 1, countBytes);
    if (count > TOO_MANY) throw new Error('a run of too many clusters');
    if (moveBytes > 0) cluster += bytes.readIntLE(at + 1 + countBytes, moveBytes);
    runs.push([count, moveBytes > 0 ? cluster : null]);
    at += 1 + countBytes + moveBytes;
  }
  return runs;
}

function spread(runs: readonly Run[]): number[] {
  return runs.flatMap(([count, cluster]) => Array.from({ length: count }, (_, i) => cluster! + i));
}
