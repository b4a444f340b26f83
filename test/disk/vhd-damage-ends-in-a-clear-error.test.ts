import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadVhd } from '../../src/disk/formats/vhd.ts';
import { gunzip } from '../tools.ts';
import { BytesUnit, corpus, describeWith } from './images.ts';
import { buildVhd, naiveVhd, utf16, type VhdSpec } from './vhd-builder.ts';
import { contentsOf, contentsOrRefusal, fuzzSeconds, load, refusalOf, same } from './vhd-loading.ts';

const blockSize = 16384;
const whole = Array.from({ length: 32 }, () => true);
const some = Array.from({ length: 32 }, (_, i) => i % 5 !== 0);
const data = (seed: number) => Uint8Array.from({ length: blockSize }, (_, i) => 1 + ((i * 7 + seed) % 255));
const dynamic: VhdSpec = {
  type: 3,
  size: 5 * blockSize - 1024,
  blockSize,
  blocks: [
    { present: whole, data: data(1) },
    null,
    { present: some, data: data(2) },
    null,
    { present: whole, data: data(3) },
  ],
};
const good = buildVhd(dynamic);
/** Header at 512; the table after it; blocks after that. */
const tableAt = 1536;
const firstBlock = 2048;
const stride = 512 + blockSize;

function patched(change: (view: DataView) => void): BytesUnit {
  const image = good.slice();
  change(new DataView(image.buffer));
  return new BytesUnit(image);
}

