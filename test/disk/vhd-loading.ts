/** What the tests of VHD, VHDX and VDI share: a parser run over a unit, and what it found read back. */

import { expect } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import type { BackingImage, ImageHost, LoadedImage } from '../../src/disk/formats/image.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import type { ExtentMap } from '../../src/mapping/extent-map.ts';
import { overlay } from '../../src/mapping/overlay.ts';

export type Loader = (host: ImageHost) => Promise<LoadedImage>;

export interface Loaded extends LoadedImage {
  readonly warnings: readonly string[];
}

export async function load(loader: Loader, unit: LogicalUnit): Promise<Loaded> {
  const warnings: string[] = [];
  const host: ImageHost = {
    unit,
    path: unit.name,
    warn: (message) => void warnings.push(message),
    open: () => Promise.reject(new Error('no image of these formats opens another file')),
  };
  const { map, units, backing } = await loader(host);
  // Warnings go on coming while the parent is checked.
  return { map, units, backing, warnings };
}

export async function contentsOf(
  image: { readonly map: ExtentMap; readonly units: readonly LogicalUnit[] },
  most = Number.POSITIVE_INFINITY,
): Promise<Uint8Array> {
  const { map, units } = image;
  const bytes = new Uint8Array(Math.min(map.size, most));
  const reader = new DiskReader({ name: 'test', map, units });
  for (let at = 0; at < bytes.length; at += 1 << 20) {
    const pending = reader.readInto(at, bytes.subarray(at, Math.min(at + (1 << 20), bytes.length)));
    if (pending) await pending;
  }
  return bytes;
}

/** A child over its parent, as `openDisk` lays them. */
export function over(top: LoadedImage, bottom: LoadedImage): { map: ExtentMap; units: LogicalUnit[] } {
  const map = overlay(top.map, bottom.map, { units: top.units.length, depth: 1 });
  return { map, units: [...top.units, ...bottom.units] };
}

export function parentOf({ backing }: LoadedImage): BackingImage {
  expect(backing).not.toBeNull();
  return backing!;
}

/** The error of a load that must fail; an `internal` one is a failure of the test. */
export async function refusalOf(loader: Loader, unit: LogicalUnit): Promise<DriftmapError> {
  const error = await load(loader, unit).then(
    () => null,
    (caught: unknown) => caught,
  );
  if (!(error instanceof DriftmapError)) throw error ?? new Error(`${unit.name} was not refused`);
  expect(error.kind).not.toBe('internal');
  expect(error.path).toBe(unit.name);
  return error;
}

/** How much of a damaged image is read and compared: damage may make it any size. */
export const MOST_COMPARED = 8 * 2 ** 20;

/** The first contents, or null where the image is refused with one of our errors. */
export async function contentsOrRefusal(loader: Loader, unit: LogicalUnit): Promise<Uint8Array | null> {
  try {
    return await contentsOf(await load(loader, unit), MOST_COMPARED);
  } catch (error) {
    if (error instanceof DriftmapError && error.kind !== 'internal') return null;
    throw error;
  }
}

/** What one-byte damage takes its time from. */
export const fuzzSeconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 4);

/** A small generator of numbers, so that a failure can be repeated by its seed. */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

export function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
