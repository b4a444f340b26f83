/**
 * The footer of a VHD and the header of a dynamic one (Microsoft, "Virtual Hard Disk Image Format
 * Specification" 1.0, sections "Hard Disk Footer Format" and "Dynamic Disk Header Format"). Big-endian.
 *
 * The footer at the end of the file decides. Dynamic images keep a copy of it at offset 0, which stands in,
 * with a warning, where the footer is lost or damaged. Versions before Virtual PC 2004 wrote one of 511 bytes.
 *
 * A VHD gives its size twice, and the two differ: in bytes, and as the geometry of an ATA disk, which can only
 * be coarser. Virtual PC, Virtual Server and old QEMU show their guests the geometry; Hyper-V and everybody
 * since show the bytes. So the program that made the image decides, as in QEMU; a geometry at its maximum says
 * nothing. For makers that QEMU does not know it takes the geometry: driftmap takes the bytes, because what
 * lies behind the geometry's end would be missed, and says so.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE, VHD_MAX_DYNAMIC_SIZE, VHD_MAX_TABLE_BYTES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, isPowerOfTwo } from '../../base/units.ts';
import { type ByteSource, readWhole, uint64, viewOf } from './byte-source.ts';

export type VhdType = 'fixed' | 'dynamic' | 'differencing';

export interface VhdFooter {
  readonly type: VhdType;
  /** Of the virtual disk. */
  readonly size: ByteCount;
  /** Of the dynamic header; means nothing in a fixed image. */
  readonly headerOffset: ByteOffset;
  /** 32 hexadecimal digits. */
  readonly uuid: string;
  /** Seconds since 2000-01-01 UTC. */
  readonly timestamp: number;
  /** Where data ends: the footer, or the end of the file where it is lost. */
  readonly dataEnd: ByteOffset;
  /** One line each, without a path. */
  readonly warnings: readonly string[];
}

export interface VhdParent {
  readonly uuid: string;
  /** Of the parent, when the image was made: seconds since 2000-01-01 UTC. */
  readonly timestamp: number;
  /** The parent's name in the header itself. */
  readonly unicodeName: string;
  readonly locators: readonly VhdLocator[];
}

export interface VhdLocator {
  /** `W2ru`, `MacX` … */
  readonly platform: string;
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

export interface VhdHeader {
  readonly tableOffset: ByteOffset;
  /** Entries of the block allocation table as written; the disk may need fewer. */
  readonly tableEntries: number;
  readonly blockSize: ByteCount;
  /** Sectors before a block's data that hold its bitmap. */
  readonly bitmapBytes: ByteCount;
  readonly parent: VhdParent;
}

export const VHD_FOOTER_BYTES = 512;
export const VHD_HEADER_BYTES = 1024;
export const SECTOR = 512;
const OLD_FOOTER_BYTES = 511;
const VERSION = 0x00010000;
const LOCATORS_AT = 576;

/** Makers whose guests see the geometry, and those known to mean the size in bytes. */
const byGeometry: readonly string[] = ['vpc ', 'vs  ', 'qemu'];
const bySize: readonly string[] = ['win ', 'd2v ', 'tap\0', 'CTXS', 'CXS ', 'qem2', 'wa\0\0', 'vbox'];
/** Cylinders, heads and sectors at their largest: the disk is larger than a geometry can say. */
const LARGEST_GEOMETRY = 65535 * 16 * 255;

function malformed(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `VHD ${reason}`, { path, offset });
}

/** A place where a footer may be, and what is there. */
interface Candidate {
  readonly at: ByteOffset;
  readonly bytes: Uint8Array;
  readonly fault: string | null;
}

/**
 * Finds and checks the footer.
 * @throws DriftmapError `malformed`, `unsupported`, `limit`, with the offset of the field
 */
export async function readVhdFooter(source: ByteSource): Promise<VhdFooter> {
  const end = await footerAtEnd(source);
  if (end.fault === null) {
    const footer = decodeFooter(source.name, end, end.at);
    return footer.type === 'fixed' ? footer : comparedWithCopy(source, footer);
  }
  const copy = await candidateAt(source, 0, VHD_FOOTER_BYTES);
  if (copy === null || copy.fault !== null) throw malformed(source.name, end.at, `footer: ${end.fault}`);
  const hasCookie = isCookie(end.bytes);
  const footer = decodeFooter(source.name, copy, hasCookie ? end.at : source.size);
  if (footer.type === 'fixed') throw malformed(source.name, end.at, `footer: ${end.fault}`);
  const warning = `the VHD footer at the end of the file is ${hasCookie ? 'damaged' : 'lost'}: its copy at the start was taken`;
  return { ...footer, warnings: [warning, ...footer.warnings] };
}

