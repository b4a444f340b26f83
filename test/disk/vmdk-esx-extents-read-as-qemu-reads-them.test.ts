import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Kind } from '../../src/mapping/extent-map.ts';
import { describeWith, qemuImg, qemuRuns, temporaryFolder } from './images.ts';
import { contentsOf, randomFrom, same } from './vhd-loading.ts';
import {
  buildCowd,
  buildSeSparse,
  descriptorFile,
  naiveCowd,
  naiveSeSparse,
  SE_GRAIN,
  SECTOR,
  type SeGrain,
  type SeSpec,
} from './vmdk-builder.ts';
import {
  closeUnits,
  contentsOrNull,
  type Files,
  loadChain,
  loadFrom,
  mapRuns,
  merged,
  refusal,
  writeFiles,
} from './vmdk-loading.ts';

const filled = (seed: number, length: number) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 13 + seed * 7) % 255));

/** Every kind of grain, in two of three tables, and a disk that ends within a grain. */
function seSpec(seed: number): SeSpec {
  const random = randomFrom(seed);
  const grains = new Map<number, SeGrain>();
  const kinds = [() => null, () => 'zero' as const, () => 'unmapped' as const];
  for (let i = 0; i < 40; i++) {
    const index = i < 20 ? random(50) : 2 * 4096 + random(60);
    const kind = random(5);
    grains.set(index, kind < 3 ? kinds[kind]!() : filled(i, SE_GRAIN));
  }
  grains.set(2 * 4096 + 60, filled(99, SE_GRAIN));
  return { capacity: 8 * (2 * 4096 + 60) + 3, grains, firstNumber: 4090 };
}

function seFiles(spec: SeSpec, more = {}): Files {
  return {
    'disk.vmdk': descriptorFile({
      createType: 'seSparse',
      extents: [`RW ${spec.capacity} SESPARSE "disk-sesparse.vmdk"`],
      ...more,
    }),
    'disk-sesparse.vmdk': buildSeSparse(spec),
  };
}

function cowdFiles(seed: number, grainSectors: number, more = {}): { files: Files; capacity: number } {
  const random = randomFrom(seed);
  const count = grainSectors === 1 ? 9000 : 40;
  const grains = Array.from({ length: count }, (_, i) =>
    random(3) === 0 && (i < 4096 || i >= 8192) ? filled(i, grainSectors * SECTOR) : null,
  );
  grains[count - 1] = filled(5, grainSectors * SECTOR);
  const order = grains.map((_, i) => i).reverse();
  const capacity = count * grainSectors - (grainSectors >> 1);
  const files = {
    'disk.vmdk': descriptorFile({
      createType: 'vmfsSparse',
      extents: [`RW ${capacity} VMFSSPARSE "disk-delta.vmdk"`],
      ...more,
    }),
    'disk-delta.vmdk': buildCowd({ capacity, grainSectors, grains, order }),
  };
  return { files, capacity };
}

