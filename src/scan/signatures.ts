/** The signatures of one disk's blocks, in order: for tools that keep or send them. */

import { DriftmapError } from '../base/errors.ts';
import { DEFAULT_BLOCK_SIZE } from '../base/limits.ts';
import { checkWithin } from '../base/ranges.ts';
import type { BlockIndex, ByteCount, ByteOffset, ByteRange } from '../base/units.ts';
import { blocksTouching } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { type AlgorithmName, algorithmByName, type SignatureAlgorithm } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { Kernels } from '../signature/kernels.ts';
import { checkBlockSize } from './plan.ts';
import { Side } from './side.ts';
import { layOutSlot, pieceBytes, slotBytes } from './slot-layout.ts';

export interface SignaturesOptions {
  /** Blocks that this range touches; the whole disk by default. */
  readonly range?: ByteRange | undefined;
  /** A power of two, 512 … 16 MiB; 64 KiB by default. */
  readonly blockSize?: ByteCount | undefined;
  /** `blake3` by default: it means the same everywhere. */
  readonly signature?: AlgorithmName | undefined;
  /** 32 bytes; keyed algorithms only, and then required. */
  readonly key?: Uint8Array | undefined;
}

export interface BlockSignature {
  readonly block: BlockIndex;
  readonly offset: ByteOffset;
  /** Bytes of the block; only the disk's last one may be shorter than the block size. */
  readonly length: ByteCount;
  /** A copy of its own. */
  readonly signature: Uint8Array;
}

/**
 * Yields one signature for every block of the range, holes included (their signature is that of zeros), in
 * ascending order: none is ever left out, so a missing signature means that the disk ends, not that blocks
 * are equal.
 * @throws DriftmapError `argument` for a bad block size, range or key; `io`, `malformed` from the disk.
 */
export async function* signatures(
  disk: VirtualDisk,
  options: SignaturesOptions = {},
): AsyncGenerator<BlockSignature, undefined> {
  const { blockSize = DEFAULT_BLOCK_SIZE, range = { offset: 0, length: disk.size } } = options;
  checkBlockSize(blockSize);
  checkWithin(range, disk.size, "the disk's", { path: disk.name, operation: 'signatures' });
  const algorithm = algorithmByName(options.signature ?? 'blake3');
  if (algorithm.keyed && options.key?.length !== 32) {
    throw new DriftmapError(
      'argument',
      `${algorithm.name} needs a key of 32 bytes: its signatures mean nothing without it`,
    );
  }
  const arena = takeArena(slotBytes(blockSize));
  try {
    yield* signBlocks(disk, { range, blockSize, algorithm, key: options.key, arena });
  } finally {
    idle.push(arena);
  }
}

/** Memories that no call uses: made once, used again. */
const idle: Arena[] = [];

interface Arena {
  readonly slots: SlotArena;
  readonly bytes: ByteCount;
}

function takeArena(bytes: ByteCount): Arena {
  const at = idle.findIndex((arena) => arena.bytes >= bytes);
  return at < 0 ? { slots: new SlotArena(1, bytes), bytes } : idle.splice(at, 1)[0]!;
}

interface SignBlocks {
  readonly range: ByteRange;
  readonly blockSize: ByteCount;
  readonly algorithm: SignatureAlgorithm;
  readonly key: Uint8Array | undefined;
  readonly arena: Arena;
}

async function* signBlocks(
  disk: VirtualDisk,
  { range, blockSize, algorithm, key, arena }: SignBlocks,
): AsyncGenerator<BlockSignature, undefined> {
  const { memory, pointer } = arena.slots.slot(0);
  const layout = layOutSlot(pointer, blockSize);
  const kernels = new Kernels(loadKernels(), memory, layout.scratch);
  const signer = await kernels.signer(algorithm, key);
  const bytes = new Uint8Array(memory.buffer);
  const side = new Side(disk);
  const last = blocksTouching(range, blockSize).end;
  const most = pieceBytes(blockSize) / blockSize;
  for (let block = blocksTouching(range, blockSize).start; block < last; block += most) {
    const count = Math.min(most, last - block);
    const length = Math.min((block + count) * blockSize, disk.size) - block * blockSize;
    await side.read(block * blockSize, bytes.subarray(layout.buffer, layout.buffer + length));
    const full = Math.floor(length / blockSize);
    const digests = layout.productionDigests;
    if (full) signer.sign(layout.buffer, blockSize, full, digests);
    if (full < count) {
      signer.sign(
        layout.buffer + full * blockSize,
        length - full * blockSize,
        1,
        digests + full * algorithm.digestLength,
      );
    }
    for (let i = 0; i < count; i++) {
      const from = digests + i * algorithm.digestLength;
      yield {
        block: block + i,
        offset: (block + i) * blockSize,
        length: i < full ? blockSize : length - full * blockSize,
        signature: bytes.slice(from, from + algorithm.digestLength),
      };
    }
  }
}
