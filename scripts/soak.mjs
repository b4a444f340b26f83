// Endurance of continuous protection: `node scripts/soak.mjs [--minutes M] [--seed N] [--folder DIR]`. Needs a built dist/,
// fio, and root (for file systems of its own, on loop devices). Prints what was done and found; exits 1 when anything was lost.
//
// Two disks of one group are written to through the splitter by fio, which verifies what it reads back, while a seeded
// script kills and stops the replica, cuts, freezes and slows the network between them, fills the journal's file system
// and the snapshots' store, and empties them again. Now and then the writers are held for a moment, both disks are
// summed (SHA-256), and a bookmark is set; at some of them a snapshot is taken. At the end:
//   nothing acknowledged is lost      fio's verification, over the whole of each disk
//   the replica becomes equal         cmp of each disk, once the group streams again
//   every bookmark is what it was     each is rolled to, newest first, and the disks are summed
//   every snapshot is what it was     the store is verified; each of a bookmark is restored from it, and summed
//   memory is flat                    RSS of both processes, sampled each second: the last third of the time against the middle
import { createHash, randomBytes } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { empty, fill, mountSmall, unmountAll } from './soak/file-systems.mjs';
import { Load } from './soak/load.mjs';
import { Network } from './soak/network.mjs';
import { driftmap, run, Service } from './soak/processes.mjs';
import { generator } from './soak/random.mjs';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Date.now() % 100_000) },
    folder: { type: 'string' },
    'size-mib': { type: 'string', default: '128' },
  },
});
const seconds = Number(values.minutes) * 60;
const sizeMiB = Number(values['size-mib']);
const folder = values.folder ?? mkdtempSync(join(tmpdir(), 'driftmap-soak-'));
mkdirSync(folder, { recursive: true });
const disks = ['system', 'data'];
const at = (...path) => join(folder, ...path);

const { random, between } = generator(Number(values.seed));
const log = (text) => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`);
async function sha256(path) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk);
  return hash.digest('hex');
}

async function sumsOf(suffix) {
  const sums = {};
  for (const disk of disks) sums[disk] = await sha256(at(`${disk}.${suffix}`));
  return sums;
}

/** What runs, for whoever has to end it. */
const services = [];
const loads = [];
const bookmarks = [];
const snapshots = [];
async function bookmark(loads, number) {
  for (const load of loads) load.hold('SIGSTOP');
  // What the server has received is on the disk in a moment; what is in the sockets is nobody's write yet.
  await sleep(400);
  try {
    const name = `soak-${number}`;
    const sums = await sumsOf('raw');
    const { status, stderr } = await driftmap('bookmark', at('group.json'), name);
    if (JSON.stringify(await sumsOf('raw')) !== JSON.stringify(sums))
      throw new Error('the writers were not held: the sums of a bookmark would mean nothing');
    if (status !== 0) return `not set (${stderr.trim().split('\n').at(-1)})`;
    const made = { name, sums, snapshot: null };
    bookmarks.push(made);
    if (bookmarks.length % 3 === 1) snapshots.push(snapshotAt(made));
    return 'set';
  } finally {
    for (const load of loads) load.hold('SIGCONT');
  }
}

/** Beside all else that goes on, and again when it failed: what was sent is not sent again. */
async function snapshotAt(made) {
  for (let tries = 1; tries <= 20; tries++) {
    const taken = await driftmap('snapshots', 'take', at('group.json'), '--at', made.name, '--json');
    if (taken.status === 0) {
      made.snapshot = JSON.parse(taken.stdout).id;
      log(`snapshot of ${made.name}: ${made.snapshot.slice(0, 12)}, after ${tries} attempts`);
      return;
    }
    made.failure = taken.stderr.trim().split('\n').at(-1);
    await sleep(5000);
  }
}

async function state() {
  const { stdout } = await driftmap('protect', at('group.json'), '--status', '--json');
  try {
    return JSON.parse(stdout);
  } catch {
    return { state: 'unknown' };
  }
}

/** The group's file, its disks, the token, and small file systems that can be filled. @returns the two ports */
async function prepare() {
  mountSmall(at('journal-fs'), 16_000);
  mountSmall(at('store-fs'), 8000);
  for (const disk of disks) {
    writeFileSync(at(`${disk}.raw`), '');
    truncateSync(at(`${disk}.raw`), sizeMiB * 2 ** 20);
  }
  const [far, near] = [20_000 + Math.floor(random() * 10_000), 30_001 + Math.floor(random() * 2_000)];
  writeFileSync(at('token'), randomBytes(32).toString('hex'), { mode: 0o600 });
  const replica = {
    journal: at('journal-fs', 'journal'),
    disks: Object.fromEntries(disks.map((disk) => [disk, at(`${disk}.replica.raw`)])),
    keep: { bytes: '14G', window: '1s' },
    snapshots: { store: at('store-fs', 'store'), every: '60s', keep: { last: 1000 } },
  };
  const production = {
    state: at('state'),
    disks: Object.fromEntries(
      disks.map((disk) => [disk, { disk: at(`${disk}.raw`), socket: at(`${disk}.sock`) }]),
    ),
    replica: `driftmap://127.0.0.1:${near}/soak`,
    token: at('token'),
  };
  writeFileSync(at('group.json'), JSON.stringify({ group: 'soak', production, replica }, null, 2));
  mkdirSync(at('store-fs', 'store'));
  const made = await driftmap('snapshots', 'init', at('store-fs', 'store'));
  if (made.status !== 0) throw new Error(made.stderr);
  return { far, near };
}

