/**
 * Run lists ("Data runs"): which clusters of the volume an attribute lies in.
 *
 * A run is a byte with two lengths, then a count of clusters and the distance of its first cluster from that
 * of the run before, both signed and little end first. A run without a distance is a hole. The list goes on
 * in other records where one does not hold it; distances begin anew from 0 there.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE, MAX_EXTENTS, NTFS_PIECE_BYTES, NTFS_PIECES_KEPT } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ByteSource, readWhole } from '../formats/byte-source.ts';
import type { NtfsGeometry } from './ntfs-boot.ts';
import { damage, type NonResidentExtent, type NtfsRecord } from './ntfs-record.ts';

/** The cluster of a hole. */
export const HOLE = -1;

/** Runs in order, from cluster 0 of the attribute, without a gap. */
export class RunList {
  /** First cluster of each run within the attribute. */
  readonly starts: number[] = [];
  /** First cluster of each run on the volume, or HOLE. */
  readonly clusters: number[] = [];
  /** Clusters so far. */
  end = 0;

  append(count: number, cluster: number): void {
    const last = this.clusters.length - 1;
    const known = last < 0 ? undefined : this.clusters[last]!;
    const continues =
      known !== undefined &&
      (known === HOLE ? cluster === HOLE : cluster === known + (this.end - this.starts[last]!));
    if (!continues) {
      this.starts.push(this.end);
      this.clusters.push(cluster);
    }
    this.end += count;
  }

  /** Index of the run that holds a cluster of the attribute, which must be one of them. */
  indexAt(cluster: number): number {
    let low = 0;
    let high = this.starts.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.starts[middle]! <= cluster) low = middle;
      else high = middle;
    }
    return low;
  }

  endOf(index: number): number {
    return this.starts[index + 1] ?? this.end;
  }
}

/**
 * Appends the runs of one extent of an attribute; it must begin where the last one ended.
 * @param holes whether the attribute may have some
 * @throws DriftmapError `malformed`, `limit`
 */
export function appendRuns(
  runs: RunList,
  record: NtfsRecord,
  { lowest, end, pairsAt }: NonResidentExtent,
  { limit, geometry, holes }: { limit: number; geometry: NtfsGeometry; holes: boolean },
): void {
  const { bytes, where } = record;
  const wrong = (at: number, reason: string) =>
    damage(where, at, `run list in MFT record ${record.number}: ${reason}`);
  if (lowest !== runs.end) {
    throw wrong(pairsAt, `expected it to go on at cluster ${runs.end}, it begins at ${lowest}`);
  }
  let cluster = 0;
  let at = pairsAt;
  for (;;) {
    const header = at < limit ? bytes[at]! : undefined;
    if (header === undefined) throw wrong(at, 'expected an end of the list');
    if (header === 0) break;
    const countBytes = header % 16;
    const moveBytes = (header - countBytes) / 16;
    if (countBytes === 0 || countBytes > 8 || moveBytes > 8 || at + 1 + countBytes + moveBytes > limit) {
      throw wrong(at, `expected a run, got ${header}`);
    }
    const count = signedAt(bytes, at + 1, countBytes);
    if (count <= 0 || runs.end + count > end) {
      throw wrong(at, `expected runs of ${end - lowest} clusters, got one of ${count} at ${runs.end}`);
    }
    if (moveBytes === 0) {
      if (!holes) throw wrong(at, 'it has a hole, in an attribute that is not marked as sparse');
      runs.append(count, HOLE);
    } else {
      cluster += signedAt(bytes, at + 1 + countBytes, moveBytes);
      if (cluster < 0 || cluster + count > geometry.clusters) {
        const got = `${count} from ${cluster}`;
        throw wrong(at, `expected clusters of the volume (0 to ${geometry.clusters - 1}), got ${got}`);
      }
      runs.append(count, cluster);
    }
    at += 1 + countBytes + moveBytes;
  }
  if (runs.end !== end) {
    throw wrong(at, `expected runs up to cluster ${end - 1}, they end before ${runs.end}`);
  }
  if (runs.starts.length > MAX_EXTENTS || end * geometry.clusterSize > MAX_DISK_SIZE) {
    const reason = `expected at most ${MAX_EXTENTS} runs and 2^53−1 bytes, got ${runs.starts.length} runs`;
    throw new DriftmapError('limit', reason, { path: where.path, offset: where.offset });
  }
}

