/**
 * What is true of a replica, as a file beside it (`.driftstate`, version 1): whether it is consistent, with which
 * production disk, as of when; and a sync bitmap of what is not equal yet. It is written aside, flushed and
 * renamed, like every structure of ours, so a crash leaves the last truth.
 *
 * After the preamble and a MessagePack header comes the bitmap, as the bytes of a `.drift` file.
 *
 *   synchronizing   all marks are known; blocks that are marked may hold old data, new data, or a torn mixture
 *   consistent      no mark: equal to production as it was then
 *   failed-over     this disk is the production side now; marks say what was written to it since
 */

import { statSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import { MAX_DRIFT_BYTES, MAX_IDENTITY_BYTES, MAX_STATE_HEADER_BYTES } from '../base/limits.ts';
import { decodeBitmap, encodeBitmap } from '../bitmap/drift-file.ts';
import type { SyncBitmap } from '../bitmap/sync-bitmap.ts';
import { readBounded, readStart, writeAtomically } from '../codec/atomic-file.ts';
import { decodeControl, encodeControl } from '../codec/control.ts';
import { decodeFrame, encodeFrame, type FramedFormat, PREAMBLE_BYTES } from '../codec/preamble.ts';
import { count, oneOf, optional, record, text } from '../wire/schema.ts';

const format: FramedFormat = {
  what: "a replica's state",
  magic: new TextEncoder().encode('DSTATE\r\n'),
  version: 1,
  maxHeaderBytes: MAX_STATE_HEADER_BYTES,
};

export type ReplicaStatus = 'synchronizing' | 'consistent' | 'failed-over';

export interface ReplicaState {
  readonly status: ReplicaStatus;
  /** When this status began: ISO 8601, UTC. */
  readonly since: string;
  /** When the replica was last consistent; null before the first time. */
  readonly consistentAt: string | null;
  /** One number per change of direction: the higher one is the younger history. */
  readonly epoch: number;
  /** Of production when the replica was last consistent with it; of this disk itself when it was failed over. */
  readonly generation: string | null;
  /** Format of the replica as it was stated or found; its contents are never asked again. */
  readonly format: string;
  /** Blocks that are to be synchronized, and which disks this is about. */
  readonly bitmap: SyncBitmap;
}

const shape = record({
  status: oneOf('synchronizing', 'consistent', 'failed-over'),
  since: text(40),
  consistentAt: optional(text(40)),
  epoch: count(2 ** 32, 1),
  generation: optional(text(MAX_IDENTITY_BYTES)),
  format: text(20),
});

/** Where a replica's state is kept unless the user says otherwise. */
export function statePath(replica: string): string {
  return `${replica}.driftstate`;
}

export function encodeState({ bitmap, ...fields }: ReplicaState, path?: string): Uint8Array {
  const header = encodeControl(fields);
  const body = encodeBitmap(bitmap, path);
  const front = encodeFrame(format, header, body.length);
  const bytes = new Uint8Array(front.length + body.length);
  bytes.set(front);
  bytes.set(body, front.length);
  return bytes;
}

/** @throws DriftmapError `malformed`, `unsupported`, `limit`, with the path */
export function decodeState(bytes: Uint8Array, path?: string): ReplicaState {
  const { header, body } = decodeFrame(format, bytes, path);
  try {
    const limits = { bytes: MAX_STATE_HEADER_BYTES, text: MAX_IDENTITY_BYTES };
    const fields = shape(decodeControl(header, 'the header', limits), 'the header');
    return { ...fields, bitmap: decodeBitmap(body) };
  } catch (cause) {
    if (!(cause instanceof DriftmapError) || cause.path !== undefined) throw cause;
    throw new DriftmapError(cause.kind, cause.message, { path, offset: PREAMBLE_BYTES, cause });
  }
}

/** The state at a path; null where there is no file. */
export function loadState(path: string): ReplicaState | null {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return null;
  return decodeState(readBounded(path, MAX_DRIFT_BYTES + MAX_STATE_HEADER_BYTES + PREAMBLE_BYTES), path);
}

/** Durable when it returns. Errors as `writeAtomically`. */
export function saveState(state: ReplicaState, path: string): void {
  writeAtomically(path, encodeState(state, path));
}

/** Whether a file is a state. A disk named by mistake (`--state vm.raw`) must not be replaced. */
export function isState(path: string): boolean {
  const start = readStart(path, format.magic.length);
  return start !== null && format.magic.every((byte, i) => start[i] === byte);
}

/** @throws DriftmapError `policy` when something else is there */
export function checkStatePath(path: string): void {
  const start = readStart(path, 1);
  if (start === null || isState(path)) return;
  const reason = "is there and is no replica's state: it is not overwritten; name another file (--state)";
  throw new DriftmapError('policy', reason, { path });
}
