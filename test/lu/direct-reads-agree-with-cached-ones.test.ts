import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { attachFileUnit, openFileUnit } from '../../src/lu/file-unit.ts';
import { scan } from '../../src/scan/scan.ts';
import { temporary } from '../tools.ts';

const SIZE = 300_001;
const folder = temporary();
const contents = new Uint8Array(SIZE).map((_, i) => (i * 31 + (i >> 8) * 7) & 0xff);
const path = join(folder, 'disk.raw');
writeFileSync(path, contents);

/** Whether the tests' folder lies on a file system that can be read past the cache: else there is nothing to test. */
const able = (() => {
  const unit = openFileUnit(path);
  const can = unit.goDirect();
  unit.close();
  return can;
})();

describe.skipIf(!able)('a file read past the page cache', () => {
  it('reads the same bytes at every offset and alignment, in this thread and attached', () => {
    const unit = openFileUnit(path);
    expect(unit.goDirect()).toBe(true);
    const handle = unit.handle();
    expect(handle.kind === 'file' && handle.directFd).not.toBeNull();
    const attached = attachFileUnit(handle as Parameters<typeof attachFileUnit>[0]);
    const memory = new Uint8Array(new WebAssembly.Memory({ initial: 8, maximum: 8, shared: true }).buffer);
    const places = fc.record({
      offset: fc.oneof(
        fc.nat(SIZE),
        fc.nat(73).map((page) => page * 4096),
      ),
      length: fc.oneof(
        fc.nat(SIZE),
        fc.nat(73).map((page) => page * 4096),
      ),
      at: fc.oneof(
        fc.nat(100_000),
        fc.nat(20).map((page) => page * 4096),
      ),
    });
    fc.assert(
      fc.property(places, ({ offset, length, at }) => {
        const from = Math.min(offset, SIZE);
        const target = memory.subarray(at, at + Math.min(length, SIZE - from));
        for (const one of [unit, attached]) {
          target.fill(0);
          one.read(from, target);
          expect(Buffer.compare(target, contents.subarray(from, from + target.length))).toBe(0);
        }
      }),
    );
    unit.close();
  });

  it('a scan finds what it finds through the cache', async () => {
    const other = contents.slice();
    other[299_999]! ^= 1;
    other[70_000]! ^= 1;
    const replicaPath = join(folder, 'replica.raw');
    writeFileSync(replicaPath, other);
    for (const compare of ['bytes', 'signatures'] as const) {
      const production = await openDisk(path, { direct: true });
      const replica = await openDisk(replicaPath, { direct: true });
      expect(production.warnings).toEqual([]);
      const { ranges } = await scan({ production, replica, compare, workers: 2 });
      expect(ranges).toEqual([
        { offset: 65536, length: 65536 },
        { offset: 262144, length: SIZE - 262144 },
      ]);
      await production.close();
      await replica.close();
    }
  });

  it('says of a disk inside a unit only what is true: whole pages are read past the cache', async () => {
    const unit = join(folder, 'unit.img');
    // One partition at a page, one at sector 63.
    const table = new Uint8Array(1024 * 1024).fill(3);
    table.fill(0, 0, 512);
    const view = new DataView(table.buffer);
    for (const [at, first, sectors] of [
      [446, 8, 512],
      [462, 1023, 512],
    ] as const) {
      table[at + 4] = 0x83;
      view.setUint32(at + 8, first, true);
      view.setUint32(at + 12, sectors, true);
    }
    view.setUint16(510, 0xaa55, true);
    writeFileSync(unit, table);
    const aligned = await openDisk(`${unit}:mbr1`, { direct: true, format: 'raw' });
    expect(aligned.warnings).toEqual([]);
    const shifted = await openDisk(`${unit}:mbr2`, { direct: true, format: 'raw' });
    expect(shifted.warnings).toEqual([expect.stringMatching(/does not lie in whole pages of its unit/)]);
    for (const disk of [aligned, shifted]) await disk.close();
  });
});
