/**
 * The kernels: compiled once per process, bound to a memory by each thread that uses them.
 *
 * Modules cross to workers as they are, so a worker runs code that is hot already. An instance is bound
 * to one memory and one slot of scratch in it; two threads may share the memory, never a slot.
 */

import { readFileSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import { KERNEL_SCRATCH_BYTES } from '../base/limits.ts';
import type { ByteCount } from '../base/units.ts';
import type { SignatureAlgorithm } from './algorithm.ts';
import { nh128Signer } from './nh128.ts';
import type { Signer } from './signer.ts';

const names = ['blake3', 'blocks', 'nh', 'xxh3'] as const;
type KernelName = (typeof names)[number];

/** Compiled modules, structured-cloneable: posted to workers. */
export type KernelModules = Readonly<Record<KernelName, WebAssembly.Module>>;

/** Built files: beside the compiled code, or, from the sources, in dist. */
const folder = new URL(import.meta.url.endsWith('.ts') ? '../../dist/wasm/' : '../wasm/', import.meta.url);

let modules: KernelModules | undefined;

/** Compiles the kernels (lazily, under a millisecond each) once per process. */
export function loadKernels(): KernelModules {
  modules ??= Object.fromEntries(names.map((name) => [name, compile(name)])) as unknown as KernelModules;
  return modules;
}

function compile(name: KernelName): WebAssembly.Module {
  const file = new URL(`${name}.wasm`, folder);
  try {
    return new WebAssembly.Module(readFileSync(file));
  } catch (cause) {
    throw new DriftmapError(
      'internal',
      'cannot load a kernel: build the project (npm run build) or install it again',
      { path: file.pathname, cause },
    );
  }
}

type BlockFunction = (pointer: number, blockLength: number, count: number, flags: number) => number;
type DifferFunction = (a: number, b: number, length: number, count: number, flags: number) => number;
type HashFunction = (
  pointer: number,
  blockLength: number,
  count: number,
  out: number,
  scratch: number,
) => void;

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
    if (algorithm.name === 'nh128') {
      if (key === undefined) throw new DriftmapError('argument', 'nh128 needs a key of 32 bytes');
      const room = { pointer: this.scratch, bytes: KERNEL_SCRATCH_BYTES };
      return nh128Signer(this.instance('nh'), this.instance('blake3'), this.memory, room, key);
    }
    if (algorithm.kernel === 'library') {
      const { librarySigner } = await import('./library.ts');
      return librarySigner(algorithm, this.memory);
    }
    const hash = this.instance(algorithm.name === 'blake3' ? 'blake3' : 'xxh3').exports.hash as HashFunction;
    const { scratch } = this;
    return {
      algorithm,
      sign: (pointer, blockLength, count, out) => hash(pointer, blockLength, count, out, scratch),
    };
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
