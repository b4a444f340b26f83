import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { DriftmapError } from '../../../src/base/errors.ts';
import { KiB, MiB } from '../../../src/base/units.ts';
import type { Intents } from '../../../src/protect/splitter/intents.ts';
import type { SplitDisk } from '../../../src/protect/splitter/split-disk.ts';
import type { Splitter } from '../../../src/protect/splitter/splitter.ts';
import { temporary } from '../../tools.ts';
import { Site, until } from './site.ts';

const folder = temporary();
const shapes = [{ name: 'disk', size: 32 * MiB }];

/** Intents whose descriptor can be taken away. */
type Openly = Pick<Intents, 'coolDown'> & { fd: number };

/** What the guest's server calls, and what the splitter stands on. */
function inside(splitter: Splitter): { disk: SplitDisk; intents: Openly } {
  const { parts } = splitter as unknown as {
    parts: { disks: SplitDisk[]; intents: Openly };
  };
  return { disk: parts.disks[0]!, intents: parts.intents };
}

const state = (splitter: Splitter) => splitter.state();
async function settled(splitter: Splitter): Promise<void> {
  const now = () => state(splitter);
  await until(() => now().state === 'streaming' && now().acknowledged === now().order, 'streaming');
}

async function isEqual(site: Site): Promise<boolean> {
  const unit = site.journal!.newest('disk');
  const bytes = Buffer.alloc(unit.size);
  await unit.read(0, bytes);
  await unit.close();
  return Buffer.compare(bytes, site.bytes('disk')) === 0;
}

describe('a splitter whose intents cannot be made durable', () => {
  it('fails writes to cold regions with the disk as it was, goes on with hot ones, and recovers', async () => {
    const site = new Site(join(folder, 'a'), shapes);
    await site.startReplica();
    const splitter = await site.startSplitter();
    await settled(splitter);
    const { disk, intents } = inside(splitter);
    const { fd } = intents;
    intents.coolDown(0, [1, 2, 3, 4, 5, 6, 7]);
    await disk.write(0, Buffer.alloc(4096, 1));
    intents.fd = -1;
    await expect(disk.write(4 * MiB, Buffer.alloc(4096, 2))).rejects.toMatchObject({ kind: 'io' });
    await expect(
      disk.zero({ offset: 8 * MiB, length: 4096 }, { mayPunch: true, fast: false }),
    ).rejects.toThrow();
    expect(disk.write(0, Buffer.alloc(4096, 3))).toBe(undefined);
    expect(site.bytes('disk')[4 * MiB]).toBe(0);
    expect(site.bytes('disk')[0]).toBe(3);
    intents.fd = fd;
    await disk.write(4 * MiB, Buffer.alloc(4096, 4));
    await settled(splitter);
    expect(await isEqual(site)).toBe(true);
    await splitter.close();
    await site.stopReplica();
  });
});

const full = join(folder, 'full');
mkdirSync(full);
const mounts = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', full]).status === 0;
afterAll(() => {
  if (mounts) spawnSync('umount', [full]);
});
if (!mounts) process.stderr.write('\n*** SKIPPED for want of mounts: a state folder whose storage is full\n');

describe.runIf(mounts)('a state folder whose storage is full', () => {
  it('is refused at the start, changes nothing for writes, and costs exact marks at the end', async () => {
    const site = new Site(join(folder, 'b'), shapes);
    writeFileSync(join(full, 'ballast'), new Uint8Array(60 * KiB));
    await expect(site.startSplitter({ state: full })).rejects.toMatchObject({ name: 'DriftmapError' });
    writeFileSync(join(full, 'ballast'), '');
    await site.startReplica();
    const troubles: DriftmapError[] = [];
    const splitter = await site.startSplitter({ state: full, onTrouble: (error) => troubles.push(error) });
    await settled(splitter);
    const room = 64 * KiB - 8 * KiB - statSync(join(full, 'intents')).size;
    spawnSync('dd', ['if=/dev/zero', `of=${join(full, 'ballast')}`, 'bs=4k', `count=${room}`]);
    const { disk, intents } = inside(splitter);
    intents.coolDown(0, [1, 2, 3, 4, 5, 6, 7]);
    // The file has had its whole length from the start.
    await disk.write(8 * MiB, Buffer.alloc(4096, 2));
    await settled(splitter);
    site.link.down = true;
    site.link.cut();
    await disk.write(12 * MiB, Buffer.alloc(4096, 9));
    await splitter.close();
    expect(troubles.map(({ message }) => message).join()).toMatch(/save|space/);
    // The intents speak instead of the marks.
    site.link.down = false;
    spawnSync('truncate', ['-s', '0', join(full, 'ballast')]);
    const again = await site.startSplitter({ state: full });
    expect(state(again).markedBytes).toBeGreaterThanOrEqual(4 * MiB);
    await settled(again);
    expect(await isEqual(site)).toBe(true);
    await again.close();
    await site.stopReplica();
  });
});

