import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadVdi } from '../../src/disk/formats/vdi.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { Kind } from '../../src/mapping/extent-map.ts';
import { gunzip } from '../tools.ts';
import { BytesUnit, corpus, describeWith, qemuImg, qemuIo, sha256, temporaryFolder } from './images.ts';
import { buildVdi, FREE, naiveVdi, ZERO } from './vdi-builder.ts';
import { contentsOf, load, randomFrom, same } from './vhd-loading.ts';

interface Entry {
  readonly virtual_size: number;
  readonly sha256_guest: string;
  readonly map: readonly (readonly [number, number, number, number, number, number | null])[];
}

describeWith('corpus', 'VDI samples', () => {
  const manifest: Record<string, Entry> =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'MANIFEST.json'), 'utf8'));
  const names = Object.keys(manifest).filter((name) => name.startsWith('generated/vdi/'));

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(1);
  });

  it.each(names)('%s', async (name) => {
    const { virtual_size, sha256_guest, map } = manifest[name]!;
    const image = await load(loadVdi, new BytesUnit(gunzip(join(corpus!, name)), { name }));
    expect(image.map.size).toBe(virtual_size);
    expect(image.warnings).toEqual([]);
    expect(image.backing).toBeNull();
    expect(sha256(await contentsOf(image))).toBe(sha256_guest);
    for (const [start, , , , data, place] of map) {
      const { kind, place: ours } = image.map.explain(start);
      expect([kind, ours]).toEqual(data === 0 ? [Kind.unallocated, -1] : [Kind.data, place]);
    }
  });
});

describeWith('qemu', 'VDI images made by QEMU', () => {
  const folder = temporaryFolder();

  it.each([
    ['off', 40 * 2 ** 20],
    ['off', 40 * 2 ** 20 + 512],
    ['on', 5 * 2 ** 20],
    ['on', 5 * 2 ** 20 + 1024],
  ])('static=%s, %i bytes', async (whole, size) => {
    const path = join(folder, `${whole}-${size}.vdi`);
    qemuImg('create', '-f', 'vdi', '-o', `static=${whole}`, path, String(size));
    const random = randomFrom(size);
    const writes: string[] = [];
    for (let i = 0; i < 30; i++) {
      const length = 512 * (1 + random(400));
      writes.push(`write -P ${1 + random(255)} ${512 * random((size - length) / 512)} ${length}`);
    }
    qemuIo(path, writes, ['-f', 'vdi']);
    const raw = join(folder, 'contents.raw');
    qemuImg('convert', '-f', 'vdi', '-O', 'raw', path, raw);
    const unit = openFileUnit(path);
    const image = await load(loadVdi, unit);
    expect(same(await contentsOf(image), readFileSync(raw))).toBe(true);
    unit.close();
  });
});

describe('VDI images', () => {
  it('with any map, block size and extra bytes read by their map', async () => {
    const kinds = fc.array(fc.constantFrom(FREE, ZERO, 0), { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(
        kinds,
        fc.constantFrom(512, 4096, 8192),
        fc.constantFrom(0, 512),
        fc.nat(7),
        async (marks, blockSize, blockExtra, cut) => {
          const size = Math.max(512, marks.length * blockSize - cut * 512);
          // Blocks lie in the file backwards.
          let next = marks.filter((mark) => mark === 0).length;
          const map = marks.map((mark) => (mark === 0 ? --next : mark));
          const image = buildVdi({ size, blockSize, blockExtra, map });
          const loaded = await load(loadVdi, new BytesUnit(image));
          expect(loaded.map.size).toBe(size);
          expect(same(await contentsOf(loaded), naiveVdi(image)!)).toBe(true);
        },
      ),
    );
  });

  it('tell free blocks from zeroed ones', async () => {
    const { map } = await load(
      loadVdi,
      new BytesUnit(buildVdi({ size: 1536, blockSize: 512, map: [FREE, ZERO, 0] })),
    );
    expect([0, 512, 1024].map((at) => map.explain(at).kind)).toEqual([
      Kind.unallocated,
      Kind.zero,
      Kind.data,
    ]);
  });

  it('whose size is no multiple of 512 end with a whole sector', async () => {
    const { map } = await load(loadVdi, new BytesUnit(buildVdi({ size: 1000, blockSize: 512, map: [0, 1] })));
    expect(map.size).toBe(1024);
  });
});
