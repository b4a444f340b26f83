/**
 * qcow2 images as bytes, written by hand from the specification: for headers and tables that no tool would
 * write. One L1 entry, one L2 table, data clusters after them.
 */

export interface Qcow2Spec {
  readonly version?: number;
  readonly clusterBits?: number;
  readonly size?: number;
  /** L2 entries as [entry, bitmap]; the bitmap only with extended L2 entries. */
  readonly entries?: readonly (readonly [bigint, bigint?])[];
  /** Clusters of data after the tables; cluster i is filled with the byte i + 1. */
  readonly dataClusters?: number;
  readonly incompatible?: bigint;
  readonly compressionType?: number;
  readonly backing?: string;
  readonly extensions?: readonly { readonly type: number; readonly data: Uint8Array }[];
  /** The last word on the header. */
  readonly patch?: (header: DataView) => void;
}

/** Clusters before the data: header, refcount table, L1 table, L2 table. */
export const FIRST_DATA = 4;

export function buildQcow2(spec: Qcow2Spec): Uint8Array {
  const { version = 3, clusterBits = 16, entries = [], dataClusters = 0, incompatible = 0n } = spec;
  const cluster = 2 ** clusterBits;
  const image = new Uint8Array((FIRST_DATA + dataClusters) * cluster);
  const view = new DataView(image.buffer);
  const extended = (incompatible & 16n) !== 0n;
  const length = version === 2 ? 72 : 112;
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, version);
  view.setUint32(20, clusterBits);
  view.setBigUint64(24, BigInt(spec.size ?? entries.length * cluster));
  view.setUint32(36, 1);
  view.setBigUint64(40, BigInt(2 * cluster));
  view.setBigUint64(48, BigInt(cluster));
  view.setUint32(56, 1);
  if (version > 2) {
    view.setBigUint64(72, incompatible);
    view.setUint32(96, 4);
    view.setUint32(100, length);
    view.setUint8(104, spec.compressionType ?? 0);
  }
  let at = length;
  for (const { type, data } of spec.extensions ?? []) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    image.set(data, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  }
  if (spec.backing !== undefined) {
    const name = new TextEncoder().encode(spec.backing);
    view.setBigUint64(8, BigInt(at + 8));
    view.setUint32(16, name.length);
    image.set(name, at + 8);
  }
  view.setBigUint64(2 * cluster, (1n << 63n) | BigInt(3 * cluster));
  entries.forEach(([entry, bitmap = 0n], i) => {
    const place = 3 * cluster + i * (extended ? 16 : 8);
    view.setBigUint64(place, entry);
    if (extended) view.setBigUint64(place + 8, bitmap);
  });
  for (let i = 0; i < dataClusters; i++) {
    image.fill((i % 255) + 1, (FIRST_DATA + i) * cluster, (FIRST_DATA + i + 1) * cluster);
  }
  spec.patch?.(view);
  return image;
}

/** The entry of a plain data cluster: data cluster `i`, with a reference count of one. */
export function dataEntry(i: number, clusterBits = 16): bigint {
  return (1n << 63n) | BigInt((FIRST_DATA + i) * 2 ** clusterBits);
}
