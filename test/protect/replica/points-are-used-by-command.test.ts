import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openUnit } from '../../../src/lu/open-unit.ts';
import { describeWith, temporary } from '../../tools.ts';
import { bytesOf, hosting, madeGroup, owners, run, startAccess } from './commands.ts';
import { diskDifference, shapes, until } from './groups.ts';

describe.each(owners)('with %s', (owner) => {
  it('points are listed, bookmarked, forgotten and rolled to', async () => {
    const folder = temporary();
    const { file, model, middle } = await madeGroup(folder, 21);
    const host = await hosting(owner, file);
    const listed = await run('points', file.path);
    expect(listed.stderr).toBe('');
    expect(listed.status).toBe(0);
    expect(listed.stdout).toContain(`middle  crash-consistent, sequence ${middle}`);
    expect(listed.stdout).toContain('━');
    const { ranges } = JSON.parse((await run('points', file.path, '--json')).stdout);
    expect(ranges).toMatchObject([{ from: { sequence: 1 }, to: { sequence: model.last } }]);
    const named = await run('bookmark', file.path, 'now', '--application', '--json');
    expect(JSON.parse(named.stdout)).toMatchObject({ name: 'now', sequence: model.last + 1 });
    expect(await run('bookmark', file.path, 'now')).toMatchObject({ status: 2 });
    expect((await run('points', file.path)).stdout).toContain('application-consistent');
    expect(await run('bookmark', file.path, 'now', '--forget')).toMatchObject({ status: 0 });
    const back = await run('roll', file.path, '--to', 'middle');
    expect(back).toMatchObject({ status: 0, stderr: '' });
    expect(back.stdout).toContain(`sequence ${middle}`);
    expect(diskDifference(file, model, middle)).toBeNull();
    const time = JSON.parse((await run('roll', file.path, '--to', '2126-01-01', '--json')).stdout);
    expect(time).toMatchObject({ sequence: model.last + 2, follows: false });
    expect(diskDifference(file, model, model.last)).toBeNull();
    expect(await run('roll', file.path, '--to', 'latest', '--json')).toMatchObject({ status: 0 });
    for (const [to, reason] of [
      ['1999-01-01', 'no point is as old'],
      ['nothing', "a bookmark (there are: 'middle')"],
      ['999999', 'no point has sequence'],
      ['bookmark:12', "no bookmark is called '12'"],
    ]) {
      const refused = await run('roll', file.path, '--to', to!);
      expect(refused.status).toBe(2);
      expect(refused.stderr).toContain(reason);
    }
    await host?.close();
  });

  it('any point is accessed, virtually and rolled, and what is written is discarded', async () => {
    const folder = temporary();
    const { file, model, middle } = await madeGroup(folder, 22);
    const host = await hosting(owner, file);
    for (const [kind, sequence] of [
      ['virtual', middle],
      ['virtual', 5],
      ['rolled', middle],
    ] as const) {
      const how = kind === 'rolled' ? ['--rolled'] : [];
      const access = await startAccess(file.path, '--at', String(sequence), '-U', folder, ...how);
      expect(access.open.sequence).toBe(sequence);
      for (const { name, size } of shapes) {
        const { uri } = access.open.exports.find(({ disk }) => disk === name)!;
        expect((await bytesOf(uri, size)).equals(model.at(sequence, name))).toBe(true);
        const unit = await openUnit(uri, { write: true });
        await unit.write(1000, Buffer.alloc(5000, 0x5a));
        await unit.flush();
        await unit.close();
        expect((await bytesOf(uri, size)).subarray(1000, 6000).every((byte) => byte === 0x5a)).toBe(true);
      }
      access.child.kill('SIGINT');
      const ended = await access.ended;
      expect(ended).toMatchObject({ status: 0, stderr: '' });
      expect(JSON.parse(ended.stdout.trim().split('\n')[1]!)).toMatchObject({ ended: 'discard' });
    }
    expect(await run('roll', file.path, '--to', 'latest')).toMatchObject({ status: 0 });
    expect(diskDifference(file, model, model.last)).toBeNull();
    await host?.close();
  });
});

it('an access whose command is killed is discarded by the owner', async () => {
  const folder = temporary();
  const { file, model, middle } = await madeGroup(folder, 27);
  const host = await hosting('a living owner', file);
  const access = await startAccess(file.path, '--at', String(middle), '-U', folder, '--rolled');
  const unit = await openUnit(access.open.exports[0]!.uri, { write: true });
  await unit.write(0, Buffer.alloc(100, 1));
  await unit.close();
  access.child.kill('SIGKILL');
  await access.ended;
  await until(
    'it is discarded',
    () => host!.group.accesses.size === 0 && host!.group.state().lag.records === 0,
  );
  expect(diskDifference(file, model, model.last)).toBeNull();
  await host!.close();
});

describeWith(['nbdcopy', 'nbdinfo'], 'other clients read a point', () => {
  it('nbdcopy copies each disk as it was', async () => {
    const folder = temporary();
    const { file, model, middle } = await madeGroup(folder, 26);
    const access = await startAccess(file.path, '--at', 'middle', '--listen', '127.0.0.1:0');
    for (const { name } of shapes) {
      const { uri } = access.open.exports.find(({ disk }) => disk === name)!;
      const copy = join(folder, `${name}.copy`);
      const status = await new Promise((resolve) =>
        spawn('nbdcopy', [uri, copy], { stdio: 'inherit' }).on('close', resolve),
      );
      expect(status).toBe(0);
      expect(readFileSync(copy).equals(model.at(middle, name))).toBe(true);
    }
    access.child.kill('SIGTERM');
    expect(await access.ended).toMatchObject({ status: 0 });
  });
});
