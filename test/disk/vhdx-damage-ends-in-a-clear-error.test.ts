import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadVhdx } from '../../src/disk/formats/vhdx.ts';
import { gunzip } from '../tools.ts';
import { BytesUnit, corpus, describeWith } from './images.ts';
import { contentsOf, contentsOrRefusal, fuzzSeconds, load, refusalOf, same } from './vhd-loading.ts';
import {
  buildVhdx,
  FIRST_BLOCK,
  guidBytes,
  METADATA_AT,
  MiB,
  naiveVhdx,
  seal,
  TABLE_AT,
  type VhdxSpec,
} from './vhdx-builder.ts';

const KiB = 1024;
const filled = (seed: number, length = MiB) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 11 + seed * 5) % 255));
const spec: VhdxSpec = {
  size: 3 * MiB - 1536,
  blocks: [{ state: 6, data: filled(1) }, { state: 2 }, { state: 6, data: filled(2) }],
};
const good = buildVhdx(spec);
const contents = naiveVhdx(good)!;

function patched(change: (view: DataView, image: Uint8Array) => void): BytesUnit {
  const image = good.slice();
  change(new DataView(image.buffer), image);
  return new BytesUnit(image);
}

async function expectContents(unit: BytesUnit, warning: RegExp | null): Promise<void> {
  const loaded = await load(loadVhdx, unit);
  expect(same(await contentsOf(loaded), contents)).toBe(true);
  if (warning === null) expect(loaded.warnings).toEqual([]);
  else expect(loaded.warnings.join()).toMatch(warning);
}

describe('headers and region tables of a VHDX', () => {
  it.each([64, 128])('one of two headers may be damaged: the other one counts (at %i KiB)', async (at) => {
    await expectContents(
      patched((view) => view.setUint8(at * KiB + 20, 1)),
      new RegExp(`header at ${at * KiB} is damaged`),
    );
    // As in a file that was just made.
    await expectContents(
      patched((_, image) => image.fill(0, at * KiB, at * KiB + 4096)),
      null,
    );
  });

  it.each([192, 256])('one of two region tables may be damaged (at %i KiB)', async (at) => {
    await expectContents(
      patched((view) => view.setUint8(at * KiB + 60000, 1)),
      new RegExp(`region table at ${at * KiB} is damaged`),
    );
  });

  it('the header with the larger sequence number counts, of 64 bits', async () => {
    for (const at of [64, 128]) {
      const unit = patched((view, image) => {
        const other = (192 - at) * KiB;
        // The one that must not count names a log that would have to be replayed.
        image.fill(0x77, other + 48, other + 64);
        view.setBigUint64(other + 8, 2n ** 63n - 1n, true);
        view.setBigUint64(at * KiB + 8, 2n ** 63n, true);
        seal(image.subarray(other, other + 4096));
        seal(image.subarray(at * KiB, at * KiB + 4096));
      });
      await expectContents(unit, null);
    }
  });

  it('equal headers with one sequence number are read, as Disk2vhd writes them; different ones are refused', async () => {
    const copied = (more: number) =>
      patched((_, image) => {
        image.copyWithin(64 * KiB, 128 * KiB, 132 * KiB);
        image[64 * KiB + 32] = image[64 * KiB + 32]! + more;
        seal(image.subarray(64 * KiB, 68 * KiB));
      });
    await expectContents(copied(0), null);
    expect((await refusalOf(loadVhdx, copied(1))).message).toMatch(
      /two different headers have the sequence number 8/,
    );
  });

  it.each<[string, Partial<VhdxSpec>, string, RegExp]>([
    [
      'version',
      { patchHeader: (view) => view.setUint16(66, 2, true) },
      'unsupported',
      /version 1 with log version 0, got 2 and 0/,
    ],
    ['log version', { patchHeader: (view) => view.setUint16(64, 1, true) }, 'unsupported', /got 1 and 1/],
    [
      'regions without number',
      { patchRegions: (view) => view.setUint32(8, 2048, true) },
      'malformed',
      /at most 2047 entries/,
    ],
    [
      'no block table',
      { patchRegions: (view) => put(view, 16, '00000000-0000-0000-0000-000000000001', 0) },
      'malformed',
      /no region of the block table/,
    ],
    [
      'an unknown required region',
      { patchRegions: (view) => put(view, 80, 'ABCDEF00-0000-0000-0000-000000000001', 1) },
      'unsupported',
      /a region that driftmap does not know: ABCDEF00/,
    ],
    [
      'a region twice',
      { patchRegions: (view) => put(view, 80, '8B7CA206-4790-4B9A-B8FE-575F050F886E', 1) },
      'malformed',
      /there twice/,
    ],
    [
      'a region off its mebibyte',
      { patchRegions: (view) => view.setBigUint64(32, BigInt(TABLE_AT + 4096), true) },
      'malformed',
      /whole mebibytes/,
    ],
    [
      'an empty region',
      { patchRegions: (view) => view.setUint32(40, 0, true) },
      'malformed',
      /whole mebibytes/,
    ],
    [
      'a region in the header section',
      { patchRegions: (view) => view.setBigUint64(32, 0n, true) },
      'malformed',
      /whole mebibytes after the first/,
    ],
    [
      'a region past the end',
      { patchRegions: (view) => view.setBigUint64(32, 2n ** 40n, true) },
      'malformed',
      /within the file's/,
    ],
    [
      'a region over another',
      { patchRegions: (view) => view.setBigUint64(32, BigInt(METADATA_AT), true) },
      'malformed',
      /over one another/,
    ],
    [
      'a region over the log',
      { patchRegions: (view) => view.setBigUint64(32, BigInt(MiB), true) },
      'malformed',
      /over one another|metadata/,
    ],
  ])('%s: refused', async (_, more, kind, reason) => {
    const error = await refusalOf(loadVhdx, new BytesUnit(buildVhdx({ ...spec, ...more })));
    expect(error.kind).toBe(kind);
    expect(error.message).toMatch(reason);
  });

  it('an unknown region that is not required is passed over, wherever it lies', async () => {
    const patchRegions = (view: DataView) => put(view, 80, 'ABCDEF00-0000-0000-0000-000000000001', 0);
    await expectContents(new BytesUnit(buildVhdx({ ...spec, patchRegions })), null);
  });
});

