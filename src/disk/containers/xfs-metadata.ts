/**
 * Reading metadata of an XFS file system: a small cache of pieces of the unit, and the checks that every
 * structure of version 5 allows (XFS Algorithms & Data Structures, section "Self-Describing Metadata"):
 * checksum, own place, own file system, owner.
 *
 * Inodes and directory blocks are small and lie together, so they are read in pieces of 64 KiB of which the
 * last few are kept. Blocks of extent trees are read once each and go past the cache.
 */

import { XFS_CACHED_PIECES } from '../../base/limits.ts';
import { type ByteCount, type ByteOffset, KiB } from '../../base/units.ts';
import { type ByteSource, readWhole, uint64, viewOf } from '../formats/byte-source.ts';
import { checksums, hex, type XfsGeometry, xfsFault } from './xfs-superblock.ts';

const PIECE = 64 * KiB;

export class XfsMetadata {
  readonly geometry: XfsGeometry;
  readonly exchanged: ReadonlySet<number>;
  private readonly source: ByteSource;
  /** By number; the one used last is the last. */
  private readonly pieces = new Map<number, Uint8Array>();

  /** @param exchanged inodes whose extent trees may name another owner: `xfs-replay.ts` */
  constructor(source: ByteSource, geometry: XfsGeometry, exchanged: ReadonlySet<number> = new Set()) {
    this.source = source;
    this.geometry = geometry;
    this.exchanged = exchanged;
  }

  get path(): string {
    return this.geometry.path;
  }

  /** Bytes for looking at: they may be part of the cache. The range must lie in the file system. */
  async look(what: string, offset: ByteOffset, length: ByteCount): Promise<Uint8Array> {
    const number = Math.floor(offset / PIECE);
    const within = offset - number * PIECE;
    if (within + length <= PIECE) {
      const piece = this.kept(number) ?? (await this.readPiece(what, number));
      return piece.subarray(within, within + length);
    }
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const index = Math.floor((offset + at) / PIECE);
      const piece = this.kept(index) ?? (await this.readPiece(what, index));
      const from = offset + at - index * PIECE;
      const part = piece.subarray(from, Math.min(PIECE, from + length - at));
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  /** Fills `target`, past the cache. */
  read(what: string, offset: ByteOffset, target: Uint8Array): Promise<void> {
    return readWhole(this.source, what, offset, target);
  }

  private kept(number: number): Uint8Array | undefined {
    const piece = this.pieces.get(number);
    if (piece === undefined) return undefined;
    this.pieces.delete(number);
    this.pieces.set(number, piece);
    return piece;
  }

  private async readPiece(what: string, number: number): Promise<Uint8Array> {
    const offset = number * PIECE;
    const { blocks, blockSize } = this.geometry;
    const piece = new Uint8Array(Math.min(PIECE, blocks * blockSize - offset));
    await readWhole(this.source, what, offset, piece);
    if (this.pieces.size >= XFS_CACHED_PIECES) this.pieces.delete(this.pieces.keys().next().value!);
    this.pieces.set(number, piece);
    return piece;
  }
}

/** Where a kind of structure keeps what it says of itself; `place` is a number of 512-byte sectors. */
export interface SelfLayout {
  readonly checksum: number;
  readonly place: number;
  readonly uuid: number;
  readonly owner: number;
}

/**
 * Checks what a block of version 5 says of itself.
 * @param what for messages: "directory block of inode 131"
 * @param offset where the block lies on the unit
 * @param owner the inode whose block it is; null where it cannot be told
 */
export function checkSelf(
  geometry: XfsGeometry,
  bytes: Uint8Array,
  layout: SelfLayout,
  what: string,
  offset: ByteOffset,
  owner: number | null,
): void {
  const { path } = geometry;
  const { written, computed } = checksums(bytes, layout.checksum);
  if (written !== computed) {
    const reason = `${what}: expected checksum ${hex(computed)}, got ${hex(written)}: it is damaged`;
    throw xfsFault(path, offset + layout.checksum, reason);
  }
  const view = viewOf(bytes);
  const place = uint64(view, layout.place) * 512;
  if (place !== offset) {
    throw xfsFault(path, offset + layout.place, `${what}: expected to be at ${offset}, it says ${place}`);
  }
  if (!sameUuid(bytes, layout.uuid, geometry.metaUuid)) {
    throw xfsFault(path, offset + layout.uuid, `${what}: it belongs to another file system`);
  }
  const says = uint64(view, layout.owner);
  if (owner !== null && says !== owner) {
    throw xfsFault(path, offset + layout.owner, `${what}: it belongs to inode ${says}`);
  }
}

export function sameUuid(bytes: Uint8Array, at: number, uuid: Uint8Array): boolean {
  for (let i = 0; i < 16; i++) if (bytes[at + i] !== uuid[i]) return false;
  return true;
}
