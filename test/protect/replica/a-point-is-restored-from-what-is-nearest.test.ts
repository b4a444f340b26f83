import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { hostReplica } from '../../../src/protect/replica/host.ts';
import { removeJournal } from '../../../src/protect/replica/open-replica.ts';
import { restoreFromJournal } from '../../../src/protect/replica/restore.ts';
import type { Model } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { run } from './commands.ts';
import { groupFile, Modelled, shapes } from './groups.ts';

const HOUR = 3_600_000;

function difference(folder: string, model: Model, sequence: number): string | null {
  for (const { name } of shapes)
    if (!readFileSync(join(folder, `${name}.raw`)).equals(model.at(sequence, name)))
      return `'${name}' is not as of ${sequence}`;
  return null;
}

it('a point is restored from the journal, else from the nearest snapshot not after it', async () => {
  const folder = temporary();
  const file = groupFile(folder, { snapshots: { store: 'store' } });
  mkdirSync(join(folder, 'store'));
  let now = new Date(2026, 2, 1, 12).getTime();
  const modelled = await Modelled.create(file, 47, () => now);
  const { group, model } = modelled;
  await modelled.write(10);
  const early = model.last;
  await group.close();
  const host = await hostReplica(file, { clock: () => now });
  await host.snapshots.take();
  const later = new Modelled(host.group, 48);
  for (const state of model.states.slice(1)) later.model.states.push(state);
  now += HOUR;
  await later.write(10);
  const late = later.model.last;
  const restored = await restoreFromJournal(host.group, { at: String(early - 2), to: join(folder, 'a') });
  expect(restored).toMatchObject({ sequence: early - 2 });
  expect(difference(join(folder, 'a'), later.model, early - 2)).toBeNull();
  await expect(restoreFromJournal(host.group, { at: 'latest', to: join(folder, 'a') })).rejects.toMatchObject(
    { kind: 'policy', path: join(folder, 'a', 'system.raw') },
  );
  await host.close();

  const from = async (at: string, ...more: string[]) => {
    const to = join(folder, `to-${at.replaceAll(/\W/g, '_')}${more.length}`);
    const { status, stdout, stderr } = await run(
      'restore',
      file.path,
      '--at',
      at,
      '--to',
      to,
      '--json',
      ...more,
    );
    return { status, stderr, to, json: status === 0 ? JSON.parse(stdout) : null };
  };
  const journal = await from('2026-03-01T12:30:00');
  expect(journal.json).toMatchObject({ from: 'journal', snapshot: null });
  expect(difference(journal.to, later.model, early)).toBeNull();
  const forced = await from('2026-03-01T12:30:00', '--from', 'snapshots');
  expect(forced.json).toMatchObject({ from: 'snapshot', distance: 30 * 60_000 + 999 });
  expect(difference(forced.to, later.model, early)).toBeNull();
  expect((await from('latest')).json).toMatchObject({ from: 'journal' });

  // The whole replica is lost.
  removeJournal(file.replica!);
  const lost = await from('2026-03-01T13:30:00');
  expect(lost.stderr).toContain('not from the journal');
  expect(lost.json).toMatchObject({ from: 'snapshot', distance: 90 * 60_000 + 999 });
  expect(difference(lost.to, later.model, early)).toBeNull();
  expect(difference(lost.to, later.model, late)).not.toBeNull();
  const before = await from('2026-03-01T11:00:00');
  expect(before).toMatchObject({ status: 2 });
  expect(existsSync(join(before.to, 'system.raw'))).toBe(false);
  expect((await from('2026-03-01T13:30:00', '--from', 'journal')).status).toBe(2);
});
