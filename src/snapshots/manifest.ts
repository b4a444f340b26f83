/**
 * The manifest of a snapshot: the one object that makes it one. It is put last, and named by its contents.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_BLOCK_SIZE, MAX_DISK_SIZE } from '../base/limits.ts';
import {
  JOURNAL_MAX_DISKS,
  MIN_SNAPSHOT_BLOCK_SIZE,
  SNAPSHOT_MAX_CONFIGURATION_BYTES,
  SNAPSHOT_MAX_MANIFEST_BYTES,
  SNAPSHOT_MAX_ROOTS,
} from '../base/protection-limits.ts';
import type { BlockCount, ByteCount } from '../base/units.ts';
import { isPowerOfTwo } from '../base/units.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import type { Sequence, Time } from '../journal/record.ts';
import { NAME_BYTES } from './hasher.ts';
import { treeShape } from './page.ts';

/** The moment that a snapshot holds, as its journal knew it. */
export interface SnapshotPoint {
  /** 0 for disks without a journal. */
  readonly sequence: Sequence;
  readonly time: Time;
  /** `application`: the guest's programs had been brought to rest; `crash`: as if the power had failed. */
  readonly consistency: 'crash' | 'application';
  readonly bookmark: string | null;
  /** Id of the journal; null for disks without one. */
  readonly journal: string | null;
}

export interface SnapshotDisk {
  readonly name: string;
  readonly size: ByteCount;
  /** Blocks that are not all zero. */
  readonly blocks: BlockCount;
  /** Signatures of the tree's roots; null where all is zero. */
  readonly roots: readonly (Uint8Array | null)[];
}

/** What taking it cost. */
export interface SnapshotCounts {
  readonly bytesRead: ByteCount;
  readonly blocksSent: number;
  /** To the store, packed, with pages and all. */
  readonly bytesSent: ByteCount;
}

export interface SnapshotContents {
  /** Of the repository that it is in. */
  readonly repository: string;
  readonly group: string;
  readonly taken: Time;
  readonly point: SnapshotPoint;
  /** Id of the snapshot that it was taken after. */
  readonly parent: string | null;
  /** Of the virtual machine, as its hypervisor describes it. */
  readonly configuration: string | null;
  readonly blockSize: ByteCount;
  readonly disks: readonly SnapshotDisk[];
  readonly counts: SnapshotCounts;
}

export interface SnapshotInfo extends SnapshotContents {
  /** 64 hexadecimal digits. */
  readonly id: string;
}

const limits = { bytes: SNAPSHOT_MAX_MANIFEST_BYTES, text: SNAPSHOT_MAX_ROOTS * NAME_BYTES };

/** @throws DriftmapError `argument`, `limit` for what no manifest may hold */
export function encodeManifest(contents: SnapshotContents): Uint8Array {
  const disks = contents.disks.map((disk) => ({ ...disk, roots: encodeRoots(disk.roots) }));
  const bytes = encodeControl({ ...contents, disks });
  if (bytes.length > SNAPSHOT_MAX_MANIFEST_BYTES) {
    const reason = `expected a manifest of at most ${SNAPSHOT_MAX_MANIFEST_BYTES} bytes, got ${bytes.length}: use larger blocks, or fewer disks in a group`;
    throw new DriftmapError('limit', reason);
  }
  checkContents(contents, (reason) => new DriftmapError('argument', reason));
  return bytes;
}

/** @throws DriftmapError `malformed` */
export function decodeManifest(bytes: Uint8Array, id: string, path: string): SnapshotInfo {
  const fail = (reason: string) => new DriftmapError('malformed', `the manifest: ${reason}`, { path });
  const value = fieldsOf(decodeControl(bytes, 'the manifest', limits, { path }), fail);
  const raw = value.disks;
  if (!Array.isArray(raw)) throw fail('expected a list of disks');
  const disks = raw.map((disk: unknown) => {
    const { roots, ...rest } = fieldsOf(disk, fail);
    if (!(roots instanceof Uint8Array) || roots.length % NAME_BYTES !== 0)
      throw fail('expected names of roots');
    return { ...rest, roots: decodeRoots(roots) };
  });
  const contents = { ...value, disks } as unknown as SnapshotContents;
  checkContents(contents, fail);
  return { ...contents, id };
}

