/** Partition tables by hand, for either sector size, with both copies. */

import { crc32 } from 'node:zlib';

export interface GptEntry {
  readonly first: number;
  readonly last: number;
  readonly name?: string;
}

export interface GptDisk {
  readonly bytes: Uint8Array;
  readonly sectorSize: number;
  /** Byte ranges of what a reader goes by, `[offset, length]`. */
  readonly metadata: readonly (readonly [number, number])[];
}

const ENTRIES = 128;
/** Linux filesystem data, as it lies in an entry. */
const TYPE = Buffer.from('af3dc60f838472478e793d69d8477de4', 'hex');

export function gptDisk(sectors: number, sectorSize: number, entries: readonly GptEntry[]): GptDisk {
  const bytes = new Uint8Array(sectors * sectorSize);
  const view = new DataView(bytes.buffer);
  bytes.set([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0], 446);
  view.setUint32(446 + 12, sectors - 1, true);
  bytes.set([0x55, 0xaa], 510);
  const table = (ENTRIES * 128) / sectorSize;
  for (const [lba, alternate, at] of [
    [1, sectors - 1, 2],
    [sectors - 1, 1, sectors - 1 - table],
  ] as const) {
    writeEntries(bytes, at * sectorSize, entries);
    writeHeader(bytes, { sectorSize, lba, alternate, at, sectors, table });
    sealGpt(bytes, lba * sectorSize, sectorSize);
  }
  return {
    bytes,
    sectorSize,
    metadata: [
      [sectorSize, (1 + table) * sectorSize],
      [(sectors - 1 - table) * sectorSize, (1 + table) * sectorSize],
    ],
  };
}

function writeEntries(bytes: Uint8Array, offset: number, entries: readonly GptEntry[]): void {
  const view = new DataView(bytes.buffer);
  for (const [i, { first, last, name = '' }] of entries.entries()) {
    const at = offset + i * 128;
    bytes.set(TYPE, at);
    bytes[at + 16] = i + 1;
    view.setBigUint64(at + 32, BigInt(first), true);
    view.setBigUint64(at + 40, BigInt(last), true);
    bytes.set(Buffer.from(name, 'utf16le').subarray(0, 72), at + 56);
  }
}

function writeHeader(
  bytes: Uint8Array,
  place: { sectorSize: number; lba: number; alternate: number; at: number; sectors: number; table: number },
): void {
  const { sectorSize, lba, alternate, at, sectors, table } = place;
  const view = new DataView(bytes.buffer, lba * sectorSize, sectorSize);
  bytes.set(Buffer.from('EFI PART'), lba * sectorSize);
  view.setUint32(8, 0x10000, true);
  view.setUint32(12, 92, true);
  view.setBigUint64(24, BigInt(lba), true);
  view.setBigUint64(32, BigInt(alternate), true);
  view.setBigUint64(40, BigInt(2 + table), true);
  view.setBigUint64(48, BigInt(sectors - 2 - table), true);
  view.setBigUint64(56, 0x1234n, true);
  view.setBigUint64(72, BigInt(at), true);
  view.setUint32(80, ENTRIES, true);
  view.setUint32(84, 128, true);
}

/** Writes the checksums that a copy's contents now have; `header` is its byte offset. */
export function sealGpt(bytes: Uint8Array, header: number, sectorSize: number): void {
  const view = new DataView(bytes.buffer);
  const at = Number(view.getBigUint64(header + 72, true)) * sectorSize;
  const length = view.getUint32(header + 80, true) * view.getUint32(header + 84, true);
  if (at + length <= bytes.length) view.setUint32(header + 88, crc32(bytes.subarray(at, at + length)), true);
  const headerSize = Math.min(view.getUint32(header + 12, true), sectorSize);
  view.setUint32(header + 16, 0, true);
  view.setUint32(header + 16, crc32(bytes.subarray(header, header + headerSize)), true);
}
