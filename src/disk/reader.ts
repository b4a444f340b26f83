/**
 * Reads a virtual disk through its extent map: the scan's hot path, and what `VirtualDisk.read` does.
 *
 * A read gathers: zero and unallocated extents are filled, data extents are read by the unit straight into
 * their part of the target, compressed clusters are unpacked and copied (the last one is kept, so small reads
 * that walk through a cluster unpack it once). While units complete at once no promise is made; at the first
 * one that has to wait, the rest of the read goes on in an async helper.
 *
 * One reader serves one thread. It remembers where it was, so reads that move forward find their extent
 * without a search; the answer never depends on it.
 */

import { DriftmapError } from '../base/errors.ts';
import { checkWithin } from '../base/ranges.ts';
import type { ByteCount, ByteOffset } from '../base/units.ts';
import type { Completion, LogicalUnit } from '../lu/logical-unit.ts';
import { Cursor } from '../mapping/cursor.ts';
import { type ExtentMap, isZero, Kind } from '../mapping/extent-map.ts';
import { HoleHints } from './hole-hints.ts';
import { type Codec, unpackCluster } from './unpack.ts';

export interface MappedUnits {
  readonly name: string;
  readonly map: ExtentMap;
  readonly units: readonly LogicalUnit[];
}

export class DiskReader {
  /** Bytes read from units so far; zeros that are known cost none. */
  bytesRead: ByteCount = 0;

  private readonly name: string;
  private readonly map: ExtentMap;
  private readonly units: readonly LogicalUnit[];
  private readonly cursor: Cursor;
  private readonly hints: readonly HoleHints[];

  /** The compressed cluster unpacked last. */
  private unpackedUnit = -1;
  private unpackedPlace: ByteOffset = -1;
  private unpackedFrom: ByteCount = 0;
  private unpacked: Uint8Array = new Uint8Array(0);

  constructor({ name, map, units }: MappedUnits) {
    this.name = name;
    this.map = map;
    this.units = units;
    this.cursor = new Cursor(map);
    this.hints = units.map((unit) => new HoleHints(unit));
  }

  /**
   * Fills `target` from virtual `offset`.
   * @throws DriftmapError `argument` for a range that does not lie on the disk, `malformed` for a compressed
   *   cluster that does not unpack, and what the units throw
   */
  readInto(offset: ByteOffset, target: Uint8Array): Completion {
    const { length } = target;
    checkWithin({ offset, length }, this.map.size, "the disk's", { path: this.name, operation: 'read' });
    return this.readFrom(offset, target, 0);
  }

  private readFrom(offset: ByteOffset, target: Uint8Array, from: number): Completion {
    const { map } = this;
    for (let done = from; done < target.length; ) {
      const at = offset + done;
      const index = this.cursor.seek(at);
      const end = Math.min(done + map.endOf(index) - at, target.length);
      const pending = this.readExtent(
        index,
        at,
        end - done === target.length ? target : target.subarray(done, end),
      );
      done = end;
      if (pending) return this.readRest(pending, offset, target, done);
    }
    return undefined;
  }

  private async readRest(
    pending: Promise<undefined>,
    offset: ByteOffset,
    target: Uint8Array,
    done: number,
  ): Promise<undefined> {
    await pending;
    const rest = this.readFrom(offset, target, done);
    if (rest) await rest;
    return undefined;
  }

  /** `target` lies within the extent. */
  private readExtent(index: number, at: ByteOffset, target: Uint8Array): Completion {
    const { map } = this;
    const kind = map.kindOf(index);
    if (kind === Kind.data) {
      this.bytesRead += target.length;
      return this.units[map.unitOf(index)]!.read(map.placeOf(index) + (at - map.startOf(index)), target);
    }
    if (isZero(kind)) {
      target.fill(0);
      return undefined;
    }
    return this.readPacked(index, at, target);
  }

