import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { Volume } from '../../src/disk/containers/container.ts';
import { readVolumeGroups } from '../../src/disk/containers/lvm-groups.ts';
import { readPartitions } from '../../src/disk/containers/partitions.ts';
import { DiskReader } from '../../src/disk/reader.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import type { ExtentMap } from '../../src/mapping/extent-map.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import { groupText, other, randomFrom, simpleVolume, striped, uuidOf } from './lvm-builder.ts';

const MiB = 1024 * 1024;

async function contents(map: ExtentMap, units: readonly LogicalUnit[]): Promise<Uint8Array> {
  const bytes = new Uint8Array(map.size);
  const reader = new DiskReader({ name: 'volume', map, units });
  for (let at = 0; at < bytes.length; at += MiB) {
    const pending = reader.readInto(at, bytes.subarray(at, Math.min(at + MiB, bytes.length)));
    if (pending) await pending;
  }
  return bytes;
}

const named = (volumes: readonly Volume[], name: string) => volumes.find((volume) => volume.name === name)!;

describeWith(['corpus'], 'the sample volume group over two logical units', () => {
  const unpacked = new Map<string, Buffer>();
  const sample = (name: string) => {
    const bytes = unpacked.get(name) ?? gunzip(join(corpus!, 'generated/lu', `${name}.gz`));
    unpacked.set(name, bytes);
    return bytes;
  };

  /** The second partition of the first unit, and the second unit whole: as LVM saw them. */
  async function units(): Promise<BytesUnit[]> {
    const first = sample('lu0.img');
    const { partitions } = await readPartitions(new BytesUnit(first));
    const { offset, length } = partitions.find(({ number }) => number === 2)!;
    return [
      new BytesUnit(first.subarray(offset, offset + length), { name: 'lu0p2' }),
      new BytesUnit(sample('lu1.img'), { name: 'lu1' }),
    ];
  }

  it('lies where lvs says that it lies, whichever unit is named first', async () => {
    // lvm-segments.txt, with 1 MiB extents that begin at 1 MiB of each physical volume.
    const linear = [
      [0, 40, 0, 0],
      [40, 64, 0, 72],
    ];
    const stripes = Array.from({ length: 768 }, (_, i) => [i, i % 2, (i - (i % 2)) / 2]);
    const [first, second] = (await units()) as [BytesUnit, BytesUnit];
    for (const order of [
      [first, second],
      [second, first],
    ]) {
      const { volumes, warnings } = await readVolumeGroups(order);
      expect(warnings).toEqual([]);
      expect(volumes.map(({ group, name, kind, size }) => [group, name, kind, size / MiB])).toEqual([
        ['vglu', 'lin', 'linear', 104],
        ['vglu', 'strip', 'striped', 48],
        ['vglu', 'raidlin', 'linear', 4],
      ]);
      const unitAt = (index: number) => order.indexOf(index === 0 ? first : second);
      const runs = (map: ExtentMap) =>
        [...map.extents()].map(({ offset, length, unit, place }) => [offset, length, unit, place]);
      expect(runs(await named(volumes, 'lin').map())).toEqual(
        linear.map(([at, count, unit, place]) => [
          at! * MiB,
          count! * MiB,
          unitAt(unit!),
          (1 + place!) * MiB,
        ]),
      );
      expect(runs(await named(volumes, 'raidlin').map())).toEqual([[0, 4 * MiB, unitAt(0), 41 * MiB]]);
      expect(runs(await named(volumes, 'strip').map())).toEqual(
        stripes.map(([i, unit, row]) => [
          i! * 65536,
          65536,
          unitAt(unit!),
          (unit === 0 ? 49 : 1) * MiB + row! * 65536,
        ]),
      );
    }
  });

  it('says which unit is missing, only of volumes that need it', async () => {
    const [first, second] = (await units()) as [BytesUnit, BytesUnit];
    const alone = await readVolumeGroups([first]);
    await expect(named(alone.volumes, 'strip').map()).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/pv1 \(0tKSVU-3wfe-2x3A-eJgc-ERun-Uezd-pgqdIF\) is on none/),
    });
    expect((await named(alone.volumes, 'lin').map()).count).toBe(2);
    const { volumes } = await readVolumeGroups([second]);
    await expect(named(volumes, 'lin').map()).rejects.toMatchObject({ kind: 'not-found' });
  });

  it('lists its thin pool and thin volume, and maps no pool', async () => {
    const { volumes, warnings } = await readVolumeGroups([new BytesUnit(sample('lu2.img'))]);
    expect(warnings).toEqual([]);
    expect(volumes.map(({ name, kind, size }) => [name, kind, size / MiB])).toEqual([
      ['pool', 'thin-pool', 40],
      ['thin1', 'thin', 64],
    ]);
    await expect(named(volumes, 'pool').map()).rejects.toMatchObject({ kind: 'unsupported' });
  });
});

