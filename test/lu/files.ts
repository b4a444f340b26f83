/** Files, sparse files and loop devices for the tests of this room. */

import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import { temporary } from '../tools.ts';

const PAGE = 4096;

/** Call once in a test file: a folder of its own, and what makes things in it. */
export function workshop() {
  const folder = temporary();
  let made = 0;
  const path = (name: string) => join(folder, name);

  /** A file of `size` bytes, all zero, with a page of nines at each of `pages`. Without a name it gets a new one. */
  function sparse(size: number, pages: readonly number[] = [], name = `file-${made++}`): string {
    const fd = openSync(path(name), 'w');
    ftruncateSync(fd, size);
    for (const at of pages) writeSync(fd, new Uint8Array(PAGE).fill(9), 0, PAGE, at);
    closeSync(fd);
    return path(name);
  }

  return { path, sparse };
}

/** Call once in a test file: attaches files as block devices, and detaches them after each test. */
export function loopDevices(): (file: string) => string {
  const attached: string[] = [];
  afterEach(() => {
    for (const device of attached.splice(0)) execFileSync('losetup', ['--detach', device]);
  });
  return (file) => {
    const device = execFileSync('losetup', ['--find', '--show', file], { encoding: 'utf8' }).trim();
    attached.push(device);
    return device;
  };
}
