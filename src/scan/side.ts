/**
 * One side of a comparison as a worker sees it: a virtual disk that reads as zeros past its own end, and
 * whose bytes are hashed where they lie when they lie in shared memory.
 */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import { DiskReader } from '../disk/reader.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { ArrayImage } from '../lu/array-image.ts';
import type { Completion } from '../lu/logical-unit.ts';
import { Cursor } from '../mapping/cursor.ts';
import { Kind } from '../mapping/extent-map.ts';

/** Bytes that need no reading: a place in the shared memory of an array image. */
export interface InPlace {
  readonly image: ArrayImage;
  readonly bank: number;
  readonly pointer: number;
}

export class Side {
  readonly disk: VirtualDisk;
  private readonly reader: DiskReader;
  /** Per unit: itself where it is an array image. */
  readonly images: readonly (ArrayImage | null)[];
  private readonly hasImages: boolean;
  private readonly cursor: Cursor;

  constructor(disk: VirtualDisk) {
    this.disk = disk;
    this.reader = new DiskReader(disk);
    this.cursor = new Cursor(disk.map);
    this.images = disk.units.map((unit) => (unit instanceof ArrayImage ? unit : null));
    this.hasImages = this.images.some((image) => image !== null);
  }

  get readBytes(): ByteCount {
    return this.reader.bytesRead;
  }

  /** End of the run of known zeros that begins at `offset`, at most `limit`; `offset` when it is not known to be zero. */
  zeroUntil(offset: ByteOffset, limit: ByteOffset): ByteOffset | Promise<ByteOffset> {
    if (offset >= this.disk.size) return limit;
    if (limit <= this.disk.size) return this.reader.zeroUntil(offset, limit);
    const end = this.reader.zeroUntil(offset, this.disk.size);
    if (typeof end === 'number') return end === this.disk.size ? limit : end;
    return end.then((known) => (known === this.disk.size ? limit : known));
  }

  /** End of the run that is not known to be zero, at most `limit`. */
  dataUntil(offset: ByteOffset, limit: ByteOffset): ByteOffset | Promise<ByteOffset> {
    if (offset >= this.disk.size) return offset;
    return this.reader.dataUntil(offset, Math.min(limit, this.disk.size));
  }

  /** Fills `target` from `offset`. */
  read(offset: ByteOffset, target: Uint8Array): Completion {
    const inside = Math.max(0, Math.min(target.length, this.disk.size - offset));
    if (inside === target.length) return this.reader.readInto(offset, target);
    target.fill(0, inside);
    return inside === 0 ? undefined : this.reader.readInto(offset, target.subarray(0, inside));
  }

  /** Where the bytes `[offset, offset + length)` lie in one array image's bank; null when they have to be gathered. */
  inPlace(offset: ByteOffset, length: ByteCount): InPlace | null {
    if (!this.hasImages || offset + length > this.disk.size) return null;
    const { map } = this.disk;
    const index = this.cursor.seek(offset);
    if (map.kindOf(index) !== Kind.data || map.endOf(index) < offset + length) return null;
    const image = this.images[map.unitOf(index)];
    if (!image) return null;
    const place = image.locate(map.placeOf(index) + offset - map.startOf(index));
    return place.room >= length ? { image, bank: place.bank, pointer: place.pointer } : null;
  }
}
