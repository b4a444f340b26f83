/**
 * The sync bitmap as a file (`.drift`, version 1). After the preamble (`codec/preamble.ts`) and a MessagePack
 * header come two sections, the marks and the coverage, each:
 *
 *   0   1  what it is: 1 marks, 2 coverage
 *   1   1  1 when the set is stored as its complement, which is done when that takes fewer bytes
 *   2   2  zero
 *   4   8  length of the set
 *  12   4  CRC-32 of bytes 0 … 12 and of the set
 *  16      the set, as `roaring.ts` lays it out
 *
 * All integers are little end first. There are no times and nothing random: one bitmap has one encoding.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_DRIFT_BYTES, MAX_DRIFT_HEADER_BYTES, MAX_IDENTITY_BYTES } from '../base/limits.ts';
import type { BlockCount, ByteOffset } from '../base/units.ts';
import { blockCount } from '../base/units.ts';
import { checkOverwritable, readBounded, writeAtomically } from '../codec/atomic-file.ts';
import { checksum } from '../codec/checksum.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import {
  decodeFrame,
  encodeFrame,
  expectChecksum,
  type FramedFormat,
  PREAMBLE_BYTES,
} from '../codec/preamble.ts';
import { PagedBits } from './paged-bits.ts';
import { decodeRoaring, encodeRoaring, roaringSize } from './roaring.ts';
import { type BitmapHeader, type DiskStamp, SyncBitmap } from './sync-bitmap.ts';

const format: FramedFormat = {
  what: 'a driftmap bitmap',
  // The line ends show a file that was sent as text, as in PNG.
  magic: new TextEncoder().encode('DRIFT\r\n\n'),
  version: 1,
  maxHeaderBytes: MAX_DRIFT_HEADER_BYTES,
};

const Section = { marks: 1, coverage: 2 } as const;
const SECTION_HEAD = 16;
const CHECKSUM_AT = 12;

/**
 * Writes a bitmap to a file, durably, whole or not at all, and over nothing but an older bitmap. Errors as
 * `writeAtomically`, `checkReplaceable` and `encodeBitmap`.
 */
export function saveBitmap(bitmap: SyncBitmap, path: string): void {
  checkReplaceable(path);
  writeAtomically(path, encodeBitmap(bitmap, path));
}

/**
 * Whether a bitmap may be written there: the path is free, or holds a bitmap or nothing. A disk image named by
 * mistake (`--bitmap vm.qcow2`) must not be replaced.
 * @throws DriftmapError `policy`, and what reading the file throws
 */
export function checkReplaceable(path: string): void {
  checkOverwritable(path, format.magic, 'bitmap');
}

/** Reads a file that `saveBitmap` wrote. Errors as `readBounded` and `decodeBitmap`, with the path. */
export function loadBitmap(path: string): SyncBitmap {
  return decodeBitmap(readBounded(path, MAX_DRIFT_BYTES), path);
}

/** The bytes of a `.drift` file. More than 1 GiB is a `limit` error. */
export function encodeBitmap(bitmap: SyncBitmap, path?: string): Uint8Array {
  const { header, blocks, count: marked, coveredBlocks: covered } = bitmap;
  const headerBytes = encodeControl({ ...header, blocks, marked, covered });
  const sections = [
    encodeSection(Section.marks, bitmap.marks, path),
    encodeSection(Section.coverage, bitmap.coverage, path),
  ];
  const bodyLength = sections.reduce((sum, { length }) => sum + length, 0);
  checkSize(bodyLength + headerBytes.length + PREAMBLE_BYTES, path);
  const front = encodeFrame(format, headerBytes, bodyLength);
  const bytes = new Uint8Array(front.length + bodyLength);
  bytes.set(front);
  let at = front.length;
  for (const section of sections) {
    bytes.set(section, at);
    at += section.length;
  }
  return bytes;
}

/**
 * The bitmap in the bytes of a `.drift` file. Whatever is not exactly one is `malformed`, with path and
 * offset; a file of a newer version is `unsupported`. Memory is bounded by
 * what the bytes hold, and a set that takes more than `MAX_BITS_BYTES` is a `limit` error.
 */
export function decodeBitmap(bytes: Uint8Array, path?: string): SyncBitmap {
  const { header, body, bodyOffset } = decodeFrame(format, bytes, path);
  const fields = decodeHeader(header, path);
  const marks = new PagedBits(fields.blocks);
  const coverage = new PagedBits(fields.blocks);
  const decoder: SectionDecoder = { body, bodyOffset, at: 0, path };
  const bitmap = new SyncBitmap(
    fields.header,
    decodeSection(decoder, Section.marks, marks),
    decodeSection(decoder, Section.coverage, coverage),
  );
  if (decoder.at !== body.length) {
    throw new DriftmapError(
      'malformed',
      `expected the end of the file, got ${body.length - decoder.at} more bytes`,
      {
        path,
        offset: bodyOffset + decoder.at,
      },
    );
  }
  expectCount('marked', fields.marked, bitmap.count, path);
  expectCount('covered', fields.covered, bitmap.coveredBlocks, path);
  return bitmap;
}

function encodeSection(what: number, bits: PagedBits, path: string | undefined): Uint8Array {
  const plainSize = roaringSize(bits);
  const complement = bits.complement();
  const complementSize = roaringSize(complement);
  checkSize(Math.min(plainSize, complementSize), path);
  const inverted = complementSize < plainSize;
  const set = encodeRoaring(inverted ? complement : bits);
  const section = new Uint8Array(SECTION_HEAD + set.length);
  const view = new DataView(section.buffer);
  section[0] = what;
  section[1] = inverted ? 1 : 0;
  view.setBigUint64(4, BigInt(set.length), true);
  section.set(set, SECTION_HEAD);
  view.setUint32(CHECKSUM_AT, checksum(set, checksum(section.subarray(0, CHECKSUM_AT))), true);
  return section;
}

