/**
 * The first 32 bytes of every file of ours. They say what it is, how long it is, and let damage be told
 * from a version that is too new. All integers are little end first.
 *
 *   0   8  magic
 *   8   2  version of the format
 *  10   2  zero
 *  12   4  length of the header that follows
 *  16   8  length of the whole file
 *  24   4  CRC-32 of the header
 *  28   4  CRC-32 of bytes 0 … 28 of the preamble
 *
 * Magic, version and the preamble's own checksum keep their places in all versions to come.
 */

import { DriftmapError } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { checksum } from './checksum.ts';

export const PREAMBLE_BYTES = 32;
export const MAGIC_BYTES = 8;

const VERSION_AT = 8;
const ZERO_AT = 10;
const HEADER_LENGTH_AT = 12;
const TOTAL_LENGTH_AT = 16;
const HEADER_CHECKSUM_AT = 24;
const OWN_CHECKSUM_AT = 28;

/** A format that begins with a preamble. */
export interface FramedFormat {
  /** For messages: "a driftmap bitmap". */
  readonly what: string;
  /** Eight bytes. */
  readonly magic: Uint8Array;
  /** The newest version that we read and the one that we write. */
  readonly version: number;
  readonly maxHeaderBytes: ByteCount;
}

export interface Framed {
  readonly version: number;
  readonly header: Uint8Array;
  /** What comes after the header, and where it begins in the file. */
  readonly body: Uint8Array;
  readonly bodyOffset: ByteCount;
}

/** The preamble and the header, ready to stand before `bodyLength` bytes of body. */
export function encodeFrame(format: FramedFormat, header: Uint8Array, bodyLength: ByteCount): Uint8Array {
  const bytes = new Uint8Array(PREAMBLE_BYTES + header.length);
  const view = new DataView(bytes.buffer);
  bytes.set(format.magic);
  view.setUint16(VERSION_AT, format.version, true);
  view.setUint32(HEADER_LENGTH_AT, header.length, true);
  view.setBigUint64(TOTAL_LENGTH_AT, BigInt(bytes.length + bodyLength), true);
  view.setUint32(HEADER_CHECKSUM_AT, checksum(header), true);
  view.setUint32(OWN_CHECKSUM_AT, checksum(bytes.subarray(0, OWN_CHECKSUM_AT)), true);
  bytes.set(header, PREAMBLE_BYTES);
  return bytes;
}

/**
 * Takes a whole file apart into views. Damage, truncation and trailing bytes are `malformed`, a newer
 * version is `unsupported`; both with the path and the offset.
 * @param fileLength where `bytes` is only the front of a file that is too large to be read: how long the file is.
 *   The front must hold `PREAMBLE_BYTES + format.maxHeaderBytes`, or the whole file where that is shorter
 */
export function decodeFrame(
  format: FramedFormat,
  bytes: Uint8Array,
  path?: string,
  fileLength: ByteCount = bytes.length,
): Framed {
  const fail = (offset: number, reason: string, kind: 'malformed' | 'unsupported' = 'malformed'): never => {
    throw new DriftmapError(kind, reason, { path, offset });
  };
  if (!format.magic.every((byte, i) => bytes[i] === byte))
    fail(0, `this is not ${format.what}: its magic is missing`);
  if (bytes.length < PREAMBLE_BYTES) {
    fail(bytes.length, `expected the ${PREAMBLE_BYTES} bytes that begin ${format.what}, got ${bytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  expectChecksum(
    bytes.subarray(0, OWN_CHECKSUM_AT),
    view.getUint32(OWN_CHECKSUM_AT, true),
    'the preamble',
    0,
    path,
  );
  const version = view.getUint16(VERSION_AT, true);
  if (version > format.version) {
    const reason = `this is ${format.what} of version ${version}; this driftmap reads up to version ${format.version}: use a newer driftmap`;
    fail(VERSION_AT, reason, 'unsupported');
  }
  if (version === 0) fail(VERSION_AT, 'expected a version of at least 1, got 0');
  if (view.getUint16(ZERO_AT, true) !== 0) fail(ZERO_AT, 'expected two zero bytes');
  const total = Number(view.getBigUint64(TOTAL_LENGTH_AT, true));
  if (total !== fileLength) fail(TOTAL_LENGTH_AT, `expected a file of ${total} bytes, got ${fileLength}`);
  const headerLength = view.getUint32(HEADER_LENGTH_AT, true);
  const bodyOffset = PREAMBLE_BYTES + headerLength;
  if (headerLength > format.maxHeaderBytes || bodyOffset > bytes.length) {
    fail(
      HEADER_LENGTH_AT,
      `expected a header of at most ${format.maxHeaderBytes} bytes within the file, got ${headerLength}`,
    );
  }
  const header = bytes.subarray(PREAMBLE_BYTES, bodyOffset);
  expectChecksum(header, view.getUint32(HEADER_CHECKSUM_AT, true), 'the header', PREAMBLE_BYTES, path);
  return { version, header, body: bytes.subarray(bodyOffset), bodyOffset };
}

/** Throws `malformed` unless the bytes have this checksum; `offset` is where they begin in the file. */
export function expectChecksum(
  bytes: Uint8Array,
  expected: number,
  what: string,
  offset: number,
  path: string | undefined,
  before = 0,
): void {
  const got = checksum(bytes, before);
  if (got === expected) return;
  const hex = (value: number) => value.toString(16).padStart(8, '0');
  throw new DriftmapError(
    'malformed',
    `${what} is damaged: expected checksum ${hex(expected)}, got ${hex(got)}`,
    {
      path,
      offset,
      length: bytes.length,
    },
  );
}
