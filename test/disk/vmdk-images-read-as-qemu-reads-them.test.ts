import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { describeWith, qemuImg, qemuIo, qemuRuns, temporaryFolder } from './images.ts';
import { contentsOf, randomFrom, same } from './vhd-loading.ts';
import { closeUnits, loadChain, mapRuns, merged } from './vmdk-loading.ts';

describeWith('qemu', 'VMDK images that QEMU wrote', () => {
  const folder = temporaryFolder();
  const at = (name: string) => join(folder, name);

  async function expectAsQemu(image: string): Promise<void> {
    qemuImg('convert', '-f', 'vmdk', '-O', 'raw', image, at('oracle.raw'));
    const wanted = new Uint8Array(readFileSync(at('oracle.raw')));
    const loaded = await loadChain(image);
    expect(loaded.map.size).toBe(wanted.length);
    expect(same(await contentsOf(loaded), wanted)).toBe(true);
    expect(mapRuns(loaded.map)).toEqual(merged(qemuRuns(image, 'vmdk')));
    await closeUnits(loaded.units);
  }

  function scatter(seed: number, size: number, count: number, zeros: boolean): string[] {
    const random = randomFrom(seed);
    return Array.from({ length: count }, () => {
      const offset = random(size / 512) * 512;
      const length = Math.min(512 * (1 + random(400)), size - offset);
      if (!zeros || random(3) > 0) return `write -P ${1 + random(255)} ${offset} ${length}`;
      return `write -z ${offset} ${length}`;
    });
  }

  const MiB = 2 ** 20;
  it.each<[string, number, string]>([
    ['monolithicSparse', 40 * MiB + 512, ''],
    ['monolithicSparse', 40 * MiB + 65536, ',zeroed_grain=on'],
    ['monolithicSparse', 512, ''],
    ['monolithicSparse', 2 ** 40 + 512, ',zeroed_grain=on'],
    ['monolithicFlat', 3 * MiB + 512, ''],
    ['twoGbMaxExtentSparse', 2 ** 32 + 5 * MiB + 1024, ',zeroed_grain=on'],
    ['twoGbMaxExtentFlat', 2 ** 31 + 5 * MiB + 512, ''],
  ])('%s of %i bytes%s', async (subformat, size, options) => {
    const image = at(`${subformat}-${size}${options.length}.vmdk`);
    qemuImg('create', '-f', 'vmdk', '-o', `subformat=${subformat}${options}`, image, String(size));
    // So that comparing takes memory for what is written only: writes lie within the last part of large disks.
    const writes =
      size < 2 ** 30 ? scatter(size, size, 60, options !== '') : [`write -P 7 ${size - 3 * MiB} 1M`];
    qemuIo(image, writes, ['-f', 'vmdk']);
    if (size < 2 ** 30) {
      await expectAsQemu(image);
      return;
    }
    const loaded = await loadChain(image);
    expect(loaded.map.size).toBe(size);
    expect(mapRuns(loaded.map)).toEqual(merged(qemuRuns(image, 'vmdk')));
    const tail = loaded.map.extents({ offset: size - 4 * MiB, length: 4 * MiB });
    expect([...tail].some(({ place }) => place >= 0)).toBe(true);
    await closeUnits(loaded.units);
  });

  it.each([40 * MiB + 512, 3 * MiB + 65536, 512])('streamOptimized of %i bytes', async (size) => {
    const random = randomFrom(size);
    const bytes = new Uint8Array(size);
    for (let i = 0; i < 40; i++) {
      const from = random(size);
      const end = Math.min(size, from + random(200_000));
      // Some grains do not compress, some compress well.
      if (i % 2 === 0) bytes.fill(1 + random(255), from, end);
      else for (let at = from; at < end; at++) bytes[at] = random(256);
    }
    writeFileSync(at('plain.raw'), bytes);
    const image = at(`stream-${size}.vmdk`);
    qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', at('plain.raw'), image);
    await expectAsQemu(image);
    const loaded = await loadChain(image);
    expect(same(await contentsOf(loaded), bytes)).toBe(true);
    await closeUnits(loaded.units);
  });

  it('a chain of three, with zeroed grains', async () => {
    const size = 12 * MiB + 512;
    const names = ['base.vmdk', 'middle.vmdk', 'top.vmdk'];
    names.forEach((name, i) => {
      const parent = i === 0 ? [] : ['-b', names[i - 1]!, '-F', 'vmdk'];
      const subformat = i === 1 ? 'twoGbMaxExtentSparse' : 'monolithicSparse';
      const options = `subformat=${subformat},zeroed_grain=on`;
      qemuImg('create', '-f', 'vmdk', '-o', options, ...parent, at(name), ...(i === 0 ? [String(size)] : []));
      // Before anything lies over it: QEMU gives an image a new CID when it is written.
      qemuIo(at(name), scatter(77 + i, size, 20, true), ['-f', 'vmdk']);
    });
    await expectAsQemu(at('top.vmdk'));
    qemuIo(at('base.vmdk'), ['write -P 9 0 512'], ['-f', 'vmdk']);
    await expect(loadChain(at('top.vmdk'))).rejects.toMatchObject({
      kind: 'mismatch',
      path: at('middle.vmdk'),
      message: expect.stringMatching(
        /expected a parent with the CID [0-9a-f]{8}, got .*base\.vmdk with [0-9a-f]{8}/,
      ),
    });
  });

  it('a chain over a compressed base and a flat one', async () => {
    const size = 4 * MiB;
    for (const [i, subformat] of ['streamOptimized', 'monolithicFlat'].entries()) {
      const bytes = new Uint8Array(size);
      const random = randomFrom(i);
      for (let k = 0; k < 20; k++) bytes.fill(1 + random(255), random(size));
      writeFileSync(at('plain.raw'), bytes);
      const base = `base-${subformat}.vmdk`;
      qemuImg(
        'convert',
        '-f',
        'raw',
        '-O',
        'vmdk',
        '-o',
        `subformat=${subformat}`,
        at('plain.raw'),
        at(base),
      );
      qemuImg('create', '-f', 'vmdk', '-b', base, '-F', 'vmdk', at(`over-${base}`));
      qemuIo(at(`over-${base}`), scatter(i, size, 8, false), ['-f', 'vmdk']);
      await expectAsQemu(at(`over-${base}`));
    }
  });
});