describe('footers of a VHD', () => {
  it('the one at the end decides; a copy that says something else is told', async () => {
    const other = buildVhd({ ...dynamic, uuid: 99 });
    const image = good.slice();
    image.set(other.subarray(0, 512), 0);
    const loaded = await load(loadVhd, new BytesUnit(image));
    expect(same(await contentsOf(loaded), naiveVhd(good)!)).toBe(true);
    expect(loaded.warnings.join()).toMatch(/copy of the VHD footer .* is not the footer's/);
  });

  it.each([
    ['damaged', (image: Uint8Array) => image.fill(0xee, image.length - 100), /damaged/],
    ['lost', (image: Uint8Array) => image.fill(0, image.length - 512), /lost/],
  ])('%s: the copy is taken, with a warning', async (_, harm, warning) => {
    const image = good.slice();
    harm(image);
    const loaded = await load(loadVhd, new BytesUnit(image));
    expect(same(await contentsOf(loaded), naiveVhd(good)!)).toBe(true);
    expect(loaded.warnings).toHaveLength(1);
    expect(loaded.warnings[0]).toMatch(warning);
  });

  it('both damaged: refused', async () => {
    const image = good.slice();
    image[image.length - 1] = 1;
    image[511] = 1;
    expect((await refusalOf(loadVhd, new BytesUnit(image))).message).toMatch(/footer: expected the checksum/);
  });

  it('of 511 bytes, as before Virtual PC 2004, is read', async () => {
    for (const spec of [dynamic, { type: 2, size: 4096, contents: data(9).subarray(0, 4096) } as const]) {
      const usual = buildVhd(spec);
      const old = await load(loadVhd, new BytesUnit(usual.slice(0, -1)));
      expect(old.warnings).toEqual([]);
      expect(same(await contentsOf(old), naiveVhd(usual)!)).toBe(true);
    }
  });

  it("at the start of a fixed disk is the guest's own data and nothing else", async () => {
    const contents = new Uint8Array(8192);
    contents.set(good.subarray(0, 2048));
    const fixed = buildVhd({ type: 2, size: 8192, contents });
    const loaded = await load(loadVhd, new BytesUnit(fixed));
    expect(loaded.warnings).toEqual([]);
    expect(same(await contentsOf(loaded), contents)).toBe(true);
  });

  it('of another version or type is refused by name', async () => {
    const make = (patchFooter: (view: DataView) => void) =>
      new BytesUnit(buildVhd({ ...dynamic, patchFooter }));
    const version = await refusalOf(
      loadVhd,
      make((view) => view.setUint32(12, 0x00020001)),
    );
    expect([version.kind, version.message]).toEqual([
      'unsupported',
      expect.stringMatching(/version 1, got 2\.1/),
    ]);
    const type = await refusalOf(
      loadVhd,
      make((view) => view.setUint32(60, 5)),
    );
    expect([type.kind, type.message]).toEqual(['unsupported', expect.stringMatching(/got 5/)]);
  });

  it('of no VHD: refused', async () => {
    for (const length of [0, 1, 511, 512, 5000]) {
      const error = await refusalOf(loadVhd, new BytesUnit(new Uint8Array(length)));
      expect(error.kind).toBe('malformed');
    }
  });
});

describe('the dynamic header of a VHD', () => {
  it.each<[string, (view: DataView) => void, RegExp]>([
    ['no cookie', (view) => view.setUint8(0, 0), /cxsparse/],
    ['version', (view) => view.setUint32(24, 0x00030000), /version 1 of the VHD dynamic header, got 3\.0/],
    ['blocks of 0 bytes', (view) => view.setUint32(32, 0), /power of two from 512 on, got 0/],
    ['blocks of 3 MiB', (view) => view.setUint32(32, 3 * 2 ** 20), /power of two/],
    ['too few blocks', (view) => view.setUint32(28, 4), /at least 5 entries/],
    ['more blocks than file', (view) => view.setUint32(28, 2 ** 31), /within the file's/],
    ['a table past the end', (view) => view.setBigUint64(16, 2n ** 60n), /within the file's/],
    ['a table over the header', (view) => view.setBigUint64(16, 1024n), /over one another/],
    ['a table over the copy of the footer', (view) => view.setBigUint64(16, 0n), /over one another/],
  ])('%s: refused', async (_, patchHeader, reason) => {
    const error = await refusalOf(loadVhd, new BytesUnit(buildVhd({ ...dynamic, patchHeader })));
    expect(['malformed', 'unsupported']).toContain(error.kind);
    expect(error.message).toMatch(reason);
  });

  it('a checksum that does not fit: refused', async () => {
    const error = await refusalOf(
      loadVhd,
      patched((view) => view.setUint8(512 + 100, 5)),
    );
    expect([error.offset, error.message]).toEqual([548, expect.stringMatching(/expected the checksum/)]);
  });

  it('a disk that 32-bit sector numbers cannot hold: refused', async () => {
    const patchFooter = (view: DataView) => view.setBigUint64(48, 2n ** 41n + 512n);
    const error = await refusalOf(loadVhd, new BytesUnit(buildVhd({ ...dynamic, patchFooter })));
    expect(error.message).toMatch(/at most 2199023255552 bytes/);
  });
});

describe('the block table of a VHD', () => {
  it.each<[string, number, RegExp]>([
    ['past the end', 2 ** 32 - 2, /past the end of the data/],
    ['into the footer', (firstBlock + 2 * stride) / 512 + 3, /block 4 .* past the end of the data/],
    ['over the copy of the footer', 0, /over one another/],
    ['over the header', 1, /over one another/],
    ['over the table', tableAt / 512, /over one another/],
    ['twice the same', firstBlock / 512, /over one another/],
    ['half over another', firstBlock / 512 + 3, /over one another/],
  ])('%s: refused', async (_, entry, reason) => {
    const error = await refusalOf(
      loadVhd,
      patched((view) => view.setUint32(tableAt + 16, entry)),
    );
    expect(error.kind).toBe('malformed');
    expect(error.message).toMatch(reason);
  });

  it('cut short at every sector: refused, or read from the copy as it was', async () => {
    let refused = 0;
    for (let length = 0; length < good.length; length += 512) {
      for (const cut of [length - 1, length, length + 1]) {
        if (cut < 0) continue;
        const contents = await contentsOrRefusal(loadVhd, new BytesUnit(good.slice(0, cut)));
        if (contents === null) refused++;
        // The last block's tail, which the disk does not need, and the footer may go.
        else expect([cut >= good.length - 1536, same(contents, naiveVhd(good)!)]).toEqual([true, true]);
      }
    }
    expect(refused).toBeGreaterThan(good.length / 512);
  });
});

describe('one damaged byte of a VHD', () => {
  const differencing = buildVhd({
    ...dynamic,
    type: 4,
    parent: { uuid: 3, locators: [{ platform: 'W2ru', bytes: utf16('base.vhd') }] },
  });

  it.each([
    ['dynamic', good],
    ['differencing', differencing],
  ])('%s: an error, or what its tables say', { timeout: fuzzSeconds * 1000 + 30_000 }, async (_, image) => {
    const places: number[] = [];
    for (let at = 0; at < firstBlock + 512; at++) places.push(at);
    for (let at = image.length - 512; at < image.length; at++) places.push(at);
    let done = 0;
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.integer({ min: 1, max: 255 }),
        async (place, change) => {
          const mutant = image.slice();
          mutant[place]! ^= change;
          const begun = performance.now();
          const contents = await contentsOrRefusal(loadVhd, new BytesUnit(mutant));
          expect(performance.now() - begun).toBeLessThan(2000);
          done++;
          if (contents === null) return;
          opened++;
          expect(same(contents, naiveVhd(mutant)!)).toBe(true);
        },
      ),
      { numRuns: 10_000, interruptAfterTimeLimit: (fuzzSeconds * 1000) / 2 },
    );
    console.info(`${done} mutants, ${opened} of them readable`);
    expect(opened).toBeGreaterThan(0);
    expect(done - opened).toBeGreaterThan(0);
  });

  it('checksums mended: still an error, or what its tables say', {
    timeout: fuzzSeconds * 1000 + 30_000,
  }, async () => {
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(1023), fc.integer({ min: 1, max: 255 }), async (place, change) => {
        const harm = (view: DataView) =>
          view.setUint8(place % view.byteLength, view.getUint8(place % view.byteLength) ^ change);
        const spec = place < 88 ? { ...dynamic, patchFooter: harm } : { ...dynamic, patchHeader: harm };
        const mutant = buildVhd(spec);
        const contents = await contentsOrRefusal(loadVhd, new BytesUnit(mutant));
        if (contents === null) return;
        opened++;
        expect(same(contents, naiveVhd(mutant)!)).toBe(true);
      }),
      { numRuns: 10_000, interruptAfterTimeLimit: (fuzzSeconds * 1000) / 2 },
    );
    expect(opened).toBeGreaterThan(0);
  });
});