/** Adds or replaces an entry of a region table, `required` or not, of 1 MiB at 512 TiB. */
function put(view: DataView, at: number, guid: string, required: number): void {
  if (at === 80) view.setUint32(8, 3, true);
  guidBytes(guid).forEach((byte, i) => {
    view.setUint8(at + i, byte);
  });
  view.setUint32(at + 28, required, true);
  if (at !== 80) return;
  view.setBigUint64(at + 16, 2n ** 49n, true);
  view.setUint32(at + 24, MiB, true);
}

describe('metadata of a VHDX', () => {
  /** Items as the builder puts them: parameters, size, id, logical and physical sector size. */
  const item = (i: number) => 32 + 32 * i;
  const parameters = 64 * KiB;
  const size = parameters + 8;
  const logical = size + 24;

  it.each<[string, (view: DataView) => void, string, RegExp]>([
    ['signature', (view) => view.setUint8(0, 0), 'malformed', /signature 'metadata'/],
    ['items without number', (view) => view.setUint16(10, 2048, true), 'malformed', /at most 2047 entries/],
    ['an item twice', (view) => copyItem(view, item(0), item(4)), 'malformed', /there twice/],
    ['no size', (view) => view.setUint8(item(1), 0), 'unsupported', /does not know: 2FA54200/],
    [
      'an optional unknown in its place',
      (view) => replaceItem(view, item(1)),
      'malformed',
      /virtual disk size .* is missing/,
    ],
    [
      'an item in the table',
      (view) => view.setUint32(item(1) + 16, 65535, true),
      'malformed',
      /expected an item/,
    ],
    [
      'an item past the region',
      (view) => view.setUint32(item(1) + 16, MiB - 4, true),
      'malformed',
      /expected an item/,
    ],
    [
      'a huge item',
      (view) => view.setUint32(item(1) + 20, 2 * MiB, true),
      'malformed',
      /at most 1048576 bytes/,
    ],
    [
      'an item of another length',
      (view) => view.setUint32(item(1) + 20, 4, true),
      'malformed',
      /8 bytes of virtual disk size, got 4/,
    ],
    [
      'blocks of 0',
      (view) => view.setUint32(parameters, 0, true),
      'malformed',
      /power of two from 1 MiB to 256 MiB, got 0/,
    ],
    ['blocks of 512 KiB', (view) => view.setUint32(parameters, 512 * KiB, true), 'malformed', /power of two/],
    ['blocks of 512 MiB', (view) => view.setUint32(parameters, 512 * MiB, true), 'malformed', /power of two/],
    [
      'sectors of 1024',
      (view) => view.setUint32(logical, 1024, true),
      'malformed',
      /sector size of 512 or 4096, got 1024/,
    ],
    [
      'half a sector',
      (view) => view.setUint32(size, 3 * MiB - 100, true),
      'malformed',
      /in sectors of 512 bytes/,
    ],
    ['65 TiB', (view) => view.setBigUint64(size, 65n * 2n ** 40n, true), 'malformed', /at most 64 TiB/],
    [
      '64 TiB',
      (view) => view.setBigUint64(size, 64n * 2n ** 40n, true),
      'malformed',
      /block table: expected a region/,
    ],
    [
      'a parent that is nowhere',
      (view) => view.setUint32(parameters + 4, 2, true),
      'malformed',
      /parent locator .* is missing/,
    ],
  ])('%s: refused', async (_, patchMetadata, kind, reason) => {
    const error = await refusalOf(loadVhdx, new BytesUnit(buildVhdx({ ...spec, patchMetadata })));
    expect(error.kind).toBe(kind);
    expect(error.message).toMatch(reason);
  });

  it('an unknown item that is not required is passed over', async () => {
    const patchMetadata = (view: DataView) => replaceItem(view, item(4));
    await expectContents(new BytesUnit(buildVhdx({ ...spec, patchMetadata })), null);
  });
});

