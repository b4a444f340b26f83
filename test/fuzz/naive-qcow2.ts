/**
 * A second reading of the qcow2 specification, as slow and plain as can be: what an image's bytes say its
 * disk holds, cluster by cluster, in BigInts, with nothing taken from src/. And the images to damage.
 */

import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { buildQcow2, dataEntry, FIRST_DATA } from '../disk/qcow2-builder.ts';

/** Throws where the tables lead to nothing that can be read. */
export function naiveContents(image: Uint8Array): Uint8Array {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  const version = view.getUint32(4);
  const bits = view.getUint32(20);
  const cluster = 1n << BigInt(bits);
  const features = version === 3 ? view.getBigUint64(72) : 0n;
  const extended = (features & 16n) !== 0n;
  const size = view.getBigUint64(24);
  const perTable = cluster / (extended ? 16n : 8n);
  const word = (at: bigint) => view.getBigUint64(Number(at));
  const contents = new Uint8Array(Number(size));
  for (let guest = 0n; guest < size; guest += cluster) {
    const index = guest / cluster;
    const l1 = word(view.getBigUint64(40) + 8n * (index / perTable));
    const table = l1 & 0x00fffffffffffe00n;
    if (table === 0n) continue;
    if (table % cluster !== 0n) throw new Error('L2 table off its boundary');
    const at = table + (index % perTable) * (extended ? 16n : 8n);
    const entry = word(at);
    const target = contents.subarray(Number(guest), Number(guest + cluster < size ? guest + cluster : size));
    if ((entry >> 62n) & 1n) target.set(naiveUnpacked(image, entry, bits).subarray(0, target.length));
    else if (extended) naiveSubclusters(image, entry, word(at + 8n), cluster, target);
    else naiveCluster(image, entry, version, cluster, target);
  }
  return contents;
}

function naiveCluster(
  image: Uint8Array,
  entry: bigint,
  version: number,
  cluster: bigint,
  target: Uint8Array,
): void {
  const host = entry & 0x00fffffffffffe00n;
  if (host % cluster !== 0n) throw new Error('cluster off its boundary');
  if ((entry & 1n) !== 0n) {
    if (version === 2) throw new Error('zero cluster in version 2');
    return;
  }
  if (host !== 0n) copy(image, host, host, target);
}

function naiveSubclusters(
  image: Uint8Array,
  entry: bigint,
  bitmap: bigint,
  cluster: bigint,
  target: Uint8Array,
): void {
  const host = entry & 0x00fffffffffffe00n;
  const length = cluster / 32n;
  if (host % cluster !== 0n) throw new Error('cluster off its boundary');
  for (let i = 0n; i < 32n; i++) {
    const allocated = (bitmap >> i) & 1n;
    const zero = (bitmap >> (i + 32n)) & 1n;
    if (allocated && (zero || host === 0n)) throw new Error('a subcluster that cannot be');
    if (allocated)
      copy(image, host, host + i * length, target.subarray(Number(i * length), Number((i + 1n) * length)));
  }
}

/** A cluster that begins in the file may be cut by its end; one that begins past it is nowhere. */
function copy(image: Uint8Array, cluster: bigint, from: bigint, target: Uint8Array): void {
  if (cluster >= BigInt(image.length)) throw new Error('cluster past the end');
  const bytes = image.subarray(Number(from), Number(from) + target.length);
  target.set(bytes);
  target.fill(0, bytes.length);
}

function naiveUnpacked(image: Uint8Array, entry: bigint, bits: number): Uint8Array {
  const x = BigInt(62 - (bits - 8));
  const place = entry & ((1n << x) - 1n);
  const sectors = ((entry & ((1n << 62n) - 1n)) >> x) + 1n;
  if (place >= BigInt(image.length)) throw new Error('compressed cluster past the end');
  const end = (place / 512n + sectors) * 512n;
  const cluster = 2 ** bits;
  const options = { windowBits: 12, maxOutputLength: cluster, finishFlush: 2 };
  const bytes = inflateRawSync(image.subarray(Number(place), Number(end)), options);
  if (bytes.length !== cluster) throw new Error('not a whole cluster');
  return bytes;
}

/** Every kind of cluster, in 512-byte clusters. */
export function plainImage(): Uint8Array {
  const clusterBits = 9;
  const packed = [9, 8].map((seed) =>
    deflateRawSync(
      Uint8Array.from({ length: 512 }, (_, i) => (i * seed) & 0x3f),
      { windowBits: 12 },
    ),
  );
  const last = (FIRST_DATA + 19) * 512;
  const packedEntry = (place: number) => (1n << 62n) | BigInt(place);
  const entries: [bigint][] = [];
  for (let i = 0; i < 16; i++) entries.push([dataEntry(i, clusterBits)]);
  entries.push(
    [0n],
    [1n],
    [dataEntry(16, clusterBits) | 1n],
    [dataEntry(18, clusterBits)],
    [dataEntry(17, clusterBits)],
  );
  entries.push([packedEntry(last + 3)], [packedEntry(last + 3 + packed[0]!.length)], [0n]);
  for (let i = 0; i < 8; i++) entries.push([dataEntry(7 - i, clusterBits)]);
  const image = buildQcow2({ clusterBits, entries, dataClusters: 20, size: entries.length * 512 - 100 });
  image.fill(0, last, last + 3);
  image.set(packed[0]!, last + 3);
  image.set(packed[1]!, last + 3 + packed[0]!.length);
  return image;
}

/** Every kind of subcluster, in 16 KiB clusters. */
export function extendedImage(): Uint8Array {
  const clusterBits = 14;
  const entries: [bigint, bigint][] = [
    [dataEntry(0, clusterBits), 0xffffffffn],
    [dataEntry(1, clusterBits), 0x00f000f0_f00f0f0fn],
    [dataEntry(2, clusterBits), 0xffffffff_00000000n],
    [0n, 0x0000ffff_00000000n],
    [0n, 0n],
    [dataEntry(3, clusterBits), 0n],
  ];
  return buildQcow2({ clusterBits, entries, dataClusters: 4, incompatible: 16n });
}

/** Where damage matters: header, L1 and L2 entries that are used, and some of what is not. */
export function metadataOf(image: Uint8Array): number[] {
  const cluster = 2 ** new DataView(image.buffer).getUint32(20);
  return [0, 1, 2, 3].flatMap((i) => Array.from({ length: 300 }, (_, k) => i * cluster + k));
}