describeWith(['corpus', 'grub-fstest'], 'volumes of the sample group', () => {
  it('have the contents that GRUB reads', async () => {
    const folder = temporary();
    const paths = ['lu0.img', 'lu1.img'].map((name) => {
      const path = join(folder, name);
      writeFileSync(path, gunzip(join(corpus!, 'generated/lu', `${name}.gz`)));
      return path;
    });
    const [first, second] = paths.map((path) => readFileSync(path)) as [Buffer, Buffer];
    const units = [new BytesUnit(first.subarray(17825792, 17825792 + 183483904)), new BytesUnit(second)];
    const { volumes } = await readVolumeGroups(units);
    for (const { name, size, map } of volumes) {
      const device = `(lvm/vglu-${name})0+${size / 512}`;
      const said = execFileSync('grub-fstest', ['-c', '2', ...paths, 'crc', device], { encoding: 'utf8' });
      expect(crc32(await contents(await map(), units)), name).toBe(Number.parseInt(said, 16));
    }
  }, 30_000);
});

describeWith(['grub-fstest'], 'volume groups made up at random', () => {
  it('have the contents that GRUB reads', async () => {
    const folder = temporary();
    const random = randomFrom(77);
    for (let round = 0; round < 6; round++) {
      // Volumes take extents in turn from three units, so that no extent has two owners.
      const free = [0, 0, 0];
      const take = (unit: number, count: number) => {
        free[unit]! += count + random(2);
        return free[unit]! - count;
      };
      const volumes: Record<string, string[]> = {};
      for (let v = 0; v < 4; v++) {
        const segments: string[] = [];
        for (let s = 0, first = 0; s < 1 + random(3); s++) {
          const areas = [0, 1, 2].slice(0, 1 + random(3)).map((unit) => (unit + v) % 3);
          const perArea = 1 + random(5);
          const words = areas.map((unit) => [`pv${unit}`, take(unit, perArea)] as const);
          segments.push(striped(first, perArea * areas.length, words, 8));
          first += perArea * areas.length;
        }
        volumes[`v${v}`] = segments;
      }
      const physical = [0, 1, 2].map((i) => ({ name: `pv${i}`, uuid: uuidOf(i), extents: 256 }));
      const text = groupText({ physical, volumes });
      const bytes = [0, 1, 2].map((i) => {
        const unit = simpleVolume(uuidOf(i), text, (1 << 20) + 256 * 4096);
        for (let at = 1 << 20; at < unit.length; at++) unit[at] = random(256);
        return unit;
      });
      const paths = bytes.map((unit, i) => {
        const path = join(folder, `r${round}-${i}.img`);
        writeFileSync(path, unit);
        return path;
      });
      const units = bytes.map((unit) => new BytesUnit(unit));
      const found = await readVolumeGroups(units);
      expect(found.warnings).toEqual([]);
      for (const { name, size, map } of found.volumes) {
        const device = `(lvm/vg-${name})0+${size / 512}`;
        const said = execFileSync('grub-fstest', ['-c', '3', ...paths, 'crc', device], { encoding: 'utf8' });
        expect(crc32(await contents(await map(), units)), `${name}\n${text}`).toBe(Number.parseInt(said, 16));
      }
    }
  }, 30_000);
});

describeWith(['corpus'], 'the sample thin volume', () => {
  it('is the sample disk, with zeros behind it, and lies where thin.xml says', async () => {
    const unit = new BytesUnit(gunzip(join(corpus!, 'generated/lu/lu2.img.gz')));
    const base = gunzip(join(corpus!, 'generated/base.raw.gz'));
    const xml = readFileSync(join(corpus!, 'generated/lu/thin.xml'), 'utf8');
    const { volumes } = await readVolumeGroups([unit]);
    const map = await named(volumes, 'thin1').map();
    const bytes = await contents(map, [unit]);
    const hash = (part: Uint8Array) => createHash('sha256').update(part).digest('hex');
    expect(hash(bytes.subarray(0, base.length))).toBe(hash(base));
    expect(bytes.subarray(base.length).every((byte) => byte === 0)).toBe(true);
    const written = new Map(
      [...xml.matchAll(/origin_block="(\d+)" data_block="(\d+)"/g)].map(([, at, data]) => [
        Number(at),
        Number(data),
      ]),
    );
    expect(written.size).toBe(46);
    for (let block = 0; block < 1024; block++) {
      const data = written.get(block);
      const { kind, place } = map.explain(block * 65536);
      // The pool's data begins at extent 2 of the physical volume.
      expect([kind, place]).toEqual(data === undefined ? [1, -1] : [2, 3 * MiB + data * 65536]);
    }
  });
});

