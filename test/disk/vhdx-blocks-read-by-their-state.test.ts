import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadVhdx } from '../../src/disk/formats/vhdx.ts';
import { ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';
import { contentsOf, load, over, parentOf, refusalOf, same } from './vhd-loading.ts';
import { buildVhdx, MiB, naiveVhdx, type VhdxBlock, type VhdxSpec } from './vhdx-builder.ts';

const filled = (seed: number, length = MiB) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 11 + seed * 5) % 255));
const parent = {
  parent_linkage: '{32323232-3232-3232-3232-323232323232}',
  relative_path: '.\\base.vhdx',
};

async function kindsOf(spec: VhdxSpec): Promise<number[]> {
  const { map } = await load(loadVhdx, new BytesUnit(buildVhdx(spec)));
  return spec.blocks.map((_, i) => map.explain(i * (spec.blockSize ?? MiB)).kind);
}

/** Not present, undefined, zero, unmapped, fully present. */
const every: readonly VhdxBlock[] = [
  { state: 0 },
  { state: 1 },
  { state: 2 },
  { state: 3 },
  { state: 6, data: filled(1) },
];

describe('blocks of a VHDX', () => {
  it.each([
    ['dynamic', {}],
    ['fixed', { leaveAllocated: true }],
    ['differencing', { parent }],
  ])('%s: each state is what the specification says', async (_, more) => {
    expect(await kindsOf({ size: 5 * MiB, blocks: every, ...more })).toEqual([
      Kind.unallocated,
      Kind.zero,
      Kind.zero,
      Kind.zero,
      Kind.data,
    ]);
  });

  it('state 5 reads as zeros, with a warning; state 4 is refused', async () => {
    const make = (state: number) =>
      new BytesUnit(buildVhdx({ size: MiB, blocks: [{ state, data: filled(1) }] }));
    const { map, warnings } = await load(loadVhdx, make(5));
    expect([map.count, map.kindOf(0)]).toEqual([1, Kind.zero]);
    expect(warnings.join()).toMatch(/state 5, which was 'unmapped' in version 0\.95/);
    expect((await refusalOf(loadVhdx, make(4))).message).toMatch(/entry 0: a block is of state 4/);
  });

  it('partly present without a parent are refused', async () => {
    const present = Array.from({ length: 2048 }, () => true);
    const image = buildVhdx({ size: MiB, blocks: [{ state: 7, data: filled(1), present }] });
    const error = await refusalOf(loadVhdx, new BytesUnit(image));
    expect(error.message).toMatch(/partly present in an image without a parent/);
  });

  it('whose reserved bits are set are read, and told', async () => {
    const image = buildVhdx({ size: MiB, blocks: [{ state: 6, data: filled(1) }] });
    image[3 * MiB + 1] = 0x10;
    const loaded = await load(loadVhdx, new BytesUnit(image));
    expect(loaded.warnings.join()).toMatch(/reserved bits set, which are ignored: 1/);
    expect(same(await contentsOf(loaded), naiveVhdx(image)!)).toBe(true);
  });

  it('lie in any order, also on a unit that answers later', async () => {
    const blocks = [1, 2, 3].map((seed) => ({ state: 6, data: filled(seed) }));
    const image = buildVhdx({ size: 3 * MiB, blocks, order: [2, 0, 1] });
    const loaded = await load(loadVhdx, new BytesUnit(image, { wait: true }));
    expect(same(await contentsOf(loaded), naiveVhdx(image)!)).toBe(true);
    expect(loaded.map.count).toBe(2);
  });

  it('follow the bitmap entry of the chunk before theirs', async () => {
    // Blocks of 256 MiB: sixteen in a chunk. Only the last one, which the disk's end cuts to 1 MiB, holds data.
    const blocks: VhdxBlock[] = Array.from({ length: 33 }, () => ({ state: 0 }));
    blocks[15] = { state: 2 };
    blocks[16] = { state: 3 };
    blocks[32] = { state: 6, data: filled(7) };
    const blockSize = 256 * MiB;
    const image = buildVhdx({ size: 32 * blockSize + MiB, blockSize, blocks });
    const { map } = await load(loadVhdx, new BytesUnit(image));
    expect(map.explain(15 * blockSize)).toMatchObject({ kind: Kind.zero, length: 2 * blockSize });
    expect(map.explain(32 * blockSize)).toMatchObject({ kind: Kind.data, length: MiB });
    expect(map.size).toBe(32 * blockSize + MiB);
  });

  it('may be more than the first entries of sector bitmaps say: those of a dynamic image do not count', async () => {
    const blocks: VhdxBlock[] = Array.from({ length: 18 }, () => ({ state: 0 }));
    const image = buildVhdx({ size: 18 * 256 * MiB, blockSize: 256 * MiB, blocks });
    // What QEMU before 8.0 leaves there.
    new DataView(image.buffer).setBigUint64(3 * MiB + 8 * 16, 6n | (900n << 20n), true);
    const { map, warnings } = await load(loadVhdx, new BytesUnit(image));
    expect([map.count, map.kindOf(0), warnings]).toEqual([1, Kind.unallocated, []]);
  });
});

