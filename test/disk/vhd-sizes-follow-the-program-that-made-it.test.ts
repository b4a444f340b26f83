import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadVhd } from '../../src/disk/formats/vhd.ts';
import { BytesUnit, describeWith, qemuImg, temporaryFolder } from './images.ts';
import { buildVhd, LARGEST } from './vhd-builder.ts';
import { load, refusalOf } from './vhd-loading.ts';

const size = 20 * 2 ** 20;
/** 600 cylinders of 4 heads and 17 sectors: 20,889,600 bytes, somewhat less than the size. */
const geometry = [600, 4, 17] as const;
const byGeometry = 600 * 4 * 17 * 512;

function image(creator: string, [cylinders, heads, sectors]: readonly [number, number, number]): Uint8Array {
  return buildVhd({ type: 2, size, creator, geometry: [cylinders, heads, sectors] });
}

const creators: readonly (readonly [string, number])[] = [
  ['vpc ', byGeometry],
  ['qemu', byGeometry],
  ['vs  ', byGeometry],
  ['win ', size],
  ['d2v ', size],
  ['tap\0', size],
  ['CTXS', size],
  ['qem2', size],
  ['wa\0\0', size],
  ['vbox', size],
];

describe('the size of a VHD', () => {
  it.each(creators)('made by %j is %i bytes', async (creator, expected) => {
    const { map, warnings } = await load(loadVhd, new BytesUnit(image(creator, geometry)));
    expect(map.size).toBe(expected);
    expect(warnings).toEqual([]);
  });

  it.each(creators)('made by %j with the largest geometry is the size in bytes', async (creator) => {
    const { map } = await load(loadVhd, new BytesUnit(image(creator, LARGEST)));
    expect(map.size).toBe(size);
  });

  it('made by a program that nobody knows is the size in bytes, and both sizes are told', async () => {
    const { map, warnings } = await load(loadVhd, new BytesUnit(image('new\n', geometry)));
    expect(map.size).toBe(size);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(new RegExp(`'new\\?'.*${size} bytes.*${byGeometry}`));
  });

  it('made by such a program, where both sizes agree, is not worth a warning', async () => {
    const equal = buildVhd({ type: 2, size: byGeometry, creator: 'new ', geometry });
    const { map, warnings } = await load(loadVhd, new BytesUnit(equal));
    expect(map.size).toBe(byGeometry);
    expect(warnings).toEqual([]);
  });

  it('by an empty geometry is an error', async () => {
    const error = await refusalOf(loadVhd, new BytesUnit(image('vpc ', [0, 4, 17])));
    expect(error.kind).toBe('malformed');
    expect(error.offset).toBe(size + 56);
    expect(error.message).toMatch(/geometry/);
  });

  it('of a fixed disk that is larger than its file is an error', async () => {
    const bytes = buildVhd({ type: 2, size: 4096, patchFooter: (view) => view.setBigUint64(48, 8192n) });
    const error = await refusalOf(loadVhd, new BytesUnit(bytes));
    expect(error.message).toMatch(/8192 bytes needs as many before the footer, there are 4096/);
  });
});

describeWith('qemu', 'the size of a VHD in QEMU', () => {
  const folder = temporaryFolder();
  // QEMU knows neither Virtual Server, which is like Virtual PC, nor VirtualBox, for which it takes the geometry.
  it.each(creators.filter(([creator]) => creator !== 'vbox' && creator !== 'wa\0\0'))(
    'made by %j is the same',
    (creator, expected) => {
      const path = join(folder, `${creator.charCodeAt(0)}${creator.charCodeAt(2)}.vhd`);
      writeFileSync(path, image(creator, geometry));
      const info = JSON.parse(qemuImg('info', '--output=json', '-f', 'vpc', path)) as {
        'virtual-size': number;
      };
      expect(info['virtual-size']).toBe(expected);
    },
  );
});
