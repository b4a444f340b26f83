/** Real processes: `driftmap protect` without a replica, a guest that writes through its export, and `driftmap sync --live`. */

import { type ChildProcess, spawn } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import { loadState, statePath } from '../../../src/sync/state-file.ts';
import { randomOf } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { run } from '../nbd-peers.ts';
import { command, Protected } from './processes.ts';
import { makeFile } from './site.ts';

const folder = temporary();
const SIZE = 12 * MiB;
const PAGE = 4 * KiB;
const driftmap = (...args: string[]) => run(process.execPath, [command, ...args]);
const children = new Set<ChildProcess>();
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});

/** A group of two disks that has no replica. */
function group(name: string): Protected {
  const shapes = [
    { name: 'system', size: SIZE },
    { name: 'data', size: 1 * MiB },
  ];
  const made = new Protected(join(folder, name), shapes);
  const { group: called, production } = JSON.parse(readFileSync(made.file, 'utf8')) as {
    group: string;
    production: object;
  };
  writeFileSync(made.file, JSON.stringify({ group: called, production }));
  return made;
}

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Writes, zeroes and discards until it is to be quiet; several requests are under way at a time. */
async function guest(group: Protected, seed: number, isOver: () => boolean): Promise<void> {
  const random = randomOf(seed);
  const unit = await group.client('system');
  const one = async () => {
    while (!isOver()) {
      const length = PAGE * (1 + random(random(8) === 0 ? 100 : 4));
      const offset = PAGE * random(Math.floor((SIZE - length) / PAGE) + 1);
      if (random(6) === 0) await unit.zero({ offset, length });
      else await unit.write(offset, Buffer.alloc(length, 1 + random(255)));
      // Now and then in the middle of a page.
      if (random(4) === 0) await unit.write(offset + random(2000), Buffer.alloc(1 + random(500), 7));
      await sleep(random(40));
    }
  };
  await Promise.all([one(), one(), one()]);
  await unit.close();
}

/** Words of a sync whose guest is stopped for the last pass, and lives on after it. */
function words(at: string): { readonly args: string[]; isOver(): boolean; quiet(): void } {
  const [stop, quiet] = [`${at}.stop`, `${at}.quiet`];
  const quiesce = `touch ${stop}; while [ ! -e ${quiet} ]; do sleep 0.02; done`;
  return {
    args: ['--live-until', '512K', '--quiesce', quiesce, '--json'],
    isOver: () => existsSync(stop),
    quiet: () => writeFileSync(quiet, ''),
  };
}

