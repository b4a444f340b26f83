import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { loadVdi } from '../../src/disk/formats/vdi.ts';
import { gunzip } from '../tools.ts';
import { BytesUnit, corpus, describeWith } from './images.ts';
import { buildVdi, FREE, MAP_AT, naiveChain, naiveVdi, type VdiSpec, ZERO } from './vdi-builder.ts';
import {
  contentsOf,
  contentsOrRefusal,
  fuzzSeconds,
  load,
  MOST_COMPARED,
  over,
  refusalOf,
  same,
} from './vhd-loading.ts';

const blockSize = 4096;
const spec: VdiSpec = { size: 6 * blockSize - 1024, blockSize, map: [1, FREE, 0, ZERO, 3, 2] };
const good = buildVdi(spec);

describe('the header of a VDI', () => {
  it.each<[string, (view: DataView) => void, string, number, RegExp]>([
    ['signature', (view) => view.setUint32(64, 1), 'malformed', 64, /beda107f, got 1000000/],
    ['version', (view) => view.setUint32(68, 1, true), 'unsupported', 68, /version 1\.1, got 0\.1/],
    ['length', (view) => view.setUint32(72, 300, true), 'malformed', 72, /at least 384/],
    ['type 0', (view) => view.setUint32(76, 0, true), 'malformed', 76, /expected type 1 .* got 0/],
    ['type 5', (view) => view.setUint32(76, 5, true), 'malformed', 76, /expected type 1 .* got 5/],
    ['undo', (view) => view.setUint32(76, 3, true), 'unsupported', 76, /an undo image.*merge it/],
    ['parentless', (view) => view.setUint32(76, 4, true), 'malformed', 424, /the UUID of its parent/],
    ['linked', (view) => view.setUint8(424 + 15, 1), 'unsupported', 76, /of type 1, and has a parent/],
    ['parent', (view) => view.setUint8(440, 1), 'unsupported', 76, /of type 1, and has a parent/],
    [
      'map in the header',
      (view) => view.setUint32(340, 256, true),
      'malformed',
      340,
      /block map at a sector/,
    ],
    ['map off a sector', (view) => view.setUint32(340, 700, true), 'malformed', 340, /block map at a sector/],
    ['data off a sector', (view) => view.setUint32(344, 1025, true), 'malformed', 344, /data at a sector/],
    ['data over the map', (view) => view.setUint32(344, 512, true), 'malformed', 384, /before the data/],
    ['sectors of 4096', (view) => view.setUint32(360, 4096, true), 'unsupported', 360, /sectors of 512/],
    ['huge', (view) => view.setBigUint64(368, 2n ** 53n, true), 'malformed', 368, /below 2\^53/],
    ['blocks of 0', (view) => view.setUint32(376, 0, true), 'malformed', 376, /power of two/],
    ['blocks of 3000', (view) => view.setUint32(376, 3000, true), 'malformed', 376, /power of two/],
    ['extra of 100', (view) => view.setUint32(380, 100, true), 'malformed', 380, /extra bytes/],
    ['too few blocks', (view) => view.setUint32(384, 5, true), 'malformed', 384, /at least 6 blocks/],
    ['too many blocks', (view) => view.setUint32(384, 2 ** 31, true), 'malformed', 384, /before the data/],
  ])('%s: refused', async (_, patch, kind, offset, reason) => {
    const error = await refusalOf(loadVdi, new BytesUnit(buildVdi({ ...spec, patch })));
    expect([error.kind, error.offset]).toEqual([kind, offset]);
    expect(error.message).toMatch(reason);
  });
});

describe('the block map of a VDI', () => {
  it.each<[string, number, RegExp]>([
    ['a block past the end', 4, /block 0 at \d+ lies past the end/],
    ['the largest index', ZERO - 1, /lies past the end/],
    ['a block twice', 3, /over one another/],
  ])('%s: refused', async (_, entry, reason) => {
    const image = good.slice();
    new DataView(image.buffer).setUint32(MAP_AT, entry, true);
    expect((await refusalOf(loadVdi, new BytesUnit(image))).message).toMatch(reason);
  });

  it('cut short at every sector: refused; past the end of the disk it may be cut', async () => {
    const whole = naiveVdi(good)!;
    for (let boundary = 0; boundary <= good.length; boundary += 512) {
      for (const length of [boundary - 1, boundary, boundary + 1]) {
        if (length < 0 || length > good.length) continue;
        const contents = await contentsOrRefusal(loadVdi, new BytesUnit(good.slice(0, length)));
        if (contents === null) continue;
        expect(length).toBe(good.length);
        expect(same(contents, whole)).toBe(true);
      }
    }
    const last = buildVdi({ ...spec, map: [1, FREE, 0, ZERO, 2, 3] });
    const cut = new BytesUnit(last.slice(0, -1024));
    expect(same((await contentsOrRefusal(loadVdi, cut))!, naiveVdi(last)!)).toBe(true);
    expect(await contentsOrRefusal(loadVdi, new BytesUnit(last.slice(0, -1025)))).toBeNull();
  });
});