/** Puts an unknown item that is not required in the place of another. */
function replaceItem(view: DataView, at: number): void {
  view.setUint8(at, 0);
  view.setUint32(at + 24, 0, true);
}

function copyItem(view: DataView, from: number, to: number): void {
  for (let i = 0; i < 32; i++) view.setUint8(to + i, view.getUint8(from + i));
}

describe('the block table of a VHDX', () => {
  it.each<[string, bigint, RegExp]>([
    ['past the end', BigInt(good.length / MiB), /past the end of the file/],
    ['far past the end', 2n ** 43n, /past the end of the file/],
    ['over the header section', 0n, /over one another/],
    ['over the log', 1n, /over one another/],
    ['over the metadata', 2n, /over one another/],
    ['over the table', 3n, /over one another/],
    ['twice the same', BigInt(FIRST_BLOCK / MiB), /over one another/],
  ])('%s: refused', async (_, place, reason) => {
    const unit = patched((view) => view.setBigUint64(TABLE_AT + 16, 6n | (place << 20n), true));
    expect((await refusalOf(loadVhdx, unit)).message).toMatch(reason);
  });

  it('cut short at every boundary: refused; past the end of the disk it may be cut', async () => {
    const last = good.length - 1536;
    for (let boundary = 0; boundary <= good.length; boundary += 64 * KiB) {
      for (const length of [boundary - 1, boundary, boundary + 1]) {
        if (length < 0 || length >= last) continue;
        expect(await contentsOrRefusal(loadVhdx, new BytesUnit(good.subarray(0, length)))).toBeNull();
      }
    }
    await expectContents(new BytesUnit(good.subarray(0, last)), null);
    expect(await contentsOrRefusal(loadVhdx, new BytesUnit(good.subarray(0, last - 1)))).toBeNull();
  });
});

