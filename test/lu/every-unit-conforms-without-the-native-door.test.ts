import { expect, it, vi } from 'vitest';
import { describeWith } from '../tools.ts';
import { conformance } from './conformance.ts';
import { loopDevices, workshop } from './files.ts';

// Before anything asks for the door: it is tried once. Worker threads inherit the environment.
vi.stubEnv('DRIFTMAP_NO_NATIVE', '1');
const { hasNative, punchHole, seekData, seekHole } = await import('../../src/lu/posix.ts');
const { openFileUnit } = await import('../../src/lu/file-unit.ts');
const { faultUnit } = await import('../../src/lu/filters.ts');

const { sparse } = workshop();
const loopDevice = loopDevices();

it('the door is shut, and every question is answered with "unknown"', () => {
  expect(hasNative()).toBe(false);
  expect([seekData(0, 0, 1), seekHole(0, 0), punchHole(0, 0, 1)]).toEqual([null, null, false]);
});

it('a sparse file is all data', () => {
  const unit = openFileUnit(sparse(3_000_000, [0, 2 ** 20]));
  expect(unit.extents({ offset: 10, length: 2_999_990 })).toEqual([
    { offset: 10, length: 2_999_990, kind: 'data' },
  ]);
  unit.close();
});

it('zeros are written, however many they are, and nothing beside them', () => {
  const unit = openFileUnit(sparse(3_000_000), { write: true });
  unit.write(0, new Uint8Array(3_000_000).fill(8));
  unit.zero({ offset: 1000, length: 2_500_000 });
  const back = new Uint8Array(3_000_000);
  unit.read(0, back);
  expect([back.indexOf(0), back.lastIndexOf(0), back.indexOf(8, 1000)]).toEqual([1000, 2_500_999, 2_501_000]);
  unit.close();
});

conformance({
  title: 'a file',
  make: (size) => openFileUnit(sparse(size), { write: true }),
  makeReadOnly: (size) => openFileUnit(sparse(size)),
});
conformance({
  title: 'the fault filter without faults',
  make: (size) => faultUnit(openFileUnit(sparse(size), { write: true }), []),
});

describeWith(['loop devices'], 'block devices', () => {
  conformance({
    title: 'a block device',
    make: (size) => openFileUnit(loopDevice(sparse(size)), { write: true }),
    runs: 5,
  });
});
