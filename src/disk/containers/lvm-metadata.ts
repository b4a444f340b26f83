/**
 * A volume group as its metadata text tells it (LVM2 source, lib/format_text/import_vsn1.c, and import_… of
 * lib/striped, lib/thin and lib/snapshot for what a segment says). Sizes are in sectors of 512 bytes or in
 * extents; here they become bytes, but for extents that count within the group.
 *
 * Names go into addresses and messages, so they are held to the letters that LVM allows in them.
 */

import { DriftmapError } from '../../base/errors.ts';
import { MAX_DISK_SIZE } from '../../base/limits.ts';
import type { ByteCount, ByteOffset } from '../../base/units.ts';
import { ConfigSection, type ConfigValue } from './lvm-config.ts';
import { printable } from './lvm-label.ts';

const SECTOR = 512;

export interface VolumeGroup {
  readonly name: string;
  readonly id: string;
  /** Counts changes: the highest is the newest. */
  readonly sequence: number;
  readonly extentSize: ByteCount;
  /** By the names that segments use (`pv0`). */
  readonly physical: ReadonlyMap<string, PhysicalEntry>;
  readonly logical: ReadonlyMap<string, LogicalEntry>;
  /** Volumes that are not what their own segments say, because of a snapshot; see `readSnapshotRoles`. */
  readonly snapshotRoles: ReadonlyMap<string, SnapshotRole>;
}

export type SnapshotRole = 'snapshot' | 'merging';

export interface PhysicalEntry {
  /** Without dashes, as in its label. */
  readonly uuid: string;
  /** Where its extents begin. */
  readonly start: ByteOffset;
  readonly extents: number;
  /** It was away while the group changed: what it holds may be old. */
  readonly missing: boolean;
}

export interface LogicalEntry {
  readonly name: string;
  /** False for the parts that volumes are made of. */
  readonly visible: boolean;
  readonly extents: number;
  /** Adjoining, from extent 0. */
  readonly segments: readonly Segment[];
}

export interface Segment {
  readonly first: number;
  readonly count: number;
  /** `striped`, `thin`, `raid1` …, without the flags that may follow a `+`. */
  readonly type: string;
  readonly flags: readonly string[];
  readonly fields: Fields;
}

/** What stands in a section, checked as it is asked for. Errors are `malformed` and name the place. */
export class Fields {
  readonly section: ConfigSection;
  readonly what: string;
  private readonly path: string;
  private readonly from: ByteOffset;

  constructor(section: ConfigSection, what: string, path: string, from: ByteOffset) {
    this.section = section;
    this.what = what;
    this.path = path;
    this.from = from;
  }

  has(name: string): boolean {
    return this.section.nodes.has(name);
  }

  /** A whole number from 0 (or `least`) to 2^53−1. */
  integer(name: string, least = 0): number {
    const value = this.section.nodes.get(name);
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
    throw this.malformed(`expected ${name} to be a whole number of at least ${least}`);
  }

  /** A number of sectors, as bytes. */
  sectors(name: string, least = 0): ByteCount {
    const bytes = this.integer(name, least) * SECTOR;
    if (bytes <= MAX_DISK_SIZE) return bytes;
    throw this.malformed(`expected ${name} below 2^53 bytes`);
  }

  text(name: string): string {
    const value = this.section.nodes.get(name);
    if (typeof value === 'string') return value;
    throw this.malformed(`expected ${name} to be a string`);
  }

  /** A UUID without the dashes between its groups. */
  uuid(name: string): string {
    return this.text(name).replaceAll('-', '');
  }

  /** An array; a single value counts as one of it, as in LVM. */
  list(name: string): readonly ConfigValue[] {
    const value = this.section.nodes.get(name);
    if (value === undefined || value instanceof ConfigSection) {
      throw this.malformed(`expected ${name} to be an array`);
    }
    return typeof value === 'object' ? value : [value];
  }

  flags(name: string): readonly string[] {
    return this.has(name) ? this.list(name).filter((flag) => typeof flag === 'string') : [];
  }

  inner(name: string, what: string): Fields {
    const value = this.section.nodes.get(name);
    if (value instanceof ConfigSection) return new Fields(value, what, this.path, this.from);
    throw this.malformed(`expected a section ${name}`);
  }

  /** The sections in this one, by name; there must be nothing else. */
  *inners(what: string): Generator<[string, Fields]> {
    for (const name of this.section.nodes.keys()) {
      this.checkName(name);
      yield [name, this.inner(name, `${what} ${name}`)];
    }
  }

  checkName(name: string): void {
    if (/^[A-Za-z0-9+_.-]{1,127}$/.test(name)) return;
    throw this.malformed(
      `expected a name of at most 127 letters, digits and + _ . -, got '${printable(name)}'`,
    );
  }

  malformed(reason: string): DriftmapError {
    const offset = this.from + this.section.offset;
    return new DriftmapError('malformed', `LVM2 ${this.what}: ${reason}`, { path: this.path, offset });
  }
}

/**
 * @param from where the text begins on the unit `path`, for errors
 * @throws DriftmapError `malformed`, `unsupported`
 */
