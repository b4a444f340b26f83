// Whole scans of files beside the tools that compare files, in turn.

import { spawnSync } from 'node:child_process';
import { copyFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  command,
  goal,
  heading,
  installed,
  inTurn,
  ratios,
  root,
  skip,
  spread,
  threads,
  timed,
  warm,
} from './measure.mjs';

export function makePair(folder, size, ...options) {
  const script = join(root, 'scripts', 'make-pair.mjs');
  timed([process.execPath, script, folder, '--size', size, ...options]);
}

const methods = [
  { name: 'bytes', options: ['--compare', 'bytes'], most: 0.9 },
  { name: 'nh128', options: ['-s', 'nh128'], most: 1.1 },
  { name: 'xxh3-128', options: ['-s', 'xxh3-128'], most: 1.0 },
];

/** Equal pairs: qemu-img stops at the first difference, so it is given none. */
export function equalPair(folder, rounds, kernelRate) {
  heading('The equal pair, whole process, × qemu-img compare of the same pair');
  if (!installed('qemu-img')) return skip('this', 'qemu-img is not installed');
  for (const format of ['raw', 'qcow2']) {
    const [production, replica] = ['production', 'replica'].map((side) => join(folder, `${side}.${format}`));
    for (const path of [production, replica]) warm(path);
    const yardstick = {
      name: 'qemu-img',
      command: ['qemu-img', 'compare', '-f', format, '-F', format, production, replica],
    };
    const blake3 = { name: 'blake3', options: ['-s', 'blake3'] };
    const scans = [...methods, blake3].map(({ name, options }) => ({
      name,
      command: [...command, 'scan', '-q', ...options, production, replica],
    }));
    const runs = inTurn([yardstick, ...scans], rounds);
    for (const { name, most } of methods) {
      goal(
        `${format} ${name} (${spread(runs[name].map(({ wall }) => wall))} s)`,
        ratios(runs, name, 'qemu-img'),
        { most },
      );
    }
    console.log(
      `  ${format} qemu-img ${spread(runs['qemu-img'].map(({ wall }) => wall))} s on one core; blake3 ${spread(runs.blake3.map(({ wall }) => wall))} s`,
    );
    if (format === 'raw') blake3Rate(production, replica, rounds, kernelRate);
    goal(
      `${format} peak memory of the scans`,
      scans.flatMap(({ name }) => runs[name].map(({ peak }) => peak / 2 ** 20)),
      { most: 200, unit: 'MiB', digits: 0 },
    );
  }
}

/** Bytes signed for each second of the scan, beside what the kernel alone does on as many threads. */
function blake3Rate(production, replica, rounds, kernelRate) {
  const shares = [];
  for (let i = 0; i < rounds; i++) {
    const { stdout } = timed([...command, 'scan', '-q', '--json', '-s', 'blake3', production, replica]);
    const { readBytes, seconds } = JSON.parse(stdout);
    shares.push(readBytes / 1e9 / seconds / kernelRate());
  }
  goal(`blake3 of two workers' pure kernel rate, both now`, shares, { least: 0.85 });
}

