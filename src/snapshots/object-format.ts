/**
 * How every object of a repository lies in its store: the preamble that all files of ours begin with, 16 bytes that
 * say what is in it and how it is packed, and the packed bytes.
 *
 *   preamble   32 bytes (codec/preamble.ts), magic `DRSNP\r\n\n`
 *   head        0  1  kind
 *               1  1  codec: 0 plain, 1 deflate (RFC 1951), 2 zstd (RFC 8878)
 *               2  1  cipher: 0 none, 1 AES-256-GCM
 *               3  1  zero
 *               4  4  bytes unpacked
 *               8  4  CRC-32 of the body
 *              12  4  zero
 *   body       the packed bytes; sealed: a random nonce (12), the sealed packed bytes, the tag (16)
 *
 * What is authenticated besides the bytes (AAD) is bytes 0 … 8 of the head and the object's name: an object that the
 * store gives out under another name or as another kind does not open. The checksum is of the body as it lies there,
 * so that a damaged object is told from a wrong key.
 */

import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import * as zlib from 'node:zlib';
import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { KiB } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import {
  decodeFrame,
  encodeFrame,
  expectChecksum,
  type FramedFormat,
  PREAMBLE_BYTES,
} from '../codec/preamble.ts';
import type { RepositoryKeys } from './keys.ts';

export const objectFormat: FramedFormat = {
  what: 'an object of a snapshot repository',
  magic: new TextEncoder().encode('DRSNP\r\n\n'),
  version: 1,
  maxHeaderBytes: 16,
};

/** Frozen: they are in the objects, and in what seals them. */
export const ObjectKind = {
  config: 1,
  block: 2,
  page: 3,
  snapshot: 4,
  draft: 5,
  garbage: 6,
  sweep: 7,
  end: 8,
} as const;
export type ObjectKind = (typeof ObjectKind)[keyof typeof ObjectKind];

const Codec = { plain: 0, deflate: 1, zstd: 2 } as const;
export type Compression = 'none' | 'deflate' | 'zstd';

const HEAD_BYTES = 16;
const BODY_AT = PREAMBLE_BYTES + HEAD_BYTES;
const AAD_HEAD = 8;
const NONCE = 12;
const TAG = 16;
const SEALED_AT_ONCE: ByteCount = 32 * KiB;
/** Packed bytes must be below this share of the plain ones. */
const WORTH = 0.95;

interface ZstdZlib {
  zstdCompress?(bytes: Uint8Array, options: object, done: Done): void;
  zstdDecompress?(bytes: Uint8Array, options: object, done: Done): void;
}
type Done = (error: Error | null, bytes: Buffer) => void;
/** Node's own zstd, from 22.15 and 23.8 on; absent from the types of Node 20. */
const zstd = zlib as ZstdZlib;

export function bestCompression(): Compression {
  return zstd.zstdCompress === undefined ? 'deflate' : 'zstd';
}

/** Whether this Node can read and write what is compressed so. */
export function knowsCompression(compression: Compression): boolean {
  return compression !== 'zstd' || zstd.zstdCompress !== undefined;
}

export interface EncodeOptions {
  readonly compression: Compression;
  /** Null where nothing is sealed. */
  readonly keys: RepositoryKeys | null;
  /** CRC-32 of the plain bytes, where somebody knows it already. */
  readonly plainChecksum?: number | null | undefined;
}

/** A buffer for so many plain bytes and all that an object has besides. It can be used again for another object. */
export function objectBuffer(most: ByteCount): Uint8Array {
  return new Uint8Array(objectBufferBytes(most));
}

export function objectBufferBytes(most: ByteCount): ByteCount {
  return BODY_AT + NONCE + most + TAG;
}

/** Where in such a buffer the plain bytes are to lie: where they stay, when nothing is packed. */
export function plainAt(keys: RepositoryKeys | null): ByteOffset {
  return keys === null ? BODY_AT : BODY_AT + NONCE;
}

/** Bytes as they are to be put under a name. */
export async function encodeObject(
  kind: ObjectKind,
  name: Uint8Array,
  plain: Uint8Array,
  options: EncodeOptions,
): Promise<Uint8Array> {
  const buffer = objectBuffer(plain.length);
  buffer.set(plain, plainAt(options.keys));
  return encodeInPlace(kind, name, buffer, plain.length, options);
}

/**
 * The same, where the plain bytes lie already in a buffer of `objectBuffer`, at `plainAt`.
 * @returns a view of the buffer
 */
export async function encodeInPlace(
  kind: ObjectKind,
  name: Uint8Array,
  buffer: Uint8Array,
  length: ByteCount,
  { compression, keys, plainChecksum = null }: EncodeOptions,
): Promise<Uint8Array> {
  const at = plainAt(keys);
  const plain = buffer.subarray(at, at + length);
  const packed = compression === 'none' ? plain : await pack(compression, plain);
  const pays = packed.length < length * WORTH;
  if (pays) buffer.set(packed, at);
  const stored = buffer.subarray(at, at + (pays ? packed.length : length));
  const head = new Uint8Array(HEAD_BYTES);
  const view = new DataView(head.buffer);
  head[0] = kind;
  head[1] = pays ? Codec[compression as 'deflate' | 'zstd'] : Codec.plain;
  head[2] = keys === null ? 0 : 1;
  view.setUint32(4, length, true);
  if (keys !== null) sealInPlace(buffer, stored, keys.ofObject(kind, name), aadOf(head, name));
  const end = keys === null ? at + stored.length : at + stored.length + TAG;
  const isPlain = !pays && keys === null;
  const crc = isPlain ? plainChecksum : null;
  view.setUint32(8, crc ?? checksum(buffer.subarray(BODY_AT, end)), true);
  buffer.set(encodeFrame(objectFormat, head, end - BODY_AT));
  return buffer.subarray(0, end);
}

