/**
 * nh128: the keyed signature for comparing two disks, 16 bytes. docs/SECURITY.md defines it and bounds its
 * collisions.
 *
 * A block goes through levels of NH (`wasm/nh.ts`) until 32 bytes remain; keyed BLAKE3 over those and the
 * block's length, truncated, is the signature. This file derives the keys from the session's secret and
 * drives the two kernels batch by batch. Keys are derived once, when the signer is made, kept outside the
 * kernels' memory and put into scratch at each call: scratch is shared with other algorithms, which may have
 * written over it.
 */

import { assert, DriftmapError } from '../base/errors.ts';
import { MAX_BLOCK_SIZE } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import { KiB } from '../base/units.ts';
import { algorithmByName } from './algorithm.ts';
import type { Signer } from './signer.ts';

/** Exports of `nh.wasm`. Addresses are in the memory it was instantiated over. */
export interface NhKernel {
  /** NH levels of `count` blocks: 40-byte records at `out`. */
  records(pointer: number, blockLength: number, count: number, out: number, keys: number, work: number): void;
  /** The first 16 of each 32 bytes. */
  truncate(from: number, count: number, out: number): void;
}

/** What nh128 needs of `blake3.wasm`: keyed BLAKE3 of `count` adjoining inputs, 32 bytes each at `out`. */
export interface KeyedBlake3Kernel {
  hash_keyed(pointer: number, length: number, count: number, out: number, key: number, scratch: number): void;
}

export const NH128_KEY_BYTES = 32;
const DIGEST = 16;
/** Bytes of one chunk, of its NH, and of the key of one level: a chunk's and three shifts of 32. */
const CHUNK = 1 * KiB;
const NH_OUTPUT = 32;
const LEVEL_KEY = CHUNK + 3 * NH_OUTPUT;
/** 1 KiB, 32 KiB, 1 MiB, 32 MiB: four levels reach past the largest block. */
const LEVELS = 4;
/** Level keys, then the key of the finishing BLAKE3. */
const EXPANDED = LEVELS * LEVEL_KEY + 32;
const RECORD = 40;
/** What every input of the key schedule starts with; 28 bytes, followed by a counter. */
const SCHEDULE_LABEL = 'driftmap.nh128.key-schedule.';

/** Blocks that go through the kernels together: lanes are filled and everything stays in the L1 cache. */
const BATCH = 512;

// Scratch, in order: expanded key, records, BLAKE3 digests, and the rest, which NH and BLAKE3 use by turns.
const RECORDS_AT = 8 * KiB;
const DIGESTS_AT = RECORDS_AT + BATCH * RECORD;
const WORK_AT = DIGESTS_AT + BATCH * 32;

/** More than BLAKE3 uses for inputs this short (see `wasm/blake3.ts`); to wipe all the room would touch pages that nobody uses. */
const SHORT_BLAKE3_SCRATCH = 8 * KiB;

/** What `nh128Signer` needs at least: the outputs of the first level over the largest block are 512 KiB. */
export const NH128_SCRATCH_BYTES = 640 * KiB;

/** NH levels of a block of so many bytes. */
export function nhLevels(blockLength: ByteCount): number {
  let levels = 1;
  for (let outputs = Math.ceil(blockLength / CHUNK); outputs > 1; outputs = Math.ceil(outputs / 32)) levels++;
  return levels;
}

/** The inputs of the key schedule, one after another: the same for every key, so they are laid out once. */
const SCHEDULE_INPUTS = scheduleInputs();

function scheduleInputs(): Uint8Array {
  const label = new TextEncoder().encode(SCHEDULE_LABEL);
  const inputs = new Uint8Array(EXPANDED);
  const view = new DataView(inputs.buffer);
  for (let at = 0; at < EXPANDED; at += 32) {
    inputs.set(label, at);
    view.setUint32(at + label.length, at / 32, true);
  }
  return inputs;
}

/** Scratch: an address and how many bytes are there. */
interface Room {
  readonly pointer: number;
  readonly bytes: ByteCount;
}

