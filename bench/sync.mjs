// Measures sessions: `node bench/sync.mjs [SIZE_MIB | --smoke]`, 1024 unless said. Needs a built dist/.
// A pair of which 40 % is zero, 1 % of the blocks differ in one byte, and 3 % differ wholly in a row. Interleaved
// rounds, medians. Beside driftmap: a scan and a copy of the marked bytes; rsync where it is installed.
import { spawnSync } from 'node:child_process';
import { randomBytes, randomFillSync } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  fsyncSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compareSites, openDisk, scan, serve, sync, verify } from '../dist/index.js';

const argument = process.argv[2] ?? '1024';
const mebibytes = argument === '--smoke' ? 64 : Number(argument);
if (!Number.isSafeInteger(mebibytes) || mebibytes < 32) {
  console.error('usage: node bench/sync.mjs [SIZE_MIB | --smoke]');
  process.exit(2);
}
const ROUNDS = argument === '--smoke' ? 1 : 5;
const BLOCK = 65536;
const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-'));
const [production, drifted, replica] = ['production.raw', 'drifted.raw', 'replica.raw'].map((name) =>
  join(folder, name),
);

function makePair() {
  const [a, b] = [openSync(production, 'w'), openSync(drifted, 'w')];
  for (const file of [a, b]) ftruncateSync(file, mebibytes * 2 ** 20);
  const chunk = Buffer.alloc(2 ** 20);
  const row = Math.floor(mebibytes * 0.5);
  for (let i = 0; i < mebibytes; i++) {
    if (i % 5 < 2) continue;
    randomFillSync(chunk);
    // Half of every block compresses, as it does on disks.
    for (let at = BLOCK / 2; at < chunk.length; at += BLOCK)
      chunk.fill('the contents of a log file, ', at, at + BLOCK / 2);
    writeSync(a, chunk, 0, chunk.length, i * 2 ** 20);
    const wholly = i >= row && i < row + mebibytes * 0.05;
    if (wholly) randomFillSync(chunk);
    else if (i % 6 === 0) chunk[(i % 16) * BLOCK + 77] ^= 1;
    if (wholly || i % 6 === 0) differing.push(i);
    writeSync(b, chunk, 0, chunk.length, i * 2 ** 20);
  }
  for (const file of [a, b]) closeSync(file);
}

/** Megabytes that differ. */
const differing = [];
let copied = false;
/** Brings the drift back; only where it is, so that the rounds do not write gigabytes. */
const fresh = () => {
  rmSync(`${replica}.driftstate`, { force: true });
  if (!copied) copyFileSync(drifted, replica);
  const [from, to] = [openSync(drifted, 'r'), openSync(replica, 'r+')];
  const chunk = Buffer.alloc(2 ** 20);
  for (const i of copied ? differing : []) {
    readSync(from, chunk, 0, chunk.length, i * 2 ** 20);
    writeSync(to, chunk, 0, chunk.length, i * 2 ** 20);
  }
  copied = true;
  fsyncSync(to);
  for (const file of [from, to]) closeSync(file);
};
const times = new Map();
async function timed(name, act) {
  fresh();
  const began = performance.now();
  const note = await act();
  const list = times.get(name) ?? { seconds: [], note: '' };
  list.seconds.push((performance.now() - began) / 1000);
  list.note = note ?? '';
  times.set(name, list);
}

/** What sync cannot be quicker than: the scan, and the copy of what it marks. */
async function scanAndCopy() {
  const disks = [await openDisk(production, { format: 'raw' }), await openDisk(replica, { format: 'raw' })];
  const { bitmap } = await scan({ production: disks[0], replica: disks[1], compare: 'bytes' });
  const [from, to] = [openSync(production, 'r'), openSync(replica, 'r+')];
  const buffer = Buffer.alloc(2 ** 20);
  for (const { offset, length } of bitmap.ranges()) {
    for (let at = 0; at < length; at += buffer.length) {
      const count = Math.min(buffer.length, length - at);
      readSync(from, buffer, 0, count, offset + at);
      writeSync(to, buffer, 0, count, offset + at);
    }
  }
  fsyncSync(to);
  for (const file of [from, to]) closeSync(file);
  for (const disk of disks) await disk.close();
}

const mb = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
const hasRsync = spawnSync('rsync', ['--version']).status === 0;
const token = randomBytes(32);

try {
  makePair();
  const server = await serve({
    host: '127.0.0.1',
    port: 0,
    tls: null,
    token,
    grant: () => ({ disk: replica }),
  });
  const far = `driftmap://127.0.0.1:${server.port}/vm`;
  const wire = ({ sentBytes, receivedBytes, storedBytes = 0 }) =>
    `${mb(sentBytes + receivedBytes)} on the wire, ${mb(storedBytes)} of it data`;
  for (let round = 0; round < ROUNDS; round++) {
    await timed('scan of bytes, and a copy of what it marks', scanAndCopy);
    await timed('sync, both disks here', async () => {
      await sync({ production, replica });
    });
    if (hasRsync)
      await timed('rsync --inplace --no-whole-file -I, here', async () => {
        const args = ['--inplace', '--no-whole-file', '-I', '--fsync', '--stats', production, replica];
        const { stdout } = spawnSync('rsync', args, { encoding: 'utf8' });
        return `sent ${/bytes sent: ([\d,]+)/.exec(stdout)?.[1]}, received ${/bytes received: ([\d,]+)/.exec(stdout)?.[1]}`;
      });
    for (const signature of ['nh128', 'blake3']) {
      await timed(`compare here, ${signature}`, async () => {
        await verifyOnce(replica, signature);
      });
      await timed(`compare over TCP on loopback, ${signature}`, async () =>
        wire(await compareSites({ production, replica: far, token, signature })),
      );
    }
    await timed('sync over TCP on loopback', async () =>
      wire(await sync({ production, replica: far, token })),
    );
    const packed = { production, replica: far, token, compression: 'always' };
    await timed('… compressed', async () => wire(await sync(packed)));
    await timed('… compressed, refined to 4 KiB', async () => wire(await sync({ ...packed, refine: 4096 })));
  }
  const { markedBlocks } = await verify({ production, replica });
  await server.close();
  for (const [name, { seconds, note }] of times) {
    const median = seconds.sort((a, b) => a - b)[Math.floor(seconds.length / 2)];
    console.log(`${name.padEnd(46)} ${median.toFixed(3)} s  ${note}`);
  }
  console.log(`peak of the process, both sides: ${mb(process.resourceUsage().maxRSS * 1024)}`);
  if (markedBlocks > 0) throw new Error(`the replica is not equal: ${markedBlocks} blocks`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function verifyOnce(path, signature) {
  const disks = [await openDisk(production, { format: 'raw' }), await openDisk(path, { format: 'raw' })];
  await scan({ production: disks[0], replica: disks[1], signature });
  for (const disk of disks) await disk.close();
}
