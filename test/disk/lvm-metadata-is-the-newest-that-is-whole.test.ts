import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readVolumeGroups } from '../../src/disk/containers/lvm-groups.ts';
import { lvmChecksum, readMetadataText, readPhysicalVolume } from '../../src/disk/containers/lvm-label.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import {
  groupText,
  physicalVolume,
  randomFrom,
  sealArea,
  simpleVolume,
  slowLvmChecksum,
  striped,
  uuidOf,
} from './lvm-builder.ts';

const physical = [0, 1].map((i) => ({ name: `pv${i}`, uuid: uuidOf(i), extents: 200 }));
/** A group whose one volume begins at the extent that is its sequence number. */
const textOf = (sequence: number) =>
  groupText({ sequence, physical, volumes: { v: [striped(0, 4, [['pv0', sequence]])] } });

/** Where the volume of `textOf` begins, in extents. */
async function begins(units: readonly Uint8Array[]) {
  const { volumes, warnings } = await readVolumeGroups(
    units.map((bytes, i) => new BytesUnit(bytes, { name: `unit${i}` })),
  );
  if (volumes.length === 0) return { at: null, warnings };
  expect(volumes).toHaveLength(1);
  const map = await volumes[0]!.map();
  return { at: (map.placeOf(0) - (1 << 20)) / 4096, warnings };
}

describe('the checksum', () => {
  it('is the one that its definition gives bit by bit', () => {
    const random = randomFrom(1);
    for (let length = 0; length < 300; length += 7) {
      const bytes = Uint8Array.from({ length }, () => random(256));
      expect(lvmChecksum(bytes)).toBe(slowLvmChecksum(bytes));
    }
  });
});

describe('of several copies of the metadata', () => {
  const two = (first: number | null, second: number | null, more = {}) =>
    physicalVolume({
      uuid: uuidOf(0),
      size: 2 << 20,
      areas: [
        { offset: 4096, length: 65536, text: first === null ? null : textOf(first), ...more },
        { offset: 1 << 19, length: 65536, text: second === null ? null : textOf(second) },
      ],
    });

  it('the highest sequence number counts, in whichever area and on whichever unit it is', async () => {
    expect(await begins([two(7, 7)])).toEqual({ at: 7, warnings: [] });
    expect((await begins([two(7, 8)])).at).toBe(8);
    expect((await begins([two(9, 8)])).at).toBe(9);
    expect((await begins([two(null, 8)])).at).toBe(8);
    const other = simpleVolume(uuidOf(1), textOf(12));
    const { at, warnings } = await begins([two(7, 8), other]);
    expect(at).toBe(12);
    expect(warnings.join('\n')).toMatch(/unit1: .* differ: sequence number 12 is used, 8 is not/);
    expect((await begins([other, two(7, 8)])).at).toBe(12);
  });

  it('one that is marked as not in use does not count', async () => {
    expect(await begins([two(9, 8, { ignored: true })])).toEqual({ at: 8, warnings: [] });
  });

  it('a damaged one is left aside with a warning, and all damaged leave no volume', async () => {
    const bytes = two(9, 9);
    bytes[4096 + 700]! ^= 1;
    const { at, warnings } = await begins([bytes]);
    expect(at).toBe(9);
    expect(warnings).toEqual([
      expect.stringMatching(
        /^unit0: LVM2 metadata: expected a text with checksum .*copy of the metadata is ignored/,
      ),
    ]);
    bytes[(1 << 19) + 30]! ^= 1;
    const none = await begins([bytes]);
    expect(none.at).toBeNull();
    expect(none.warnings).toHaveLength(2);
  });

  it('a physical volume without areas is known by its UUID', async () => {
    const mute = physicalVolume({ uuid: uuidOf(0), size: 2 << 20, areas: [] });
    const other = simpleVolume(uuidOf(1), textOf(5));
    expect(await begins([mute, other])).toEqual({ at: 5, warnings: [] });
  });
});

