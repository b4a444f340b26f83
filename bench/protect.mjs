// Measures the splitter against `nbdkit file` on the same file and the same fio jobs, interleaved:
//   node bench/protect.mjs [SECONDS | --smoke]      5 seconds to each job unless said; three rounds. Needs a built dist/, fio, nbdkit.
// Prints one line per figure. Files lie in the system's temporary folder (TMPDIR), and are removed.

import { execFile, spawn } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { askControl } from '../dist/protect/group/control.js';

const MiB = 1024 * 1024;
const argument = process.argv[2] ?? '5';
const smoke = argument === '--smoke';
const seconds = smoke ? 1 : Number(argument);
const rounds = smoke ? 1 : 3;
const size = (smoke ? 64 : 1024) * MiB;
if (!(seconds >= 1)) {
  console.error('usage: node bench/protect.mjs [SECONDS | --smoke]');
  process.exit(2);
}
const command = fileURLToPath(new URL('../dist/lib/main.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-protect-'));
const running = new Set();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

const disk = join(folder, 'disk.raw');
const fd = openSync(disk, 'w');
const piece = Buffer.alloc(1 * MiB, 0x5a);
for (let at = 0; at < size; at += piece.length) writeSync(fd, piece, 0, piece.length, at);
closeSync(fd);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const accepts = (socket) =>
  new Promise((resolve) => {
    const probe = connect({ path: socket });
    probe.once('connect', () => resolve(probe.destroy() !== null));
    probe.once('error', () => resolve(false));
  });

async function start(program, args, socket) {
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  running.add(child);
  const ended = new Promise((resolve) => child.once('exit', resolve)).then(() => running.delete(child));
  for (let tries = 0; !(await accepts(socket)); tries++) {
    if (tries > 600) throw new Error(`${program} does not listen`);
    await pause(25);
  }
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  return { child, socket, stop };
}

const nbdkit = () => {
  const socket = join(folder, 'nbdkit.sock');
  rmSync(socket, { force: true });
  return start('nbdkit', ['-f', '-U', socket, 'file', disk], socket);
};

/** The splitter; with a replica of its own process on this host, or with none. */
async function protect(withReplica) {
  const name = withReplica ? 'replica' : 'alone';
  const at = join(folder, name);
  mkdirSync(at, { recursive: true });
  const socket = join(at, 'nbd.sock');
  const group = {
    group: name,
    production: { state: 'state', disks: { disk: { disk, socket: 'nbd.sock' } } },
    ...(withReplica && {
      replica: { journal: 'journal', disks: { disk: 'replica.raw' }, keep: { bytes: '4G' } },
    }),
  };
  // A group file names a replica side or another site; without either nothing is streamed.
  writeFileSync(join(at, 'group.json'), JSON.stringify(group));
  const server = await start(process.execPath, [command, 'protect', join(at, 'group.json')], socket);
  const control = join(at, 'state', 'control.sock');
  const state = async () => (await askControl(control, 'GET /state'))?.answer;
  const settle = async () => {
    while (withReplica && (await state())?.state !== 'streaming') await pause(100);
  };
  await settle();
  return { ...server, state, settle };
}

/** The replica's process. */
function childOf({ child }) {
  return Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim().split(' ')[0]);
}

const jobs = {
  'random write 4 KiB, depth 32': ['--rw=randwrite', '--bs=4k', '--iodepth=32'],
  'sequential write 1 MiB, depth 8': ['--rw=write', '--bs=1m', '--iodepth=8'],
  'random read 4 KiB, depth 32': ['--rw=randread', '--bs=4k', '--iodepth=32'],
};

async function fio(socket, options) {
  const { stdout: text } = await promisify(execFile)('fio', [
    '--name=job',
    '--ioengine=nbd',
    `--uri=nbd+unix:///?socket=${socket}`,
    `--size=${size}`,
    `--runtime=${seconds}`,
    '--time_based',
    // Processes and regions warm up: what is measured is what lasts.
    `--ramp_time=${smoke ? 0 : 2}`,
    '--randrepeat=0',
    '--output-format=json',
    ...options,
  ]);
  const [job] = JSON.parse(text.slice(text.indexOf('{'))).jobs;
  const side = job.write.total_ios > 0 ? job.write : job.read;
  return {
    iops: side.iops,
    mib: side.bw_bytes / MiB,
    p99: side.clat_ns.percentile['99.000000'] / 1e6,
  };
}

