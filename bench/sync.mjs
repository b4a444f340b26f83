// Measures sessions: `node bench/sync.mjs [SIZE_MIB | --smoke]`, 1024 unless said. Needs a built dist/ and openssl.
// Whole commands for two disks here; two processes and TLS 1.3 on loopback for two sites, which share this machine's
// processors. Interleaved rounds, medians; processor time beside the wall's, which other work on the machine disturbs less.
import { randomFillSync } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  rmSync,
  statfsSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateRawSync } from 'node:zlib';
import {
  alone,
  bringBack,
  command,
  installed,
  makeCertificate,
  makeNoise,
  makePair,
  mb,
  median,
  plainPipe,
  readThrough,
  session,
} from './sessions/parts.mjs';

const argument = process.argv[2] ?? '1024';
const smoke = argument === '--smoke';
const mebibytes = smoke ? 64 : Number(argument);
if (!Number.isSafeInteger(mebibytes) || mebibytes < 32) {
  console.error('usage: node bench/sync.mjs [SIZE_MIB | --smoke]');
  process.exit(2);
}
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const MiB = 2 ** 20;
const HOST = '127.0.0.1';
const ROUNDS = smoke ? 1 : 5;
const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-'));
// A replica in memory, where there is room: how fast a disk flushes is no property of a session.
const NOISE_MIB = smoke ? 32 : 512;
const memory = roomFor('/dev/shm', 3 * NOISE_MIB * MiB) ? mkdtempSync('/dev/shm/driftmap-bench-') : folder;

function roomFor(path, bytes) {
  if (!existsSync(path)) return false;
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize > bytes;
}

const pairs = new Map();
const samples = new Map();
const add = (name, sample) => samples.set(name, [...(samples.get(name) ?? []), sample]);
const of = (name, pick) => median(samples.get(name).map(pick));
const wall = (name) => of(name, ({ seconds }) => seconds);
const processor = (name) => of(name, ({ cpu, farCpu = 0 }) => cpu + farCpu);

/** Without GNU time the processor's time of commands is not known. */
const figure = (number, digits) => (Number.isFinite(number) ? number.toFixed(digits) : '–');

function report(title, names, notes = {}) {
  console.log(`\n${title}`);
  for (const name of names.filter((one) => samples.has(one))) {
    const figures = `${wall(name).toFixed(3)} s  ${figure(processor(name), 3)} s CPU`;
    console.log(`${name.padEnd(46)} ${figures}  ${notes[name]?.(samples.get(name).at(-1)) ?? ''}`);
  }
}

/** @param most of the one to the other, by the wall's clock */
function ratio(what, a, b, most) {
  const [walls, cpus] = [wall(a) / wall(b), processor(a) / processor(b)];
  const verdict = smoke ? '' : walls <= most ? ', reached' : ', missed';
  console.log(
    `  ${what}: ${walls.toFixed(2)} (${figure(cpus, 2)} of CPU; goal ${most.toFixed(2)}${verdict})`,
  );
}

try {
  const tls = makeCertificate(folder, HOST);
  await here();
  await comparing(tls);
  await sending(tls);
  await bytes(tls);
} finally {
  rmSync(folder, { recursive: true, force: true });
  rmSync(memory, { recursive: true, force: true });
}

/** Two disks here: whole commands. */
async function here() {
  const pair = pairAt('pair', { every: 60, row: Math.max(1, Math.round(mebibytes / 128)) });
  const { production, replica } = pair;
  const driftmap = [process.execPath, join(root, 'dist', 'lib', 'main.js')];
  const contestants = new Map([
    [
      'scan, copy of what it marks, fsync',
      [process.execPath, join(root, 'bench', 'sessions', 'scan-and-copy.mjs'), production, replica],
    ],
    ['driftmap sync', [...driftmap, 'sync', '-q', production, replica]],
  ]);
  const flushed = (words) => ['sh', '-c', '"$@" && sync "$0"', replica, ...words];
  if (installed('blocksync-fast', '--version'))
    contestants.set(
      'blocksync-fast, fsync',
      flushed(['blocksync-fast', '--silent', '-s', production, '-d', replica, '--block-size=65536']),
    );
  if (installed('rsync', '--version'))
    contestants.set('rsync --inplace --no-whole-file -I --fsync', [
      'rsync',
      '--inplace',
      '--no-whole-file',
      '-I',
      '--fsync',
      production,
      replica,
    ]);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, words] of contestants) {
      bringBack(pair);
      for (const path of [production, replica]) readThrough(path);
      add(name, command(words));
    }
  }
  report(`Two disks here: ${mebibytes} MiB, ${mb(pair.changed)} of blocks differ`, [...contestants.keys()]);
  const [floor, ours, rival] = contestants.keys();
  ratio('sync to scan and copy', ours, floor, 1.15);
  if (rival?.startsWith('blocksync')) ratio('sync to blocksync-fast', ours, rival, 0.9);
}

