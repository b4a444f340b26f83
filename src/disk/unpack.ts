/**
 * Compressed clusters: of qcow2 deflate without a zlib header and with a 4 KiB window, or zstd frames; of VMDK
 * zlib streams (RFC 1950).
 */

import type * as Zlib from 'node:zlib';
import { DriftmapError, type ErrorContext } from '../base/errors.ts';
import type { ByteCount } from '../base/units.ts';
import { viewOf } from './formats/byte-source.ts';

type Unpack = (stored: Uint8Array, cluster: ByteCount) => Uint8Array;

type ZstdDecompress = (bytes: Uint8Array, options: object) => Uint8Array;

/** Loaded with the first compressed cluster: a worker that meets none starts some milliseconds earlier. */
function zlib(): typeof Zlib {
  return process.getBuiltinModule('node:zlib');
}

/** Node's own decoder, from 22.15 and 23.8 on; absent from the types of Node 20. */
function zstdDecompressSync(): ZstdDecompress | undefined {
  return (zlib() as { zstdDecompressSync?: ZstdDecompress }).zstdDecompressSync;
}

/** The codecs, by the names of their kinds of extents. */
export type Codec = 'deflate' | 'zstd' | 'zlib';

export function canUnpackZstd(): boolean {
  return zstdDecompressSync() !== undefined;
}

/** What to tell who has an image with zstd clusters and a Node without the decoder. */
export const zstdAdvice = `clusters are compressed with zstd, which Node ${process.versions.node} cannot unpack: run driftmap with Node 22.15 or later`;

/**
 * Unpacks one cluster. `stored` ends at a sector boundary and so may hold bytes of another cluster after the
 * compressed ones; they are not looked at.
 *
 * Of zlib fewer bytes than a cluster may come out: a VMDK whose disk ends within its last grain stores only what
 * is on the disk. The caller sees to it that there are as many as it needs.
 * @throws DriftmapError `malformed` unless exactly a whole cluster comes out; `unsupported` for zstd without a decoder
 */
export function unpackCluster(
  kind: Codec,
  stored: Uint8Array,
  cluster: ByteCount,
  context: ErrorContext,
): Uint8Array {
  if (kind === 'zstd' && !canUnpackZstd()) throw new DriftmapError('unsupported', zstdAdvice, context);
  let bytes: Uint8Array;
  try {
    bytes = unpackers[kind](stored, cluster);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const reason = `a compressed cluster (${kind}) is damaged: ${why}`;
    throw new DriftmapError('malformed', reason, { ...context, cause });
  }
  if (bytes.length === cluster || kind === 'zlib') return bytes;
  const reason = `a compressed cluster (${kind}) is damaged: expected ${cluster} bytes unpacked, got ${bytes.length}`;
  throw new DriftmapError('malformed', reason, context);
}

/** A stream that is cut, or that lacks its end mark, gives what it holds; the length tells whether that is all. */
const inflate: Unpack = (stored, cluster) =>
  zlib().inflateRawSync(stored, {
    windowBits: 12,
    chunkSize: Math.max(64, cluster),
    maxOutputLength: cluster,
    finishFlush: zlib().constants.Z_SYNC_FLUSH,
  });

/** A whole stream with its checksum. */
const inflateZlib: Unpack = (stored, cluster) =>
  zlib().inflateSync(stored, { chunkSize: Math.max(64, cluster), maxOutputLength: cluster });

/** Frames follow one another until a cluster is full; most clusters are one frame. */
const unpackZstd: Unpack = (stored, cluster) => {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (let at = 0; length < cluster && at < stored.length; ) {
    const frame = stored.subarray(at, at + zstdFrameLength(stored.subarray(at)));
    const piece = zstdDecompressSync()!(frame, { maxOutputLength: cluster - length });
    pieces.push(piece);
    length += piece.length;
    at += frame.length;
  }
  return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces);
};

const unpackers: Readonly<Record<Codec, Unpack>> = { deflate: inflate, zstd: unpackZstd, zlib: inflateZlib };

/**
 * Bytes of the zstd frame that `bytes` begins with: Node's decoder takes a frame for damaged when other bytes
 * follow it. RFC 8878, section 3.1: magic, descriptor, window, dictionary id, content size, blocks, checksum.
 */
export function zstdFrameLength(bytes: Uint8Array): ByteCount {
  const view = viewOf(bytes);
  if (bytes.length < 6 || view.getUint32(0, true) !== 0xfd2fb528) throw new Error('no zstd frame');
  const descriptor = bytes[4]!;
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionary = [0, 1, 2, 4][descriptor & 3]!;
  const content = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >>> 6]!;
  let at = 5 + (singleSegment ? 0 : 1) + dictionary + content;
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) throw new Error('a zstd frame is cut short');
    const header = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16);
    last = (header & 1) === 1;
    const repeated = ((header >>> 1) & 3) === 1;
    at += 3 + (repeated ? 1 : header >>> 3);
  }
  const end = at + ((descriptor & 4) !== 0 ? 4 : 0);
  if (end > bytes.length) throw new Error('a zstd frame is cut short');
  return end;
}
