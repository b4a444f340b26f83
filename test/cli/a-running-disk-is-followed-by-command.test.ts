import { spawn, spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fileOf, MiB, noise, sameFiles } from '../sync/disks.ts';
import { rawOf, runQemu } from '../sync/qsd.ts';
import { describeWith, temporary } from '../tools.ts';
import { driftmap, driftmapStopped } from './command.ts';

const folder = temporary();
const SIZE = 16 * MiB;

describeWith(['qemu-storage-daemon', 'qemu-img', 'qemu-io'], 'sync of a disk that a guest writes to', () => {
  it.each(['--live', '--qmp'])('follows it, makes it quiet, and lets it go on: %s', async (way) => {
    const name = (end: string) => join(folder, `vm${way}.${end}`);
    spawnSync('qemu-img', [
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      fileOf(folder, noise(SIZE, 1)),
      name('qcow2'),
    ]);
    spawnSync('qemu-img', ['bitmap', '--add', name('qcow2'), 'all']);
    const qemu = await runQemu(folder, name('qcow2'), way === '--live' ? 'all' : undefined);
    const replica = fileOf(folder, new Uint8Array(SIZE));
    writeFileSync(
      name('guest'),
      `i=0\nwhile [ ! -e ${name('stop')} ]; do i=$(( (i + 977) % 4096 ))\n` +
        `qemu-io -f raw -c "write -q -P $(( i % 250 + 1 )) $(( i * 4096 )) 4k" '${qemu.url}'; done\ntouch ${name('quiet')}\n`,
    );
    const guest = spawn('sh', [name('guest')], { stdio: 'inherit' });
    const ended = new Promise((resolve) => guest.once('close', resolve));
    const quiesce = `touch ${name('stop')}; while [ ! -e ${name('quiet')} ]; do sleep 0.02; done`;
    const args = [qemu.url, replica, '--quiesce', quiesce, '--resume', `touch ${name('on')}`];
    const marks = way === '--live' ? [`${qemu.url}:bitmap=all`] : [qemu.monitor, '--node', 'vm'];
    const run = await driftmapStopped(
      ['sync', ...args, way, ...marks, '--live-until', '1M', '--json'],
      'SIGTERM',
      60_000,
    );
    await ended;
    expect([run.status, run.stderr]).toEqual([0, expect.stringMatching(/production is quiet: last pass/)]);
    expect(JSON.parse(run.stdout)).toMatchObject({ consistent: true });
    expect(existsSync(name('on'))).toBe(true);
    expect(driftmap(['state', replica]).stdout).toMatch(/^status +consistent/m);
    await qemu.stop();
    expect(sameFiles(rawOf(name('qcow2'), 'qcow2', name('raw')), replica)).toBe(true);
  });

  it('says what fails: the command of --quiesce, and the replica stays synchronizing', async () => {
    const image = join(folder, 'failing.qcow2');
    spawnSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', fileOf(folder, noise(SIZE, 2)), image]);
    const qemu = await runQemu(folder, image);
    const replica = fileOf(folder, new Uint8Array(SIZE));
    const run = driftmap(['sync', qemu.url, replica, '--qmp', qemu.monitor, '--quiesce', 'exit 3', '-q']);
    expect([run.status, run.stdout]).toEqual([2, '']);
    expect(run.stderr).toContain('the command of --quiesce ended with status 3');
    expect(driftmap(['state', replica]).status).toBe(1);
    // One that cannot be made to go on: the replica is equal, and the user is told.
    const args = ['--quiesce', 'true', '--resume', 'exit 4', '--json'];
    const stuck = driftmap(['sync', qemu.url, replica, '--qmp', qemu.monitor, ...args]);
    expect(stuck.status).toBe(2);
    expect(stuck.stderr).toMatch(/production may still be quiet: .*--resume ended with status 4/);
    expect(JSON.parse(stuck.stdout)).toMatchObject({ consistent: true });
    expect(driftmap(['state', replica]).status).toBe(0);
    await qemu.stop();
  });
});

describe('the words of a live sync', () => {
  it('that do not fit together are refused', () => {
    const [a, b] = [fileOf(folder, noise(MiB, 1)), fileOf(folder, noise(MiB, 2))];
    const refused = (...args: string[]) => {
      const { status, stderr } = driftmap(['sync', a, b, ...args]);
      expect(status).toBe(2);
      return stderr;
    };
    expect(refused('--quiesce', 'true')).toContain('--live or --qmp');
    expect(refused('--live', 'vm.drift')).toContain('expected NBD-URL:bitmap=NAME');
    expect(refused('--qmp', '/run/qmp')).toContain('name it as production');
    expect(refused('--live', 'nbd://x:bitmap=a', '--live-until', 'soon')).toContain('expected a size');
    expect(refused('--live', 'nbd://x:bitmap=a', '--resume', 'true')).toContain('give both');
    expect(refused('--live', `${b}:bitmap=a`)).toContain('its own image');
  });

  it('of a path that is not there are about that path', () => {
    const none = join(folder, 'nowhere', 'vm.raw');
    for (const args of [
      ['state', none],
      ['failover', none],
      ['sync', fileOf(folder, noise(5, 1)), none],
    ]) {
      const { status, stderr } = driftmap(args);
      expect([status, stderr]).toEqual([2, expect.stringContaining(`${none}: open failed: no such file`)]);
      expect(stderr).not.toMatch(/driftstate|lock/);
    }
    const disk = fileOf(folder, noise(5, 1));
    expect(driftmap(['state', disk]).stderr).toContain(
      `${disk}: is no replica: there is no ${disk}.driftstate`,
    );
  });
});
