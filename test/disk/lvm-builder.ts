/** Physical volumes of LVM2 by hand: what its tools cannot be made to write, with checksums of our own. */

/** LVM's CRC-32, bit by bit: a second reading of its definition. */
export function slowLvmChecksum(bytes: Uint8Array): number {
  let crc = 0xf597a6cf;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return crc >>> 0;
}

export interface AreaOptions {
  readonly offset: number;
  readonly length: number;
  /** Null: an area without a text. */
  readonly text: string | null;
  /** Where in the ring the text begins; the first place by default. */
  readonly at?: number;
  readonly ignored?: boolean;
}

export interface PhysicalVolumeOptions {
  readonly uuid: string;
  readonly size: number;
  readonly areas: readonly AreaOptions[];
  readonly labelSector?: number;
}

export function physicalVolume(options: PhysicalVolumeOptions): Uint8Array {
  const bytes = new Uint8Array(options.size);
  const view = new DataView(bytes.buffer);
  const label = 512 * (options.labelSector ?? 1);
  bytes.set(Buffer.from('LABELONE'), label);
  view.setBigUint64(label + 8, BigInt(label / 512), true);
  view.setUint32(label + 20, 32, true);
  bytes.set(Buffer.from('LVM2 001'), label + 24);
  bytes.set(Buffer.from(options.uuid), label + 32);
  view.setBigUint64(label + 64, BigInt(options.size), true);
  view.setBigUint64(label + 72, 1n << 20n, true);
  let at = label + 72 + 32;
  for (const area of options.areas) {
    view.setBigUint64(at, BigInt(area.offset), true);
    view.setBigUint64(at + 8, BigInt(area.length), true);
    at += 16;
    writeArea(bytes, area);
  }
  sealLabel(bytes, label);
  return bytes;
}

function writeArea(bytes: Uint8Array, { offset, length, text, at = 512, ignored }: AreaOptions): void {
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(' LVM2 x[5A%r0N*>'), offset + 4);
  view.setUint32(offset + 20, 1, true);
  view.setBigUint64(offset + 24, BigInt(offset), true);
  view.setBigUint64(offset + 32, BigInt(length), true);
  if (text !== null) {
    const stored = Buffer.from(`${text}\0`, 'latin1');
    for (const [i, byte] of stored.entries()) {
      const place = at + i < length ? at + i : at + i - length + 512;
      bytes[offset + place] = byte;
    }
    view.setBigUint64(offset + 40, BigInt(at), true);
    view.setBigUint64(offset + 48, BigInt(stored.length), true);
    view.setUint32(offset + 56, slowLvmChecksum(stored), true);
    view.setUint32(offset + 60, ignored ? 1 : 0, true);
  }
  sealArea(bytes, offset);
}

/** Writes the checksum that a label's contents now have. */
export function sealLabel(bytes: Uint8Array, label = 512): void {
  const sum = slowLvmChecksum(bytes.subarray(label + 20, label + 512));
  new DataView(bytes.buffer).setUint32(label + 16, sum, true);
}

/** The same for the header of a metadata area. */
export function sealArea(bytes: Uint8Array, offset: number): void {
  const sum = slowLvmChecksum(bytes.subarray(offset + 4, offset + 512));
  new DataView(bytes.buffer).setUint32(offset, sum, true);
}

export interface GroupOptions {
  readonly name?: string;
  readonly id?: string;
  readonly sequence?: number;
  /** In sectors; 8 by default, so that units stay small. */
  readonly extentSize?: number;
  readonly physical: readonly {
    readonly name: string;
    readonly uuid: string;
    /** In sectors; 2048 by default. */
    readonly start?: number;
    readonly extents: number;
    readonly missing?: boolean;
  }[];
  /** Bodies of segments, by volume; a name that begins with a dot is hidden (and stands without the dot). */
  readonly volumes: Readonly<Record<string, readonly string[]>>;
}

export function groupText(options: GroupOptions): string {
  const physical = options.physical.map(
    ({ name, uuid, start = 2048, extents, missing }) => `${name} {
id = "${dashed(uuid)}"
device = "/dev/loop0"
status = ["ALLOCATABLE"]
flags = [${missing ? '"MISSING"' : ''}]
pe_start = ${start}
pe_count = ${extents}
}`,
  );
  const logical = Object.entries(options.volumes).map(([name, segments], index) => {
    const body = segments.map((segment, i) => `segment${i + 1} {\n${segment}\n}`).join('\n');
    const status = name.startsWith('.') ? '"READ", "WRITE"' : '"READ", "WRITE", "VISIBLE"';
    const id = `LOGIC0-0000-0000-0000-0000-0000-${String(index).padStart(6, '0')}`;
    return `${name.replace(/^\./, '')} {\nid = "${id}"\nstatus = [${status}]\nsegment_count = ${segments.length}\n\n${body}\n}`;
  });
  return `${options.name ?? 'vg'} {
id = "${options.id ?? 'GROUP0-0000-0000-0000-0000-0000-000000'}"
seqno = ${options.sequence ?? 1}
format = "lvm2"	# informational
status = ["RESIZEABLE", "READ", "WRITE"]
extent_size = ${options.extentSize ?? 8}
physical_volumes {
${physical.join('\n')}
}
logical_volumes {
${logical.join('\n')}
}
}
# Made by a test
contents = "Text Format Volume Group"
version = 1
description = "a \\"quoted\\" word"
creation_time = 1795413610
`;
}

/** The body of a segment of one run or of stripes; sizes in extents, the stripe in sectors. */
export function striped(
  first: number,
  count: number,
  areas: readonly (readonly [name: string, first: number])[],
  stripe = 8,
): string {
  const words = areas.map(([name, at]) => `"${name}", ${at}`).join(',\n');
  const size = areas.length > 1 ? `stripe_size = ${stripe}\n` : '';
  return `start_extent = ${first}\nextent_count = ${count}\ntype = "striped"\nstripe_count = ${areas.length}\n${size}stripes = [\n${words}\n]`;
}

/** The body of a segment of another type. */
export function other(count: number, type: string, more: string, first = 0): string {
  return `start_extent = ${first}\nextent_count = ${count}\ntype = "${type}"\n${more}`;
}

/** A UUID that is as good as any. */
export function uuidOf(index: number): string {
  return `PV${String(index).padStart(30, '0')}`;
}

function dashed(uuid: string): string {
  return `${uuid.slice(0, 6)}-${uuid.slice(6, 26).replace(/(.{4})/g, '$1-')}${uuid.slice(26)}`;
}

/** Most tests want this: one area of 64 KiB at 4096 on a unit of 2 MiB with 256 extents of 4 KiB. */
export function simpleVolume(uuid: string, text: string, size = 2 << 20): Uint8Array {
  return physicalVolume({ uuid, size, areas: [{ offset: 4096, length: 65536, text }] });
}

/** What one-byte damage and structure-aware damage take their time from. */
export const fuzzSeconds = Number(process.env.DRIFTMAP_FUZZ_SECONDS ?? 4);

/** A small generator of numbers, so that a failure can be repeated by its seed. */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}
