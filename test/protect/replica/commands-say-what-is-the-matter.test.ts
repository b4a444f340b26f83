/** What a person reads who has a bad day: one line with the cause, and what is left. */

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporary } from '../../tools.ts';
import { run } from './commands.ts';
import { groupFile, Modelled, shapes } from './groups.ts';

const lines = (text: string) => text.split('\n').filter((line) => line !== '');

describe('a group on a bad day', () => {
  it('says before the first connection that there is no journal yet', async () => {
    const file = groupFile(temporary());
    for (const words of [['points'], ['restore', '--at', 'latest', '--to', 'x']]) {
      const [verb, ...rest] = words;
      const { status, stderr } = await run(verb!, file.path, ...rest);
      expect(status).toBe(2);
      expect(stderr).toMatch(/there is no journal of group 'web'/);
    }
  });

  it('says in one line why a point is neither here nor there', async () => {
    const folder = temporary();
    const file = groupFile(folder, { snapshots: { store: 'store' } });
    await (await Modelled.create(file, 51)).group.close();
    const at = (point: string) => run('restore', file.path, '--at', point, '--to', join(folder, 'x'));
    const mistyped = await at('befor-upgrade');
    expect(lines(mistyped.stderr)).toHaveLength(1);
    expect(mistyped.stderr).toMatch(/expected a time .* got 'befor-upgrade'/);
    const old = await at('2001-01-01');
    expect(lines(old.stderr)).toHaveLength(1);
    expect(old.stderr).toMatch(/no point is as old as .*; nor from a snapshot: .*no such folder/);
    mkdirSync(join(folder, 'store'));
    expect((await at('2001-01-01')).stderr).toMatch(/nor from a snapshot: .*no repository of snapshots/);
  });

  it('sends to the snapshots only who looks for a point that is not here, and makes the folder of sockets', async () => {
    const folder = temporary();
    const file = groupFile(folder, { snapshots: { store: 'store' } });
    await (await Modelled.create(file, 52)).group.close();
    const look = (point: string, ...words: string[]) => run('access', file.path, '--at', point, ...words);
    const sockets = join(folder, 'look');
    expect((await look('2001-01-01', '-U', sockets)).stderr).toMatch(/a snapshot may have it/);
    expect(statSync(sockets).mode % 0o1000).toBe(0o700);
    const nowhere = await look('latest', '-U', join(folder, 'not', 'there'));
    expect(nowhere).toMatchObject({ status: 2 });
    expect(nowhere.stderr).not.toMatch(/a snapshot may have it/);
    expect(existsSync(join(folder, 'not'))).toBe(false);
  });

  it('says of the latest point that writes after it are missing, and takes a snapshot of any point', async () => {
    const folder = temporary();
    const file = groupFile(folder, { snapshots: { store: 'store' } });
    mkdirSync(join(folder, 'store'));
    const modelled = await Modelled.create(file, 53);
    await modelled.write(4);
    const to = (name: string) => ['--to', join(folder, name)];
    await modelled.group.suspend('the link is down');
    await modelled.group.close();
    const restored = await run('restore', file.path, '--at', 'latest', ...to('a'));
    expect(restored).toMatchObject({ status: 0 });
    expect(restored.stderr).toMatch(/not the present: .* are missing \(the link is down\)/);
    expect((await run('restore', file.path, '--at', '3', ...to('b'))).stderr).toBe('');
    const taken = await run('snapshots', 'take', file.path, '--at', '3', '--json');
    expect(JSON.parse(taken.stdout)).toMatchObject({ sequence: 3 });
    expect((await run('snapshots', 'take', 'store', 'a.raw', '--at', '3')).stderr).toMatch(/group's file/);
  });

  it('gives what a damaged journal has left, and changes nothing', async () => {
    const folder = temporary();
    const file = groupFile(folder);
    const modelled = await Modelled.create(file, 54);
    await modelled.write(10);
    await modelled.group.journal.apply();
    await modelled.group.close();
    const journal = join(folder, 'journal');
    const name = readdirSync(journal)
      .filter((one) => one.startsWith('undo.meta'))
      .sort()
      .at(-1)!;
    const bytes = readFileSync(join(journal, name));
    bytes[64 + 8]! ^= 1;
    writeFileSync(join(journal, name), bytes);
    const points = await run('points', file.path, '--json');
    expect(points).toMatchObject({ status: 0, stderr: expect.stringMatching(/not used/) });
    const { last } = modelled.model;
    expect(JSON.parse(points.stdout).ranges.at(-1).to.sequence).toBe(last);
    const to = join(folder, 'restored');
    expect(await run('restore', file.path, '--at', 'latest', '--to', to)).toMatchObject({ status: 0 });
    for (const { name: disk } of shapes)
      expect(readFileSync(join(to, `${disk}.raw`)).equals(modelled.model.at(last, disk))).toBe(true);
    // What would have to write says where the damage is.
    const rolled = await run('roll', file.path, '--to', 'latest');
    expect(rolled).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/undo\.meta\.\d+.*at offset 64/),
    });
    expect(readFileSync(join(journal, name)).equals(bytes)).toBe(true);
  });
});
