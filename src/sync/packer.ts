/**
 * Packs pieces of a disk for the way: zeros as zeros, the rest compressed when that pays. It pays when the link is
 * what everybody waits for and the data gives way; both are watched, piece by piece.
 */

import * as zlib from 'node:zlib';
import { DriftmapError } from '../base/errors.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import { type Data, Encoding } from '../wire/messages.ts';

export type Codec = 'deflate' | 'zstd';
export type Compression = 'auto' | 'always' | 'never';

interface ZstdZlib {
  zstdCompress?(
    bytes: Uint8Array,
    options: object,
    done: (error: Error | null, packed: Buffer) => void,
  ): void;
  zstdDecompressSync?(bytes: Uint8Array, options: object): Buffer;
}

/** Node's own zstd, from 22.15 and 23.8 on; absent from the types of Node 20. */
const zstd = zlib as ZstdZlib;

/** What this Node can unpack, best first. */
export function codecs(): Codec[] {
  return zstd.zstdDecompressSync === undefined ? ['deflate'] : ['zstd', 'deflate'];
}

/** The best that both ends know; null for none. */
export function commonCodec(theirs: readonly string[]): Codec | null {
  return codecs().find((codec) => theirs.includes(codec)) ?? null;
}

/** Packed bytes must be below this share of the plain ones. */
const WORTH = 0.95;
/** After a piece that did not give way, this many are not tried; twice as many after each further one. */
const FIRST_PAUSE = 4;
const LONGEST_PAUSE = 64;

/** What a gauge looks at. */
export interface GaugedLink {
  readonly waitedMs: number;
  readonly bytesSent: ByteCount;
  readonly roundTrip: number | null;
}

/** Looks again after so long. */
const GAUGE_MS = 100;
/** The link is what we wait for when messages wait for it this share of the time … */
const WAITING_SHARE = 0.25;
/** … and it is no faster than a few threads compress. */
const FAST_BYTES_PER_SECOND = 250e6;
/** The kernel takes some megabytes before anybody waits: so many looks must find the link idle before that counts. */
const PATIENCE = 10;
/** Before anything is measured: a link that takes longer to answer is worth compressing for. */
const FAR_SECONDS = 0.002;

/** Whether the link is what everybody waits for. */
export class LinkGauge {
  private readonly link: GaugedLink;
  private readonly now: () => number;
  private at: number;
  private waitedMs: number;
  private bytesSent: ByteCount;
  /** Null before the first look: then the round trip, as it is measured by now, must do. */
  private answer: boolean | null = null;
  private idle = 0;

  constructor(link: GaugedLink, now: () => number = () => performance.now()) {
    this.link = link;
    this.now = now;
    this.at = now();
    this.waitedMs = link.waitedMs;
    this.bytesSent = link.bytesSent;
  }

  get isBound(): boolean {
    const { link } = this;
    const now = this.now();
    const elapsed = now - this.at;
    const before = this.answer ?? (link.roundTrip ?? 0) > FAR_SECONDS;
    if (elapsed < GAUGE_MS) return before;
    const share = (link.waitedMs - this.waitedMs) / elapsed;
    const rate = ((link.bytesSent - this.bytesSent) / elapsed) * 1000;
    const bound = share > WAITING_SHARE && rate < FAST_BYTES_PER_SECOND;
    this.idle = bound ? 0 : this.idle + 1;
    this.answer = bound || (before && this.idle < PATIENCE && rate < FAST_BYTES_PER_SECOND);
    this.at = now;
    this.waitedMs = link.waitedMs;
    this.bytesSent = link.bytesSent;
    return this.answer;
  }
}

export class Packer {
  private readonly codec: Codec | null;
  private readonly compression: Compression;
  private pause = FIRST_PAUSE;
  private skip = 0;

  constructor(codec: Codec | null, compression: Compression) {
    this.codec = codec;
    this.compression = compression;
  }

  /** @param bound whether the link is what everybody waits for: else compressing only holds things up */
  async pack(offset: ByteOffset, bytes: Uint8Array, bound: boolean): Promise<Data> {
    const { length } = bytes;
    const plain: Data = { offset, length, encoding: Encoding.plain, stored: bytes };
    const { codec } = this;
    if (codec === null || this.compression === 'never') return plain;
    if (this.compression === 'auto') {
      if (this.skip > 0) {
        this.skip--;
        return plain;
      }
      if (!bound) return plain;
    }
    const stored = await compress(codec, bytes);
    if (stored.length >= length * WORTH) {
      this.skip = this.pause;
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
      return plain;
    }
    this.pause = FIRST_PAUSE;
    return { offset, length, encoding: codec === 'zstd' ? Encoding.zstd : Encoding.deflate, stored };
  }
}

function compress(codec: Codec, bytes: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, packed: Buffer) => (error ? reject(error) : resolve(packed));
    if (codec === 'zstd') zstd.zstdCompress!(bytes, {}, done);
    else zlib.deflateRaw(bytes, { level: 1, memLevel: 9 }, done);
  });
}

/**
 * The bytes that a data message stands for; never asked of zeros.
 * @throws DriftmapError `malformed` unless exactly the stated length comes out; `unsupported` for zstd without a decoder
 */
export function unpack({ offset, length, encoding, stored }: Data): Uint8Array {
  if (encoding === Encoding.plain) return stored;
  if (encoding === Encoding.zstd && zstd.zstdDecompressSync === undefined)
    throw new DriftmapError('unsupported', 'the other site sent zstd, which this Node cannot unpack');
  const options = { maxOutputLength: length };
  let bytes: Uint8Array;
  try {
    bytes =
      encoding === Encoding.zstd
        ? zstd.zstdDecompressSync!(stored, options)
        : zlib.inflateRawSync(stored, options);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new DriftmapError('malformed', `compressed data cannot be unpacked: ${why}`, {
      offset,
      length,
      cause,
    });
  }
  if (bytes.length === length) return bytes;
  throw new DriftmapError('malformed', `expected ${length} bytes unpacked, got ${bytes.length}`, { offset });
}

/** Whether all bytes are zero. */
export function isZeros(bytes: Uint8Array): boolean {
  if (bytes.length === 0 || bytes[0] !== 0) return bytes.length === 0;
  // Equal to itself one byte further on: all are the first one.
  return Buffer.compare(bytes.subarray(1), bytes.subarray(0, bytes.length - 1)) === 0;
}
