import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { VDI_MAX_CANDIDATES } from '../../src/base/limits.ts';
import { findDisks } from '../../src/disk/finder.ts';
import { openDisk } from '../../src/disk/open.ts';
import { BytesUnit, describeWith, qemuImg, qemuIo, readAll, temporaryFolder } from './images.ts';
import { toyImage } from './toy-file-system.ts';
import { buildVdi, FREE, naiveChain, uuidOf, type VdiSpec, ZERO } from './vdi-builder.ts';
import { randomFrom, same } from './vhd-loading.ts';

vi.mock('../../src/disk/containers/file-system-types.ts', async () => {
  const { toyTypes } = await import('./toy-file-system.ts');
  return { fileSystemTypes: toyTypes };
});

/** Ten thousand files take longer to make than to look at. */
vi.mock('../../src/base/limits.ts', async (original) => ({
  ...(await original<object>()),
  VDI_MAX_CANDIDATES: 60,
}));

const blockSize = 4096;
const base: VdiSpec = { size: 5 * blockSize, blockSize, map: [2, FREE, 0, 1, 3], uuid: 1, state: 11 };
const middle: VdiSpec = {
  size: 7 * blockSize,
  blockSize,
  map: [FREE, 0, ZERO, FREE, FREE, FREE, 1],
  uuid: 2,
  state: 12,
  parent: { uuid: 1, state: 11 },
  seed: 50,
};
const top: VdiSpec = {
  size: 6 * blockSize + 512,
  blockSize: 2 * blockSize,
  map: [FREE, FREE, 0, FREE],
  uuid: 3,
  state: 13,
  parent: { uuid: 2, state: 12 },
  seed: 100,
};
const images = [top, middle, base].map(buildVdi);
const [topImage, middleImage, baseImage] = images as [Uint8Array, Uint8Array, Uint8Array];

const root = temporaryFolder();
let folder = root;
const at = (name: string) => join(folder, name);
beforeEach(() => {
  folder = mkdtempSync(join(root, 'case-'));
});

/** Writes files into the case's folder. */
function put(files: Readonly<Record<string, Uint8Array>>): void {
  for (const [name, bytes] of Object.entries(files)) writeFileSync(at(name), bytes);
}

async function contents(path: string, options = {}): Promise<Uint8Array> {
  const disk = await openDisk(path, options);
  try {
    return await readAll(disk);
  } finally {
    await disk.close();
  }
}

