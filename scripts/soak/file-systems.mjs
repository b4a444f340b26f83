/** Small file systems of the soak's own, which can be filled and emptied. Needs root. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './processes.mjs';

const mounts = [];
export function mountSmall(path, mebibytes) {
  mkdirSync(path, { recursive: true });
  writeFileSync(`${path}.img`, '');
  truncateSync(`${path}.img`, mebibytes * 2 ** 20);
  for (const [command, ...args] of [
    ['mkfs.ext4', '-q', '-F', '-m', '0', `${path}.img`],
    ['mount', '-o', 'loop', `${path}.img`, path],
  ]) {
    const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${command} failed (run as root): ${stderr}`);
  }
  mounts.push(path);
}

export async function fill(path) {
  const { bavail, bsize } = statfsSync(path);
  await run('fallocate', ['-l', String(bavail * bsize), join(path, 'ballast')]);
}
export const empty = (path) => rmSync(join(path, 'ballast'), { force: true });

export function unmountAll() {
  for (const path of mounts.splice(0)) spawnSync('umount', ['-l', path]);
}
