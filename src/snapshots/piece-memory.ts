/**
 * Where pieces of a disk are read, signed and kept until they are sent: shared memory, so that one thread can fill it
 * and another send from it, and nothing is copied in between. Trays hold what is found out about a piece; places hold
 * one block each, with room around it for what an object has besides. Memory that nobody used yet costs nothing.
 */

import type { ByteCount, ByteOffset } from '../base/units.ts';
import { alignUp, MiB } from '../base/units.ts';
import { checksum } from '../codec/checksum.ts';
import type { Completion } from '../lu/logical-unit.ts';
import { type Hasher, NAME_BYTES } from './hasher.ts';
import { objectBufferBytes } from './object-format.ts';
import { looksRandom } from './trials.ts';

/** Plain data: threads make their views of it. */
export interface PieceShape {
  readonly memory: SharedArrayBuffer;
  readonly blockSize: ByteCount;
  /** Blocks of a piece, at most. */
  readonly most: number;
  readonly trays: number;
  readonly places: number;
  /** Where a block lies in its place. */
  readonly plainAt: ByteOffset;
}

/** No two threads write to one cache line, and units are read to whole pages of memory. */
const MEMORY_PAGE = 4096;
/** Read and signed at a time: it stays in a cache, and kernels fill their lanes. */
const STEP = 1 * MiB;

export function makePieceShape(shape: Omit<PieceShape, 'memory'>): PieceShape {
  const { places, trays } = shape;
  const bytes = trays * trayBytes(shape) + places * placeBytes(shape);
  return { ...shape, memory: new SharedArrayBuffer(bytes) };
}

type Measures = Pick<PieceShape, 'blockSize' | 'most'>;

function placeBytes({ blockSize }: Measures): ByteCount {
  return alignUp(objectBufferBytes(blockSize), MEMORY_PAGE);
}

/** The piece as it was read, where another thread reads it than signs it; and what is found out about each block. */
function trayBytes({ blockSize, most }: Measures): ByteCount {
  return alignUp(most * (blockSize + NAME_BYTES + 4 + 1 + 1), MEMORY_PAGE);
}

export interface Tray {
  readonly bytes: Uint8Array;
  readonly signatures: Uint8Array;
  readonly checksums: Uint32Array;
  /** 1 where it is not all zero. */
  readonly nonzero: Uint8Array;
  /** 1 where it looks random. */
  readonly random: Uint8Array;
}

export class PieceMemory {
  readonly shape: PieceShape;

  constructor(shape: PieceShape) {
    this.shape = shape;
  }

  tray(index: number): Tray {
    const { memory, most, blockSize } = this.shape;
    const at = index * trayBytes(this.shape);
    const signatures = at + most * blockSize;
    const checksums = signatures + most * NAME_BYTES;
    return {
      bytes: new Uint8Array(memory, at, most * blockSize),
      signatures: new Uint8Array(memory, signatures, most * NAME_BYTES),
      checksums: new Uint32Array(memory, checksums, most),
      nonzero: new Uint8Array(memory, checksums + most * 4, most),
      random: new Uint8Array(memory, checksums + most * 5, most),
    };
  }

  /** A buffer as `objectBuffer` makes them. */
  place(index: number): Uint8Array {
    const { memory, trays, blockSize } = this.shape;
    const at = trays * trayBytes(this.shape) + index * placeBytes(this.shape);
    return new Uint8Array(memory, at, objectBufferBytes(blockSize));
  }
}

export interface PieceWants {
  readonly checksums: boolean;
  readonly looks: boolean;
}

/** What a piece is filled from and to. */
export interface PieceFilling {
  readonly length: ByteCount;
  readonly tray: number;
  /** For each block, where it goes unless it is all zero. */
  readonly places: readonly number[];
  /** What is found out about blocks besides: worth it where most of them are sent. */
  readonly wants: PieceWants;
  /** Reads from within the piece; null where it lies in its tray already. */
  readonly read: ((from: ByteOffset, target: Uint8Array) => Completion) | null;
}

/** Signs a piece, and puts its blocks into their places. A thread does one at a time. */
export async function fillPiece(
  memory: PieceMemory,
  hasher: Hasher,
  { length, tray: index, places, wants, read }: PieceFilling,
): Promise<undefined> {
  const { blockSize, plainAt } = memory.shape;
  const { bytes, signatures, checksums, nonzero, random } = memory.tray(index);
  const step = Math.max(STEP, blockSize);
  for (let from = 0; from < length; from += step) {
    const to = Math.min(from + step, length);
    const part = read === null ? bytes.subarray(from, to) : hasher.room(to - from);
    const wait = read?.(from, part);
    if (wait) await wait;
    const first = from / blockSize;
    hasher.signBlocks(part, blockSize, signatures.subarray(first * NAME_BYTES), nonzero.subarray(first));
    for (let block = first, at = 0; at < part.length; block++, at += blockSize) {
      if (nonzero[block] === 0) continue;
      const plain = part.subarray(at, at + blockSize);
      memory.place(places[block]!).set(plain, plainAt);
      if (wants.checksums) checksums[block] = checksum(plain);
      if (wants.looks) random[block] = looksRandom(plain) ? 1 : 0;
    }
  }
  return undefined;
}
