/**
 * What a replica knows of itself besides its journal: whether it is a replica or has become production, whether its
 * disks are held at a point, whether somebody works on them. One small file beside the journal, replaced whole.
 */

import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import { REPLICA_STATE_BYTES } from '../../base/protection-limits.ts';
import { readBounded, writeAtomically } from '../../codec/atomic-file.ts';
import { decodeControl, encodeControl } from '../../codec/control.ts';
import { decodeFrame, encodeFrame, type FramedFormat, PREAMBLE_BYTES } from '../../codec/preamble.ts';

const format: FramedFormat = {
  what: 'the state of a replica group',
  magic: new TextEncoder().encode('DRREPL\r\n'),
  version: 1,
  maxHeaderBytes: REPLICA_STATE_BYTES,
};

export interface Hold {
  /** Where the disks are to stand. */
  readonly sequence: number;
  /** For people. */
  readonly why: string;
}

/**
 * Of an access to the disks themselves:
 *   `open`        what is written is to be discarded, should nobody say otherwise;
 *   `promoting`   what was written is being taken into the journal;
 *   `restoring`   it is in the journal; the disks are being brought back to the point, from where they follow.
 */
export interface RolledRecord {
  readonly sequence: number;
  readonly stage: 'open' | 'promoting' | 'restoring';
}

export interface FailedOver {
  readonly sequence: number;
  /** Of that point, and of the failover, in milliseconds since 1970. */
  readonly time: number;
  readonly since: number;
  /** `LogicalUnit.generation` of each disk then: what tells whether it was written to since. */
  readonly generations: Readonly<Record<string, string>>;
}

/** Where the group's snapshots are. */
export interface SnapshotPlace {
  /** The store's address, as the group file has it. */
  readonly store: string;
  /** Of the repository in it: 32 hexadecimal digits. */
  readonly repository: string;
}

export interface ReplicaRecord {
  /**
   * 32 hexadecimal digits: another one whenever the journal no longer follows from what production has sent
   * (promoted, made anew). Who sees another one must not believe that the replica has what it acknowledged.
   */
  readonly history: string;
  readonly hold: Hold | null;
  readonly rolled: RolledRecord | null;
  /** Null while it is a replica. */
  readonly failedOver: FailedOver | null;
  /** The journal is being removed, to be made anew. */
  readonly renewing: boolean;
  /** Absent until the group's store was used. From then on no repository is made there without being asked for. */
  readonly snapshots?: SnapshotPlace | undefined;
}

export function newHistory(): string {
  return randomBytes(16).toString('hex');
}

export function replicaStatePath(journal: string): string {
  return join(journal, 'replica');
}

export function newRecord(): ReplicaRecord {
  return { history: newHistory(), hold: null, rolled: null, failedOver: null, renewing: false };
}

/** @throws DriftmapError `io` … */
export function saveReplicaRecord(journal: string, record: ReplicaRecord): void {
  writeAtomically(replicaStatePath(journal), encodeFrame(format, encodeControl(record), 0));
}

/** Null where there is none. @throws DriftmapError `malformed`, `unsupported`, `io` … */
export function loadReplicaRecord(journal: string): ReplicaRecord | null {
  const path = replicaStatePath(journal);
  if (!existsSync(path)) return null;
  const bytes = readBounded(path, REPLICA_STATE_BYTES + PREAMBLE_BYTES);
  const { header, body, bodyOffset } = decodeFrame(format, bytes, path);
  if (body.length > 0)
    throw new DriftmapError('malformed', 'expected the end of the file', { path, offset: bodyOffset });
  const value = decodeControl(header, 'the header', {}, { path, offset: PREAMBLE_BYTES });
  if (isRecord(value)) return value;
  throw new DriftmapError('malformed', 'the header: expected other values than it has', {
    path,
    offset: PREAMBLE_BYTES,
  });
}

function isRecord(value: unknown): value is ReplicaRecord {
  const { snapshots, ...rest } = (value ?? {}) as Record<string, unknown>;
  if (snapshots !== undefined && !isPlace(snapshots)) return false;
  if (!hasKeys(rest, ['history', 'hold', 'rolled', 'failedOver', 'renewing'])) return false;
  const { history, hold, rolled, failedOver, renewing } = rest;
  if (typeof history !== 'string' || !/^[0-9a-f]{32}$/.test(history) || typeof renewing !== 'boolean')
    return false;
  return (
    (hold === null || (hasKeys(hold, ['sequence', 'why']) && isCount(hold.sequence) && isText(hold.why))) &&
    (rolled === null || isRolled(rolled)) &&
    (failedOver === null || isFailedOver(failedOver))
  );
}

function isPlace(value: unknown): boolean {
  return (
    hasKeys(value, ['store', 'repository']) &&
    isText(value.store) &&
    typeof value.repository === 'string' &&
    /^[0-9a-f]{32}$/.test(value.repository)
  );
}

function isRolled(value: unknown): boolean {
  if (!hasKeys(value, ['sequence', 'stage']) || !isCount(value.sequence)) return false;
  return ['open', 'promoting', 'restoring'].includes(value.stage as string);
}

function isFailedOver(value: unknown): boolean {
  if (!hasKeys(value, ['sequence', 'time', 'since', 'generations'])) return false;
  const { sequence, time, since, generations } = value;
  const isMap = typeof generations === 'object' && generations !== null && !Array.isArray(generations);
  return [sequence, time, since].every(isCount) && isMap && Object.values(generations).every(isText);
}

function hasKeys(value: unknown, keys: readonly string[]): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const got = Object.keys(value);
  return got.length === keys.length && keys.every((key) => got.includes(key));
}

const isCount = (value: unknown) => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
const isText = (value: unknown) => typeof value === 'string';
