import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { type Finding, type FoundDisk, findDisks, type SearchOptions } from '../../src/disk/finder.ts';
import { openDisk } from '../../src/disk/open.ts';
import { gptDisk } from './gpt-builder.ts';
import { temporaryFolder } from './images.ts';
import { groupText, simpleVolume, striped, uuidOf } from './lvm-builder.ts';
import { buildQcow2, dataEntry } from './qcow2-builder.ts';
import { toyImage } from './toy-file-system.ts';

vi.mock('../../src/disk/containers/file-system-types.ts', async () => {
  const { toyTypes } = await import('./toy-file-system.ts');
  return { fileSystemTypes: toyTypes };
});

const folder = temporaryFolder();
const path = (name: string) => join(folder, name);
const text = (words: string) => new TextEncoder().encode(words);
const sevens = new Uint8Array(65536).fill(7);
const qcow2 = buildQcow2({ entries: [[dataEntry(0)], [0n], [0n]], dataClusters: 1 });
const raw = { type: 0xe2792aca, data: text('raw') };
const over = (backing: string) => buildQcow2({ entries: [[0n]], backing, extensions: [raw] });
const descriptor = (extents: string) =>
  text(`# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="vmfs"\n${extents}\n`);

function unit(name: string, bytes: Uint8Array): string {
  writeFileSync(path(name), bytes);
  return path(name);
}

async function search(units: readonly string[], options: SearchOptions = {}) {
  const findings: Finding[] = [];
  for await (const finding of findDisks(units, options)) findings.push(finding);
  const disks = findings.flatMap((finding) => (finding.what === 'disk' ? [finding.disk] : []));
  const refused = findings.flatMap((finding) => (finding.what === 'refused' ? [finding] : []));
  const warnings = findings.flatMap((finding) => (finding.what === 'warning' ? [finding.message] : []));
  return { disks, refused, warnings };
}

/** As `[address, format, class]`, addresses without the folder. */
function brief(disks: readonly FoundDisk[]): string[][] {
  return disks.map((disk) => [disk.address.replaceAll(`${folder}/`, ''), disk.format, disk.class]);
}

