/** Random disks of several kinds over the same contents, and indexes of them, for the tests of indexed scans. */

import { closeSync, openSync, statSync, utimesSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { openDisk } from '../../src/disk/open.ts';
import type { VirtualDisk } from '../../src/disk/virtual-disk.ts';
import { buildIndex } from '../../src/scan/index-build.ts';
import { openIndex, type SignatureIndex } from '../../src/signature/index-file.ts';
import { buildQcow2, FIRST_DATA } from '../disk/qcow2-builder.ts';

/** Where each cluster of a disk's contents goes. */
export type Placement = 'image' | 'backing' | 'nowhere';

export interface DiskSpec {
  readonly clusterBits: number;
  /** Clusters of the file before the first data cluster, beside the tables: shifts every place. */
  readonly shift: number;
  readonly clusters: readonly { readonly placement: Placement; readonly fill: number }[];
  /** How the clusters are ordered in the file: by sorting on this hash. */
  readonly order: number;
  /** Cut off the disk's end, in sectors. */
  readonly cut: number;
}

export const diskSpec: fc.Arbitrary<DiskSpec> = fc.record({
  clusterBits: fc.constantFrom(9, 12, 13),
  shift: fc.integer({ min: 0, max: 3 }),
  clusters: fc.array(
    fc.record({
      placement: fc.constantFrom<Placement>('image', 'image', 'image', 'backing', 'nowhere'),
      fill: fc.constantFrom(0, 1, 2, 3),
    }),
    { minLength: 4, maxLength: 48 },
  ),
  order: fc.constantFrom(0, 0, 1),
  cut: fc.constantFrom(0, 0, 1),
});

/** The bytes of one cluster: a page of zeros, or data that tells where it belongs. */
function clusterBytes(fill: number, index: number, size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  if (fill === 0) return bytes;
  for (let i = 0; i < size; i++) bytes[i] = (Math.imul(i + index * size + fill, 2654435761) >>> 24) | 1;
  return bytes;
}

/** What the disk holds. */
export function contentsOfSpec({ clusterBits, clusters, cut }: DiskSpec): Uint8Array {
  const size = 2 ** clusterBits;
  const bytes = new Uint8Array(clusters.length * size - cut * (size / 2));
  clusters.forEach(({ placement, fill }, i) => {
    const cluster = placement === 'nowhere' ? new Uint8Array(size) : clusterBytes(fill, i, size);
    bytes.set(cluster.subarray(0, Math.min(size, bytes.length - i * size)), i * size);
  });
  return bytes;
}

/** Writes the disk as a qcow2 image over a raw backing file; returns the image's path. */
export function writeSpec(spec: DiskSpec, folder: string, name: string): string {
  const { clusterBits, clusters, shift, order } = spec;
  const size = 2 ** clusterBits;
  const contents = contentsOfSpec(spec);
  const backing = new Uint8Array(clusters.length * size);
  const inImage = clusters.flatMap(({ placement }, i) => (placement === 'image' ? [i] : []));
  if (order === 1) inImage.sort((a, b) => ((a * 7) % 11) - ((b * 7) % 11));
  const image = buildQcow2({
    clusterBits,
    size: contents.length,
    backing: `${name}.base`,
    extensions: [{ type: 0xe2792aca, data: new TextEncoder().encode('raw') }],
    entries: clusters.map(({ placement }, i) => {
      if (placement !== 'image') return placement === 'nowhere' ? [1n] : [0n];
      return [(1n << 63n) | BigInt((FIRST_DATA + shift + inImage.indexOf(i)) * size)];
    }),
    dataClusters: shift + inImage.length,
  });
  clusters.forEach(({ placement, fill }, i) => {
    const cluster = clusterBytes(fill, i, size);
    if (placement === 'image') image.set(cluster, (FIRST_DATA + shift + inImage.indexOf(i)) * size);
    if (placement === 'backing') backing.set(cluster, i * size);
  });
  writeFileSync(join(folder, `${name}.base`), backing);
  writeFileSync(join(folder, `${name}.qcow2`), image);
  return join(folder, `${name}.qcow2`);
}

/** Which indexes a side has. */
export type Indexing = 'none' | 'disk' | 'units' | 'first unit';

/** Builds the indexes of a disk that lies in files, and opens them. */
export async function indexesOf(
  disk: VirtualDisk,
  how: Indexing,
  { blockSize, folder, name }: { blockSize: number; folder: string; name: string },
): Promise<SignatureIndex[]> {
  if (how === 'none') return [];
  const made: SignatureIndex[] = [];
  const make = async (of: Parameters<typeof buildIndex>[0]['of']) => {
    const path = join(folder, `${name}-${made.length}.sig`);
    await buildIndex({ of, path, blockSize, workers: 1 });
    made.push(openIndex(path));
  };
  if (how === 'disk') await make(disk);
  else for (const unit of how === 'units' ? disk.units : disk.units.slice(0, 1)) await make(unit);
  return made;
}

/** Changes one byte of a file, and leaves its modification time as it was when `quietly`. */
export function changeByte(path: string, offset: number, quietly = false): void {
  const { atime, mtime } = statSync(path);
  const fd = openSync(path, 'r+');
  try {
    writeSync(fd, new Uint8Array([0xee]), 0, 1, offset);
  } finally {
    closeSync(fd);
  }
  if (quietly) utimesSync(path, atime, mtime);
}

export async function openRaw(path: string): Promise<VirtualDisk> {
  return openDisk(path, { format: 'raw' });
}
