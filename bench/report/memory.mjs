// Scans of array images beside what the machine's memory gives, starts, and direct reads: by the library.
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { openMachineSuite } from '../../dist/bench/limits.js';
import { createArrayImage, createScanner, openDisk } from '../../dist/index.js';
import { command, goal, heading, installed, root, skip, threads, timed } from './measure.mjs';

const GiB = 2 ** 30;

/** The limit is measured so often in each round: what it is is what the machine can do when it is left alone. */
const LIMIT_RUNS = 5;

/** Two 1 GiB images in shared memory; the limit is the zero test on as many threads, in turn with the scans. */
export async function arrayImages(rounds, size = GiB) {
  heading(`Array images of ${size / GiB} GiB in shared memory, both sides counted`);
  const images = ['production', 'replica'].map((name) => createArrayImage({ size, name }));
  for (const image of images) fill(image);
  const [production, replica] = await Promise.all(images.map((image) => openDisk(image, { format: 'raw' })));
  const machine = await openMachineSuite({ scale: 'full', workers: [1, threads] });
  const limit = machine.cases.find(({ name }) => name === `machine/memory-read/${threads}`);
  const scanners = { one: createScanner({ workers: 1 }), two: createScanner({ workers: threads }) };
  const rate = async (scanner, options) => {
    const { seconds } = await scanner.scan({ production, replica, ...options });
    return (2 * size) / 1e9 / seconds;
  };
  const ways = {
    bytes: { compare: 'bytes' },
    'xxh3-128': { signature: 'xxh3-128' },
    nh128: { signature: 'nh128' },
    blake3: { signature: 'blake3' },
  };
  const found = Object.fromEntries(Object.keys(ways).map((name) => [name, { scaling: [], rates: [] }]));
  const memory = [];
  for (let round = -1; round < rounds; round++) {
    for (const [name, way] of Object.entries(ways)) {
      for (let i = 0; i < LIMIT_RUNS; i++) {
        const from = performance.now();
        await limit.run();
        if (round >= 0) memory.push(limit.bytes / 1e6 / (performance.now() - from));
      }
      const two = await rate(scanners.two, way);
      const one = await rate(scanners.one, way);
      if (round < 0) continue;
      found[name].scaling.push(two / one);
      found[name].rates.push(two);
    }
  }
  // As `driftmap bench` has it: the fastest tenth.
  const most = [...memory].sort((a, b) => b - a)[Math.floor(memory.length / 10)];
  for (const one of Object.values(found)) one.share = one.rates.map((value) => value / most);
  const rates = (name) => `${found[name].rates.map((value) => value.toFixed(1)).join(' ')} GB/s`;
  console.log(
    `  memory read by ${threads} threads: ${most.toFixed(0)} GB/s (the fastest tenth of ${memory.length} runs, the slowest ${Math.min(...memory).toFixed(0)})`,
  );
  goal(`bytes of memory's rate (${rates('bytes')})`, found.bytes.share, { least: 0.85 });
  goal(`xxh3-128 of memory's rate (${rates('xxh3-128')})`, found['xxh3-128'].share, { least: 0.7 });
  goal(`nh128: ${threads} workers × one (${rates('nh128')})`, found.nh128.scaling, { least: 1.9 });
  goal(`blake3: ${threads} workers × one (${rates('blake3')})`, found.blake3.scaling, { least: 1.85 });
  goal(`xxh3-128: ${threads} workers × one`, found['xxh3-128'].scaling, { least: 1.85 });
  for (const scanner of Object.values(scanners)) await scanner.close();
  for (const disk of [production, replica]) await disk.close();
  await machine.close();
}

function fill(image) {
  const piece = new Uint8Array(2 ** 24);
  let state = 1;
  const words = new Uint32Array(piece.buffer);
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  for (let at = 0; at < image.size; at += piece.length)
    image.write(at, piece.subarray(0, Math.min(piece.length, image.size - at)));
}

/** From before the import to the first block, in a process of its own; and of a scanner that is kept. */
export function starts(folder, rounds) {
  heading('Starting');
  const script = `
    const from = performance.now();
    const { createScanner, openDisk } = await import(process.argv[1]);
    const scanner = createScanner();
    const disks = [];
    for (const path of process.argv.slice(2)) disks.push(await openDisk(path, { format: 'raw' }));
    const [production, replica] = disks;
    const times = [];
    for (let i = 0; i < 9; i++) {
      const called = performance.now();
      const { startupSeconds } = await scanner.scan({ production, replica });
      times.push((i === 0 ? called - from : 0) + startupSeconds * 1000);
    }
    console.log(JSON.stringify(times));
    await scanner.close();`;
  const [a, b] = ['start-a.raw', 'start-b.raw'].map((name) => join(folder, name));
  for (const path of [a, b]) writeFile(path, 2 ** 20);
  const cold = [];
  const kept = [];
  for (let round = 0; round < rounds; round++) {
    const library = join(root, 'dist', 'lib', 'index.js');
    const { stdout } = timed([process.execPath, '--input-type=module', '--eval', script, library, a, b]);
    const times = JSON.parse(stdout);
    cold.push(times[0]);
    kept.push(...times.slice(1));
  }
  goal('import to the first block', cold, { most: 120, unit: 'ms', digits: 0 });
  goal('a kept scanner, call to the first block', kept, { most: 1, unit: 'ms' });
}

function writeFile(path, bytes) {
  const fd = openSync(path, 'w');
  const piece = Buffer.alloc(2 ** 20, 7);
  for (let i = 0; i < piece.length; i += 97) piece[i] = i & 0xff;
  for (let at = 0; at < bytes; at += piece.length) {
    piece.writeUInt32LE(at / piece.length, 0);
    writeSync(fd, piece);
  }
  closeSync(fd);
}

/** A dense pair read past the page cache, beside fio reading one of the two, in turn. */
export function directReads(folder, rounds, bytes) {
  heading('Cold: --direct beside fio reading the same file');
  if (!installed('fio')) return skip('this', 'fio is not installed');
  const [a, b] = ['direct-a.raw', 'direct-b.raw'].map((name) => join(folder, name));
  for (const path of [a, b]) writeFile(path, bytes);
  spawnSync('sync');
  const shares = [];
  for (let round = 0; round < rounds; round++) {
    const options = ['--rw=read', '--bs=2M', '--direct=1', '--ioengine=libaio', '--iodepth=4', '--readonly'];
    const { stdout } = timed(['fio', '--name=read', `--filename=${a}`, ...options, '--output-format=json']);
    const fio = JSON.parse(stdout).jobs[0].read.bw_bytes;
    const run = timed([...command, 'scan', '-q', '--json', '--direct', '--compare', 'bytes', a, b]);
    const { readBytes, seconds } = JSON.parse(run.stdout);
    shares.push(readBytes / seconds / fio);
  }
  goal("--direct of fio's rate, both sides counted", shares, { least: 0.95 });
}
