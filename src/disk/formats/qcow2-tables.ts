/**
 * qcow2's two-level mapping as an extent map (QEMU docs/interop/qcow2.txt, sections "Cluster mapping" and
 * "Extended L2 Entries").
 *
 * The map is built whole at open, so loading costs what the metadata costs: the L1 table is read at once, L2
 * tables in runs of adjoining ones into one reused buffer, and an unallocated L1 entry costs an addition. A
 * preallocated terabyte has sixteen million L2 entries; therefore an entry is two 32-bit words, never a
 * BigInt or an object, and neighbours are joined before they reach the map's builder.
 *
 * What cannot be true is an error here, at open, and not a surprise in the middle of a scan:
 *
 *   - a table or a whole data cluster past the end of the file, or off its alignment;
 *   - an L2 table used twice, which would let a small file describe unbounded work;
 *   - subclusters both allocated and zero; zero clusters in version 2; compressed clusters in a data file.
 *
 * Two things are tolerated, with a warning: reserved bits that are set (QEMU ignores them when reading), and
 * a last cluster that the end of the file cuts: its missing tail reads as zeros, as in QEMU.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE, QCOW2_L2_READ, QCOW2_MAX_L2_BYTES } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import { type ByteSource, readWhole, viewOf } from './byte-source.ts';
import { type JoinedRun, JoinedRuns } from './joined-runs.ts';
import type { Qcow2Header } from './qcow2-header.ts';

/** High word of an L1 or L2 entry: bits 32–55 of an offset. */
const OFFSET_HIGH = 0x00ffffff;
const COPIED_HIGH = 0x80000000;
const COMPRESSED_HIGH = 0x40000000;
const L1_RESERVED_HIGH = 0x7f000000;
const L2_RESERVED_HIGH = 0x3f000000;
/** Low word: bits 9–31 of an offset. */
const OFFSET_LOW = 0xfffffe00;
const ZERO_LOW = 1;
const SUBCLUSTERS = 32;
const SECTOR = 512;

export interface Qcow2Map {
  /** Unit 0 is what holds the data clusters; depth is 0 everywhere. */
  readonly map: ExtentMap;
  readonly warnings: readonly string[];
  /** Bytes of the last cluster that the end of the file cut. */
  readonly cutTail: ByteCount;
}

export interface Qcow2MapOptions {
  /**
   * The map that block status needs, which is wrong for reading: data past the end of the file stays data,
   * and subclusters that are unallocated though their cluster has storage are zeros with a place.
   */
  readonly asAllocated?: boolean;
}

/**
 * Reads L1 and L2 tables into a map.
 * @param dataSize size of what holds the data clusters: the image, or its data file
 */
export async function readQcow2Map(
  source: ByteSource,
  header: Qcow2Header,
  dataSize: ByteCount,
  options: Qcow2MapOptions = {},
): Promise<Qcow2Map> {
  const { clusterSize, l2Entries, l1Entries, l1Offset, size } = header;
  const l1Bytes = new Uint8Array(l1Entries * 8);
  await readWhole(source, 'the L1 table', l1Offset, l1Bytes);
  const decoder = new TableDecoder(source.name, header, dataSize, options);
  const tables = decoder.readL1(viewOf(l1Bytes));
  refuseSharedTables(source.name, tables);

  const span = clusterSize * l2Entries;
  let buffer = new Uint8Array(0);
  for (let i = 0; i < l1Entries; ) {
    const first = tables[i]!;
    if (first === 0) {
      decoder.addUnallocated(Math.min(++i * span, size));
      continue;
    }
    let count = 1;
    while (
      i + count < l1Entries &&
      (count + 1) * clusterSize <= QCOW2_L2_READ &&
      tables[i + count] === first + count * clusterSize
    )
      count++;
    if (buffer.length < count * clusterSize) buffer = new Uint8Array(count * clusterSize);
    await readWhole(source, `the L2 table of L1 entry ${i}`, first, buffer.subarray(0, count * clusterSize));
    const view = viewOf(buffer);
    for (let k = 0; k < count; k++, i++)
      decoder.addTable(view, k * clusterSize, i * span, first + k * clusterSize);
  }
  return decoder.finish();
}

/** In the active L1 table every L2 table has one place. Zeros are entries without a table. */
function refuseSharedTables(path: string, tables: Float64Array): void {
  let ascending = true;
  let last = 0;
  for (const offset of tables) {
    if (offset === 0) continue;
    if (offset <= last) ascending = false;
    last = offset;
  }
  if (ascending) return;
  const sorted = tables.slice().sort();
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i] === sorted[i - 1] && sorted[i] !== 0) {
      const reason = 'two L1 entries lead to one L2 table';
      throw new DriftmapError('malformed', reason, { path, offset: sorted[i]! });
    }
  }
}

class TableDecoder {
  private readonly path: string;
  private readonly header: Qcow2Header;
  private readonly dataSize: ByteCount;
  private readonly hasDataFile: boolean;
  private readonly heldKind: Kind;
  /** Where data ends and reads as zeros. */
  private readonly dataEnd: ByteOffset;
  private readonly packedKind: typeof Kind.deflate | typeof Kind.zstd;
  private readonly builder = new ExtentMapBuilder();