describe('a differencing VDI', () => {
  it('shows each block from the topmost image that has it, and its own zeros', async () => {
    put({
      'top.vdi': topImage,
      '{some uuid}.vdi': middleImage,
      'disk.VDI': baseImage,
      'other.vdi': buildVdi({ ...base, uuid: 9 }),
    });
    const disk = await openDisk(at('top.vdi'));
    expect([disk.format, disk.size, disk.units.length, disk.warnings]).toEqual(['vdi', top.size, 3, []]);
    expect(same(await readAll(disk), naiveChain(images)!)).toBe(true);
    const depths = [0, 1, 2, 3, 4, 5, 6].map((block) => disk.map.explain(block * blockSize).depth);
    // Block 2 is zeros of the middle image, block 6 lies past the end of the lowest one.
    expect([depths[0], depths[1], depths[3], depths[4], depths[5], depths[6]]).toEqual([2, 1, 2, 0, 0, 1]);
    await disk.close();
  });

  it('of any map and size over others of any map and size reads as a naive reading of them', async () => {
    const image = fc.record({
      map: fc.array(fc.constantFrom(FREE, FREE, ZERO, 0), { minLength: 1, maxLength: 10 }),
      blockSize: fc.constantFrom(512, 2048, 4096),
      blockExtra: fc.constantFrom(0, 512),
      cut: fc.nat(7),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(image, { minLength: 2, maxLength: 3 }), async (specs) => {
        const built = specs.map(({ map, cut, ...sizes }, i) => {
          let next = map.filter((mark) => mark === 0).length;
          return buildVdi({
            ...sizes,
            map: map.map((mark) => (mark === 0 ? --next : mark)),
            size: Math.max(512, map.length * sizes.blockSize - 512 * cut),
            uuid: 10 + i,
            state: 20 + i,
            seed: 31 * i,
            ...(i < specs.length - 1 ? { parent: { uuid: 11 + i, state: 21 + i } } : {}),
          });
        });
        for (const i of [0, 1, 2]) rmSync(at(`${i}.vdi`), { force: true });
        put(Object.fromEntries(built.map((bytes, i) => [`${i}.vdi`, bytes])));
        expect(same(await contents(at('0.vdi')), naiveChain(built)!)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('whose parent is not there: not found, by its UUID', async () => {
    put({ 'top.vdi': topImage, 'base.vdi': baseImage, 'empty.vdi': new Uint8Array(0) });
    await expect(openDisk(at('top.vdi'))).rejects.toMatchObject({
      kind: 'not-found',
      path: at('top.vdi'),
      message: expect.stringMatching(
        new RegExp(
          `the parent ${uuidOf(2)} .* not among the 3 \\.vdi files in the image's folder: .*--allow-outside`,
        ),
      ),
    });
    put({ 'middle.vdi': middleImage });
    rmSync(at('base.vdi'));
    await expect(openDisk(at('top.vdi'))).rejects.toMatchObject({
      kind: 'not-found',
      path: at('middle.vdi'),
    });
  });

  it('prints a UUID as VirtualBox does', async () => {
    const patch = (header: DataView) => {
      for (let i = 0; i < 16; i++) header.setUint8(424 + i, i + 1);
    };
    put({ 'top.vdi': buildVdi({ ...top, patch }) });
    await expect(openDisk(at('top.vdi'))).rejects.toThrow(/parent 04030201-0605-0807-090a-0b0c0d0e0f10 /);
  });

  it('whose parent was written since: a mismatch that names both', async () => {
    put({ 'middle.vdi': middleImage, 'base.vdi': buildVdi({ ...base, state: 77 }) });
    await expect(openDisk(at('middle.vdi'))).rejects.toMatchObject({
      kind: 'mismatch',
      path: at('middle.vdi'),
      message: expect.stringMatching(new RegExp(`${uuidOf(11)}, got .*base\\.vdi with ${uuidOf(77)}`)),
    });
    // An older copy that is the one that is meant goes before it.
    put({ 'copy.vdi': baseImage });
    expect(same(await contents(at('middle.vdi')), naiveChain([middleImage, baseImage])!)).toBe(true);
  });

  it('with two parents: a mismatch that names both', async () => {
    put({ 'middle.vdi': middleImage, 'base.vdi': baseImage, 'copy.vdi': baseImage });
    await expect(openDisk(at('middle.vdi'))).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/one parent .* got .*base\.vdi and .*copy\.vdi/),
    });
  });

  it('that does not record the state of its parent: read, with a warning', async () => {
    put({ 'middle.vdi': buildVdi({ ...middle, parent: { uuid: 1, state: 0 } }), 'base.vdi': baseImage });
    const disk = await openDisk(at('middle.vdi'));
    expect(disk.warnings).toEqual([
      expect.stringMatching(/does not record the modification UUID of its parent/),
    ]);
    expect(same(await readAll(disk), naiveChain([middleImage, baseImage])!)).toBe(true);
    await disk.close();
  });

  it('that leads back to itself: a loop', async () => {
    put({ 'top.vdi': buildVdi({ ...top, parent: { uuid: 3, state: 13 } }) });
    const loop = { kind: 'malformed', message: expect.stringMatching(/the chain is a loop/) };
    await expect(openDisk(at('top.vdi'))).rejects.toMatchObject(loop);
    put({ 'top.vdi': topImage, 'middle.vdi': buildVdi({ ...middle, parent: { uuid: 3, state: 13 } }) });
    await expect(openDisk(at('top.vdi'))).rejects.toMatchObject(loop);
  });
});

describe('the search for the parent of a VDI', () => {
  const expected = naiveChain([middleImage, baseImage])!;

  it('looks at regular files that are named .vdi, and at nothing else', async () => {
    put({ 'middle.vdi': middleImage, 'base.img': baseImage });
    mkdirSync(at('folder.vdi'));
    symlinkSync('base.img', at('link.vdi'));
    execFileSync('mkfifo', [at('pipe.vdi')]);
    await expect(openDisk(at('middle.vdi'))).rejects.toThrow(/among the 1 \.vdi files/);
    copyFileSync(at('base.img'), at('nbd:a b.vdi'));
    expect(same(await contents(at('middle.vdi')), expected)).toBe(true);
  });

  it('looks into the folder above, where VirtualBox keeps the disk of a snapshot, only when allowed', async () => {
    mkdirSync(at('Snapshots'));
    put({ 'Snapshots/top.vdi': topImage, 'Snapshots/middle.vdi': middleImage, 'disk.vdi': baseImage });
    await expect(openDisk(at('Snapshots/top.vdi'))).rejects.toMatchObject({ kind: 'not-found' });
    const found = await contents(at('Snapshots/top.vdi'), { allowOutside: true });
    expect(same(found, naiveChain(images)!)).toBe(true);
    rmSync(at('disk.vdi'));
    await expect(openDisk(at('Snapshots/top.vdi'), { allowOutside: true })).rejects.toThrow(
      /among the 2 \.vdi files in the image's folder and the one above it: bring it there/,
    );
  });

  it('is not made for an image whose format was guessed, or that lies in no folder', async () => {
    put({ 'middle.img': middleImage, 'base.vdi': baseImage });
    await expect(openDisk(at('middle.img'))).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/guessed from contents/),
    });
    expect(same(await contents(at('middle.img'), { format: 'vdi' }), expected)).toBe(true);
    await expect(openDisk(new BytesUnit(middleImage), { format: 'vdi' })).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/lies in no folder/),
    });
  });

  it('passes over what cannot be read, and says so when nothing else is the parent', async () => {
    put({ 'middle.vdi': middleImage });
    // A name that is no UTF-8: Node cannot give it back to the system.
    writeFileSync(
      Buffer.concat([Buffer.from(at('bad')), Buffer.from([0xff]), Buffer.from('.vdi')]),
      baseImage,
    );
    await expect(openDisk(at('middle.vdi'))).rejects.toThrow(
      /among the 2 \.vdi files .*of which 1 could not be read/,
    );
    put({ 'base.vdi': baseImage });
    expect(same(await contents(at('middle.vdi')), expected)).toBe(true);
  });

  it('goes on in a file system of which a part is damaged, and tells where nothing is left', async () => {
    const { entriesByFolder } = await import('../../src/disk/folder-names.ts');
    const listing = (paths: readonly string[], kind: 'malformed' | 'io') => ({
      kind: 'toy',
      label: '',
      warnings: [],
      lookup: () => Promise.reject(new Error('not asked')),
      async *files() {
        for (const path of paths) yield { path, size: 0, map: () => Promise.reject(new Error('not asked')) };
        throw new DriftmapError(kind, 'a directory');
      },
    });
    const found = await entriesByFolder(
      listing(['/a/x.VDI', '/a/y.raw', '/z.vdi'], 'malformed'),
      '.vdi',
      'unit',
    );
    const paths = [...found].map(([each, entries]) => [each, ...entries.map(({ path }) => path)]);
    expect(paths).toEqual([
      ['/a', '/a/x.VDI'],
      ['/', '/z.vdi'],
    ]);
    for (const damaged of [listing(['/y.raw'], 'malformed'), listing(['/z.vdi'], 'io')]) {
      await expect(entriesByFolder(damaged, '.vdi', 'unit')).rejects.toThrow('a directory');
    }
  });

  it(`looks at ${VDI_MAX_CANDIDATES} files and no more`, async () => {
    put({ 'middle.vdi': middleImage, 'zz-base.vdi': baseImage });
    for (let i = 2; i < VDI_MAX_CANDIDATES; i++) writeFileSync(at(`${i}.vdi`), '');
    expect(same(await contents(at('middle.vdi')), expected)).toBe(true);
    writeFileSync(at('one-more.vdi'), '');
    await expect(openDisk(at('middle.vdi'))).rejects.toMatchObject({
      kind: 'limit',
      message: expect.stringMatching(/at most 60 \.vdi files/),
    });
  });
});

