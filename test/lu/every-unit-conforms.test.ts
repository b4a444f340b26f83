import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { delayUnit, faultUnit, logUnit } from '../../src/lu/filters.ts';
import { describeWith, temporary } from '../tools.ts';
import { conformance } from './conformance.ts';

const folder = temporary();
let files = 0;

function emptyFile(size: number): string {
  const path = join(folder, `unit-${files++}`);
  const fd = openSync(path, 'w');
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

conformance({
  title: 'a file',
  make: (size) => openFileUnit(emptyFile(size), { write: true }),
  makeReadOnly: (size) => openFileUnit(emptyFile(size)),
});
conformance({ title: 'an array image', make: (size) => createArrayImage({ size }) });
conformance({
  title: 'an array image of several banks',
  make: (size) => createArrayImage({ size, bankBytes: 65536 }),
});
conformance({
  title: 'the fault filter without faults',
  make: (size) => faultUnit(createArrayImage({ size }), []),
});
conformance({
  title: 'the delay filter',
  make: (size) =>
    delayUnit(createArrayImage({ size }), { on: ['flush', 'extents', 'read'], milliseconds: 0 }),
});
conformance({ title: 'the log filter', make: (size) => logUnit(createArrayImage({ size }), () => {}) });

const hasLoop = (() => {
  const probe = spawnSync('losetup', ['--find'], { stdio: 'ignore' });
  return probe.status === 0;
})();
const devices: string[] = [];
afterAll(() => {
  for (const device of devices) spawnSync('losetup', ['--detach', device]);
});

function loopDevice(size: number): string {
  const device = execFileSync('losetup', ['--find', '--show', emptyFile(size)], { encoding: 'utf8' }).trim();
  devices.push(device);
  return device;
}

describeWith(['losetup'], 'block devices', () => {
  if (!hasLoop) {
    process.stderr.write('\n*** SKIPPED for want of a free loop device: block devices conform\n');
    return;
  }
  conformance({
    title: 'a block device',
    make: (size) => openFileUnit(loopDevice(size), { write: true }),
    makeReadOnly: (size) => openFileUnit(loopDevice(size)),
    granule: 512,
  });
});
