import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Kind } from '../../src/mapping/extent-map.ts';
import { contentsOf, fuzzSeconds, randomFrom, same } from './vhd-loading.ts';
import {
  buildCowd,
  buildHosted,
  buildSeSparse,
  descriptorFile,
  type Grain,
  type HostedSpec,
  naiveCowd,
  naiveHosted,
  naiveSeSparse,
  SE_GRAIN,
  SECTOR,
  type SeGrain,
} from './vmdk-builder.ts';
import { contentsOrNull, type Files, loadFrom, refusal } from './vmdk-loading.ts';

const filled = (seed: number, length: number) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 23 + seed * 11) % 255));

const grainBytes = 8 * SECTOR;
/** Two tables, a hole between, grains that do not lie in order, zeros, and an end within a grain. */
const grains: Grain[] = Array.from({ length: 50 }, (_, i) =>
  i >= 16 && i < 32 ? null : i % 5 === 3 ? 'zero' : i % 7 === 2 ? null : filled(i, grainBytes),
);
const hostedSpec: HostedSpec = {
  capacity: 50 * 8 - 3,
  grainSectors: 8,
  entriesPerTable: 16,
  grains,
  order: grains.map((_, i) => (i * 7) % 50),
  redundant: true,
  zeroFlag: true,
};
const size = hostedSpec.capacity * SECTOR;
const hosted = buildHosted(hostedSpec);
const fieldAt = (image: Uint8Array, at: number) =>
  Number(new DataView(image.buffer).getBigUint64(at, true)) * SECTOR;
const directoryAt = fieldAt(hosted, 56);
const tableAt = new DataView(hosted.buffer).getUint32(directoryAt, true) * SECTOR;

describe('the header of a hosted sparse extent', () => {
  it.each<[string, (view: DataView) => void, string, number, RegExp]>([
    ['magic', (view) => view.setUint8(0, 0x4c), 'malformed', 0, /comment, a value or an extent/],
    ['version 0', (view) => view.setUint32(4, 0, true), 'unsupported', 4, /version 1, 2 or 3, got 0/],
    ['version 4', (view) => view.setUint32(4, 4, true), 'unsupported', 4, /version 1, 2 or 3, got 4/],
    ['unknown flags', (view) => view.setUint32(8, 0x80000007, true), 'unsupported', 8, /flags 80000000/],
    ['newlines', (view) => view.setUint8(75, 0x0a), 'malformed', 73, /LF, space, CR, LF/],
    ['compression', (view) => view.setUint16(77, 2, true), 'unsupported', 77, /unknown compression 2/],
    [
      'compression without its flag',
      (view) => view.setUint16(77, 1, true),
      'malformed',
      77,
      /not compressed/,
    ],
    [
      'flag without compression',
      (view) => view.setUint32(8, 0x30003, true),
      'malformed',
      77,
      /say compressed/,
    ],
    ['markers without compression', (view) => view.setUint32(8, 0x20003, true), 'unsupported', 8, /markers/],
    [
      'capacity',
      (view) => view.setBigUint64(12, 2n ** 44n, true),
      'malformed',
      12,
      /below 2\^53.*17592186044416/,
    ],
    [
      'another capacity',
      (view) => view.setBigUint64(12, 300n, true),
      'mismatch',
      12,
      /300 sectors.*says 397/,
    ],
    ['grains of 3', (view) => view.setBigUint64(20, 3n, true), 'malformed', 20, /got 3 sectors/],
    ['grains of 0', (view) => view.setBigUint64(20, 0n, true), 'malformed', 20, /got 0 sectors/],
    [
      'grains of 2 GiB',
      (view) => view.setBigUint64(20, 2n ** 22n, true),
      'malformed',
      20,
      /at most 1073741824/,
    ],
    [
      'descriptor far away',
      (view) => view.setBigUint64(28, 2n ** 40n, true),
      'malformed',
      2 ** 49,
      /past the end/,
    ],
    [
      'descriptor at 2^62',
      (view) => view.setBigUint64(28, 2n ** 62n, true),
      'malformed',
      28,
      /within the file/,
    ],
    ['descriptor of 2 MiB', (view) => view.setBigUint64(36, 4096n, true), 'limit', SECTOR, /at most 1048576/],
    ['no entries', (view) => view.setUint32(44, 0, true), 'malformed', 44, /1 to 512 entries.*got 0/],
    ['513 entries', (view) => view.setUint32(44, 513, true), 'malformed', 44, /got 513/],
    ['no directory', (view) => view.setBigUint64(56, 0n, true), 'malformed', 56, /grain directory within/],
    [
      'directory at 2^62',
      (view) => view.setBigUint64(56, 2n ** 62n, true),
      'malformed',
      56,
      /within the file/,
    ],
    [
      'directory past the end',
      (view) => view.setBigUint64(56, 2n ** 32n, true),
      'malformed',
      2 ** 41,
      /past the end/,
    ],
    ['metadata past the end', (view) => view.setBigUint64(64, 2n ** 32n, true), 'malformed', 64, /cut short/],
  ])('%s: refused', async (_, patch, kind, offset, reason) => {
    const image = hosted.slice();
    patch(new DataView(image.buffer));
    const error = await refusal({ disk: image }, 'disk');
    expect([error.kind, error.offset]).toEqual([kind, offset]);
    expect(error.message).toMatch(reason);
  });

  it('compressed grains that would take much memory: refused', async () => {
    const image = buildHosted({ capacity: 8, grains: [null], packed: true });
    new DataView(image.buffer).setBigUint64(20, 2n ** 16n, true);
    const error = await refusal({ disk: image }, 'disk');
    expect([error.kind, error.message]).toEqual(['limit', expect.stringMatching(/at most 16777216/)]);
  });

  it('a directory that would take much memory: refused', async () => {
    const image = buildHosted({ ...hostedSpec, descriptor: { extents: [] } });
    new DataView(image.buffer).setBigUint64(12, 2n ** 43n, true);
    expect((await refusal({ disk: image }, 'disk')).kind).toBe('limit');
  });

  it('one that was not closed is read, with a warning', async () => {
    const { warnings } = await loadFrom({ disk: buildHosted({ ...hostedSpec, unclean: true }) }, 'disk');
    expect(warnings).toEqual([expect.stringMatching(/disk: was not closed/)]);
  });
});

