import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { GiB, MiB, TiB } from '../../../src/base/units.ts';
import { Intents } from '../../../src/protect/splitter/intents.ts';
import {
  type IntentImage,
  newImage,
  placeOfRegion,
  putCondition,
  REGIONS_PER_SECTOR,
  readImage,
  regionCount,
  regionFor,
  SECTOR,
} from '../../../src/protect/splitter/intents-file.ts';
import { randomOf } from '../../journal/disks.ts';
import { temporary, thrown } from '../../tools.ts';

const folder = temporary();
const journal = 'ab'.repeat(16);
const table = {
  group: 'web',
  disks: [
    { name: 'system', size: 40 * MiB + 5, identity: 'file:1', region: 4 * MiB },
    { name: 'data', size: 20 * GiB, identity: 'file:2', region: 4 * MiB },
  ],
};

function isSet({ bytes, starts }: IntentImage, disk: number, region: number): boolean {
  const { byte, mask } = placeOfRegion(starts[disk]!, region);
  return (bytes[byte]! & mask) !== 0;
}

function setRegions(image: IntentImage): [number, number][] {
  return image.table.disks.flatMap((disk, i) =>
    Array.from({ length: regionCount(disk) }, (_, region) => [i, region] as [number, number]).filter(
      ([, region]) => isSet(image, i, region),
    ),
  );
}

let count = 0;
const open: Intents[] = [];
afterEach(async () => {
  for (const intents of open.splice(0)) await intents.close();
});
function made(): { path: string; intents: Intents } {
  const path = join(folder, `intents${count++}`);
  const image = newImage(table, journal, 7);
  writeFileSync(path, image.bytes);
  const intents = new Intents(path, image);
  open.push(intents);
  return { path, intents };
}
const read = (path: string) => readImage(new Uint8Array(readFileSync(path)), path);