describe('one damaged byte of a VDI', () => {
  it('an error, or what its map says', { timeout: fuzzSeconds * 1000 + 30_000 }, async () => {
    const places = Array.from({ length: 512 + 24 }, (_, i) => i);
    let done = 0;
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.integer({ min: 1, max: 255 }),
        async (place, change) => {
          const mutant = good.slice();
          mutant[place]! ^= change;
          const begun = performance.now();
          const contents = await contentsOrRefusal(loadVdi, new BytesUnit(mutant));
          expect(performance.now() - begun).toBeLessThan(2000);
          done++;
          if (contents === null) return;
          opened++;
          expect(same(contents, naiveVdi(mutant)!)).toBe(true);
        },
      ),
      { numRuns: 10_000, interruptAfterTimeLimit: fuzzSeconds * 1000 },
    );
    console.info(`${done} mutants, ${opened} of them readable`);
    expect(opened).toBeGreaterThan(0);
    expect(done - opened).toBeGreaterThan(0);
  });
});

describe('a differencing VDI', () => {
  const parent = buildVdi({
    size: 5 * blockSize,
    blockSize,
    map: [3, 0, FREE, 1, 2],
    uuid: 7,
    state: 8,
    seed: 99,
  });
  const child = buildVdi({ ...spec, parent: { uuid: 7, state: 8 } });

  /** What is seen of a child and a parent; null where one of them is refused, or the parent is not the child's. */
  async function seen(above: Uint8Array, below: Uint8Array): Promise<Uint8Array | null> {
    try {
      const top = await load(loadVdi, new BytesUnit(above, { name: 'child' }));
      const bottom = new BytesUnit(below, { name: 'parent' });
      const { sought, check } = top.backing!;
      if (sought!.match(below.subarray(0, sought!.headBytes)) === 'no') return null;
      await check!(bottom);
      return await contentsOf(over(top, await load(loadVdi, bottom)), MOST_COMPARED);
    } catch (error) {
      if (error instanceof DriftmapError && error.kind !== 'internal') return null;
      throw error;
    }
  }

  it('cut short at every sector, it or its parent: refused', async () => {
    expect(same((await seen(child, parent))!, naiveChain([child, parent])!)).toBe(true);
    for (let length = 0; length < child.length; length += 512) {
      expect(await seen(child.slice(0, length), parent)).toBeNull();
    }
    for (let length = 0; length < parent.length; length += 512) {
      expect(await seen(child, parent.slice(0, length))).toBeNull();
    }
  });

  it.each(['child', 'parent'])(
    'with one damaged byte of the %s: an error, or what the maps say',
    async (which) => {
      let done = 0;
      let opened = 0;
      await fc.assert(
        fc.asyncProperty(fc.nat(512 + 23), fc.integer({ min: 1, max: 255 }), async (place, change) => {
          const mutant = (which === 'child' ? child : parent).slice();
          mutant[place]! ^= change;
          const images: [Uint8Array, Uint8Array] = which === 'child' ? [mutant, parent] : [child, mutant];
          const contents = await seen(...images);
          done++;
          if (contents === null) return;
          opened++;
          expect(same(contents, naiveChain(images)!)).toBe(true);
        }),
        { numRuns: 10_000, interruptAfterTimeLimit: fuzzSeconds * 500 },
      );
      console.info(`${done} mutants of the ${which}, ${opened} of them readable`);
      expect(opened).toBeGreaterThan(0);
      expect(done - opened).toBeGreaterThan(0);
    },
  );

  it('none of whose UUIDs of the parent can be damaged unseen', async () => {
    for (let place = 392; place < 424; place++) {
      const mutant = parent.slice();
      mutant[place]! ^= 0x10;
      expect(await seen(child, mutant)).toBeNull();
      const other = child.slice();
      other[place + 32]! ^= 0x10;
      expect(await seen(other, parent)).toBeNull();
    }
  });
});

describeWith('corpus', 'malformed VDI samples', () => {
  type Expectation = Record<string, { readonly expect: 'ok' | 'safe' | 'reject' }>;
  const expected: Expectation =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'malformed', 'EXPECT.json'), 'utf8'));
  const names = Object.keys(expected).filter((name) => name.endsWith('.vdi'));

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(5);
  });

  it.each(names)('%s', async (name) => {
    const image = gunzip(join(corpus!, 'malformed', `${name}.gz`));
    const unit = new BytesUnit(image, { name });
    const begun = performance.now();
    if (expected[name]!.expect === 'reject') {
      expect((await refusalOf(loadVdi, unit)).message).toMatch(/expected/);
    } else {
      expect(same(await contentsOf(await load(loadVdi, unit)), naiveVdi(image)!)).toBe(true);
    }
    expect(performance.now() - begun).toBeLessThan(2000);
  });
});
