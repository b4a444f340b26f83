// Sessions over a slow, lossy network: `node bench/wan.mjs [SIZE_MIB | --smoke] [--wan wan.py]`, 4096 unless said.
// Needs a built dist/, Linux, root (network namespaces), python3 and openssl; and a program that is the network:
// `wan.py NS-A IP-A NS-B IP-B DELAY_MS JITTER_MS LOSS_PERCENT RATE_MBIT`, which prints `ready`; it is looked for as
// ../shared/lab/wan.py. Two namespaces, 40 ms there and back, 100 Mbit/s, 0.1 % loss; TLS 1.3, both ends show certificates.
import { spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  bringBack,
  installed,
  makeCertificate,
  makeNoise,
  makePair,
  mb,
  median,
  session,
} from './sessions/parts.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const wanAt = args.includes('--wan')
  ? args.splice(args.indexOf('--wan'), 2)[1]
  : join(root, '..', 'shared', 'lab', 'wan.py');
const smoke = args[0] === '--smoke';
const mebibytes = smoke ? 64 : Number(args[0] ?? 4096);
if (!Number.isSafeInteger(mebibytes) || mebibytes < 64 || args.length > 1) {
  console.error('usage: node bench/wan.mjs [SIZE_MIB | --smoke] [--wan wan.py]');
  process.exit(2);
}
const missing = ['ip', 'python3', 'openssl'].filter((tool) => !installed(tool, '-V'));
if (missing.length > 0 || !existsSync(wanAt ?? '') || process.getuid?.() !== 0) {
  console.error(`skipped: needs root, ${wanAt}, and ${missing.join(', ') || 'nothing else'}`);
  process.exit(smoke ? 0 : 2);
}

const RATE_MBIT = 100;
const ONE_WAY_MS = 20;
const LOSS_PERCENT = 0.1;
const NOISE_MIB = smoke ? 16 : 256;
const [near, far] = ['a', 'b'].map((side) => `driftmap-${process.pid}-${side}`);
const [nearIp, farIp] = ['10.117.0.1', '10.117.0.2'];
const within = (namespace) => ['ip', 'netns', 'exec', namespace];
const ip = (...words) => {
  const { status, stderr } = spawnSync('ip', words, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`ip ${words.join(' ')}: ${stderr}`);
};
const folder = mkdtempSync(join(tmpdir(), 'driftmap-wan-'));
const at = (name) => join(folder, name);
const stops = [];
const tidy = () => {
  for (const stop of stops.splice(0).reverse()) stop();
  rmSync(folder, { recursive: true, force: true });
};
for (const signal of ['SIGINT', 'SIGTERM'])
  process.once(signal, () => {
    tidy();
    process.exit(130);
  });

/** Bytes of packets that left or reached the near end, headers and all. */
function linkBytes() {
  const { stdout } = spawnSync('ip', ['-n', near, '-s', '-j', 'link', 'show', 'wan0'], { encoding: 'utf8' });
  const { rx, tx } = JSON.parse(stdout)[0].stats64;
  return { sent: tx.bytes, all: rx.bytes + tx.bytes };
}