async function footerAtEnd(source: ByteSource): Promise<Candidate> {
  const usual = await candidateAt(source, source.size - VHD_FOOTER_BYTES, VHD_FOOTER_BYTES);
  if (usual?.fault === null) return usual;
  const old = await candidateAt(source, source.size - OLD_FOOTER_BYTES, OLD_FOOTER_BYTES);
  if (old !== null && isCookie(old.bytes)) return old;
  if (usual !== null) return usual;
  const reason = `image: expected a footer of ${VHD_FOOTER_BYTES} bytes, the file has ${source.size}`;
  throw malformed(source.name, 0, reason);
}

/** What lies at a place as a footer; null where the file is too short. A missing last byte counts as 0. */
async function candidateAt(source: ByteSource, at: ByteOffset, length: ByteCount): Promise<Candidate | null> {
  if (at < 0 || at + length > source.size) return null;
  const bytes = new Uint8Array(VHD_FOOTER_BYTES);
  await readWhole(source, 'the VHD footer', at, bytes.subarray(0, length));
  if (!isCookie(bytes)) return { at, bytes, fault: "expected the cookie 'conectix'" };
  const written = viewOf(bytes).getUint32(64);
  const expected = checksumWithout(bytes, 64);
  const fault = written === expected ? null : `expected the checksum ${expected}, got ${written}`;
  return { at, bytes, fault };
}

function isCookie(bytes: Uint8Array): boolean {
  return latin1(bytes.subarray(0, 8)) === 'conectix';
}

/** One's complement of the sum of all bytes but the checksum's own four. */
function checksumWithout(bytes: Uint8Array, field: number): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at++) if (at < field || at >= field + 4) sum += bytes[at]!;
  return ~sum >>> 0;
}

function decodeFooter(path: string, { at, bytes }: Candidate, dataEnd: ByteOffset): VhdFooter {
  const view = viewOf(bytes);
  const version = view.getUint32(12);
  // The low half is a minor version.
  if (version >>> 16 !== VERSION >>> 16) {
    const reason = `expected VHD version 1, got ${version >>> 16}.${version & 0xffff}`;
    throw new DriftmapError('unsupported', reason, { path, offset: at + 12 });
  }
  const code = view.getUint32(60);
  const type = ({ 2: 'fixed', 3: 'dynamic', 4: 'differencing' } as const)[code];
  if (type === undefined) {
    const reason = `expected a VHD of type 2 (fixed), 3 (dynamic) or 4 (differencing), got ${code}`;
    throw new DriftmapError('unsupported', reason, { path, offset: at + 60 });
  }
  const { size, warnings } = sizeOf(path, at, view, bytes);
  if (type === 'fixed' && size > dataEnd) {
    const reason = `footer: a fixed disk of ${size} bytes needs as many before the footer, there are ${dataEnd}: the file is cut short or damaged`;
    throw malformed(path, at + 48, reason);
  }
  if (type !== 'fixed' && size > VHD_MAX_DYNAMIC_SIZE) {
    const reason = `footer: expected a dynamic disk of at most ${VHD_MAX_DYNAMIC_SIZE} bytes, got ${size}`;
    throw malformed(path, at + 48, reason);
  }
  const headerOffset = uint64(view, 16);
  const uuid = hex(bytes.subarray(68, 84));
  return { type, size, headerOffset, uuid, timestamp: view.getUint32(24), dataEnd, warnings };
}

function sizeOf(path: string, at: ByteOffset, view: DataView, bytes: Uint8Array) {
  const current = uint64(view, 48);
  const geometry = view.getUint16(56) * view.getUint8(58) * view.getUint8(59);
  const creator = latin1(bytes.subarray(28, 32));
  const none = { size: current, warnings: [] as string[] };
  if (byGeometry.includes(creator) && geometry !== LARGEST_GEOMETRY) {
    if (geometry > 0) return { ...none, size: geometry * SECTOR };
    throw malformed(path, at + 56, 'footer: expected a geometry of cylinders, heads and sectors, got none');
  }
  if (current % SECTOR !== 0 || current > MAX_DISK_SIZE) {
    throw malformed(path, at + 48, `footer: expected a size in sectors of ${SECTOR} bytes, got ${current}`);
  }
  if (bySize.includes(creator) || byGeometry.includes(creator)) return none;
  if (geometry === LARGEST_GEOMETRY || geometry * SECTOR === current) return none;
  const maker = creator.replace(/[^ -~]/g, '?');
  const warning = `made by a program that driftmap does not know ('${maker}'): the VHD's size is taken to be its ${current} bytes, while its geometry (and QEMU) says ${geometry * SECTOR}`;
  return { ...none, warnings: [warning] };
}

