import { describe, expect, it } from 'vitest';
import { Kind } from '../../src/mapping/extent-map.ts';
import { contentsOf, same } from './vhd-loading.ts';
import { buildHosted, type DescriptorSpec, descriptorFile, descriptorText, SECTOR } from './vmdk-builder.ts';
import { contentsOrNull, type Files, loadFrom, refusal } from './vmdk-loading.ts';

const filled = (seed: number, length: number) =>
  Uint8Array.from({ length }, (_, i) => 1 + ((i * 17 + seed * 3) % 255));

const flat = filled(1, 20 * SECTOR);
const flatSpec: DescriptorSpec = { createType: 'monolithicFlat', extents: ['RW 20 FLAT "flat.raw" 0'] };

function files(spec: DescriptorSpec, more: Files = {}): Files {
  return { 'disk.vmdk': descriptorFile(spec), 'flat.raw': flat, ...more };
}

function written(text: string, more: Files = {}): Files {
  return { 'disk.vmdk': new Uint8Array(Buffer.from(text, 'latin1')), 'flat.raw': flat, ...more };
}

async function reads(set: Files, wanted: Uint8Array = flat): Promise<void> {
  expect(same((await contentsOrNull(set, 'disk.vmdk'))!, wanted)).toBe(true);
}

describe('a VMDK descriptor', () => {
  it('reads with LF and CRLF, padded with zeros and without a last newline', async () => {
    await reads(files(flatSpec));
    await reads(files({ ...flatSpec, newline: '\r\n' }));
    const text = descriptorText(flatSpec);
    await reads(written(text.trimEnd()));
    await reads(written(`${text}${'\0'.repeat(1000)}what lies behind a zero byte is no text`));
  });

  it('reads with spaces, in any case, and in any order', async () => {
    const text = [
      '# a comment "with" = everything',
      '   ',
      '  rw  20\tflat "flat.raw"   0  ',
      'CREATETYPE = "MonolithicFlat"',
      'changeTrackPath="flat-ctk.vmdk"',
      'ddb.comment = half a "quote',
      'ddb.twice = "1"',
      'ddb.twice = "2"',
      'parentcid=FFFFFFFF',
      'Version=3',
      'cid = 12AB',
    ].join('\n');
    await reads(written(text));
  });

  it.each([
    'monolithicFlat',
    'twoGbMaxExtentFlat',
    '2GbMaxExtentFlat',
    'vmfs',
    'vmfsThin',
    'fullDevice',
    'custom',
  ])('of type %s is read by its extents', (createType) => reads(files({ ...flatSpec, createType })));

  it('lays its extents one after the other, and may name a flat file often', async () => {
    const spec = {
      createType: 'partitionedDevice',
      extents: [
        'RW 3 FLAT "flat.raw" 17',
        'RDONLY 4 ZERO',
        'RW 2 VMFS "flat.raw"',
        'RDONLY 1 FLAT "flat.raw" 5 partitionUUID device',
        'RW 20 FLAT "other.raw" 0',
      ],
    };
    const set = files(spec, { 'other.raw': filled(2, 20 * SECTOR) });
    const { map, units } = await loadFrom(set, 'disk.vmdk');
    const found = [...map.extents()].map(({ offset, length, kind, unit, place }) => [
      offset / SECTOR,
      length / SECTOR,
      kind,
      unit,
      place < 0 ? place : place / SECTOR,
    ]);
    expect(found).toEqual([
      [0, 3, Kind.data, 0, 17],
      [3, 4, Kind.zero, 0, -1],
      [7, 2, Kind.data, 0, 0],
      [9, 1, Kind.data, 0, 5],
      [10, 20, Kind.data, 1, 0],
    ]);
    expect(units.map((unit) => unit.name)).toEqual(['flat.raw', 'other.raw', 'disk.vmdk']);
  });

  it('names files in its encoding', async () => {
    const utf8 = written(
      descriptorText({ ...flatSpec, extents: ['RW 20 FLAT "Gr\xc3\xb6\xc3\x9fe.raw" 0'] }),
    );
    await reads({ ...utf8, 'Größe.raw': flat });
    const extents = ['RW 20 FLAT "Gr\xf6\xdfe.raw" 0'];
    const western = written(descriptorText({ ...flatSpec, extents, more: ['encoding="windows-1252"'] }));
    await reads({ ...western, 'Größe.raw': flat });
    const wrong = await refusal(written(descriptorText({ ...flatSpec, extents })), 'disk.vmdk');
    expect([wrong.kind, wrong.message]).toEqual(['malformed', expect.stringMatching(/name in UTF-8/)]);
    const unknown = written(descriptorText({ ...flatSpec, extents, more: ['encoding="klingon"'] }));
    expect((await refusal(unknown, 'disk.vmdk')).kind).toBe('unsupported');
  });

  it.each<[string, DescriptorSpec, string, RegExp]>([
    ['no extent', { extents: [] }, 'malformed', /at least one extent/],
    ['version 4', { version: '4' }, 'unsupported', /version 1, 2 or 3, got '4'/],
    ['a CID that is no number', { cid: 'hello' }, 'malformed', /hexadecimal digits, got 'hello'/],
    ['a CID of nine digits', { cid: '123456789' }, 'malformed', /hexadecimal/],
    ['two CIDs', { more: ['CID=1'] }, 'malformed', /CID has two values, '1234abcd' and '1'/],
    ['a line that is nothing', { more: ['what is this'] }, 'malformed', /a comment, a value or an extent/],
    ['an encrypted disk', { more: ['encryptionKeys="vmware:key"'] }, 'unsupported', /encrypted/],
    ['a native snapshot', { more: ['isNativeSnapshot="yes"'] }, 'unsupported', /native snapshot/],
    ['a device mapping', { createType: 'vmfsRDM' }, 'policy', /open the device itself/],
    ['a device extent', { extents: ['RW 20 VMFSRDM "x-rdm.vmdk"'] }, 'policy', /open the device itself/],
    ['an extent without a name', { extents: ['RW 20 FLAT'] }, 'malformed', /an offset in sectors/],
    ['a name without quotes', { extents: ['RW 20 FLAT flat.raw 0'] }, 'malformed', /quoted name, offset/],
    ['a name for zeros', { extents: ['RW 20 ZERO "flat.raw"'] }, 'malformed', /expected no name/],
    ['a flat extent without an offset', { extents: ['RW 20 FLAT "flat.raw"'] }, 'malformed', /an offset in/],
    ['a negative offset', { extents: ['RW 20 FLAT "flat.raw" -1'] }, 'malformed', /an offset in sectors/],
    ['a large offset', { extents: ['RW 20 FLAT "flat.raw" 9999999999999999'] }, 'malformed', /an offset/],
    ['a size of nothing', { extents: ['RW 0 FLAT "flat.raw" 0'] }, 'malformed', /at least one sector/],
    ['a size of 17 digits', { extents: ['RW 99999999999999999 ZERO'] }, 'malformed', /below 2\^53 bytes/],
    ['a size in letters', { extents: ['RW 2e1 FLAT "flat.raw" 0'] }, 'malformed', /at least one sector/],
    ['a size past 2^53', { extents: ['RW 9999999999999999 ZERO'] }, 'malformed', /below 2\^53/],
    [
      'an unknown extent',
      { extents: ['RW 20 MAGIC "flat.raw"'] },
      'unsupported',
      /FLAT, VMFS, SPARSE.*got MAGIC/,
    ],
    [
      'an extent of no access',
      { extents: ['NOACCESS 20 FLAT "flat.raw" 0'] },
      'unsupported',
      /no guest can read/,
    ],
    ['a file that is too short', { extents: ['RW 20 FLAT "flat.raw" 1'] }, 'malformed', /which has 10240/],
    ['its own name', { extents: ['RW 1 FLAT "disk.vmdk" 0'] }, 'malformed', /the descriptor itself/],
    ['a file that is not there', { extents: ['RW 1 FLAT "gone" 0'] }, 'not-found', /no gone/],
    ['an offset of a sparse extent', { extents: ['RW 16 SPARSE "flat.raw" 8'] }, 'malformed', /no offset/],
    [
      'a sparse extent that is flat',
      { extents: ['RW 16 SPARSE "flat.raw"'] },
      'malformed',
      /expected 'KDMV'/,
    ],
    [
      'an ESX extent that is flat',
      { extents: ['RW 16 VMFSSPARSE "flat.raw"'] },
      'malformed',
      /expected 'COWD'/,
    ],
    ['an seSparse extent that is flat', { extents: ['RW 16 SESPARSE "flat.raw"'] }, 'malformed', /cafebabe/],
  ])('with %s: refused', async (_, spec, kind, reason) => {
    const error = await refusal(files({ ...flatSpec, ...spec }), 'disk.vmdk');
    expect([error.kind, error.message]).toEqual([kind, expect.stringMatching(reason)]);
  });

  it.each(['version', 'CID', 'parentCID', 'createType'])('without %s: refused', async (key) => {
    const text = descriptorText(flatSpec).replace(new RegExp(`^${key}=.*\n`, 'm'), '');
    const error = await refusal(written(text), 'disk.vmdk');
    expect([error.kind, error.message]).toEqual(['malformed', expect.stringContaining(`a value for ${key}`)]);
  });

  it('gives the offset of the line', async () => {
    const text = descriptorText({
      ...flatSpec,
      extents: ['RW 20 FLAT "flat.raw" 0', 'RW 1 FLAT "flat.raw" 99'],
    });
    const error = await refusal(written(text), 'disk.vmdk');
    expect(error.offset).toBe(text.indexOf('RW 1 '));
  });

  it('of thousands of extents is read, and of more than a map can number refused at once', async () => {
    const lines = (count: number) =>
      Array.from({ length: count }, (_, i) => `RW 1 FLAT "flat.raw" ${i % 20}`);
    const { map } = await loadFrom(files({ ...flatSpec, extents: lines(4095) }), 'disk.vmdk');
    expect(map.size).toBe(4095 * SECTOR);
    const error = await refusal(files({ ...flatSpec, extents: lines(4096) }), 'disk.vmdk');
    expect([error.kind, error.message]).toEqual(['limit', expect.stringMatching(/at most 4095 extents/)]);
  });

  it.each<[string, string]>([
    ['a value', `a=${' '.repeat(900_000)}x\rb`],
    ['a name', `${'a'.repeat(450_000)}${' '.repeat(450_000)}b`],
    ['an extent', `RW${' '.repeat(300_000)}1${' '.repeat(300_000)}FLAT${' '.repeat(300_000)}x\rb`],
    ['the end of an extent', `RW 1 FLAT "a" ${'0'.repeat(450_000)}${' '.repeat(450_000)}x\rb`],
    ['a file name', `RW 1 FLAT "${'"'.repeat(900_000)}`],
    ['comments', '#\n'.repeat(450_000)],
    ['values', Array.from({ length: 90_000 }, (_, i) => `k${i}=1`).join('\n')],
  ])('with a megabyte of %s is read or refused at once', async (_, line) => {
    const begun = performance.now();
    await contentsOrNull(written(`${descriptorText(flatSpec)}${line}\n`), 'disk.vmdk');
    expect(performance.now() - begun).toBeLessThan(2000);
  });

  it('that is no descriptor at all: refused', async () => {
    for (const bytes of [new Uint8Array(0), filled(3, 100), new Uint8Array(4096), filled(4, 2 ** 20 + 1)]) {
      expect((await refusal({ 'disk.vmdk': bytes }, 'disk.vmdk')).kind).toBe('malformed');
    }
  });
});

