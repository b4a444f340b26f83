import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseSize } from '../../src/base/units.ts';
import { progressLine } from '../../src/cli/sync-bar.ts';
import { changed, fileOf, MiB, noise, sameFiles } from '../sync/disks.ts';
import { root, temporary } from '../tools.ts';
import { driftmap, driftmapStopped } from './command.ts';

const folder = temporary();
const bytes = noise(3 * MiB, 1);
const pair = (): [string, string] => [fileOf(folder, bytes), fileOf(folder, changed(bytes, [2, 30]))];
const ssh = join(folder, 'ssh');
writeFileSync(ssh, '#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n');
chmodSync(ssh, 0o755);
const site = [
  '--ssh',
  ssh,
  '--remote-command',
  `${process.execPath} ${join(root, 'dist/cli/main.js')} serve --stdio`,
];

describe('sync', () => {
  it('here: exits 0, says what it did, and the state agrees', () => {
    const [a, b] = pair();
    const { status, stdout, stderr } = driftmap(['sync', a, b]);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^sent +128 KiB, as 128 KiB of data$/m);
    expect(stdout).toMatch(/^result +consistent/m);
    expect(sameFiles(a, b)).toBe(true);
    const state = driftmap(['state', b]);
    expect(state.status).toBe(0);
    expect(state.stdout).toMatch(/^status +consistent since \d{4}-/m);
  });

  it('over ssh: prints one JSON object, and takes what DRIFTMAP_SSH says', () => {
    const [a, b] = pair();
    const { status, stdout } = driftmap(['sync', a, `ssh://host${b}`, '--json', ...site.slice(2)], {
      env: { DRIFTMAP_SSH: ssh },
    });
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ consistent: true, dataBytes: 131072, placedBlocks: 0 });
    expect(sameFiles(a, b)).toBe(true);
  });

  it('in trouble: exits 2 with one line', () => {
    const [a] = pair();
    const { status, stdout, stderr } = driftmap(['sync', a, `ssh://host${folder}/none.raw`, ...site]);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(
      /^driftmap: ssh:\/\/host: the other site says: .*no such file or directory \[ENOENT\]\n$/,
    );
    expect(driftmap(['sync', a, a, '--limit', 'fast']).stderr).toContain('expected bytes a second');
  });

  it('stopped by Ctrl-C: exits 130, and the next run ends equal', async () => {
    const a = fileOf(folder, noise(30 * MiB, 5));
    const b = fileOf(folder, noise(30 * MiB, 6));
    const args = ['sync', a, `ssh://host${b}`, ...site, '--no-by-signature', '--limit', '2M'];
    const { status } = await driftmapStopped(args, 'SIGINT', 4000);
    expect(status).toBe(130);
    for (let tries = 0; ; tries++) {
      const again = driftmap(['sync', a, b]);
      if (again.status === 0) break;
      // The other side may still be on its way out.
      expect(tries, again.stderr).toBeLessThan(20);
    }
    expect(sameFiles(a, b)).toBe(true);
  });
});

describe('sync of several pairs', () => {
  it('takes them as arguments and from a file, and tells of each', () => {
    const pairs = [pair(), pair(), pair()];
    const list = join(folder, 'pairs.txt');
    writeFileSync(list, `# two more\n${pairs[1]!.join('  ')}\n\n${pairs[2]!.join('\t')}\n`);
    const { status, stdout, stderr } = driftmap(['sync', ...pairs[0]!, '--pairs', list, '--json']);
    expect([status, stderr]).toEqual([0, '']);
    const told = JSON.parse(stdout).pairs;
    expect(told.map(({ replica }: { replica: string }) => replica)).toEqual(pairs.map(([, b]) => b));
    for (const [a, b] of pairs) expect(sameFiles(a, b)).toBe(true);
  });

  it('of which one fails: exits 2, and the others are equal', () => {
    const [a, b] = pair();
    const none = join(folder, 'none.raw');
    const { status, stdout, stderr } = driftmap(['sync', a, none, a, b]);
    expect(status).toBe(2);
    expect(stderr).toContain(`${none}: open failed`);
    expect(stdout).toMatch(/^result +failed: .*none\.raw/m);
    expect(stdout).toMatch(/^result +consistent/m);
    expect(sameFiles(a, b)).toBe(true);
  });

  it('that do not add up are refused', () => {
    const [a, b] = pair();
    const refused = (...args: string[]) => driftmap(['sync', ...args]).stderr;
    expect(refused()).toContain('expected PRODUCTION and REPLICA, or --pairs FILE');
    expect(refused(a, b, a)).toContain('expected a replica for each production disk, got 3 disks');
    expect(refused(a, b, b, a, '--state', 'x')).toContain('--state is about one pair');
    expect(refused(a, b, '--at-once', '99')).toContain('expected 1 to 16');
    const list = join(folder, 'bad.txt');
    writeFileSync(list, 'a b c\n');
    expect(refused('--pairs', list)).toContain('line 1: expected PRODUCTION and REPLICA');
  });
});

