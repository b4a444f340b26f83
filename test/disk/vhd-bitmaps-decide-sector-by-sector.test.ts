import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadVhd } from '../../src/disk/formats/vhd.ts';
import { ExtentMap, Kind } from '../../src/mapping/extent-map.ts';
import { BytesUnit } from './images.ts';
import { buildVhd, naiveVhd, utf16, type VhdBlock } from './vhd-builder.ts';
import { contentsOf, load, over, same } from './vhd-loading.ts';

const sector = 512;
const blockSize = 8192;
const perBlock = blockSize / sector;

/** Data that differs everywhere from zero and from the parent's. */
function block(present: readonly boolean[], seed: number): VhdBlock {
  const data = Uint8Array.from({ length: blockSize }, (_, i) => 1 + ((i + seed * 31) % 250));
  return { present, data };
}

const blocks = fc.array(
  fc.option(fc.array(fc.boolean(), { minLength: perBlock, maxLength: perBlock }), { freq: 3 }),
  { minLength: 1, maxLength: 12 },
);

/** A size of whole sectors that needs all those blocks. */
function sizeFor(count: number, cut: number): number {
  return count * blockSize - cut * sector;
}

describe('a dynamic VHD', () => {
  it('shows sectors whose bit is set, and zeros elsewhere, whatever the block holds', async () => {
    await fc.assert(
      fc.asyncProperty(blocks, fc.nat(perBlock - 1), async (masks, cut) => {
        const size = sizeFor(masks.length, cut);
        const made = masks.map((mask, i) => (mask === null ? null : block(mask, i)));
        const image = buildVhd({ type: 3, size, blockSize, blocks: made });
        const expected = new Uint8Array(masks.length * blockSize);
        made.forEach((one, i) => {
          one?.present.forEach((here, k) => {
            const part = one.data.subarray(k * sector, (k + 1) * sector);
            if (here) expected.set(part, i * blockSize + k * sector);
          });
        });
        const loaded = await load(loadVhd, new BytesUnit(image));
        expect(loaded.backing).toBeNull();
        expect(same(await contentsOf(loaded), expected.subarray(0, size))).toBe(true);
        expect(same(naiveVhd(image)!, expected.subarray(0, size))).toBe(true);
      }),
    );
  });

  it('tells what was never allocated from sectors that were never written', async () => {
    const half = Array.from({ length: perBlock }, (_, i) => i % 2 === 0);
    const image = buildVhd({ type: 3, size: 2 * blockSize, blockSize, blocks: [null, block(half, 0)] });
    const { map } = await load(loadVhd, new BytesUnit(image));
    expect(map.kindOf(0)).toBe(Kind.unallocated);
    expect(map.count).toBe(1 + perBlock);
    expect(map.explain(blockSize + sector).kind).toBe(Kind.zero);
  });

  it('whose blocks lie in any order is read in the order of its table', async () => {
    const full = Array.from({ length: perBlock }, () => true);
    const made = [0, 1, 2, 3].map((seed) => block(full, seed));
    const image = buildVhd({ type: 3, size: 4 * blockSize, blockSize, blocks: made, order: [2, 0, 3, 1] });
    const expected = Buffer.concat(made.map(({ data }) => data));
    const loaded = await load(loadVhd, new BytesUnit(image));
    expect(same(await contentsOf(loaded), expected)).toBe(true);
  });

  it('is read the same from a unit that answers later', async () => {
    const half = Array.from({ length: perBlock }, (_, i) => i % 3 === 0);
    const image = buildVhd({ type: 3, size: blockSize, blockSize, blocks: [block(half, 1)] });
    const late = await load(loadVhd, new BytesUnit(image, { wait: true }));
    expect(same(await contentsOf(late), naiveVhd(image)!)).toBe(true);
  });
});

describe('a differencing VHD', () => {
  it('shows its own sectors where the bit is set and its parent everywhere else', async () => {
    await fc.assert(
      fc.asyncProperty(blocks, fc.nat(perBlock - 1), async (masks, cut) => {
        const size = sizeFor(masks.length, cut);
        const base = Uint8Array.from({ length: size }, (_, i) => 251 + (Math.floor(i / sector) % 5));
        const made = masks.map((mask, i) => (mask === null ? null : block(mask, i)));
        const locators = [{ platform: 'W2ru', bytes: utf16('.\\base.vhd') }];
        const image = buildVhd({ type: 4, size, blockSize, blocks: made, parent: { uuid: 9, locators } });
        const expected = new Uint8Array(masks.length * blockSize);
        expected.set(base);
        made.forEach((one, i) => {
          one?.present.forEach((here, k) => {
            const part = one.data.subarray(k * sector, (k + 1) * sector);
            if (here) expected.set(part, i * blockSize + k * sector);
          });
        });
        const child = await load(loadVhd, new BytesUnit(image, { name: 'child' }));
        const parent = {
          map: ExtentMap.identity(size),
          units: [new BytesUnit(base, { name: 'base' })],
          backing: null,
        };
        expect(same(await contentsOf(over(child, parent)), expected.subarray(0, size))).toBe(true);
      }),
    );
  });
});
