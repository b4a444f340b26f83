/** Signs runs of blocks of one disk into trees' leaves: what each signing thread does, and what `placing` does here. */

import { DriftmapError } from '../base/errors.ts';
import type { BlockIndex, ByteCount } from '../base/units.ts';
import type { VirtualDisk } from '../disk/virtual-disk.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { IndexedSide } from '../scan/indexed-side.ts';
import { makeSampling } from '../scan/sampling.ts';
import type { SideIndexes } from '../scan/scan-indexes.ts';
import { Side } from '../scan/side.ts';
import { layOutSlot, pieceBytes, type SlotLayout, slotBytes } from '../scan/slot-layout.ts';
import { algorithmByName } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { type KernelModules, Kernels } from '../signature/kernels.ts';
import type { Signer } from '../signature/signer.ts';
import { DIGEST_BYTES } from '../wire/messages.ts';
import type { SignPass, SignSegment } from './sign-task.ts';

export interface BlockSignerSetup {
  readonly disk: VirtualDisk;
  readonly size: ByteCount;
  readonly blockSize: ByteCount;
  readonly modules?: KernelModules;
  readonly indexes?: SideIndexes | null | undefined;
}

/** Memories that no signer uses: each holds address space, so they are used again. */
const idle: Arena[] = [];

interface Arena {
  readonly slots: SlotArena;
  readonly bytes: ByteCount;
}

function takeArena(bytes: ByteCount): Arena {
  const at = idle.findIndex((arena) => arena.bytes >= bytes);
  return at < 0 ? { slots: new SlotArena(1, bytes), bytes } : idle.splice(at, 1)[0]!;
}

export class BlockSigner {
  private readonly size: ByteCount;
  private readonly blockSize: ByteCount;
  private readonly disk: VirtualDisk;
  private side: Side;
  private readonly kernels: Kernels;
  private readonly layout: SlotLayout;
  private readonly bytes: Uint8Array;
  private signer: Signer | null = null;
  /** Makes leaves of signatures; null where signatures are leaves. */
  private leafSigner: Signer | null = null;
  private zeroLeaf = new Uint8Array(DIGEST_BYTES);
  private zeroSignature = new Uint8Array(0);

  private readonly arena: Arena;
  private readonly indexes: SideIndexes | null;
  /** Where this pass takes signatures from indexes. */
  private indexed: IndexedSide | null = null;

  constructor({ disk, size, blockSize, modules = loadKernels(), indexes = null }: BlockSignerSetup) {
    this.indexes = indexes;
    this.arena = takeArena(slotBytes(blockSize));
    const { memory, pointer } = this.arena.slots.slot(0);
    this.size = size;
    this.blockSize = blockSize;
    this.disk = disk;
    this.side = new Side(disk);
    this.layout = layOutSlot(pointer, blockSize);
    this.kernels = new Kernels(modules, memory, this.layout.scratch);
    this.bytes = new Uint8Array(memory.buffer);
  }

  /** Gives the memory to the next signer of this thread. */
  close(): void {
    idle.push(this.arena);
  }

  get readBytes(): ByteCount {
    return this.side.readBytes;
  }

  async begin({ algorithm, key, nodeKey, indexed = false }: SignPass): Promise<void> {
    // A side remembers holes: since the pass before, there may be data in them.
    this.side = new Side(this.disk);
    const chosen = algorithmByName(algorithm);
    this.signer = await this.kernels.signer(chosen, key ?? undefined);
    this.leafSigner =
      chosen.name === 'nh128' ? null : await this.kernels.signer(algorithmByName('nh128'), nodeKey);
    this.indexed = indexed && this.indexes !== null ? this.indexedSide(this.indexes, this.signer) : null;
    const { buffer } = this.layout;
    this.bytes.fill(0, buffer, buffer + this.blockSize);
    this.sign(this.blockSize);
    this.zeroSignature = this.bytes.slice(this.signaturesAt, this.signaturesAt + chosen.digestLength);
    this.zeroLeaf = this.bytes.slice(this.leavesAt, this.leavesAt + DIGEST_BYTES);
  }