describe('a descriptor within an extent', () => {
  const grain = filled(5, 16 * SECTOR);
  const hosted = { capacity: 16, grains: [grain] };

  it('is read whatever name it gives the file, and with no name at all', async () => {
    await reads({ 'disk.vmdk': buildHosted(hosted) }, grain);
    await reads({ 'disk.vmdk': buildHosted({ ...hosted, descriptor: { extents: [] } }) }, grain);
  });

  it('that names files only, where the extent holds nothing', async () => {
    const image = buildHosted({ ...hosted, capacity: 0, grains: [], descriptor: flatSpec });
    await reads({ 'disk.vmdk': image, 'flat.raw': flat });
    const spec = { createType: 'monolithicSparse', extents: ['RW 16 SPARSE "inner"'] };
    const error = await refusal({ 'disk.vmdk': descriptorFile(spec), inner: image }, 'disk.vmdk');
    expect(error.message).toMatch(/a file that holds only a descriptor/);
  });

  it.each<[string, DescriptorSpec, string, RegExp]>([
    ['two extents', { extents: ['RW 8 SPARSE "a"', 'RW 8 SPARSE "b"'] }, 'unsupported', /one sparse extent/],
    ['a flat extent', { extents: ['RW 16 FLAT "a" 0'] }, 'unsupported', /one sparse extent/],
    ['another size', { extents: ['RW 32 SPARSE "a"'] }, 'mismatch', /has 16 sectors.*says 32/],
  ])('of %s: refused', async (_, descriptor, kind, reason) => {
    const error = await refusal({ 'disk.vmdk': buildHosted({ ...hosted, descriptor }) }, 'disk.vmdk');
    expect([error.kind, error.message]).toEqual([kind, expect.stringMatching(reason)]);
  });

  it('tells the size where it is less than a grain smaller than the extent, with a warning', async () => {
    const image = buildHosted({ ...hosted, descriptor: { extents: ['RW 13 SPARSE "a"'] } });
    const { map, warnings } = await loadFrom({ disk: image }, 'disk');
    expect(map.size).toBe(13 * SECTOR);
    expect(warnings.join()).toMatch(/16 sectors, of which the descriptor shows 13/);
    const whole = { capacity: 32, grains: [grain, grain], descriptor: { extents: ['RW 16 SPARSE "a"'] } };
    expect((await refusal({ disk: buildHosted(whole) }, 'disk')).kind).toBe('mismatch');
  });

  it('that is not there, as in an extent of a split disk: refused, with advice', async () => {
    const blank = buildHosted(hosted);
    blank[SECTOR] = 0;
    for (const disk of [blank, buildHosted({ ...hosted, descriptor: null })]) {
      const error = await refusal({ disk }, 'disk');
      expect([error.kind, error.message]).toEqual([
        'unsupported',
        expect.stringMatching(/open the descriptor that names it/),
      ]);
    }
  });
});