describe('one damaged byte of a VHDX', () => {
  /** What means something: headers, region tables, metadata, block table. */
  const places: number[] = [];
  const add = (at: number, length: number) => {
    for (let i = 0; i < length; i++) places.push(at + i);
  };
  add(0, 16);
  add(64 * KiB, 96);
  add(128 * KiB, 96);
  add(192 * KiB, 96);
  add(256 * KiB, 96);
  add(METADATA_AT, 32 + 5 * 32);
  add(METADATA_AT + 64 * KiB, 48);
  for (let i = 0; i < 8; i++) add(TABLE_AT, 24);

  it('an error, or what its tables say', { timeout: fuzzSeconds * 1000 + 30_000 }, async () => {
    let done = 0;
    let opened = 0;
    const mutant = good.slice();
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...places),
        fc.integer({ min: 1, max: 255 }),
        async (place, change) => {
          mutant[place]! ^= change;
          const begun = performance.now();
          const found = await contentsOrRefusal(loadVhdx, new BytesUnit(mutant));
          expect(performance.now() - begun).toBeLessThan(2000);
          done++;
          if (found !== null) {
            opened++;
            expect(same(found, naiveVhdx(mutant)!)).toBe(true);
          }
          mutant[place]! ^= change;
        },
      ),
      { numRuns: 10_000, interruptAfterTimeLimit: fuzzSeconds * 1000, endOnFailure: true },
    );
    console.info(`${done} mutants, ${opened} of them readable`);
    expect(opened).toBeGreaterThan(0);
    expect(done - opened).toBeGreaterThan(0);
  });

  it('checksums mended: still an error, or what its tables say', {
    timeout: fuzzSeconds * 1000 + 30_000,
  }, async () => {
    let opened = 0;
    const harm = (place: number, change: number) => (view: DataView) =>
      view.setUint8(place, view.getUint8(place) ^ change);
    await fc.assert(
      fc.asyncProperty(
        fc.boolean(),
        fc.nat(95),
        fc.integer({ min: 1, max: 255 }),
        async (header, place, change) => {
          const patch = harm(place, change);
          const mutant = buildVhdx(
            header ? { ...spec, patchHeader: patch } : { ...spec, patchRegions: patch },
          );
          const found = await contentsOrRefusal(loadVhdx, new BytesUnit(mutant));
          if (found === null) return;
          opened++;
          expect(same(found, naiveVhdx(mutant)!)).toBe(true);
        },
      ),
      { numRuns: 10_000, interruptAfterTimeLimit: (fuzzSeconds * 1000) / 2 },
    );
    expect(opened).toBeGreaterThan(0);
  });
});

describeWith('corpus', 'malformed VHDX samples', () => {
  type Expectation = Record<string, { readonly expect: 'ok' | 'safe' | 'reject' }>;
  const expected: Expectation =
    corpus === null ? {} : JSON.parse(readFileSync(join(corpus, 'malformed', 'EXPECT.json'), 'utf8'));
  const names = Object.keys(expected).filter((name) => name.endsWith('.vhdx'));

  it('there are samples', () => {
    expect(names.length).toBeGreaterThan(8);
  });

  it.each(names)('%s', async (name) => {
    const image = gunzip(join(corpus!, 'malformed', `${name}.gz`));
    const unit = new BytesUnit(image, { name });
    const begun = performance.now();
    if (expected[name]!.expect === 'ok') {
      expect(same(await contentsOf(await load(loadVhdx, unit)), naiveVhdx(image)!)).toBe(true);
    } else if (name === 'x-bate-unmapped.vhdx') {
      const found = await contentsOf(await load(loadVhdx, unit));
      expect(found.every((byte) => byte === 0)).toBe(true);
    } else {
      const error = await refusalOf(loadVhdx, unit);
      expect(error.message.length).toBeGreaterThan(20);
      if (name === 'x-bate-partial.vhdx') expect(error.message).toMatch(/without a parent/);
    }
    expect(performance.now() - begun).toBeLessThan(2000);
  });
});
