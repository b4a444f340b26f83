/**
 * Which builds of the kernels run here. A kernel may have several builds that give the same signatures and
 * differ in what V8 makes of them; `blake3` has two (wasm/blake3.macros.mjs). One is chosen once per process:
 * the one that is fastest on this V8, or the one that DRIFTMAP_KERNEL names. Before anything is signed it
 * signs what is known: a build that comes to something else on this machine is passed over, because a wrong
 * signature would be a missed difference. That takes a millisecond or two, and as much again for V8 to
 * compile what is called, which the threads then need not do; they start meanwhile.
 */

import { readFileSync } from 'node:fs';
import { DriftmapError } from '../base/errors.ts';
import { KERNEL_SCRATCH_BYTES } from '../base/limits.ts';
import { KiB } from '../base/units.ts';
import { createSharedMemory } from '../memory/shared-memory.ts';
import { type AlgorithmName, algorithmByName } from './algorithm.ts';
import { type KernelModules, type KernelName, Kernels, kernelNames } from './kernels.ts';

export const kernelBuilds = ['plain', 'swizzle'] as const;
export type KernelBuild = (typeof kernelBuilds)[number];

/** Kernels that a build has files of its own for; the others are the same in all builds. */
const ownFiles: Readonly<Record<KernelBuild, readonly KernelName[]>> = { plain: [], swizzle: ['blake3'] };

export interface ChosenKernels {
  readonly build: KernelBuild;
  readonly modules: KernelModules;
  /** Why this one: `DRIFTMAP_KERNEL`, or what of V8 speaks for it. */
  readonly reason: string;
  /** Builds that were preferred and did not pass their test. */
  readonly failed: readonly KernelBuild[];
  readonly compileMilliseconds: number;
  readonly testMilliseconds: number;
}

let chosen: ChosenKernels | undefined;

/** Compiled kernels, chosen once per process. @throws DriftmapError as `chooseKernels` */
export function loadKernels(): KernelModules {
  return chosenKernels().modules;
}

export function chosenKernels(): ChosenKernels {
  chosen ??= chooseKernels(process.env.DRIFTMAP_KERNEL);
  return chosen;
}

/**
 * @param forced the build that has to be taken
 * @throws DriftmapError `argument` for a forced build that there is not; `internal` where no build passes its test
 */
export function chooseKernels(forced?: string): ChosenKernels {
  const { wanted, reason } = forced ? forcedBuild(forced) : preferredBuilds();
  const failed: KernelBuild[] = [];
  for (const build of wanted) {
    const from = performance.now();
    const modules = compileKernels(build);
    const compiled = performance.now();
    if (signAsKnown(modules)) {
      const [compileMilliseconds, testMilliseconds] = [compiled - from, performance.now() - compiled];
      return { build, modules, reason, failed, compileMilliseconds, testMilliseconds };
    }
    failed.push(build);
  }
  const advice = 'report this with the output of driftmap info; sha256 needs no kernel (--signature sha256)';
  throw new DriftmapError('internal', `kernels (${failed.join(', ')}) give wrong signatures here: ${advice}`);
}

function forcedBuild(name: string): { wanted: readonly KernelBuild[]; reason: string } {
  const build = kernelBuilds.find((known) => known === name);
  if (build) return { wanted: [build], reason: 'DRIFTMAP_KERNEL' };
  const reason = `DRIFTMAP_KERNEL: expected ${kernelBuilds.join(' or ')}, got '${name}'`;
  throw new DriftmapError('argument', reason);
}

function preferredBuilds(): { wanted: readonly KernelBuild[]; reason: string } {
  const v8 = Number.parseInt(process.versions.v8 ?? '', 10);
  return v8 < 13
    ? { wanted: ['swizzle', 'plain'], reason: 'V8 before 13 keeps the masks of swizzles in registers' }
    : { wanted: ['plain', 'swizzle'], reason: 'V8 from 13 on builds the masks of swizzles at every use' };
}

