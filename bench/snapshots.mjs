// Measures snapshots: taking one of a disk into a fresh repository, in turn with putting objects of the same keys and
// lengths as they are by as many connections, which is what the store can do at most; then one of which a hundredth
// changed, restoring, and reading by NBD. Needs a built dist/.
//   node bench/snapshots.mjs [ADDRESS...] [--mib 256] [--connections 16] [--rounds 3] [--encrypt]
//                            [--disks random,half,sparse] [--upload-only] [--smoke]
// Without an address: a temporary folder (TMPDIR), and an S3 by Ceph in memory (test/lab/ceph.mjs) where Ceph is
// installed. Disks are of random bytes; by halves random and compressible; by halves random and holes. What is put
// lies under prefixes of its own and is removed, in the temporary folder at the end only: for a minute or more, ext4
// goes by the inodes of what was removed one by one, and would count that to whoever puts next. Rates are of the disk's bytes, in 1e6 a second; the ratio is the
// median of those of the times of each round, and processor time is of this process.

import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  accessSync,
  closeSync,
  fsyncSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
// What the package's users load.
import {
  createRepository,
  openFileUnit,
  openObjectStore,
  openSnapshotDisk,
  restoreSnapshot,
  takeSnapshot,
} from '../dist/lib/index.js';

const MiB = 1024 * 1024;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    mib: { type: 'string', default: '256' },
    connections: { type: 'string', default: '16' },
    rounds: { type: 'string', default: '3' },
    disks: { type: 'string', default: 'random,half,sparse' },
    encrypt: { type: 'boolean', default: false },
    'upload-only': { type: 'boolean', default: false },
    smoke: { type: 'boolean', default: false },
  },
});
const size = (values.smoke ? 4 : Number(values.mib)) * MiB;
const rounds = values.smoke ? 1 : Number(values.rounds);
const connections = Number(values.connections);
const key = values.encrypt ? randomBytes(32) : null;
const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-snapshots-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const noise = randomBytes(17 * MiB);

const kinds = values.disks.split(',');
for (const kind of kinds) makeDisk(kind);
if (positionals.length > 0)
  for (const address of positionals) await measure(address, address, { create: true });
else {
  await measure('a folder', join(folder, 'store'), { create: true });
  if (!values.smoke) await measureCeph();
}

function makeDisk(kind) {
  const fd = openSync(join(folder, kind), 'w');
  ftruncateSync(fd, size);
  for (let at = 0; at < size; at += MiB) {
    const isOdd = (at / MiB) % 2 === 1;
    if (isOdd && kind === 'sparse') continue;
    const bytes = isOdd && kind === 'half' ? readable(at) : randomBytes(MiB);
    writeSync(fd, bytes, 0, MiB, at);
  }
  // Else the store's flushes write it.
  fsyncSync(fd);
  closeSync(fd);
}

/** Packs to about a third, as texts and programs do; another one for each place of a disk. */
function readable(place) {
  const words = Array.from({ length: 400 }, (_, i) =>
    `${((i + 1) * 2654435761) % 1e9}`.slice(0, 2 + (i % 8)),
  );
  const text = [];
  let at = (place / MiB) * 10_007 * 2;
  for (let length = 0; length < MiB; at += 2) {
    const word = words[noise.readUInt16LE(at % (16 * MiB)) % words.length];
    text.push(word);
    length += word.length + 1;
  }
  return Buffer.from(text.join(' ').padEnd(MiB)).subarray(0, MiB);
}

async function measure(name, address, options) {
  const open = (part) => openObjectStore(within(address, part), options);
  if (options.create) await (await openObjectStore(address, options)).close();
  for (const kind of kinds) {
    const unit = openFileUnit(join(folder, kind));
    const uploads = [];
    const puts = [];
    let objects = null;
    for (let round = 0; round < rounds; round++) {
      const last = round === rounds - 1;
      // The first run tells what is put; its own figures count as well.
      const inTurn = [
        () => upload(open, unit, last && !values['upload-only'] ? { name, kind, address, options } : null),
        () => putAll(open, objects),
      ];
      if (round % 2 === 1) inTurn.reverse();
      for (const run of inTurn) {
        const result = await run();
        if (result.objects) objects = result.objects;
        (result.objects ? uploads : puts).push(result);
      }
    }
    await unit.close();
    const taken = median(uploads);
    const put = median(puts);
    // Both of a round saw the same machine.
    const ratios = uploads.map(({ seconds }, round) => puts[round].seconds / seconds).sort((a, b) => a - b);
    const ratio = ratios[Math.floor(ratios.length / 2)];
    const stored = objects.reduce((sum, { bytes }) => sum + bytes, 0);
    tell(name, kind, `take ${rate(taken)}   put the same ${objects.length} objects ${rate(put)}`);
    tell(
      name,
      kind,
      `take / put ${(ratio * 100).toFixed(0)} % (at least 70 wanted), ${(stored / size).toFixed(2)} of the bytes stored`,
    );
  }
}

