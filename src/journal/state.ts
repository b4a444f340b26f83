/**
 * The two small files of a journal, both replaced whole: `group` says whose journal it is and never changes;
 * `position` says where the disks stand. While they are rolled they are somewhere between `low` and `high`: all
 * writes up to `low` are in them, none after `high`, and of those between any part.
 */

import { DriftmapError } from '../base/errors.ts';
import { MAX_DISK_SIZE } from '../base/limits.ts';
import {
  JOURNAL_MAX_DISKS,
  JOURNAL_MAX_GROUP_BYTES,
  JOURNAL_MAX_SEGMENT_BYTES,
  JOURNAL_MIN_SEGMENT_BYTES,
} from '../base/protection-limits.ts';
import type { ByteCount } from '../base/units.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import { decodeFrame, encodeFrame, type FramedFormat, PREAMBLE_BYTES } from '../codec/preamble.ts';
import type { JournalFolder } from './folder.ts';
import type { Sequence, Time } from './record.ts';

export const GROUP_FILE = 'group';
export const POSITION_FILE = 'position';

const groupFormat: FramedFormat = {
  what: 'the description of a journal',
  magic: new TextEncoder().encode('DRJGRP\r\n'),
  version: 1,
  maxHeaderBytes: JOURNAL_MAX_GROUP_BYTES,
};
const positionFormat: FramedFormat = {
  what: 'the position of a journal',
  magic: new TextEncoder().encode('DRJPOS\r\n'),
  version: 1,
  maxHeaderBytes: 4096,
};

export interface JournalDisk {
  readonly name: string;
  readonly size: ByteCount;
  /** Of the replica's disk (`LogicalUnit.identity`); null when any unit of this size may be it. */
  readonly identity: string | null;
}

export interface Group {
  /** 32 hexadecimal digits. */
  readonly journal: string;
  readonly group: string;
  readonly disks: readonly JournalDisk[];
  readonly segmentBytes: ByteCount;
}

export interface Position {
  /** All writes up to here are in the disks. */
  readonly low: Sequence;
  /** No write after this one is; equal to `low` while nothing is being rolled. */
  readonly high: Sequence;
  /** Durable records of either direction when this was written: what may not be missing. */
  readonly durableDo: Sequence;
  readonly durableUndo: Sequence;
  /** Of the record `low`. */
  readonly time: Time;
  /** Whether the group is suspended at `low`. */
  readonly suspended: boolean;
  /** Everything after this is being removed for good; null otherwise. */
  readonly cut: Sequence | null;
}

/** @throws DriftmapError `argument` for disks or sizes that cannot be, `policy` when a journal is there, `io` … */
export function checkGroup({ group, disks, segmentBytes }: Group, path?: string): void {
  const fail = (reason: string): never => {
    throw new DriftmapError('argument', reason, { path });
  };
  if (group.length === 0 || group.length > 255) fail('expected a name of 1 … 255 characters for the group');
  if (disks.length === 0 || disks.length > JOURNAL_MAX_DISKS) {
    fail(`expected 1 … ${JOURNAL_MAX_DISKS} disks in a group, got ${disks.length}`);
  }
  const names = new Set<string>();
  for (const { name, size } of disks) {
    if (name.length === 0 || name.length > 255) fail('expected a name of 1 … 255 characters for each disk');
    if (names.has(name)) fail(`expected disks of different names, got two '${name}'`);
    names.add(name);
    if (!Number.isSafeInteger(size) || size < 1 || size > MAX_DISK_SIZE) {
      fail(`expected a size in bytes for disk '${name}', got ${size}`);
    }
  }
  const [least, most] = [JOURNAL_MIN_SEGMENT_BYTES, JOURNAL_MAX_SEGMENT_BYTES];
  if (!Number.isSafeInteger(segmentBytes) || segmentBytes < least || segmentBytes > most) {
    fail(`expected segments of ${least} … ${most} bytes, got ${segmentBytes}`);
  }
}