describe('the tables of a hosted sparse extent', () => {
  it('are read as they are', async () => {
    const image = await loadFrom({ disk: hosted }, 'disk');
    expect(image.warnings).toEqual([]);
    expect(same(await contentsOf(image), naiveHosted(hosted, size)!)).toBe(true);
    const kinds = [...image.map.extents()].filter(({ kind }) => kind === Kind.zero);
    expect(kinds.length).toBe(grains.filter((grain) => grain === 'zero').length);
  });

  it.each<[string, number, number, number | null, RegExp]>([
    ['a grain past the end', tableAt, 2 ** 31, tableAt, /a grain at 1099511627776 lies past the end/],
    ['a grain in the descriptor', tableAt, 3, null, /over one another/],
    ['a grain over a table', tableAt, tableAt / SECTOR, tableAt, /over one another/],
    ['a table past the end', directoryAt, 2 ** 31, 2 ** 40, /table of directory entry 0 lies past the end/],
    ['a table over the header', directoryAt, 1, SECTOR, /over one another/],
    ['a table that is another entry’s', directoryAt + 8, tableAt / SECTOR, tableAt, /over one another/],
  ])('%s: refused', async (_, at, value, offset, reason) => {
    const image = hosted.slice();
    new DataView(image.buffer).setUint32(at, value, true);
    const error = await refusal({ disk: image }, 'disk');
    // Of two that overlap, the offset is where the later one begins.
    expect([error.kind, error.offset]).toEqual(['malformed', offset ?? error.offset]);
    expect(error.message).toMatch(reason);
  });

  it('an entry of 1 is zeros only where the header says so', async () => {
    const image = hosted.slice();
    const view = new DataView(image.buffer);
    view.setUint32(8, 3, true);
    const error = await refusal({ disk: image }, 'disk');
    expect([error.kind, error.offset]).toEqual(['malformed', tableAt + 12]);
    expect(error.message).toMatch(/an entry of 1, which means zeros/);
  });

  it('a redundant copy that says something else is told, and not read', async () => {
    const copies = fieldAt(hosted, 48);
    const copy = new DataView(hosted.buffer).getUint32(copies, true) * SECTOR;
    for (const [at, value, tables] of [
      [copy, 77, 'a grain table'],
      [copies, 0, 'a grain table'],
      [copies, 2 ** 31, 'a grain table'],
      [48, 2 ** 31, '4 grain tables'],
      [48, copies / SECTOR + 1, '4 grain tables'],
    ] as const) {
      const image = hosted.slice();
      new DataView(image.buffer).setUint32(at, value, true);
      const { map, units, warnings } = await loadFrom({ disk: image }, 'disk');
      expect(warnings).toEqual([
        expect.stringContaining(`the redundant copy of ${tables} says something else`),
      ]);
      expect(same(await contentsOf({ map, units }), naiveHosted(hosted, size)!)).toBe(true);
    }
  });

  it('any that fit together read as a naive reading of them', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          grainBits: fc.integer({ min: 0, max: 5 }),
          entriesPerTable: fc.integer({ min: 1, max: 512 }),
          kinds: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 80 }),
          cut: fc.nat(),
          seed: fc.integer(),
          packed: fc.boolean(),
          atEnd: fc.boolean(),
          redundant: fc.boolean(),
        }),
        async ({ grainBits, kinds, cut, seed, ...spec }) => {
          const grainSectors = 2 ** grainBits;
          const capacity = kinds.length * grainSectors - (cut % grainSectors);
          const random = randomFrom(seed);
          const order = kinds.map((_, i) => i).sort(() => random(3) - 1);
          const contents = kinds.map((kind, i): Grain => {
            if (kind < 2) return kind === 0 ? null : 'zero';
            return filled(i, grainSectors * SECTOR);
          });
          const image = buildHosted({
            ...spec,
            grainSectors,
            capacity,
            grains: contents,
            order,
            zeroFlag: true,
          });
          const loaded = await loadFrom({ disk: image }, 'disk');
          expect(loaded.warnings).toEqual([]);
          const wanted = naiveHosted(image, capacity * SECTOR)!;
          expect(same(await contentsOf(loaded), wanted)).toBe(true);
          contents.forEach((grain, i) => {
            const begin = i * grainSectors * SECTOR;
            const { kind } = loaded.map.explain(begin);
            expect(kind).toBe(
              grain === null
                ? Kind.unallocated
                : grain === 'zero'
                  ? Kind.zero
                  : spec.packed || spec.atEnd
                    ? Kind.zlib
                    : Kind.data,
            );
          });
        },
      ),
      { numRuns: 300 },
    );
  });
});

