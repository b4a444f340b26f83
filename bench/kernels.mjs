// How fast the kernels are, beside hash-wasm, in one process: cases run round by round in turn, so that a
// change of the machine's speed meets all of them alike. Figures are GB/s (1e9 bytes) of CPU time; ratios are
// of medians. Beside each ratio stands the one that the measurements in docs/PERFORMANCE.md ask for.
//   node bench/kernels.mjs [--smoke] [--rounds N] [--json]      (after npm run build)

import { parseArgs } from 'node:util';
import { createBLAKE3, createXXHash128 } from 'hash-wasm';
import { KERNEL_SCRATCH_BYTES } from '../dist/base/limits.js';
import { SlotArena } from '../dist/memory/shared-memory.js';
import { algorithmByName } from '../dist/signature/algorithm.js';
import { loadKernels } from '../dist/signature/kernel-builds.js';
import { Kernels } from '../dist/signature/kernels.js';

const { values } = parseArgs({
  options: {
    smoke: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const MiB = 2 ** 20;
const STREAM = (values.smoke ? 8 : 256) * MiB;
const rounds = Number(values.rounds ?? (values.smoke ? 2 : 7));
/** One call's worth, as in a scan. */
const PIECE = MiB / 2;

const { memory, pointer } = new SlotArena(1, KERNEL_SCRATCH_BYTES + STREAM + 2 * MiB).slot(0);
const bytes = new Uint8Array(memory.buffer);
const data = pointer + KERNEL_SCRATCH_BYTES + MiB;
const out = pointer + KERNEL_SCRATCH_BYTES;
const words = new Uint32Array(memory.buffer, data, STREAM / 4);
for (let i = 0, state = 1; i < words.length; i++) {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  words[i] = state;
}
// The second half is the first once more, so that the two can be compared to their ends.
words.copyWithin(words.length / 2, 0, words.length / 2);
/** A MiB of zeros behind the stream; written, for pages that nobody wrote are one and the same page. */
const zeros = data + STREAM;
bytes.fill(0, zeros, zeros + MiB);
const kernels = new Kernels(loadKernels(), memory, pointer);
const key = new Uint8Array(32).map((_, i) => i);

/** @returns a run over the whole stream, in pieces */
function signing(signer, block) {
  const count = Math.max(1, PIECE / block);
  return () => {
    for (let at = 0; at < STREAM; at += count * block) signer.sign(data + at, block, count, out);
  };
}
function hashing(hasher, block, share) {
  return () => {
    for (let at = 0; at < STREAM * share; at += block)
      hasher
        .init()
        .update(bytes.subarray(data + at, data + at + block))
        .digest('binary');
  };
}

const cases = [];
const libraries = { blake3: await createBLAKE3(), 'xxh3-128': await createXXHash128() };
for (const block of [4096, 65536, MiB]) {
  for (const name of ['blake3', 'xxh3-128', 'nh128']) {
    cases.push({
      name,
      block,
      share: 1,
      run: signing(await kernels.signer(algorithmByName(name), key), block),
    });
  }
  for (const [name, hasher] of Object.entries(libraries)) {
    cases.push({ name: `hash-wasm ${name}`, block, share: 1 / 8, run: hashing(hasher, block, 1 / 8) });
  }
  const run = Math.max(PIECE, block);
  cases.push({
    name: 'zero test, in cache',
    block,
    share: 1,
    run: () => {
      for (let at = 0; at < STREAM; at += run) kernels.zeroBlocks(zeros, block, run / block, out);
    },
  });
  // Both sides are counted. They are equal: a pair that differs is left at its first bytes.
  cases.push({
    name: 'compare, both sides',
    block,
    share: 1,
    run: () => {
      for (let at = 0; at < STREAM / 2; at += run)
        kernels.differing(data + at, data + STREAM / 2 + at, block, run / block, out);
    },
  });
}

const samples = cases.map(() => []);
for (let round = -1; round < rounds; round++) {
  for (const [i, { run, share }] of cases.entries()) {
    const before = process.cpuUsage();
    run();
    const { user, system } = process.cpuUsage(before);
    // The first round warms up.
    if (round >= 0) samples[i].push((STREAM * share) / ((user + system) * 1e3));
  }
}

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const rate = (name, block) =>
  median(samples[cases.findIndex((one) => one.name === name && one.block === block)]);
const results = cases.map(({ name, block }, i) => ({
  name,
  block,
  best: Math.max(...samples[i]),
  median: median(samples[i]),
}));
const ratios = [4096, 65536, MiB].flatMap((block) => [
  {
    what: 'blake3 / hash-wasm blake3',
    block,
    ratio: rate('blake3', block) / rate('hash-wasm blake3', block),
    wanted: 2.2,
  },
  {
    what: 'xxh3-128 / hash-wasm xxh128',
    block,
    ratio: rate('xxh3-128', block) / rate('hash-wasm xxh3-128', block),
    wanted: 3.8,
  },
  { what: 'nh128 / xxh3-128', block, ratio: rate('nh128', block) / rate('xxh3-128', block), wanted: 0.45 },
]);
if (values.json)
  console.log(JSON.stringify({ node: process.version, stream: STREAM, rounds, results, ratios }, null, 2));
else {
  console.log(`Node ${process.version}, ${STREAM / MiB} MiB streamed, ${rounds} rounds, GB/s of CPU time\n`);
  for (const { name, block, best, median: middle } of results) {
    console.log(
      `${name.padEnd(20)} ${String(block).padStart(8)}  best ${best.toFixed(2).padStart(6)}  median ${middle.toFixed(2).padStart(6)}`,
    );
  }
  console.log('');
  for (const { what, block, ratio, wanted } of ratios) {
    const verdict = ratio >= wanted ? 'reached' : `${Math.round((1 - ratio / wanted) * 100)} % below`;
    console.log(
      `${what.padEnd(28)} ${String(block).padStart(8)}  ${ratio.toFixed(2)}  wanted ${wanted.toFixed(2)}: ${verdict}`,
    );
  }
}