describe('a sparse extent of a split disk', () => {
  const extent = buildHosted({ capacity: 16, grains: [filled(6, 16 * SECTOR)], descriptor: null });
  const split = (lines: string[], more: Files = {}) => ({
    ...files({ createType: 'twoGbMaxExtentSparse', extents: lines }),
    s1: extent,
    ...more,
  });

  it('begins where the one before it ended', async () => {
    const s2 = buildHosted({ capacity: 20, grains: [null, filled(7, 16 * SECTOR)], descriptor: null });
    const set = split(['RW 16 SPARSE "s1"', 'RW 20 SPARSE "s2"', 'RW 2 FLAT "flat.raw" 3'], { s2 });
    const wanted = new Uint8Array(38 * SECTOR);
    wanted.set(filled(6, 16 * SECTOR));
    wanted.set(filled(7, 4 * SECTOR), 32 * SECTOR);
    wanted.set(flat.subarray(3 * SECTOR, 5 * SECTOR), 36 * SECTOR);
    const image = await loadFrom(set, 'disk.vmdk');
    expect(same(await contentsOf(image), wanted)).toBe(true);
    expect(image.units.length).toBe(4);
  });

  it('named twice, or once as flat: refused', async () => {
    for (const second of ['RW 16 SPARSE "s1"', 'RW 1 FLAT "s1" 0']) {
      const error = await refusal(split(['RW 16 SPARSE "s1"', second]), 'disk.vmdk');
      expect([error.kind, error.message]).toEqual(['malformed', expect.stringMatching(/a file of its own/)]);
    }
  });
});
