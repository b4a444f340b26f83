// Measures the journal: `node bench/journal.mjs [MIB | --smoke] [--recovery GIB]`, 512 MiB of writes unless said. Needs a
// built dist/. Prints one line per figure, beside the disk's own in turn with it, and beside what is wanted. Files lie in
// the system's temporary folder (TMPDIR), and are removed: five times MIB, and GIB with `--recovery`.

import { spawn } from 'node:child_process';
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createJournal, openJournal } from '../dist/journal/open.js';
import { openFileUnit } from '../dist/lu/file-unit.js';
import { openNbdUnit } from '../dist/lu/nbd/nbd-unit.js';
import { serveNbd } from '../dist/protect/nbd/server.js';
import { unitExport } from '../dist/protect/nbd/unit-export.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const args = process.argv.slice(2);
if (args[0] === '--client') await client(args[1], Number(args[2]), Number(args[3]), args[4] === 'in-order');
if (args[0] === '--writer') await writer(args[1], args[2], Number(args[3]));
const smoke = args[0] === '--smoke';
const recoveryAt = args.indexOf('--recovery');
const recovery = (smoke ? 1 / 64 : recoveryAt < 0 ? 0 : Number(args[recoveryAt + 1])) * GiB;
const total = (smoke ? 8 : args[0]?.startsWith('--') ? 512 : Number(args[0] ?? 512)) * MiB;
if (!Number.isSafeInteger(total) || total < MiB || !Number.isSafeInteger(recovery)) {
  console.error('usage: node bench/journal.mjs [MIB | --smoke] [--recovery GIB]');
  process.exit(2);
}
const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-journal-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const report = (what, figure) => console.log(`${what.padEnd(66)} ${figure}`);
const rate = (bytes, seconds) => `${(bytes / seconds / 1e6).toFixed(0)} MB/s`;
const milliseconds = (seconds) => `${(seconds * 1000).toFixed(1)} ms`;
// So little data shows that it runs, and nothing else.
const verdict = (ok, wanted) => `(wanted ${wanted}: ${smoke ? 'not told of so little' : ok ? 'yes' : 'NO'})`;

async function timed(work) {
  const cpu = process.cpuUsage();
  const from = process.hrtime.bigint();
  const value = await work();
  const seconds = Number(process.hrtime.bigint() - from) / 1e9;
  const { user, system } = process.cpuUsage(cpu);
  return { value, seconds, cpu: (user + system) / 1e6 };
}

/** Offsets from a generator of Lehmer's, so that every run writes the same places. */
function generator(seed) {
  let state = seed;
  return (below) => {
    state = (state * 48271) % 2147483647;
    return Math.floor((state / 2147483647) * below);
  };
}

/** A file of that size, all of it written: what a disk that is overwritten costs is measured, not what making it does. */
function filled(name, size) {
  const path = join(folder, name);
  const fd = openSync(path, 'w');
  const piece = Buffer.alloc(MiB, 0x5a);
  for (let at = 0; at < size; at += MiB) {
    piece.writeUInt32LE(at / MiB, 0);
    writeSync(fd, piece, 0, Math.min(MiB, size - at), at);
  }
  fsyncSync(fd);
  closeSync(fd);
  return openFileUnit(path, { write: true });
}

async function make(name, size) {
  const unit = filled(`${name}.img`, size);
  const disks = new Map([['disk', unit]]);
  const at = join(folder, name);
  const journal = await createJournal(at, { group: 'bench', disks: [{ name: 'disk', size }] }, { disks });
  return { journal, unit, disks, at };
}

async function end({ journal, unit }, name) {
  await journal.close();
  unit.close();
  rmSync(join(folder, name), { recursive: true });
  rmSync(join(folder, `${name}.img`));
}