describe('a physical volume', () => {
  it('has its label in any of the first four sectors, and nowhere else', async () => {
    for (const labelSector of [0, 1, 2, 3]) {
      const areas = [{ offset: 4096, length: 65536, text: textOf(3) }];
      const bytes = physicalVolume({ uuid: uuidOf(0), size: 2 << 20, areas, labelSector });
      expect((await begins([bytes])).at).toBe(3);
      bytes.copyWithin(2048, labelSector * 512, labelSector * 512 + 512);
      bytes.fill(0, labelSector * 512, labelSector * 512 + 512);
      expect(await begins([bytes])).toEqual({ at: null, warnings: [] });
    }
  });

  it('has a label that says where it is: a copy of it in another sector is none', async () => {
    const bytes = simpleVolume(uuidOf(0), textOf(3));
    bytes.copyWithin(1024, 512, 1024);
    bytes.fill(0, 512, 1024);
    expect(await begins([bytes])).toEqual({
      at: null,
      warnings: [expect.stringMatching(/expected to be in sector 2, it says 1/)],
    });
  });

  it('has two metadata areas at most', async () => {
    const areas = [1, 2, 3].map((i) => ({ offset: i << 17, length: 65536, text: textOf(3) }));
    const three = physicalVolume({ uuid: uuidOf(0), size: 2 << 20, areas });
    expect(await begins([three])).toEqual({
      at: null,
      warnings: [expect.stringMatching(/expected at most 2 metadata areas, got 3/)],
    });
  });

  it('on two units is a mismatch, and one that was away may be old', async () => {
    const bytes = simpleVolume(uuidOf(0), textOf(5));
    await expect(begins([bytes, bytes.slice()])).rejects.toMatchObject({ kind: 'mismatch' });
    const away = groupText({
      physical: [{ ...physical[0]!, missing: true }],
      volumes: { v: [striped(0, 4, [['pv0', 0]])] },
    });
    await expect(begins([simpleVolume(uuidOf(0), away)])).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/may hold old data/),
    });
  });

  it('that is cut short is an error where a volume reaches into what is gone', async () => {
    const bytes = simpleVolume(uuidOf(0), textOf(5));
    const needed = (1 << 20) + 9 * 4096;
    expect((await begins([bytes.slice(0, needed)])).at).toBe(5);
    await expect(begins([bytes.slice(0, needed - 1)])).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/past its end .*: it is cut short/),
    });
  });

  it('may be of another group of the same name: both are listed, with a warning', async () => {
    const group = (index: number, id: string) =>
      groupText({ id, physical: [physical[index]!], volumes: { v: [striped(0, 1, [[`pv${index}`, 0]])] } });
    const found = await readVolumeGroups([
      new BytesUnit(simpleVolume(uuidOf(0), group(0, 'A')), { name: 'a' }),
      new BytesUnit(simpleVolume(uuidOf(1), group(1, 'B')), { name: 'b' }),
    ]);
    expect(found.volumes.map(({ group, name }) => `${group}/${name}`)).toEqual(['vg/v', 'vg/v']);
    expect(found.warnings).toEqual([expect.stringMatching(/^b: there is another volume group vg, on a/)]);
  });
});

describe('a text in the ring', () => {
  /** An area only just larger than the text, so that every place in it makes it wrap. */
  const text = textOf(6);
  const length = 512 * Math.ceil((text.length + 1 + 512 + 700) / 512);
  const wrapped = (at: number) =>
    physicalVolume({ uuid: uuidOf(0), size: 2 << 20, areas: [{ offset: 4096, length, text, at }] });

  it('is read wherever it begins', async () => {
    for (let at = 512; at < length; at += 64) {
      expect(await begins([wrapped(at)]), `at ${at} of ${length}`).toEqual({ at: 6, warnings: [] });
    }
    expect((await begins([wrapped(length - 1)])).at).toBe(6);
  });

  it.each([
    ['before the ring', 40, 511n],
    ['past its end', 40, BigInt(length)],
    ['longer than it', 48, BigInt(length - 511)],
    ['of a length past counting', 48, 2n ** 64n - 1n],
  ])('%s is left aside with a warning', async (_, at, value) => {
    const bytes = wrapped(512);
    new DataView(bytes.buffer).setBigUint64(4096 + at, value, true);
    sealArea(bytes, 4096);
    const { at: found, warnings } = await begins([bytes]);
    expect(found).toBeNull();
    expect(warnings).toEqual([expect.stringMatching(/expected a text within its ring/)]);
  });

  it('in an area that is larger than the unit is left aside with a warning', async () => {
    const bytes = wrapped(512);
    new DataView(bytes.buffer).setBigUint64(4096 + 32, 2n ** 62n, true);
    sealArea(bytes, 4096);
    expect((await begins([bytes])).warnings).toEqual([
      expect.stringMatching(/expected an area within the unit/),
    ]);
  });
});

/** The text that pvck finds: between the rules that it draws. */
function byPvck(path: string): string {
  const said = execFileSync('pvck', ['--dump', 'metadata', path], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return said.slice(said.indexOf('---\n') + 4, said.lastIndexOf('---')).trim();
}

async function byDriftmap(bytes: Uint8Array): Promise<string> {
  const unit = new BytesUnit(bytes);
  const volume = await readPhysicalVolume(unit, (message) => expect.fail(message));
  const found = await readMetadataText(unit, volume!.areas[0]!);
  return found!.text.replace(/\0.*$/s, '').trim();
}

describeWith(['pvck'], 'the text of a physical volume made by hand', () => {
  it('is the one that pvck finds, also where it wraps', async () => {
    const folder = temporary();
    const text = textOf(6);
    for (const [i, at] of [512, 4096, 65536 - 512].entries()) {
      const bytes = physicalVolume({
        uuid: uuidOf(0),
        size: 2 << 20,
        areas: [{ offset: 4096, length: 65536, text, at }],
      });
      const path = join(folder, `pv${i}.img`);
      writeFileSync(path, bytes);
      expect(await byDriftmap(bytes)).toBe(byPvck(path));
    }
  });
});

describeWith(['corpus', 'pvck'], 'the text of the samples', () => {
  it.each(['lu1.img', 'lu2.img'])('%s is the one that pvck finds', async (name) => {
    const bytes = gunzip(join(corpus!, 'generated/lu', `${name}.gz`));
    const path = join(temporary(), name);
    writeFileSync(path, bytes);
    expect(await byDriftmap(bytes)).toBe(byPvck(path));
  });
});