export function readVolumeGroup(config: ConfigSection, path: string, from: ByteOffset): VolumeGroup {
  const root = new Fields(config, 'metadata', path, from);
  const contents = root.text('contents');
  const version = root.integer('version');
  if (contents !== 'Text Format Volume Group' || version !== 1) {
    const reason = `LVM2 metadata: expected 'Text Format Volume Group' version 1, got '${printable(contents)}' version ${version}`;
    throw new DriftmapError('unsupported', reason, { path, offset: from });
  }
  const names = [...config.nodes].filter(([, node]) => node instanceof ConfigSection).map(([name]) => name);
  const [name] = names;
  if (name === undefined || names.length > 1) {
    throw root.malformed(`expected one volume group, got ${names.length}`);
  }
  root.checkName(name);
  const group = root.inner(name, `volume group ${name}`);
  const format = group.has('format') ? group.text('format') : 'lvm2';
  if (format !== 'lvm2') throw group.malformed(`expected format lvm2, got '${printable(format)}'`);
  const logical = readLogical(group);
  return {
    name,
    id: group.uuid('id'),
    sequence: group.integer('seqno'),
    extentSize: group.sectors('extent_size', 1),
    physical: readPhysical(group),
    logical,
    snapshotRoles: readSnapshotRoles(logical),
  };
}

function readPhysical(group: Fields): Map<string, PhysicalEntry> {
  const found = new Map<string, PhysicalEntry>();
  for (const [name, fields] of group
    .inner('physical_volumes', 'physical volumes')
    .inners('physical volume')) {
    found.set(name, {
      uuid: fields.uuid('id'),
      start: fields.sectors('pe_start'),
      extents: fields.integer('pe_count'),
      missing: fields.flags('flags').includes('MISSING'),
    });
  }
  return found;
}

function readLogical(group: Fields): Map<string, LogicalEntry> {
  const found = new Map<string, LogicalEntry>();
  if (!group.has('logical_volumes')) return found;
  for (const [name, fields] of group.inner('logical_volumes', 'logical volumes').inners('logical volume')) {
    const segments = readSegments(name, fields);
    const last = segments.at(-1);
    found.set(name, {
      name,
      visible: fields.flags('status').includes('VISIBLE'),
      extents: last === undefined ? 0 : last.first + last.count,
      segments,
    });
  }
  return found;
}

function readSegments(name: string, fields: Fields): Segment[] {
  const segments: Segment[] = [];
  const count = fields.integer('segment_count');
  for (let i = 1; i <= count; i++) {
    const segment = fields.inner(`segment${i}`, `segment ${i} of ${name}`);
    const [type = '', ...flags] = segment.text('type').split('+');
    segments.push({
      first: segment.integer('start_extent'),
      count: segment.integer('extent_count', 1),
      type: printable(type),
      flags: flags.map(printable),
      fields: segment,
    });
  }
  segments.sort((a, b) => a.first - b.first);
  let next = 0;
  for (const { first, count, fields: segment } of segments) {
    if (first !== next) throw segment.malformed(`expected it to begin at extent ${next}, got ${first}`);
    next = first + count;
  }
  return segments;
}

/**
 * A snapshot's own volume looks like any linear one, but it holds a store of exceptions; and the origin of a
 * snapshot that is being merged reads partly from there. Segments of a hidden volume say so.
 */
function readSnapshotRoles(logical: ReadonlyMap<string, LogicalEntry>): Map<string, SnapshotRole> {
  const roles = new Map<string, SnapshotRole>();
  for (const { segments } of logical.values()) {
    for (const { type, fields } of segments) {
      if (type !== 'snapshot') continue;
      const merging = fields.has('merging_store');
      if (merging) roles.set(fields.text('origin'), 'merging');
      roles.set(fields.text(merging ? 'merging_store' : 'cow_store'), 'snapshot');
    }
  }
  return roles;
}

export interface Stripes {
  /** Physical volumes or logical volumes, by name, and the extent each run begins at. */
  readonly areas: readonly { readonly name: string; readonly first: number }[];
  /** Bytes that go to one area before the next has its turn; nothing where there is one area. */
  readonly stripeSize: ByteCount;
}

export function readStripes({ type, count, fields }: Segment): Stripes {
  const stripeCount =
    type === 'linear' && !fields.has('stripe_count') ? 1 : fields.integer('stripe_count', 1);
  const words = fields.list('stripes');
  if (words.length !== 2 * stripeCount) {
    throw fields.malformed(`expected ${stripeCount} stripes of a name and a number each`);
  }
  if (count % stripeCount !== 0) {
    throw fields.malformed(`expected ${count} extents to be a multiple of ${stripeCount} stripes`);
  }
  const areas = [];
  for (let i = 0; i < words.length; i += 2) {
    const name = words[i];
    const first = words[i + 1];
    if (typeof name !== 'string' || !Number.isSafeInteger(first) || (first as number) < 0) {
      throw fields.malformed('expected stripes of a name and a number each');
    }
    areas.push({ name, first: first as number });
  }
  return { areas, stripeSize: stripeCount === 1 ? 0 : fields.sectors('stripe_size', LEAST_STRIPE) };
}

/** In sectors: a page, below which LVM makes no stripes. */
const LEAST_STRIPE = 8;

export interface ThinVolume {
  readonly pool: string;
  readonly device: number;
  /** What shows through where nothing was written; null: zeros. */
  readonly origin: string | null;
  /** The volume's contents are about to be those of a snapshot of it. */
  readonly merging: boolean;
}

export function readThinVolume({ fields }: Segment): ThinVolume {
  return {
    pool: fields.text('thin_pool'),
    device: fields.integer('device_id'),
    origin: fields.has('external_origin') ? fields.text('external_origin') : null,
    merging: fields.has('merge'),
  };
}

export interface ThinPool {
  readonly metadata: string;
  readonly data: string;
  readonly blockSize: ByteCount;
  readonly transaction: number;
  /** There are changes that the pool has not been told of. */
  readonly pending: boolean;
}

export function readThinPool({ fields }: Segment): ThinPool {
  return {
    metadata: fields.text('metadata'),
    data: fields.text('pool'),
    blockSize: fields.sectors('chunk_size', 128),
    transaction: fields.integer('transaction_id'),
    pending: [...fields.section.nodes.keys()].some((name) => /^message\d+$/.test(name)),
  };
}