/** What can go wrong, each for a while; all of it ends well. */
function troubles(network, replica, did) {
  const during = async (what, begin, low, high, end) => {
    did(what);
    await begin();
    await sleep(between(low, high));
    end();
  };
  const net = (mode) => () => network.set(mode);
  return [
    async () => {
      did('replica killed');
      await replica.restart();
    },
    () =>
      during(
        'replica stopped',
        () => replica.child.kill('SIGSTOP'),
        3000,
        12_000,
        () => replica.child.kill('SIGCONT'),
      ),
    () => during('network cut', net('cut'), 1000, 8000, net('open')),
    () => during('network frozen', net('frozen'), 3000, 12_000, net('open')),
    () => during('network slow', net('slow'), 3000, 10_000, net('open')),
    () =>
      during(
        'journal full',
        () => fill(at('journal-fs')),
        2000,
        6000,
        () => empty(at('journal-fs')),
      ),
    () =>
      during(
        'store full',
        () => fill(at('store-fs')),
        2000,
        6000,
        () => empty(at('store-fs')),
      ),
    () =>
      during(
        'store away',
        () => renameSync(at('store-fs', 'store'), at('store-fs', 'away')),
        2000,
        6000,
        () => renameSync(at('store-fs', 'away'), at('store-fs', 'store')),
      ),
  ];
}

/** Trouble and bookmarks, in turn, until shortly before the end. */
async function torment(acts, loads, until) {
  const states = {};
  for (let number = 0; Date.now() < until - 5000; number++) {
    await sleep(between(1000, 6000));
    const now = (await state()).state;
    states[now] = (states[now] ?? 0) + 1;
    // The first always: then there is one to be looked at, however short the time.
    if (number === 0 || random() < 0.5) log(`bookmark ${number}: ${await bookmark(loads, number)} (${now})`);
    else await acts[Math.floor(random() * acts.length)]();
  }
  return states;
}

async function main() {
  log(`seed ${values.seed}, ${seconds} s, ${folder}`);
  const { far, near } = await prepare();
  const network = new Network(near, far);
  const listen = ['--listen', `127.0.0.1:${far}`, '--token-file', at('token')];
  const replica = new Service({
    name: 'replica',
    args: ['replica', at('group.json'), ...listen],
    log: at('replica.log'),
  });
  const protect = new Service({
    name: 'protect',
    args: ['protect', at('group.json')],
    log: at('protect.log'),
  });
  services.push(protect, replica);
  for (const service of services) service.start();
  for (let i = 0; i < 100 && !disks.every((disk) => existsSync(at(`${disk}.sock`))); i++) await sleep(100);
  for (const disk of disks)
    loads.push(new Load({ disk, socket: at(`${disk}.sock`), folder, sizeMiB, random, between }));
  await settle([]);
  const until = Date.now() + seconds * 1000;
  const running = Promise.all(loads.map((load) => load.run(until)));
  const sampler = setInterval(() => {
    protect.sample();
    replica.sample();
  }, 1000);
  const counts = {};
  const did = (what) => {
    counts[what] = (counts[what] ?? 0) + 1;
    log(what);
  };
  const states = await torment(troubles(network, replica, did), loads, until);
  network.set('open');
  await running;
  const lost = loads.flatMap((load) => load.failures);
  await settle(lost);
  await Promise.all(snapshots);
  clearInterval(sampler);
  const ends = [await protect.stop(), await replica.stop()];
  log(`protect ended with ${ends[0]}, replica with ${ends[1]}`);
  network.server.close();
  await checkReplica(lost);
  const held = await checkBookmarks(lost);
  const cloud = await checkSnapshots(lost);
  report({ counts, states, lost, held, cloud });
}

async function settle(lost) {
  for (let i = 0; i < 120 && (await state()).state !== 'streaming'; i++) await sleep(1000);
  const last = await state();
  if (last.state !== 'streaming')
    lost.push(`after two minutes of peace the group is ${JSON.stringify(last)}`);
}

