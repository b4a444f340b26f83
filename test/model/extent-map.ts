/**
 * The naive extent map: one cell per byte, each saying by itself where that byte lies. Everything that the
 * real maps do with arrays, clipping and cursors is done here byte by byte.
 */

import fc from 'fast-check';
import {
  clip,
  type Extent,
  type ExtentMap,
  ExtentMapBuilder,
  isPacked,
  isZero,
  Kind,
} from '../../src/mapping/extent-map.ts';

/** Where one byte lies: an extent of length 1, without its offset. */
export type Cell = Omit<Extent, 'offset' | 'length'>;

/** An extent without its offset: what a generator strings together. */
export type Part = Omit<Extent, 'offset'>;

/** Unpacked cluster size of generated compressed parts. */
export const CLUSTER = 16;

/** The last cluster sizes and places are small, so that extents often continue one another, or nearly do. */
export const anyPart: fc.Arbitrary<Part> = fc
  .record({
    kind: fc.constantFrom(Kind.unallocated, Kind.zero, Kind.data, Kind.data, Kind.deflate, Kind.zstd),
    length: fc.integer({ min: 1, max: 8 }),
    unit: fc.integer({ min: 0, max: 2 }),
    place: fc.integer({ min: -1, max: 24 }),
    depth: fc.integer({ min: 0, max: 2 }),
    stored: fc.integer({ min: 1, max: 3 }),
    skip: fc.integer({ min: 0, max: CLUSTER - 8 }),
  })
  .map(legal);

export const anyParts = fc.array(anyPart, { maxLength: 12 });
export const someParts = fc.array(anyPart, { minLength: 1, maxLength: 12 });

/** Parts that fit an inner map of `size` bytes: no data and no compressed cluster is placed past its end. */
export function fitted(parts: readonly Part[], size: number): Part[] {
  return parts.map((part) => {
    if (part.place < 0) return part;
    if (size === 0)
      return { kind: Kind.unallocated, length: part.length, unit: 0, place: -1, depth: part.depth };
    if (part.kind !== Kind.data) return { ...part, place: part.place % size };
    const length = Math.min(part.length, size);
    return { ...part, length, place: part.place % (size - length + 1) };
  });
}

/** Makes the fields agree with the kind. */
function legal(part: Required<Omit<Part, 'cluster'>>): Part {
  const { kind, length, unit, depth, stored, skip } = part;
  const place = isZero(kind) ? part.place : Math.max(0, part.place);
  if (isPacked(kind)) return { kind, length, unit, place, depth, stored, cluster: CLUSTER, skip };
  if (kind === Kind.unallocated || place < 0) return { kind, length, unit: 0, place: -1, depth };
  return { kind, length, unit, place, depth };
}

export function mapOfParts(parts: readonly Part[], from = 0): ExtentMap {
  const builder = new ExtentMapBuilder(1);
  if (from > 0)
    builder.append({ offset: 0, length: from, kind: Kind.unallocated, unit: 0, place: -1, depth: 0 });
  for (const part of parts) builder.append({ ...part, offset: builder.size });
  return builder.finish();
}

export function cellsOfParts(parts: readonly Part[]): Cell[] {
  return parts.flatMap(({ length, ...cell }) => Array.from({ length }, (_, moved) => moveCell(cell, moved)));
}

/** The cell `moved` bytes further on in the same extent. */
export function moveCell(cell: Cell, moved: number): Cell {
  if (isPacked(cell.kind)) return { ...cell, skip: cell.skip! + moved };
  return cell.place < 0 ? cell : { ...cell, place: cell.place + moved };
}

/** What a map says of every byte, asked byte by byte. */
export function cellsOfMap(map: ExtentMap): Cell[] {
  return Array.from({ length: map.size }, (_, offset) => cellOf(map.explain(offset)));
}

export function cellOf({ offset: _, length: __, ...cell }: Extent): Cell {
  return cell;
}

/** The extents of cells, merged as far as they go: what a map must hold, no extent more and none less. */
export function extentsOfCells(cells: readonly Cell[], from = 0): Extent[] {
  const extents: Extent[] = [];
  for (const [index, cell] of cells.entries()) {
    const last = extents.at(-1);
    const next = { ...cell, offset: from + index, length: 1 };
    if (last && same(moveCell(cellOf(last), last.length), cell)) {
      extents[extents.length - 1] = { ...last, length: last.length + 1 };
    } else {
      extents.push(next);
    }
  }
  return extents;
}

export function same(a: Cell, b: Cell): boolean {
  return (
    a.kind === b.kind &&
    a.unit === b.unit &&
    a.place === b.place &&
    a.depth === b.depth &&
    a.stored === b.stored &&
    a.cluster === b.cluster &&
    a.skip === b.skip
  );
}

export function naiveOverlay(
  top: readonly Cell[],
  bottom: readonly Cell[],
  shift: { units: number; depth: number },
): Cell[] {
  return top.map((cell, offset) => {
    const below = bottom[offset];
    if (cell.kind !== Kind.unallocated || below === undefined) return cell;
    const unit = below.place < 0 ? 0 : below.unit + shift.units;
    return { ...below, unit, depth: below.depth + shift.depth };
  });
}

/** One cell of a composition, or the kind of error that it must be. */
export function naiveComposeCell(
  cell: Cell,
  inner: readonly (readonly Cell[] | null)[],
  view: number | null,
): Cell | 'malformed' | 'unsupported' {
  const cells = cell.place < 0 ? null : inner[cell.unit]!;
  if (cells === null) return cell;
  const { depth } = cell;
  const found = cells[cell.place];
  if (cell.kind === Kind.zero) {
    const placed = found !== undefined && found.place >= 0 && !isPacked(found.kind);
    return { kind: Kind.zero, unit: placed ? found.unit : 0, place: placed ? found.place : -1, depth };
  }
  if (found === undefined) return 'malformed';
  if (cell.kind === Kind.data)
    return isZero(found.kind) ? { ...found, kind: Kind.zero, depth } : { ...found, depth };
  const stored = Math.min(cell.stored!, cells.length - cell.place);
  for (let byte = 0; byte < stored; byte++) {
    const held = cells[cell.place + byte]!;
    const together = held.kind === Kind.data && held.unit === found.unit && held.place === found.place + byte;
    if (!together) return view === null ? 'unsupported' : { ...cell, stored, unit: view };
  }
  return { ...cell, stored, unit: found.unit, place: found.place };
}

/** The extents of `[from, to)` by filtering all of them. */
export function naiveExtents(extents: readonly Extent[], from: number, to: number): Extent[] {
  return extents
    .filter((extent) => extent.offset < to && extent.offset + extent.length > from && from < to)
    .map((extent) => clip(extent, from, to));
}
