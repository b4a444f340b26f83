import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { noise } from '../snapshots/disks.ts';
import { describeWith, temporary } from '../tools.ts';
import { bin, driftmap } from './command.ts';

const MIB = 1024 * 1024;
const folder = temporary();
const at = (...parts: string[]) => join(folder, ...parts);
const sha = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

function run(...args: string[]) {
  const { status, stdout, stderr } = driftmap(['snapshots', ...args], { cwd: folder });
  return { status, stdout, stderr };
}

function json<T>(...args: string[]): T {
  const { status, stdout, stderr } = run(...args, '--json');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as T;
}

interface Taken {
  readonly id: string;
  readonly bytesRead: number;
  readonly bytesScanned: number;
  readonly blocksSent: number;
  readonly bytesSent: number;
}

/** 16 MiB with four of data. */
function makeDisk(name: string, seed: number): string {
  const path = at(name);
  writeFileSync(path, noise(4 * MIB, seed));
  truncateSync(path, 16 * MIB);
  return path;
}

describe('a folder of snapshots, by command', () => {
  const system = makeDisk('system.raw', 1);
  const data = makeDisk('data.raw', 2);
  writeFileSync(at('key'), noise(32, 5));
  writeFileSync(at('vm.xml'), '<domain/>');
  const key = ['--key', 'key'];
  const shas: Record<string, string>[] = [];
  const ids: string[] = [];

  it('is made once, and opens with its key', () => {
    expect(run('init', 'store', ...key).stdout).toMatch(
      /^store: repository [0-9a-f]{8}, blocks of 256K, .* encrypted\n$/,
    );
    expect(run('init', 'store', ...key)).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/a repository already/),
    });
    expect(run('list', 'store')).toMatchObject({ status: 2, stderr: expect.stringMatching(/give its key/) });
    expect(run('list', 'store', ...key)).toMatchObject({ status: 0, stdout: 'no snapshots\n' });
    expect(run('list', 'nowhere')).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/no such folder/),
    });
  });

  it('takes snapshots of a group: the first one whole, the next what changed', () => {
    const take = (...more: string[]) =>
      json<Taken>('take', 'store', 'system=system.raw', 'data=data.raw', '--group', 'web', ...key, ...more);
    const first = take('--configuration', 'vm.xml', '--name', 'fresh');
    expect(first).toMatchObject({ bytesRead: 8 * MIB, blocksSent: 32 });
    shas.push({ system: sha(system), data: sha(data) });
    const bytes = readFileSync(data);
    bytes.set(noise(1000, 9), 9 * MIB);
    writeFileSync(data, bytes);
    const second = take();
    expect(second).toMatchObject({ blocksSent: 1 });
    expect(second.bytesSent).toBeLessThan(4000);
    shas.push({ system: sha(system), data: sha(data) });
    ids.push(first.id, second.id);
  });

  it('reads nothing but what a bitmap says has changed', () => {
    expect(driftmap(['scan', system, system, '--bitmap', at('marks.drift')], { cwd: folder }).status).toBe(0);
    const third = json<Taken>(
      'take',
      'store',
      'system=system.raw',
      'data=system.raw',
      '--group',
      'other',
      ...key,
      '--full',
    );
    const fourth = json<Taken>(
      'take',
      'store',
      'system=system.raw',
      'data=system.raw',
      '--group',
      'other',
      ...key,
      '--changed',
      'system=marks.drift',
      '--changed',
      'data=marks.drift',
    );
    expect(third).toMatchObject({ blocksSent: 0, bytesRead: 8 * MIB });
    expect(fourth).toMatchObject({ bytesRead: 0, bytesScanned: 0, blocksSent: 0 });
    expect(
      run('take', 'store', 'system=data.raw', '--group', 'other', ...key, '--changed', 'system=marks.drift'),
    ).toMatchObject({ status: 2, stderr: expect.stringMatching(/a bitmap of other disks/) });
  });

  it('lists and shows them', () => {
    const { stdout } = run('list', 'store', ...key, '--group', 'web');
    const lines = stdout.trim().split('\n');
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatch(
      /^[0-9a-f]{8} {2}\S+ {2}web {2}2 disks, 32.0 MiB, 8.00 MiB of data, .* sent {2}'fresh'$/,
    );
    expect(run('show', 'store', ids[0]!.slice(0, 6), ...key).stdout).toMatch(/^disk {5}data: 16.0 MiB/m);
    expect(run('show', 'store', ids[0]!.slice(0, 6), ...key, '--configuration').stdout).toBe('<domain/>');
    expect(run('show', 'store', 'latest', ...key)).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/--group/),
    });
    expect(run('show', 'store', 'latest', ...key, '--group', 'web').stdout).toContain(ids[1]);
    expect(run('show', 'store', '2000-01-01', ...key, '--group', 'web')).toMatchObject({ status: 2 });
  });

  it('restores whole disks, sparse, and overwrites nothing unasked', () => {
    for (const [i, id] of ids.entries()) {
      const to = `restored-${i}`;
      expect(run('restore', 'store', id, ...key, '--to', to).status).toBe(0);
      for (const name of ['system', 'data']) expect(sha(at(to, `${name}.raw`))).toBe(shas[i]![name]);
      expect(statSync(at(to, 'system.raw')).blocks * 512).toBeLessThan(6 * MIB);
    }
    const again = run('restore', 'store', ids[0]!, ...key, '--to', 'restored-1');
    expect(again).toMatchObject({ status: 2, stderr: expect.stringMatching(/--overwrite/) });
    expect(sha(at('restored-1', 'data.raw'))).toBe(shas[1]!.data);
    expect(run('restore', 'store', ids[0]!, ...key, '--to', 'restored-1', '--overwrite').status).toBe(0);
    expect(sha(at('restored-1', 'data.raw'))).toBe(shas[0]!.data);
  });

  it('goes on from what a stopped restore left', () => {
    mkdirSync(at('part'));
    const half = readFileSync(data).subarray(0, 2 * MIB);
    writeFileSync(at('part', 'data.raw.part'), half);
    const restored = json<{ bytesFetched: number; bytesKept: number }>(
      'restore',
      'store',
      ids[1]!,
      ...key,
      '--disk',
      'data=part/data.raw',
    );
    expect(sha(at('part', 'data.raw'))).toBe(shas[1]!.data);
    expect(restored.bytesFetched).toBe(2.25 * MIB);
    expect(readdirSync(at('part'))).toEqual(['data.raw']);
  });

  it('verifies, and names what is damaged', () => {
    expect(run('verify', 'store', ...key)).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/all is well\n$/),
    });
    const blocks = readdirSync(at('store', 'blocks'), { recursive: true, encoding: 'utf8' });
    const victim = join('store', 'blocks', blocks.find((name) => name.length > 60)!);
    const whole = readFileSync(at(victim));
    const broken = new Uint8Array(whole);
    broken[100]! ^= 1;
    writeFileSync(at(victim), broken);
    const { status, stdout } = run('verify', 'store', ...key);
    expect(status).toBe(1);
    expect(stdout).toMatch(new RegExp(`^${victim.slice('store/'.length)}: .*damaged.*hits [0-9a-f]{8}`, 'm'));
    rmSync(at(victim));
    expect(run('verify', 'store', ...key, '--quick').stdout).toMatch(/is missing; hits/);
    writeFileSync(at(victim), whole);
  });

  it('prunes by rules: a dry run says so, two runs do it', () => {
    const dry = run('prune', 'store', ...key, '--keep-last', '1', '--dry-run');
    expect(dry.stdout).toMatch(/^would list/m);
    expect(
      run('list', 'store', ...key)
        .stdout.trim()
        .split('\n'),
    ).toHaveLength(4);
    const first = json<{ forgotten: object[]; removedObjects: number }>(
      'prune',
      'store',
      ...key,
      '--keep-last',
      '1',
      '--grace',
      '0s',
    );
    expect(first.forgotten).toHaveLength(2);
    expect(first.removedObjects).toBe(0);
    const second = json<{ removedObjects: number }>('prune', 'store', ...key, '--grace', '0s');
    expect(second.removedObjects).toBeGreaterThan(0);
    expect(run('verify', 'store', ...key)).toMatchObject({ status: 0 });
    expect(run('prune', 'store', ...key, '--keep-last', '0')).toMatchObject({ status: 2 });
  });

  it('of a group is named by its file, too', () => {
    const file = {
      group: 'web',
      replica: {
        journal: 'journal',
        disks: { system: 'system.raw' },
        keep: { age: '3d' },
        snapshots: { store: 'store', key: 'key' },
      },
    };
    writeFileSync(at('web.json'), JSON.stringify(file));
    expect(run('show', 'web.json', 'latest').stdout).toContain(ids[1]);
  });

  it('helps', () => {
    expect(run('--help').stdout).toMatch(/SNAPSHOT is the beginning of an id/);
    expect(run('restore', 'store', ids[1]!, ...key)).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/--to/),
    });
  });
});