/** A kernel's instance, as far as this file uses it. */
type Instance = Pick<WebAssembly.Instance, 'exports'>;

/**
 * A signer of blocks of 1 byte to 16 MiB in `memory`, over which both kernels were instantiated.
 *
 * @param room scratch of at least `NH128_SCRATCH_BYTES` that nobody else uses during a call
 * @param key the session's secret, 32 random bytes; it is copied
 * @throws DriftmapError `argument` for a key of another length and, when signing, for a block's length
 */
export function nh128Signer(
  nhInstance: Instance,
  blake3Instance: Instance,
  memory: WebAssembly.Memory,
  room: Room,
  key: Uint8Array,
): Signer {
  assert(room.bytes >= NH128_SCRATCH_BYTES, 'nh128 has its scratch', { length: room.bytes });
  const nh = nhInstance.exports as unknown as NhKernel;
  const blake3 = blake3Instance.exports as unknown as KeyedBlake3Kernel;
  const scratch = room.pointer;
  const bytes = new Uint8Array(memory.buffer);
  const expanded = expandKey(blake3, bytes, room, key);
  const finalKey = expanded.subarray(LEVELS * LEVEL_KEY);
  const finalKeyAt = scratch + LEVELS * LEVEL_KEY;
  const work = scratch + WORK_AT;
  const workBytes = room.bytes - WORK_AT;

  const signBatch = (pointer: number, blockLength: ByteCount, count: number, out: number): void => {
    nh.records(pointer, blockLength, count, scratch + RECORDS_AT, scratch, work);
    blake3.hash_keyed(scratch + RECORDS_AT, RECORD, count, scratch + DIGESTS_AT, finalKeyAt, work);
    nh.truncate(scratch + DIGESTS_AT, count, out);
  };

  return {
    algorithm: algorithmByName('nh128'),
    sign(pointer, blockLength, count, out) {
      checkLength(blockLength);
      bytes.set(expanded.subarray(0, nhLevels(blockLength) * LEVEL_KEY), scratch);
      bytes.set(finalKey, finalKeyAt);
      const outputs = Math.ceil(blockLength / CHUNK) * NH_OUTPUT;
      const batch = Math.min(BATCH, Math.floor((workBytes - CHUNK) / outputs));
      for (let done = 0; done < count; done += batch) {
        const size = Math.min(batch, count - done);
        signBatch(pointer + done * blockLength, blockLength, size, out + done * DIGEST);
      }
    },
  };
}

function checkLength(length: ByteCount): void {
  if (Number.isInteger(length) && length >= 1 && length <= MAX_BLOCK_SIZE) return;
  throw new DriftmapError('argument', `expected a block of 1 to ${MAX_BLOCK_SIZE} bytes, got ${length}`);
}

/**
 * The key schedule: output i is keyed BLAKE3, under the secret, of the label and i as a u32, little-endian.
 * The outputs in a row are the four level keys and the key of the finishing BLAKE3.
 */
function expandKey(blake3: KeyedBlake3Kernel, bytes: Uint8Array, room: Room, key: Uint8Array): Uint8Array {
  if (key.length !== NH128_KEY_BYTES) {
    throw new DriftmapError(
      'argument',
      `expected a key of ${NH128_KEY_BYTES} bytes, got ${key.length} bytes`,
    );
  }
  const scratch = room.pointer;
  const keyAt = scratch;
  const outputsAt = scratch + RECORDS_AT;
  const work = scratch + WORK_AT;
  const inputsAt = outputsAt + EXPANDED;
  bytes.set(key, keyAt);
  bytes.set(SCHEDULE_INPUTS, inputsAt);
  blake3.hash_keyed(inputsAt, 32, EXPANDED / 32, outputsAt, keyAt, work);
  const expanded = new Uint8Array(EXPANDED);
  expanded.set(bytes.subarray(outputsAt, outputsAt + EXPANDED));
  // The secret, and whatever BLAKE3 made of it in its scratch, does not stay.
  bytes.fill(0, scratch, work + SHORT_BLAKE3_SCRATCH);
  return expanded;
}
