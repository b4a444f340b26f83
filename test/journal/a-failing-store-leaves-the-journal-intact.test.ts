import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Journal } from '../../src/journal/journal.ts';
import { createJournal, openJournal } from '../../src/journal/open.ts';
import { describeWith, temporary } from '../tools.ts';
import { difference, Model, memoryDisks, randomOf, randomWrite, viewDifference } from './disks.ts';
import { SimDisk, SimFolder } from './sim-folder.ts';

const shapes = [
  { name: 'system', size: 6000 },
  { name: 'data', size: 6000 },
];

interface Made {
  readonly folder: SimFolder;
  readonly disks: Map<string, SimDisk>;
  readonly model: Model;
  readonly journal: Journal;
}

async function make(): Promise<Made> {
  const folder = new SimFolder();
  const disks = new Map(shapes.map(({ name, size }) => [name, new SimDisk(name, size)]));
  const model = new Model(shapes);
  const journal = await createJournal(
    folder,
    { group: 'vm', disks: shapes, segmentBytes: 8192 },
    { disks, clock: () => 1000 },
  );
  const random = randomOf(3);
  for (let i = 0; i < 30; i++) {
    const write = randomWrite(random, shapes, 900);
    model.write(write);
    await journal.append([write]).durable;
  }
  return { folder, disks, model, journal };
}

async function check({ journal, model, disks }: Pick<Made, 'journal' | 'model' | 'disks'>): Promise<void> {
  for (const { from, to } of journal.points().ranges) {
    for (let { sequence } = from; sequence <= to.sequence; sequence++) {
      expect(await viewDifference(journal, model, sequence)).toBeNull();
    }
  }
  const { low, high } = journal.state().applied;
  if (low === high) expect(difference(disks, model, low)).toBeNull();
}

const write = { disk: 'data', offset: 5, bytes: new Uint8Array(3000).fill(9) };

function fill(folder: SimFolder): void {
  folder.capacity = folder.used + 100;
}

function breakFlush(folder: SimFolder): void {
  folder.failSyncs = true;
}

describe.each([
  ['is full', fill, /ENOSPC/],
  ['does not flush', breakFlush, /flush failed/],
] as const)('when the store %s', (_title, harm, reason) => {
  const heal = (folder: SimFolder) => {
    folder.capacity = Number.POSITIVE_INFINITY;
    folder.failSyncs = false;
  };

  it('an append says so, nothing durable is lost, and the group goes on, suspended, after recovery', async () => {
    const made = await make();
    const { folder, journal, model, disks } = made;
    await journal.apply();
    harm(folder);
    await expect(journal.append([write]).durable).rejects.toMatchObject({ kind: 'io', message: reason });
    // Nothing can follow a write that was lost.
    expect(() => journal.append([write])).toThrow(reason);
    await expect(journal.bookmark('no')).rejects.toThrow(reason);
    await expect(journal.commit()).rejects.toThrow(reason);
    expect(journal.state()).toMatchObject({ last: 30, failure: { kind: 'io' } });
    await check(made);
    await expect(journal.recover()).rejects.toThrow(reason);
    heal(folder);
    await journal.recover();
    model.mark();
    expect(journal.state()).toMatchObject({ failure: null, suspended: true, last: 31 });
    expect(journal.points().suspensions).toMatchObject([
      { reason: expect.stringMatching(/the journal failed/) },
    ]);
    // What makes up for the lost write, then points again.
    model.write(write);
    await journal.append([write]).durable;
    await journal.resume();
    model.mark();
    await journal.apply();
    expect(difference(disks, model, 33)).toBeNull();
    expect(journal.points().ranges).toMatchObject([{ to: { sequence: 31 } }, { from: { sequence: 33 } }]);
    await check(made);
    await journal.close();
    const again = await openJournal(folder, { disks });
    expect(again.warnings).toEqual([]);
    await check({ ...made, journal: again });
    await again.close();
  });

  it('an apply says so, the disks are untouched, and it goes on when there is room', async () => {
    const made = await make();
    const { folder, journal, model, disks } = made;
    harm(folder);
    await expect(journal.apply()).rejects.toMatchObject({ kind: 'io', message: reason });
    expect(journal.state()).toMatchObject({ applied: { low: 0, high: 0 }, failure: null });
    expect(difference(disks, model, 0)).toBeNull();
    await check(made);
    heal(folder);
    await journal.apply();
    expect(difference(disks, model, 30)).toBeNull();
    await check(made);
    await journal.close();
  });

  it('a journal that failed is closed and opened again as it was', async () => {
    const made = await make();
    const { folder, journal, disks } = made;
    harm(folder);
    await expect(journal.append([write]).durable).rejects.toThrow(reason);
    await journal.close();
    heal(folder);
    const again = await openJournal(folder, { disks });
    expect(again.state()).toMatchObject({ last: 30, failure: null });
    expect(again.warnings).toEqual([]);
    await check({ ...made, journal: again });
    await again.close();
  });
});