describe('a differencing VHDX', () => {
  const masks = fc.array(fc.option(fc.array(fc.nat(1), { minLength: 1, maxLength: 16 }), { freq: 4 }), {
    minLength: 1,
    maxLength: 3,
  });

  it.each([512, 4096])(
    'of sectors of %i bytes shows its own sectors by the bitmap, and its parent',
    async (sectorSize) => {
      const sectors = MiB / sectorSize;
      await fc.assert(
        fc.asyncProperty(masks, fc.nat(sectors - 1), async (patterns, cut) => {
          const size = patterns.length * MiB - cut * sectorSize;
          const blocks = patterns.map((pattern, i): VhdxBlock => {
            if (pattern === null) return { state: 0 };
            const present = Array.from({ length: sectors }, (_, k) => pattern[k % pattern.length] === 1);
            return { state: 7, data: filled(i), present };
          });
          const base = new Uint8Array(size).map((_, i) => (i >>> 9) % 256);
          const expected = new Uint8Array(patterns.length * MiB);
          expected.set(base);
          blocks.forEach(({ present, data }, i) => {
            present?.forEach((here, k) => {
              const part = data!.subarray(k * sectorSize, (k + 1) * sectorSize);
              if (here) expected.set(part, i * MiB + k * sectorSize);
            });
          });
          const image = buildVhdx({ size, sectorSize, blocks, parent });
          const child = await load(loadVhdx, new BytesUnit(image, { name: 'child' }));
          const below = {
            map: ExtentMap.identity(size),
            units: [new BytesUnit(base, { name: 'base' })],
            backing: null,
          };
          expect(same(await contentsOf(over(child, below)), expected.subarray(0, size))).toBe(true);
        }),
        { numRuns: 20 },
      );
    },
  );

  it('has bitmaps for each chunk', async () => {
    const blockSize = 256 * MiB;
    const blocks: VhdxBlock[] = Array.from({ length: 17 }, () => ({ state: 0 }));
    const present = Array.from({ length: 2048 }, (_, i) => i % 2 === 1);
    blocks[16] = { state: 7, data: filled(3), present };
    const image = buildVhdx({ size: 16 * blockSize + MiB, blockSize, blocks, parent });
    const { map } = await load(loadVhdx, new BytesUnit(image));
    expect(map.explain(16 * blockSize).kind).toBe(Kind.unallocated);
    expect(map.explain(16 * blockSize + 512)).toMatchObject({
      kind: Kind.data,
      length: 512,
      place: 4 * MiB + 512,
    });
  });

  it('without the bitmap that a block needs is refused', async () => {
    const present = Array.from({ length: 2048 }, () => true);
    const image = buildVhdx({ size: MiB, blocks: [{ state: 7, data: filled(1), present }], parent });
    new DataView(image.buffer).setBigUint64(3 * MiB + 8 * 4096, 0n, true);
    expect((await refusalOf(loadVhdx, new BytesUnit(image))).message).toMatch(/sector bitmap is missing/);
  });
});

