// Endurance of continuous protection: `node scripts/soak.mjs [--minutes M] [--seed N] [--folder DIR]`. Needs a built dist/,
// fio, and root (for tmpfs). Prints what was done and found; exits 1 when anything was lost.
//
// Two disks of one group are written to through the splitter by fio, which verifies what it reads back, while a seeded
// script kills and stops the replica, cuts, freezes and slows the network between them, fills the journal's file system
// and the snapshots' store, and empties them again. Now and then the writers are held for a moment, both disks are
// summed (SHA-256), and a bookmark is set. At the end:
//   nothing acknowledged is lost      fio's verification, over the whole of each disk
//   the replica becomes equal         cmp of each disk, once the group streams again
//   every bookmark is what it was     each that can be reached is rolled to, and the disks are summed
//   memory is flat                    RSS of both processes, sampled each second
import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

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
const bin = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist', 'lib', 'main.js');
const folder = values.folder ?? mkdtempSync(join(tmpdir(), 'driftmap-soak-'));
mkdirSync(folder, { recursive: true });
const disks = ['system', 'data'];
const at = (...path) => join(folder, ...path);

/** mulberry32: the same seed, the same script. */
let seedState = Number(values.seed) >>> 0;
function random() {
  seedState = (seedState + 0x6d2b79f5) >>> 0;
  let t = seedState;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const between = (low, high) => low + random() * (high - low);

const log = (text) => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`);
const mounts = [];
function mountSmall(path, mebibytes) {
  mkdirSync(path, { recursive: true });
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m`, 'tmpfs', path]);
  if (status !== 0) throw new Error('a tmpfs cannot be mounted: run as root');
  mounts.push(path);
}

function driftmap(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, ...args], {
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  return { status, stdout, stderr };
}

/** The network between production and replica: it can be cut, frozen and slowed. */
class Network {
  pairs = new Set();
  mode = 'open';
  constructor(port, target) {
    this.server = createServer((near) => {
      if (this.mode === 'cut') return near.destroy();
      const far = createConnection(target, '127.0.0.1');
      const pair = { near, far };
      const pairEnded = new Promise((resolve) => near.once('close', resolve));
      this.pairs.add(pair);
      for (const [from, to] of [
        [near, far],
        [far, near],
      ]) {
        from.on('data', async (bytes) => {
          from.pause();
          while (this.mode === 'frozen') await sleep(50);
          if (this.mode === 'slow') await sleep(bytes.length / 2000);
          if (!to.destroyed && !to.write(bytes))
            await Promise.race([once(to, 'drain').catch(() => undefined), pairEnded]);
          from.resume();
        });
        const end = () => {
          near.destroy();
          far.destroy();
          this.pairs.delete(pair);
        };
        from.on('error', end);
        from.on('close', end);
      }
    });
    this.server.listen(port, '127.0.0.1');
  }
  set(mode) {
    this.mode = mode;
    if (mode === 'cut')
      for (const { near, far } of this.pairs) {
        near.destroy();
        far.destroy();
      }
  }
}