describe('a differencing VDI in a file system on a unit', () => {
  const unitWith = (files: Parameters<typeof toyImage>[0]): string => {
    put({ 'unit.img': toyImage(files) });
    return at('unit.img');
  };

  it('finds its parent in its folder there, and never on this host', async () => {
    put({ 'base.vdi': baseImage, 'middle.vdi': middleImage });
    const alone = unitWith({
      '/vm/top.vdi': topImage,
      '/base.vdi': baseImage,
      '/vm/sub/middle.vdi': middleImage,
    });
    await expect(openDisk(`${alone}:ext4:/vm/top.vdi`)).rejects.toMatchObject({
      kind: 'not-found',
      message: expect.stringMatching(new RegExp(`the parent ${uuidOf(2)} .*among the 1 `)),
    });
    const whole = unitWith({ '/vm/top.vdi': topImage, '/vm/b.vdi': baseImage, '/vm/m.vdi': middleImage });
    expect(same(await contents(`${whole}:ext4:/vm/top.vdi`), naiveChain(images)!)).toBe(true);
  });

  it('finds it in the folder above when allowed', async () => {
    const unit = unitWith({ '/vm/Snapshots/middle.vdi': middleImage, '/vm/disk.vdi': baseImage });
    const address = `${unit}:ext4:/vm/Snapshots/middle.vdi`;
    await expect(openDisk(address)).rejects.toMatchObject({ kind: 'not-found' });
    const found = await contents(address, { allowOutside: true });
    expect(same(found, naiveChain([middleImage, baseImage])!)).toBe(true);
  });

  it('is listed with its parent', async () => {
    const unit = unitWith({ '/a/middle.vdi': middleImage, '/a/base.vdi': baseImage, '/lone.vdi': topImage });
    const found: unknown[] = [];
    for await (const finding of findDisks([unit])) {
      if (finding.what === 'disk')
        found.push([finding.disk.address, finding.disk.class, finding.disk.parent]);
      else if (finding.what === 'refused') found.push([finding.address, finding.kind]);
    }
    expect(found).toEqual([
      [`${unit}:ext4:/a/middle.vdi`, 'differencing', `${unit}:ext4:/a/base.vdi`],
      [`${unit}:ext4:/a/base.vdi`, 'thin', null],
      [`${unit}:ext4:/lone.vdi`, 'not-found'],
    ]);
  });
});

