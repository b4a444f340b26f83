import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { openUnit } from '../../../src/lu/open-unit.ts';
import { serveControl } from '../../../src/protect/group/control.ts';
import { holdDisk } from '../../../src/protect/group/hold-disk.ts';
import { hostReplica } from '../../../src/protect/replica/host.ts';
import { temporary } from '../../tools.ts';
import { hosting, madeGroup, run, startAccess } from './commands.ts';
import { diskDifference, shapes } from './groups.ts';

it('an access is kept when it is promoted', async () => {
  const folder = temporary();
  const { file, model, middle } = await madeGroup(folder, 23);
  const host = await hosting('a living owner', file);
  const access = await startAccess(file.path, '--at', 'middle', '-U', folder);
  const { uri } = access.open.exports.find(({ disk }) => disk === 'data')!;
  const unit = await openUnit(uri, { write: true });
  await unit.write(70_000, Buffer.alloc(5000, 0x5a));
  await unit.close();
  const promoted = await run('access', file.path, '--promote');
  expect(promoted).toMatchObject({ status: 0, stderr: '' });
  expect(await access.ended).toMatchObject({ status: 0 });
  const expected = Buffer.from(model.at(middle, 'data'));
  expected.fill(0x5a, 70_000, 75_000);
  const { path } = file.replica!.disks.find(({ name }) => name === 'data')!;
  expect(readFileSync(path).equals(expected)).toBe(true);
  expect((await run('points', file.path)).stdout).toContain('production (failed over)');
  expect(await run('access', file.path, '--promote')).toMatchObject({ status: 2 });
  await host?.close();
});

it('a failover brings all disks to a point; unless they were used, everything can be taken back', async () => {
  const folder = temporary();
  const { file, model, middle } = await madeGroup(folder, 24);
  const host = await hosting('no process', file);
  const over = await run('failover', file.path, '--at', 'middle', '--json');
  expect(JSON.parse(over.stdout)).toMatchObject({ sequence: middle, wasConsistent: true });
  expect(diskDifference(file, model, middle)).toBeNull();
  expect(await run('failover', file.path)).toMatchObject({ status: 2 });
  const back = await run('failback', file.path, '--finish');
  expect(back.stdout).toContain('all its points are still there');
  const { ranges } = JSON.parse((await run('points', file.path, '--json')).stdout);
  expect(ranges.at(-1).to.sequence).toBe(middle);
  expect(await run('failover', file.path)).toMatchObject({ status: 0 });
  const { path } = file.replica!.disks.find(({ name }) => name === 'data')!;
  const used = readFileSync(path);
  used[5] = used[5]! ^ 1;
  writeFileSync(path, used);
  expect((await run('roll', file.path, '--to', '3')).status).toBe(2);
  // A splitter still serves them.
  const release = holdDisk(path);
  const refused = await run('failback', file.path, '--finish');
  expect(refused).toMatchObject({ status: 2 });
  expect(refused.stderr).toContain('used by another splitter');
  release();
  expect((await run('failback', file.path, '--finish')).stdout).toContain('made anew');
  await host?.close();
  const next = await hostReplica(file);
  expect(next.group.state()).toMatchObject({ role: 'replica', consistent: false, last: { sequence: 0 } });
  expect(readFileSync(path).equals(used)).toBe(true);
  await next.close();
});

it('a bookmark goes through production where that runs on this host', async () => {
  const folder = temporary();
  const { file } = await madeGroup(folder, 25);
  const group = JSON.parse(readFileSync(file.path, 'utf8'));
  const disks = Object.fromEntries(
    shapes.map(({ name }) => [name, { disk: `p/${name}`, socket: `p/${name}.sock` }]),
  );
  const path = join(folder, 'both.json');
  writeFileSync(path, JSON.stringify({ ...group, production: { state: 'state', disks } }));
  mkdirSync(join(folder, 'state'));
  const asked: unknown[] = [];
  const production = await serveControl(join(folder, 'state', 'control.sock'), {
    'POST /bookmark': ({ body }) => {
      asked.push(body);
      return { name: 'x', sequence: 7, time: 0 };
    },
  });
  expect((await run('bookmark', path, 'x', '--application')).stdout).toContain('bookmarked: x  1970-01-01T');
  expect(asked).toEqual([{ name: 'x', consistency: 'application' }]);
  await production.close();
  const reversed = await run(
    'failback',
    path,
    '--reverse',
    join(folder, 'back.json'),
    '--replica',
    'ssh://a/b.json',
  );
  expect(reversed).toMatchObject({ status: 0, stderr: '' });
  const back = JSON.parse(readFileSync(join(folder, 'back.json'), 'utf8'));
  expect(back).toEqual({
    group: 'web',
    production: {
      state: 'journal.production',
      disks: {
        system: { disk: 'replica/system.raw', socket: 'journal.production/system.sock' },
        data: { disk: 'replica/data.raw', socket: 'journal.production/data.sock' },
      },
      replica: 'ssh://a/b.json',
    },
    replica: { journal: 'state.journal', disks: { system: 'p/system', data: 'p/data' } },
  });
  const elsewhere = await run('failback', path, '--reverse', join(temporary(), 'back.json'));
  expect(elsewhere.stderr).toContain('expected a file in');
});
