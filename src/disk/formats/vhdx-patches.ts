/** Writes that were not made: what a file would hold after them, as a map over the file and the data written. */

import type { ByteCount, ByteOffset } from '../../base/units.ts';
import type { LogicalUnit } from '../../lu/logical-unit.ts';
import { type ExtentMap, ExtentMapBuilder, Kind } from '../../mapping/extent-map.ts';
import type { ByteSource } from './byte-source.ts';

export class Patches {
  /** In the order of writing; a place of −1 is zeros. */
  private readonly offsets: ByteOffset[] = [];
  private readonly lengths: ByteCount[] = [];
  private readonly places: number[] = [];
  private readonly written: Uint8Array[] = [];
  private used: ByteCount = 0;
  /** Where the last byte written ends. */
  end: ByteOffset = 0;

  write(offset: ByteOffset, bytes: Uint8Array): void {
    this.add(offset, bytes.length, this.used);
    this.written.push(bytes);
    this.used += bytes.length;
  }

  zero(offset: ByteOffset, length: ByteCount): void {
    this.add(offset, length, -1);
  }

  private add(offset: ByteOffset, length: ByteCount, place: number): void {
    if (length === 0) return;
    this.offsets.push(offset);
    this.lengths.push(length);
    this.places.push(place);
    this.end = Math.max(this.end, offset + length);
  }

  /** All that was written, one after the other: unit 1 of the map. */
  sectors(): Uint8Array {
    const all = new Uint8Array(this.used);
    let at = 0;
    for (const bytes of this.written) {
      all.set(bytes, at);
      at += bytes.length;
    }
    return all;
  }

  /**
   * The file of `fileSize` bytes as it would be, grown to `size`: unit 0 is the file, unit 1 `sectors()`. A
   * later write goes over an earlier one.
   */
  mapOver(fileSize: ByteCount, size: ByteCount): ExtentMap {
    const edges = this.edges();
    const owners = this.owners(edges);
    const builder = new ExtentMapBuilder(edges.length + 2);
    const file = (end: ByteOffset) => {
      const inside = Math.max(builder.size, Math.min(end, fileSize));
      const at = builder.size;
      builder.append({ offset: at, length: inside - at, kind: Kind.data, unit: 0, place: at, depth: 0 });
      const past = { offset: inside, length: end - inside, unit: 0, place: -1, depth: 0 };
      builder.append({ ...past, kind: Kind.zero });
    };
    for (let i = 0; i + 1 < edges.length; i++) {
      const owner = owners[i]!;
      if (owner < 0) continue;
      const offset = edges[i]!;
      if (offset > builder.size) file(offset);
      const length = edges[i + 1]! - offset;
      const from = this.places[owner]!;
      const place = from < 0 ? -1 : from + (offset - this.offsets[owner]!);
      const kind = from < 0 ? Kind.zero : Kind.data;
      builder.append({ offset, length, kind, unit: 1, place, depth: 0 });
    }
    if (size > builder.size) file(size);
    return builder.finish();
  }

  /** Every offset at which a write begins or ends, once, ascending. */
  private edges(): Float64Array {
    const all = new Float64Array(2 * this.offsets.length);
    this.offsets.forEach((offset, i) => {
      all[2 * i] = offset;
      all[2 * i + 1] = offset + this.lengths[i]!;
    });
    all.sort();
    return all.filter((edge, i) => i === 0 || edge !== all[i - 1]);
  }

  /**
   * Which write holds the run from each edge to the next; −1 for none. From the last write to the first, each
   * takes what is still free; `free` leads from a taken run past all taken ones, so every run is taken once.
   */
  private owners(edges: Float64Array): Int32Array {
    const owners = new Int32Array(edges.length).fill(-1);
    const free = Int32Array.from(edges, (_, i) => i);
    const nextFree = (from: number): number => {
      let end = from;
      while (free[end] !== end) end = free[end]!;
      for (let at = from; at !== end; ) {
        const next = free[at]!;
        free[at] = end;
        at = next;
      }
      return end;
    };
    for (let write = this.offsets.length - 1; write >= 0; write--) {
      const end = this.offsets[write]! + this.lengths[write]!;
      for (let i = nextFree(indexOf(edges, this.offsets[write]!)); edges[i]! < end; i = nextFree(i)) {
        owners[i] = write;
        free[i] = i + 1;
      }
    }
    return owners;
  }
}

/** Index of a value that is in a sorted array. */
function indexOf(sorted: Float64Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! <= value) low = middle;
    else high = middle;
  }
  return low;
}

/** The patched file, for parsers: reads through the map of `Patches.mapOver`. */
export class PatchedFile implements ByteSource {
  readonly name: string;
  readonly size: ByteCount;
  private readonly unit: LogicalUnit;
  private readonly map: ExtentMap;
  private readonly sectors: Uint8Array;

  constructor(unit: LogicalUnit, map: ExtentMap, sectors: Uint8Array) {
    this.name = unit.name;
    this.size = map.size;
    this.unit = unit;
    this.map = map;
    this.sectors = sectors;
  }

  async read(offset: ByteOffset, target: Uint8Array): Promise<undefined> {
    for (const part of this.map.extents({ offset, length: target.length })) {
      const piece = target.subarray(part.offset - offset, part.offset - offset + part.length);
      if (part.place < 0) piece.fill(0);
      else if (part.unit === 1) piece.set(this.sectors.subarray(part.place, part.place + part.length));
      else {
        const pending = this.unit.read(part.place, piece);
        if (pending) await pending;
      }
    }
    return undefined;
  }
}
