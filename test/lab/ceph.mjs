// A real S3 store for tests and benches: one node of Ceph (monitor, one OSD, RADOS gateway) on free ports of the
// loopback, without systemd, in a temporary folder that is removed at the end. Needs the Debian packages ceph-mon,
// ceph-osd, ceph-common and radosgw.
//   node test/lab/ceph.mjs [memstore|bluestore]
// Prints one line of JSON, {endpoint, accessKey, secretKey, folder, ids}, and runs until its standard input ends or it
// is told to stop. A line `restart rgw` (osd, mon) on standard input starts a daemon anew that was killed, and prints
// such a line again. Daemons are stopped by the ids of their processes.
import { execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const store = process.argv[2] ?? 'memstore';
const accessKey = 'LABACCESSKEY';
const secretKey = 'lab-secret-key';
const folder = mkdtempSync(join(tmpdir(), 'driftmap-ceph-'));
const at = (...parts) => join(folder, ...parts);
const env = { ...process.env, CEPH_CONF: at('ceph.conf') };
const run = (command, ...args) => execFileSync(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
const daemons = new Map();

const [monitorPort, gatewayPort] = await freePorts(2);
const commands = {
  mon: ['ceph-mon', '-i', 'a', '-f'],
  osd: ['ceph-osd', '-i', '0', '-f'],
  rgw: ['radosgw', '-n', 'client.rgw.a', '-f'],
};

let ending = false;
process.on('SIGINT', end);
process.on('SIGTERM', end);
const orders = createInterface({ input: process.stdin });
orders.on('close', end);
try {
  await make();
  tell();
} catch (error) {
  console.error(`ceph.mjs: ${error.message}\n${error.stderr ?? ''}`);
  await end(1);
}
orders.on('line', async (line) => {
  const name = line.replace(/^restart /, '');
  start(name);
  if (name === 'rgw') await answering();
  if (name === 'osd') await osdIsUp();
  tell();
});

async function make() {
  for (const name of ['mon', 'osd', 'log', 'run', 'rgw']) mkdirSync(at(name));
  const [cluster, osd] = [randomUUID(), randomUUID()];
  writeFileSync(at('ceph.conf'), configuration(cluster));
  const all = ['--cap', 'mon', 'allow *', '--cap', 'osd', 'allow *', '--cap', 'mgr', 'allow *'];
  run(
    'ceph-authtool',
    '--create-keyring',
    at('keyring'),
    '--gen-key',
    '-n',
    'mon.',
    '--cap',
    'mon',
    'allow *',
  );
  for (const name of ['client.admin', 'client.rgw.a', 'osd.0']) {
    run('ceph-authtool', at('keyring'), '--gen-key', '-n', name, ...all);
  }
  const monitor = `[v2:127.0.0.1:${monitorPort}]`;
  run('monmaptool', '--create', '--clobber', '--fsid', cluster, '--addv', 'a', monitor, at('monmap'));
  run('ceph-mon', '--mkfs', '-i', 'a', '--monmap', at('monmap'), '--keyring', at('keyring'));
  start('mon');
  run('ceph', 'osd', 'new', osd, '0');
  run('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osd);
  start('osd');
  await osdIsUp();
  const user = ['--uid=lab', '--display-name=lab', `--access-key=${accessKey}`, `--secret-key=${secretKey}`];
  run('radosgw-admin', 'user', 'create', ...user);
  start('rgw');
  await answering();
}

function configuration(cluster) {
  return `[global]
fsid = ${cluster}
mon host = [v2:127.0.0.1:${monitorPort}]
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
keyring = ${at('keyring')}
log file = ${at('log', '$name.log')}
admin socket = ${at('run', '$name.asok')}
run dir = ${at('run')}
crash dir = ${at('run')}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail warn = 2
mon data avail crit = 1
ms bind ipv6 = false
[mon]
paxos propose interval = 0.05
paxos min wait = 0.01
mon tick interval = 1
mon data = ${at('mon')}
mon initial members = a
[osd]
osd data = ${at('osd')}
osd objectstore = ${store}
memstore device bytes = 4294967296
bluestore block size = 8589934592
bluestore fsck quick fix on mount = false
osd memory target = 1073741824
[client.rgw.a]
ms mon client mode = crc secure
rgw frontends = beast endpoint=127.0.0.1:${gatewayPort} tcp_nodelay=1
rgw data = ${at('rgw')}
keyring = ${at('keyring')}
rgw enable usage log = false
rgw dns name = localhost
rgw bucket quota ttl = 0
`;
}

function start(name) {
  const log = openSync(at('log', `${name}.out`), 'a');
  const [command, ...args] = commands[name];
  const child = spawn(command, args, { env, stdio: ['ignore', log, log] });
  closeSync(log);
  child.on('error', (error) => console.error(`ceph.mjs: ${command}: ${error.message}`));
  daemons.set(name, child);
}

async function osdIsUp() {
  await until('the OSD', () => /\b1 up\b/.test(run('ceph', 'osd', 'stat').toString()));
}

async function answering() {
  await until('the gateway', async () => (await fetch(`http://127.0.0.1:${gatewayPort}/`)).ok);
}

async function until(what, holds) {
  for (let tries = 0; tries < 300; tries++) {
    if (
      await Promise.resolve()
        .then(holds)
        .catch(() => false)
    )
      return;
    await sleep(100);
  }
  throw new Error(`${what} does not come up; see ${at('log')}`);
}

function tell() {
  const ids = Object.fromEntries([...daemons].map(([name, { pid }]) => [name, pid]));
  console.log(
    JSON.stringify({ endpoint: `http://127.0.0.1:${gatewayPort}`, accessKey, secretKey, folder, ids }),
  );
}

async function end(status = 0) {
  if (ending) return;
  ending = true;
  // Nothing is to be kept, so nothing is asked to close its books.
  for (const child of daemons.values()) {
    if (child.exitCode === null && child.signalCode === null) {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
  }
  rmSync(folder, { recursive: true, force: true });
  process.exit(typeof status === 'number' ? status : 0);
}

/** Taken and let go: whoever starts two of these at one moment may be unlucky. */
async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  const ports = [];
  for (const server of servers) {
    if (!server.listening) await new Promise((resolve) => server.once('listening', resolve));
    ports.push(server.address().port);
  }
  for (const server of servers) await new Promise((resolve) => server.close(resolve));
  return ports;
}
