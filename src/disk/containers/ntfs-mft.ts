/**
 * The master file table: records by number, and the attributes of a file, wherever they are ("$MFT",
 * "$ATTRIBUTE_LIST").
 *
 * The table is itself a file, record 0 of itself. A file whose attributes do not fit into its record has an
 * attribute list: which attribute, or which part of one, is in which extension record. The table's own list
 * may lead to records that only its earlier parts can find, so those are taken in order, each as soon as the
 * runs before it are known.
 */

import { DriftmapError } from '../../base/errors.ts';
import { NTFS_MAX_ATTRIBUTE_LIST_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from '../formats/byte-source.ts';
import { clusterOffset, type NtfsGeometry } from './ntfs-boot.ts';
import {
  AttributeType,
  COMPRESSION_BITS,
  damage,
  ENCRYPTED,
  type FileReference,
  type NtfsAttribute,
  type NtfsRecord,
  readRecord,
  readReference,
  readUtf16,
  SPARSE,
  sameReference,
} from './ntfs-record.ts';
import { appendRuns, RunList, RunReader } from './ntfs-runs.ts';

/** An attribute, or one extent of it, and the record that it stands in. */
export interface AttributePiece {
  readonly record: NtfsRecord;
  readonly attribute: NtfsAttribute;
}

interface ListEntry {
  readonly type: number;
  readonly name: string;
  readonly lowest: number;
  readonly id: number;
  readonly reference: FileReference;
}

const MFT_RECORD = 0;
const LEAST_LIST_ENTRY = 26;

export class Mft {
  readonly source: ByteSource;
  readonly geometry: NtfsGeometry;
  private readonly reader: RunReader;
  /** Records up to the table's end. */
  readonly count: number;

  private constructor(source: ByteSource, geometry: NtfsGeometry, reader: RunReader) {
    this.source = source;
    this.geometry = geometry;
    this.reader = reader;
    this.count = Math.floor(reader.size / geometry.recordSize);
  }

  /** @throws DriftmapError `malformed` where the table does not lead to itself */
  static async open(source: ByteSource, geometry: NtfsGeometry): Promise<Mft> {
    const offset = clusterOffset(geometry, geometry.mftCluster);
    const bytes = new Uint8Array(geometry.recordSize);
    await readWhole(source, 'the first record of the MFT', offset, bytes);
    const record = readRecord(bytes, MFT_RECORD, { path: source.name, offset });
    const attribute = record.attributes.find(isUnnamedData);
    const extent = attribute?.extent;
    if (!record.inUse || record.base !== null || !attribute || !extent?.end || extent.lowest !== 0) {
      throw damage(record.where, 0, 'expected the first record of the MFT to say where the MFT lies');
    }
    const first = { record, attribute };
    checkPlain(first, 'MFT');
    const runs = new RunList();
    appendPiece(runs, first, geometry);
    const readerOf = (size: ByteCount) =>
      new RunReader(source, geometry, { runs, size, initialized: size, what: 'the MFT' });
    const table = Math.min(extent.size, extent.initialized);
    // Until the list is read, the table reaches as far as the runs that are known.
    const reach = () => Math.min(table, runs.end * geometry.clusterSize);
    if (record.attributes.some(isList)) {
      const partial = new Mft(source, geometry, readerOf(reach()));
      const list = await partial.listOf(record);
      for (const entry of list.filter((each) => isUnnamed(each, AttributeType.data))) {
        if (entry.lowest === 0) continue;
        const known = new Mft(source, geometry, readerOf(reach()));
        appendPiece(runs, await known.pieceAt(entry, record), geometry);
      }
    }
    checkReach(runs, first, geometry);
    const mft = new Mft(source, geometry, readerOf(table));
    // What the boot sector leads to has to be what the table itself leads to.
    if (mft.reader.placeOf(0) !== offset) {
      const reason = `expected an MFT that begins at ${offset}, its own record says ${mft.reader.placeOf(0)}`;
      throw damage(record.where, attribute.at, reason);
    }
    return mft;
  }

  /** @throws DriftmapError `malformed` for a number past the table's end, and for a record that is not whole */
  async record(number: number): Promise<NtfsRecord> {
    const { recordSize } = this.geometry;
    if (number >= this.count) {
      const reason = `expected an MFT record below ${this.count}, got a reference to record ${number}`;
      throw new DriftmapError('malformed', reason, { path: this.source.name });
    }
    const bytes = await this.reader.bytes(number * recordSize, recordSize);
    const offset = this.placeOf(number);
    return readRecord(bytes, number, { path: this.source.name, offset });
  }

  /** Where a byte of a record lies on the unit: a record may lie in two clusters that are apart. */
  placeOf(number: number, at = 0): ByteOffset {
    return this.reader.placeOf(number * this.geometry.recordSize + at);
  }

  /** A file by its reference; null where its record was freed or used anew since the reference was written. */
  async file(reference: FileReference): Promise<NtfsFile | null> {
    const record = await this.record(reference.number);
    if (!record.inUse || record.sequence !== reference.sequence) return null;
    if (record.base !== null) {
      const reason = `MFT record ${record.number}: expected a file, it extends record ${record.base.number}`;
      throw damage(record.where, 32, reason);
    }
    return new NtfsFile(this, record);
  }

  /** A metadata file by its number, whatever its sequence. */
  async metadata(number: number): Promise<NtfsFile> {
    const record = await this.record(number);
    if (record.inUse && record.base === null) return new NtfsFile(this, record);
    throw damage(record.where, 22, `MFT record ${number}: expected a metadata file, the record is free`);
  }

  /** The attribute list of a base record, which must have one. */
  async listOf(record: NtfsRecord): Promise<ListEntry[]> {
    const attribute = record.attributes.find(isList)!;
    const { resident, extent } = attribute;
    const { path, offset } = record.where;
    if (attribute.name !== '' || record.attributes.filter(isList).length > 1) {
      const reason = `MFT record ${record.number}: expected one attribute list, without a name`;
      throw damage(record.where, attribute.at, reason);
    }
    if (resident !== null) {
      const bytes = record.bytes.subarray(resident.at, resident.at + resident.length);
      return parseList(bytes, `attribute list of MFT record ${record.number}`, path, offset + resident.at);
    }
    const { size } = extent!;
    if (size > NTFS_MAX_ATTRIBUTE_LIST_BYTES) {
      const reason = `MFT record ${record.number}: expected an attribute list of at most ${NTFS_MAX_ATTRIBUTE_LIST_BYTES} bytes, got ${size}`;
      throw new DriftmapError('limit', reason, { path, offset: offset + attribute.at });
    }
    const what = `attribute list of MFT record ${record.number}`;
    const reader = readerOf(this, [{ record, attribute }], what, false);
    return parseList(await reader.bytes(0, size), what, path, reader.placeOf(0));
  }

  /** The attribute that an entry of `base`'s list leads to. */
  async pieceAt(entry: ListEntry, base: NtfsRecord): Promise<AttributePiece> {
    const { number, sequence } = entry.reference;
    const self = { number: base.number, sequence: base.sequence };
    const record = number === base.number ? base : await this.record(number);
    const isExtension = record.base !== null && sameReference(record.base, self);
    if (!record.inUse || record.sequence !== sequence || !(record === base || isExtension)) {
      const reason = `MFT record ${number}: expected a record that extends record ${base.number}, as its attribute list says`;
      throw damage(record.where, 32, reason);
    }
    const attribute = record.attributes.find(
      (each) => each.type === entry.type && each.id === entry.id && each.name === entry.name,
    );
    if (!attribute || (attribute.extent?.lowest ?? 0) !== entry.lowest) {
      const reason = `MFT record ${number}: expected attribute ${entry.type.toString(16)} with number ${entry.id} at cluster ${entry.lowest}, as the attribute list of record ${base.number} says`;
      throw damage(record.where, 0, reason);
    }
    return { record, attribute };
  }
}

/** A file or directory: its base record and what that leads to. */
export class NtfsFile {
  readonly mft: Mft;
  readonly base: NtfsRecord;
  private list: ListEntry[] | undefined;

  constructor(mft: Mft, base: NtfsRecord) {
    this.mft = mft;
    this.base = base;
  }

  get reference(): FileReference {
    return { number: this.base.number, sequence: this.base.sequence };
  }

  /** All extents of an attribute, in order; none where the file has no such attribute. */
  async pieces(type: number, name: string): Promise<AttributePiece[]> {
    const found: AttributePiece[] = [];
    for (const entry of await this.entries(type, name)) {
      found.push(await this.mft.pieceAt(entry, this.base));
    }
    return found;
  }

  /** The attribute, or its first extent, which has the sizes; null where the file has none. */
  async first(type: number, name: string): Promise<AttributePiece | null> {
    const [entry] = await this.entries(type, name);
    return entry === undefined ? null : this.mft.pieceAt(entry, this.base);
  }

  /**
   * A whole attribute as bytes.
   * @throws DriftmapError `malformed` where there is none, `limit` where it is larger than `most`
   */
  async value(type: number, name: string, most: ByteCount): Promise<Uint8Array> {
    const what = `attribute ${type.toString(16)} of MFT record ${this.base.number}`;
    const first = await this.first(type, name);
    if (first === null) throw damage(this.base.where, 0, `${what}: there is none`);
    const { resident, extent } = first.attribute;
    const size = resident?.length ?? extent!.size;
    if (size > most) {
      const reason = `${what}: expected at most ${most} bytes, got ${size}`;
      throw new DriftmapError('limit', reason, first.record.where);
    }
    if (resident !== null) return first.record.bytes.slice(resident.at, resident.at + resident.length);
    return (await this.reader(type, name, what)).bytes(0, size);
  }

  /**
   * A reader of metadata that lies in clusters.
   * @param what for messages
   * @throws DriftmapError `malformed`, also where there is no such attribute
   */
  async reader(type: number, name: string, what: string, scattered = false): Promise<RunReader> {
    const pieces = await this.pieces(type, name);
    if (pieces.length > 0) return readerOf(this.mft, pieces, what, scattered);
    throw damage(this.base.where, 0, `MFT record ${this.base.number} has no ${what}`);
  }

  private async entries(type: number, name: string): Promise<ListEntry[]> {
    const { base } = this;
    const own: ListEntry[] = [];
    let hasList = false;
    for (const attribute of base.attributes) {
      if (isList(attribute)) hasList = true;
      if (attribute.type !== type || attribute.name !== name) continue;
      const lowest = attribute.extent?.lowest ?? 0;
      own.push({ type, name, lowest, id: attribute.id, reference: this.reference });
    }
    if (!hasList) return oneOf(own, base);
    this.list ??= await this.mft.listOf(base);
    return oneOf(
      this.list.filter((entry) => entry.type === type && entry.name === name),
      base,
    );
  }
}

/** Several entries are extents of one attribute only where the first begins it and the others go on. */
function oneOf(entries: ListEntry[], base: NtfsRecord): ListEntry[] {
  for (const [i, { lowest, type }] of entries.entries()) {
    if ((i === 0) === (lowest === 0)) continue;
    const reason = `MFT record ${base.number}: expected the extents of attribute ${type.toString(16)} in order, got one at cluster ${lowest}`;
    throw damage(base.where, 0, reason);
  }
  return entries;
}

/** A reader of an attribute in clusters, of one extent at least. */
function readerOf(mft: Mft, pieces: readonly AttributePiece[], what: string, scattered: boolean): RunReader {
  const { runs, size, initialized } = runsOf(mft.geometry, pieces);
  checkPlain(pieces[0]!, what);
  return new RunReader(mft.source, mft.geometry, { runs, size, initialized, what, scattered });
}

/** Metadata is never sparse, compressed or encrypted. So all of it has a place. */
function checkPlain({ record, attribute }: AttributePiece, what: string): void {
  if ((attribute.flags & (COMPRESSION_BITS | ENCRYPTED | SPARSE)) === 0) return;
  const reason = `MFT record ${record.number}: expected the ${what} to be plain, got flags ${attribute.flags.toString(16)}`;
  throw damage(record.where, attribute.at, reason);
}

export interface AttributeRuns {
  readonly runs: RunList;
  readonly size: ByteCount;
  /** At most `size`; bytes from here on were never written and read as zeros. */
  readonly initialized: ByteCount;
}

/** The runs of all extents of a non-resident attribute; there must be one extent at least. */
export function runsOf(geometry: NtfsGeometry, pieces: readonly AttributePiece[]): AttributeRuns {
  const first = pieces[0]!;
  const runs = new RunList();
  for (const piece of pieces) appendPiece(runs, piece, geometry);
  checkReach(runs, first, geometry);
  const { size, initialized } = first.attribute.extent!;
  return { runs, size, initialized: Math.min(size, initialized) };
}

function appendPiece(runs: RunList, { record, attribute }: AttributePiece, geometry: NtfsGeometry): void {
  const { extent, at, length, flags } = attribute;
  if (extent === null) {
    throw damage(
      record.where,
      at,
      `MFT record ${record.number}: expected an attribute that lies in clusters`,
    );
  }
  const holes = (flags & (SPARSE | COMPRESSION_BITS)) !== 0;
  appendRuns(runs, record, extent, { limit: at + length, geometry, holes });
}

function checkReach(runs: RunList, { record, attribute }: AttributePiece, geometry: NtfsGeometry): void {
  const { size } = attribute.extent!;
  if (size <= runs.end * geometry.clusterSize) return;
  const reason = `MFT record ${record.number}: expected clusters for ${size} bytes, its runs have ${runs.end} clusters`;
  throw damage(record.where, attribute.at, reason);
}

function parseList(bytes: Uint8Array, what: string, path: string, offset: ByteOffset): ListEntry[] {
  const view = viewOf(bytes);
  const where = { path, offset };
  const found: ListEntry[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = at + LEAST_LIST_ENTRY <= bytes.length ? view.getUint16(at + 4, true) : 0;
    if (length < LEAST_LIST_ENTRY || length % 8 !== 0 || at + length > bytes.length) {
      throw damage(where, at + 4, `${what}: expected an entry within the list, got a length of ${length}`);
    }
    const nameLength = view.getUint8(at + 6);
    const nameAt = view.getUint8(at + 7);
    if (nameLength > 0 && (nameAt < LEAST_LIST_ENTRY || nameAt + 2 * nameLength > length)) {
      throw damage(where, at + 6, `${what}: expected a name within its entry`);
    }
    found.push({
      type: view.getUint32(at, true),
      name: nameLength === 0 ? '' : readUtf16(bytes, at + nameAt, nameLength),
      lowest: littleUint64(view, at + 8),
      id: view.getUint16(at + 24, true),
      reference: readReference(view, at + 16),
    });
    at += length;
  }
  return found;
}

function isList({ type }: NtfsAttribute): boolean {
  return type === AttributeType.attributeList;
}

function isUnnamed({ type, name }: { type: number; name: string }, wanted: number): boolean {
  return type === wanted && name === '';
}

function isUnnamedData(attribute: NtfsAttribute): boolean {
  return isUnnamed(attribute, AttributeType.data);
}