function start(...args: string[]): {
  child: ChildProcess;
  ended: Promise<{ status: number | null; err: string }>;
} {
  const child = spawn(process.execPath, [command, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
  children.add(child);
  let err = '';
  child.stderr.on('data', (text) => {
    err += text;
  });
  const ended = new Promise<{ status: number | null; err: string }>((resolve) =>
    child.once('exit', (status) => {
      children.delete(child);
      resolve({ status, err });
    }),
  );
  return { child, ended };
}

describe('a sync that follows a splitter', () => {
  it('ends equal, round after round, whether it reads the disk or the export', async () => {
    const vm = group('rounds');
    await vm.start();
    for (let seed = 1; seed <= 4; seed++) {
      const replica = makeFile(join(vm.folder, `copy-${seed}`), SIZE);
      const { args, isOver, quiet } = words(replica);
      const writing = guest(vm, seed, isOver).then(quiet);
      await sleep(50);
      const production = seed % 2 === 0 ? vm.url('system') : vm.disk('system');
      const live = seed % 3 === 0 ? `${vm.file}:disk=system` : vm.file;
      const done = await driftmap('sync', production, replica, '--live', live, ...args);
      await writing;
      expect([seed, done.status, done.stderr]).toEqual([seed, 0, expect.stringMatching(/last pass/)]);
      const told = JSON.parse(done.stdout) as { consistent: boolean; passes: number };
      expect(told.consistent).toBe(true);
      expect(told.passes).toBeGreaterThan(1);
      expect(readFileSync(vm.disk('system')).equals(readFileSync(replica)), `seed ${seed}`).toBe(true);
      expect(loadState(statePath(replica))!.status).toBe('consistent');
      expect((await vm.state()).disks.map(({ watches }) => watches)).toEqual([[], []]);
    }
    expect(await vm.end('SIGTERM')).toBe(0);
  });

  it('does not disturb another that follows the same disk', async () => {
    const vm = group('two');
    await vm.start();
    const copies = ['a', 'b'].map((name) => makeFile(join(vm.folder, name), SIZE));
    const ways = copies.map((copy) => words(copy));
    const writing = guest(vm, 77, () => ways.every(({ isOver }) => isOver()));
    const syncs = copies.map((copy, i) =>
      driftmap('sync', vm.disk('system'), copy, '--live', vm.file, ...ways[i]!.args),
    );
    await Promise.all(ways.map(({ isOver }) => until(isOver)));
    await writing;
    for (const { quiet } of ways) quiet();
    for (const { status, stdout } of await Promise.all(syncs)) {
      expect([status, JSON.parse(stdout)]).toEqual([0, expect.objectContaining({ consistent: true })]);
    }
    for (const copy of copies) expect(readFileSync(vm.disk('system')).equals(readFileSync(copy))).toBe(true);
    expect(await vm.end('SIGTERM')).toBe(0);
  });

  it('says without --quiesce that it is not consistent, and with a writer that goes on too', async () => {
    const vm = group('loud');
    await vm.start();
    const replica = makeFile(join(vm.folder, 'copy'), SIZE);
    let over = false;
    const writing = guest(vm, 5, () => over);
    const args = ['sync', vm.disk('system'), replica, '--live', vm.file];
    expect(await driftmap(...args)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('not made quiet'),
    });
    const loud = await driftmap(...args, '--quiesce', 'true', '--json');
    expect([loud.status, JSON.parse(loud.stdout)]).toEqual([
      1,
      expect.objectContaining({ consistent: false }),
    ]);
    over = true;
    await writing;
    await vm.end('SIGTERM');
  });
});

async function until(isTrue: () => boolean): Promise<void> {
  for (const end = performance.now() + 30_000; !isTrue(); await sleep(10))
    if (performance.now() > end) throw new Error('it does not come true');
}

describe('marks of a splitter', () => {
  it.each([
    ['is killed', 'SIGKILL', false],
    ['is stopped', 'SIGTERM', false],
    ['is killed and started anew', 'SIGKILL', true],
  ] as const)(
    'are lost when it %s: the sync ends, and the replica is not called consistent',
    async (_, signal, anew) => {
      const vm = group(`lost-${signal}-${anew}`);
      await vm.start();
      const unit = await vm.client('system');
      await unit.write(0, Buffer.alloc(MiB, 3));
      await unit.close();
      const replica = makeFile(join(vm.folder, 'copy'), SIZE);
      const { args, isOver, quiet } = words(replica);
      const { ended } = start('sync', vm.disk('system'), replica, '--live', vm.file, ...args);
      await until(isOver);
      await vm.end(signal);
      if (anew) await vm.start();
      quiet();
      const { status, err } = await ended;
      expect([status, err]).toEqual([
        2,
        expect.stringMatching(/the splitter's marks are lost \(.*\); .*begin the sync again/),
      ]);
      expect(loadState(statePath(replica))!.status).toBe('synchronizing');
      if (!anew) return;
      // The next one goes on from there.
      expect(
        (await driftmap('sync', vm.disk('system'), replica, '--live', vm.file, '--quiesce', 'true')).status,
      ).toBe(0);
      await vm.end('SIGTERM');
    },
  );

  it('are gone with the sync that was killed, and state shows whose they are', async () => {
    const vm = group('orphan');
    await vm.start();
    const replica = makeFile(join(vm.folder, 'copy'), SIZE);
    const { args, isOver, quiet } = words(replica);
    const { child, ended } = start('sync', vm.disk('system'), replica, '--live', vm.file, ...args);
    await until(isOver);
    const state = await vm.state();
    expect(state.disks[0]!.watches).toEqual([expect.objectContaining({ takes: 1 })]);
    expect((await driftmap('protect', vm.file, '--status')).stdout).toMatch(
      /^ {4}watched since \S+, 0 bytes written after take 1$/m,
    );
    child.kill('SIGKILL');
    await ended;
    quiet();
    await vm.until(({ disks }) => disks[0]!.watches.length === 0, 'gone', 5);
    await vm.end('SIGTERM');
  });
});

describe('a sync that is stopped', () => {
  it('lets go of its watch, and waits for no splitter that is frozen', async () => {
    const vm = group('frozen');
    await vm.start();
    const splitter = vm.child!;
    const replica = makeFile(join(vm.folder, 'copy'), SIZE);
    const { args, isOver, quiet } = words(replica);
    const { child, ended } = start('sync', vm.disk('system'), replica, '--live', vm.file, ...args);
    await until(isOver);
    splitter.kill('SIGSTOP');
    // Its take is not answered.
    quiet();
    await sleep(300);
    expect(child.exitCode).toBe(null);
    child.kill('SIGINT');
    expect((await ended).status).toBe(130);
    splitter.kill('SIGCONT');
    await vm.until(({ disks }) => disks[0]!.watches.length === 0, 'gone', 5);
    await vm.end('SIGTERM');
  });
});

describe('the words of a sync that follows a splitter', () => {
  it('name the disk that is synchronized, or are refused', async () => {
    const vm = group('words');
    const replica = makeFile(join(vm.folder, 'copy'), SIZE);
    const sync = async (production: string, live: string, ...more: string[]) => {
      const { status, stderr } = await driftmap('sync', production, replica, '--live', live, '-q', ...more);
      return `${status} ${stderr}`;
    };
    const disk = vm.disk('system');
    expect(await sync(disk, vm.file)).toMatch(/^2 .*the group is not being protected/);
    await vm.start();
    expect(await sync(disk, `${vm.file}:disk=data`)).toMatch(
      /^2 .*is not the group's disk 'data'.*'system' is/,
    );
    expect(await sync(disk, `${vm.file}:disk=none`)).toMatch(/^2 .*has no disk 'none'/);
    expect(await sync(vm.url('data'), `${vm.file}:disk=system`)).toMatch(
      /^2 .*is not the group's disk 'system'/,
    );
    expect(await sync(makeFile(join(vm.folder, 'other'), SIZE), vm.file)).toMatch(
      /^2 .*is not a disk of the group/,
    );
    expect(await sync(disk, vm.file, '--production-format', 'qcow2')).toMatch(/^2 /);
    expect(await sync(disk, join(vm.folder, 'none.json'))).toMatch(/^2 .*none\.json.*no such file/);
    expect(await sync(disk, replica)).toMatch(/^2 .*expected NBD-URL:bitmap=NAME.*GROUP\.json:disk=NAME/);
    expect(await sync('ssh://replica.example/vm.raw', vm.file)).toMatch(
      /^2 .*expected a production disk here/,
    );
    expect(existsSync(statePath(replica))).toBe(false);
    // By any name of the file.
    mkdirSync(join(vm.folder, 'names'));
    linkSync(disk, join(vm.folder, 'names', 'hard.raw'));
    symlinkSync(disk, join(vm.folder, 'names', 'soft.raw'));
    for (const name of ['hard.raw', 'soft.raw'])
      expect(await sync(join(vm.folder, 'names', name), vm.file, '--quiesce', 'true')).toBe('0 ');
    truncateSync(disk, SIZE + MiB);
    expect(await sync(disk, vm.file, '--resize')).toMatch(/^2 .*expected the 12582912 bytes .* got 13631488/);
    truncateSync(disk, SIZE);
    await vm.end('SIGTERM');
  });
});