/** Appends with so many writes in flight, each waited for; the disk follows meanwhile where `apply` says so. */
async function appends({ depth, bytes, count, inOrder, apply }) {
  const size = (smoke ? 16 : 128) * MiB;
  const name = `append-${depth}-${bytes}`;
  const made = await make(name, size);
  const random = generator(1);
  const data = Buffer.alloc(bytes, 7);
  let left = count;
  let at = 0;
  const one = async () => {
    while (left-- > 0) {
      at = inOrder ? (at + bytes) % (size - bytes) : random(size / bytes) * bytes;
      await made.journal.append([{ disk: 'disk', offset: at, bytes: data }]).durable;
    }
  };
  let stall = 0;
  let since = performance.now();
  const watch = setInterval(() => {
    stall = Math.max(stall, performance.now() - since - 2);
    since = performance.now();
  }, 2);
  let busy = apply;
  const follow = async () => {
    while (busy) {
      await made.journal.apply();
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  const following = follow();
  const { seconds, cpu } = await timed(() => Promise.all(Array.from({ length: depth }, one)));
  const behind = made.journal.state().last - made.journal.state().applied.low;
  busy = false;
  await following;
  clearInterval(watch);
  report(
    `append ${bytes / KiB} KiB ${inOrder ? 'in order' : 'at random'}, durable, depth ${depth}${apply ? ', applied meanwhile' : ''}`,
    `${(count / seconds).toFixed(0)}/s, ${rate(count * bytes, seconds)}, ${((cpu / count) * 1e6).toFixed(0)} µs of processor each, longest stall ${stall.toFixed(0)} ms${apply ? `, ${behind} records behind at the end` : ''}`,
  );
  await end(made, name);
}

/** Reads a unit or an export for itself: as `--client`, in a process of its own. */
async function client(url, bytes, count, inOrder) {
  const unit = await openNbdUnit(url);
  const random = generator(77);
  let left = count;
  let at = 0;
  const one = async () => {
    const target = new Uint8Array(bytes);
    while (left-- > 0) {
      at = inOrder ? (at + bytes) % (unit.size - bytes) : random((unit.size - bytes) / 4096) * 4096;
      await unit.read(at, target);
    }
  };
  const { seconds } = await timed(() => Promise.all(Array.from({ length: 16 }, one)));
  await unit.close();
  console.log(seconds);
  process.exit(0);
}

function clientSeconds(url, ...rest) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [process.argv[1], '--client', url, ...rest.map(String)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.on('data', (piece) => {
      text += piece;
    });
    child.on('exit', (code) => (code === 0 ? resolve(Number(text)) : reject(new Error('the client failed'))));
  });
}

async function readSeconds(unit, bytes, count, inOrder) {
  const target = new Uint8Array(bytes);
  const random = generator(77);
  let at = 0;
  const { seconds } = await timed(async () => {
    for (let i = 0; i < count; i++) {
      at = inOrder ? (at + bytes) % (unit.size - bytes) : random((unit.size - bytes) / 4096) * 4096;
      const wait = unit.read(at, target);
      if (wait) await wait;
    }
  });
  return seconds;
}

/** A view beside the plain disk: read directly, and as `driftmap access` does, by NBD over an overlay. */
async function views(journal, plain, point, what) {
  const opened = await timed(() => {
    const view = journal.view('disk', point, { overlay: folder });
    view.read(0, new Uint8Array(4096));
    return view;
  });
  report(`view ${what}: ready`, `${milliseconds(opened.seconds)} ${verdict(opened.seconds < 1, '< 1 s')}`);
  const view = opened.value;
  const server = await serveNbd({
    exports: { view: unitExport(view), plain: unitExport(plain) },
    listen: { socket: join(folder, 'nbd.sock') },
  });
  for (const [bytes, times, inOrder] of [
    [4 * KiB, smoke ? 500 : 20_000, false],
    [MiB, smoke ? 20 : 500, true],
  ]) {
    const how = `by ${bytes / KiB} KiB ${inOrder ? 'in order' : 'at random'}`;
    const order = inOrder ? 'in-order' : 'at-random';
    for (const [door, of] of [
      ['directly, first time', async (unit) => readSeconds(unit, bytes, times, inOrder)],
      ['directly, again', async (unit) => readSeconds(unit, bytes, times, inOrder)],
      ['by NBD', (unit) => clientSeconds(server.uri(unit === view ? 'view' : 'plain'), bytes, times, order)],
    ]) {
      const [viewed, own] = [await of(view), await of(plain)];
      const figures = [viewed, own].map((seconds) => rate(bytes * times, seconds)).join(', plain ');
      report(`  ${how}, ${door}`, `${figures} ${verdict(own / viewed >= 0.5, '≥ 0.5 of plain')}`);
    }
  }
  await server.close();
  await view.close();
}

