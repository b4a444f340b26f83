import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadVhd } from '../../src/disk/formats/vhd.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { gunzip } from '../tools.ts';
import { BytesUnit, corpus, describeWith, qemuImg, qemuIo, sha256, temporaryFolder } from './images.ts';
import { contentsOf, load, randomFrom, same } from './vhd-loading.ts';

interface Entry {
  readonly virtual_size: number;
  readonly sha256_guest: string;
  readonly map: readonly (readonly [number, number, number, number, number, number | null])[];
}

describeWith('corpus', 'VHD samples', () => {
  const manifest: Record<string, Entry> =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'MANIFEST.json'), 'utf8'));
  const names = Object.keys(manifest).filter((name) => name.startsWith('generated/vhd/'));

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(1);
  });

  it.each(names)('%s', async (name) => {
    const { virtual_size, sha256_guest, map } = manifest[name]!;
    const image = await load(loadVhd, new BytesUnit(gunzip(join(corpus!, name)), { name }));
    expect(image.map.size).toBe(virtual_size);
    expect(image.warnings).toEqual([]);
    expect(image.backing).toBeNull();
    expect(sha256(await contentsOf(image))).toBe(sha256_guest);
    // QEMU looks for holes in the file besides; what is data here must be where QEMU says.
    for (const [start, length, , , data, place] of map) {
      const { kind, place: ours, length: whole } = image.map.explain(start);
      if (data === 0) expect(kind).toBe(Kind.unallocated);
      else {
        expect([kind, ours]).toEqual([Kind.data, place]);
        expect(whole).toBeGreaterThanOrEqual(length);
      }
    }
  });
});

describeWith('qemu', 'VHD images made by QEMU', () => {
  const folder = temporaryFolder();

  it.each([
    ['dynamic', 'on', 40 * 2 ** 20],
    ['dynamic', 'off', 40 * 2 ** 20],
    ['dynamic', 'on', 5 * 2 ** 20 + 512],
    ['fixed', 'on', 3 * 2 ** 20 + 512],
    ['fixed', 'off', 9 * 2 ** 20],
  ])('%s, force_size=%s, %i bytes', async (subformat, forceSize, size) => {
    const path = join(folder, `${subformat}-${forceSize}-${size}.vhd`);
    const options = `subformat=${subformat},force_size=${forceSize}`;
    qemuImg('create', '-f', 'vpc', '-o', options, path, String(size));
    const random = randomFrom(size);
    const writes: string[] = [];
    for (let i = 0; i < 30; i++) {
      const length = 512 * (1 + random(400));
      writes.push(`write -P ${1 + random(255)} ${512 * random((size - length) / 512)} ${length}`);
    }
    qemuIo(path, writes, ['-f', 'vpc']);
    const raw = join(folder, 'contents.raw');
    qemuImg('convert', '-f', 'vpc', '-O', 'raw', path, raw);
    const unit = openFileUnit(path);
    const image = await load(loadVhd, unit);
    expect(same(await contentsOf(image), readFileSync(raw))).toBe(true);
    expect(image.warnings).toEqual([]);
    unit.close();
  });
});