describeWith('qemu', 'extents of ESX, built from their layout', () => {
  const folder = temporaryFolder();
  const at = (name: string) => join(folder, name);

  async function expectAsQemu(name: string): Promise<Uint8Array> {
    qemuImg('convert', '-f', 'vmdk', '-O', 'raw', at(name), at('oracle.raw'));
    const wanted = new Uint8Array(readFileSync(at('oracle.raw')));
    const loaded = await loadChain(at(name));
    expect(loaded.map.size).toBe(wanted.length);
    expect(same(await contentsOf(loaded), wanted)).toBe(true);
    expect(mapRuns(loaded.map)).toEqual(merged(qemuRuns(at(name), 'vmdk')));
    await closeUnits(loaded.units);
    return wanted;
  }

  it.each([1, 2, 3])('seSparse, seed %i', async (seed) => {
    const spec = seSpec(seed);
    const files = seFiles(spec);
    writeFiles(folder, files);
    const contents = await expectAsQemu('disk.vmdk');
    expect(same(contents, naiveSeSparse(files['disk-sesparse.vmdk']!, contents.length)!)).toBe(true);
    expect(contents.some((byte) => byte !== 0)).toBe(true);
  });

  it.each([1, 4, 128])('COWD in grains of %i sectors', async (grainSectors) => {
    const { files, capacity } = cowdFiles(grainSectors, grainSectors);
    writeFiles(folder, files);
    const contents = await expectAsQemu('disk.vmdk');
    expect(same(contents, naiveCowd(files['disk-delta.vmdk']!, capacity * SECTOR)!)).toBe(true);
  });

  it('seSparse over COWD over a flat VMFS disk', async () => {
    const { files, capacity } = cowdFiles(7, 8, { cid: 'bbbb', parentCid: 'aaaa', hint: 'base.vmdk' });
    const flat = filled(1, capacity * SECTOR);
    const spec: SeSpec = {
      capacity,
      grains: new Map<number, SeGrain>([
        [0, filled(2, SE_GRAIN)],
        [1, 'zero'],
        [3, 'unmapped'],
        [5, null],
      ]),
    };
    writeFiles(folder, {
      'base.vmdk': descriptorFile({
        createType: 'vmfs',
        cid: 'aaaa',
        extents: [`RW ${capacity} VMFS "base-flat.vmdk"`],
      }),
      'base-flat.vmdk': flat,
      'middle.vmdk': files['disk.vmdk']!,
      'disk-delta.vmdk': files['disk-delta.vmdk']!,
      'top.vmdk': seFiles(spec, { parentCid: 'bbbb', hint: 'middle.vmdk' })['disk.vmdk']!,
      'disk-sesparse.vmdk': buildSeSparse(spec),
    });
    const contents = await expectAsQemu('top.vmdk');
    expect([...contents.subarray(SE_GRAIN, 2 * SE_GRAIN)].every((byte) => byte === 0)).toBe(true);
    expect(same(contents.subarray(0, SE_GRAIN), filled(2, SE_GRAIN))).toBe(true);
  });

  it('a split disk of a flat, a hosted and an ESX extent', async () => {
    const cowd = cowdFiles(3, 8);
    qemuImg('create', '-f', 'raw', at('plain.raw'), '3M');
    writeFileSync(at('plain.raw'), filled(4, 1 << 20), { flag: 'r+' });
    qemuImg('convert', '-f', 'raw', '-O', 'vmdk', at('plain.raw'), at('s.vmdk'));
    writeFiles(folder, {
      'flat.raw': filled(8, 9 * SECTOR),
      'delta.vmdk': cowd.files['disk-delta.vmdk']!,
      'split.vmdk': descriptorFile({
        createType: 'twoGbMaxExtentSparse',
        newline: '\r\n',
        extents: [
          'RW 5 FLAT "flat.raw" 2',
          'RW 6144 SPARSE "s.vmdk"',
          `RW ${cowd.capacity} VMFSSPARSE "delta.vmdk"`,
        ],
      }),
    });
    await expectAsQemu('split.vmdk');
  });
});