describe('files of a file system', () => {
  it('are images where name and contents agree, raw disks by .raw and .img, and nothing else', async () => {
    const lu = unit(
      'names.lu',
      toyImage({
        '/a.qcow2': qcow2,
        '/B.QCOW2': qcow2,
        '/c.raw': sevens,
        '/d.img': new Uint8Array(131072).fill(7, 0, 65536),
        '/notes.txt': sevens,
        '/disk-without-ending': qcow2,
        '/guest.img': qcow2,
      }),
    );
    const { disks, refused, warnings } = await search([lu]);
    expect(brief(disks)).toEqual([
      ['names.lu:ext4:/a.qcow2', 'qcow2', 'thin'],
      ['names.lu:ext4:/B.QCOW2', 'qcow2', 'thin'],
      ['names.lu:ext4:/c.raw', 'raw', 'thick'],
      ['names.lu:ext4:/d.img', 'raw', 'thin'],
      ['names.lu:ext4:/guest.img', 'raw', 'thin'],
    ]);
    expect(disks[0]).toMatchObject({ size: 3 * 65536, data: 65536, parent: null, partOf: null, holds: null });
    expect(disks[3]).toMatchObject({ size: 131072, data: 65536 });
    expect(refused).toEqual([]);
    expect(warnings).toEqual([expect.stringMatching(/guest\.img: listed as a raw disk.*looks like qcow2/)]);
    const all = await search([lu], { all: true });
    expect(brief(all.disks)).toContainEqual(['names.lu:ext4:/disk-without-ending', 'qcow2', 'thin']);
    expect(brief(all.disks)).toContainEqual(['names.lu', 'raw', 'unit']);
    expect(all.disks.find((disk) => disk.class === 'unit')).toMatchObject({ holds: 'ext4' });
    expect(all.disks.map(({ address }) => address).join()).not.toMatch(/notes/);
    expect(all.warnings.join()).toMatch(/disk-without-ending: the format qcow2 was guessed/);
  });

  it('that are named like an image and are none, or damaged, are refused one by one', async () => {
    const damaged = qcow2.slice();
    damaged.fill(0xff, 20, 24);
    const lu = unit(
      'bad.lu',
      toyImage({
        '/bad.qcow2': damaged,
        '/empty.vmdk': sevens,
        '/good.qcow2': qcow2,
        '/other.vhdx': qcow2,
        '/orphan.qcow2': over('gone.raw'),
        '/x.qed.qcow2': text('QED\0'.padEnd(4096, '\0')),
      }),
    );
    const { disks, refused } = await search([lu]);
    expect(brief(disks)).toEqual([['bad.lu:ext4:/good.qcow2', 'qcow2', 'thin']]);
    expect(refused.map(({ address, kind }) => [address.replace(`${folder}/`, ''), kind])).toEqual([
      ['bad.lu:ext4:/bad.qcow2', 'malformed'],
      ['bad.lu:ext4:/empty.vmdk', 'malformed'],
      ['bad.lu:ext4:/other.vhdx', 'malformed'],
      ['bad.lu:ext4:/orphan.qcow2', 'not-found'],
      ['bad.lu:ext4:/x.qed.qcow2', 'unsupported'],
    ]);
    for (const { reason } of refused) expect(reason).not.toContain(folder);
    expect(refused[2]!.reason).toMatch(/named like a vhdx image, and its contents look like qcow2/);
  });

  it('that belong to a descriptor are parts of its disk, wherever they come in the listing', async () => {
    const lu = unit(
      'vmdk.lu',
      toyImage(
        {
          '/vm/a-flat.vmdk': sevens,
          '/vm/a.vmdk': descriptor('RW 128 VMFS "a-flat.vmdk" 0'),
          '/vm/b-f001.vmdk': sevens,
          '/vm/b.vmdk': descriptor('RW 64 FLAT "b-f001.vmdk" 0\nRW 32 ZERO'),
          '/vm/lost.vmdk': descriptor('RW 128 VMFS "lost-flat.vmdk" 0'),
        },
        { kinds: { '/vm/a-flat.vmdk': 'zeroedthick' } },
      ),
    );
    const { disks, refused } = await search([lu]);
    expect(brief(disks)).toEqual([
      ['vmdk.lu:ext4:/vm/a.vmdk', 'vmdk', 'zeroedthick'],
      ['vmdk.lu:ext4:/vm/b.vmdk', 'vmdk', 'thin'],
    ]);
    expect(refused.map(({ address }) => address)).toEqual([`${lu}:ext4:/vm/lost.vmdk`]);
    const opened = await openDisk(disks[1]!.address);
    expect(opened.size).toBe(disks[1]!.size);
    await opened.close();
  });

  it('that are members of a chain are listed each, with the parent', async () => {
    const lu = unit('chain.lu', toyImage({ '/vm/base.raw': sevens, '/vm/top.qcow2': over('base.raw') }));
    const { disks } = await search([lu]);
    expect(disks.map(({ parent, data }) => [parent, data])).toEqual([
      [null, 65536],
      [`${lu}:ext4:/vm/base.raw`, 0],
    ]);
    expect(disks[1]!.class).toBe('differencing');
  });

  it('that lead out of their folder are refused unless allowed', async () => {
    const lu = unit('out.lu', toyImage({ '/base.raw': sevens, '/vm/top.qcow2': over('../base.raw') }));
    expect((await search([lu])).refused).toMatchObject([{ kind: 'policy' }]);
    expect((await search([lu], { allowOutside: true })).refused).toEqual([]);
  });
});

