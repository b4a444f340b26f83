import { join } from 'node:path';
import { expect, it } from 'vitest';
import { askControl } from '../../../src/protect/group/control.ts';
import { replicaSocket } from '../../../src/protect/replica/host.ts';
import { temporary } from '../../tools.ts';
import { hosting, madeGroup } from './commands.ts';

it('questions that are wrong are refused by name, and change nothing', async () => {
  const folder = temporary();
  const { file, model } = await madeGroup(folder, 28);
  const host = await hosting('a living owner', file);
  const socket = replicaSocket(file);
  for (const [name, body, reason] of [
    ['POST /roll', {}, 'request: to: expected a value'],
    ['POST /roll', { to: 3 }, 'request: to: expected a text'],
    ['POST /roll', { to: 'latest', fast: true }, 'request: fast: no such field'],
    ['POST /bookmark', { name: 'x'.repeat(300) }, 'expected a text of 1 … 256 bytes'],
    ['POST /bookmark', { name: 'x', consistency: 'perfect' }, 'request: consistency: expected'],
    ['POST /forget', { name: 'none' }, "no bookmark is called 'none'"],
    ['POST /access', { at: 'latest', port: 65_536 }, 'request: port: expected a port'],
    ['POST /access', { at: 'latest', kind: 'real' }, 'request: kind: expected'],
    ['POST /access', { at: 'latest', socketFolder: join(folder, 'none') }, 'there is no folder'],
    ['POST /access', { at: 'latest', overlay: join(folder, 'none'), socketFolder: folder }, 'no such file'],
    ['POST /access/end', { how: 'discard' }, 'no such access is open'],
    ['POST /failover', { force: 'yes' }, 'request: force: expected true or false'],
    ['POST /failback', {}, 'this site is a replica already'],
    ['POST /snapshot', {}, "expected a 'store'"],
    ['POST /restore', { at: 'latest' }, 'request: to: expected a value'],
    ['POST /nothing', {}, 'no such request'],
  ] as const)
    await expect(askControl(socket, name, body), `${name} ${JSON.stringify(body)}`).rejects.toThrow(reason);
  expect(host!.group.state()).toMatchObject({ accesses: [], trouble: [], held: null, role: 'replica' });
  expect(host!.group.journal.state().last).toBe(model.last);
  const metrics = (await askControl(socket, 'GET /metrics'))!.answer as string;
  expect(metrics).toContain(`driftmap_replica_journal_sequence{group="web"} ${model.last}\n`);
  await host!.close();
});
