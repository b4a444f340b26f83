import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { openReplicaGroup } from '../../../src/protect/replica/open-replica.ts';
import type { ReplicaGroup } from '../../../src/protect/replica/replica-group.ts';
import { UndoLog } from '../../../src/protect/replica/undo-log.ts';
import { viewDifference } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { abandon, diskDifference, groupFile, Modelled, until } from './groups.ts';
import { rolled, sameDisks, stateOf, work } from './rolled.ts';

async function endsWholly(how: 'discard' | 'keep', then: 'crash' | 'retry'): Promise<void> {
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
    if (then === 'retry' && failure !== null) {
      const other = how === 'keep' ? 'discard' : 'keep';
      // There is no way back from keeping once it was noted.
      if (how === 'keep' && n > 1)
        await expect(access.end(other), `step ${n} (${last})`).rejects.toThrow('had begun');
      await access.end(how);
    }
    abandon(group);
    const next = await openReplicaGroup(file);
    if (then === 'retry') expect(next.warnings, `step ${n} (${last})`).toEqual([]);
    if (next.state().role === 'production') {
      expect(how, `step ${n} (${last})`).toBe('keep');
      expect(sameDisks(file, worked), `step ${n} (${last}): what was written is there`).toBe(true);
    } else {
      await until('the disks follow', () => next.state().lag.records === 0);
      expect(diskDifference(file, model, model.last), `step ${n} (${last})`).toBeNull();
      // Once it had been noted that it is kept, it is kept.
      if (how === 'keep') expect([n, then], `step ${n} (${last})`).toEqual([1, 'crash']);
    }
    for (const sequence of [1, middle - 2, middle])
      expect(await viewDifference(next.journal, model, sequence), `step ${n} (${last})`).toBeNull();
    expect(next.record.rolled).toBeNull();
    await next.close();
  }
  expect(steps).toBeGreaterThan(how === 'keep' ? 6 : 3);
}

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
    await endsWholly(how, 'crash');
  });
});

describe('whatever step fails', () => {
  it.each(['discard', 'keep'] as const)(
    'ending a rolled access by %s once more ends it wholly',
    async (how) => {
      await endsWholly(how, 'retry');
    },
  );
});
