import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { noise } from '../sync/disks.ts';
import { temporary } from '../tools.ts';

const folder = temporary();

describe('a write on another thread', () => {
  const size = 3_000_001;
  const path = join(folder, 'disk.raw');

  it('puts the bytes where a write does, and nowhere else; write-back changes nothing', async () => {
    const expected = noise(size, 1);
    writeFileSync(path, expected);
    const unit = openFileUnit(path, { write: true });
    for (const [seed, offset, length] of [
      [2, 0, 1],
      [3, 777, 1_500_000],
      [4, size - 100_000, 100_000],
    ] as const) {
      const bytes = noise(length, seed);
      expected.set(bytes, offset);
      const writing = unit.writeAside(offset, bytes);
      unit.beginWriteback();
      await writing;
      unit.beginWriteback();
      const found = new Uint8Array(size);
      unit.read(0, found);
      expect(Buffer.compare(found, expected)).toBe(0);
    }
    unit.close();
  });

  it('is refused where a write is: past the end, for reading only, after close', async () => {
    writeFileSync(path, noise(1000, 5));
    const unit = openFileUnit(path, { write: true });
    const kindOf = (promise: Promise<void>) =>
      promise.then(
        () => 'done',
        (error) => (error instanceof DriftmapError ? error.kind : String(error)),
      );
    expect(await kindOf(unit.writeAside(999, new Uint8Array(2)))).toBe('argument');
    const reader = openFileUnit(path);
    expect(await kindOf(reader.writeAside(0, new Uint8Array(1)))).toBe('permission');
    reader.close();
    unit.close();
    expect(await kindOf(unit.writeAside(0, new Uint8Array(1)))).toBe('argument');
  });
});