/** A copy that says something else shows that one of the two is old. The footer decides, and the user hears of it. */
async function comparedWithCopy(source: ByteSource, footer: VhdFooter): Promise<VhdFooter> {
  const candidate = await candidateAt(source, 0, VHD_FOOTER_BYTES);
  if (candidate !== null && candidate.fault === null) {
    const copy = decodeFooter(source.name, candidate, footer.dataEnd);
    const same = copy.type === footer.type && copy.size === footer.size && copy.uuid === footer.uuid;
    if (same && copy.headerOffset === footer.headerOffset) return footer;
  }
  const warning =
    "the copy of the VHD footer at the start of the file is not the footer's: the footer was taken";
  return { ...footer, warnings: [...footer.warnings, warning] };
}

/**
 * Reads and checks the header of a dynamic or differencing image.
 * @throws DriftmapError `malformed`, `unsupported`, with the offset of the field
 */
export async function readVhdHeader(source: ByteSource, footer: VhdFooter): Promise<VhdHeader> {
  const path = source.name;
  const at = footer.headerOffset;
  const bytes = new Uint8Array(VHD_HEADER_BYTES);
  await readWhole(source, 'the dynamic header of the VHD', at, bytes);
  const view = viewOf(bytes);
  if (latin1(bytes.subarray(0, 8)) !== 'cxsparse') {
    throw malformed(path, at, "dynamic header: expected the cookie 'cxsparse'");
  }
  const version = view.getUint32(24);
  if (version >>> 16 !== VERSION >>> 16) {
    const reason = `expected version 1 of the VHD dynamic header, got ${version >>> 16}.${version & 0xffff}`;
    throw new DriftmapError('unsupported', reason, { path, offset: at + 24 });
  }
  const blockSize = view.getUint32(32);
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR) {
    const reason = `dynamic header: expected a block size that is a power of two from ${SECTOR} on, got ${blockSize}`;
    throw malformed(path, at + 32, reason);
  }
  const tableEntries = view.getUint32(28);
  const tableOffset = uint64(view, 16);
  checkTable(source, at, footer.size, { blockSize, tableEntries, tableOffset });
  const expected = checksumWithout(bytes, 36);
  if (view.getUint32(36) !== expected) {
    const reason = `dynamic header: expected the checksum ${expected}, got ${view.getUint32(36)}`;
    throw malformed(path, at + 36, reason);
  }
  const bitmapBytes = Math.ceil(blockSize / SECTOR / 8 / SECTOR) * SECTOR;
  return { tableOffset, tableEntries, blockSize, bitmapBytes, parent: parentOf(bytes) };
}

function checkTable(
  source: ByteSource,
  at: ByteOffset,
  size: ByteCount,
  table: { blockSize: ByteCount; tableEntries: number; tableOffset: ByteOffset },
): void {
  const { blockSize, tableEntries, tableOffset } = table;
  const needed = Math.ceil(size / blockSize);
  if (tableEntries < needed) {
    const reason = `dynamic header: expected at least ${needed} entries of the block table for ${size} bytes, got ${tableEntries}`;
    throw malformed(source.name, at + 28, reason);
  }
  if (needed * 4 > VHD_MAX_TABLE_BYTES) {
    const reason = `the VHD's block table takes ${needed * 4} bytes (blocks of ${blockSize} bytes): expected at most ${VHD_MAX_TABLE_BYTES}`;
    throw new DriftmapError('limit', reason, { path: source.name, offset: at + 28 });
  }
  if (tableOffset + tableEntries * 4 > source.size) {
    const reason = `dynamic header: expected the block table of ${tableEntries} entries within the file's ${source.size} bytes, got offset ${tableOffset}`;
    throw malformed(source.name, at + 16, reason);
  }
}

function parentOf(bytes: Uint8Array): VhdParent {
  const view = viewOf(bytes);
  const locators: VhdLocator[] = [];
  for (let at = LOCATORS_AT; at < LOCATORS_AT + 8 * 24; at += 24) {
    const platform = latin1(bytes.subarray(at, at + 4));
    if (platform === '\0\0\0\0') continue;
    locators.push({ platform, length: view.getUint32(at + 8), offset: uint64(view, at + 16) });
  }
  let unicodeName = '';
  for (let at = 64; at < LOCATORS_AT && view.getUint16(at) !== 0; at += 2) {
    unicodeName += String.fromCharCode(view.getUint16(at));
  }
  return { uuid: hex(bytes.subarray(40, 56)), timestamp: view.getUint32(56), unicodeName, locators };
}

function latin1(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
