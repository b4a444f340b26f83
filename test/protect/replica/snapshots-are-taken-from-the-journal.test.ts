import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hostReplica } from '../../../src/protect/replica/host.ts';
import type { Model } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { run } from './commands.ts';
import { groupFile, Modelled, shapes, sizes, until } from './groups.ts';

function difference(folder: string, model: Model, sequence: number): string | null {
  for (const { name } of shapes)
    if (!readFileSync(join(folder, `${name}.raw`)).equals(model.at(sequence, name)))
      return `'${name}' is not as of ${sequence}`;
  return null;
}

describe('snapshots of a group', () => {
  it('are taken from the journal: the first reads the disks, others only what changed', async () => {
    const folder = temporary();
    const file = groupFile(folder, { snapshots: { store: 'store' } });
    await (await Modelled.create(file, 41)).group.close();
    const host = await hostReplica(file);
    const modelled = new Modelled(host.group, 42);
    modelled.model.mark();
    await modelled.write(30);
    const first = await host.snapshots.take();
    expect(first).toMatchObject({ parent: null, changedBytes: null });
    expect(first.point).toMatchObject({ sequence: modelled.model.last, bookmark: null });
    await modelled.group.append([{ disk: 'data', offset: 1000, bytes: Buffer.alloc(10, 7) }]).durable;
    modelled.model.write({ disk: 'data', offset: 1000, bytes: Buffer.alloc(10, 7) });
    const named = await modelled.bookmark('named');
    await modelled.write(5);
    const second = await host.snapshots.take({ at: 'named' });
    expect(second).toMatchObject({ parent: first.id, bytesScanned: 0 });
    expect(second.point).toMatchObject({ sequence: named, bookmark: 'named', consistency: 'crash' });
    // One block of the repository.
    expect(second.bytesRead).toBe(Math.min(256 * 1024, sizes.get('data')!));
    const third = await host.snapshots.take();
    expect(third).toMatchObject({ parent: second.id, bytesScanned: 0 });
    // A cut of history: the same sequences may mean other writes.
    host.group.update({ history: 'f'.repeat(32) });
    const other = await host.snapshots.take();
    expect(other).toMatchObject({ parent: null, blocksSent: 0 });
    expect(host.snapshots.state()).toMatchObject({ running: false, trouble: null, last: { id: other.id } });
    await host.close();
    for (const [what, sequence] of [
      [first.id, first.point.sequence],
      [second.id, named],
      [third.id, third.point.sequence],
    ] as const) {
      const to = join(folder, String(sequence));
      const restored = await run('snapshots', 'restore', file.path, what.slice(0, 12), '--to', to, '-q');
      expect(restored).toMatchObject({ status: 0, stderr: '' });
      expect(difference(to, modelled.model, sequence)).toBeNull();
    }
  });

  it('are taken by schedule, when there is something new, and as many are kept as is said', async () => {
    const folder = temporary();
    const file = groupFile(folder, { snapshots: { store: 'store', every: '1s', keep: { last: 1 } } });
    await (await Modelled.create(file, 43)).group.close();
    const host = await hostReplica(file);
    const modelled = new Modelled(host.group, 44);
    modelled.model.mark();
    const taken = () => host.snapshots.state().last?.point.sequence;
    await until('the first is there', () => taken() === 1, 15_000);
    await modelled.write(3);
    await until('the second is there', () => taken() === modelled.model.last, 15_000);
    const { id } = host.snapshots.state().last!;
    await host.close();
    const listed = JSON.parse((await run('snapshots', 'list', file.path, '--json')).stdout);
    const ids = (Array.isArray(listed) ? listed : listed.snapshots).map((one: { id: string }) => one.id);
    expect(ids).toEqual([id]);
  });

  it('are not taken into nothing, and a store that fails is told and tried again', async () => {
    const folder = temporary();
    const bare = groupFile(join(folder, 'bare'));
    const { group } = await Modelled.create(bare, 45);
    await group.close();
    expect((await run('snapshots', 'take', bare.path)).stderr).toContain("expected a 'store'");
    writeFileSync(join(folder, 'in-the-way'), 'a file');
    const file = groupFile(folder, { snapshots: { store: 'in-the-way', every: '1s' } });
    await (await Modelled.create(file, 46)).group.close();
    const host = await hostReplica(file);
    await until('it is told', () => host.snapshots.state().trouble !== null);
    expect(host.snapshots.state().last).toBeNull();
    await host.close();
  });
});
