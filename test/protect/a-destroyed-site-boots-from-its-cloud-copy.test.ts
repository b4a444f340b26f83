/**
 * The runbook of docs/RECOVERY.md, "From the cloud", for real: a machine works on a protected disk, its snapshots go to
 * an S3 store, and then production and replica are destroyed. Another host, which reaches nothing but the store, boots
 * the machine from it.
 */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bin, driftmap } from '../cli/command.ts';
import { Ceph, cephTools } from '../lab/s3-labs.ts';
import { bootVm, makeGuestDisk, makeVmParts, type VmParts, vmNeeds } from '../lab/vm.ts';
import { describeWith, temporary, tool } from '../tools.ts';

const folder = temporary();
const at = (...names: string[]) => join(folder, ...names);
/** Unlike any other test's that runs now. */
const number = process.pid % 250;
const [host, here] = [`dm${process.pid}`, `10.203.${number}.1`];

/** A host of its own: a network namespace that reaches this one by one cable. */
function makeHost(): void {
  const ip = (...args: string[]) => {
    const { status, stderr } = spawnSync('ip', args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${stderr}`);
  };
  ip('netns', 'add', host);
  ip('link', 'add', `v${process.pid}`, 'type', 'veth', 'peer', 'name', 'uplink', 'netns', host);
  ip('addr', 'add', `${here}/24`, 'dev', `v${process.pid}`);
  ip('link', 'set', `v${process.pid}`, 'up');
  ip('-n', host, 'addr', 'add', `10.203.${number}.2/24`, 'dev', 'uplink');
  for (const link of ['uplink', 'lo']) ip('-n', host, 'link', 'set', link, 'up');
}

/** What the store's own host would do: its port, on the cable. */
async function relay(port: number): Promise<{ port: number; server: Server }> {
  const server = createServer((near) => {
    const far = createConnection(port, '127.0.0.1');
    near.pipe(far).pipe(near);
    for (const socket of [near, far]) socket.on('error', () => [near, far].map((one) => one.destroy()));
  });
  server.listen(0, here);
  await once(server, 'listening');
  return { port: (server.address() as { port: number }).port, server };
}

/** A command that goes on, once it has said what is waited for. */
async function started(args: string[], said: RegExp, inside?: string): Promise<ChildProcess> {
  const [command, ...rest] =
    inside === undefined ? [process.execPath] : ['ip', 'netns', 'exec', inside, process.execPath];
  const child = spawn(command!, [...rest, bin, ...args], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  await new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout!, child.stderr!])
      stream.on('data', (more: Buffer) => {
        text += more.toString();
        if (said.test(text)) resolve();
      });
    child.on('close', (status) => reject(new Error(`driftmap ${args[0]} ended with ${status}: ${text}`)));
  });
  return child;
}

async function stopped(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  const ended = once(child, 'close');
  child.kill(signal);
  await ended;
}

/** Each start of the machine counts. */
const work = 'echo $(($(cat /srv/starts) + 1)) > /srv/starts\n';

describeWith([...vmNeeds, ...cephTools, 'ip', 'debugfs'], 'a site that is destroyed', () => {
  let vm: VmParts;
  let ceph: Ceph;
  let way: { port: number; server: Server };

  beforeAll(async () => {
    vm = makeVmParts(at('vm'));
    ceph = await Ceph.start();
    await ceph.makeBucket('backup');
    makeHost();
    way = await relay(Number(new URL(ceph.endpoint).port));
  }, 120_000);
  afterAll(async () => {
    way?.server.close();
    spawnSync('ip', ['netns', 'del', host]);
    spawnSync('ip', ['link', 'del', `v${process.pid}`]);
    await ceph?.stop();
  });

  it('starts again on another host, from the store, as of the point that was chosen', async () => {
    const { accessKeyId, secretAccessKey } = ceph.credentials;
    Object.assign(process.env, { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey });
    makeGuestDisk(vm, at('system.raw'), { files: { starts: '0\n' }, work });
    for (const name of ['replica', 'state']) mkdirSync(at(name));
    const group = {
      group: 'web',
      production: { state: 'state', disks: { system: { disk: 'system.raw', socket: 'system.sock' } } },
      replica: {
        journal: 'replica/journal',
        disks: { system: 'replica/system.raw' },
        snapshots: { store: ceph.address('backup/web') },
      },
    };
    writeFileSync(at('web.json'), JSON.stringify(group));
    const command = (...args: string[]) => {
      const { status, stdout, stderr } = driftmap(args, { cwd: folder });
      expect({ args, status, stderr }).toEqual({ args, status: 0, stderr: '' });
      return stdout;
    };
    const disk = `nbd+unix:///system?socket=${at('system.sock')}`;
    const protect = await started(['protect', 'web.json'], / streaming/);

    expect(await bootVm(vm, disk)).toContain('VM: /srv/starts: 0');
    command('bookmark', 'web.json', 'good');
    expect(command('snapshots', 'take', 'web.json')).toContain('snapshot ');
    const good = Date.now();
    // What comes after the point that will be chosen: another start, in another snapshot.
    expect(await bootVm(vm, disk)).toContain('VM: /srv/starts: 1');
    const second = command('snapshots', 'take', 'web.json');
    expect(second).toContain('scanned 0 bytes');

    await stopped(protect, 'SIGKILL');
    for (const name of ['system.raw', 'replica', 'state', 'system.sock', 'web.json'])
      rmSync(at(name), { recursive: true, force: true });
    expect(
      readdirSync(folder)
        .filter((name) => !name.includes('lock'))
        .sort(),
    ).toEqual(['system.raw.seed', 'vm']);

    // On the other host: the store's address and its credentials are all that there is.
    const store = `s3://backup/web?endpoint=http://${here}:${way.port}&path-style`;
    const access = await started(
      ['snapshots', 'access', store, new Date(good).toISOString(), '--listen', 'localhost:10809'],
      /nbd:\/\//,
      host,
    );
    const shown = await bootVm(vm, 'nbd://localhost:10809/system', { netns: host });
    expect(shown).toContain('VM: /srv/starts: 1');
    expect(shown).toContain('VM: done');
    await stopped(access);

    // Whole disks, with a group file that only names the store.
    const { replica, ...rest } = group;
    writeFileSync(at('c.json'), JSON.stringify({ ...rest, replica: { ...replica, snapshots: { store } } }));
    const chosen = ['--at', new Date(good).toISOString(), '--to', 'back'];
    const restored = await started(['restore', 'c.json', ...chosen], /snapshot/, host);
    if (restored.exitCode === null) await once(restored, 'close');
    expect(restored.exitCode).toBe(0);
    const { stdout } = spawnSync('debugfs', ['-R', 'cat /srv/starts', at('back', 'system.raw')], {
      encoding: 'utf8',
    });
    expect(stdout).toBe('1\n');
    expect([null, '1\n']).toContain(mounted(at('back', 'system.raw'), at('mnt')));
  }, 240_000);
});

/** What a host that mounts the file system reads; null where this kernel has no loop devices for us. */
function mounted(disk: string, point: string): string | null {
  if (tool('losetup') === null) return null;
  mkdirSync(point, { recursive: true });
  if (spawnSync('mount', ['-o', 'loop,ro,noload', disk, point]).status !== 0) return null;
  const { stdout } = spawnSync('cat', [join(point, 'srv', 'starts')], { encoding: 'utf8' });
  spawnSync('umount', [point]);
  return stdout;
}