/** A history of `total` bytes: applied, rolled back and forth, viewed, each in turn with the same writes to a disk. */
async function history(bytes, inOrder) {
  const size = 2 * total;
  const name = `history-${bytes}`;
  const { journal, unit } = await make(name, size);
  const plain = filled('plain.img', size);
  const count = Math.floor(total / bytes);
  const random = generator(1);
  const offsets = Array.from({ length: count }, (_, i) => (inOrder ? i : random(size / bytes)) * bytes);
  const what = `${total / MiB} MiB of ${bytes / KiB} KiB writes ${inOrder ? 'in order' : 'at random'}`;
  const data = Buffer.alloc(bytes);
  const own = () =>
    timed(() => {
      for (let i = 0; i < count; i++) {
        data[0] = 1 + (i % 255);
        plain.write(offsets[i], data);
      }
      plain.flush();
    });
  const beside = async (label, wanted, work) => {
    const before = await own();
    const it = await timed(work);
    const after = await own();
    const disk = (before.seconds + after.seconds) / 2;
    const ratio = disk / it.seconds;
    const told = wanted === null ? '' : ` ${verdict(ratio >= wanted, `≥ ${wanted}`)}`;
    const busy = ((before.cpu + after.cpu) / 2 / it.cpu).toFixed(2);
    report(
      `${label}, ${what}`,
      `${rate(total, it.seconds)}, plain ${rate(total, disk)}, ratio ${ratio.toFixed(2)}${told}, of processor ${busy}`,
    );
  };
  await beside('append, flushed each 8 MiB', null, async () => {
    for (let i = 0; i < count; ) {
      for (const to = Math.min(count, i + Math.ceil((8 * MiB) / bytes)); i < to; i++) {
        data[0] = 1 + (i % 255);
        journal.append([{ disk: 'disk', offset: offsets[i], bytes: data }]);
      }
      await journal.commit();
    }
  });
  if (!inOrder) await views(journal, plain, { sequence: count - 5 }, `forwards, ${what}`);
  await beside('first apply', null, () => journal.apply());
  if (!inOrder) await views(journal, plain, { sequence: Math.floor(count / 20) }, `backwards, ${what}`);
  await beside('roll backwards', 0.7, () => journal.rollTo({ sequence: 0 }));
  await beside('roll forwards', 0.7, () => journal.rollTo('latest'));
  const spent = await timed(() => journal.retain({ bytes: journal.state().bytes / 2, bookmarks: 'drop' }));
  report(
    `retention lets go of ${(spent.value.removedBytes / 1e6).toFixed(0)} MB`,
    milliseconds(spent.seconds),
  );
  await beside('roll backwards, new data made anew', null, () =>
    journal.rollBack(spent.value.oldest.sequence),
  );
  report('peak memory', `${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`);
  plain.close();
  await end({ journal, unit }, name);
}

/** Writes a journal and is killed in the middle of it: as `--writer`, in a process of its own. */
async function writer(at, disk, bytes) {
  const unit = openFileUnit(disk, { write: true });
  const { size } = unit;
  const group = { group: 'bench', disks: [{ name: 'disk', size }] };
  const journal = await createJournal(at, group, { disks: new Map([['disk', unit]]) });
  const random = generator(1);
  const data = Buffer.alloc(4 * KiB, 7);
  for (let done = 0; done < bytes; ) {
    const writes = [];
    for (let i = 0; i < 1024; i++, done += data.length) {
      writes.push({ disk: 'disk', offset: random(size / data.length) * data.length, bytes: data });
    }
    const { durable } = journal.append(writes);
    if (done % (32 * MiB) === 0) await durable;
  }
  await journal.commit();
  process.kill(process.pid, 'SIGKILL');
}

async function recover(bytes) {
  const size = 4 * GiB;
  const disk = join(folder, 'recovered.img');
  const at = join(folder, 'recovered');
  const fd = openSync(disk, 'w');
  writeSync(fd, Buffer.alloc(1), 0, 1, size - 1);
  closeSync(fd);
  await new Promise((resolve) => {
    const child = spawn(process.execPath, [process.argv[1], '--writer', at, disk, String(bytes)], {
      stdio: 'inherit',
    });
    child.on('exit', resolve);
  });
  const unit = openFileUnit(disk, { write: true });
  const opened = await timed(() => openJournal(at, { disks: new Map([['disk', unit]]) }));
  const journal = opened.value;
  const { last } = journal.state();
  report(
    `open ${(bytes / GiB).toFixed(2)} GiB of ${last} writes of 4 KiB after a kill`,
    `${milliseconds(opened.seconds)} ${verdict(opened.seconds < 5, '< 5 s')}`,
  );
  report('  list its points', milliseconds((await timed(() => journal.points())).seconds));
  for (const sequence of [last, Math.floor(last / 2), 0]) {
    const first = await timed(() => {
      const view = journal.view('disk', { sequence });
      view.read(0, new Uint8Array(4096));
      view.close();
    });
    const told = verdict(first.seconds < 1, '< 1 s');
    report(`  a view of ${sequence}, first read`, `${milliseconds(first.seconds)} ${told}`);
  }
  report('  peak memory so far', `${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`);
  await journal.close();
  unit.close();
  rmSync(at, { recursive: true });
  rmSync(disk);
}

const scale = smoke ? 0.02 : 1;
if (recovery > 0) await recover(recovery);
for (const apply of [false, true]) {
  if (!apply) {
    await appends({ depth: 1, bytes: 4 * KiB, count: Math.ceil(1500 * scale), inOrder: false, apply });
  }
  await appends({ depth: 32, bytes: 4 * KiB, count: Math.ceil(30_000 * scale), inOrder: false, apply });
  await appends({ depth: 32, bytes: 64 * KiB, count: Math.ceil(8000 * scale), inOrder: true, apply });
}
await history(4 * KiB, false);
await history(64 * KiB, false);
await history(MiB, true);
