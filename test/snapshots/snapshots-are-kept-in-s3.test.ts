// Against a real S3: Ceph's RADOS gateway.

import { spawnSync } from 'node:child_process';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { listSnapshots } from '../../src/snapshots/catalog.ts';
import { pruneRepository } from '../../src/snapshots/prune.ts';
import { openRepository, type Repository } from '../../src/snapshots/repository.ts';
import { verifyRepository } from '../../src/snapshots/verify.ts';
import { openObjectStore } from '../../src/store/open-object-store.ts';
import { bin } from '../cli/command.ts';
import { Ceph, cephTools } from '../lab/s3-labs.ts';
import { failPut } from '../store/filters.ts';
import { describeWith, temporary } from '../tools.ts';
import { BLOCK, bytesOf, MemoryUnit, makeRepository, noise, source, take } from './disks.ts';

const folder = temporary();
const key = noise(32, 8);

describeWith([...cephTools, 'radosgw-admin'], 'snapshots in S3, by Ceph', () => {
  let ceph: Ceph;
  let repository: Repository;
  const disk = noise(200 * BLOCK, 1);

  beforeAll(async () => {
    ceph = await Ceph.start();
    await ceph.makeBucket('backup');
    const store = await openObjectStore(ceph.address('backup/web'), { credentials: ceph.credentials });
    repository = await makeRepository(store, { key });
  });
  afterAll(async () => {
    await repository?.close();
    await ceph?.stop();
  });

  it('are taken, also after an upload that died, and read back', async () => {
    const dying = await openRepository(
      failPut(repository.store, { at: 90, forever: true, manner: 'refused' }),
      { key },
    );
    await expect(take(dying, [source('a', new MemoryUnit(disk))])).rejects.toThrow(/told to/);
    expect(await listSnapshots(repository)).toEqual([]);
    const first = await take(repository, [source('a', new MemoryUnit(disk))], { time: 1 });
    expect(first.blocksSent).toBeLessThan(140);
    const changed = disk.slice();
    changed.set(noise(BLOCK, 2), 7 * BLOCK);
    const second = await take(
      repository,
      [source('a', new MemoryUnit(changed), [{ offset: 7 * BLOCK, length: BLOCK }])],
      { parent: first, time: 2 },
    );
    expect(second).toMatchObject({ blocksSent: 1, bytesScanned: 0 });
    expect(Buffer.compare(await bytesOf(repository, first, 'a'), disk)).toBe(0);
    expect(Buffer.compare(await bytesOf(repository, second, 'a'), changed)).toBe(0);
  });

  it('are verified and pruned', async () => {
    expect((await verifyRepository(repository)).damaged).toEqual([]);
    const [first] = await listSnapshots(repository);
    await pruneRepository(repository, { forget: [first!.id], grace: 0 });
    // A block, a page and a root; a store whose clock has seconds spares what it was put in the same one.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    expect((await pruneRepository(repository, { grace: 0 })).removedObjects).toBe(3);
    expect((await verifyRepository(repository)).damaged).toEqual([]);
    expect(await listSnapshots(repository)).toHaveLength(1);
  });

  it('by command', () => {
    const path = join(folder, 'vm.raw');
    writeFileSync(path, noise(1_000_000, 3));
    truncateSync(path, 4_000_000);
    const { accessKeyId, secretAccessKey } = ceph.credentials;
    const env = { ...process.env, AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey };
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [bin, 'snapshots', ...args], { cwd: folder, encoding: 'utf8', env });
    const address = ceph.address('backup/command');
    expect(run('init', address)).toMatchObject({ status: 0, stderr: '' });
    expect(run('take', address, 'vm=vm.raw')).toMatchObject({ status: 0, stderr: '' });
    expect(run('verify', address)).toMatchObject({ status: 0 });
    expect(run('restore', address, 'latest', '--to', 'out')).toMatchObject({ status: 0, stderr: '' });
    expect(Buffer.compare(readFileSync(join(folder, 'out', 'vm.raw')), readFileSync(path))).toBe(0);
    expect(run('list', ceph.address('nowhere'))).toMatchObject({
      status: 2,
      stderr: expect.stringMatching(/no such bucket/),
    });
  });
});