/** A process that is started again when it is killed. */
class Service {
  starts = 0;
  rss = [];
  stopping = false;
  constructor(name, args) {
    this.name = name;
    this.args = args;
  }
  start() {
    this.starts++;
    this.output = '';
    this.child = spawn(process.execPath, [bin, ...this.args], { stdio: ['ignore', 'pipe', 'pipe'] });
    const { child } = this;
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (text) => {
        this.output += text;
        writeFileSync(at(`${this.name}.log`), text, { flag: 'a' });
      });
    this.ended = new Promise((resolve) => child.on('close', resolve));
  }
  sample() {
    try {
      this.rss.push(
        Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${this.child.pid}/status`, 'utf8'))[1]) / 1024,
      );
    } catch {}
  }
  async restart() {
    this.child.kill('SIGKILL');
    await this.ended;
    this.start();
  }
  async stop() {
    this.child.kill('SIGTERM');
    return Promise.race([
      this.ended,
      sleep(60_000).then(() => {
        this.child.kill('SIGKILL');
        return 'killed';
      }),
    ]);
  }
}

async function sha256(path) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk);
  return hash.digest('hex');
}

/** fio on one disk, round after round, until it is told to end. */
class Load {
  rounds = 0;
  failures = [];
  constructor(disk) {
    this.disk = disk;
  }
  async run(until) {
    while (Date.now() < until && this.failures.length === 0) {
      const seed = Math.floor(random() * 2 ** 31);
      const left = Math.max(2, Math.min(between(8, 20), (until - Date.now()) / 1000));
      const uri = `nbd+unix:///${this.disk}?socket=${at(`${this.disk}.sock`)}`;
      const mode =
        this.rounds % 3 === 2
          ? ['--rw=write', '--bs=256k', '--iodepth=4']
          : ['--rw=randwrite', '--bs=4k', '--iodepth=16'];
      const args = [
        '--name=soak',
        '--ioengine=nbd',
        `--uri=${uri}`,
        `--size=${sizeMiB}M`,
        ...mode,
        `--randseed=${seed}`,
        '--verify=crc32c',
        '--verify_fatal=1',
        '--verify_state_save=0',
        '--do_verify=1',
        '--fsync=256',
        `--io_size=${Math.round(left * 2.5)}M`,
        '--rate=5M',
        '--output-format=terse',
      ];
      this.child = spawn('fio', args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
      let said = '';
      for (const stream of [this.child.stdout, this.child.stderr])
        stream.on('data', (text) => {
          said += text;
        });
      const status = await new Promise((resolve) => this.child.on('close', resolve));
      this.rounds++;
      if (status !== 0) this.failures.push(`fio on ${this.disk} ended with ${status}: ${said.slice(-600)}`);
    }
    this.child = null;
  }
  hold(signal) {
    try {
      this.child?.kill(signal);
    } catch {}
  }
}

const bookmarks = [];
async function bookmark(loads, number) {
  for (const load of loads) load.hold('SIGSTOP');
  // What the server has received is on the disk in a moment; what is in the sockets is nobody's write yet.
  await sleep(400);
  try {
    const name = `soak-${number}`;
    const { status, stderr } = driftmap('bookmark', at('group.json'), name);
    const sums = {};
    for (const disk of disks) sums[disk] = await sha256(at(`${disk}.raw`));
    if (status === 0) bookmarks.push({ name, sums });
    else return `not set (${stderr.trim().split('\n').at(-1)})`;
    return 'set';
  } finally {
    for (const load of loads) load.hold('SIGCONT');
  }
}

function state() {
  const { stdout } = driftmap('protect', at('group.json'), '--status', '--json');
  try {
    return JSON.parse(stdout);
  } catch {
    return { state: 'unknown' };
  }
}

function fill(path) {
  spawnSync('dd', ['if=/dev/zero', `of=${join(path, 'ballast')}`, 'bs=1M'], { stdio: 'ignore' });
}
const empty = (path) => rmSync(join(path, 'ballast'), { force: true });

/** The group's file, its disks, the token, and small file systems that can be filled. @returns the two ports */
function prepare() {
  mountSmall(at('journal-fs'), 3000);
  mountSmall(at('store-fs'), 1500);
  for (const disk of disks) {
    writeFileSync(at(`${disk}.raw`), '');
    truncateSync(at(`${disk}.raw`), sizeMiB * 2 ** 20);
  }
  const [far, near] = [20_000 + Math.floor(random() * 10_000), 30_001 + Math.floor(random() * 2_000)];
  writeFileSync(at('token'), randomBytes(32).toString('hex'), { mode: 0o600 });
  const replica = {
    journal: at('journal-fs', 'journal'),
    disks: Object.fromEntries(disks.map((disk) => [disk, at(`${disk}.replica.raw`)])),
    keep: { bytes: '2G', window: '1s' },
    snapshots: { store: at('store-fs', 'store'), every: '60s' },
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
  const made = driftmap('snapshots', 'init', at('store-fs', 'store'));
  if (made.status !== 0) throw new Error(made.stderr);
  return { far, near };
}

/** What can go wrong, each for a while; all of it ends well. */
function troubles(network, replica, did) {
  const during = async (what, begin, low, high, end) => {
    did(what);
    begin();
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
  ];
}

/** Trouble and bookmarks, in turn, until shortly before the end. */
async function torment(acts, loads, until) {
  const states = {};
  for (let number = 0; Date.now() < until - 5000; number++) {
    await sleep(between(1000, 6000));
    const now = state().state;
    states[now] = (states[now] ?? 0) + 1;
    if (random() < 0.5) log(`bookmark ${number}: ${await bookmark(loads, number)} (${now})`);
    else await acts[Math.floor(random() * acts.length)]();
  }
  return states;
}

async function main() {
  log(`seed ${values.seed}, ${seconds} s, ${folder}`);
  const { far, near } = prepare();
  const network = new Network(near, far);
  const listen = ['--listen', `127.0.0.1:${far}`, '--token-file', at('token')];
  const replica = new Service('replica', ['replica', at('group.json'), ...listen]);
  const protect = new Service('protect', ['protect', at('group.json')]);
  replica.start();
  protect.start();
  for (let i = 0; i < 100 && !disks.every((disk) => existsSync(at(`${disk}.sock`))); i++) await sleep(100);
  const loads = disks.map((disk) => new Load(disk));
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
  clearInterval(sampler);
  const ends = [await protect.stop(), await replica.stop()];
  log(`protect ended with ${ends[0]}, replica with ${ends[1]}`);
  network.server.close();
  checkReplica(lost);
  const held = await checkBookmarks(lost);
  report({ counts, states, loads, lost, held, services: [protect, replica] });
}

async function settle(lost) {
  for (let i = 0; i < 120 && state().state !== 'streaming'; i++) await sleep(1000);
  const last = state();
  if (last.state !== 'streaming')
    lost.push(`after two minutes of peace the group is ${JSON.stringify(last)}`);
}

function checkReplica(lost) {
  const rolled = driftmap('roll', at('group.json'), '--to', 'latest');
  if (rolled.status !== 0) lost.push(`roll --to latest: ${rolled.stderr}`);
  for (const disk of disks) {
    const { status, stdout } = spawnSync('cmp', [at(`${disk}.raw`), at(`${disk}.replica.raw`)], {
      encoding: 'utf8',
    });
    if (status !== 0) lost.push(`the replica of ${disk} differs: ${stdout}`);
  }
}

async function checkBookmarks(lost) {
  const { bookmarks: there = [] } = JSON.parse(driftmap('points', at('group.json'), '--json').stdout || '{}');
  let held = 0;
  for (const { name, sums } of bookmarks) {
    if (!there.some((mark) => mark.name === name && mark.reachable)) continue;
    const rolled = driftmap('roll', at('group.json'), '--to', name);
    if (rolled.status !== 0) {
      lost.push(`roll --to ${name}: ${rolled.stderr}`);
      continue;
    }
    for (const disk of disks) {
      const sum = await sha256(at(`${disk}.replica.raw`));
      if (sum !== sums[disk]) lost.push(`bookmark ${name}: ${disk} is ${sum}, was ${sums[disk]}`);
    }
    held++;
  }
  return { reachable: held, set: bookmarks.length };
}

function report({ counts, states, loads, lost, held, services }) {
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
  for (const { name, rss, starts } of services) {
    const third = Math.max(1, Math.floor(rss.length / 3));
    const most = (part) => Math.round(Math.max(...part));
    console.log(
      `memory of ${name.padEnd(9)} ${most(rss.slice(0, third))}, ${most(rss.slice(third, 2 * third))}, ${most(rss.slice(2 * third))} MiB at most in each third; started ${starts} times`,
    );
  }
  if (lost.length === 0) console.log('nothing was lost');
  for (const what of lost) console.log(`LOST: ${what}`);
  process.exitCode = lost.length === 0 ? 0 : 1;
}

try {
  await main();
} finally {
  for (const path of mounts) spawnSync('umount', ['-l', path]);
  if (values.folder === undefined && process.exitCode === 0) rmSync(folder, { recursive: true, force: true });
  else console.log(`left: ${folder}`);
}
process.exit();