  private readonly runs = new JoinedRuns((run) => this.append(run));

  private reserved = 0;
  private firstReserved: ByteOffset = 0;
  private cutTail: ByteCount = 0;

  constructor(path: string, header: Qcow2Header, dataSize: ByteCount, options: Qcow2MapOptions) {
    this.path = path;
    this.header = header;
    this.dataSize = dataSize;
    this.hasDataFile = header.dataFileName !== null;
    this.heldKind = options.asAllocated ? Kind.zero : Kind.unallocated;
    this.dataEnd = options.asAllocated ? Number.POSITIVE_INFINITY : dataSize;
    this.packedKind = header.compression === 'zstd' ? Kind.zstd : Kind.deflate;
  }

  /** Offsets of the L2 tables; 0 where there is none. */
  readL1(l1: DataView): Float64Array {
    const { l1Entries, l1Offset, clusterSize } = this.header;
    const tables = new Float64Array(l1Entries);
    let used = 0;
    for (let i = 0; i < l1Entries; i++) {
      const high = l1.getUint32(8 * i);
      const low = l1.getUint32(8 * i + 4);
      const offset = (high & OFFSET_HIGH) * 2 ** 32 + ((low & OFFSET_LOW) >>> 0);
      if ((high & L1_RESERVED_HIGH) !== 0 || (low & (SECTOR - 1)) !== 0) this.noteReserved(l1Offset + 8 * i);
      if (offset % clusterSize !== 0) {
        throw this.malformed(
          `L1 entry ${i}: expected an L2 table at a cluster boundary, got ${offset}`,
          l1Offset + 8 * i,
        );
      }
      tables[i] = offset;
      if (offset !== 0) used++;
    }
    if (used * clusterSize > QCOW2_MAX_L2_BYTES) {
      const reason = `the image has ${used * clusterSize} bytes of L2 tables: expected at most ${QCOW2_MAX_L2_BYTES}`;
      throw new DriftmapError('limit', reason, { path: this.path, offset: l1Offset });
    }
    return tables;
  }

  /** Everything from where the map stands to `end` is unallocated. */
  addUnallocated(end: ByteOffset): void {
    this.runs.add(Kind.unallocated, -1, end);
  }

  /**
   * Adds what one L2 table says.
   * @param view over the buffer, `at` where in it the table begins
   * @param from the virtual offset of the table's first cluster, `file` the offset of the table in the image
   */
  addTable(view: DataView, at: number, from: ByteOffset, file: ByteOffset): void {
    const { clusterSize, l2Entries, extendedL2, size } = this.header;
    const step = extendedL2 ? 16 : 8;
    const count = Math.min(l2Entries, Math.ceil((size - from) / clusterSize));
    for (let i = 0; i < count; i++) {
      const entry = at + i * step;
      const high = view.getUint32(entry);
      const low = view.getUint32(entry + 4);
      const guest = from + i * clusterSize;
      const end = i + 1 === count ? Math.min(guest + clusterSize, size) : guest + clusterSize;
      if ((high & COMPRESSED_HIGH) !== 0) this.addPacked(high, low, guest, end, file + i * step);
      else if (extendedL2)
        this.addSubclusters(
          high,
          low,
          view.getUint32(entry + 12),
          view.getUint32(entry + 8),
          end,
          file + i * step,
        );
      else this.addCluster(high, low, guest, end, file + i * step);
    }
  }

  finish(): Qcow2Map {
    this.runs.flush();
    const warnings: string[] = [];
    if (this.reserved > 0) {
      const entries = this.reserved === 1 ? 'an entry' : `${this.reserved} entries`;
      warnings.push(
        `${this.path}: reserved bits are set in ${entries} of the L1 and L2 tables, first at offset ${this.firstReserved}: ignored as QEMU does; qemu-img check tells more`,
      );
    }
    if (this.cutTail > 0) {
      warnings.push(
        `${this.path}: the last ${this.cutTail} bytes of the last cluster lie past the end of the file: they read as zeros, as in QEMU`,
      );
    }
    return { map: this.builder.finish(), warnings, cutTail: this.cutTail };
  }

  private addCluster(high: number, low: number, guest: ByteOffset, end: ByteOffset, file: ByteOffset): void {
    const host = (high & OFFSET_HIGH) * 2 ** 32 + ((low & OFFSET_LOW) >>> 0);
    if ((high & L2_RESERVED_HIGH) !== 0 || (low & (SECTOR - 1)) > ZERO_LOW) this.noteReserved(file);
    if ((low & ZERO_LOW) !== 0) {
      if (this.header.version === 2) throw this.malformed('a zero cluster in a version 2 image', file);
      if (host !== 0) this.checkHost(host, low, guest, file);
      this.runs.add(Kind.zero, host === 0 ? -1 : host, end);
    } else if (host === 0 && !(this.hasDataFile && (high & COPIED_HIGH) !== 0)) {
      this.runs.add(Kind.unallocated, -1, end);
    } else {
      this.checkHost(host, low, guest, file);
      if (host >= this.dataSize) throw this.pastEnd('data cluster', host, file);
      this.runs.add(Kind.data, host, end);
    }
  }