  private indexedSide(indexes: SideIndexes, signer: Signer): IndexedSide {
    const { side, kernels, bytes, layout, blockSize, size } = this;
    const bench = { kernels, signer, bytes, digests: layout.productionDigests };
    const sampling = makeSampling(undefined, undefined);
    return new IndexedSide({ side, indexes, sampling, salt: 0, blockSize, size, bench, layout });
  }

  /** The leaf of a whole block of zeros. */
  get leafOfZeros(): Uint8Array {
    return this.zeroLeaf;
  }

  private get signaturesAt(): number {
    return this.layout.productionDigests;
  }

  private get leavesAt(): number {
    return this.leafSigner === null ? this.layout.productionDigests : this.layout.replicaDigests;
  }

  /** Fills in leaves, and signatures where they are wanted, of the segment's blocks. */
  async signSegment(segment: SignSegment): Promise<void> {
    const { start, end, todo } = segment;
    if (todo === null) return this.signRun(segment, start, end);
    for (let block = start; block < end; ) {
      if (todo[block - start] === 0) {
        block++;
        continue;
      }
      let to = block + 1;
      while (to < end && todo[to - start] !== 0) to++;
      await this.signRun(segment, block, to);
      block = to;
    }
  }

  private async signRun(segment: SignSegment, start: BlockIndex, end: BlockIndex): Promise<void> {
    const { blockSize, size, side, layout, bytes } = this;
    const to = Math.min(end * blockSize, size);
    for (let offset = start * blockSize; offset < to; ) {
      let zeroEnd = side.zeroUntil(offset, to);
      if (typeof zeroEnd !== 'number') zeroEnd = await zeroEnd;
      // A short last block has a signature of its own, zeros or not.
      const whole = zeroEnd - (zeroEnd % blockSize);
      if (whole > offset) {
        this.storeZeros(segment, offset / blockSize, whole / blockSize);
        offset = whole;
        continue;
      }
      const length = Math.min(pieceBytes(blockSize), to - offset);
      if (this.indexed === null) {
        const pending = side.read(offset, bytes.subarray(layout.buffer, layout.buffer + length));
        if (pending) await pending;
        this.sign(length);
      } else {
        const count = Math.ceil(length / blockSize);
        const pending = this.indexed.signatures(offset / blockSize, count, layout.productionDigests);
        if (pending) await pending;
        this.signLeaves(count);
      }
      this.store(segment, offset / blockSize, Math.ceil(length / blockSize));
      offset += length;
    }
  }

  /** Signs what is in the buffer. */
  private sign(length: ByteCount): void {
    const { signer, blockSize, layout } = this;
    if (signer === null) throw new DriftmapError('internal', 'a segment before its pass');
    const full = Math.floor(length / blockSize);
    const tail = length - full * blockSize;
    const { digestLength } = signer.algorithm;
    const { buffer, productionDigests } = layout;
    if (full) signer.sign(buffer, blockSize, full, productionDigests);
    if (tail) signer.sign(buffer + full * blockSize, tail, 1, productionDigests + full * digestLength);
    this.signLeaves(full + (tail ? 1 : 0));
  }

  /** Leaves of the signatures that were made last. */
  private signLeaves(count: number): void {
    const { productionDigests, replicaDigests } = this.layout;
    this.leafSigner?.sign(productionDigests, this.signer!.algorithm.digestLength, count, replicaDigests);
  }

  private store({ start, leaves, signatures }: SignSegment, first: BlockIndex, count: number): void {
    const { bytes, leavesAt, signaturesAt } = this;
    leaves.set(bytes.subarray(leavesAt, leavesAt + count * DIGEST_BYTES), (first - start) * DIGEST_BYTES);
    if (signatures === null) return;
    const { digestLength } = this.signer!.algorithm;
    const from = bytes.subarray(signaturesAt, signaturesAt + count * digestLength);
    signatures.set(from, (first - start) * digestLength);
  }

  private storeZeros({ start, leaves, signatures }: SignSegment, first: BlockIndex, end: BlockIndex): void {
    for (let block = first; block < end; block++) {
      leaves.set(this.zeroLeaf, (block - start) * DIGEST_BYTES);
      signatures?.set(this.zeroSignature, (block - start) * this.zeroSignature.length);
    }
  }
}
