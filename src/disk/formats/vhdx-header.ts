/**
 * The header section of a VHDX ([MS-VHDX] 2.2): file identifier, two headers, two region tables. Little-endian.
 *
 * Both structures exist twice so that one is whole at any time. Of two valid headers the one with the larger
 * sequence number counts; equal numbers are allowed only for equal headers, which Disk2vhd writes. The region
 * tables are meant to be the same, and the first valid one is taken.
 */

import { DriftmapError } from '../../base/errors.ts';
import { VHDX_MAX_TABLE_ENTRIES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, KiB, MiB } from '../../base/units.ts';
import { crc32c } from '../../codec/checksum.ts';
import { guidAt } from '../guid.ts';
import { type ByteSource, littleUint64, readWhole, viewOf } from './byte-source.ts';

export interface VhdxHeader {
  /** Changes with what the guest sees: what a child knows its parent by. */
  readonly dataWriteGuid: string;
  /** The log has to be replayed; null where it is empty. */
  readonly logGuid: string | null;
  readonly logOffset: ByteOffset;
  readonly logLength: ByteCount;
  /** One line each, without a path. */
  readonly warnings: readonly string[];
}

export interface VhdxRegion {
  readonly offset: ByteOffset;
  readonly length: ByteCount;
}

export interface VhdxRegions {
  readonly blockTable: VhdxRegion;
  readonly metadata: VhdxRegion;
  readonly warnings: readonly string[];
}

const IDENTIFIER = 'vhdxfile';
const HEADERS_AT: readonly ByteOffset[] = [64 * KiB, 128 * KiB];
const HEADER_BYTES = 4 * KiB;
const TABLES_AT: readonly ByteOffset[] = [192 * KiB, 256 * KiB];
const TABLE_BYTES = 64 * KiB;
/** Nothing but the header section lies below this. */
export const VHDX_HEADER_SECTION = 1 * MiB;
const NO_GUID = '00000000-0000-0000-0000-000000000000';
const BLOCK_TABLE = '2DC27766-F623-4200-9D64-115E9BFD4A08';
const REGION_REQUIRED = 1;
const METADATA = '8B7CA206-4790-4B9A-B8FE-575F050F886E';

export function vhdxFault(path: string, offset: ByteOffset, reason: string): DriftmapError {
  return new DriftmapError('malformed', `VHDX ${reason}`, { path, offset });
}

/** CRC-32C of a structure as if its own checksum, four bytes at 4, were zero. */
export function crcOfStructure(bytes: Uint8Array): number {
  const before = crc32c(new Uint8Array(4), crc32c(bytes.subarray(0, 4)));
  return crc32c(bytes.subarray(8), before);
}

function signatureOf(bytes: Uint8Array, length: number): string {
  return String.fromCharCode(...bytes.subarray(0, length));
}

/** A structure that is there twice, and what is wrong with this one. */
interface Copy {
  readonly at: ByteOffset;
  readonly bytes: Uint8Array;
  readonly fault: string | null;
}

/** @throws DriftmapError `malformed` or `unsupported`, with the offset of the field */
export async function readVhdxHeader(source: ByteSource): Promise<VhdxHeader> {
  const path = source.name;
  const identifier = new Uint8Array(IDENTIFIER.length);
  await readWhole(source, 'the VHDX file identifier', 0, identifier);
  if (signatureOf(identifier, IDENTIFIER.length) !== IDENTIFIER) {
    throw vhdxFault(path, 0, `file identifier: expected '${IDENTIFIER}'`);
  }
  const copies = await readCopies(source, 'header', HEADERS_AT, HEADER_BYTES, 'head');
  const whole = copies.filter((copy) => copy.fault === null);
  const current = currentHeader(path, copies, whole);
  const view = viewOf(current.bytes);
  const versions = { logVersion: view.getUint16(64, true), version: view.getUint16(66, true) };
  if (versions.version !== 1 || versions.logVersion !== 0) {
    const reason = `expected VHDX version 1 with log version 0, got ${versions.version} and ${versions.logVersion}`;
    throw new DriftmapError('unsupported', reason, { path, offset: current.at + 64 });
  }
  const logGuid = guidAt(view, 48);
  return {
    dataWriteGuid: guidAt(view, 32),
    logGuid: logGuid === NO_GUID ? null : logGuid,
    logLength: view.getUint32(68, true),
    logOffset: littleUint64(view, 72),
    // A new file has one header; so an empty second one is nothing to tell.
    warnings: copies
      .filter((copy) => copy.fault !== null && !isEmpty(copy.bytes))
      .map((copy) => `the VHDX header at ${copy.at} is damaged: the other one was taken`),
  };
}