/**
 * Unlimited load falls to marking once it outruns the replica, and is fast then. So the rates that are wanted of a group
 * that streams, of nbdkit's, are held as well, and the falls counted.
 */
const wantedShare = { 'random write 4 KiB, depth 32': 0.4, 'sequential write 1 MiB, depth 8': 0.45 };

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const contestants = {
  nbdkit,
  'splitter alone': () => protect(false),
  'splitter and replica': () => protect(true),
};

/** The share of the time, from now until it is asked, that a group spent streaming: 20 looks a second. */
function watchState(server) {
  const seen = { looks: 0, streaming: 0 };
  const looking = setInterval(async () => {
    const state = await server.state?.().catch(() => undefined);
    seen.looks++;
    if (state?.state === 'streaming') seen.streaming++;
  }, 50);
  return () => {
    clearInterval(looking);
    return seen.looks === 0 ? 0 : seen.streaming / seen.looks;
  };
}

async function measure(server, options) {
  const shareStreaming = watchState(server);
  const result = await fio(server.socket, options);
  const streaming = shareStreaming();
  return { ...result, streaming, falls: (await server.state?.())?.falls ?? 0 };
}

for (const [what, options] of Object.entries(jobs)) {
  const results = {};
  for (let round = 0; round < rounds; round++) {
    for (const [who, open] of Object.entries(contestants)) {
      const server = await open();
      results[who] = [...(results[who] ?? []), await measure(server, options)];
      await server.stop();
    }
  }
  const unit = what.startsWith('sequential') ? 'mib' : 'iops';
  const base = median(results.nbdkit.map((result) => result[unit]));
  for (const [who, measured] of Object.entries(results)) {
    const value = median(measured.map((result) => result[unit]));
    const share = who === 'nbdkit' ? '' : `  ${((100 * value) / base).toFixed(0)} % of nbdkit`;
    const falls = who.endsWith('replica')
      ? `, streaming ${(100 * median(measured.map((result) => result.streaming))).toFixed(0)} % of the time`
      : '';
    const figure = unit === 'mib' ? `${value.toFixed(0)} MiB/s` : `${value.toFixed(0)}/s`;
    const p99 = median(measured.map((result) => result.p99)).toFixed(2);
    console.log(`${`${what}, ${who}`.padEnd(56)} ${figure.padStart(11)}${share}  (p99 ${p99} ms${falls})`);
  }
  const wanted = wantedShare[what];
  if (wanted === undefined) continue;
  const rate =
    unit === 'mib' ? `--rate=${Math.round(wanted * base)}M` : `--rate_iops=${Math.round(wanted * base)}`;
  const held = [];
  for (let round = 0; round < rounds; round++) {
    const server = await protect(true);
    held.push(await measure(server, [...options, rate]));
    await server.stop();
  }
  const got = median(held.map((result) => result[unit]));
  const time = held.map((result) => `${(100 * result.streaming).toFixed(0)} %`).join(', ');
  console.log(
    `${`${what}, held at ${100 * wanted} % of nbdkit`.padEnd(56)} ${got.toFixed(0).padStart(11)}  streaming ${time} of the time, falls ${held.map((result) => result.falls).join(', ')}`,
  );
}

// What a guest sees of a replica that is frozen: latency at a steady rate, which no queue hides.
const steady = ['--rw=randwrite', '--bs=4k', '--iodepth=4', '--rate_iops=2000'];
const latency = { streaming: [], frozen: [] };
for (let round = 0; round < rounds; round++) {
  const server = await protect(true);
  await fio(server.socket, steady);
  await server.settle();
  latency.streaming.push((await fio(server.socket, steady)).p99);
  await server.settle();
  const replica = childOf(server);
  process.kill(replica, 'SIGSTOP');
  latency.frozen.push((await fio(server.socket, steady)).p99);
  process.kill(replica, 'SIGCONT');
  await server.settle();
  await server.stop();
}
const [streaming, frozen] = [median(latency.streaming), median(latency.frozen)];
console.log(
  `${'p99 of 4 KiB writes at 2000/s, replica streaming'.padEnd(56)} ${streaming.toFixed(2)} ms\n` +
    `${'p99 of 4 KiB writes at 2000/s, replica frozen'.padEnd(56)} ${frozen.toFixed(2)} ms  ${(frozen / streaming).toFixed(2)} × streaming`,
);
