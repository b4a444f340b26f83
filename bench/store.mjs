// Measures object stores: how fast objects of several sizes are put and got by several connections. What an upload of
// a snapshot could reach at most. Needs a built dist/.
//   node bench/store.mjs [ADDRESS...] [--sizes 64K,256K,1M,4M] [--connections 1,8,32] [--seconds 2] [--json] [--smoke]
// Without an address: a temporary folder (TMPDIR), and an S3 by Ceph in memory (test/lab/ceph.mjs) where Ceph is
// installed. What is put is random, under a prefix of its own, and is removed.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { accessSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { parseSize } from '../dist/base/units.js';
import { openObjectStore } from '../dist/store/open-object-store.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    sizes: { type: 'string', default: '64K,256K,1M,4M' },
    connections: { type: 'string', default: '1,8,32' },
    seconds: { type: 'string', default: '2' },
    json: { type: 'boolean', default: false },
    smoke: { type: 'boolean', default: false },
  },
});
const sizes = (values.smoke ? '64K' : values.sizes).split(',').map(parseSize);
const widths = (values.smoke ? '1,8' : values.connections).split(',').map(Number);
const seconds = values.smoke ? 0.1 : Number(values.seconds);
const results = [];

if (positionals.length > 0) for (const address of positionals) await measure(address, address);
else {
  const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-store-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  await measure('a folder', folder);
  if (!values.smoke) await measureCeph();
}
if (values.json) console.log(JSON.stringify(results, null, 2));

async function measure(name, address, options = {}) {
  const store = await openObjectStore(address, { connections: Math.max(...widths), ...options });
  const prefix = `bench-${randomBytes(4).toString('hex')}`;
  for (const size of sizes) {
    for (const width of widths) {
      const bytes = randomBytes(size);
      const put = await rate(width, (i) => store.put(`${prefix}/${i % 256}/${i}`, bytes));
      const got = await rate(width, (i) => store.get(`${prefix}/${(i % put.count) % 256}/${i % put.count}`));
      tell(name, size, width, put, got);
      const keys = Array.from({ length: put.count }, (_, i) => `${prefix}/${i % 256}/${i}`);
      await store.remove(keys);
    }
  }
  await store.close();
}

/** So many calls at a time, until the seconds are over; each call that was begun is ended and counts. */
async function rate(width, act) {
  let count = 0;
  const from = process.hrtime.bigint();
  const elapsed = () => Number(process.hrtime.bigint() - from) / 1e9;
  const processor = process.cpuUsage();
  await Promise.all(
    Array.from({ length: width }, async () => {
      do await act(count++);
      while (elapsed() < seconds);
    }),
  );
  const { user, system } = process.cpuUsage(processor);
  return { count, seconds: elapsed(), processor: (user + system) / 1e6 };
}

function tell(store, size, connections, put, got) {
  const speed = ({ count, seconds: taken }) => (count * size) / taken / 1e6;
  const cost = ({ count, processor }) => (processor / count) * 1e3;
  const figures = {
    store,
    size,
    connections,
    put: speed(put),
    putPerSecond: put.count / put.seconds,
    putProcessorMs: cost(put),
    get: speed(got),
    getPerSecond: got.count / got.seconds,
    getProcessorMs: cost(got),
  };
  results.push(figures);
  if (values.json) return;
  const part = (label, mb, perSecond, milliseconds) =>
    `${label} ${mb.toFixed(0).padStart(5)} MB/s, ${perSecond.toFixed(0).padStart(5)}/s, ${milliseconds.toFixed(2)} ms CPU each`;
  console.log(
    `${store.padEnd(10)} ${`${size / 1024} KiB`.padStart(9)} x ${String(connections).padStart(2)}   ` +
      `${part('put', figures.put, figures.putPerSecond, figures.putProcessorMs)}   ` +
      `${part('get', figures.get, figures.getPerSecond, figures.getProcessorMs)}`,
  );
}

async function measureCeph() {
  if (!installed('radosgw') || !installed('ceph-osd')) {
    console.error('Ceph is not installed: no S3 is measured');
    return;
  }
  const script = fileURLToPath(new URL('../test/lab/ceph.mjs', import.meta.url));
  const ceph = spawn(process.execPath, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    const lines = createInterface({ input: ceph.stdout });
    const line = await new Promise((resolve, reject) => {
      lines.once('line', resolve);
      ceph.once('exit', () => reject(new Error('Ceph did not start')));
    });
    const { endpoint, accessKey: accessKeyId, secretKey: secretAccessKey } = JSON.parse(line);
    const credentials = { accessKeyId, secretAccessKey };
    const client = new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true });
    await client.send(new CreateBucketCommand({ Bucket: 'bench' }));
    client.destroy();
    await measure('S3 (Ceph)', `s3://bench?endpoint=${endpoint}&path-style`, { credentials });
  } finally {
    ceph.stdin.end();
  }
}

function installed(name) {
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, name));
      return true;
    } catch {
      return false;
    }
  });
}