describe('scan and verify', () => {
  it('take addresses of other sites; the bitmap is the same file as of a scan here', () => {
    const [a, b] = pair();
    const [here, there] = [join(folder, 'here.drift'), join(folder, 'there.drift')];
    expect(driftmap(['scan', a, b, '--bitmap', here]).status).toBe(1);
    const far = driftmap(['scan', a, `ssh://host${b}`, '--bitmap', there, ...site]);
    expect([far.status, far.stderr]).toEqual([1, '']);
    expect(far.stdout).toMatch(/different: 2 of 48 blocks/);
    expect(readFileSync(here).equals(readFileSync(there))).toBe(true);
    const verified = driftmap(['verify', `ssh://host${a}`, b, '--json', ...site]);
    expect(verified.status).toBe(1);
    expect(JSON.parse(verified.stdout).ranges).toHaveLength(2);
    expect(driftmap(['verify', a, a]).status).toBe(0);
    const within = driftmap(['scan', a, `ssh://host${b}`, '--within', here, '--json', ...site]);
    expect([within.status, within.stderr]).toEqual([1, '']);
    expect(JSON.parse(within.stdout)).toMatchObject({ markedBlocks: 2, comparedBytes: 131072 });
    const resumed = driftmap(['scan', `ssh://host${a}`, b, '--resume', there, '--json', ...site]);
    expect([resumed.status, JSON.parse(resumed.stdout).comparedBytes]).toEqual([1, 0]);
    const bytes = driftmap(['scan', a, `ssh://host${b}`, '--compare', 'bytes', ...site]);
    expect([bytes.status, bytes.stderr]).toEqual([2, expect.stringContaining('would have to travel whole')]);
  });
});

describe('failover', () => {
  it('turns the replica into production, and a sync over it is refused', () => {
    const [a, b] = pair();
    expect(driftmap(['failover', b]).stderr).toContain('never been a replica');
    driftmap(['sync', a, b]);
    const { status, stdout } = driftmap(['failover', b, '--json']);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ status: 'failed-over', epoch: 2, markedBlocks: 0 });
    const refused = driftmap(['sync', a, b]);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain('--discard');
    expect(driftmap(['sync', b, a]).status).toBe(0);
  });
});

describe('bitmap show', () => {
  it('reads a replica’s state, and tells where marked bytes lie', () => {
    const [a, b] = pair();
    const drift = join(folder, 'locate.drift');
    driftmap(['scan', a, b, '--bitmap', drift]);
    const { status, stdout } = driftmap(['bitmap', 'show', drift, '--locate', '--production', a, '--json']);
    expect(status).toBe(0);
    expect(JSON.parse(stdout).ranges).toMatchObject([
      { offset: 131072, length: 65536, production: [{ kind: 'data', unit: a, place: 131072 }] },
      { offset: 1966080, length: 65536, production: [{ kind: 'data', unit: a, place: 1966080 }] },
    ]);
    driftmap(['sync', a, b]);
    expect(driftmap(['bitmap', 'show', `${b}.driftstate`]).stdout).toMatch(/^marked +0 blocks/m);
  });
});

describe('serve', () => {
  it('wants to know what, to whom, and where', () => {
    const [a] = pair();
    const wrong = (...args: string[]) => driftmap(['serve', ...args]).stderr;
    expect(wrong()).toContain('either --stdio or --listen');
    expect(wrong('--listen', '127.0.0.1:0')).toContain('--grant NAME=DISK');
    expect(wrong('--listen', '127.0.0.1:0', '--grant', `vm=${a}`)).toContain(
      'nobody would have to prove who he is',
    );
    expect(wrong('--listen', 'x', '--grant', `vm=${a}`)).toContain('expected host:port');
    expect(wrong('--listen', '127.0.0.1:0', '--grant', 'vm')).toContain('expected NAME=DISK');
    const short = join(folder, 'short');
    writeFileSync(short, 'secret\n');
    const token = wrong('--listen', '127.0.0.1:0', '--grant', `vm=${a}`, '--token-file', short);
    expect(token).toContain('expected at least 16 bytes, got 6');
  });

  it('listens, answers Prometheus, serves, and ends cleanly', async () => {
    const [a, b] = pair();
    const token = join(folder, 'token');
    writeFileSync(token, 'f'.repeat(64));
    chmodSync(token, 0o600);
    const port = 20_000 + (process.pid % 20_000);
    const args = ['serve', '--listen', `127.0.0.1:${port}`, '--grant', `vm=${b}`, '--token-file', token];
    const serving = driftmapStopped([...args, '--metrics', `127.0.0.1:${port + 1}`], 'SIGTERM', 6000);
    let metrics = '';
    for (let tries = 0; metrics === '' && tries < 100; tries++) {
      metrics = await fetch(`http://127.0.0.1:${port + 1}/metrics`)
        .then((response) => response.text())
        .catch(() => '');
      if (metrics === '') await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(metrics).toContain('driftmap_sessions 0\n');
    const address = `driftmap://127.0.0.1:${port}/vm`;
    const { sync } = await import('../../src/sync/sync.ts');
    const result = await sync({
      production: a,
      replica: address,
      token: Buffer.from('f'.repeat(64)),
      workers: 1,
    });
    expect(result.consistent).toBe(true);
    const { status, stderr } = await serving;
    expect(status).toBe(0);
    expect(stderr).toContain('sync of vm done');
    expect(stderr).toContain('shutting down');
  });
});

describe('the line of a session', () => {
  it('says the phase, how far it is, and what was saved', () => {
    const total = parseSize('10M');
    const line = progressLine({
      ...{ phase: 'sending', totalBytes: total, doneBytes: total / 2, comparedBytes: 0, markedBlocks: 1 },
      ...{
        placedBytes: parseSize('4M'),
        sentBytes: 5,
        savedBytes: parseSize('4M'),
        wireBytes: 100,
        seconds: 1,
      },
      ...{ bytesPerSecond: parseSize('1M'), secondsLeft: 5 },
    });
    expect(line).toBe(
      'sending     ██████████░░░░░░░░░░  50%  1.00 MiB/s  0:05 left  placed 4.00 MiB  saved 4.00 MiB  wire 100 bytes',
    );
  });
});