describe('write intents', () => {
  it('are in the file before a region is hot, and many share one flush', async () => {
    const { path, intents } = made();
    const heating = [intents.heatUp(0, 3, 4), intents.heatUp(1, 4100, 4102), intents.heatUp(0, 3, 5)];
    expect(heating.every((one) => one instanceof Promise)).toBe(true);
    expect(intents.isHot(0, 3)).toBe(false);
    await Promise.all(heating);
    expect(setRegions(read(path).image)).toEqual([
      [0, 3],
      [0, 4],
      [1, 4100],
      [1, 4101],
    ]);
    expect(intents.heatUp(1, 4100, 4102)).toBe(undefined);
    expect([...intents.hot(1)]).toEqual([4100, 4101]);
  });

  it('are cleared in the file in time, and can be set again at once', async () => {
    const { path, intents } = made();
    await intents.heatUp(1, 0, 3);
    intents.coolDown(1, [0, 2]);
    expect(setRegions(read(path).image)).toEqual([[1, 1]]);
    const again = intents.heatUp(1, 0, 1);
    expect(again).toBeInstanceOf(Promise);
    await again;
    expect(setRegions(read(path).image)).toEqual([
      [1, 0],
      [1, 1],
    ]);
  });

  it('count as set where a sector is torn at any byte', async () => {
    const { path, intents } = made();
    await intents.heatUp(1, 10, 11);
    const before = new Uint8Array(readFileSync(path));
    await intents.heatUp(1, 2000, 2001);
    const after = new Uint8Array(readFileSync(path));
    const at = placeOfRegion(intents.image.starts[1]!, 10).sector * SECTOR;
    for (let cut = 0; cut <= SECTOR; cut += 1) {
      for (const [first, second] of [
        [before, after],
        [after, before],
      ] as const) {
        const torn = first.slice();
        torn.set(second.subarray(at, at + cut), at);
        const { image, torn: sectors } = readImage(torn, path);
        expect(isSet(image, 1, 10)).toBe(true);
        const isWhole = Buffer.compare(torn, before) === 0 || Buffer.compare(torn, after) === 0;
        expect(sectors, `cut at ${cut}`).toBe(isWhole ? 0 : 1);
        if (!isWhole) {
          expect(isSet(image, 1, 2000)).toBe(true);
          expect(isSet(image, 1, REGIONS_PER_SECTOR)).toBe(false);
        }
      }
    }
  });

  it('keep the condition before, where the newest is torn', async () => {
    const { path, intents } = made();
    await intents.conclude({ sequence: 100 });
    const before = new Uint8Array(readFileSync(path));
    await intents.conclude({ sequence: 200, clean: true });
    const after = new Uint8Array(readFileSync(path));
    const changed = [1, 2].find(
      (sector) =>
        Buffer.compare(
          before.subarray(sector * SECTOR, (sector + 1) * SECTOR),
          after.subarray(sector * SECTOR, (sector + 1) * SECTOR),
        ) !== 0,
    )!;
    for (let cut = 0; cut <= SECTOR; cut++) {
      const torn = before.slice();
      torn.set(after.subarray(changed * SECTOR, changed * SECTOR + cut), changed * SECTOR);
      const { condition } = readImage(torn, path).image;
      const isWhole = Buffer.compare(torn, after) === 0;
      expect({ sequence: condition.sequence, clean: condition.clean }).toEqual(
        isWhole ? { sequence: 200, clean: true } : { sequence: 100, clean: false },
      );
      expect(condition.journal).toBe(journal);
    }
  });

  it('say nothing at all where their front is damaged, and that is told', () => {
    const { bytes } = newImage(table, journal, 7);
    for (const at of [0, 8, 12, 16, 33, 511, 3 * SECTOR, 3 * SECTOR + 20]) {
      const damaged = bytes.slice();
      damaged[at]! ^= 0x10;
      expect(thrown(() => readImage(damaged, 'x'))).toMatchObject({ name: 'DriftmapError', path: 'x' });
    }
    for (const length of [0, 100, SECTOR, 5 * SECTOR, bytes.length - 1]) {
      expect(thrown(() => readImage(bytes.slice(0, length), 'x'))).toMatchObject({ kind: 'malformed' });
    }
  });

  it('never lose a region, whatever is damaged behind the front', () => {
    const random = randomOf(5);
    const image = newImage(table, journal, 7);
    const path = join(folder, 'damaged');
    writeFileSync(path, image.bytes);
    const front = image.starts[0]! * SECTOR;
    for (let round = 0; round < 200; round++) {
      const bytes = image.bytes.slice();
      const at = front + random(bytes.length - front);
      bytes[at]! ^= 1 + random(255);
      const { torn } = readImage(bytes, path);
      expect(torn).toBe(1);
    }
  });

  it('fail the writes that wait where they cannot be made durable, and work again afterwards', async () => {
    const { path, intents } = made();
    const writable = intents as unknown as { fd: number };
    const { fd } = writable;
    writable.fd = -1;
    const one = intents.heatUp(0, 0, 1)!;
    const other = intents.heatUp(0, 0, 2)!;
    await expect(one).rejects.toMatchObject({ name: 'DriftmapError', path });
    await expect(other).rejects.toMatchObject({ path });
    expect(intents.isHot(0, 0)).toBe(false);
    writable.fd = fd;
    await intents.heatUp(0, 0, 1);
    expect(intents.isHot(0, 0)).toBe(true);
    expect(isSet(read(path).image, 0, 0)).toBe(true);
  });

  it('have a bounded number of regions, however large the disk', () => {
    for (const size of [1, 4 * MiB, 3 * TiB, 5 * TiB, 2 ** 50, 2 ** 53 - 1]) {
      const region = regionFor(size);
      expect(Math.ceil(size / region)).toBeLessThanOrEqual(1_048_576);
      expect(region >= 4 * MiB).toBe(true);
    }
    expect(regionFor(3 * TiB)).toBe(4 * MiB);
  });
});

describe('version 1 of the file', () => {
  it('is written and read as it always was', () => {
    const salt = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
    const image = newImage({ ...table, disks: table.disks.slice(0, 1) }, journal, 7, salt);
    putCondition(image, { number: 2, clean: true, journal, sequence: 4_294_967_301 });
    const path = join(import.meta.dirname, '..', '..', 'abi', 'intents-v1.bin');
    // Made once, by DRIFTMAP_FREEZE=1; whoever has to make it anew has made version 2.
    if (process.env.DRIFTMAP_FREEZE) writeFileSync(path, image.bytes, { flag: 'wx' });
    expect(Buffer.compare(readFileSync(path), image.bytes)).toBe(0);
    const { image: again, torn } = read(path);
    expect(torn).toBe(0);
    expect(again.condition).toEqual({ number: 2, clean: true, journal, sequence: 4_294_967_301 });
    expect(again.table.disks).toEqual(table.disks.slice(0, 1));
  });
});
