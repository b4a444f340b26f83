/**
 * Reads a disk as of a point, wherever the disks stand, by the rule of `core.ts`: overwritten data after the point,
 * else new data before it, else the disk.
 *
 * Each segment between is a layer, a map of intervals that it has anyway; only the segment that the point lies in
 * needs a map of its own. So a reader is ready at once whatever the distance, and holds what the cache holds.
 *
 * The disks may be rolled while it reads. What a roll is about to write is in the UNDO direction before, so a run
 * that was read from the disk is looked up once more afterwards: what the journal has of it by then is read from
 * there, and the rest was not written to.
 */

import type { ByteOffset } from '../base/units.ts';
import type { Completion } from '../lu/logical-unit.ts';
import type { Core } from './core.ts';
import { type IntervalMap, type Intervals, ZEROS } from './interval-map.ts';
import type { Sequence } from './record.ts';
import { mapRecords, type Segment } from './segment.ts';
import type { Stream } from './stream.ts';

interface Layer {
  readonly stream: Stream;
  readonly segment: Segment;
  /** Of the segment that the point lies in: a map of the records on this side of it. */
  readonly part: Part | null;
}

interface Part {
  readonly maps: Map<number, IntervalMap>;
  /** Records of the segment that are in the maps, or need not be. */
  taken: number;
}

/** A run `[start, end)` of which the journal has something, or nothing. */
export type OnPiece = (start: ByteOffset, end: ByteOffset, isZero: boolean, source: Source | null) => void;

interface Source {
  readonly stream: Stream;
  readonly segment: Segment;
  readonly place: ByteOffset;
  readonly head: ByteOffset;
}

export class PointReader {
  readonly point: Sequence;
  private readonly core: Core;
  private layers: readonly Layer[] = [];
  /** What the layers were made for. */
  private known = { undo: -1, redo: -1, low: -1 };
  private readonly parts = new Map<Segment, Part>();

  constructor(core: Core, point: Sequence) {
    this.core = core;
    this.point = point;
  }

  /** Fills `target` from `offset` of a disk. Errors as the disk's and as `SegmentReader.read`. */
  read(disk: number, offset: ByteOffset, target: Uint8Array): Completion {
    const gaps = this.fromJournal(disk, offset, target, [offset, offset + target.length]);
    const waits: Promise<undefined>[] = [];
    for (let i = 0; i < gaps.length; i += 2) {
      const unit = this.core.disk(disk);
      const wait = unit.read(gaps[i]!, target.subarray(gaps[i]! - offset, gaps[i + 1]! - offset));
      if (wait) waits.push(wait);
    }
    if (waits.length === 0) return undefined;
    return Promise.all(waits).then(() => {
      this.fromJournal(disk, offset, target, gaps);
      return undefined;
    });
  }

  /** Fills what the journal has of some runs; returns the runs that it does not have, as pairs. */
  private fromJournal(
    disk: number,
    offset: ByteOffset,
    target: Uint8Array,
    runs: readonly number[],
  ): readonly number[] {
    const gaps: number[] = [];
    for (let i = 0; i < runs.length; i += 2) {
      this.pieces(disk, runs[i]!, runs[i + 1]!, (start, end, isZero, source) => {
        if (source === null && !isZero) {
          gaps.push(start, end);
          return;
        }
        const part = target.subarray(start - offset, end - offset);
        if (source === null) part.fill(0);
        else source.stream.readers.of(source.segment).read(source.place, source.head, part);
      });
    }
    return gaps;
  }

  /** Visits `[start, end)` in pieces, in no order: zeros, data of the journal, and (neither) what is the disk's. */
  pieces(disk: number, start: ByteOffset, end: ByteOffset, visit: OnPiece): void {
    let gaps = [start, end];
    for (const layer of this.currentLayers()) {
      if (gaps.length === 0) return;
      const intervals = this.intervalsOf(layer, disk);
      if (intervals === null) continue;
      const next: number[] = [];
      for (let i = 0; i < gaps.length; i += 2) {
        let at = gaps[i]!;
        const to = gaps[i + 1]!;
        intervals.each(at, to, (from, until, place, head) => {
          if (from > at) next.push(at, from);
          at = until;
          const { stream, segment } = layer;
          visit(from, until, place === ZEROS, place === ZEROS ? null : { stream, segment, place, head });
        });
        if (at < to) next.push(at, to);
      }
      gaps = next;
    }
    for (let i = 0; i < gaps.length; i += 2) visit(gaps[i]!, gaps[i + 1]!, false, null);
  }

  /** In the order in which they are asked. */
  private currentLayers(): readonly Layer[] {
    const { undo, redo, low } = this.core;
    const { known } = this;
    if (known.undo === undo.shape && known.redo === redo.shape && known.low === low) return this.layers;
    this.known = { undo: undo.shape, redo: redo.shape, low };
    const { point } = this;
    const layers: Layer[] = [];
    for (const segment of undo.segments) {
      // The active one too, however short: it may grow past the point.
      if (segment.seal !== null && segment.last <= point) continue;
      layers.push({
        stream: undo,
        segment,
        part: segment.first <= point ? this.partOf(segment, point) : null,
      });
    }
    for (let i = redo.segments.length - 1; i >= 0 && point > low; i--) {
      const segment = redo.segments[i]!;
      if (segment.first > point || segment.count === 0) continue;
      if (segment.last <= low) break;
      // The active one grows past the point.
      const isPart = segment.last > point || segment.seal === null;
      layers.push({ stream: redo, segment, part: isPart ? this.partOf(segment, null) : null });
    }
    for (const segment of this.parts.keys()) {
      if (!layers.some((layer) => layer.segment === segment)) this.parts.delete(segment);
    }
    this.layers = layers;
    return layers;
  }

  /** A map of a part of a segment: of records after `after`, or of those up to the point. */
  private partOf(segment: Segment, after: Sequence | null): Part {
    let part = this.parts.get(segment);
    if (part === undefined) {
      part = { maps: new Map(), taken: after === null ? 0 : after + 1 - segment.first };
      this.parts.set(segment, part);
    }
    return part;
  }

  private intervalsOf({ stream, segment, part }: Layer, disk: number): Intervals | null {
    const reader = stream.readers.of(segment);
    if (part === null) return reader.intervals(disk);
    const through =
      segment.direction === 'undo' ? segment.count : Math.min(segment.count, this.point + 1 - segment.first);
    if (part.taken < through) {
      mapRecords(reader.records(), part.taken, through, segment.direction, part.maps);
      part.taken = through;
    }
    return part.maps.get(disk) ?? null;
  }
}
