/** The states of a file between two writes of a running QEMU: strace kills it at one of them. */

import { spawnSync } from 'node:child_process';
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadVhdx } from '../../src/disk/formats/vhdx.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { describeWith } from '../tools.ts';
import { qemuImg, qemuIo, temporaryFolder } from './images.ts';
import { contentsOf, load, same } from './vhd-loading.ts';

/** Whether qemu-io died at its nth write; it may have fewer. */
function killedAt(nth: number, path: string): boolean {
  const inject = ['-e', 'trace=pwrite64', '-e', `inject=pwrite64:signal=SIGKILL:when=${nth}`];
  // Three blocks are allocated, each by a change to the log.
  const writes = [1, 3, 5].flatMap((block) => ['-c', `write -P ${7 + block} ${block}M 1M`]);
  const writer = ['qemu-io', '-f', 'vhdx', ...writes, path];
  const { signal, status } = spawnSync('strace', ['-f', '-o', '/dev/null', ...inject, ...writer]);
  if (signal === 'SIGKILL') return true;
  if (status !== 0) throw new Error(`strace ended with ${signal ?? status}: may it trace here?`);
  return false;
}

describeWith(['qemu-img', 'qemu-io', 'strace'], 'a VHDX whose writer was killed', () => {
  const folder = temporaryFolder();

  it('reads as QEMU reads it after its own repair', async () => {
    const fresh = join(folder, 'fresh.vhdx');
    const path = join(folder, 'killed.vhdx');
    const raw = join(folder, 'killed.raw');
    qemuImg('create', '-f', 'vhdx', '-o', 'subformat=dynamic,block_size=1M', fresh, '6M');
    qemuIo(fresh, ['write -P 1 0 1M', 'write -P 2 2M 1M'], ['-f', 'vhdx']);
    let killed = 0;
    let replayed = 0;
    for (let attempt = 0; attempt < 40; attempt++) {
      copyFileSync(fresh, path);
      if (!killedAt(1 + (attempt % 20), path)) continue;
      killed++;
      const unit = openFileUnit(path);
      const image = await load(loadVhdx, unit);
      const contents = await contentsOf(image);
      unit.close();
      if (image.warnings.some((warning) => /log was replayed in memory/.test(warning))) replayed++;
      // Opened for writing, QEMU replays the log into the file.
      qemuIo(path, ['read 0 512'], ['-f', 'vhdx']);
      qemuImg('convert', '-f', 'vhdx', '-O', 'raw', path, raw);
      expect(same(contents, readFileSync(raw))).toBe(true);
    }
    console.info(`${killed} writers killed, ${replayed} of them left a log to replay`);
    expect(killed).toBeGreaterThan(0);
  });
});
