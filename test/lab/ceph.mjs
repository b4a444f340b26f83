// A real S3 store for tests and benches: one node of Ceph (monitor, one OSD, RADOS gateway) on free ports of the
// loopback, without systemd, in a temporary folder that is removed at the end. Needs the Debian packages ceph-mon,
// ceph-osd, ceph-common and radosgw.
//   node test/lab/ceph.mjs [memstore|bluestore]
// Prints one line of JSON, {endpoint, accessKey, secretKey, folder, ids}, and runs until its standard input ends or it
// is told to stop. A line `restart rgw` (osd, mon) on standard input starts a daemon anew that was killed, and prints
// such a line again. Daemons are stopped by the ids of their processes.
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { answers, freePorts, Lab } from './daemons.mjs';

const store = process.argv[2] ?? 'memstore';
const accessKey = 'LABACCESSKEY';
const secretKey = 'lab-secret-key';
const lab = new Lab('ceph');
const at = (...parts) => lab.at(...parts);
lab.env.CEPH_CONF = at('ceph.conf');
const run = (command, ...args) =>
  execFileSync(command, args, { env: lab.env, stdio: ['ignore', 'pipe', 'pipe'] });

const [monitorPort, gatewayPort] = await freePorts(2);
await lab.run({
  commands: {
    mon: { command: ['ceph-mon', '-i', 'a', '-f'], up: () => run('ceph', 'mon', 'stat') },
    osd: {
      command: ['ceph-osd', '-i', '0', '-f'],
      up: () => /\b1 up\b/.test(run('ceph', 'osd', 'stat').toString()),
    },
    rgw: { command: ['radosgw', '-n', 'client.rgw.a', '-f'], up: () => answers(gatewayPort) },
  },
  make,
  tell: () => ({ endpoint: `http://127.0.0.1:${gatewayPort}`, accessKey, secretKey }),
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
  await lab.start('mon');
  run('ceph', 'osd', 'new', osd, '0');
  run('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osd);
  await lab.start('osd');
  const user = ['--uid=lab', '--display-name=lab', `--access-key=${accessKey}`, `--secret-key=${secretKey}`];
  run('radosgw-admin', 'user', 'create', ...user);
  await lab.start('rgw');
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
