/** Thin pool metadata by hand, with checksums of our own: what its tools cannot be made to write. */

const BLOCK = 4096;

/** CRC-32C without the final inversion, bit by bit: a second reading of its definition. */
export function slowCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return crc >>> 0;
}

/** Writes the checksum that a metadata block's contents now have; block 0 is the superblock. */
export function sealThinBlock(bytes: Uint8Array, block: number): void {
  const salt = block === 0 ? 160774 : 121107;
  const sum = (slowCrc32c(bytes.subarray(block * BLOCK + 4, (block + 1) * BLOCK)) ^ salt) >>> 0;
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(block * BLOCK, sum, true);
}

export interface ThinBlocks {
  /** Entries of the node in each block, from block 1 on. */
  readonly nodes: readonly {
    readonly internal?: boolean;
    /** Children and roots are block numbers; mappings are data blocks; details are counts of mapped blocks. */
    readonly kind: 'tree' | 'mappings' | 'details';
    readonly entries: readonly (readonly [key: number | bigint, value: number | bigint])[];
  }[];
  readonly mappingRoot?: number;
  readonly detailsRoot?: number;
  readonly transaction?: number;
  readonly dataBlocks?: number;
  /** In sectors. */
  readonly blockSize?: number;
}

/** By default block 1 is the root of roots, block 2 that of details, and blocks have 64 KiB. */
export function thinMetadata(options: ThinBlocks): Uint8Array {
  const bytes = new Uint8Array((1 + options.nodes.length) * BLOCK);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(32, 27022010n, true);
  view.setUint32(40, 2, true);
  view.setBigUint64(48, BigInt(options.transaction ?? 1), true);
  view.setBigUint64(64, BigInt(options.dataBlocks ?? 1000), true);
  view.setBigUint64(320, BigInt(options.mappingRoot ?? 1), true);
  view.setBigUint64(328, BigInt(options.detailsRoot ?? 2), true);
  view.setUint32(336, options.blockSize ?? 128, true);
  view.setUint32(340, 8, true);
  view.setBigUint64(344, BigInt(bytes.length / BLOCK), true);
  sealThinBlock(bytes, 0);
  for (const [i, { internal = false, kind, entries }] of options.nodes.entries()) {
    const block = i + 1;
    const node = new DataView(bytes.buffer, block * BLOCK, BLOCK);
    const valueSize = kind === 'details' && !internal ? 24 : 8;
    const most = Math.floor((BLOCK - 32) / (8 + valueSize) / 3) * 3;
    node.setUint32(4, internal ? 1 : 2, true);
    node.setBigUint64(8, BigInt(block), true);
    node.setUint32(16, entries.length, true);
    node.setUint32(20, most, true);
    node.setUint32(24, valueSize, true);
    for (const [k, [key, value]] of entries.entries()) {
      node.setBigUint64(32 + 8 * k, BigInt(key), true);
      const stored = kind === 'mappings' && !internal ? BigInt(value) << 24n : BigInt(value);
      node.setBigUint64(32 + 8 * most + valueSize * k, stored, true);
    }
    sealThinBlock(bytes, block);
  }
  return bytes;
}
