/** The control messages of a session, after the greeting: who has which disk, and what is to be done. */

import type { ErrorKind } from '../base/errors.ts';
import { MAX_BLOCK_SIZE, MAX_IDENTITY_BYTES, MAX_WIRE_TEXT_BYTES, MIN_BLOCK_SIZE } from '../base/limits.ts';
import { bytes, type Checked, count, flag, list, oneOf, optional, record, text } from './schema.ts';

/** The history of a disk that was a replica and was failed over. */
export const lineageShape = record({
  /** The disk that it was a replica of, and that disk's generation when both were last equal. */
  partner: text(MAX_IDENTITY_BYTES),
  partnerGeneration: text(MAX_IDENTITY_BYTES),
  epoch: count(2 ** 32, 1),
  /** Whether it was written to since it was failed over. */
  written: flag,
  /** Whether all of that is marked. */
  marked: flag,
});
export type Lineage = Checked<typeof lineageShape>;

/** A disk, to whom does not have it. */
export const diskShape = record({
  format: text(20),
  size: count(),
  identity: text(MAX_IDENTITY_BYTES),
  generation: text(MAX_IDENTITY_BYTES),
  lineage: optional(lineageShape),
  /** The running system that has it: one identity on one system is one disk. */
  host: optional(text(64)),
});
export type DiskInfo = Checked<typeof diskShape>;

/** Client → server. */
export const openShape = record({
  /** The name of a grant, or a path. */
  disk: text(MAX_WIRE_TEXT_BYTES),
  /** What the server's disk is. */
  role: oneOf('production', 'replica'),
  job: oneOf('scan', 'verify', 'sync'),
  blockSize: count(MAX_BLOCK_SIZE, MIN_BLOCK_SIZE),
  signature: text(40),
  bySignature: flag,
  /** Bytes of the pieces in which blocks that differ are compared again. */
  refine: optional(count(MAX_BLOCK_SIZE, MIN_BLOCK_SIZE)),
  codecs: list(text(20), 8),
  /** The client's disk, when it is production's. */
  production: optional(diskShape),
  /** Only for a replica of the server. */
  resize: flag,
  shrink: flag,
  full: flag,
  adopt: flag,
  discard: flag,
  format: optional(text(20)),
  /** Of a scan or verify whose production disk is the client's: it sends a bitmap of what is looked at. */
  narrow: optional(flag),
});
export type OpenMessage = Checked<typeof openShape>;

/** Server → client. */
export const openedShape = record({
  /** The server's disk, when it is production's. */
  production: optional(diskShape),
  codecs: list(text(20), 8),
  warnings: list(text(MAX_WIRE_TEXT_BYTES), 64),
});
export type OpenedMessage = Checked<typeof openedShape>;

/** Replica → production: what is to be compared. A bitmap follows for `some` and `known`. */
export const readyShape = record({
  replica: diskShape,
  /** Bytes of the disk that this session is about. */
  size: count(),
  /** All blocks; those that the bitmap marks; none, since the bitmap marks what differs; those that production marks. */
  compare: oneOf('all', 'some', 'known', 'yours'),
  /** Whether the replica can place blocks by their signatures. */
  places: flag,
  warnings: list(text(MAX_WIRE_TEXT_BYTES), 64),
});
export type ReadyMessage = Checked<typeof readyShape>;

/** Production → replica: a comparison begins. */
export const compareShape = record({
  /** As in `ready`; the blocks marked so far; the blocks placed by signature and not looked at since. */
  what: oneOf('first', 'marked', 'placed', 'all'),
  key: optional(bytes(32, 32)),
  nodeKey: bytes(32, 32),
});
export type CompareMessage = Checked<typeof compareShape>;

/** Production → replica: all that is to be sent was sent. */
export const finishShape = record({
  /** Of production when the comparison began. */
  generation: text(MAX_IDENTITY_BYTES),
  /** Whether production was not written to since. */
  quiesced: flag,
});

/** Replica → production. */
export const finishedShape = record({
  consistent: flag,
});

/** Either → the other: what ended the session. */
export const errorShape = record({ kind: text(40), message: text(MAX_WIRE_TEXT_BYTES) });
const errorKinds: readonly ErrorKind[] = [
  'argument',
  'not-found',
  'permission',
  'io',
  'malformed',
  'unsupported',
  'policy',
  'mismatch',
  'limit',
  'aborted',
];

/** One that this version does not know counts as `io`. */
export function knownKind(kind: string): ErrorKind {
  return errorKinds.find((name) => name === kind) ?? 'io';
}

/** As much of a text as a message takes. */
export function wireText(text: string): string {
  return Buffer.from(text)
    .subarray(0, MAX_WIRE_TEXT_BYTES - 4)
    .toString();
}