describeWith('qemu', 'a differencing VDI over an image that QEMU wrote', () => {
  it('shows what QEMU reads of the parent where it has nothing itself', async () => {
    const size = 9 * 2 ** 20 + 1536;
    qemuImg('create', '-f', 'vdi', at('base.vdi'), String(size));
    const random = randomFrom(5);
    const writes = Array.from({ length: 12 }, () => {
      const length = 512 * (1 + random(900));
      return `write -P ${1 + random(255)} ${512 * random((size - length) / 512)} ${length}`;
    });
    qemuIo(at('base.vdi'), writes, ['-f', 'vdi']);
    qemuImg('convert', '-f', 'vdi', '-O', 'raw', at('base.vdi'), at('base.raw'));
    const parent = new Uint8Array(readFileSync(at('base.vdi')));

    const block = 2 ** 20;
    const child: VdiSpec = {
      size: size + 3 * block,
      blockSize: block,
      map: [FREE, 1, FREE, ZERO, FREE, FREE, FREE, 0, FREE, FREE, FREE, 2, FREE],
      parent: { uuid: 0, state: 0 },
      patch: (header) => {
        for (let i = 0; i < 32; i++) header.setUint8(424 + i, parent[392 + i]!);
      },
    };
    const image = buildVdi(child);
    put({ 'child.vdi': image });
    const expected = new Uint8Array(child.size);
    expected.set(readFileSync(at('base.raw')));
    const dataAt = new DataView(image.buffer).getUint32(344, true);
    child.map.forEach((entry, i) => {
      if (entry === FREE) return;
      const own =
        entry === ZERO
          ? new Uint8Array(block)
          : image.subarray(dataAt + entry * block, dataAt + (entry + 1) * block);
      expected.set(own, i * block);
    });
    const disk = await openDisk(at('child.vdi'));
    expect(disk.warnings).toEqual([]);
    expect(same(await readAll(disk), expected)).toBe(true);
    await disk.close();
  });
});