describe('units', () => {
  const partition = (disk: Uint8Array, first: number, contents: Uint8Array) =>
    disk.set(contents, first * 512);
  /** A guest's own partition table, with an image in it that is the guest's business. */
  const guest = gptDisk(512, 512, [{ first: 64, last: 400 }]).bytes;
  guest.set(toyImage({ '/inner.raw': sevens }).subarray(0, 336 * 512), 64 * 512);

  const physical = [0, 1].map((index) => ({ name: `pv${index}`, uuid: uuidOf(index), extents: 256 }));
  const group = groupText({
    physical,
    volumes: {
      files: [striped(0, 112, [['pv1', 0]])],
      vm: [striped(0, 128, [['pv1', 112]])],
      broken: [striped(0, 300, [['pv0', 0]])],
    },
  });
  const volumes = physical.map(({ uuid }) => simpleVolume(uuid, group));
  volumes[1]!.set(toyImage({ '/in-volume.qcow2': qcow2 }), 1 << 20);
  volumes[1]!.set(guest.subarray(0, 128 * 4096), (1 << 20) + 112 * 4096);

  const first = gptDisk(8192, 512, [
    { first: 64, last: 1063 },
    { first: 2048, last: 2048 + 4095 },
    { first: 7000, last: 7099 },
  ]).bytes;
  partition(first, 64, toyImage({ '/in-partition.raw': sevens }));
  partition(first, 2048, volumes[0]!);
  const lu0 = unit('lu0.img', first);
  const lu1 = unit('lu1.img', volumes[1]!);

  it('given together are one volume group; addresses open; a guest is not looked into', async () => {
    const { disks, refused } = await search([lu0, lu1]);
    expect(brief(disks)).toEqual([
      ['lu0.img:gpt1/ext4:/in-partition.raw', 'raw', 'thick'],
      ['lu0.img:gpt3', 'raw', 'partition'],
      ['lu0.img,lu1.img:gpt2/lvm:vg/files/ext4:/in-volume.qcow2', 'qcow2', 'thin'],
      ['lu0.img,lu1.img:gpt2/lvm:vg/vm', 'raw', 'volume'],
    ]);
    expect(refused).toMatchObject([{ kind: 'malformed', address: `${lu0},${lu1}:gpt2/lvm:vg/broken` }]);
    for (const { address, size, format } of disks) {
      const disk = await openDisk(address, { format });
      expect([disk.size, disk.warnings]).toEqual([size, []]);
      await disk.close();
    }
    const swapped = await search([lu1, lu0]);
    expect(new Set(brief(swapped.disks).map(([address]) => address))).toEqual(
      new Set(brief(disks).map(([address]) => address)),
    );
  });

  it('make a disk the same one in whichever order, and beside whichever others, they are named', async () => {
    const other = unit('other.img', new Uint8Array(4096));
    const ways = [
      `${lu0},${lu1}:gpt2/lvm:vg/vm`,
      `${lu1},${lu0}:lvm:vg/vm`,
      `${lu1}:lvm:vg/vm`,
      `${lu0},${other},${lu1}:lvm:vg/vm`,
    ];
    const [identities, generations] = [new Set<string>(), new Set<string>()];
    for (const way of ways) {
      const disk = await openDisk(way, { format: 'raw' });
      identities.add(disk.identity);
      generations.add(disk.generation());
      await disk.close();
    }
    expect([identities.size, generations.size]).toEqual([1, 1]);
  });

  it('may have commas in their names', async () => {
    const comma = unit('a,b.img', first);
    const { disks } = await search([comma]);
    const disk = await openDisk(disks[0]!.address);
    expect([disk.name, disk.size]).toEqual([`${comma}:gpt1/ext4:/in-partition.raw`, 65536]);
    await disk.close();
  });

  it('of a group that is not whole are told as refused, with what is missing', async () => {
    const { disks, refused } = await search([lu0]);
    expect(disks.map(({ class: kind }) => kind)).toEqual(['thick', 'partition']);
    expect(refused.filter(({ kind }) => kind === 'not-found').map(({ reason }) => reason)).toEqual([
      expect.stringMatching(/pv1 .*is on none of the units/),
      expect.stringMatching(/pv1 .*is on none of the units/),
    ]);
  });

  it('are disks themselves: an image by its name and contents, or bytes', async () => {
    const image = unit('vm.qcow2', qcow2);
    const blank = unit('blank.bin', new Uint8Array(1 << 20));
    const damaged = unit('cut.qcow2', qcow2.subarray(0, 100));
    const { disks, refused } = await search([image, blank, damaged]);
    expect(brief(disks)).toEqual([
      ['vm.qcow2', 'qcow2', 'thin'],
      ['blank.bin', 'raw', 'unit'],
    ]);
    expect(refused).toMatchObject([{ address: damaged, kind: 'malformed' }]);
  });

  it('with a damaged partition table are refused, and the others are not', async () => {
    const bytes = first.slice();
    bytes.fill(0xff, 512, 600);
    bytes.fill(0xff, bytes.length - 512);
    const { disks, refused } = await search([unit('torn.img', bytes), lu1, lu0]);
    expect(refused[0]).toMatchObject({ address: path('torn.img'), kind: 'malformed' });
    expect(disks).toHaveLength(4);
  });

  it('that are not there end the search', async () => {
    await expect(search([lu0, path('gone.img')])).rejects.toMatchObject({ kind: 'not-found' });
  });

  it('with a file system that cannot be opened are still told as raw disks', async () => {
    const bytes = toyImage({ '/a.raw': sevens });
    bytes.set(text('{"toy":"cut'));
    bytes.fill(0, 11, 65536);
    const { disks, refused } = await search([unit('torn.lu', bytes)]);
    expect(brief(disks)).toEqual([['torn.lu', 'raw', 'unit']]);
    expect(refused).toMatchObject([{ address: path('torn.lu'), kind: 'malformed' }]);
  });
});
