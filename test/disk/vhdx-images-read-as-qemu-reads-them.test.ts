import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadVhdx } from '../../src/disk/formats/vhdx.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { gunzip } from '../tools.ts';
import { BytesUnit, corpus, describeWith, qemuImg, qemuIo, sha256, temporaryFolder } from './images.ts';
import { contentsOf, load, randomFrom, same } from './vhd-loading.ts';

interface Entry {
  readonly virtual_size: number;
  readonly sha256_guest: string;
}

describeWith('corpus', 'VHDX samples', () => {
  const manifest: Record<string, Entry> =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'MANIFEST.json'), 'utf8'));
  const names = Object.keys(manifest).filter((name) => name.startsWith('generated/vhdx/'));

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(3);
  });

  it.each(names)('%s', async (name) => {
    const { virtual_size, sha256_guest } = manifest[name]!;
    const image = await load(loadVhdx, new BytesUnit(gunzip(join(corpus!, name)), { name }));
    expect(image.map.size).toBe(virtual_size);
    expect(image.warnings).toEqual([]);
    expect(image.backing).toBeNull();
    expect(image.units).toHaveLength(1);
    expect(sha256(await contentsOf(image))).toBe(sha256_guest);
  });
});

describeWith('qemu', 'VHDX images made by QEMU', () => {
  const folder = temporaryFolder();
  const raw = join(folder, 'contents.raw');

  it.each([
    ['dynamic', '1M', 40 * 2 ** 20],
    ['dynamic', '8M', 40 * 2 ** 20 + 512],
    ['dynamic', '256M', 3 * 2 ** 20],
    ['fixed', '1M', 5 * 2 ** 20],
    ['fixed', '16M', 20 * 2 ** 20 + 1024],
  ])('%s, blocks of %s, %i bytes', async (subformat, blockSize, size) => {
    const path = join(folder, `${subformat}-${blockSize}-${size}.vhdx`);
    qemuImg(
      'create',
      '-f',
      'vhdx',
      '-o',
      `subformat=${subformat},block_size=${blockSize}`,
      path,
      String(size),
    );
    const random = randomFrom(size);
    // The first block first: QEMU before 8.0 shifts its table when block 0 is allocated after others.
    const writes = ['write -P 9 0 512'];
    for (let i = 0; i < 20; i++) {
      const length = 512 * (1 + random(2000));
      writes.push(`write -P ${1 + random(255)} ${512 * random((size - length) / 512)} ${length}`);
    }
    qemuIo(path, writes, ['-f', 'vhdx']);
    qemuImg('convert', '-f', 'vhdx', '-O', 'raw', path, raw);
    const unit = openFileUnit(path);
    const image = await load(loadVhdx, unit);
    expect(same(await contentsOf(image), readFileSync(raw))).toBe(true);
    expect(image.warnings).toEqual([]);
    unit.close();
  });

  it('a disk of more than one chunk, whose last block is written', async () => {
    const path = join(folder, 'chunks.vhdx');
    const size = 9 * 2 ** 30;
    qemuImg('create', '-f', 'vhdx', '-o', 'subformat=dynamic,block_size=1M', path, String(size));
    const writes = [0, 4095, 4096, 4097, 8191, 8192, 9215].map(
      (block, i) => `write -P ${i + 1} ${block}M 1M`,
    );
    qemuIo(path, writes, ['-f', 'vhdx']);
    const unit = openFileUnit(path);
    const { map, units } = await load(loadVhdx, unit);
    const bytes = new Uint8Array(4096);
    for (const [i, block] of [0, 4095, 4096, 4097, 8191, 8192, 9215].entries()) {
      const { place } = map.explain(block * 2 ** 20);
      units[0]!.read(place, bytes);
      expect(bytes.every((byte) => byte === i + 1)).toBe(true);
    }
    // Data, a gap, data over the first chunk's end, a gap, data over the second's, a gap, data.
    expect(map.count).toBe(7);
    unit.close();
  });
});