describeWith('corpus', 'malformed VHD samples', () => {
  type Expectation = Record<string, { readonly expect: 'ok' | 'safe' | 'reject' }>;
  const expected: Expectation =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'malformed', 'EXPECT.json'), 'utf8'));
  const names = Object.keys(expected).filter((name) => name.endsWith('.vhd'));
  /** Safe to refuse, for these cannot be read without inventing data. */
  const refused: Readonly<Record<string, RegExp>> = {
    'h-bat-overlap.vhd': /over one another/,
    'h-bate-hdr.vhd': /over one another/,
  };

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(6);
  });

  it.each(names)('%s', async (name) => {
    const image = gunzip(join(corpus!, 'malformed', `${name}.gz`));
    const original = await contentsOf(
      await load(loadVhd, new BytesUnit(gunzip(join(corpus!, 'malformed', 'b.vhd.gz')))),
    );
    const begun = performance.now();
    if (expected[name]!.expect === 'reject' || name in refused) {
      const error = await refusalOf(loadVhd, new BytesUnit(image, { name }));
      expect(error.message).toMatch(refused[name] ?? /expected/);
    } else {
      expect(same(await contentsOf(await load(loadVhd, new BytesUnit(image, { name }))), original)).toBe(
        true,
      );
    }
    expect(performance.now() - begun).toBeLessThan(2000);
  });
});