async function openNetwork() {
  for (const namespace of [near, far]) {
    ip('netns', 'add', namespace);
    stops.push(() => ip('netns', 'del', namespace));
    ip('-n', namespace, 'link', 'set', 'lo', 'up');
  }
  const numbers = [ONE_WAY_MS, 0, LOSS_PERCENT, RATE_MBIT].map(String);
  const wan = spawn('python3', [wanAt, near, nearIp, far, farIp, ...numbers], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  stops.push(() => wan.kill());
  await new Promise((resolve, reject) => {
    wan.stdout.once('data', resolve);
    wan.once('exit', () => reject(new Error(`${wanAt} ended`)));
  });
}

async function measured(act) {
  const [before, began] = [linkBytes(), performance.now()];
  const told = await act();
  const seconds = (performance.now() - began) / 1000;
  const after = linkBytes();
  return { ...told, wall: seconds, link: after.all - before.all, linkSent: after.sent - before.sent };
}

const line = (name, ...cells) => console.log(`${name.padEnd(40)} ${cells.join('  ')}`);
const limit = (good) => (good ? '' : '  ** misses its goal **');

async function over(what, disk, options, tls) {
  return measured(() =>
    session({ what, disk, options, host: farIp, tls, client: within(near), server: within(far) }),
  );
}

try {
  await openNetwork();
  const tls = makeCertificate(folder, farIp);
  const pair = { production: at('production.raw'), drifted: at('drifted.raw'), replica: at('replica.raw') };
  const row = Math.round(mebibytes / 128);
  const differing = makePair({ ...pair, mebibytes, every: 60, row });
  copyFileSync(pair.drifted, pair.replica);
  const changed = differing.reduce((sum, { length }) => sum + length, 0);
  const { production } = pair;
  console.log(
    `a pair of ${mebibytes} MiB, ${mb(changed)} of its blocks differ; ${2 * ONE_WAY_MS} ms, ${RATE_MBIT} Mbit/s, ${LOSS_PERCENT} % loss\n`,
  );

  // Both ends share this machine's processors, here as there: what the network adds is the difference.
  const added = [];
  for (let round = 0; round < (smoke ? 1 : 3); round++) {
    const options = { production, signature: 'nh128' };
    const local = { what: 'compare', disk: pair.replica, options, host: '127.0.0.1', tls: null };
    const close = await session({ ...local, client: within(near), server: within(near) });
    const distant = await over('compare', pair.replica, options, tls);
    const [here, there] = [close, distant].map(({ phases }) => phases.comparing.seconds);
    added.push(there - here);
    line(
      'comparing',
      `${here.toFixed(2)} s without the network, ${there.toFixed(2)} s over it`,
      mb(distant.sentBytes + distant.receivedBytes),
    );
  }
  const least = median(added);
  line(
    'the network adds to comparing',
    `${least.toFixed(2)} s, median of ${added.length}${limit(least < 3)}`,
  );

  const noise = at('noise.raw');
  makeNoise(noise, NOISE_MIB);
  const empty = at('empty.raw');
  writeFileSync(empty, '');
  truncateSync(empty, NOISE_MIB * 2 ** 20);
  const sent = await over('sync', empty, { production: noise, bySignature: false, signature: 'nh128' }, tls);
  const { seconds } = sent.phases.sending;
  const most = (RATE_MBIT / 8) * 1e6 * seconds;
  line(
    `${NOISE_MIB} MiB that do not compress`,
    `${seconds.toFixed(2)} s, ${((sent.storedBytes / most) * 100).toFixed(1)} % of the link is data,`,
    `${((sent.linkSent / most) * 100).toFixed(1)} % with headers and what was sent again${limit(smoke || sent.linkSent / most >= 0.9)}`,
  );

  console.log('\nmaking the pair equal:');
  const synced = await over('sync', pair.replica, { production }, tls);
  const wire = synced.sentBytes + synced.receivedBytes;
  line(
    'driftmap sync',
    `${synced.wall.toFixed(1)} s  ${mb(wire)} in frames, ${mb(synced.link)} in packets`,
    `\n${' '.repeat(41)}data as packed ${mb(synced.storedBytes)}, the rest ${(((wire - synced.storedBytes) / synced.storedBytes) * 100).toFixed(2)} % of it${limit(smoke || wire <= synced.storedBytes * 1.01)}`,
    `\n${' '.repeat(41)}peak ${mb(synced.peak)} and ${mb(synced.farPeak)}, CPU ${synced.cpu.toFixed(1)} and ${synced.farCpu.toFixed(1)} s`,
  );
  bringBack({ ...pair, differing });
  const refined = await over('sync', pair.replica, { production, refine: 4096 }, tls);
  line(
    'driftmap sync --refine 4K',
    `${refined.wall.toFixed(1)} s  ${mb(refined.sentBytes + refined.receivedBytes)} in frames, ${mb(refined.link)} in packets`,
  );
  await rivals(pair, differing);
} finally {
  tidy();
}

async function rivals(pair, differing) {
  if (installed('rsync', '--version')) {
    bringBack({ ...pair, differing });
    const config = at('rsyncd.conf');
    writeFileSync(config, `use chroot = no\nuid = 0\ngid = 0\n[vm]\npath = ${folder}\nread only = no\n`);
    const daemon = spawn(
      'ip',
      [
        'netns',
        'exec',
        far,
        'rsync',
        '--daemon',
        '--no-detach',
        `--config=${config}`,
        '--port=8730',
        '--address',
        farIp,
      ],
      // With a socket as its standard input rsync takes itself for a child of inetd, and does not listen.
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
    stops.push(() => daemon.kill());
    await untilServed(`rsync://${farIp}:8730/`);
    const words = [
      '-z',
      '--inplace',
      '--no-whole-file',
      '-I',
      pair.production,
      `rsync://${farIp}:8730/vm/replica.raw`,
    ];
    const told = await measured(async () => run([...within(near), 'rsync', ...words]));
    line('rsync -z --inplace --no-whole-file -I', `${told.wall.toFixed(1)} s  ${mb(told.link)} in packets`);
  } else line('rsync', 'is not installed');
  if (installed('bdsync', '--help')) {
    bringBack({ ...pair, differing });
    const patch = at('patch');
    const told = await measured(() => bdsync(pair, patch));
    const packed = at('patch.gz');
    await run(['sh', '-c', `gzip -1 <"${patch}" >"${packed}"`]);
    const { size } = statSync(packed);
    line(
      'bdsync, its patch packed by gzip -1',
      `${(told.wall + (size * 8) / (RATE_MBIT * 1e6)).toFixed(1)} s  ${mb(told.link + size)}: digests ${mb(told.link)} in packets, the patch ${mb(size)} and its time worked out`,
    );
  } else line('bdsync', 'is not installed');
}

/** bdsync speaks to its other end through a command's input and output: here two relays, and the network between. */
async function bdsync({ production, replica }, patch) {
  const relay = at('relay.mjs');
  writeFileSync(
    relay,
    `import { connect, createServer } from 'node:net'; import { spawn } from 'node:child_process';
const [role] = process.argv.slice(2);
if (role === 'far') createServer((socket) => { const child = spawn('bdsync', ['-s'], { stdio: ['pipe', 'pipe', 'inherit'] }); socket.pipe(child.stdin); child.stdout.pipe(socket); }).listen(8731, '${farIp}');
else { const socket = connect(8731, '${farIp}'); socket.setNoDelay(true); process.stdin.pipe(socket); socket.pipe(process.stdout); }\n`,
  );
  const server = spawn('ip', ['netns', 'exec', far, process.execPath, relay, 'far'], { stdio: 'inherit' });
  stops.push(() => server.kill());
  await new Promise((resolve) => setTimeout(resolve, 500));
  const remote = [...within(near), process.execPath, relay, 'near'].join(' ');
  await run([
    'sh',
    '-c',
    `bdsync --blocksize=65536 --hash=md5 "${remote}" "${production}" "${replica}" >"${patch}"`,
  ]);
}

/** A daemon listens some time after it was started, and later on a busy machine. */
async function untilServed(address) {
  for (let i = 0; i < 100; i++) {
    const { status } = spawnSync('ip', [...within(near).slice(1), 'rsync', address], { stdio: 'ignore' });
    if (status === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function run([command, ...words]) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, words, { stdio: ['ignore', 'ignore', 'inherit'] });
    child.once('exit', (status) =>
      status === 0 ? resolve({}) : reject(new Error(`${command} ended with ${status}`)),
    );
  });
}
