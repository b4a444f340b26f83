import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
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
    mkdirSync(join(folder, 'store'));
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
    mkdirSync(join(folder, 'store'));
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

  it('go into no folder that was their store and is empty: its disk is not mounted', async () => {
    const folder = temporary();
    const store = join(folder, 'store');
    const file = groupFile(folder, { snapshots: { store: 'store' } });
    const modelled = await Modelled.create(file, 49);
    await modelled.group.close();
    // Nor is one made where there never was a folder.
    expect((await run('snapshots', 'take', file.path)).stderr).toMatch(/no such folder: make it/);
    expect(existsSync(store)).toBe(false);
    mkdirSync(store);
    expect(await run('snapshots', 'take', file.path)).toMatchObject({ status: 0, stderr: '' });
    renameSync(store, join(folder, 'unmounted'));
    mkdirSync(store);
    const refused = await run('snapshots', 'take', file.path);
    expect(refused.status).toBe(2);
    expect(refused.stderr).toMatch(/no repository of snapshots here any more.*mount the disk that holds it/);
    expect(readdirSync(store)).toEqual([]);
    // The schedule does not make one either; and a journal that is made anew remembers.
    const host = await hostReplica(groupFile(folder, { snapshots: { store: 'store', every: '1s' } }));
    await until('it is told', () => /mount the disk/.test(host.snapshots.state().trouble ?? ''));
    host.group.update({ renewing: true });
    await host.close();
    expect((await run('snapshots', 'take', file.path)).stderr).toMatch(/mount the disk/);
    expect(readdirSync(store)).toEqual([]);
    // Mounted again, it goes on; and somebody may begin anew.
    renameSync(store, join(folder, 'empty'));
    renameSync(join(folder, 'unmounted'), store);
    const again = await hostReplica(file);
    await again.group.resume();
    expect(await again.snapshots.take()).toMatchObject({ blocksSent: 0 });
    await again.close();
    renameSync(store, join(folder, 'unmounted'));
    mkdirSync(store);
    expect(await run('snapshots', 'init', store)).toMatchObject({ status: 0 });
    expect(await run('snapshots', 'take', file.path)).toMatchObject({ status: 0 });
  });
});