describe('a write that its disk refuses', () => {
  it('is an error to the guest, and what is there now is sent', async () => {
    const site = new Site(join(folder, 'c'), shapes);
    await site.startReplica();
    const splitter = await site.startSplitter();
    await settled(splitter);
    const { disk } = inside(splitter);
    const write = disk.unit.write.bind(disk.unit);
    // Half of it gets there.
    disk.unit.write = (offset, source) => {
      write(offset, source.subarray(0, source.length / 2));
      throw new DriftmapError('io', 'no space left (planted)');
    };
    expect(() => disk.write(4096, Buffer.alloc(8192, 5))).toThrow(/planted/);
    expect(state(splitter)).toMatchObject({ state: 'marking', why: "a write to disk 'disk' failed" });
    disk.unit.write = write;
    await settled(splitter);
    expect(site.bytes('disk')[4096]).toBe(5);
    expect(await isEqual(site)).toBe(true);
    expect(state(splitter).disks[0]!.failedWrites).toBe(1);
    await splitter.close();
    await site.stopReplica();
  });
});

describe('a replica that has lost what it acknowledged', () => {
  it('is compared as a whole, and made equal', async () => {
    const site = new Site(join(folder, 'd'), shapes);
    await site.startReplica();
    const splitter = await site.startSplitter();
    await settled(splitter);
    const { disk } = inside(splitter);
    await disk.write(1 * MiB, Buffer.alloc(64 * KiB, 6));
    await settled(splitter);
    const journal = site.journal!;
    await journal.apply();
    const { last } = journal.state();
    await journal.rollTo({ sequence: last - 1 });
    await journal.promote();
    const before = state(splitter).equalBytes;
    site.link.cut();
    await until(() => state(splitter).state !== 'streaming', 'marking');
    await settled(splitter);
    expect(await isEqual(site)).toBe(true);
    expect(state(splitter).equalBytes - before).toBeGreaterThan(20 * MiB);
    await splitter.close();
    await site.stopReplica();
  });
});

describe('a clean stop', () => {
  it('keeps the exact marks, and a start finds them, and a write that passed by', async () => {
    const site = new Site(join(folder, 'e'), shapes);
    await site.startReplica();
    let splitter = await site.startSplitter();
    await settled(splitter);
    await splitter.close();
    site.link.down = true;
    splitter = await site.startSplitter();
    expect(state(splitter).markedBytes).toBe(0);
    const write = inside(splitter).disk.write(5 * MiB + 100, Buffer.alloc(5000, 8));
    if (write) await write;
    expect(state(splitter).markedBytes).toBe(8 * KiB);
    await splitter.close();
    splitter = await site.startSplitter();
    expect(splitter.notes).toEqual([]);
    expect(state(splitter).markedBytes).toBe(8 * KiB);
    await splitter.close();
    const bytes = readFileSync(site.production('disk'));
    bytes[77] = 1;
    writeFileSync(site.production('disk'), bytes, { flag: 'r+' });
    splitter = await site.startSplitter();
    expect(splitter.notes.join()).toMatch(/written to while it was not protected/);
    expect(state(splitter).markedBytes).toBe(32 * MiB);
    site.link.down = false;
    await settled(splitter);
    expect(await isEqual(site)).toBe(true);
    await splitter.close();
    await site.stopReplica();
  });
});
