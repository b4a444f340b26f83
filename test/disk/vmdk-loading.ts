/** What the tests of VMDK share: the parser run over files in memory or in a folder, and what it found. */

import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { LoadedImage } from '../../src/disk/formats/image.ts';
import { loadVmdk } from '../../src/disk/formats/vmdk.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { type ExtentMap, isPacked, isZero } from '../../src/mapping/extent-map.ts';
import { overlay } from '../../src/mapping/overlay.ts';
import { BytesUnit, type Run } from './images.ts';
import { contentsOf, MOST_COMPARED } from './vhd-loading.ts';

export interface Loaded extends LoadedImage {
  readonly warnings: readonly string[];
}

export type Files = Readonly<Record<string, Uint8Array>>;

/** Loads one of several files that may name one another. */
export async function loadFrom(files: Files, name: string, wait = false): Promise<Loaded> {
  const warnings: string[] = [];
  const open = (wanted: string) => {
    const bytes = files[wanted];
    if (bytes === undefined) throw new DriftmapError('not-found', `no ${wanted}`, { path: name });
    return new BytesUnit(bytes, { name: wanted, wait });
  };
  const unit = open(name);
  const image = await loadVmdk({
    unit,
    path: name,
    warn: (message) => void warnings.push(message),
    open: async (what, wanted) => {
      expect(what).toBe('extent');
      return open(wanted);
    },
  });
  return { ...image, warnings };
}

/** Loads an image file and its parents, and lays them over one another as `openDisk` does. */
export async function loadChain(path: string): Promise<{ map: ExtentMap; units: LogicalUnit[] }> {
  const beside = (name: string) => openFileUnit(join(dirname(path), name));
  const unit = await openFileUnit(path);
  const host = { unit, path, warn: () => {}, open: async (_: string, name: string) => beside(name) };
  const { map, units, backing } = await loadVmdk(host);
  if (backing === null) return { map, units: [...units] };
  expect(backing.format).toBe('vmdk');
  const parent = await beside(backing.name);
  await backing.check!(parent);
  await parent.close();
  const below = await loadChain(join(dirname(path), backing.name));
  return {
    map: overlay(map, below.map, { units: units.length, depth: 1 }),
    units: [...units, ...below.units],
  };
}

export async function closeUnits(units: readonly LogicalUnit[]): Promise<void> {
  for (const unit of units) await unit.close();
}

/** The error of a load that must fail; an `internal` one is a failure of the test. */
export async function refusal(files: Files, name: string): Promise<DriftmapError> {
  const error = await loadFrom(files, name).then(
    () => null,
    (caught: unknown) => caught,
  );
  if (!(error instanceof DriftmapError)) throw error ?? new Error(`${name} was not refused`);
  expect(error.kind).not.toBe('internal');
  expect(error.path).toBeDefined();
  return error;
}

/** The first contents, or null where the image is refused with one of our errors. */
export async function contentsOrNull(files: Files, name: string): Promise<Uint8Array | null> {
  try {
    return await contentsOf(await loadFrom(files, name), MOST_COMPARED);
  } catch (error) {
    if (error instanceof DriftmapError && error.kind !== 'internal') return null;
    throw error;
  }
}

/** The map as `qemu-img map` prints it, neighbours that agree merged. */
export function mapRuns(map: ExtentMap): Run[] {
  return merged(
    [...map.extents()].map(({ offset, length, kind, depth, place }): Run => {
      const zero = Number(isZero(kind));
      return [offset, length, depth, zero, 1 - zero, zero || isPacked(kind) ? null : place];
    }),
  );
}

/** Merges what QEMU keeps apart: for it zeros and what is not allocated differ, and holes of a flat file are zeros. */
export function merged(runs: readonly Run[]): Run[] {
  const found: Run[] = [];
  for (const [start, length, depth, zero, data, offset] of runs) {
    const run: Run = [start, length, depth, zero && !data ? 1 : 0, data, data ? offset : null];
    const last = found.at(-1);
    const continues =
      last !== undefined &&
      last[2] === run[2] &&
      last[3] === run[3] &&
      last[4] === run[4] &&
      (run[5] === null ? last[5] === null : last[5] !== null && last[5] + last[1] === run[5]);
    if (continues) found[found.length - 1] = [last[0], last[1] + length, last[2], last[3], last[4], last[5]];
    else found.push(run);
  }
  return found;
}

export function writeFiles(folder: string, files: Files): void {
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
}
