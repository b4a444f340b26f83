/** Suite `kernels`: signing, testing for zeros and comparing in one thread, in calls as large as a scan's. */

import { KERNEL_SCRATCH_BYTES, READ_PIECE } from '../base/limits.ts';
import { exactSize, KiB, MiB } from '../base/units.ts';
import { SlotArena } from '../memory/shared-memory.ts';
import { type AlgorithmName, algorithmByName, algorithms } from '../signature/algorithm.ts';
import { loadKernels } from '../signature/kernel-builds.ts';
import { Kernels } from '../signature/kernels.ts';
import { type BenchCase, type Suite, type SuiteOptions, shortDigest } from './bench-case.ts';
import { fillRandom } from './random.ts';

/**
 * Bytes of one run. `full` is larger than caches. `gate` stays in the second-level cache, which a core has for
 * itself: what others do to memory and to the shared caches is no property of a build.
 */
const STREAM = { full: 128 * MiB, gate: 256 * KiB, smoke: 1 * MiB } as const;
const BLOCKS = { full: [4 * KiB, 64 * KiB, MiB], gate: [64 * KiB], smoke: [4 * KiB, 64 * KiB] } as const;
const LIMIT = 'machine/memory-read/1';
/** Room for the digests of one call. */
const OUT_BYTES = 64 * KiB;

export async function openKernelSuite({ scale }: SuiteOptions): Promise<Suite> {
  const stream = STREAM[scale];
  const slot = new SlotArena(1, KERNEL_SCRATCH_BYTES + OUT_BYTES + 2 * stream).slot(0);
  const bytes = new Uint8Array(slot.memory.buffer);
  const out = slot.pointer + KERNEL_SCRATCH_BYTES;
  const data = out + OUT_BYTES;
  const half = stream / 2;
  fillRandom(bytes.subarray(data, data + half), 1);
  // Sides that are equal: a pair that differs is left at its first difference.
  bytes.copyWithin(data + half, data, data + half);
  // Zeros that were written: pages that nobody wrote are one and the same page.
  const zeros = data + stream;
  bytes.fill(0, zeros, zeros + stream);
  const kernels = new Kernels(loadKernels(), slot.memory, slot.pointer);
  const key = new Uint8Array(32).map((_, i) => i);
  const cases: BenchCase[] = [];
  const add = ({ what, block, span, call, outBytes }: Work) => {
    const most = Math.max(Math.min(READ_PIECE, half), block);
    const count = most / block;
    const left = () => bytes.subarray(out, out + count * outBytes);
    const digest = digestOfCalls(left, (after) => {
      for (let at = data; at < data + span; at += most) {
        call(at, count);
        after();
      }
    });
    cases.push({
      name: `kernels/${what}/${exactSize(block)}`,
      suite: 'kernels',
      bytes: stream,
      operations: 0,
      limit: LIMIT,
      threads: 1,
      clock: 'processor',
      run: (): undefined => {
        for (let at = data; at < data + span; at += most) call(at, count);
      },
      digest,
    });
  };
  for (const block of BLOCKS[scale]) {
    for (const name of namesFor(scale)) {
      const algorithm = algorithmByName(name);
      const signer = await kernels.signer(algorithm, key);
      const call = (at: number, count: number) => signer.sign(at, block, count, out);
      add({ what: name, block, span: stream, call, outBytes: algorithm.digestLength });
    }
    const zero = (at: number, count: number) => kernels.zeroBlocks(at + stream, block, count, out);
    add({ what: 'zero', block, span: stream, call: zero, outBytes: 1 });
    const differ = (at: number, count: number) => kernels.differing(at, at + half, block, count, out);
    add({ what: 'differ', block, span: half, call: differ, outBytes: 1 });
  }
  return { cases, close: async () => {} };
}

/**
 * Of what every call of a run leaves, though a run keeps the last call's alone. All calls are made once more, at
 * the first asking, when nothing is timed; from then on it is enough that the last call leaves what it left.
 */
function digestOfCalls(left: () => Uint8Array, callAll: (after: () => void) => void): () => string {
  let known: { whole: string; last: string } | undefined;
  return () => {
    const last = shortDigest(left());
    if (known === undefined) {
      const parts: string[] = [];
      callAll(() => parts.push(shortDigest(left())));
      known = { whole: shortDigest(...parts), last: parts.at(-1)! };
    }
    return last === known.last ? known.whole : last;
  };
}

interface Work {
  readonly what: string;
  readonly block: number;
  /** Bytes that the calls of one run begin in. */
  readonly span: number;
  readonly call: (at: number, count: number) => void;
  /** What a call leaves for each block. */
  readonly outBytes: number;
}

/** The library's algorithms are not ours to guard; they are measured for whoever chooses among them. */
function namesFor(scale: SuiteOptions['scale']): AlgorithmName[] {
  return algorithms.filter(({ kernel }) => scale === 'full' || kernel === 'wasm').map(({ name }) => name);
}