describeWith(['nbdcopy', 'nbdinfo', 'qemu-img', 'qemu-io'], 'access to a snapshot over NBD', () => {
  const place = temporary();
  const here = (name: string) => join(place, name);

  it('serves its disks at once, writes are discarded, and nothing stays behind', {
    timeout: 60_000,
  }, async () => {
    writeFileSync(here('a.raw'), noise(6 * MIB, 3));
    truncateSync(here('a.raw'), 32 * MIB);
    const call = (...args: string[]) => driftmap(['snapshots', ...args], { cwd: place });
    expect(call('init', 'store').status).toBe(0);
    expect(call('take', 'store', 'a=a.raw').status).toBe(0);
    mkdirSync(here('overlay'));
    const args = [
      'snapshots',
      'access',
      'store',
      'latest',
      '--socket',
      's.sock',
      '--cache',
      'cache',
      '--overlay',
      'overlay',
    ];
    const child = spawn(process.execPath, [bin, ...args], { cwd: place });
    try {
      const uri = await new Promise<string>((resolve, reject) => {
        child.stdout.once('data', (text) => resolve(String(text).trim()));
        child.once('exit', () => reject(new Error('it ended')));
      });
      const tool = (name: string, ...more: string[]) =>
        spawnSync(name, more, { cwd: place, encoding: 'utf8' });
      expect(tool('nbdinfo', '--size', uri).stdout.trim()).toBe(String(32 * MIB));
      expect(tool('nbdinfo', '--map', '--totals', uri).stdout).toMatch(/6291456\s+18\.8%\s+0\s+data/);
      expect(tool('nbdcopy', uri, 'copy.raw').status).toBe(0);
      expect(sha(here('copy.raw'))).toBe(sha(here('a.raw')));
      expect(tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, 'a.raw').stdout).toMatch(/identical/);
      const io = tool(
        'qemu-io',
        '-f',
        'raw',
        '-c',
        'write -P 7 1M 1M',
        '-c',
        'read -P 7 1M 1M',
        '-c',
        'read -P 0 20M 1M',
        uri,
      );
      expect(`${io.stdout}${io.stderr}`).not.toMatch(/verification failed|error/i);
      expect(tool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri, 'a.raw').status).toBe(1);
    } finally {
      child.kill('SIGTERM');
    }
    const status = await new Promise((resolve) => child.once('exit', resolve));
    expect(status).toBe(0);
    expect(readdirSync(here('overlay'))).toEqual([]);
    expect(existsSync(here('s.sock'))).toBe(false);
    expect(call('verify', 'store').status).toBe(0);
    expect(call('restore', 'store', 'latest', '--to', 'out').status).toBe(0);
    expect(sha(here('out/a.raw'))).toBe(sha(here('a.raw')));
  });
});