interface SectionDecoder {
  readonly body: Uint8Array;
  readonly bodyOffset: ByteOffset;
  readonly path: string | undefined;
  at: ByteOffset;
}

/** Reads the next section into an empty set; returns it, or its complement. */
function decodeSection(decoder: SectionDecoder, what: number, bits: PagedBits): PagedBits {
  const { body, path } = decoder;
  const start = decoder.at;
  const fail = (at: number, reason: string): never => {
    throw new DriftmapError('malformed', reason, { path, offset: decoder.bodyOffset + start + at });
  };
  const name = what === Section.marks ? 'marks' : 'coverage';
  if (body.length - start < SECTION_HEAD) fail(0, `expected the section of ${name}, got the end of the file`);
  const head = body.subarray(start, start + SECTION_HEAD);
  const view = new DataView(head.buffer, head.byteOffset, SECTION_HEAD);
  const length = Number(view.getBigUint64(4, true));
  if (length > body.length - start - SECTION_HEAD) {
    fail(4, `expected ${length} bytes of ${name}, got ${body.length - start - SECTION_HEAD}`);
  }
  const setStart = start + SECTION_HEAD;
  const set = body.subarray(setStart, setStart + length);
  const before = checksum(head.subarray(0, CHECKSUM_AT));
  const offset = decoder.bodyOffset + setStart;
  expectChecksum(set, view.getUint32(CHECKSUM_AT, true), `the section of ${name}`, offset, path, before);
  if (head[0] !== what) fail(0, `expected the section of ${name}, number ${what}, got number ${head[0]}`);
  if (head[1]! > 1) fail(1, `expected 0 or 1, got ${head[1]}`);
  if (view.getUint16(2, true) !== 0) fail(2, 'expected two zero bytes');
  decodeRoaring(set, bits, { path, offset });
  decoder.at = setStart + length;
  return head[1] === 1 ? bits.complement() : bits;
}

interface HeaderFields {
  readonly header: BitmapHeader;
  readonly blocks: BlockCount;
  readonly marked: BlockCount;
  readonly covered: BlockCount;
}

function decodeHeader(bytes: Uint8Array, path: string | undefined): HeaderFields {
  const source = { path, offset: PREAMBLE_BYTES };
  const value = decodeControl(
    bytes,
    'the header',
    { bytes: MAX_DRIFT_HEADER_BYTES, text: MAX_IDENTITY_BYTES },
    source,
  );
  const fields = record(
    value,
    'the header',
    ['size', 'blockSize', 'signature', 'production', 'replica', 'blocks', 'marked', 'covered'],
    path,
  );
  const header: BitmapHeader = {
    size: count(fields.size, 'size', path),
    blockSize: count(fields.blockSize, 'blockSize', path),
    signature: text(fields.signature, 'signature', path),
    production: diskStamp(fields.production, 'production', path),
    replica: diskStamp(fields.replica, 'replica', path),
  };
  const blocks = count(fields.blocks, 'blocks', path);
  const marked = count(fields.marked, 'marked', path);
  const covered = count(fields.covered, 'covered', path);
  try {
    new SyncBitmap(header);
  } catch (cause) {
    malformed(`the header: ${cause instanceof Error ? cause.message : String(cause)}`, path);
  }
  const expected = blockCount(header.size, header.blockSize);
  if (blocks !== expected) malformed(`expected ${expected} blocks in the header, got ${blocks}`, path);
  return { header, blocks, marked, covered };
}

function diskStamp(value: unknown, what: string, path: string | undefined): DiskStamp {
  const fields = record(value, what, ['identity', 'size', 'generation'], path);
  return {
    identity: text(fields.identity, `${what}.identity`, path),
    size: count(fields.size, `${what}.size`, path),
    generation: text(fields.generation, `${what}.generation`, path),
  };
}

/** An object with exactly these keys. */
function record(
  value: unknown,
  what: string,
  keys: readonly string[],
  path: string | undefined,
): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array) {
    return malformed(`expected a map as ${what}`, path);
  }
  const got = Object.keys(value);
  if (got.length !== keys.length || !keys.every((key) => Object.hasOwn(value, key))) {
    return malformed(
      `expected the keys ${keys.join(', ')} in ${what}, got ${got.join(', ') || 'none'}`,
      path,
    );
  }
  return value as Record<string, unknown>;
}

function count(value: unknown, what: string, path: string | undefined): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  return malformed(`expected a whole number as ${what} in the header, got ${String(value)}`, path);
}

function text(value: unknown, what: string, path: string | undefined): string {
  return typeof value === 'string'
    ? value
    : malformed(`expected text as ${what} in the header, got ${typeof value}`, path);
}

function malformed(reason: string, path: string | undefined): never {
  throw new DriftmapError('malformed', reason, { path, offset: PREAMBLE_BYTES });
}

function expectCount(what: string, expected: BlockCount, got: BlockCount, path: string | undefined): void {
  if (expected !== got)
    malformed(`expected ${expected} ${what} blocks, as the header says, got ${got}`, path);
}

function checkSize(bytes: number, path: string | undefined): void {
  if (bytes > MAX_DRIFT_BYTES) {
    throw new DriftmapError(
      'limit',
      `this bitmap takes ${bytes} bytes, more than the ${MAX_DRIFT_BYTES} of a file: use a larger block size`,
      { path },
    );
  }
}
