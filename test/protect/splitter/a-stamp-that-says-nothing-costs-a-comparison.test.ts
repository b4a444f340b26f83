/**
 * State folders as a kill leaves them, taken from a splitter of this process at a moment: whatever became of the stamp
 * since, no foreign write is missed by it.
 */

import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/units.ts';
import type { SplitDisk } from '../../../src/protect/splitter/split-disk.ts';
import { openSplitter } from '../../../src/protect/splitter/splitter.ts';
import type { Stamp, StampRecord } from '../../../src/protect/splitter/stamp-file.ts';
import { recordAt } from '../../../src/protect/splitter/stamp-file.ts';
import { LATE_RESTARTED_MS } from '../../../src/protect/splitter/written-past.ts';
import { describeWith, temporary } from '../../tools.ts';
import { judged, restamp, stampIn } from './judged.ts';
import { makeFile, Site, until } from './site.ts';

const folder = temporary();
const shapes = [
  { name: 'one', size: 96 * MiB },
  { name: 'two', size: 80 * MiB },
];
const WHOLE = [96 * MiB, 80 * MiB];
const NOTHING = /nothing tells/;

interface Taken {
  readonly site: Site;
  /** A copy of the state folder. */
  readonly state: string;
}
let taken: Taken;

/** What a kill would leave while the first disk is written to, and the second has rested. */
async function take(name: string): Promise<Taken> {
  const site = new Site(join(folder, name), shapes);
  await site.startReplica();
  const first = await site.startSplitter();
  await until(() => first.state().state === 'streaming', 'streaming');
  await first.close();
  await site.stopReplica();
  // No region is hot from a comparison now.
  const splitter = await site.startSplitter({ reach: null });
  const { disks } = (splitter as unknown as { parts: { disks: SplitDisk[] } }).parts;
  await disks[0]!.write(0, Buffer.alloc(4 * KiB, 3));
  await disks[0]!.flush();
  await disks[0]!.write(0, Buffer.alloc(4 * KiB, 4));
  const state = copyOf(site.state, `${name}.killed`);
  await splitter.close();
  expect(stampIn(state).records).toMatchObject([{ state: 'writing' }, { state: 'idle' }]);
  return { site, state };
}

function copyOf(state: string, name: string): string {
  const copy = join(folder, name);
  mkdirSync(copy);
  for (const file of ['intents', 'stamp']) copyFileSync(join(state, file), join(copy, file));
  return copy;
}

beforeAll(async () => {
  taken = await take('site');
});

/** A folder of a test's own. */
class Killed {
  readonly state: string;

  constructor(name: string) {
    this.state = copyOf(taken.state, name);
  }

  judge() {
    return judge(taken.site, this.state);
  }

  change(act: (record: StampRecord) => StampRecord, head: Partial<Stamp> = {}): void {
    restamp(this.state, (stamp) => ({
      ...stamp,
      ...head,
      records: stamp.records.map((record) => record && act(record)),
    }));
  }
}

function judge(site: Site, state: string) {
  return judged(
    state,
    shapes.map(({ name }) => ({ name, path: site.production(name) })),
  );
}

const bytesOf = (path: string) => new Uint8Array(readFileSync(path));

describe('a stamp', () => {
  it('that fits lets the intents speak alone', async () => {
    const killed = new Killed('fits');
    const { suspected, notes } = await killed.judge();
    expect(notes).toEqual([]);
    expect(suspected[0]).toBeGreaterThan(0);
    expect(suspected[0]).toBeLessThan(WHOLE[0]!);
    expect(suspected[1]).toBe(0);
  });

  it('that is not there, as in the folder of an older driftmap, says nothing', async () => {
    const killed = new Killed('missing');
    rmSync(join(killed.state, 'stamp'));
    const { suspected, notes } = await killed.judge();
    expect(suspected).toEqual(WHOLE);
    expect(notes).toEqual([expect.stringMatching(NOTHING), expect.stringMatching(NOTHING)]);
  });

  it('of another run says nothing', async () => {
    const killed = new Killed('run');
    restamp(killed.state, (stamp) => ({ ...stamp, run: new Uint8Array(16).fill(1) }));
    expect((await killed.judge()).suspected).toEqual(WHOLE);
  });

  it('says nothing of a disk whose record is torn at any byte, and all of the others', async () => {
    const killed = new Killed('torn');
    const path = join(killed.state, 'stamp');
    const whole = bytesOf(path);
    for (const at of [0, 4, 5, 8, 16, 24, 39, 59, 60, 63]) {
      const torn = whole.slice();
      torn[recordAt(1) + at]! ^= 0x20;
      writeFileSync(path, torn);
      const { suspected, notes } = await killed.judge();
      expect(suspected[0], `byte ${at}`).toBeLessThan(WHOLE[0]!);
      expect(suspected[1]).toBe(WHOLE[1]);
      expect(notes).toEqual([expect.stringMatching(/^disk 'two': .*nothing tells/)]);
    }
    // The record of another disk in its place.
    const moved = whole.slice();
    moved.set(whole.subarray(recordAt(0), recordAt(1)), recordAt(1));
    writeFileSync(path, moved);
    expect((await killed.judge()).suspected[1]).toBe(WHOLE[1]);
  });

  it('says nothing where its front is damaged, of another version, or its length is another', async () => {
    const killed = new Killed('front');
    const path = join(killed.state, 'stamp');
    const whole = bytesOf(path);
    for (const at of [0, 8, 12, 16, 33, 100, 124, 127]) {
      const damaged = whole.slice();
      damaged[at]! ^= 0x04;
      writeFileSync(path, damaged);
      expect((await killed.judge()).suspected, `byte ${at}`).toEqual(WHOLE);
    }
    for (const bytes of [new Uint8Array(0), whole.subarray(0, 130), new Uint8Array(1_000_000)]) {
      writeFileSync(path, bytes);
      expect((await killed.judge()).suspected).toEqual(WHOLE);
    }
  });
});

