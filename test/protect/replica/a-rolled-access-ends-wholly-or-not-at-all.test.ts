import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import type { GroupFile } from '../../../src/protect/group/group-file.ts';
import { type Access, startAccess } from '../../../src/protect/replica/access.ts';
import { openReplicaGroup } from '../../../src/protect/replica/open-replica.ts';
import type { ReplicaGroup } from '../../../src/protect/replica/replica-group.ts';
import { UndoLog } from '../../../src/protect/replica/undo-log.ts';
import { viewDifference } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { abandon, diskBytes, diskDifference, groupFile, Modelled, shapes, until } from './groups.ts';

/** Writes of a guest, and the disks as they are with them. */
async function work(access: Access, group: ReplicaGroup, before: ReadonlyMap<string, Uint8Array>) {
  const { units } = access;
  const after = new Map([...before].map(([name, bytes]) => [name, bytes.slice()]));
  for (const [i, { name, size }] of shapes.entries()) {
    const unit = units.get(name)!;
    for (const at of [0, 70_000 + i, size - 3000]) {
      await unit.write(at, Buffer.alloc(3000, 0xee - i));
      after.get(name)!.fill(0xee - i, at, at + 3000);
    }
    await unit.zero({ offset: 140_000, length: 20_000 });
    after.get(name)!.fill(0, 140_000, 160_000);
  }
  expect(group.state().accesses[0]!.writtenBytes).toBeGreaterThan(0);
  return after;
}

function stateOf(modelled: Modelled, sequence: number) {
  return new Map(shapes.map(({ name }) => [name, modelled.model.at(sequence, name)]));
}

const sameDisks = (file: GroupFile, state: ReadonlyMap<string, Uint8Array>) =>
  [...state].every(([name, bytes]) => Buffer.compare(diskBytes(file, name), bytes) === 0);

const rolled = (group: ReplicaGroup, sequence: number, folder: string) =>
  startAccess(group, {
    at: String(sequence),
    kind: 'rolled',
    place: { socketFolder: folder },
  });

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
    expect(await access.end('keep')).toBe('keep');
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

/** Makes the n-th of these steps fail, counted over all of them. */
function failAt(group: ReplicaGroup, n: number): { readonly steps: string[] } {
  const steps: string[] = [];
  const plant = (target: object, name: string) => {
    const real = (target as Record<string, (...args: unknown[]) => unknown>)[name]!.bind(target);
    vi.spyOn(target as Record<string, () => unknown>, name).mockImplementation((...args: unknown[]) => {
      steps.push(name);
      if (steps.length === n) throw new Error(`planted at step ${n}: ${name}`);
      return real(...args);
    });
  };
  for (const name of ['promote', 'append', 'apply', 'rollTo']) plant(group.journal, name);
  plant(group, 'update');
  for (const disk of group.disks.values()) {
    plant(disk.unit, 'write');
    plant(disk.unit, 'flush');
  }
  const { restore, remove } = UndoLog.prototype;
  const step = (name: string) => {
    steps.push(name);
    if (steps.length === n) throw new Error(`planted at step ${n}: ${name}`);
  };
  vi.spyOn(UndoLog.prototype, 'restore').mockImplementation(function (this: UndoLog) {
    step('restore');
    return restore.call(this);
  });
  vi.spyOn(UndoLog.prototype, 'remove').mockImplementation(function (this: UndoLog) {
    step('remove');
    remove.call(this);
  });
  return { steps };
}

describe('whatever step a crash comes at', () => {
  it.each(['discard', 'keep'] as const)('a rolled access that ends by %s ends wholly', async (how) => {
    let steps = 0;
    for (let n = 1; n === 1 || n <= steps + 1; n++) {
      const folder = join(temporary(), String(n));
      const file = groupFile(folder);
      const modelled = await Modelled.create(file, 11);
      const { group, model } = modelled;
      await modelled.write(8);
      const middle = await modelled.bookmark('middle');
      await modelled.write(8);
      const access = await rolled(group, middle, folder);
      const worked = await work(access, group, stateOf(modelled, middle));
      const planted = failAt(group, n);
      const failure = await access.end(how).then(
        () => null,
        (error: Error) => error,
      );
      vi.restoreAllMocks();
      steps = Math.max(steps, planted.steps.length);
      if (failure !== null) expect(failure.message).toContain('planted');
      const last = planted.steps.at(-1);
      abandon(group);
      const next = await openReplicaGroup(file);
      if (next.state().role === 'production') {
        expect(how, `step ${n} (${last})`).toBe('keep');
        expect(sameDisks(file, worked), `step ${n} (${last}): what was written is there`).toBe(true);
      } else {
        await until('the disks follow', () => next.state().lag.records === 0);
        expect(diskDifference(file, model, model.last), `step ${n} (${last})`).toBeNull();
        // Once it had been noted that it is kept, it is kept.
        if (how === 'keep') expect(n, `step ${n} (${last})`).toBeLessThanOrEqual(1);
      }
      for (const sequence of [1, middle - 2, middle])
        expect(await viewDifference(next.journal, model, sequence), `step ${n} (${last})`).toBeNull();
      expect(next.record.rolled).toBeNull();
      await next.close();
    }
    expect(steps).toBeGreaterThan(how === 'keep' ? 6 : 3);
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
