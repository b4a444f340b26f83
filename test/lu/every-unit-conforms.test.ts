import { MiB } from '../../src/base/units.ts';
import { createArrayImage } from '../../src/lu/array-image.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { delayUnit, faultUnit, logUnit } from '../../src/lu/filters.ts';
import { describeWith } from '../tools.ts';
import { conformance } from './conformance.ts';
import { loopDevices, workshop } from './files.ts';

const { sparse } = workshop();
const loopDevice = loopDevices();

conformance({
  title: 'a file',
  make: (size) => openFileUnit(sparse(size), { write: true }),
  makeReadOnly: (size) => openFileUnit(sparse(size)),
});
conformance({ title: 'an array image', make: (size) => createArrayImage({ size }) });
conformance({
  title: 'an array image of several banks',
  make: (size) => createArrayImage({ size, bankBytes: 65536 }),
});
conformance({
  title: 'an array image in a bank that it does not fill',
  make: (size) => createArrayImage({ size, bankBytes: 16 * MiB }),
});
conformance({
  title: 'the fault filter without faults',
  make: (size) => faultUnit(openFileUnit(sparse(size), { write: true }), []),
  makeReadOnly: (size) => faultUnit(openFileUnit(sparse(size)), []),
});
conformance({
  title: 'the delay filter',
  make: (size) =>
    delayUnit(createArrayImage({ size }), {
      on: ['flush', 'extents', 'read', 'write', 'zero'],
      milliseconds: 0,
    }),
});
conformance({ title: 'the log filter', make: (size) => logUnit(createArrayImage({ size }), () => {}) });

describeWith(['loop devices'], 'block devices', () => {
  conformance({
    title: 'a block device',
    make: (size) => openFileUnit(loopDevice(sparse(size)), { write: true }),
    makeReadOnly: (size) => openFileUnit(loopDevice(sparse(size))),
    runs: 5,
  });
});
