/** MFT records and their attributes by hand, for what no tool makes. They go into a volume by `NaiveNtfs.change`. */

export type Run = readonly [count: number, cluster: number | null];

export interface RecordParts {
  readonly number: number;
  readonly sequence: number;
  /** 1 for a record in use, 3 for a directory. */
  readonly flags?: number;
  readonly base?: { readonly number: number; readonly sequence: number };
  readonly attributes: readonly Uint8Array[];
}

/** Fills a record; the update sequence array is for `change` to fill. */
export function writeRecord(
  bytes: Buffer,
  { number, sequence, flags = 1, base, attributes }: RecordParts,
): void {
  bytes.fill(0);
  bytes.write('FILE', 'latin1');
  const fixups = bytes.length / 512 + 1;
  bytes.writeUInt16LE(48, 4);
  bytes.writeUInt16LE(fixups, 6);
  bytes.writeUInt16LE(sequence, 16);
  bytes.writeUInt16LE(1, 18);
  let at = Math.ceil((48 + 2 * fixups) / 8) * 8;
  bytes.writeUInt16LE(at, 20);
  bytes.writeUInt16LE(flags, 22);
  bytes.writeUInt32LE(bytes.length, 28);
  if (base) bytes.set(referenceTo(base), 32);
  bytes.writeUInt16LE(attributes.length, 40);
  bytes.writeUInt32LE(number, 44);
  bytes.writeUInt16LE(1, 48);
  for (const attribute of attributes) {
    bytes.set(attribute, at);
    at += attribute.length;
  }
  bytes.writeUInt32LE(0xffffffff, at);
  bytes.writeUInt32LE(at + 8, 24);
}

export function referenceTo({ number, sequence }: { number: number; sequence: number }): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUIntLE(number, 0, 6);
  bytes.writeUInt16LE(sequence, 6);
  return bytes;
}

export function resident(type: number, id: number, value: Uint8Array, flags = 0): Buffer {
  const bytes = Buffer.alloc(Math.ceil((24 + value.length) / 8) * 8);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(bytes.length, 4);
  bytes.writeUInt16LE(24, 10);
  bytes.writeUInt16LE(flags, 12);
  bytes.writeUInt16LE(id, 14);
  bytes.writeUInt32LE(value.length, 16);
  bytes.writeUInt16LE(24, 20);
  bytes.set(value, 24);
  return bytes;
}

export interface NonResidentParts {
  readonly type: number;
  readonly id: number;
  readonly flags?: number;
  readonly lowest?: number;
  readonly runs: readonly Run[];
  /** Allocated, size, initialized: of the first extent only. */
  readonly sizes?: readonly [number, number, number];
}

export function nonResident(parts: NonResidentParts): Buffer {
  const { type, id, flags = 0, lowest = 0, runs, sizes = [0, 0, 0] } = parts;
  const pairs = encodeRuns(runs);
  const bytes = Buffer.alloc(Math.ceil((64 + pairs.length) / 8) * 8);
  bytes.writeUInt32LE(type, 0);
  bytes.writeUInt32LE(bytes.length, 4);
  bytes[8] = 1;
  bytes.writeUInt16LE(64, 10);
  bytes.writeUInt16LE(flags, 12);
  bytes.writeUInt16LE(id, 14);
  bytes.writeBigUInt64LE(BigInt(lowest), 16);
  const end = runs.reduce((sum, [count]) => sum + count, lowest);
  bytes.writeBigInt64LE(BigInt(end - 1), 24);
  bytes.writeUInt16LE(64, 32);
  for (const [i, size] of sizes.entries()) bytes.writeBigUInt64LE(BigInt(size), 40 + 8 * i);
  bytes.set(pairs, 64);
  return bytes;
}

export function encodeRuns(runs: readonly Run[]): Buffer {
  const bytes: number[] = [];
  let before = 0;
  for (const [count, cluster] of runs) {
    const counted = signed(count);
    const moved = cluster === null ? [] : signed(cluster - before);
    before = cluster ?? before;
    bytes.push(counted.length + 16 * moved.length, ...counted, ...moved);
  }
  return Buffer.from([...bytes, 0]);
}

/** The least bytes that hold a number and its sign. */
function signed(value: number): number[] {
  for (let length = 1; ; length++) {
    const half = 2 ** (8 * length - 1);
    if (value < -half || value >= half) continue;
    const bytes: number[] = [];
    for (
      let rest = value < 0 ? value + 2 * half : value;
      bytes.length < length;
      rest = Math.floor(rest / 256)
    ) {
      bytes.push(rest % 256);
    }
    return bytes;
  }
}

export interface ListPart {
  readonly type: number;
  readonly id: number;
  readonly lowest?: number;
  readonly record: { readonly number: number; readonly sequence: number };
}

/** The value of an attribute list. */
export function attributeList(parts: readonly ListPart[]): Buffer {
  return Buffer.concat(
    parts.map(({ type, id, lowest = 0, record }) => {
      const bytes = Buffer.alloc(32);
      bytes.writeUInt32LE(type, 0);
      bytes.writeUInt16LE(32, 4);
      bytes[7] = 26;
      bytes.writeBigUInt64LE(BigInt(lowest), 8);
      bytes.set(referenceTo(record), 16);
      bytes.writeUInt16LE(id, 24);
      return bytes;
    }),
  );
}