/** Built files: beside the compiled code, or, from the sources, in dist. */
const folder = new URL(import.meta.url.endsWith('.ts') ? '../../dist/wasm/' : '../wasm/', import.meta.url);

/** V8 compiles functions when they are first called. */
export function compileKernels(build: KernelBuild): KernelModules {
  const entries = kernelNames.map((name) => [
    name,
    compile(ownFiles[build].includes(name) ? `${name}-${build}` : name),
  ]);
  return Object.fromEntries(entries) as unknown as KernelModules;
}

function compile(name: string): WebAssembly.Module {
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

const INPUT = KERNEL_SCRATCH_BYTES;
const INPUT_BYTES = 12 * KiB;
const OUTPUT = INPUT + INPUT_BYTES;
/** One large block, and eleven that are no whole number of chunks: every way through a kernel is taken. */
const shapes = [
  { length: INPUT_BYTES, count: 1 },
  { length: 1111, count: 11 },
] as const;

/** BLAKE3 of all signatures of the test's blocks, in hexadecimal; of blake3 itself by an independent library. */
const known: Readonly<Record<Extract<AlgorithmName, 'blake3' | 'nh128' | 'xxh3-128'>, string>> = {
  blake3: '9a8d64c5efa4d66b284b555431e2b9ffdc0109e2f1d7fd53224f02b9e2327d42',
  nh128: '99cd8a1880f52f5bcbc968bfe67842d0630f18ce1b4d1e6a6192a7dc160ba77c',
  'xxh3-128': 'b140bb11afdd014f9fa5865b86ce2d6ee440750b3f5b76c31751ef84509c49e0',
};

/** Whether kernels come to the signatures that are known, and tell zeros and differences. */
export function signAsKnown(modules: KernelModules): boolean {
  const digests = testDigests(modules);
  return Object.entries(known).every(([name, digest]) => digests[name] === digest) && tellsBlocks(modules);
}

/** Lengths that take every loop of the zero test and of comparing. */
const lengths = [1, 15, 16, 32, 40, 128, 656] as const;

/** Blocks of zeros, of which the second has one byte set at its end and the third at its start. */
export function tellsBlocks(modules: KernelModules): boolean {
  const memory = createSharedMemory(INPUT + 8 * KiB, "the kernels' test");
  const bytes = new Uint8Array(memory.buffer);
  const kernels = new Kernels(modules, memory, 0);
  const other = INPUT + 4 * KiB;
  const flags = other + 3 * KiB;
  const found = () => bytes.slice(flags, flags + 3).join('');
  return lengths.every((length) => {
    bytes.fill(0, INPUT, other);
    bytes[INPUT + 2 * length - 1] = 1;
    bytes[INPUT + 2 * length] = 128;
    return (
      kernels.zeroBlocks(INPUT, length, 3, flags) === 1 &&
      found() === '100' &&
      kernels.differing(INPUT, other, length, 3, flags) === 2 &&
      found() === '011'
    );
  });
}

export function testDigests(modules: KernelModules): Record<string, string> {
  const memory = createSharedMemory(OUTPUT + 4 * KiB, "the kernels' test");
  const bytes = new Uint8Array(memory.buffer);
  for (let i = 0; i < INPUT_BYTES; i++) bytes[INPUT + i] = (i * 7 + (i >> 8)) & 0xff;
  const kernels = new Kernels(modules, memory, 0);
  const blake3 = kernels.ownSigner(algorithmByName('blake3'));
  const digests: Record<string, string> = {};
  for (const name of Object.keys(known)) {
    const algorithm = algorithmByName(name);
    const signer = kernels.ownSigner(algorithm, new Uint8Array(32).fill(1));
    let at = OUTPUT;
    for (const { length, count } of shapes) {
      signer.sign(INPUT, length, count, at);
      at += count * algorithm.digestLength;
    }
    blake3.sign(OUTPUT, at - OUTPUT, 1, at);
    digests[name] = Buffer.from(bytes.slice(at, at + 32)).toString('hex');
  }
  return digests;
}