  private addSubclusters(
    high: number,
    low: number,
    allocated: number,
    zeros: number,
    end: ByteOffset,
    file: ByteOffset,
  ): void {
    const { clusterSize, size } = this.header;
    const guest = this.runs.end;
    const host = (high & OFFSET_HIGH) * 2 ** 32 + ((low & OFFSET_LOW) >>> 0);
    if ((high & L2_RESERVED_HIGH) !== 0 || (low & (SECTOR - 1)) !== 0) this.noteReserved(file);
    const placed = host !== 0 || (this.hasDataFile && (high & COPIED_HIGH) !== 0);
    if (placed) this.checkHost(host, low, guest, file);
    if ((allocated & zeros) !== 0) throw this.malformed('a subcluster is both allocated and zero', file);
    if (allocated !== 0 && !placed)
      throw this.malformed('a subcluster is allocated in a cluster that is not', file);
    if (allocated !== 0 && host >= this.dataSize) throw this.pastEnd('data cluster', host, file);
    const length = clusterSize / SUBCLUSTERS;
    for (let i = 0; i < SUBCLUSTERS && guest + i * length < end; i++) {
      const data = ((allocated >>> i) & 1) === 1;
      const zero = ((zeros >>> i) & 1) === 1;
      const kind = data ? Kind.data : zero ? Kind.zero : placed ? this.heldKind : Kind.unallocated;
      const place = placed && kind !== Kind.unallocated ? host + i * length : -1;
      this.runs.add(kind, place, Math.min(guest + (i + 1) * length, size));
    }
  }

  /**
   * A compressed cluster: the low x bits are its place, the bits above, up to 61, count the further sectors it
   * reaches into; x = 62 − (cluster_bits − 8), always above 32.
   */
  private addPacked(high: number, low: number, guest: ByteOffset, end: ByteOffset, file: ByteOffset): void {
    const { clusterBits, clusterSize } = this.header;
    if (this.hasDataFile) throw this.malformed('a compressed cluster in an image with a data file', file);
    const placeBits = 70 - clusterBits - 32;
    const place = (high & (2 ** placeBits - 1)) * 2 ** 32 + low;
    const sectors = ((high & 0x3fffffff) >>> placeBits) + 1;
    if (place >= this.dataSize) throw this.pastEnd('compressed cluster', place, file);
    const stored = Math.min(sectors * SECTOR - (place % SECTOR), this.dataSize - place);
    this.runs.skipTo(end);
    this.builder.append({
      offset: guest,
      length: end - guest,
      kind: this.packedKind,
      unit: 0,
      place,
      depth: 0,
      stored,
      cluster: clusterSize,
      skip: 0,
    });
  }

  /** `low` is the entry's low word, in which the bits that alignment rules out all lie. */
  private checkHost(host: ByteOffset, low: number, guest: ByteOffset, file: ByteOffset): void {
    if ((low & OFFSET_LOW & (this.header.clusterSize - 1)) !== 0) {
      throw this.malformed(`expected a cluster at a cluster boundary, got ${host}`, file);
    }
    // Beyond this the offset is no longer exact. Only zero clusters get here: data would lie past the end.
    if (host > MAX_DISK_SIZE - this.header.clusterSize) {
      throw this.malformed(`expected a cluster below 2^53 bytes, got ${host}`, file);
    }
    if (this.hasDataFile && host !== guest) {
      throw this.malformed(
        `expected the data file's cluster at its guest offset ${guest}, got ${host}`,
        file,
      );
    }
  }

  /** Of data, what lies past the end of the file becomes zeros that keep their place. */
  private append({ kind, start, place, end }: JoinedRun): void {
    const inside =
      kind === Kind.data ? Math.max(0, Math.min(end - start, this.dataEnd - place)) : end - start;
    this.builder.append({ offset: start, length: inside, kind, unit: 0, place, depth: 0 });
    const cut = end - start - inside;
    if (cut === 0) return;
    this.cutTail += cut;
    const tail = { offset: start + inside, length: cut, place: place + inside };
    this.builder.append({ ...tail, kind: Kind.zero, unit: 0, depth: 0 });
  }

  private noteReserved(file: ByteOffset): void {
    if (this.reserved++ === 0) this.firstReserved = file;
  }

  private malformed(reason: string, offset: ByteOffset): DriftmapError {
    return new DriftmapError('malformed', `qcow2 tables: ${reason}`, { path: this.path, offset });
  }

  private pastEnd(what: string, place: ByteOffset, file: ByteOffset): DriftmapError {
    const reason = `a ${what} at ${place} lies past the end of the file (${this.dataSize} bytes): the image is cut short or damaged`;
    return this.malformed(reason, file);
  }
}