/** From the top byte down, so that small negative numbers in eight bytes are exact. */
function signedAt(bytes: Uint8Array, at: number, length: number): number {
  const top = bytes[at + length - 1]!;
  let value = top < 128 ? top : top - 256;
  for (let i = length - 2; i >= 0; i--) value = value * 256 + bytes[at + i]!;
  return value;
}

export interface RunReaderParts {
  readonly runs: RunList;
  /** The runs must reach as far. */
  readonly size: ByteCount;
  readonly initialized: ByteCount;
  /** For messages. */
  readonly what: string;
  /** Blocks are asked for in no order: what is larger than all kept pieces is then read block by block. */
  readonly scattered?: boolean;
}

/** Metadata that lies in runs without holes, read in pieces of which the last ones are kept. */
export class RunReader {
  readonly size: ByteCount;
  private readonly source: ByteSource;
  private readonly clusterSize: ByteCount;
  private readonly runs: RunList;
  /** Bytes behind this are zeros. */
  private readonly initialized: ByteCount;
  private readonly what: string;
  private readonly inPieces: boolean;
  private readonly pieces = new Map<number, Uint8Array>();

  constructor(
    source: ByteSource,
    { clusterSize }: NtfsGeometry,
    { runs, size, initialized, what, scattered = false }: RunReaderParts,
  ) {
    this.source = source;
    this.clusterSize = clusterSize;
    this.runs = runs;
    this.size = size;
    this.initialized = initialized;
    this.what = what;
    this.inPieces = !scattered || size <= NTFS_PIECES_KEPT * NTFS_PIECE_BYTES;
  }

  /**
   * A copy of some bytes. Aligned blocks of a power of two up to 64 KiB come from one piece.
   * @throws DriftmapError `malformed` past the end, and what reading throws
   */
  async bytes(offset: ByteOffset, length: ByteCount): Promise<Uint8Array> {
    if (offset + length > this.size) {
      const reason = `${this.what}: expected bytes up to ${offset + length}, it ends at ${this.size}`;
      throw new DriftmapError('malformed', reason, { path: this.source.name, length });
    }
    const index = Math.floor(offset / NTFS_PIECE_BYTES);
    const begin = offset - index * NTFS_PIECE_BYTES;
    if (this.inPieces && begin + length <= NTFS_PIECE_BYTES) {
      const piece = this.pieces.get(index) ?? (await this.load(index));
      if (piece !== null) {
        // Small ones share an allocation, which counts where tens of thousands of records are read.
        const copy = Buffer.allocUnsafe(length);
        copy.set(piece.subarray(begin, begin + length));
        return copy;
      }
    }
    const target = new Uint8Array(length);
    await this.read(offset, target);
    return target;
  }

  /** Where a byte lies on the unit; it must be one of the runs', of which none may be a hole. */
  placeOf(offset: ByteOffset): ByteOffset {
    const { runs, clusterSize } = this;
    const index = runs.indexAt(Math.floor(offset / clusterSize));
    return offset + (runs.clusters[index]! - runs.starts[index]!) * clusterSize;
  }

  /** Null where a part of the piece is not on the unit, which is cut short: what is wanted may be. */
  private async load(index: number): Promise<Uint8Array | null> {
    const offset = index * NTFS_PIECE_BYTES;
    const length = Math.min(NTFS_PIECE_BYTES, this.size - offset);
    const spare = this.pieces.size < NTFS_PIECES_KEPT ? null : this.dropOldest();
    const piece = spare?.length === length ? spare.fill(0) : new Uint8Array(length);
    try {
      await this.read(offset, piece);
    } catch (error) {
      if (error instanceof DriftmapError && error.kind === 'malformed') return null;
      throw error;
    }
    this.pieces.set(index, piece);
    return piece;
  }

  /** What was kept longest, for use anew: only copies of pieces are given out. */
  private dropOldest(): Uint8Array | null {
    for (const [index, piece] of this.pieces) {
      this.pieces.delete(index);
      return piece;
    }
    return null;
  }

  private async read(offset: ByteOffset, target: Uint8Array): Promise<void> {
    const { runs, clusterSize, initialized } = this;
    const wanted = Math.max(0, Math.min(target.length, initialized - offset));
    for (let done = 0; done < wanted; ) {
      const at = offset + done;
      const index = runs.indexAt(Math.floor(at / clusterSize));
      const length = Math.min(wanted - done, runs.endOf(index) * clusterSize - at);
      await readWhole(this.source, this.what, this.placeOf(at), target.subarray(done, done + length));
      done += length;
    }
  }
}
