/** Twenty kills at random moments under a load that comes and goes: what was hot is compared, and nothing else. */

import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import type { NbdUnit } from '../../../src/lu/nbd/nbd-unit.ts';
import { randomOf } from '../../journal/disks.ts';
import { temporary } from '../../tools.ts';
import { judged, stampIn } from './judged.ts';
import { differing, Protected } from './processes.ts';

const folder = temporary();
const shapes = [
  { name: 'system', size: 96 * MiB },
  { name: 'data', size: 80 * MiB },
];
const KILLS = 20;

/** Bursts of writes and of discards, and rests between them, until the server goes away. */
async function load(unit: NbdUnit, random: (below: number) => number): Promise<void> {
  try {
    for (;;) {
      for (let burst = random(60); burst >= 0; burst--) {
        const offset = random(512) * 4 * KiB;
        const kind = random(40);
        if (kind === 0) await unit.zero({ offset, length: 64 * KiB });
        else if (kind === 1) await unit.flush();
        else await unit.write(offset, Buffer.alloc(4 * KiB * (1 + random(8)), 1 + random(255)));
      }
      if (random(2) === 0) await pause(random(180));
    }
  } catch {
    // It was killed.
  } finally {
    await unit.close();
  }
}

/** @returns which states were found in stamps */
async function killOften(group: Protected, random: (below: number) => number): Promise<Set<string>> {
  const states = new Set<string>();
  await group.start();
  await group.streaming();
  expect(await group.end('SIGTERM')).toBe(0);
  for (let kill = 0; kill < KILLS / 2; kill++) {
    await group.start();
    const units = await Promise.all(shapes.map(({ name }) => group.client(name)));
    const loads = units.map((unit) => load(unit, random));
    await pause(random(400));
    await group.end('SIGKILL');
    await Promise.all(loads);
    for (const record of stampIn(join(group.folder, 'state')).records) states.add(record!.state);
    const { notes, suspected } = await judged(
      join(group.folder, 'state'),
      shapes.map(({ name }) => ({ name, path: group.disk(name) })),
    );
    expect(notes, `kill ${kill}`).toEqual([]);
    for (const [disk, { size }] of shapes.entries()) expect(suspected[disk]).toBeLessThan(size);
  }
  await group.start();
  await group.streaming();
  expect(await group.end('SIGTERM')).toBe(0);
  expect(group.err).not.toMatch(/compared/);
  expect(await differing(group)).toEqual([]);
  return states;
}

describe('twenty kills, of two groups in turn', () => {
  it('make hot regions be compared, and no disk as a whole', async () => {
    // Another seed is another run: DRIFTMAP_SEED=7 npx vitest run …
    const random = randomOf(Number(process.env.DRIFTMAP_SEED ?? 23));
    const groups = ['a', 'b'].map((name) => new Protected(join(folder, name), shapes));
    const found = await Promise.all(groups.map((group) => killOften(group, random)));
    // Else nothing was proved.
    expect([...new Set(found.flatMap((states) => [...states]))].sort()).toEqual(['idle', 'writing']);
  });
});
