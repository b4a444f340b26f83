// Holds a scan against cmp: the blocks that `driftmap scan` marks must be exactly those in which `cmp -l`
// lists a byte.
//   node scripts/check-pair.mjs FOLDER [--signature NAME ...]     FOLDER as scripts/make-pair.mjs makes it
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const bin = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist', 'lib', 'main.js');
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    signature: { type: 'string', multiple: true, default: ['nh128', 'blake3', 'xxh3-128', 'bytes'] },
    'block-size': { type: 'string', default: '65536' },
  },
});
const [folder] = positionals;
if (positionals.length !== 1) {
  console.error('usage: node scripts/check-pair.mjs FOLDER [--signature NAME ...] [--block-size BYTES]');
  process.exit(2);
}
const blockSize = Number(values['block-size']);
const file = (name) => join(folder, name);

/** The blocks in which `cmp -l` lists a byte; its first column counts from 1. */
async function blocksByCmp(a, b) {
  const cmp = spawn('cmp', ['-l', a, b], { stdio: ['ignore', 'pipe', 'inherit'] });
  const blocks = new Set();
  for await (const line of createInterface({ input: cmp.stdout }))
    blocks.add(Math.floor((Number.parseInt(line, 10) - 1) / blockSize));
  return blocks;
}

function blocksByScan(a, b, signature) {
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    [
      bin,
      'scan',
      a,
      b,
      '--json',
      ...(signature === 'bytes' ? ['--compare', 'bytes'] : ['-s', signature]),
      '-b',
      String(blockSize),
    ],
    {
      encoding: 'utf8',
      maxBuffer: 2 ** 30,
    },
  );
  if (status !== 0 && status !== 1) throw new Error(stderr);
  const { ranges, seconds } = JSON.parse(stdout);
  const blocks = new Set();
  for (const { offset, length } of ranges)
    for (let at = offset; at < offset + length; at += blockSize) blocks.add(at / blockSize);
  return { blocks, seconds };
}

const truth = await blocksByCmp(file('production.raw'), file('replica.raw'));
let wrong = 0;
for (const format of ['raw', 'qcow2']) {
  const [a, b] = [file(`production.${format}`), file(`replica.${format}`)];
  if (!existsSync(a) || !existsSync(b)) continue;
  for (const signature of values.signature) {
    const { blocks, seconds } = blocksByScan(a, b, signature);
    const missed = [...truth].filter((block) => !blocks.has(block)).length;
    const extra = [...blocks].filter((block) => !truth.has(block)).length;
    wrong += missed + extra;
    console.log(
      `${format.padEnd(5)} ${signature.padEnd(9)} ${blocks.size} blocks marked, ${truth.size} by cmp -l: ${missed} missed, ${extra} extra (${seconds.toFixed(2)} s)`,
    );
  }
}
process.exitCode = wrong === 0 ? 0 : 1;
