// Makes a production disk and its drifted replica for benchmarks and large tests: always the same bytes for
// the same options. Of every 1 MiB of the disk 40 % are holes, 30 % compressible, 30 % random; the replica
// differs in 1 % of its 64 KiB blocks (one byte in each) and in one run of 32 MiB.
//   node scripts/make-pair.mjs FOLDER [--size 4G] [--equal] [--qcow2]
// Writes FOLDER/production.raw and FOLDER/replica.raw, and FOLDER/truth.json, the differing 64 KiB blocks.
// --equal makes no drift; --qcow2 also converts both with qemu-img.
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const KiB = 1024;
const MiB = 1024 * KiB;
const BLOCK = 64 * KiB;
const DRIFT_RUN = 32 * MiB;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: 'string', default: '4G' },
    equal: { type: 'boolean', default: false },
    qcow2: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
const match = /^(\d+)([MG])$/.exec(values.size);
if (values.help || positionals.length !== 1 || !match) {
  console.error(
    'usage: node scripts/make-pair.mjs FOLDER [--size 4G] [--equal] [--qcow2]     (a size in M or G)',
  );
  process.exit(2);
}
const size = Number(match[1]) * (match[2] === 'G' ? 1024 : 1) * MiB;
const folder = positionals[0];

/** xorshift32: the same numbers everywhere. */
function generator(seed) {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/** Contents of a 64 KiB block: null for a hole. Runs of 4 to 16 blocks have one kind. */
function contents() {
  const next = generator(20261124);
  let [kind, left] = ['hole', 0];
  return (target) => {
    if (left === 0) {
      const dice = next() % 10;
      kind = dice < 4 ? 'hole' : dice < 7 ? 'text' : 'random';
      left = 4 + (next() % 13);
    }
    left--;
    if (kind === 'hole') return false;
    const words = new Uint32Array(target.buffer, target.byteOffset, BLOCK / 4);
    if (kind === 'random') for (let i = 0; i < words.length; i++) words[i] = next();
    else {
      // A few different words in a row: compresses about fourfold.
      const seed = next();
      for (let i = 0; i < words.length; i++) words[i] = i % 4 === 0 ? Math.imul(i, seed) : seed;
    }
    return true;
  };
}

mkdirSync(folder, { recursive: true });
const files = ['production', 'replica'].map((name) => openSync(join(folder, `${name}.raw`), 'w'));
for (const fd of files) ftruncateSync(fd, size);
const fill = contents();
const drift = generator(77);
const block = new Uint8Array(BLOCK);
const runStart = Math.floor(size / 2 / BLOCK) * BLOCK;
const differing = [];
for (let offset = 0; offset < size; offset += BLOCK) {
  const data = fill(block);
  if (!data) block.fill(0);
  if (data) writeSync(files[0], block, 0, BLOCK, offset);
  const inRun = offset >= runStart && offset < runStart + Math.min(DRIFT_RUN, size - runStart);
  const changed = !values.equal && (inRun || drift() % 100 === 0);
  if (changed) {
    differing.push(offset / BLOCK);
    block[drift() % BLOCK] ^= 1 + (drift() % 255);
  }
  if (data || changed) writeSync(files[1], block, 0, BLOCK, offset);
}
for (const fd of files) closeSync(fd);
writeFileSync(join(folder, 'truth.json'), JSON.stringify({ size, blockSize: BLOCK, differing }));
if (values.qcow2) {
  for (const name of ['production', 'replica']) {
    const { status } = spawnSync(
      'qemu-img',
      ['convert', '-O', 'qcow2', join(folder, `${name}.raw`), join(folder, `${name}.qcow2`)],
      { stdio: 'inherit' },
    );
    if (status !== 0) process.exit(1);
  }
}
console.log(`${folder}: ${size} bytes, ${differing.length} of ${size / BLOCK} blocks differ`);
