import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import { LATE_MS } from '../../../src/protect/splitter/written-past.ts';
import { describeWith, temporary } from '../../tools.ts';
import { judged, stampIn } from './judged.ts';
import { differing, Protected } from './processes.ts';

const folder = temporary();
const shapes = [
  { name: 'system', size: 128 * MiB },
  { name: 'data', size: 16 * MiB },
];
const REGION = 4 * MiB;
const state = (group: Protected) => join(group.folder, 'state');
const judge = (group: Protected) =>
  judged(
    state(group),
    shapes.map(({ name }) => ({ name, path: group.disk(name) })),
  );

/** Protected, equal, and no region is hot. */
async function calm(name: string): Promise<Protected> {
  const group = new Protected(join(folder, name), shapes);
  await group.start();
  await group.streaming();
  expect(await group.end('SIGTERM')).toBe(0);
  // The marks have the generations: it has had its day.
  expect(existsSync(join(state(group), 'stamp'))).toBe(false);
  await group.start();
  await group.streaming();
  return group;
}

/** Writes to the first region of the first disk until the server goes away. */
async function load(group: Protected): Promise<void> {
  const unit = await group.client('system');
  try {
    for (let i = 0; ; i++) await unit.write((i % 256) * 4 * KiB, Buffer.alloc(4 * KiB, 1 + (i % 255)));
  } catch {
    // It was killed.
  } finally {
    await unit.close();
  }
}

/** As somebody who mounted the raw file. */
function writePast(path: string, offset: number): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(4 * KiB, 0xee), 0, 4 * KiB, offset);
  closeSync(fd);
}

async function killedUnderLoad(name: string): Promise<Protected> {
  const group = await calm(name);
  const loading = load(group);
  await pause(400);
  await group.end('SIGKILL');
  await loading;
  return group;
}

describeWith([], 'a splitter that is killed', () => {
  it('under load: a write past it is noticed, its disk is compared, and the replica becomes equal', async () => {
    const group = await killedUnderLoad('load');
    expect(stampIn(state(group)).records.map((record) => record?.state)).toEqual(['writing', 'idle']);
    const before = await judge(group);
    expect(before.notes).toEqual([]);
    // What was ahead of the writer is hot as well.
    expect(before.suspected[0]).toBeLessThanOrEqual(17 * REGION);
    expect(before.suspected[0]).toBeGreaterThanOrEqual(REGION);
    expect(before.suspected[1]).toBe(0);
    await pause(LATE_MS);
    writePast(group.disk('system'), 120 * MiB);
    const { suspected, notes } = await judge(group);
    expect(suspected).toEqual([128 * MiB, 0]);
    expect(notes).toEqual([expect.stringMatching(/^disk 'system': somebody wrote to it past the splitter/)]);
    expect((await differing(group)).some(({ offset }) => offset === 120 * MiB)).toBe(true);
    await group.start();
    await group.streaming();
    expect(group.err).toContain('past the splitter');
    expect(await group.end('SIGTERM')).toBe(0);
    expect(await differing(group)).toEqual([]);
  });

  it('at rest: any write past it is noticed, however soon', async () => {
    const group = await calm('rest');
    const unit = await group.client('data');
    await unit.write(1 * MiB, Buffer.alloc(64 * KiB, 7));
    await unit.flush();
    await unit.close();
    await group.streaming();
    await pause(300);
    expect(stampIn(state(group)).records).toMatchObject([{ state: 'idle' }, { state: 'idle' }]);
    await group.end('SIGKILL');
    const before = await judge(group);
    expect(before.notes).toEqual([]);
    expect(before.suspected[0]).toBe(0);
    writePast(group.disk('data'), 12 * MiB);
    expect((await judge(group)).suspected).toEqual([0, 16 * MiB]);
    await group.start();
    await group.streaming();
    expect(await group.end('SIGTERM')).toBe(0);
    expect(await differing(group)).toEqual([]);
  });
});

describeWith(['qemu-img', 'qemu-io'], 'a killed splitter whose disk QEMU wrote to', () => {
  it('compares it', async () => {
    const group = await killedUnderLoad('qemu');
    await pause(LATE_MS);
    const args = ['-f', 'raw', '-c', 'write -P 9 120M 64k', group.disk('system')];
    expect(spawnSync('qemu-io', args).status).toBe(0);
    expect((await judge(group)).suspected).toEqual([128 * MiB, 0]);
  });
});
