// The same pair through every rival that is installed, in turn, round by round: what each takes and what it
// finds. Files are in the page cache first; a rival that writes works on a copy that is made anew each time,
// outside the time that is measured.
//   node bench/rivals.mjs [FOLDER] [--size 4G] [--rounds 5] [--json FILE] [--svg FILE] [--smoke]   (after npm run build)
// FOLDER holds a pair of scripts/make-pair.mjs; without it one is made in a temporary folder and removed.
import { spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { bars } from './report/plot.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: 'string' },
    rounds: { type: 'string' },
    json: { type: 'string' },
    svg: { type: 'string' },
    smoke: { type: 'boolean', default: false },
  },
});
const rounds = Number(values.rounds ?? (values.smoke ? 1 : 5));
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const scratch = mkdtempSync(join(tmpdir(), 'driftmap-rivals-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

const folder = positionals[0] ?? makePair();
const [production, replica] = ['production.raw', 'replica.raw'].map((name) => join(folder, name));
const copy = join(scratch, 'copy.raw');
const truth = JSON.parse(readFileSync(join(folder, 'truth.json'), 'utf8')).differing.length;
const driftmap = [process.execPath, join(root, 'dist', 'lib', 'main.js'), 'scan', production, replica];

/** `ok`: exit statuses that are an answer. `found`: in words, what the user has afterwards. */
const contestants = [
  scan('driftmap nh128', []),
  scan('driftmap blake3', ['-s', 'blake3']),
  scan('driftmap xxh3-128', ['-s', 'xxh3-128']),
  scan('driftmap bytes', ['--compare', 'bytes']),
  {
    name: 'qemu-img compare',
    command: ['qemu-img', 'compare', '-f', 'raw', '-F', 'raw', production, replica],
    ok: [0, 1],
    found: 'the first difference',
  },
  {
    name: 'qemu-img rebase',
    before: () => overlay(),
    command: [
      'qemu-img',
      'rebase',
      '-f',
      'qcow2',
      '-F',
      'raw',
      '-b',
      replica,
      join(scratch, 'overlay.qcow2'),
    ],
    ok: [0],
    found: 'differing clusters, as an overlay with their data',
  },
  { name: 'cmp', command: ['cmp', production, replica], ok: [0, 1], found: 'the first difference' },
  {
    name: 'cmp -l',
    command: ['sh', '-c', 'cmp -l "$0" "$1" | wc -l', production, replica],
    ok: [0],
    found: 'every differing byte, as a list',
  },
  {
    name: 'rsync --inplace',
    needs: 'rsync',
    before: () => copyFileSync(replica, copy),
    command: ['rsync', '--inplace', '--no-whole-file', '--ignore-times', production, copy],
    ok: [0],
    found: 'nothing to keep: the copy is made equal',
  },
  both('b3sum', 'b3sum'),
  both('xxhsum', 'xxhsum'),
  {
    name: 'rdiff',
    command: [
      'sh',
      '-c',
      'rdiff -f signature "$1" "$2/sig" && rdiff -f delta "$2/sig" "$0" "$2/delta"',
      production,
      replica,
      scratch,
    ],
    ok: [0],
    found: 'a delta with its data',
  },
  {
    name: 'bdsync',
    command: [
      'sh',
      '-c',
      'bdsync --blocksize=65536 "bdsync -s" "$0" "$1" > "$2/bd"',
      production,
      replica,
      scratch,
    ],
    ok: [0],
    found: 'differing blocks, as a patch with their data',
  },
  {
    name: 'blocksync-fast',
    command: ['blocksync-fast', '-s', production, '-d', replica, '--block-size=65536', '--dont-write'],
    ok: [0],
    found: 'how many blocks differ; nothing to keep',
  },
];

const present = contestants.filter((one) => installed(one.needs ?? toolOf(one)));
const missing = contestants.filter((one) => !present.includes(one)).map(({ name }) => name);
const gnuTime = isExecutable('/usr/bin/time') ? '/usr/bin/time' : null;
for (const path of [production, replica]) readFileChunks(path);
const samples = new Map(present.map(({ name }) => [name, []]));
for (let round = 0; round < rounds; round++) {
  for (const one of present) {
    // Some of them drop what they read from the page cache; everybody is to find it there.
    for (const path of [production, replica]) readFileChunks(path);
    samples.get(one.name).push(measure(one));
  }
}
report();

/** The bitmap is written, as a user has it; anew each time, for a scan does not replace what it does not know. */
function scan(name, options) {
  const path = join(scratch, `${name.replace(' ', '-')}.drift`);
  return {
    name,
    before: () => rmSync(path, { force: true }),
    command: [...driftmap, '-q', '-o', path, ...options],
    ok: [1],
    found: 'a bitmap of every block, as a file',
  };
}

/** Both files at once, one process each, as one would do it. */
function both(name, command) {
  const script = `${command} "$0" > "$2/a" & ${command} "$1" > "$2/b"; wait`;
  return {
    name,
    needs: command,
    command: ['sh', '-c', script, production, replica, scratch],
    ok: [0],
    found: 'whether they are equal',
  };
}

function toolOf({ name }) {
  return name.startsWith('driftmap') ? process.execPath : name.split(' ')[0];
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function installed(tool) {
  if (tool.includes('/')) return isExecutable(tool);
  return (process.env.PATH ?? '').split(delimiter).some((path) => isExecutable(join(path, tool)));
}

function makePair() {
  const size = values.size ?? (values.smoke ? '64M' : '4G');
  run([process.execPath, join(root, 'scripts', 'make-pair.mjs'), scratch, '--size', size]);
  return scratch;
}

/** A qcow2 overlay of the production disk, to be rebased onto the replica: it then holds what differs. */
function overlay() {
  const path = join(scratch, 'overlay.qcow2');
  rmSync(path, { force: true });
  run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', production, path]);
}

function run([command, ...args]) {
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`);
}

/** Into the page cache. */
function readFileChunks(path) {
  run(['sh', '-c', 'cat "$0" > /dev/null', path]);
}

/** @returns wall and processor seconds and peak memory of one run; GNU time knows the last two, Node does not */
function measure({ name, before, command, ok }) {
  before?.();
  const usage = join(scratch, 'usage');
  const line = gnuTime === null ? command : [gnuTime, '-q', '-o', usage, '-f', '%U %S %M', ...command];
  const from = performance.now();
  const { status, stderr } = spawnSync(line[0], line.slice(1), { encoding: 'utf8', maxBuffer: 2 ** 28 });
  const wall = (performance.now() - from) / 1000;
  if (!ok.includes(status)) throw new Error(`${name} ended with status ${status}: ${stderr}`);
  if (gnuTime === null || !existsSync(usage)) return { wall, cpu: null, peak: null };
  const [user, system, kilobytes] = readFileSync(usage, 'utf8').trim().split(/\s+/).map(Number);
  return { wall, cpu: user + system, peak: kilobytes * 1024 };
}

function median(list) {
  return [...list].sort((a, b) => a - b)[list.length >> 1];
}

function report() {
  const rows = present.map(({ name, found }) => {
    const runs = samples.get(name);
    const of = (key) => (runs[0][key] === null ? null : median(runs.map((one) => one[key])));
    return { name, wall: of('wall'), cpu: of('cpu'), peak: of('peak'), found, runs };
  });
  const { size } = statSync(production);
  console.log(
    `${cpus()[0]?.model.trim()}, ${cpus().length} processors, Node ${process.version}; ${size / 2 ** 20} MiB, ${truth} blocks of 64 KiB differ; medians of ${rounds}\n`,
  );
  console.log('what                  wall s    CPU s   peak MiB   what it finds');
  for (const { name, wall, cpu, peak, found } of rows) {
    const columns = [
      wall.toFixed(2).padStart(7),
      (cpu === null ? '-' : cpu.toFixed(2)).padStart(8),
      (peak === null ? '-' : (peak / 2 ** 20).toFixed(0)).padStart(10),
    ];
    console.log(`${name.padEnd(20)} ${columns.join(' ')}   ${found}`);
  }
  if (missing.length) console.log(`\nnot installed: ${missing.join(', ')}`);
  const result = { node: process.version, cpu: cpus()[0]?.model, size, differing: truth, rounds, rows };
  const plotted = rows.map((row) => ({ ...row, value: row.wall, ours: row.name.startsWith('driftmap') }));
  if (values.svg) writeFileSync(values.svg, bars('Wall seconds for one pair of disks', plotted));
  if (values.json) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
}
