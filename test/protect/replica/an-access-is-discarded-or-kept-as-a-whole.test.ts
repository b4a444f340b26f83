import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startAccess } from '../../../src/protect/replica/access.ts';
import { openReplicaGroup } from '../../../src/protect/replica/open-replica.ts';
import { viewDifference } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { abandon, diskDifference, groupFile, Modelled, until } from './groups.ts';
import { rolled, sameDisks, stateOf, work } from './rolled.ts';

describe('a rolled access', () => {
  it('that is discarded leaves the disks, the points and what came in meanwhile as if it had not been', async () => {
    const folder = temporary();
    const file = groupFile(folder);
    const modelled = await Modelled.create(file, 5);
    const { group, model } = modelled;
    await modelled.write(20);
    const middle = await modelled.bookmark('middle');
    await modelled.write(20);
    const access = await rolled(group, middle, folder);
    expect(diskDifference(file, model, middle)).toBeNull();
    const worked = await work(access, group, stateOf(modelled, middle));
    expect(sameDisks(file, worked)).toBe(true);
    // Production goes on, and every point reads as ever.
    await modelled.write(10);
    for (const sequence of [1, middle, model.last])
      expect(await viewDifference(group.journal, model, sequence)).toBeNull();
    expect(group.state().held).toContain('somebody works on the disks');
    await expect(rolled(group, middle, folder)).rejects.toMatchObject({ kind: 'policy' });
    expect(await access.end('discard')).toBe('discard');
    expect(existsSync(join(file.replica!.journal, 'access.undo'))).toBe(false);
    await until('the disks follow', () => group.state().lag.records === 0);
    expect(diskDifference(file, model, model.last)).toBeNull();
    await group.close();
  });

  it('that is kept makes the group production with what was written, and every older point still reads', async () => {
    const folder = temporary();
    const file = groupFile(folder);
    const modelled = await Modelled.create(file, 6);
    const { group, model } = modelled;
    await modelled.write(20);
    const middle = await modelled.bookmark('middle');
    await modelled.write(20);
    const access = await rolled(group, middle, folder);
    const worked = await work(access, group, stateOf(modelled, middle));
    const { history } = group.record;
    const told: string[] = [];
    const note = (why: Error) => void told.push(why.message);
    group.follow({ peer: 'production', failed: note, ended: note, recovered: () => undefined });
    const kept = access.end('keep');
    // Nothing of production's comes between.
    await until('the stream is ended', () => told.length > 0);
    expect(() => group.append([{ disk: 'data', offset: 0, zeros: 1 }])).toThrow(
      /takes no stream|failed over/,
    );
    expect(await kept).toBe('keep');
    expect(told).toHaveLength(1);
    expect(sameDisks(file, worked)).toBe(true);
    expect(group.record.history).not.toBe(history);
    expect(group.state()).toMatchObject({ role: 'production', failedOver: { sequence: middle } });
    for (const sequence of [1, middle - 3, middle])
      expect(await viewDifference(group.journal, model, sequence)).toBeNull();
    expect(() => group.append([])).toThrow(/failed over/);
    await group.close();
  });

  it('that a crash ends is discarded at the next opening, which says so', async () => {
    const folder = temporary();
    const file = groupFile(folder);
    const modelled = await Modelled.create(file, 7);
    await modelled.write(20);
    const middle = await modelled.bookmark('middle');
    await modelled.write(20);
    const access = await rolled(modelled.group, middle, folder);
    await work(access, modelled.group, stateOf(modelled, middle));
    abandon(modelled.group);
    const next = await openReplicaGroup(file);
    expect(next.warnings.join()).toContain('what it wrote is discarded');
    await until('the disks follow', () => next.state().lag.records === 0);
    expect(diskDifference(file, modelled.model, modelled.model.last)).toBeNull();
    expect(next.state().role).toBe('replica');
    await next.close();
  });
});

it('a virtual access is up at once, reads its point, and is gone with what was written to it', async () => {
  const folder = temporary();
  const file = groupFile(folder);
  const modelled = await Modelled.create(file, 12);
  const { group, model } = modelled;
  await modelled.write(30);
  const middle = await modelled.bookmark('middle');
  await modelled.write(30);
  const access = await startAccess(group, { at: 'middle', kind: 'virtual', place: { socketFolder: folder } });
  const worked = await work(access, group, stateOf(modelled, middle));
  await modelled.write(10);
  await until('the disks follow all the same', () => group.state().lag.records === 0);
  expect(diskDifference(file, model, model.last)).toBeNull();
  const { units } = access;
  for (const [name, bytes] of worked) {
    const seen = Buffer.alloc(bytes.length);
    await units.get(name)!.read(0, seen);
    expect(seen.equals(bytes)).toBe(true);
  }
  await access.end('discard');
  expect(group.journal.state().last).toBe(model.last);
  expect(readFileSync(join(folder, 'web.json'), 'utf8')).toContain('web');
  const kept = await startAccess(group, { at: 'middle', kind: 'virtual', place: { socketFolder: folder } });
  const again = await work(kept, group, stateOf(modelled, middle));
  await kept.end('keep');
  expect(sameDisks(file, again)).toBe(true);
  for (const sequence of [1, middle]) expect(await viewDifference(group.journal, model, sequence)).toBeNull();
  expect(group.state().role).toBe('production');
  await group.close();
});