describe('the parent of a VHDX', () => {
  const linkage = { parent_linkage: parent.parent_linkage };
  const child = (pairs: Readonly<Record<string, string>>) =>
    new BytesUnit(buildVhdx({ size: MiB, blocks: [{ state: 0 }], parent: pairs }), { name: 'child' });

  it.each([
    [
      { ...linkage, relative_path: '..\\a\\base.vhdx', absolute_win32_path: '\\\\?\\d:\\x.vhdx' },
      '../a/base.vhdx',
    ],
    [{ ...linkage, volume_path: '\\\\?\\Volume{26A21BDA-A627}\\a\\vol.vhdx' }, 'vol.vhdx'],
    [{ ...linkage, absolute_win32_path: '\\\\?\\d:\\disks\\base.vhdx' }, 'base.vhdx'],
    [{ ...linkage, something_else: 'x', absolute_win32_path: 'd:base.vhdx' }, 'base.vhdx'],
  ])('%j is looked for as %s', async (pairs, name) => {
    expect(parentOf(await load(loadVhdx, child(pairs)))).toMatchObject({ name, format: 'vhdx' });
  });

  it.each<[string, Record<string, string>, RegExp]>([
    ['no name', linkage, /names no file/],
    ['a folder', { ...linkage, absolute_win32_path: 'd:\\x\\' }, /names no file/],
    ['no linkage', { relative_path: 'x' }, /without parent_linkage/],
    ['an empty value', { ...linkage, relative_path: '' }, /expected text in UTF-16/],
  ])('%s: refused', async (_, pairs, reason) => {
    const error = await refusalOf(loadVhdx, child(pairs));
    expect(error.kind).toBe('malformed');
    expect(error.message).toMatch(reason);
  });

  it('is the one whose DataWriteGuid the image knows, by either linkage', async () => {
    const base = (dataWriteGuid: number) =>
      new BytesUnit(buildVhdx({ size: MiB, blocks: [{ state: 0 }], dataWriteGuid }), { name: 'base' });
    const { backing } = await load(loadVhdx, child(parent));
    await backing!.check!(base(0x32));
    await expect(Promise.resolve(backing!.check!(base(0x33)))).rejects.toMatchObject({
      kind: 'mismatch',
      path: 'child',
      message: expect.stringMatching(/32323232.*got base with 33333333/),
    });
    const two = await load(
      loadVhdx,
      child({ ...parent, parent_linkage2: '{33333333-3333-3333-3333-333333333333}' }),
    );
    await two.backing!.check!(base(0x33));
    await expect(
      Promise.resolve(two.backing!.check!(new BytesUnit(new Uint8Array(MiB)))),
    ).rejects.toMatchObject({
      kind: 'malformed',
    });
  });

  it('of another type than a VHDX file is refused by name', async () => {
    const image = buildVhdx({ size: MiB, blocks: [{ state: 0 }], parent });
    // The item of the parent locator is the sixth; its type comes first.
    const view = new DataView(image.buffer);
    image.fill(
      0xaa,
      2 * MiB + view.getUint32(2 * MiB + 32 + 5 * 32 + 16, true),
      2 * MiB + view.getUint32(2 * MiB + 32 + 5 * 32 + 16, true) + 16,
    );
    const error = await refusalOf(loadVhdx, new BytesUnit(image));
    expect([error.kind, error.message]).toEqual([
      'unsupported',
      expect.stringMatching(/locator of type AAAAAAAA/),
    ]);
  });
});