/** 32 bytes each; of zeros where all is zero. */
export function encodeRoots(roots: readonly (Uint8Array | null)[]): Uint8Array {
  const bytes = new Uint8Array(roots.length * NAME_BYTES);
  for (const [i, root] of roots.entries()) if (root !== null) bytes.set(root, i * NAME_BYTES);
  return bytes;
}

export function decodeRoots(bytes: Uint8Array): (Uint8Array | null)[] {
  return Array.from({ length: bytes.length / NAME_BYTES }, (_, i) => {
    const root = bytes.subarray(i * NAME_BYTES, (i + 1) * NAME_BYTES);
    return root.every((byte) => byte === 0) ? null : root;
  });
}

type Fail = (reason: string) => DriftmapError;

function fieldsOf(value: unknown, fail: Fail): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array)
    throw fail('expected a map');
  return value as Record<string, unknown>;
}

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const isText = (value: unknown): boolean => typeof value === 'string';
const isTextOrNull = (value: unknown): boolean => value === null || isText(value);
const isId = (value: unknown): boolean => isText(value) && /^[0-9a-f]{64}$/.test(value as string);

const contentKeys: Readonly<Record<string, (value: unknown) => boolean>> = {
  repository: (value) => isText(value) && /^[0-9a-f]{32}$/.test(value as string),
  group: isText,
  taken: isCount,
  point: (value) => typeof value === 'object' && value !== null,
  parent: (value) => value === null || isId(value),
  configuration: (value) =>
    value === null ||
    (isText(value) && Buffer.byteLength(value as string) <= SNAPSHOT_MAX_CONFIGURATION_BYTES),
  blockSize: (value) => isBlockSize(value),
  disks: Array.isArray,
  counts: (value) => typeof value === 'object' && value !== null,
};
const pointKeys: typeof contentKeys = {
  sequence: isCount,
  time: isCount,
  consistency: (value) => value === 'crash' || value === 'application',
  bookmark: isTextOrNull,
  journal: isTextOrNull,
};
const countKeys: typeof contentKeys = { bytesRead: isCount, blocksSent: isCount, bytesSent: isCount };
const diskKeys: typeof contentKeys = {
  name: (value) => isText(value) && value !== '',
  size: (value) => isCount(value) && (value as number) <= MAX_DISK_SIZE,
  blocks: isCount,
  roots: Array.isArray,
};

export function isBlockSize(value: unknown): boolean {
  return (
    isPowerOfTwo(value as number) &&
    (value as number) >= MIN_SNAPSHOT_BLOCK_SIZE &&
    (value as number) <= MAX_BLOCK_SIZE
  );
}

function checkFields(value: object, keys: typeof contentKeys, what: string, fail: Fail): void {
  const fields = value as Record<string, unknown>;
  for (const [key, test] of Object.entries(keys))
    if (!Object.hasOwn(fields, key) || !test(fields[key]))
      throw fail(`${what}${key} is missing or cannot be`);
  for (const key of Object.keys(fields))
    if (!Object.hasOwn(keys, key)) throw fail(`${what}${key} is not known`);
}

function checkContents(contents: SnapshotContents, fail: Fail): void {
  checkFields(contents, contentKeys, '', fail);
  checkFields(contents.point, pointKeys, 'point.', fail);
  checkFields(contents.counts, countKeys, 'counts.', fail);
  const { disks, blockSize } = contents;
  if (disks.length === 0 || disks.length > JOURNAL_MAX_DISKS)
    throw fail(`expected 1 to ${JOURNAL_MAX_DISKS} disks, got ${disks.length}`);
  const names = new Set<string>();
  for (const disk of disks) {
    checkFields(disk, diskKeys, 'disks.', fail);
    if (names.has(disk.name)) throw fail(`two disks are called '${disk.name}'`);
    names.add(disk.name);
    const { roots, blocks } = treeShape(disk.size, blockSize);
    if (disk.roots.length !== roots || roots > SNAPSHOT_MAX_ROOTS)
      throw fail(
        `expected ${roots} roots (at most ${SNAPSHOT_MAX_ROOTS}) for a disk of ${disk.size} bytes, got ${disk.roots.length}`,
      );
    if (disk.blocks > blocks) throw fail(`expected at most ${blocks} blocks, got ${disk.blocks}`);
  }
}