/** An image that damage is done to, and a second reading of it; all are of one disk's size. */
interface Victim {
  readonly title: string;
  readonly image: Uint8Array;
  readonly files: (image: Uint8Array) => Files;
  readonly naive: (image: Uint8Array) => Uint8Array | null;
  /** Bytes that are tables and headers, not contents. */
  readonly metadata: number;
  /** Whether damage to the descriptor within may change the size. */
}

const around = (type: string, sectors: number) => (image: Uint8Array) => ({
  disk: descriptorFile({ extents: [`RW ${sectors} ${type} "extent"`] }),
  extent: image,
});

const packedSpec: HostedSpec = { ...hostedSpec, redundant: false };
const streamed = buildHosted({ ...packedSpec, atEnd: true });
const cowdGrains = Array.from({ length: 60 }, (_, i) => (i % 3 === 0 ? null : filled(i, 2 * SECTOR)));
const cowd = buildCowd({ capacity: 119, grainSectors: 2, grains: cowdGrains });
const seGrains = new Map<number, SeGrain>([
  [0, filled(1, SE_GRAIN)],
  [1, 'zero'],
  [2, filled(2, SE_GRAIN)],
  [3, 'unmapped'],
  [5, filled(3, SE_GRAIN)],
]);
const se = buildSeSparse({ capacity: 45, grains: seGrains });

const victims: readonly Victim[] = [
  {
    title: 'hosted',
    image: hosted,
    files: (image) => ({ disk: image }),
    naive: (image) => naiveHosted(image, size),
    metadata: fieldAt(hosted, 64),
  },
  {
    title: 'a stream',
    image: streamed,
    files: (image) => ({ disk: image }),
    naive: (image) => naiveHosted(image, size),
    metadata: streamed.length,
  },
  {
    title: 'COWD',
    image: cowd,
    files: around('VMFSSPARSE', 119),
    naive: (image) => naiveCowd(image, 119 * SECTOR),
    metadata: 2048 + SECTOR + 4 * 60,
  },
  {
    title: 'seSparse',
    image: se,
    files: around('SESPARSE', 45),
    naive: (image) => naiveSeSparse(image, 45 * SECTOR),
    metadata: 3 * SECTOR + 64,
  },
];

describe.each(victims)('$title', ({ image, files, naive, metadata }) => {
  const whole = naive(image)!;

  it('cut short anywhere: refused, or what is there is all of it', { timeout: 30_000 }, async () => {
    let refused = 0;
    for (let boundary = 0; boundary <= image.length; boundary += SECTOR) {
      for (const length of [boundary - 1, boundary, boundary + 1]) {
        if (length < 0 || length > image.length) continue;
        const contents = await contentsOrNull(files(image.slice(0, length)), 'disk');
        if (contents === null) refused++;
        else expect(same(contents, whole)).toBe(true);
      }
    }
    expect(refused).toBeGreaterThan(image.length / SECTOR);
  });

  it('with one damaged byte: refused, or read as its tables say', {
    timeout: fuzzSeconds * 1000 + 30_000,
  }, async () => {
    let done = 0;
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(fc.nat(metadata - 1), fc.integer({ min: 1, max: 255 }), async (place, change) => {
        const mutant = image.slice();
        mutant[place]! ^= change;
        const begun = performance.now();
        const contents = await contentsOrNull(files(mutant), 'disk');
        expect(performance.now() - begun).toBeLessThan(2000);
        done++;
        if (contents === null) return;
        opened++;
        const wanted = naive(mutant);
        expect(wanted).not.toBeNull();
        // A descriptor that was changed may end the disk within its last grain.
        expect(same(contents, wanted!.subarray(0, contents.length))).toBe(true);
      }),
      { numRuns: 20_000, interruptAfterTimeLimit: (fuzzSeconds * 1000) / victims.length },
    );
    console.info(`${done} mutants, ${opened} of them readable`);
    expect(opened).toBeGreaterThan(0);
    expect(done - opened).toBeGreaterThan(0);
  });
});