describe('seSparse', () => {
  const small: SeSpec = { capacity: 40, grains: new Map<number, SeGrain>([[0, filled(1, SE_GRAIN)]]) };
  const entryAt = (image: Uint8Array) => {
    const view = new DataView(image.buffer);
    return Number(view.getBigUint64(144, true)) * SECTOR;
  };

  it.each<[string, number, bigint, string, RegExp]>([
    ['magic', 0, 0xcafebabfn, 'malformed', /cafebabe/],
    ['version', 8, 0x200000002n, 'unsupported', /expected version 8589934593/],
    ['no capacity', 16, 0n, 'malformed', /capacity/],
    ['capacity of 2^62', 16, 1n << 53n, 'malformed', /capacity/],
    ['capacity without a directory', 16, 1n << 40n, 'malformed', /directory of at least/],
    ['another capacity', 16, 48n, 'mismatch', /do not belong together/],
    ['grain size', 24, 16n, 'unsupported', /grain size in sectors 8, got 16/],
    ['table size', 32, 32n, 'unsupported', /table size in sectors 64/],
    ['flags', 40, 1n, 'unsupported', /flags 0, got 1/],
    ['reserved', 64, 1n, 'unsupported', /reserved/],
    ['padding', 504, 1n, 'unsupported', /reserved/],
    ['volatile header at 0', 80, 0n, 'malformed', /region after the header/],
    ['volatile header past the end', 80, 1n << 30n, 'malformed', /past the end/],
    ['volatile header elsewhere', 80, 2n, 'malformed', /cafecafe/],
    ['directory past the end', 128, 1n << 30n, 'malformed', /past the end/],
    ['directory of 2^60', 128, 1n << 60n, 'malformed', /region after the header/],
    ['tables past the end', 144, 1n << 30n, 'malformed', /past the end/],
    ['no tables', 152, 0n, 'malformed', /directory entry 0/],
    ['grains past the end', 192, 1n << 30n, 'malformed', /past the end/],
    ['no grains', 200, 0n, 'malformed', /expected a grain within the 0/],
    ['grains over the tables', 192, 3n, 'malformed', /over one another/],
  ])('%s: refused', async (_, field, value, kind, reason) => {
    const files = seFiles({ ...small, patch: (header) => header.setBigUint64(field, value, true) });
    const error = await refusal({ ...files, 'disk.vmdk': seFiles(small)['disk.vmdk']! }, 'disk.vmdk');
    expect([error.kind, error.path]).toEqual([kind, 'disk-sesparse.vmdk']);
    expect(error.message).toMatch(reason);
  });

  it('a journal that has to be replayed: refused', async () => {
    const dirty = seFiles({ ...small, patchVolatile: (header) => header.setBigUint64(24, 1n, true) });
    const error = await refusal(dirty, 'disk.vmdk');
    expect(error.kind).toBe('unsupported');
    expect(error.message).toMatch(/journal has to be replayed/);
    const counted = seFiles({ ...small, patchVolatile: (header) => header.setBigUint64(16, 9n, true) });
    expect(await contentsOrNull(counted, 'disk.vmdk')).not.toBeNull();
    const reserved = seFiles({ ...small, patchVolatile: (header) => header.setUint8(40, 1) });
    expect((await refusal(reserved, 'disk.vmdk')).message).toMatch(/reserved/);
  });

  it.each<[string, bigint]>([
    ['an unallocated grain with a number', 5n],
    ['a type that nobody knows', 4n << 60n],
    ['a number past the region', (3n << 60n) | (1n << 48n)],
    ['a number past 2^53', (3n << 60n) | (2n ** 47n)],
  ])('%s: refused', async (_, entry) => {
    const files = seFiles(small);
    const image = files['disk-sesparse.vmdk']!;
    new DataView(image.buffer).setBigUint64(entryAt(image), entry, true);
    const error = await refusal(files, 'disk.vmdk');
    expect([error.kind, error.offset]).toEqual(['malformed', entryAt(image)]);
    expect(error.message).toMatch(/expected a grain within/);
  });

  it('what an unmapped or zeroed entry holds below its type does not count', async () => {
    const files = seFiles(small);
    const image = files['disk-sesparse.vmdk']!;
    for (const type of [1n, 2n]) {
      new DataView(image.buffer).setBigUint64(entryAt(image), (type << 60n) | 12345n, true);
      const { map } = await loadFrom(files, 'disk.vmdk');
      expect(map.extent(0)).toMatchObject({ offset: 0, length: SE_GRAIN, kind: Kind.zero, place: -1 });
    }
  });

  it('a disk that ends within a grain may end there in the file', async () => {
    const spec: SeSpec = { capacity: 3, grains: new Map<number, SeGrain>([[0, filled(1, SE_GRAIN)]]) };
    const files = seFiles(spec);
    const image = files['disk-sesparse.vmdk']!;
    const cut = { ...files, 'disk-sesparse.vmdk': image.subarray(0, image.length - 5 * SECTOR) };
    expect(same((await contentsOrNull(cut, 'disk.vmdk'))!, filled(1, 3 * SECTOR))).toBe(true);
    const short = { ...files, 'disk-sesparse.vmdk': image.subarray(0, image.length - 5 * SECTOR - 1) };
    expect((await refusal(short, 'disk.vmdk')).message).toMatch(/grain at \d+ lies past the end/);
  });
});

describe('the header of an ESX sparse extent', () => {
  it.each<[string, number, number, string, RegExp]>([
    ['magic', 0, 0x44574f44, 'malformed', /expected 'COWD'/],
    ['version', 4, 2, 'unsupported', /version 1 and flags 3/],
    ['flags', 8, 7, 'unsupported', /version 1 and flags 3/],
    ['no capacity', 12, 0, 'malformed', /at least one sector/],
    ['more capacity', 12, 2 ** 31, 'malformed', /directory entries/],
    ['grains of 3 sectors', 16, 3, 'malformed', /power of two sectors, got 3/],
    ['grains of none', 16, 0, 'malformed', /power of two sectors, got 0/],
    ['grains of 2 GiB', 16, 2 ** 22, 'malformed', /power of two sectors/],
    ['directory in the header', 20, 3, 'malformed', /after the header/],
    ['directory past the end', 20, 2 ** 31, 'malformed', /past the end/],
    ['too few entries', 24, 0, 'malformed', /at least 1 directory entries/],
  ])('%s: refused', async (_, field, value, kind, reason) => {
    const { files } = cowdFiles(1, 8);
    new DataView(files['disk-delta.vmdk']!.buffer).setUint32(field, value, true);
    const error = await refusal(files, 'disk.vmdk');
    expect([error.kind, error.path]).toEqual([kind, 'disk-delta.vmdk']);
    expect(error.message).toMatch(reason);
  });

  it('one that was not closed is read, with a warning', async () => {
    const { files } = cowdFiles(1, 8);
    files['disk-delta.vmdk']![1648] = 1;
    const { warnings } = await loadFrom(files, 'disk.vmdk');
    expect(warnings.join()).toMatch(/disk-delta\.vmdk: was not closed/);
  });
});
