// What opening costs: a preallocated qcow2 image beside `qemu-img map`, and finding the disks among fifty thousand
// files of a file system. Medians; whole processes, except that openDisk is timed inside its own, without Node's start.
//   node bench/opening.mjs [--rounds 5] [--smoke]      (after npm run build)
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  command,
  goal,
  heading,
  installed,
  inTurn,
  median,
  results,
  root,
  skip,
  timed,
} from './report/measure.mjs';

const { values } = parseArgs({
  options: { rounds: { type: 'string' }, smoke: { type: 'boolean', default: false } },
});
const rounds = Number(values.rounds ?? (values.smoke ? 1 : 5));
const folder = mkdtempSync(join(tmpdir(), 'driftmap-opening-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

function preallocated(size) {
  heading(
    `A qcow2 image of ${size}, metadata preallocated (openDisk timed inside the process, qemu-img as a whole process)`,
  );
  if (!installed('qemu-img')) return skip('this', 'qemu-img is not installed');
  const image = join(folder, 'preallocated.qcow2');
  timed(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', image, size]);
  const script = `
    const { openDisk } = await import(process.argv[1]);
    const from = performance.now();
    const disk = await openDisk(process.argv[2]);
    console.log(JSON.stringify({ seconds: (performance.now() - from) / 1000, extents: disk.map.count }));
    await disk.close();`;
  const ours = {
    name: 'driftmap',
    command: [
      process.execPath,
      '--input-type=module',
      '--eval',
      script,
      join(root, 'dist', 'lib', 'index.js'),
      image,
    ],
  };
  const theirs = { name: 'qemu-img', command: ['qemu-img', 'map', '--output=json', image] };
  const runs = inTurn([ours, theirs], rounds);
  const opened = runs.driftmap.map(({ stdout }) => JSON.parse(stdout));
  console.log(`  qemu-img map: ${median(runs['qemu-img'].map(({ wall }) => wall)).toFixed(2)} s`);
  goal(
    'openDisk',
    opened.map(({ seconds }) => seconds),
    { most: 1, unit: 's' },
  );
  goal(
    'peak memory of the process',
    runs.driftmap.map(({ peak }) => peak / 1e6),
    { most: 150, unit: 'MB', digits: 0 },
  );
}

/** A tree of small files with one disk image among them. */
function files(kind, count) {
  heading(`${count} files on ${kind}`);
  if (!installed(`mkfs.${kind}`)) return skip('this', `mkfs.${kind} is not installed`);
  const image = join(folder, `${kind}.img`);
  makers[kind](image, count);
  const runs = inTurn([{ name: 'disks', command: [...command, 'disks', '--json', image] }], rounds);
  const [{ stdout }] = runs.disks;
  if (!stdout.includes('vm.qcow2')) throw new Error(`the image among the files was not found: ${stdout}`);
  goal(
    `driftmap disks, whole process`,
    runs.disks.map(({ wall }) => wall),
    { most: 1, unit: 's' },
  );
  rmSync(image);
}

const makers = {
  ext4(image, count) {
    const tree = join(folder, 'tree');
    for (let i = 0; i < count; i++) {
      const at = join(tree, `d${Math.floor(i / 500)}`);
      if (i % 500 === 0) mkdirSync(at, { recursive: true });
      writeFileSync(join(at, `file${i}.txt`), 'x');
    }
    addDisk(tree);
    writeFileSync(image, '');
    truncateSync(image, 1024 * 2 ** 20);
    timed(['mkfs.ext4', '-q', '-F', '-N', String(Math.max(2000, count + 2000)), '-d', tree, image]);
    rmSync(tree, { recursive: true });
  },
  /** By a prototype file: `mkfs.xfs -p`. */
  xfs(image, count) {
    const content = join(folder, 'content');
    writeFileSync(content, 'x');
    const lines = ['/', '0 0', 'd--755 0 0'];
    for (let i = 0; i < count; i++) {
      if (i % 500 === 0) lines.push(...(i === 0 ? [] : ['$']), `d${i / 500} d--755 0 0`);
      lines.push(`file${i}.txt ---644 0 0 ${content}`);
    }
    lines.push('$', `vm.qcow2 ---644 0 0 ${addDisk(folder)}`, '$');
    const prototype = join(folder, 'prototype');
    writeFileSync(prototype, `${lines.join('\n')}\n`);
    writeFileSync(image, '');
    truncateSync(image, 1024 * 2 ** 20);
    timed(['mkfs.xfs', '-q', '-f', '-p', prototype, image]);
  },
};

function addDisk(at) {
  mkdirSync(at, { recursive: true });
  const path = join(at, 'vm.qcow2');
  const { status } = spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1G']);
  if (status !== 0) throw new Error('qemu-img could not create an image');
  return path;
}

preallocated(values.smoke ? '1G' : '1T');
for (const kind of ['ext4', 'xfs']) files(kind, values.smoke ? 300 : 50_000);
const missed = results().filter(({ reached }) => !reached).length;
console.log(`\n${results().length - missed} of ${results().length} goals reached`);