/** The same comparison in one process and between two. */
async function comparing(tls) {
  const { production, replica } = pairAt('pair', null);
  for (const path of [production, replica]) readThrough(path);
  const names = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const signature of ['nh128', 'blake3']) {
      const [local, far] = [`compared here, ${signature}`, `compared over TLS, ${signature}`];
      if (round === 0) names.push(local, far);
      const options = { production, signature };
      const told = [
        await alone('compare', { ...options, replica }),
        await session({ what: 'compare', disk: replica, options, host: HOST, tls }),
      ];
      for (const [i, name] of [local, far].entries()) {
        const { phases, cpu, farCpu = 0, ...rest } = told[i];
        add(name, { ...rest, seconds: phases.comparing.seconds, cpu, farCpu });
      }
    }
  }
  const note = ({ sentBytes, receivedBytes }) => `${mb(sentBytes + receivedBytes)} on the wire`;
  report(
    'Comparing',
    names,
    Object.fromEntries(names.filter((name) => /TLS/.test(name)).map((name) => [name, note])),
  );
  for (const signature of ['nh128', 'blake3'])
    ratio(
      `over TLS to here, ${signature}`,
      `compared over TLS, ${signature}`,
      `compared here, ${signature}`,
      1 / 0.7,
    );
}

/** The data phase alone: everything differs. */
async function sending(tls) {
  const noise = join(memory, 'noise.raw');
  makeNoise(noise, NOISE_MIB);
  const text = pairAt('text', { every: 0, row: 0, mebibytes: NOISE_MIB, single: true }).production;
  const target = join(memory, 'target.raw');
  const plain = { bySignature: false, signature: 'nh128', compression: 'never' };
  const [pipe, sent, packed, core] = [
    'a plain TLS pipe of Node',
    'data as it is',
    'data compressed',
    'one core compresses',
  ];
  const round = async (production, options) => {
    writeFileSync(target, '');
    truncateSync(target, NOISE_MIB * MiB);
    rmSync(`${target}.driftstate`, { force: true });
    return session({ what: 'sync', disk: target, options: { ...options, production }, host: HOST, tls });
  };
  const phase = ({ phases, farCpu, storedBytes, peak, farPeak }) => ({
    ...{ seconds: phases.sending.seconds, cpu: phases.sending.cpu, farCpu, storedBytes, peak, farPeak },
  });
  let textBytes = 0;
  for (let i = 0; i < ROUNDS; i++) {
    add(pipe, await plainPipe(tls, NOISE_MIB));
    add(sent, phase(await round(noise, plain)));
    const told = await round(text, { ...plain, compression: 'always' });
    textBytes = told.dataBytes - told.zeroBytes;
    add(packed, phase(told));
    // One thread that never waits: its time is the processor's.
    const alone = compressAlone(textBytes);
    add(core, { seconds: alone, cpu: alone });
  }
  const rate = (size) => (sample) =>
    `${(size / sample.seconds / 1e6).toFixed(0)} MB/s${sample.farPeak ? `, peak ${mb(sample.peak)} and ${mb(sample.farPeak)}` : ''}`;
  const notes = {
    [pipe]: rate(NOISE_MIB * MiB),
    [sent]: rate(NOISE_MIB * MiB),
    [packed]: rate(textBytes),
    [core]: rate(textBytes),
  };
  report(`Sending ${NOISE_MIB} MiB over TLS`, [pipe, sent, core, packed], notes);
  ratio('data to the pipe', sent, pipe, 1 / 0.6);
  ratio('compressed data to one core', packed, core, 1 / 0.6);
}

function compressAlone(size) {
  const chunk = Buffer.alloc(MiB);
  randomFillSync(chunk);
  for (let at = 32768; at < MiB; at += 65536) chunk.fill('the contents of a log file, ', at, at + 32768);
  const count = Math.min(32, Math.ceil(size / MiB));
  const began = performance.now();
  for (let i = 0; i < count; i++) deflateRawSync(chunk, { level: 1, memLevel: 9 });
  return ((performance.now() - began) / 1000) * (size / (count * MiB));
}