export function saveGroup(folder: JournalFolder, group: Group): void {
  const header = encodeControl(group);
  if (header.length > JOURNAL_MAX_GROUP_BYTES) {
    throw new DriftmapError('limit', `names and identities take ${header.length} bytes, too many`, {
      path: folder.path,
    });
  }
  folder.replace(GROUP_FILE, encodeFrame(groupFormat, header, 0));
}

/** @throws DriftmapError `not-found` where there is no journal, `malformed`, `unsupported` */
export function loadGroup(folder: JournalFolder): Group {
  const path = `${folder.path}/${GROUP_FILE}`;
  const fields = load(folder, GROUP_FILE, groupFormat, ['journal', 'group', 'disks', 'segmentBytes']);
  const { journal, group, segmentBytes } = fields;
  const idOk = typeof journal === 'string' && /^[0-9a-f]{32}$/.test(journal);
  if (
    !idOk ||
    typeof group !== 'string' ||
    typeof segmentBytes !== 'number' ||
    !Array.isArray(fields.disks)
  ) {
    throw malformedFields(path);
  }
  const disks = fields.disks.map((value: unknown): JournalDisk => {
    const { name, size, identity } = (value ?? {}) as Record<string, unknown>;
    const named = typeof name === 'string' && typeof size === 'number';
    if (!named || (typeof identity !== 'string' && identity !== null)) throw malformedFields(path);
    return { name, size, identity };
  });
  const loaded = { journal, group, disks, segmentBytes };
  try {
    checkGroup(loaded);
  } catch (cause) {
    throw new DriftmapError('malformed', (cause as Error).message, { path, offset: PREAMBLE_BYTES, cause });
  }
  return loaded;
}

export function savePosition(folder: JournalFolder, position: Position): void {
  folder.replace(POSITION_FILE, encodePosition(position));
}

/** The same, without holding up the thread where the folder can. Nobody else may save one meanwhile. */
export async function savePositionAside(folder: JournalFolder, position: Position): Promise<undefined> {
  if (folder.replaceAside) await folder.replaceAside(POSITION_FILE, encodePosition(position));
  else savePosition(folder, position);
}

function encodePosition(position: Position): Uint8Array {
  return encodeFrame(positionFormat, encodeControl(position), 0);
}

/** @throws DriftmapError `not-found`, `malformed`, `unsupported` */
export function loadPosition(folder: JournalFolder): Position {
  const path = `${folder.path}/${POSITION_FILE}`;
  const numbers = ['low', 'high', 'durableDo', 'durableUndo', 'time'] as const;
  const fields = load(folder, POSITION_FILE, positionFormat, [...numbers, 'suspended', 'cut']);
  const isCount = (value: unknown) => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
  const whole =
    numbers.every((name) => isCount(fields[name])) && (fields.cut === null || isCount(fields.cut));
  if (!whole || typeof fields.suspended !== 'boolean') throw malformedFields(path);
  const position = fields as unknown as Position;
  if (position.low > position.high) throw malformedFields(path);
  return position;
}

function malformedFields(path: string): DriftmapError {
  return new DriftmapError('malformed', 'the header: expected other values than it has', {
    path,
    offset: PREAMBLE_BYTES,
  });
}

/** The map of a file of ours, with exactly these keys. */
function load(
  folder: JournalFolder,
  name: string,
  format: FramedFormat,
  keys: readonly string[],
): Record<string, unknown> {
  const path = `${folder.path}/${name}`;
  const bytes = folder.load(name, format.maxHeaderBytes + PREAMBLE_BYTES);
  const { header, body, bodyOffset } = decodeFrame(format, bytes, path);
  if (body.length > 0) {
    throw new DriftmapError('malformed', 'expected the end of the file', { path, offset: bodyOffset });
  }
  const value = decodeControl(header, 'the header', {}, { path, offset: PREAMBLE_BYTES });
  const isMap = typeof value === 'object' && value !== null && !Array.isArray(value);
  const got = isMap ? Object.keys(value) : [];
  if (got.length !== keys.length || !keys.every((key) => got.includes(key))) {
    const reason = `the header: expected the keys ${keys.join(', ')}, got ${got.join(', ') || 'none'}`;
    throw new DriftmapError('malformed', reason, { path, offset: PREAMBLE_BYTES });
  }
  return value as Record<string, unknown>;
}