/** Reads both copies of a structure; one past the end of the file has a fault like any other. */
async function readCopies(
  source: ByteSource,
  what: string,
  places: readonly ByteOffset[],
  length: ByteCount,
  signature: string,
): Promise<readonly Copy[]> {
  const copies: Copy[] = [];
  for (const at of places) {
    const bytes = new Uint8Array(length);
    if (at + length > source.size) {
      copies.push({ at, bytes, fault: 'lies past the end of the file' });
      continue;
    }
    await readWhole(source, `the VHDX ${what}`, at, bytes);
    copies.push({ at, bytes, fault: faultOf(bytes, signature) });
  }
  return copies;
}

function faultOf(bytes: Uint8Array, signature: string): string | null {
  if (signatureOf(bytes, 4) !== signature) return `expected the signature '${signature}'`;
  const written = viewOf(bytes).getUint32(4, true);
  const expected = crcOfStructure(bytes);
  return written === expected ? null : `expected the CRC-32C ${expected}, got ${written}`;
}

function isEmpty(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

function neitherWhole(path: string, what: string, copies: readonly Copy[]): DriftmapError {
  const faults = copies.map(({ at, fault }) => `at ${at}: ${fault}`).join('; ');
  return vhdxFault(path, copies[0]!.at, `${what}: neither of the two is whole (${faults})`);
}

function currentHeader(path: string, copies: readonly Copy[], whole: readonly Copy[]): Copy {
  const [first, second] = whole;
  if (first === undefined) throw neitherWhole(path, 'header', copies);
  if (second === undefined) return first;
  const sequence = ({ bytes }: Copy) => viewOf(bytes).getBigUint64(8, true);
  if (sequence(first) !== sequence(second)) return sequence(first) > sequence(second) ? first : second;
  if (Buffer.compare(first.bytes, second.bytes) === 0) return first;
  const reason = `header: two different headers have the sequence number ${sequence(first)}: it is not known which is current`;
  throw vhdxFault(path, second.at + 8, reason);
}

/**
 * Reads the region table ([MS-VHDX] 2.2.3).
 * @throws DriftmapError `malformed`; `unsupported` for an unknown region that the image says is required
 */
export async function readVhdxRegions(source: ByteSource): Promise<VhdxRegions> {
  const path = source.name;
  const copies = await readCopies(source, 'region table', TABLES_AT, TABLE_BYTES, 'regi');
  const table = copies.find((copy) => copy.fault === null);
  if (table === undefined) throw neitherWhole(path, 'region table', copies);
  const view = viewOf(table.bytes);
  const count = view.getUint32(8, true);
  if (count > VHDX_MAX_TABLE_ENTRIES) {
    const reason = `region table: expected at most ${VHDX_MAX_TABLE_ENTRIES} entries, got ${count}`;
    throw vhdxFault(path, table.at + 8, reason);
  }
  const found = new Map<string, VhdxRegion>();
  for (let i = 0; i < count; i++) {
    const at = 16 + 32 * i;
    const guid = guidAt(view, at);
    if (guid !== BLOCK_TABLE && guid !== METADATA) {
      if ((view.getUint32(at + 28, true) & REGION_REQUIRED) === 0) continue;
      const reason = `the VHDX needs a region that driftmap does not know: ${guid}`;
      throw new DriftmapError('unsupported', reason, { path, offset: table.at + at });
    }
    if (found.has(guid)) throw vhdxFault(path, table.at + at, `region table: region ${guid} is there twice`);
    found.set(guid, regionAt(source, view, at, table.at + at));
  }
  const regionOf = (guid: string, what: string) => {
    const region = found.get(guid);
    if (region === undefined) throw vhdxFault(path, table.at, `region table: no region of ${what} (${guid})`);
    return region;
  };
  return {
    blockTable: regionOf(BLOCK_TABLE, 'the block table'),
    metadata: regionOf(METADATA, 'metadata'),
    warnings: copies
      .filter((copy) => copy.fault !== null)
      .map((copy) => `the VHDX region table at ${copy.at} is damaged: the other one was taken`),
  };
}

function regionAt(source: ByteSource, view: DataView, at: number, file: ByteOffset): VhdxRegion {
  const offset = littleUint64(view, at + 16);
  const length = view.getUint32(at + 24, true);
  const aligned = offset % MiB === 0 && length % MiB === 0 && length > 0;
  if (!aligned || offset < VHDX_HEADER_SECTION) {
    const reason = `region table: expected a region of whole mebibytes after the first, got ${length} bytes at ${offset}`;
    throw vhdxFault(source.name, file + 16, reason);
  }
  if (offset + length > source.size) {
    const reason = `region table: expected a region within the file's ${source.size} bytes, got ${length} bytes at ${offset}: the image is cut short or damaged`;
    throw vhdxFault(source.name, file + 16, reason);
  }
  return { offset, length };
}