describe('after a restart of the system', () => {
  const other = { host: '0123456789abcdef0123456789abcdef' };

  it('times that lie a little after the stamp that was left are those of writes before', async () => {
    const killed = new Killed('lagging');
    killed.change((record) => ({ ...record, at: record.at - LATE_RESTARTED_MS / 2 }), other);
    const { suspected, notes } = await killed.judge();
    expect(notes).toEqual([]);
    expect(suspected[0]).toBeLessThan(WHOLE[0]!);
    expect(suspected[1]).toBe(0);
  });

  it('later times are a foreign write', async () => {
    const killed = new Killed('later');
    const times = { modified: 1n, changed: 1n };
    killed.change((record) => ({ ...record, at: record.at - 2 * LATE_RESTARTED_MS, times }), other);
    const { suspected, notes } = await killed.judge();
    expect(suspected).toEqual(WHOLE);
    expect(notes[0]).toMatch(/past the splitter/);
  });

  it('times that are older than the stamp, but not than the last flush, are what a loss of power leaves', async () => {
    const killed = new Killed('older');
    const hour = 3_600_000_000_000n;
    const later = (record: StampRecord) => ({
      ...record,
      at: record.at + 3_600_000,
      times: { modified: record.times.modified + hour, changed: record.times.changed + hour },
    });
    killed.change(later, other);
    expect((await killed.judge()).notes).toEqual([]);
    killed.change((record) => ({ ...record, durable: record.times.changed }));
    const { suspected, notes } = await killed.judge();
    expect(suspected).toEqual(WHOLE);
    expect(notes[0]).toMatch(/older than it was then/);
  });

  it('is not assumed where the system does not tell', async () => {
    const killed = new Killed('untold');
    killed.change((record) => ({ ...record, at: record.at - LATE_RESTARTED_MS / 2 }), { host: null });
    expect((await killed.judge()).suspected[0]).toBe(WHOLE[0]);
  });
});

describe('a disk whose times were set', () => {
  it('is compared: when they were changed nobody can set', async () => {
    const { site, state } = await take('touched');
    const [, two] = stampIn(state).records;
    const path = site.production('two');
    const bytes = readFileSync(path);
    bytes[70 * MiB] = 1;
    writeFileSync(path, bytes, { flag: 'r+' });
    const before = new Date(Number(two!.times.modified / 1_000_000n));
    utimesSync(path, before, before);
    expect((await judge(site, state)).suspected[1]).toBe(WHOLE[1]);
  });
});

describeWith(['loop devices'], 'a block device', () => {
  it('has no times, so that its intents alone speak, as the documentation says', async () => {
    const path = join(folder, 'device.raw');
    makeFile(path, 96 * MiB);
    const device = execFileSync('losetup', ['--find', '--show', path], { encoding: 'utf8' }).trim();
    const state = join(folder, 'device.state');
    try {
      const splitter = await openSplitter({
        group: 'test',
        state,
        disks: [{ name: 'one', disk: device, listen: { socket: join(folder, 'device.sock') } }],
        reach: null,
        drainMs: 0,
      });
      expect(stampIn(state).records).toEqual([null]);
      writeFileSync(device, new Uint8Array(4 * KiB), { flag: 'r+' });
      const { notes } = await judged(state, [{ name: 'one', path: device }]);
      await splitter.close();
      expect(notes).toEqual([]);
    } finally {
      execFileSync('losetup', ['--detach', device]);
    }
  });
});
