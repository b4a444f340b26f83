// Measures finding and opening disks inside logical units: `node bench/finder.mjs [--smoke]`. Needs a built dist/.
// An ext4 of 50,000 files, of which 51 are disks; a preallocated qcow2 of 1 TiB, as a file and in that ext4.
// Needs mkfs.ext4 (e2fsprogs) and, for the second, qemu-img; says so where they are not installed.

import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findDisks } from '../dist/disk/finder.js';
import { openDisk } from '../dist/disk/open.js';

const smoke = process.argv[2] === '--smoke';
if (process.argv.length > (smoke ? 3 : 2)) {
  console.error('usage: node bench/finder.mjs [--smoke]');
  process.exit(2);
}
const [folders, filesEach, rounds, size] = smoke ? [2, 50, 1, '1G'] : [50, 1000, 5, '1T'];

const report = (what, figure) => console.log(`${what.padEnd(56)} ${figure}`);

/** Best of the rounds, by the clock and by CPU time: other programs disturb the second less. */
async function measure(what, work) {
  const [clock, cpu] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const before = process.cpuUsage();
    const from = process.hrtime.bigint();
    await work();
    clock.push(Number(process.hrtime.bigint() - from) / 1e6);
    const { user, system } = process.cpuUsage(before);
    cpu.push((user + system) / 1000);
  }
  report(what, `${Math.min(...clock).toFixed(0)} ms, ${Math.min(...cpu).toFixed(0)} ms of CPU`);
}

function run(command, ...words) {
  const { status, error, stderr } = spawnSync(command, words, { encoding: 'utf8' });
  if (error?.code === 'ENOENT') return false;
  if (status !== 0) throw new Error(`${command}: ${error ?? stderr}`);
  return true;
}

const folder = mkdtempSync(join(tmpdir(), 'driftmap-finder-'));
try {
  const tree = join(folder, 'tree');
  for (let i = 0; i < folders; i++) {
    mkdirSync(join(tree, `folder${i}`), { recursive: true });
    for (let j = 0; j < filesEach; j++) {
      writeFileSync(
        join(tree, `folder${i}`, j === 7 ? 'disk.raw' : `file${j}`),
        new Uint8Array(j === 7 ? 8192 : 10),
      );
    }
  }
  const qcow2 = join(tree, 'vm.qcow2');
  const preallocation = ['-o', 'preallocation=metadata'];
  const hasQemu = run('qemu-img', 'create', '-q', '-f', 'qcow2', ...preallocation, qcow2, size);
  if (!hasQemu) report('qemu-img is not installed', 'skipped: 1 bench');
  const unit = join(folder, 'unit.img');
  closeSync(openSync(unit, 'w'));
  truncateSync(unit, smoke ? 64 << 20 : 2 ** 31);
  const inodes = String(folders * (filesEach + 1) + 64);
  if (!run('mkfs.ext4', '-q', '-F', '-N', inodes, '-d', tree, unit)) {
    report('mkfs.ext4 (e2fsprogs) is not installed', 'skipped: 2 benches');
  } else {
    let found = 0;
    await measure(`find the disks among ${folders * filesEach} files on ext4`, async () => {
      found = 0;
      for await (const { what } of findDisks([unit])) if (what === 'disk') found++;
    });
    report('disks found', found);
  }
  for (const address of hasQemu ? [qcow2, `${unit}:ext4:/vm.qcow2`] : []) {
    await measure(
      `open a preallocated qcow2 of ${size}${address === qcow2 ? '' : ', inside the ext4'}`,
      async () => {
        await (await openDisk(address)).close();
      },
    );
  }
  report('peak of the process', `${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`);
} finally {
  rmSync(folder, { recursive: true });
}
