/** The kernels of one worker, bound to each shared memory in which bytes can lie. */

import { assert, DriftmapError } from '../base/errors.ts';
import { MAX_DIGEST_BYTES, PIECE_DIGEST_BYTES } from '../base/limits.ts';
import type { ArrayImage } from '../lu/array-image.ts';
import type { Kernels } from '../signature/kernels.ts';
import type { Signer } from '../signature/signer.ts';
import type { ComparerSetup } from './comparer-setup.ts';
import { kernelsOver } from './kernel-cache.ts';
import type { Side } from './side.ts';
import { layOutSlot } from './slot-layout.ts';

/** Kernels and a signer over one memory, and where they may put digests in it. */
export interface Bench {
  readonly kernels: Kernels;
  /** None where bytes are compared. */
  readonly signer: Signer | null;
  /** The whole memory. */
  readonly bytes: Uint8Array;
  /** Address that has room for the digests (or flags) of one piece. */
  readonly digests: number;
}

export class Benches {
  /** Over the worker's own slot. */
  readonly own: Bench;
  private readonly images: ReadonlyMap<ArrayImage, readonly Bench[]>;

  private constructor(own: Bench, images: ReadonlyMap<ArrayImage, readonly Bench[]>) {
    this.own = own;
    this.images = images;
  }

  static async create({
    modules,
    compare,
    algorithm,
    key,
    plan,
    slot,
    production,
    replica,
  }: ComparerSetup): Promise<Benches> {
    const bench = async (
      cacheKey: string,
      memory: WebAssembly.Memory,
      scratch: number,
      digests: number,
    ): Promise<Bench> => {
      const kernels = kernelsOver(`${cacheKey} ${slot.index}`, modules, memory, scratch);
      const signer = compare === 'bytes' ? null : await kernels.signer(algorithm, key ?? undefined);
      return { kernels, signer, bytes: new Uint8Array(memory.buffer), digests };
    };
    const layout = layOutSlot(slot.pointer, plan.blockSize);
    const own = await bench(`pool ${slot.memoryId}`, slot.memory, layout.scratch, layout.productionDigests);
    // An image has room for so many: one worker's signatures must not reach into the next one's scratch.
    const most = layout.mostBlocks * MAX_DIGEST_BYTES;
    assert(most <= PIECE_DIGEST_BYTES, `${most} bytes of signatures in an array image`);
    const images = new Map<ArrayImage, readonly Bench[]>();
    for (const image of imagesOf(production, replica)) {
      const banks = image.banks.map((memory, bank) => {
        const { kernels, digests } = image.scratchOf(bank, slot.index);
        return bench(`${image.identity} ${bank}`, memory, kernels, digests);
      });
      images.set(image, await Promise.all(banks));
    }
    return new Benches(own, images);
  }

  of(image: ArrayImage, bank: number): Bench {
    const bench = this.images.get(image)?.[bank];
    if (!bench) throw new DriftmapError('internal', 'an array image without kernels', { path: image.name });
    return bench;
  }
}

function imagesOf(...sides: Side[]): Set<ArrayImage> {
  return new Set(sides.flatMap((side) => side.images).filter((image) => image !== null));
}
