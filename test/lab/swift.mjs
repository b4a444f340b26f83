// A second real S3 for tests: OpenStack Swift with its S3 middleware, on free ports of the loopback, one copy of
// everything, in a temporary folder that is removed at the end. Needs the Debian packages swift-proxy, swift-account,
// swift-container, swift-object (their /etc/swift/swift.conf is used) and memcached, and root.
//   node test/lab/swift.mjs
// Prints and ends as ceph.mjs.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { answers, freePorts, Lab } from './daemons.mjs';

const accessKey = 'lab:lab';
const secretKey = 'lab-secret-key';
const lab = new Lab('swift');
const [proxy, object, container, account, cache] = await freePorts(5);
const storage = { object, container, account };

const server = (name, port) => ({
  command: [`swift-${name}-server`, lab.at(`${name}.conf`)],
  up: () => answers(port),
});
await lab.run({
  commands: {
    cache: {
      command: ['memcached', '-l', '127.0.0.1', '-p', String(cache), '-u', 'nobody'],
      up: () =>
        new Promise((resolve, reject) => {
          const socket = connect(cache, '127.0.0.1', () => resolve(socket.destroy()));
          socket.on('error', reject);
        }).then(() => true),
    },
    object: server('object', object),
    container: server('container', container),
    account: server('account', account),
    proxy: server('proxy', proxy),
  },
  make,
  tell: () => ({ endpoint: `http://127.0.0.1:${proxy}`, accessKey, secretKey }),
});

async function make() {
  mkdirSync(lab.at('srv', 'd1'), { recursive: true });
  for (const [name, port] of Object.entries(storage)) {
    const ring = (...args) =>
      execFileSync('swift-ring-builder', [`${name}.builder`, ...args], { cwd: lab.folder });
    ring('create', '4', '1', '0');
    const device = ['--region', '1', '--zone', '1', '--device', 'd1', '--weight', '1'];
    ring('add', ...device, '--ip', '127.0.0.1', '--port', String(port));
    ring('rebalance');
    writeFileSync(lab.at(`${name}.conf`), storageConfiguration(name, port));
  }
  writeFileSync(lab.at('proxy.conf'), proxyConfiguration());
  await Promise.all(Object.keys(lab.commands).map((name) => lab.start(name)));
}

function storageConfiguration(name, port) {
  return `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${port}
user = root
swift_dir = ${lab.folder}
devices = ${lab.at('srv')}
mount_check = false
workers = 0
[pipeline:main]
pipeline = ${name}-server
[app:${name}-server]
use = egg:swift#${name}
`;
}

function proxyConfiguration() {
  const filters = ['catch_errors', 'proxy_logging', 'listing_formats', 'copy', 'slo', 'dlo'];
  return `[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${proxy}
user = root
swift_dir = ${lab.folder}
workers = 0
[pipeline:main]
pipeline = catch_errors proxy_logging cache listing_formats s3api tempauth copy slo dlo proxy_logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_lab_lab = ${secretKey} .admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:${cache}
${filters.map((name) => `[filter:${name}]\nuse = egg:swift#${name}`).join('\n')}
`;
}
