import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { feltSize } from '../../src/lu/inspect.ts';
import { describeWith, thrown } from '../tools.ts';
import { loopDevices, workshop } from './files.ts';

const { path, sparse } = workshop();
const attach = loopDevices();

describeWith(['loop devices', 'blockdev'], 'a block device', () => {
  it.each([512, 4096, 3 * 2 ** 20 + 512, 5 * 2 ** 30])('of %d bytes', (size) => {
    const device = attach(sparse(size));
    const unit = openFileUnit(device);
    expect(unit.size).toBe(size);
    expect(unit.size).toBe(Number(execFileSync('blockdev', ['--getsize64', device], { encoding: 'utf8' })));
    const fd = openSync(device, 'r');
    expect(feltSize(fd, device)).toBe(size);
    closeSync(fd);
    unit.close();
  });

  it('is one and the same at each opening, and another than its neighbour and than the file below it', () => {
    const file = sparse(2 ** 20);
    const [one, two] = [attach(file), attach(sparse(2 ** 20))];
    const identities = [one, one, two, file].map((name) => {
      const unit = openFileUnit(name);
      unit.close();
      return unit.identity;
    });
    expect(identities[0]).toMatch(new RegExp(`^block:\\d+:\\d+:${2 ** 20}:`));
    expect(identities[1]).toBe(identities[0]);
    expect(new Set(identities).size).toBe(3);
  });

  it('is all data, and its generation vouches for nothing', () => {
    const unit = openFileUnit(attach(sparse(2 ** 20, [0])));
    expect(unit.extents({ offset: 0, length: 2 ** 20 })).toEqual([
      { offset: 0, length: 2 ** 20, kind: 'data' },
    ]);
    expect(unit.generation()).toBe('device');
    unit.close();
  });

  it('passes what was written and flushed to the file below it, and zeros too', () => {
    const file = sparse(2 ** 20, [0, 8192]);
    const unit = openFileUnit(attach(file), { write: true });
    unit.write(5000, new Uint8Array(10).fill(7));
    unit.zero({ offset: 8192, length: 4096 });
    unit.flush();
    unit.close();
    const bytes = readFileSync(file);
    expect([bytes[0], bytes[4999], bytes[5000], bytes[5009], bytes[5010]]).toEqual([9, 0, 7, 7, 0]);
    expect(bytes.subarray(8192).every((byte) => byte === 0)).toBe(true);
  });
});

describe('where the kernel does not tell, the size is felt for', () => {
  it.each([0, 1, 511, 512, 513, 1024, 123_457, 2 ** 32 - 1, 2 ** 32, 3 * 2 ** 40 + 12_345])(
    'to the byte: %d',
    (size) => {
      const fd = openSync(sparse(size, [], 'felt'), 'r');
      expect(feltSize(fd, path('felt'))).toBe(size);
      closeSync(fd);
    },
  );

  it('and a read that fails is an error, never the end', () => {
    // A directory opens, and each read of it fails.
    const fd = openSync(path('.'), 'r');
    expect(thrown(() => feltSize(fd, path('.')))).toMatchObject({
      name: 'DriftmapError',
      path: path('.'),
      offset: 0,
      operation: 'read',
    });
    closeSync(fd);
  });
});
