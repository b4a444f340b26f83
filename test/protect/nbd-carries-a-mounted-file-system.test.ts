import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { MiB } from '../../src/base/units.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { unitExport } from '../../src/protect/nbd/unit-export.ts';
import { describeWith, temporary } from '../tools.ts';
import { must, run, serveHere, startPeer } from './nbd-peers.ts';

const folder = temporary();

const undo: (() => unknown)[] = [];
afterAll(() => {
  for (const step of undo.reverse()) step();
});

describeWith(
  ['nbdfuse', 'FUSE', 'loop devices', 'mkfs.ext4', 'e2fsck', 'debugfs'],
  'ext4 on a loop device over nbdfuse',
  () => {
    it('is made, mounted, written and checked, and the disk holds what was written', async () => {
      const path = join(folder, 'ext4.raw');
      writeFileSync(path, '');
      truncateSync(path, 64 * MiB);
      const { socket, troubles } = await serveHere(folder, {
        disk: unitExport(openFileUnit(path, { write: true })),
      });
      const [fuse, mount, pid] = ['fuse', 'mount', 'fuse.pid'].map((name) => join(folder, name)) as [
        string,
        string,
        string,
      ];
      mkdirSync(fuse);
      mkdirSync(mount);
      undo.push(
        () => spawnSync('fusermount3', ['-u', '-z', fuse]),
        () => spawnSync('umount', ['-l', fuse]),
      );
      const disk = join(fuse, 'disk');
      await startPeer('nbdfuse', ['-P', pid, disk, '--unix', socket], socket, () => existsSync(disk));
      const device = (await must('losetup', ['--find', '--show', disk])).trim();
      undo.push(() => spawnSync('losetup', ['--detach', device]));
      await must('mkfs.ext4', ['-q', device]);
      await must('mount', ['-t', 'ext4', device, mount]);
      undo.push(() => spawnSync('umount', [mount]));
      const contents = randomBytes(5 * MiB);
      for (let i = 0; i < 5; i++) await must('mkdir', ['-p', join(mount, `folder ${i}`)]);
      writeFileSync(join(folder, 'contents'), contents);
      await must('cp', [join(folder, 'contents'), join(mount, 'folder 3', 'file')]);
      await must('sync', ['-f', mount]);
      await must('umount', [mount]);
      expect((await run('e2fsck', ['-f', '-n', device])).status).toBe(0);
      await must('losetup', ['--detach', device]);
      await must('debugfs', ['-R', `dump "/folder 3/file" ${join(folder, 'dumped')}`, path]);
      const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
      expect(digest(readFileSync(join(folder, 'dumped')))).toBe(digest(contents));
      expect(troubles).toEqual([]);
    });
  },
);