export interface DecodeOptions {
  readonly keys: RepositoryKeys | null;
  /** Bytes unpacked, at most: what claims more is refused before it is unpacked. */
  readonly most: ByteCount;
  /** For messages. */
  readonly path: string;
}

/**
 * What was put. Whether its contents have the name is the caller's to see.
 * @throws DriftmapError `malformed` (damage; another object's bytes), `unsupported`, `mismatch` (a wrong key)
 */
export async function decodeObject(
  kind: ObjectKind,
  name: Uint8Array,
  bytes: Uint8Array,
  { keys, most, path }: DecodeOptions,
): Promise<Uint8Array> {
  const { header: head, body } = decodeFrame(objectFormat, bytes, path);
  const fail = (reason: string, offset: number): never => {
    throw new DriftmapError('malformed', reason, { path, offset });
  };
  if (head.length !== HEAD_BYTES)
    fail(`expected a head of ${HEAD_BYTES} bytes, got ${head.length}`, PREAMBLE_BYTES);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const [gotKind, codec, cipher, zero] = head as unknown as [number, number, number, number];
  const length = view.getUint32(4, true);
  if (gotKind !== kind) fail(`expected an object of kind ${kind}, got ${gotKind}`, PREAMBLE_BYTES);
  if (codec > Codec.zstd || cipher > 1 || zero !== 0 || view.getUint32(12, true) !== 0)
    fail('the head has a codec, a cipher or a rest that there is not', PREAMBLE_BYTES);
  if (length > most) fail(`expected at most ${most} bytes unpacked, got ${length}`, PREAMBLE_BYTES + 4);
  expectChecksum(body, view.getUint32(8, true), 'the body', BODY_AT, path);
  if ((cipher === 1) !== (keys !== null)) {
    const reason = cipher === 1 ? 'is sealed' : 'is not sealed, though the repository is';
    throw new DriftmapError('mismatch', `an object ${reason}: it belongs to another repository`, { path });
  }
  const stored = keys === null ? body : unseal(body, keys.ofObject(kind, name), aadOf(head, name), path);
  return unpack(codec, stored, length, path);
}

function aadOf(head: Uint8Array, name: Uint8Array): Uint8Array {
  return Buffer.concat([head.subarray(0, AAD_HEAD), name]);
}

/**
 * Nonce, sealed bytes and tag to where they lie in an object. The cipher gives out memory of its own each time; pieces
 * small enough for the allocator to use again cost a tenth of a whole block at once.
 */
function sealInPlace(buffer: Uint8Array, plain: Uint8Array, key: Uint8Array, aad: Uint8Array): void {
  const nonce = randomBytes(NONCE);
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad);
  buffer.set(nonce, BODY_AT);
  for (let at = 0; at < plain.length; at += SEALED_AT_ONCE)
    plain.set(cipher.update(plain.subarray(at, at + SEALED_AT_ONCE)), at);
  // A stream cipher keeps nothing back.
  cipher.final();
  buffer.set(cipher.getAuthTag(), BODY_AT + NONCE + plain.length);
}

function unseal(body: Uint8Array, key: Uint8Array, aad: Uint8Array, path: string): Uint8Array {
  if (body.length < NONCE + TAG)
    throw new DriftmapError('malformed', `expected a nonce and a tag, got ${body.length} bytes`, { path });
  const tagAt = body.length - TAG;
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, body.subarray(0, NONCE), { authTagLength: TAG });
    decipher.setAAD(aad).setAuthTag(body.subarray(tagAt));
    const plain = decipher.update(body.subarray(NONCE, tagAt));
    decipher.final();
    return plain;
  } catch (cause) {
    const reason = 'does not open with this key: it was changed, or belongs to another name or repository';
    throw new DriftmapError('mismatch', reason, { path, cause });
  }
}

/** On the threads of Node, so that nothing else is held up. */
function pack(compression: Compression, bytes: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const done: Done = (error, packed) => (error ? reject(error) : resolve(packed));
    if (compression === 'zstd') zstd.zstdCompress!(bytes, {}, done);
    else zlib.deflateRaw(bytes, { level: 1, memLevel: 9 }, done);
  });
}

async function unpack(
  codec: number,
  stored: Uint8Array,
  length: ByteCount,
  path: string,
): Promise<Uint8Array> {
  const plain = codec === Codec.plain ? stored : await unpackOn(codec, stored, length, path);
  if (plain.length === length) return plain;
  throw new DriftmapError('malformed', `expected ${length} bytes unpacked, got ${plain.length}`, { path });
}

function unpackOn(codec: number, stored: Uint8Array, length: ByteCount, path: string): Promise<Uint8Array> {
  if (codec === Codec.zstd && zstd.zstdDecompress === undefined) {
    const reason = `is compressed with zstd, which Node ${process.versions.node} cannot unpack: run driftmap with Node 22.15 or later`;
    throw new DriftmapError('unsupported', reason, { path });
  }
  return new Promise((resolve, reject) => {
    const done: Done = (cause, plain) => {
      if (!cause) resolve(plain);
      else reject(new DriftmapError('malformed', `cannot be unpacked: ${cause.message}`, { path, cause }));
    };
    const options = { maxOutputLength: Math.max(1, length) };
    if (codec === Codec.zstd) zstd.zstdDecompress!(stored, options, done);
    else zlib.inflateRaw(stored, options, done);
  });
}
