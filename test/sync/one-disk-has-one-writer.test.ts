import { linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { hasNative } from '../../src/lu/posix.ts';
import { holdDisk } from '../../src/protect/group/hold-disk.ts';
import { failover, openMarked } from '../../src/sync/failover.ts';
import { sync } from '../../src/sync/sync.ts';
import { loopDevices } from '../lu/files.ts';
import { describeWith, temporary } from '../tools.ts';
import { fileOf, MiB, noise, sameFiles } from './disks.ts';

const folder = temporary();
const workers = 1;
let made = 0;

/** Makes a second name of a file, or of its folder. */
const names = {
  'the same name': (path: string) => path,
  'a symbolic link': (path: string) => {
    symlinkSync(path, `${path}-link`);
    return `${path}-link`;
  },
  'a hard link': (path: string) => {
    linkSync(path, `${path}-hard`);
    return `${path}-hard`;
  },
  'a link to its folder': (path: string) => {
    const other = join(folder, `door-${made++}`);
    symlinkSync(folder, other);
    return path.replace(folder, other);
  },
};

/** Calls `meanwhile` while a sync writes to a replica. */
async function whileSynchronized(
  replica: string,
  meanwhile: () => Promise<unknown>,
  size = 4 * MiB,
): Promise<unknown> {
  const production = fileOf(folder, noise(size, 1));
  let outcome: Promise<unknown> | null = null;
  const result = await sync({
    ...{ production, replica, state: join(folder, `state-${made++}`), workers, bySignature: true },
    onProgress: () => {
      outcome ??= meanwhile().then(
        () => 'done',
        (error) => error,
      );
    },
  });
  expect(result.consistent).toBe(true);
  if (!replica.startsWith('/dev/')) expect(sameFiles(production, replica)).toBe(true);
  return outcome;
}

describe('while a sync writes to a file, under a state of its own', () => {
  it.each(Object.entries(names))('no other does, by %s and with another state', async (how, nameOf) => {
    const replica = fileOf(folder, noise(4 * MiB, 2));
    const other = nameOf(replica);
    const again = () =>
      sync({
        production: fileOf(folder, noise(4 * MiB, 3)),
        replica: other,
        state: `${replica}-s2`,
        workers,
      });
    const outcome = await whileSynchronized(replica, again);
    if (how === 'a hard link' && !hasNative()) return;
    expect(outcome).toMatchObject({ kind: 'policy' });
    expect(String(outcome)).toMatch(/being written by|in use/);
    // And afterwards it may.
    expect(
      (await sync({ production: replica, replica: fileOf(folder, noise(4 * MiB, 3)), workers })).consistent,
    ).toBe(true);
    expect((await again()).consistent).toBe(true);
  });

  it('it is no splitter’s and no replica service’s disk; and the other way round', async () => {
    const replica = fileOf(folder, noise(4 * MiB, 2));
    const outcome = await whileSynchronized(replica, async () => holdDisk(replica)());
    expect(String(outcome)).toMatch(/used by another splitter, by a replica, or by a sync: another session/);
    const release = holdDisk(replica);
    const production = fileOf(folder, noise(4 * MiB, 4));
    await expect(sync({ production, replica, workers })).rejects.toThrow('being written by');
    await expect(sync({ production, replica, state: `${replica}-s3`, workers })).rejects.toThrow(
      'being written by',
    );
    release();
    expect((await sync({ production, replica, workers })).consistent).toBe(true);
    // A disk that was failed over and is written to.
    await failover({ replica });
    const marked = await openMarked(replica);
    expect(() => holdDisk(replica)).toThrow('used by another splitter');
    const over = { production, replica, state: `${replica}-s4`, discard: true, workers };
    await expect(sync(over)).rejects.toThrow('being written by');
    await marked.close();
    holdDisk(replica)();
  });

  it('a state that is named in another way is still one lock', async () => {
    const replica = fileOf(folder, noise(1 * MiB, 5));
    const production = fileOf(folder, noise(1 * MiB, 6));
    const door = join(folder, `door-${made++}`);
    symlinkSync(folder, door);
    const state = `${replica.replace(folder, door)}.driftstate`;
    expect((await sync({ production, replica, state, workers })).consistent).toBe(true);
    // A state in a folder of its own; nothing is left locked.
    mkdirSync(join(folder, 'states'), { recursive: true });
    writeFileSync(production, noise(1 * MiB, 7));
    expect(
      (await sync({ production, replica, state: join(folder, 'states', 's'), workers })).consistent,
    ).toBe(true);
    holdDisk(replica)();
  });
});

describeWith(['loop devices'], 'while a sync writes to a block device', () => {
  const attach = loopDevices();
  it('no other does, and none that is in use is written to', async () => {
    const device = attach(fileOf(folder, noise(4 * MiB, 8)));
    const production = fileOf(folder, noise(4 * MiB, 9));
    const again = () => sync({ production, replica: device, state: join(folder, 's5'), workers });
    expect(await whileSynchronized(device, again)).toMatchObject({ kind: 'policy' });
    expect((await again()).consistent).toBe(true);
    const release = holdDisk(device);
    await expect(again()).rejects.toThrow('this device is in use');
    release();
    expect((await again()).consistent).toBe(true);
  });
});