  private readPacked(index: number, at: ByteOffset, target: Uint8Array): Completion {
    const { map } = this;
    const unit = map.unitOf(index);
    const place = map.placeOf(index);
    const length = map.storedOf(index);
    const skip = map.skipOf(index) + (at - map.startOf(index));
    // Damaged tables may give one place two lengths, of which only one unpacks.
    if (unit === this.unpackedUnit && place === this.unpackedPlace && length === this.unpackedFrom) {
      return this.copyUnpacked(index, skip, target);
    }
    // A buffer of its own: another read may begin while this one waits.
    const stored = new Uint8Array(length);
    this.bytesRead += stored.length;
    const pending = this.units[unit]!.read(place, stored);
    if (pending === undefined) return this.unpackInto(index, stored, skip, target);
    return pending.then(() => this.unpackInto(index, stored, skip, target));
  }

  private unpackInto(index: number, stored: Uint8Array, skip: ByteCount, target: Uint8Array): undefined {
    const { map } = this;
    const unit = map.unitOf(index);
    const place = map.placeOf(index);
    const context = { path: this.units[unit]!.name, offset: place, length: stored.length, operation: 'read' };
    const unpacked = unpackCluster(codecOf(map.kindOf(index)), stored, map.clusterOf(index), context);
    this.unpackedUnit = unit;
    this.unpackedPlace = place;
    this.unpackedFrom = stored.length;
    this.unpacked = unpacked;
    return this.copyUnpacked(index, skip, target);
  }

  /** Copies from the cluster unpacked last, which in a VMDK may hold less than its size. */
  private copyUnpacked(index: number, skip: ByteCount, target: Uint8Array): undefined {
    const part = this.unpacked.subarray(skip, skip + target.length);
    if (part.length < target.length) {
      const { map } = this;
      const reason = `a compressed cluster is damaged: expected at least ${skip + target.length} bytes unpacked, got ${this.unpacked.length}`;
      const context = { offset: map.placeOf(index), length: map.storedOf(index), operation: 'read' };
      throw new DriftmapError('malformed', reason, { path: this.units[map.unitOf(index)]!.name, ...context });
    }
    target.set(part);
    return undefined;
  }

  /**
   * End of the run of known zeros that begins at `offset`, at most `limit`; `offset` itself where the first
   * byte is not known to be zero. Known are the map's zeros and, in data, the holes that the unit tells of.
   * A promise only where a unit's `extents` gives one. Both numbers lie in `[0, size]`, the first not above
   * the second.
   */
  zeroUntil(offset: ByteOffset, limit: ByteOffset): ByteOffset | Promise<ByteOffset> {
    const { map, cursor } = this;
    for (let at = offset; ; ) {
      if (at < limit) at = Math.min(cursor.zeroUntil(at), limit);
      if (at >= limit) return limit;
      const index = cursor.seek(at);
      if (map.kindOf(index) !== Kind.data) return at;
      const hints = this.hints[map.unitOf(index)]!;
      const shift = map.placeOf(index) - map.startOf(index);
      const pending = hints.prepare(at + shift, at);
      if (pending) return pending.then(() => this.zeroUntil(at, limit));
      const end = Math.min(hints.zeroUntil(at + shift) - shift, map.endOf(index));
      if (end === at) return at;
      at = end;
    }
  }

  /**
   * End of the run that begins at `offset` and is not known to be zero, at most `limit`; `offset` itself
   * where the first byte is known to be zero. Two answers may adjoin: a run may go on beyond its end.
   * Numbers as for `zeroUntil`.
   */
  dataUntil(offset: ByteOffset, limit: ByteOffset): ByteOffset | Promise<ByteOffset> {
    const { map, cursor } = this;
    for (let at = offset; ; ) {
      if (at >= limit) return limit;
      const index = cursor.seek(at);
      const kind = map.kindOf(index);
      if (isZero(kind)) return at;
      let end = map.endOf(index);
      if (kind === Kind.data) {
        const hints = this.hints[map.unitOf(index)]!;
        const shift = map.placeOf(index) - map.startOf(index);
        const pending = hints.prepare(at + shift, at);
        if (pending) return pending.then(() => this.dataUntil(at, limit));
        end = Math.min(hints.dataUntil(at + shift) - shift, end);
        if (end === at) return at;
      }
      at = end;
    }
  }
}

function codecOf(kind: Kind): Codec {
  if (kind === Kind.deflate) return 'deflate';
  return kind === Kind.zstd ? 'zstd' : 'zlib';
}
