// What the benches of sessions share: pairs of disks, certificates, and both ends as processes.
import { spawn, spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { closeSync, fsyncSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const MiB = 2 ** 20;
const BLOCK = 65536;
const HALF = BLOCK / 2;

export const installed = (tool, ...args) => spawnSync(tool, args).error === undefined;
export const mb = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
export const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

/**
 * Production, and how its replica has drifted: 40 % is zero, one block in `every` of the rest differs in one byte,
 * and `row` MiB in the middle differ wholly. Half of every block compresses, as it does on disks.
 * @returns the ranges that differ
 */
export function makePair({ production, drifted, mebibytes, every, row }) {
  const files = [production, drifted].map((path) => openSync(path, 'w'));
  for (const file of files) ftruncateSync(file, mebibytes * MiB);
  const chunk = Buffer.alloc(MiB);
  const differing = [];
  let left = row;
  for (let i = 0, count = 0; i < mebibytes; i++) {
    if (i % 5 < 2) continue;
    fill(chunk);
    writeSync(files[0], chunk, 0, MiB, i * MiB);
    if (i >= mebibytes / 2 && left > 0) {
      left--;
      fill(chunk);
      differing.push({ offset: i * MiB, length: MiB });
    } else {
      for (let at = 0; at < MiB; at += BLOCK) {
        if (every === 0 || ++count % every !== 0) continue;
        chunk[at + 77] ^= 1;
        differing.push({ offset: i * MiB + at, length: BLOCK });
      }
    }
    writeSync(files[1], chunk, 0, MiB, i * MiB);
  }
  for (const file of files) {
    fsyncSync(file);
    closeSync(file);
  }
  return differing;
}

function fill(chunk) {
  randomFillSync(chunk);
  for (let at = HALF; at < chunk.length; at += BLOCK)
    chunk.fill('the contents of a log file, ', at, at + HALF);
}

/** A disk of bytes that do not compress. */
export function makeNoise(path, mebibytes) {
  const file = openSync(path, 'w');
  const chunk = Buffer.alloc(MiB);
  for (let i = 0; i < mebibytes; i++) {
    randomFillSync(chunk);
    writeSync(file, chunk);
  }
  closeSync(file);
}

/** Makes a replica that was brought up to date as it was before, and forgets its state. */
export function bringBack({ drifted, replica, differing }) {
  rmSync(`${replica}.driftstate`, { force: true });
  const [from, to] = [openSync(drifted, 'r'), openSync(replica, 'r+')];
  const chunk = Buffer.alloc(MiB);
  for (const { offset, length } of differing) {
    readSync(from, chunk, 0, length, offset);
    writeSync(to, chunk, 0, length, offset);
  }
  fsyncSync(to);
  for (const file of [from, to]) closeSync(file);
}

/** A certificate for both ends, that signs itself. */
export function makeCertificate(folder, host) {
  const [cert, key] = ['cert.pem', 'key.pem'].map((name) => join(folder, name));
  const { status, stderr } = spawnSync('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
    ...['-keyout', key, '-out', cert, '-subj', '/CN=bench', '-addext', `subjectAltName=IP:${host}`],
  ]);
  if (status !== 0) throw new Error(`openssl makes no certificate: ${stderr}`);
  return { cert, key, ca: cert };
}

/** The pairs of a bench are in the page cache for everybody. */
export function readThrough(path) {
  const file = openSync(path, 'r');
  const chunk = Buffer.alloc(4 * MiB);
  for (let at = 0, count = 1; count > 0; at += count) count = readSync(file, chunk, 0, chunk.length, at);
  closeSync(file);
}

const gnuTime = spawnSync('/usr/bin/time', ['--version']).error === undefined;

/** Runs a command to its end: seconds of the wall's clock and, by GNU time, of processor time, and peak memory. */
export function command(words, good = [0]) {
  const timed = gnuTime ? ['/usr/bin/time', '-q', '-f', 'used %U %S %M', ...words] : words;
  const began = performance.now();
  const { status, stderr } = spawnSync(timed[0], timed.slice(1), { encoding: 'utf8' });
  const seconds = (performance.now() - began) / 1000;
  if (!good.includes(status)) throw new Error(`${words.join(' ')}: ${stderr}`);
  const [user, system, peak] = /used ([\d.]+) ([\d.]+) (\d+)/.exec(stderr)?.slice(1).map(Number) ?? [];
  return { seconds, cpu: gnuTime ? user + system : Number.NaN, peak: gnuTime ? peak * 1024 : Number.NaN };
}

/** @param within words that start a command elsewhere, such as `ip netns exec NAME` */
export function nodeEnd(within, script, ...args) {
  const [first, ...rest] = [...within, process.execPath, join(here, script), ...args];
  const child = spawn(first, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${args[0]}: it ended and said nothing`);
    return JSON.parse(value);
  };
  return { child, next, end: () => child.stdin.end() };
}

/** One process with both disks: what it takes without a network. */
export async function alone(what, options) {
  const one = nodeEnd([], 'end.mjs', what, JSON.stringify(options));
  one.end();
  return one.next();
}

/** A plain TLS connection that carries so much. */
export async function plainPipe({ cert, key }, mebibytes) {
  const drain = nodeEnd([], 'pipe.mjs', 'drain', '0', cert, key, String(mebibytes));
  const { port } = await drain.next();
  const pour = nodeEnd([], 'pipe.mjs', 'pour', String(port), cert, key, String(mebibytes));
  const [told, far] = [await pour.next(), await drain.next()];
  return { ...told, farCpu: far.cpu };
}

/** Serves a disk, runs one session against it, and tells what both ends used. */
export async function session({ what, disk, options, host, tls, server = [], client = [] }) {
  const far = nodeEnd(server, 'end.mjs', 'serve', JSON.stringify({ disk, host, tls }));
  try {
    const { port } = await far.next();
    const replica = `${tls === null ? 'driftmap' : 'driftmaps'}://${host}:${port}/vm`;
    const near = nodeEnd(client, 'end.mjs', what, JSON.stringify({ ...options, replica, tls }));
    near.end();
    const told = await near.next();
    far.end();
    const { cpu, peak } = await far.next();
    return { ...told, farCpu: cpu, farPeak: peak };
  } finally {
    far.end();
  }
}
