// Measures the journal: `node bench/journal.mjs [MIB | --smoke]`, 1024 MiB of writes unless said. Needs a built dist/.
// Prints one line per figure. Files lie in the system's temporary folder (TMPDIR), and are removed.

import { closeSync, mkdtempSync, openSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createJournal, openJournal } from '../dist/journal/open.js';
import { openFileUnit } from '../dist/lu/file-unit.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const argument = process.argv[2] ?? '1024';
const smoke = argument === '--smoke';
const total = (smoke ? 24 : Number(argument)) * MiB;
if (!Number.isSafeInteger(total) || total < MiB) {
  console.error('usage: node bench/journal.mjs [MIB | --smoke]');
  process.exit(2);
}
const folder = mkdtempSync(join(tmpdir(), 'driftmap-bench-journal-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const report = (what, figure) => console.log(`${what.padEnd(58)} ${figure}`);
const rate = (bytes, seconds) => `${(bytes / seconds / 1e6).toFixed(0)} MB/s`;
const milliseconds = (seconds) => `${(seconds * 1000).toFixed(1)} ms`;

async function timed(work) {
  const from = process.hrtime.bigint();
  const value = await work();
  return { value, seconds: Number(process.hrtime.bigint() - from) / 1e9 };
}

// Offsets from a generator of Lehmer's, so that every run writes the same places.
let state = 1;
const random = (below) => {
  state = (state * 48271) % 2147483647;
  return Math.floor((state / 2147483647) * below);
};

/** A disk of a file, and a journal over it. */
async function make(name, size) {
  const path = join(folder, `${name}.img`);
  closeSync(openSync(path, 'w'));
  truncateSync(path, size);
  const unit = openFileUnit(path, { write: true });
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

/** Appends with so many writers, each of which waits for its write to be durable. */
async function appends(writers, bytes, count) {
  const name = `append-${writers}-${bytes}`;
  const made = await make(name, 256 * MiB);
  const data = new Uint8Array(bytes).fill(7);
  let left = count;
  const writer = async () => {
    while (left-- > 0) {
      const offset = random((256 * MiB) / bytes) * bytes;
      await made.journal.append([{ disk: 'disk', offset, bytes: data }]).durable;
    }
  };
  const { seconds } = await timed(() => Promise.all(Array.from({ length: writers }, writer)));
  report(
    `append ${bytes / KiB} KiB, flushed, ${writers} in flight`,
    `${(count / seconds).toFixed(0)}/s, ${rate(count * bytes, seconds)}`,
  );
  await end(made, name);
}

const scale = smoke ? 0.02 : 1;
await appends(1, 4 * KiB, Math.ceil(1500 * scale));
await appends(32, 4 * KiB, Math.ceil(30_000 * scale));
await appends(32, 64 * KiB, Math.ceil(8000 * scale));

async function readsOf(unit, bytes, count, sequential) {
  const target = new Uint8Array(bytes);
  state = 77;
  let at = 0;
  return timed(async () => {
    for (let i = 0; i < count; i++) {
      at = sequential ? (at + bytes) % (unit.size - bytes) : random(unit.size / 4096 - bytes / 4096) * 4096;
      const wait = unit.read(at, target);
      if (wait) await wait;
    }
  });
}

/** A history of `total` bytes: applied, rolled back and forth, viewed, recovered. */
async function history(bytes) {
  const name = `history-${bytes}`;
  const size = Math.max(64 * MiB, total);
  const made = await make(name, size);
  let { journal } = made;
  const { unit, disks, at } = made;
  const count = Math.floor(total / bytes);
  const what = `${total / MiB} MiB of ${bytes / KiB} KiB writes at random`;
  const data = new Uint8Array(bytes);
  const appended = await timed(async () => {
    for (let i = 0; i < count; ) {
      for (const end = Math.min(count, i + Math.ceil((8 * MiB) / bytes)); i < end; i++) {
        data[0] = 1 + (i % 255);
        journal.append([{ disk: 'disk', offset: random(size / bytes) * bytes, bytes: data }]);
      }
      await journal.commit();
    }
  });
  report(`append ${what}, flushed each 8 MiB`, rate(total, appended.seconds));
  const point = { sequence: Math.floor(count / 20) };
  for (const [direction, sequence] of [
    ['forwards', count],
    ['backwards', 0],
  ]) {
    const view = await timed(() => {
      const opened = journal.view('disk', direction === 'forwards' ? { sequence: count - 5 } : point);
      opened.read(0, new Uint8Array(4096));
      return opened;
    });
    report(`open a view ${direction}, first read, ${what}`, milliseconds(view.seconds));
    for (const [piece, times, sequential] of [
      [4 * KiB, smoke ? 200 : 50_000, false],
      [MiB, smoke ? 20 : 1000, true],
    ]) {
      const plain = await readsOf(unit, piece, times, sequential);
      const viewed = await readsOf(view.value, piece, times, sequential);
      const again = await readsOf(view.value, piece, times, sequential);
      report(
        `  read it by ${piece / KiB} KiB ${sequential ? 'in order' : 'at random'}: first, again, plain disk`,
        [viewed, again, plain].map(({ seconds }) => rate(piece * times, seconds)).join(', '),
      );
    }
    view.value.close();
    const rolled = await timed(() => journal.rollTo({ sequence }));
    report(`roll ${direction} (first time: and keep what is overwritten)`, rate(total, rolled.seconds));
    if (direction === 'forwards') {
      await journal.close();
      const opened = await timed(() => openJournal(at, { disks }));
      journal = opened.value;
      report('open it again', milliseconds(opened.seconds));
    }
  }
  const again = await timed(() => journal.rollTo('latest'));
  report('roll forwards again', rate(total, again.seconds));
  const plain = await timed(() => {
    for (let i = 0; i < count; i++) unit.write(random(size / bytes) * bytes, data);
    unit.flush();
  });
  report('the same writes straight to the disk, flushed once', rate(total, plain.seconds));
  const spent = await timed(() => journal.retain({ bytes: journal.state().bytes / 2, bookmarks: 'drop' }));
  report(
    `retention lets go of ${(spent.value.removedBytes / 1e6).toFixed(0)} MB`,
    milliseconds(spent.seconds),
  );
  const mirrored = await timed(() => journal.rollBack(spent.value.oldest.sequence));
  report('roll backwards, new data made anew', rate(total, mirrored.seconds));
  report('peak memory', `${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB`);
  await end({ journal, unit }, name);
}

await history(4 * KiB);
await history(64 * KiB);