it('a volume that is larger than the units at hand lacks one: it is not damaged', async () => {
  const physical = [0, 1].map((i) => ({ name: `pv${i}`, uuid: uuidOf(i), extents: 256 }));
  const spread = [striped(0, 200, [['pv0', 0]]), striped(200, 200, [['pv1', 0]])];
  const text = groupText({ physical, volumes: { spread } });
  const units = [0, 1].map((i) => new BytesUnit(simpleVolume(uuidOf(i), text, (1 << 20) + 256 * 4096)));
  const { volumes } = await readVolumeGroups([units[0]!]);
  await expect(volumes[0]!.map()).rejects.toMatchObject({
    kind: 'not-found',
    message: expect.stringMatching(/volume spread: physical volume pv1 .* is on none of the units/),
  });
  expect((await (await readVolumeGroups(units)).volumes[0]!.map()).size).toBe(400 * 4096);
});

describe('kinds of volumes', () => {
  const physical = [{ name: 'pv0', uuid: uuidOf(0), extents: 200 }];
  const list = async (volumes: Record<string, string[]>) => {
    const unit = new BytesUnit(simpleVolume(uuidOf(0), groupText({ physical, volumes })));
    const found = await readVolumeGroups([unit]);
    expect(found.warnings).toEqual([]);
    return found.volumes;
  };

  it.each(['raid1', 'raid5_ls', 'cache', 'cache-pool', 'vdo', 'vdo-pool', 'mirror', 'writecache', 'error'])(
    '%s is listed and refused by name',
    async (type) => {
      const [volume] = await list({ v: [other(4, type, 'device_count = 2')] });
      expect(volume!.kind).toBe(type);
      await expect(volume!.map()).rejects.toMatchObject({
        kind: 'unsupported',
        message: expect.stringMatching(
          new RegExp(`volume v is of kind ${type}, which driftmap does not read`),
        ),
      });
    },
  );

  it('one whose segment has a flag that is not known is refused', async () => {
    const flagged = striped(0, 1, [['pv0', 0]]).replace('"striped"', '"striped+FUTURE"');
    const [volume] = await list({ v: [flagged] });
    await expect(volume!.map()).rejects.toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/the flag FUTURE, which driftmap does not know/),
    });
  });

  it('a snapshot is refused, though its volume looks linear; its origin is read unless it is being merged', async () => {
    const volumes = {
      root: [striped(0, 8, [['pv0', 0]])],
      snap: [striped(0, 2, [['pv0', 8]])],
      '.snapshot0': [other(8, 'snapshot', 'chunk_size = 8\norigin = "root"\ncow_store = "snap"')],
    };
    const still = await list(volumes);
    expect(still.map(({ name, kind }) => [name, kind])).toEqual([
      ['root', 'linear'],
      ['snap', 'snapshot'],
    ]);
    await expect(named(still, 'snap').map()).rejects.toMatchObject({ kind: 'unsupported' });
    expect((await named(still, 'root').map()).size).toBe(8 * 4096);

    const merging = await list({
      ...volumes,
      '.snapshot0': [other(8, 'snapshot', 'chunk_size = 8\norigin = "root"\nmerging_store = "snap"')],
    });
    await expect(named(merging, 'root').map()).rejects.toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/being merged into volume root/),
    });
  });

  it('zero reads as zeros between runs of data', async () => {
    const [volume] = await list({
      v: [striped(0, 2, [['pv0', 5]]), other(3, 'zero', '', 2), striped(5, 1, [['pv0', 9]])],
    });
    const runs = [...(await volume!.map()).extents()].map(({ offset, length, place }) => [
      offset / 4096,
      length / 4096,
      place < 0 ? place : (place - MiB) / 4096,
    ]);
    expect(runs).toEqual([
      [0, 2, 5],
      [2, 3, -1],
      [5, 1, 9],
    ]);
  });

  it('a volume on other volumes is mapped through them', async () => {
    const volumes = await list({
      top: [
        striped(0, 4, [['low', 1]]),
        striped(4, 4, [
          ['low', 5],
          ['pv0', 50],
        ]),
      ],
      '.low': [striped(0, 3, [['pv0', 10]]), striped(3, 5, [['pv0', 30]])],
    });
    expect(volumes.map(({ name }) => name)).toEqual(['top']);
    const runs = [...(await volumes[0]!.map()).extents()].map(({ unit, length, place }) => [
      unit,
      length / 4096,
      (place - MiB) / 4096,
    ]);
    expect(runs).toEqual([
      [0, 2, 11],
      [0, 3, 30],
      [0, 1, 50],
      [0, 1, 33],
      [0, 1, 51],
    ]);
  });

  it('a volume that lies past the end of another is an error', async () => {
    const [volume] = await list({ v: [striped(0, 3, [['low', 3]])], '.low': [striped(0, 5, [['pv0', 0]])] });
    await expect(volume!.map()).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/no volume 'low' of 6 extents to lie on/),
    });
  });

  it.each([
    ['itself', { v: [striped(0, 4, [['v', 0]])] }],
    ['one that lies on it', { v: [striped(0, 4, [['w', 0]])], '.w': [striped(0, 4, [['v', 0]])] }],
  ])('a volume that lies on %s is an error', async (_, volumes) => {
    const [volume] = await list(volumes as Record<string, string[]>);
    await expect(volume!.map()).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/lies on itself: v → /),
    });
  });
});