/** What travels, and what is held: the same however busy the machine. */
async function bytes(tls) {
  console.log('\nBytes and memory');
  const line = (name, told) => console.log(`${name.padEnd(46)} ${told}`);
  const wire = ({ sentBytes, receivedBytes }) => sentBytes + receivedBytes;
  const run = (what, disk, options) => session({ what, disk, options, host: HOST, tls });
  const pair = pairAt('pair', null);
  for (const [name, options] of [
    ['sync', { compression: 'always' }],
    ['sync, refined to 4 KiB', { compression: 'always', refine: 4096 }],
  ]) {
    bringBack(pair);
    const told = await run('sync', pair.replica, { production: pair.production, ...options });
    const rest = wire(told) - told.storedBytes;
    line(
      name,
      `${mb(told.storedBytes)} of data as packed, the rest ${mb(rest)}, ${((rest / told.storedBytes) * 100).toFixed(2)} % of it; peak ${mb(told.peak)} and ${mb(told.farPeak)}`,
    );
  }
  const scattered = pairAt('scattered', { every: 100, row: 0 });
  const { production } = scattered;
  const compared = await run('compare', scattered.replica, { production });
  line(
    '1 % of the blocks differ, scattered',
    `${mb(wire(compared))} to find ${mb(scattered.changed)}: ${((wire(compared) / scattered.changed) * 100).toFixed(2)} % (goal 3)`,
  );
  await moved(scattered, run, line, wire);
  await huge(run, line, wire);
}

/** A guest copies a file and defragments its disk: blocks that are there already, elsewhere. */
async function moved({ production }, run, line, wire) {
  const replica = join(folder, 'moved.raw');
  copyFileSync(production, replica);
  const size = Math.floor(mebibytes / 8);
  const from = Math.floor(mebibytes / 2);
  command([
    'dd',
    `if=${production}`,
    `of=${replica}`,
    'bs=1M',
    'conv=notrunc',
    `skip=0`,
    `seek=${from}`,
    `count=${size}`,
  ]);
  // The replica holds the first part twice; production is what was there before.
  const told = await run('sync', production, { production: replica, full: true });
  line(
    'a part of the disk was copied within it',
    `${mb(told.placedBytes)} placed by signature, ${mb(told.dataBytes - told.zeroBytes)} sent as data, ${mb(wire(told))} on the wire`,
  );
}

/** Disks of 1 TiB with little in them. */
async function huge(run, line, wire) {
  const disks = ['huge-a.raw', 'huge-b.raw'].map((name) => join(folder, name));
  for (const path of disks) {
    writeFileSync(path, '');
    truncateSync(path, 2 ** 40);
  }
  const told = await run('compare', disks[1], { production: disks[0] });
  line(
    'two empty disks of 1 TiB',
    `${(wire(told) / 1024).toFixed(1)} KiB, ${told.seconds.toFixed(2)} s; peak ${mb(told.peak)} and ${mb(told.farPeak)}`,
  );
  for (let i = 0; i < 256; i++)
    command([
      'dd',
      'if=/dev/urandom',
      `of=${disks[0]}`,
      'bs=64K',
      'count=1',
      'conv=notrunc',
      `seek=${i * 65_521}`,
      'status=none',
    ]);
  const synced = await run('sync', disks[1], { production: disks[0] });
  line(
    '… and 256 blocks in one of them, made equal',
    `${mb(wire(synced))}, ${synced.seconds.toFixed(2)} s; peak ${mb(synced.peak)} and ${mb(synced.farPeak)}`,
  );
}

/** A pair by its name: made when it is first asked for. */
function pairAt(name, spec) {
  const known = pairs.get(name);
  if (known !== undefined) return known;
  const at = (part) => join(folder, `${name}-${part}.raw`);
  const paths = { production: at('production'), drifted: at('drifted'), replica: at('replica') };
  const differing = makePair({ ...paths, mebibytes, ...spec });
  if (spec.single) rmSync(paths.drifted);
  else copyFileSync(paths.drifted, paths.replica);
  const pair = { ...paths, differing, changed: differing.reduce((sum, { length }) => sum + length, 0) };
  pairs.set(name, pair);
  return pair;
}
