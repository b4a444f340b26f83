import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseAddress } from '../../src/disk/address.ts';
import { attachDisk } from '../../src/disk/attach.ts';
import { openDisk } from '../../src/disk/open.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { readAll, sha256 } from './images.ts';

const folder = temporary();
const path = (name: string) => join(folder, name);

it('an address is units and steps; a file of that name is the file', () => {
  expect(parseAddress('lu0.img,lu1.img:gpt2/lvm:vg-0/a_b.c')).toEqual({
    units: ['lu0.img', 'lu1.img'],
    steps: [
      { kind: 'partition', table: 'gpt', number: 2, text: 'gpt2' },
      { kind: 'volume', group: 'vg-0', name: 'a_b.c', text: 'lvm:vg-0/a_b.c' },
    ],
  });
  expect(parseAddress('/a:b/c:mbr1/gpt3')).toMatchObject({
    units: ['/a:b/c'],
    steps: [{ table: 'mbr' }, { table: 'gpt' }],
  });
  expect(parseAddress('lu0:gpt2/lvm:vg/lv/ext3:/a//b/./c:d')).toMatchObject({
    steps: [{}, {}, { kind: 'file', fileSystem: 'ext4', path: '/a/b/c:d', text: 'ext4:/a/b/c:d' }],
  });
  expect(parseAddress('lu0:ntfs:/gpt1/lvm:a/b')).toMatchObject({
    steps: [{ fileSystem: 'ntfs', path: '/gpt1/lvm:a/b' }],
  });
  for (const plain of ['vm.raw', 'C:/vm.raw', 'a:b', 'gpt2', ':gpt2', 'nbd://host'])
    expect(parseAddress(plain)).toBeNull();
  writeFileSync(path('odd:gpt1'), '');
  expect(parseAddress(path('odd:gpt1'))).toBeNull();
  for (const bad of [
    'a:gpt0',
    'a:gpt2/nonsense',
    'a:lvm:only',
    'a:gpt2x',
    'a:xfs:b',
    'a:xfs:/',
    'a:xfs:/b/',
    `a:${'gpt1/'.repeat(17)}gpt1`,
  ]) {
    expect(() => parseAddress(bad)).toThrow(/expected/);
  }
});

describeWith(['corpus'], 'addresses in the sample units', () => {
  const unpack = (name: string) => {
    writeFileSync(path(name), gunzip(join(corpus!, 'generated', 'lu', `${name}.gz`)));
    return path(name);
  };
  const [lu0, lu1, lu2] = ['lu0.img', 'lu1.img', 'lu2.img'].map(unpack) as [string, string, string];
  const manifest = JSON.parse(readFileSync(join(corpus!, 'MANIFEST.json'), 'utf8'));
  const base = manifest['generated/base.raw.gz'].sha256_guest as string;

  it('reads a thin volume, here and through its handle', async () => {
    const disk = await openDisk(`${lu2}:lvm:vgthin/thin1`, { format: 'raw' });
    const size = manifest['generated/base.raw.gz'].virtual_size as number;
    const bytes = await readAll(disk);
    expect(sha256(bytes.subarray(0, size))).toBe(base);
    expect(bytes.subarray(size).every((byte) => byte === 0)).toBe(true);
    const attached = attachDisk(structuredClone(disk.handle()));
    const again = new Uint8Array(size);
    await attached.read(0, again);
    expect(sha256(again)).toBe(base);
    await disk.close();
  });

  it('leads a linear volume of two segments to its unit, and a striped one to both', async () => {
    const linear = await openDisk(`${lu0},${lu1}:gpt2/lvm:vglu/lin`, { format: 'raw' });
    expect(linear.units.map(({ name }) => name)).toContain(lu0);
    const segments = [...linear.map.extents()].map(({ length, unit }) => [length, linear.units[unit]!.name]);
    // lvm-segments.txt: 40 and 64 extents of 1 MiB, both on the first physical volume.
    expect(segments).toEqual([
      [40 * 2 ** 20, lu0],
      [64 * 2 ** 20, lu0],
    ]);
    const striped = await openDisk(`${lu0},${lu1}:gpt2/lvm:vglu/strip`, { format: 'raw' });
    const units = new Set([...striped.map.extents()].map(({ unit }) => striped.units[unit]!.name));
    expect(units).toEqual(new Set([lu0, lu1]));
    expect(striped.size).toBe(48 * 2 ** 20);
    await linear.close();
    await striped.close();
  });

  it('says what is there when a step leads nowhere', async () => {
    await expect(openDisk(`${lu0}:gpt99`)).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/there are gpt1/),
    });
    await expect(openDisk(`${lu0}:mbr1`)).rejects.toMatchObject({ kind: 'not-found' });
    await expect(openDisk(`${lu2}:lvm:vgthin/none`)).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(/vgthin\/thin1/),
    });
    await expect(openDisk(`${lu0}:gpt2/lvm:vglu/strip`)).rejects.toMatchObject({ name: 'DriftmapError' });
    await expect(openDisk(`${path('missing')}:gpt1`)).rejects.toMatchObject({ kind: 'not-found' });
  });
});
