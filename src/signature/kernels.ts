/**
 * The kernels, bound to a memory by each thread that uses them.
 *
 * Modules cross to workers as they are, so a worker runs code that is hot already. An instance is bound
 * to one memory and one slot of scratch in it; two threads may share the memory, never a slot.
 */

import { DriftmapError } from '../base/errors.ts';
import { KERNEL_SCRATCH_BYTES } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import type { SignatureAlgorithm } from './algorithm.ts';
import { type KeyedBlake3Kernel, nh128Signer } from './nh128.ts';
import type { Signer } from './signer.ts';

export const kernelNames = ['blake3', 'blocks', 'nh', 'xxh3'] as const;
export type KernelName = (typeof kernelNames)[number];

/** Compiled modules, structured-cloneable: posted to workers. `kernel-builds.ts` chooses and compiles them. */
export type KernelModules = Readonly<Record<KernelName, WebAssembly.Module>>;

type BlockFunction = (pointer: number, blockLength: number, count: number, flags: number) => number;
type DifferFunction = (a: number, b: number, length: number, count: number, flags: number) => number;
type HashFunction = (
  pointer: number,
  blockLength: number,
  count: number,
  out: number,
  scratch: number,
) => void;

/** Of scratch, for a key. */
const KEY_ROOM = 64;

export class Kernels {
  private readonly modules: KernelModules;
  private readonly memory: WebAssembly.Memory;
  private readonly scratch: number;
  private readonly instances = new Map<KernelName, WebAssembly.Instance>();
  private readonly zero: BlockFunction;
  private readonly differ: DifferFunction;

  /** @param scratch address of `KERNEL_SCRATCH_BYTES` bytes, a multiple of 64, that nobody else uses. */
  constructor(modules: KernelModules, memory: WebAssembly.Memory, scratch: number) {
    this.modules = modules;
    this.memory = memory;
    this.scratch = scratch;
    const blocks = this.instance('blocks').exports;
    this.zero = blocks.zero as BlockFunction;
    this.differ = blocks.differ as DifferFunction;
  }

  /**
   * A promise for the sake of library algorithms, which are loaded when one is first asked for.
   * @throws DriftmapError `argument` when a keyed algorithm has no key of 32 bytes
   */
  async signer(algorithm: SignatureAlgorithm, key?: Uint8Array): Promise<Signer> {
    if (algorithm.kernel === 'wasm') return this.ownSigner(algorithm, key);
    const { librarySigner } = await import('./library.ts');
    return librarySigner(algorithm, this.memory);
  }

  /** The same, at once, for an algorithm that has a kernel here. */
  ownSigner(algorithm: SignatureAlgorithm, key?: Uint8Array): Signer {
    if (algorithm.name === 'nh128') {
      if (key === undefined) throw new DriftmapError('argument', 'nh128 needs a key of 32 bytes');
      const room = { pointer: this.scratch, bytes: KERNEL_SCRATCH_BYTES };
      return nh128Signer(this.instance('nh'), this.instance('blake3'), this.memory, room, key);
    }
    const hash = this.instance(algorithm.name === 'blake3' ? 'blake3' : 'xxh3').exports.hash as HashFunction;
    const { scratch } = this;
    return {
      algorithm,
      sign: (pointer, blockLength, count, out) => hash(pointer, blockLength, count, out, scratch),
    };
  }

  /**
   * BLAKE3 in keyed mode of `count` adjoining inputs of `length` bytes, to `out`, 32 bytes each: a pseudo-random
   * function of whoever has the key (32 bytes).
   */
  keyedBlake3(key: Uint8Array, pointer: number, length: ByteCount, count: number, out: number): void {
    if (key.length !== 32) throw new DriftmapError('argument', 'keyed BLAKE3 needs a key of 32 bytes');
    const { hash_keyed: hash } = this.instance('blake3').exports as unknown as KeyedBlake3Kernel;
    new Uint8Array(this.memory.buffer).set(key, this.scratch);
    hash(pointer, length, count, out, this.scratch, this.scratch + KEY_ROOM);
  }

  /** `flags[i]` becomes 1 where block i is all zero, else 0; returns how many are. */
  zeroBlocks(pointer: number, blockLength: ByteCount, count: number, flags: number): number {
    return this.zero(pointer, blockLength, count, flags);
  }

  /** `flags[i]` becomes 1 where item i of the two runs differs, else 0; returns how many do. */
  differing(a: number, b: number, length: ByteCount, count: number, flags: number): number {
    return this.differ(a, b, length, count, flags);
  }

  private instance(name: KernelName): WebAssembly.Instance {
    let instance = this.instances.get(name);
    if (!instance) {
      instance = new WebAssembly.Instance(this.modules[name], { env: { memory: this.memory } });
      this.instances.set(name, instance);
    }
    return instance;
  }
}