/** Takes a snapshot into a repository of its own, and, if told so, what can be done with it. */
async function upload(open, unit, then) {
  const part = `take-${randomBytes(4).toString('hex')}`;
  const store = await open(part);
  const objects = [];
  const put = store.put.bind(store);
  store.put = (name, bytes, options) => {
    objects.push({ key: name, bytes: bytes.length });
    return put(name, bytes, options);
  };
  const repository = await createRepository(store, { key });
  objects.length = 0;
  const result = await timed(() => take(repository, unit, null, null));
  const all = objects.slice();
  if (then !== null) await useIt(repository, result.value, { ...then, part });
  if (!isOurs(store)) {
    const keys = [];
    for await (const { key: found } of store.list('')) keys.push(found);
    await store.remove(keys);
  }
  await repository.close();
  return { ...result, objects: all };
}

/** Whether it goes with the temporary folder. */
function isOurs({ name }) {
  return name.startsWith(folder);
}

function take(repository, unit, parent, changed) {
  const point = { sequence: 1, time: 1, consistency: 'crash', bookmark: null, journal: null };
  const disks = [{ name: 'disk', size, unit, changed }];
  return takeSnapshot(repository, { group: 'bench', disks, point, parent }, { connections });
}

async function putAll(open, objects) {
  const store = await open(`put-${randomBytes(4).toString('hex')}`);
  let next = 0;
  const result = await timed(() =>
    Promise.all(
      Array.from({ length: connections }, async () => {
        while (next < objects.length) {
          const { key: name, bytes } = objects[next++];
          const at = (next * 4096) % (16 * MiB);
          await store.put(name, noise.subarray(at, at + bytes));
        }
      }),
    ),
  );
  if (!isOurs(store)) await store.remove(objects.map(({ key: name }) => name));
  await store.close();
  return result;
}

/** A hundredth changed and taken again; restored; read by NBD. */
async function useIt(repository, first, { name, kind, address, options, part }) {
  const changed = [];
  const block = 64 * 1024;
  for (let at = 0; at < size; at += 100 * block)
    changed.push({ offset: at, length: Math.min(block, size - at) });
  const writable = openFileUnit(join(folder, kind), { write: true });
  for (const { offset, length } of changed) writable.write(offset, randomBytes(length));
  const again = await timed(() => take(repository, writable, first, changed));
  await writable.close();
  const { blocksSent, bytesScanned } = again.value;
  tell(
    name,
    kind,
    `take 1 % ${again.seconds.toFixed(2)} s, ${blocksSent} blocks, ${bytesScanned} bytes scanned`,
  );

  const path = join(folder, 'restored');
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
  const target = openFileUnit(path, { write: true });
  const restored = await timed(() =>
    restoreSnapshot(repository, again.value, [{ disk: 'disk', unit: target, isEmpty: true }], {
      connections,
    }),
  );
  await target.close();
  rmSync(path);
  tell(name, kind, `restore ${rate(restored)}`);
  const served = key === null && installed('nbdcopy') ? await serve(within(address, part), options) : null;
  if (served !== null) {
    const read = await timed(() => promisify(execFile)('nbdcopy', [served.uri, 'null:']));
    tell(name, kind, `read all by NBD ${(size / read.seconds / 1e6).toFixed(0)} MB/s`);
    await served.stop();
  } else {
    const disk = openSnapshotDisk(repository, again.value, 'disk', { connections });
    const piece = new Uint8Array(MiB);
    const read = await timed(async () => {
      for (let at = 0; at < size; at += MiB) await disk.read(at, piece);
    });
    disk.close();
    tell(name, kind, `read all in order ${rate(read)}`);
  }
}

async function serve(address, { credentials }) {
  const socket = join(folder, 'nbd.sock');
  const command = fileURLToPath(new URL('../dist/lib/main.js', import.meta.url));
  const args = [command, 'snapshots', 'access', address, 'latest', '--socket', socket, '--read-only'];
  const env = {
    ...process.env,
    ...(credentials && {
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
    }),
  };
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'], env });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const uri = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const found = /nbd\S*:\/\/\S+/.exec(line);
      if (found !== null) resolve(found[0]);
    });
    child.once('exit', () => reject(new Error('the snapshot is not served')));
  });
  const stop = async () => {
    child.kill('SIGTERM');
    await ended;
  };
  return { uri, stop };
}

async function timed(act) {
  const processor = process.cpuUsage();
  const from = process.hrtime.bigint();
  const value = await act();
  const seconds = Number(process.hrtime.bigint() - from) / 1e9;
  const { user, system } = process.cpuUsage(processor);
  return { value, seconds, processor: (user + system) / 1e6 };
}

function median(results) {
  const sorted = [...results].sort((a, b) => a.seconds - b.seconds);
  return sorted[Math.floor(sorted.length / 2)];
}

function rate({ seconds, processor }) {
  return `${(size / seconds / 1e6).toFixed(0)} MB/s, ${processor.toFixed(2)} s CPU`;
}

function tell(store, kind, text) {
  console.log(`${store.padEnd(10)} ${kind.padEnd(7)} ${text}`);
}

/** Below an address, another one. */
function within(address, part) {
  const [path, query] = address.split('?');
  return `${path}/${part}${query === undefined ? '' : `?${query}`}`;
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
  return (process.env.PATH ?? '').split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, name));
      return true;
    } catch {
      return false;
    }
  });
}