describe('when a disk fails', () => {
  it.each([0, 1, 2, 3])(
    'at write %i of a roll, views stay exact and the roll can be finished or undone',
    async (after) => {
      const made = await make();
      const { journal, model, disks } = made;
      await journal.apply();
      for (const [target, then] of [
        [4, 4],
        [30, 12],
        [0, 30],
        [7, 30],
      ] as const) {
        let calls = 0;
        for (const disk of disks.values()) {
          disk.step = () => {
            if (calls++ === after) throw new Error('planted');
          };
        }
        await expect(journal.rollTo({ sequence: target })).rejects.toThrow('planted');
        for (const disk of disks.values()) disk.step = () => {};
        await check(made);
        await journal.rollTo({ sequence: then });
        expect(difference(disks, model, then)).toBeNull();
      }
      await journal.close();
    },
  );

  it('or one is missing, or cannot be written, or is another, that is said before anything is touched', async () => {
    const folder = new SimFolder();
    const described = shapes.map((shape) => ({ ...shape, identity: `sim:${shape.name}` }));
    const journal = await createJournal(folder, { group: 'vm', disks: described });
    await journal.append([write]).durable;
    await expect(journal.apply()).rejects.toMatchObject({
      kind: 'argument',
      message: /'system' to be attached/,
    });
    const attach = (name: string, disk: SimDisk) => () => journal.attach(new Map([[name, disk]]));
    expect(attach('system', new SimDisk('system', 5999))).toThrow(
      /expected a disk of 6000 bytes as 'system'/,
    );
    expect(attach('system', new SimDisk('other', 6000))).toThrow(/expected the disk sim:system/);
    expect(attach('third', new SimDisk('third', 6000))).toThrow(/\('system', 'data'\), got 'third'/);
    attach('system', new SimDisk('system', 6000))();
    const readOnly = Object.assign(new SimDisk('data', 6000), { canWrite: false });
    attach('data', readOnly)();
    await expect(journal.apply()).rejects.toMatchObject({ kind: 'permission' });
    attach('data', new SimDisk('data', 6000))();
    await journal.apply();
    await journal.close();
  });
});

describe('an append', () => {
  it('refuses what is no write to the group, and takes nothing of it', async () => {
    const { journal } = await make();
    const bytes = new Uint8Array(10);
    for (const writes of [
      [{ disk: 'third', offset: 0, bytes }],
      [{ disk: 'data', offset: 5991, bytes }],
      [{ disk: 'data', offset: -1, bytes }],
      [{ disk: 'data', offset: 0, zeros: 1.5 }],
      [write, { disk: 'data', offset: 0, zeros: 6001 }],
    ]) {
      expect(() => journal.append(writes)).toThrow(expect.objectContaining({ kind: 'argument' }));
    }
    expect(() => journal.append([write], -5)).toThrow(/milliseconds/);
    expect(() => journal.append([write], Number.NaN)).toThrow(/milliseconds/);
    await journal.commit();
    expect(journal.state().last).toBe(30);
    await journal.close();
  });

  it('splits a write that is too large for one record, and bounds what waits', async () => {
    const size = 100 * 2 ** 20;
    const folder = new SimFolder();
    const disks = memoryDisks([{ name: 'big', size }]);
    const journal = await createJournal(folder, { group: 'vm', disks: [{ name: 'big', size }] }, { disks });
    const bytes = new Uint8Array(20 * 2 ** 20);
    for (let at = 0; at < bytes.length; at += 4096) bytes[at] = 1 + ((at / 4096) % 255);
    const one = journal.append([
      { disk: 'big', offset: 1, bytes },
      { disk: 'big', offset: 50 * 2 ** 20, zeros: 17 * 2 ** 20 },
    ]);
    expect([one.first, one.last]).toEqual([1, 6]);
    journal.append([{ disk: 'big', offset: 40 * 2 ** 20, bytes }]);
    journal.append([{ disk: 'big', offset: 60 * 2 ** 20, bytes }]);
    expect(() => journal.append([{ disk: 'big', offset: 0, bytes }])).toThrow(
      expect.objectContaining({ kind: 'limit', message: expect.stringMatching(/too slow/) }),
    );
    await journal.commit();
    await journal.apply();
    const back = new Uint8Array(bytes.length);
    await disks.get('big')!.read(1, back);
    expect(Buffer.compare(back, bytes)).toBe(0);
    await journal.rollBack(0);
    await disks.get('big')!.read(1, back);
    expect(back.every((byte) => byte === 0)).toBe(true);
    await journal.close();
  });
});

describeWith(['mount', 'umount'], 'on a file system that is really full', () => {
  const mount = join(temporary(), 'small');
  mkdirSync(mount);
  let mounted = false;
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', mount], { stdio: 'ignore' });
    mounted = true;
  } catch {
    process.stderr.write(
      '\n*** SKIPPED for want of the right to mount: on a file system that is really full\n',
    );
  }
  afterAll(() => {
    if (mounted) execFileSync('umount', [mount]);
  });

  it.skipIf(!mounted)('append and apply say so, and go on after room was made', async () => {
    const sizes = [{ name: 'data', size: 100_000 }];
    const disks = memoryDisks(sizes);
    const model = new Model(sizes);
    const journal = await createJournal(
      mount,
      { group: 'vm', disks: sizes, segmentBytes: 65_536 },
      { disks },
    );
    const random = randomOf(8);
    let failed: unknown = null;
    while (failed === null) {
      const one = {
        disk: 'data',
        offset: random(50_000),
        bytes: new Uint8Array(40_000).fill(1 + random(250)),
      };
      try {
        await journal.append([one]).durable;
        model.write(one);
        if (model.last % 5 === 0) await journal.apply();
      } catch (error) {
        failed = error;
      }
      expect(model.last).toBeLessThan(100);
    }
    expect(failed).toMatchObject({
      kind: 'io',
      message: expect.stringMatching(/no space left on device \[ENOSPC\]/),
    });
    const { low, high } = journal.state().applied;
    if (low === high) expect(difference(disks, model, low)).toBeNull();
    await journal.close().catch(() => undefined);
    writeFileSync(join(mount, 'other'), '');
    execFileSync('mount', ['-o', 'remount,size=8m', mount]);
    const again = await openJournal(mount, { disks });
    for (let s = 0; s <= model.last; s += 3) expect(await viewDifference(again, model, s)).toBeNull();
    await again.apply(model.last);
    expect(difference(disks, model, model.last)).toBeNull();
    await again.close();
  });
});