async function checkReplica(lost) {
  const rolled = await driftmap('roll', at('group.json'), '--to', 'latest');
  if (rolled.status !== 0) lost.push(`roll --to latest: ${rolled.stderr}`);
  for (const disk of disks) {
    const { status, stdout } = await run('cmp', [at(`${disk}.raw`), at(`${disk}.replica.raw`)]);
    if (status !== 0) lost.push(`the replica of ${disk} differs: ${stdout}`);
  }
}

async function checkBookmarks(lost) {
  const { bookmarks: there = [] } = JSON.parse(
    (await driftmap('points', at('group.json'), '--json')).stdout || '{}',
  );
  let held = 0;
  if (bookmarks.length === 0) lost.push('no bookmark could be set');
  for (const { name, sums } of bookmarks.toReversed()) {
    if (!there.some((mark) => mark.name === name && mark.reachable)) {
      lost.push(`the bookmark ${name} cannot be reached`);
      continue;
    }
    const rolled = await driftmap('roll', at('group.json'), '--to', name);
    if (rolled.status !== 0) {
      lost.push(`roll --to ${name}: ${rolled.stderr}`);
      continue;
    }
    const found = await sumsOf('replica.raw');
    for (const disk of disks)
      if (found[disk] !== sums[disk])
        lost.push(`bookmark ${name}: ${disk} is ${found[disk]}, was ${sums[disk]}`);
    held++;
  }
  return { reachable: held, set: bookmarks.length };
}

/** Each snapshot of a bookmark is restored from the store alone. */
async function checkSnapshots(lost) {
  const verified = await driftmap('snapshots', 'verify', at('store-fs', 'store'));
  if (verified.status !== 0) lost.push(`snapshots verify: ${verified.stdout}${verified.stderr}`);
  let restored = 0;
  for (const { name, sums, snapshot, failure } of bookmarks) {
    if (snapshot === null) {
      if (failure !== undefined) lost.push(`no snapshot of ${name}: ${failure}`);
      continue;
    }
    const to = at('restored');
    const made = await driftmap('snapshots', 'restore', at('store-fs', 'store'), snapshot, '--to', to);
    if (made.status !== 0) lost.push(`restoring ${name} from its snapshot: ${made.stderr}`);
    for (const disk of disks) {
      const found = made.status === 0 ? await sha256(join(to, `${disk}.raw`)) : 'nothing';
      if (found !== sums[disk]) lost.push(`snapshot of ${name}: ${disk} is ${found}, was ${sums[disk]}`);
    }
    rmSync(to, { recursive: true, force: true });
    restored++;
  }
  const list = await driftmap('snapshots', 'list', at('store-fs', 'store'), '--json');
  return { restored, stored: JSON.parse(list.stdout || '[]').length };
}

/** At most in each third of the time. The first is for warming up; a process that goes on growing shows in the last. */
function checkMemory({ name, rss }, lost) {
  const third = Math.max(1, Math.floor(rss.length / 3));
  const most = [rss.slice(0, third), rss.slice(third, 2 * third), rss.slice(2 * third)].map((part) =>
    Math.round(Math.max(...part)),
  );
  if (most[2] > 1.2 * most[1] + 32) lost.push(`memory of ${name} grew: ${most.join(', ')} MiB`);
  return most;
}

function report({ counts, states, lost, held, cloud }) {
  console.log('');
  for (const [what, times] of Object.entries(counts)) console.log(`${what.padEnd(18)} ${times}`);
  console.log(
    `states seen         ${Object.entries(states)
      .map(([name, times]) => `${name} ${times}`)
      .join(', ')}`,
  );
  console.log(`rounds of fio       ${loads.map((load) => `${load.disk} ${load.rounds}`).join(', ')}`);
  console.log(
    `bookmarks           ${held.set} set, ${held.reachable} reachable at the end and equal to their sums`,
  );
  console.log(
    `snapshots           ${cloud.stored} in the store, all blocks verified; ${cloud.restored} of bookmarks restored and equal to their sums`,
  );
  for (const service of services) {
    const { name, starts } = service;
    const most = checkMemory(service, lost).join(', ');
    console.log(
      `memory of ${name.padEnd(9)} ${most} MiB at most in each third of the time; started ${starts} times`,
    );
  }
  if (lost.length === 0) console.log('nothing was lost');
  for (const what of lost) console.log(`LOST: ${what}`);
  process.exitCode = lost.length === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM'])
  process.once(signal, () => {
    for (const { child } of [...services, ...loads]) child?.kill('SIGKILL');
    unmountAll();
    console.log(`stopped; left: ${folder}`);
    process.exit(130);
  });
try {
  await main();
} finally {
  unmountAll();
  if (values.folder === undefined && process.exitCode === 0) rmSync(folder, { recursive: true, force: true });
  else console.log(`left: ${folder}`);
}
process.exit();
