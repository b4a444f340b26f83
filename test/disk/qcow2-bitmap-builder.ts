/** qcow2 images with persistent bitmaps, by hand: for directories and tables that no tool would write. */

import { buildQcow2, FIRST_DATA } from './qcow2-builder.ts';

export interface BitmapSpec {
  readonly name?: string | Uint8Array;
  readonly granularityBits?: number;
  readonly flags?: number;
  readonly type?: number;
  readonly extra?: number;
  /** Entries of the table: `zeros`, `ones`, a raw entry, or the bytes of a cluster. */
  readonly table?: readonly ('zeros' | 'ones' | bigint | Uint8Array)[];
  /** What the directory says instead of the truth. */
  readonly tableOffset?: bigint;
  readonly tableEntries?: number;
}

export interface BitmapImageSpec {
  readonly clusterBits?: number;
  readonly size: number;
  readonly version?: number;
  /** Autoclear features; bit 0 (consistent) by default. */
  readonly autoclear?: bigint;
  readonly bitmaps: readonly BitmapSpec[];
  /** The last word on the 24 bytes of the extension. */
  readonly patch?: (extension: DataView) => void;
}

const pad8 = (length: number) => Math.ceil(length / 8) * 8;

export function buildBitmapImage(spec: BitmapImageSpec): Uint8Array {
  const { clusterBits = 9, bitmaps } = spec;
  const cluster = 2 ** clusterBits;
  /** Clusters after the image's own tables. */
  const pieces: Uint8Array[] = [];
  const place = (bytes: Uint8Array): bigint => {
    const at = (FIRST_DATA + pieces.length) * cluster;
    for (let from = 0; from === 0 || from < bytes.length; from += cluster) {
      const piece = new Uint8Array(cluster);
      piece.set(bytes.subarray(from, from + cluster));
      pieces.push(piece);
    }
    return BigInt(at);
  };
  const entries = bitmaps.map((bitmap) => directoryEntry(bitmap, place));
  const directory = Buffer.concat(entries);
  const directoryAt = place(directory);
  const extension = new Uint8Array(24);
  const view = new DataView(extension.buffer);
  view.setUint32(0, bitmaps.length);
  view.setBigUint64(8, BigInt(directory.length));
  view.setBigUint64(16, directoryAt);
  spec.patch?.(view);
  const l1Entries = Math.max(1, Math.ceil(spec.size / (cluster * (cluster / 8))));
  const image = buildQcow2({
    clusterBits,
    size: spec.size,
    version: spec.version ?? 3,
    extensions: [{ type: 0x23852875, data: extension }],
    // A large disk's L1 table runs on over what follows it: nobody looks.
    dataClusters: Math.max(pieces.length, Math.ceil((8 * l1Entries) / cluster)),
    patch: (header) => {
      if (spec.version !== 2) header.setBigUint64(88, spec.autoclear ?? 1n);
      header.setUint32(36, l1Entries);
    },
  });
  for (const [i, piece] of pieces.entries()) image.set(piece, (FIRST_DATA + i) * cluster);
  return image;
}

function directoryEntry(bitmap: BitmapSpec, place: (bytes: Uint8Array) => bigint): Uint8Array {
  const { table = ['zeros'], extra = 0 } = bitmap;
  const tableBytes = new Uint8Array(8 * table.length);
  const tableView = new DataView(tableBytes.buffer);
  table.forEach((entry, i) => {
    const value =
      entry === 'zeros' ? 0n : entry === 'ones' ? 1n : typeof entry === 'bigint' ? entry : place(entry);
    tableView.setBigUint64(8 * i, value);
  });
  const tableAt = bitmap.tableOffset ?? place(tableBytes);
  const name =
    typeof bitmap.name === 'object' ? bitmap.name : new TextEncoder().encode(bitmap.name ?? 'marks');
  const bytes = new Uint8Array(pad8(24 + extra + name.length));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, tableAt);
  view.setUint32(8, bitmap.tableEntries ?? table.length);
  view.setUint32(12, bitmap.flags ?? 2);
  bytes[16] = bitmap.type ?? 1;
  bytes[17] = bitmap.granularityBits ?? 9;
  view.setUint16(18, name.length);
  view.setUint32(20, extra);
  bytes.set(name, 24 + extra);
  return bytes;
}
