import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { describeWith, root, temporary } from '../tools.ts';

const folder = temporary();

describeWith(
  ['fio', 'loop devices', 'mkfs.ext4', 'fallocate', 'cmp'],
  'scripts/soak.mjs, for twenty seconds',
  () => {
    it('verifies every disk, bookmark and snapshot', () => {
      // Another script of troubles each day; the output names its seed.
      const seed = String(Math.floor(Date.now() / 86_400_000));
      const args = [
        '--minutes',
        '0.33',
        '--seed',
        seed,
        '--size-mib',
        '48',
        '--folder',
        join(folder, 'soak'),
      ];
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        [join(root, 'scripts', 'soak.mjs'), ...args],
        { encoding: 'utf8', timeout: 240_000, killSignal: 'SIGTERM' },
      );
      expect(`${stdout}${stderr}`).toContain('nothing was lost');
      expect(stdout).toMatch(/bookmarks +[1-9]\d* set/);
      expect(status).toBe(0);
    }, 300_000);
  },
);