/** The drifted pair, bitmap written, beside what lists differences. */
export function driftedPair(folder, scratch, rounds) {
  heading('The drifted pair, bitmap written');
  const [production, replica] = ['production.raw', 'replica.raw'].map((name) => join(folder, name));
  // Some rivals drop what they read from the page cache; everybody is to find it there.
  const warmPair = () => {
    for (const path of [production, replica]) warm(path);
  };
  const bitmap = join(scratch, 'pair.drift');
  const overlay = join(scratch, 'overlay.qcow2');
  const scan = {
    name: 'nh128',
    command: [...command, 'scan', '-q', '-o', bitmap, production, replica],
    ok: [1],
    before: () => {
      rmSync(bitmap, { force: true });
      // The bitmap is flushed, which must not have to wait for what the others wrote.
      spawnSync('sync');
      warmPair();
    },
  };
  const rebase = {
    name: 'qemu-img rebase',
    most: 0.65,
    before: () => {
      spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', production, '-F', 'raw', overlay]);
      warmPair();
    },
    command: ['qemu-img', 'rebase', '-f', 'qcow2', '-F', 'raw', '-b', replica, overlay],
  };
  const fast = {
    name: 'blocksync-fast',
    most: 1.1,
    before: warmPair,
    command: ['blocksync-fast', '--dont-write', '-s', production, '-d', replica, '--block-size=65536'],
  };
  const script = 'bdsync --blocksize=65536 --hash=sha1 "bdsync -s" "$0" "$1" > "$2/bd"';
  const bdsync = {
    name: 'bdsync',
    most: 0.2,
    before: warmPair,
    command: ['sh', '-c', script, production, replica, scratch],
  };
  const rivals = [rebase, fast, bdsync].filter(({ name }) => installed(name.split(' ')[0]));
  const runs = inTurn([scan, ...rivals], rounds);
  for (const { name, most } of rivals) {
    goal(`nh128 × ${name} (${spread(runs[name].map(({ wall }) => wall))} s)`, ratios(runs, 'nh128', name), {
      most,
    });
  }
  for (const { name } of [rebase, fast, bdsync].filter((one) => !rivals.includes(one)))
    skip(name, 'not installed');
  console.log(`  nh128 ${spread(runs.nh128.map(({ wall }) => wall))} s on ${threads} workers`);
}

/** Cost per byte of data by the disk's size, in GiB, ascending: sparse qcow2 images with scattered clusters. */
export function growth(scratch, rounds, sizes) {
  heading('Growth: sparse qcow2 pairs, 1 % of their clusters hold data, scattered');
  if (!installed('qemu-io')) return skip('this', 'qemu-io is not installed');
  const pairs = sizes.map((gib) => {
    const paths = ['a', 'b'].map((side) => join(scratch, `${side}${gib}.qcow2`));
    scattered(paths[0], gib);
    copyFileSync(paths[0], paths[1]);
    return { gib, paths };
  });
  const costs = Object.fromEntries(sizes.map((gib) => [gib, []]));
  const peaks = [];
  for (let round = 0; round < rounds; round++) {
    for (const { gib, paths } of pairs) {
      const { stdout, peak } = timed([...command, 'scan', '-q', '--json', ...paths]);
      const { readBytes, seconds } = JSON.parse(stdout);
      costs[gib].push((seconds * 1e9) / (readBytes / 1e9) / 1e6);
      if (gib === sizes.at(-1)) peaks.push(peak / 2 ** 20);
    }
  }
  for (const gib of sizes)
    console.log(`  ${String(gib).padStart(3)} GiB  ${spread(costs[gib], 0)} ms for each GB read`);
  const [before, last] = sizes.slice(-2);
  const growing = costs[last].map((cost, i) => cost / costs[before][i]);
  goal(`${last} GiB: cost per byte × that of ${before} GiB`, growing, { most: 1.1 });
  goal(`peak memory of the ${last} GiB scan`, peaks, { most: 200, unit: 'MiB', digits: 0 });
}

function scattered(path, gib) {
  const clusters = gib * 16384;
  const wanted = Math.floor(clusters / 100);
  const writes = [];
  for (let i = 0, at = 7; i < wanted; i++) {
    at = (at * 1103515245 + 12345) % 2 ** 31;
    writes.push(`write -q -P ${1 + (i % 250)} ${(at % clusters) * 65536} 65536`);
  }
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, `${gib}G`]);
  const script = `${path}.txt`;
  writeFileSync(script, `${writes.join('\n')}\nquit\n`);
  const { status } = spawnSync('sh', ['-c', 'qemu-io -t unsafe "$0" < "$0.txt" > /dev/null', path]);
  if (status !== 0) throw new Error(`qemu-io failed for ${path}`);
  rmSync(script);
}
