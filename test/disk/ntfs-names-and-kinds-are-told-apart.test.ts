import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { isNtfs, openNtfs } from '../../src/disk/containers/ntfs.ts';
import { describeWith, temporary } from '../tools.ts';
import { BytesUnit } from './images.ts';
import { NaiveNtfs } from './ntfs-naive.ts';
import { contentsOf, listed, openBytes, patterned } from './ntfs-reading.ts';
import { mkntfs, type Node, NtfsWriter, ntfsTools } from './ntfs-writer.ts';

const MiB = 1 << 20;
/** Restart pages of the log are filled in here; mkntfs leaves the log empty. */
const LOG_PAGE = 4096;

describe('the boot sector', () => {
  const sector = () => {
    const bytes = Buffer.alloc(4096);
    bytes.write('NTFS    ', 3, 'latin1');
    bytes.writeUInt16LE(512, 11);
    bytes[13] = 8;
    bytes.writeUInt16LE(0xaa55, 510);
    return bytes;
  };

  it('is known by its name and its mark', async () => {
    const bytes = sector();
    expect(await isNtfs(new BytesUnit(bytes))).toBe(true);
    expect(await isNtfs(new BytesUnit(bytes.subarray(0, 511)))).toBe(false);
    bytes[510] = 0;
    expect(await isNtfs(new BytesUnit(bytes))).toBe(false);
    expect(await isNtfs(new BytesUnit(new Uint8Array(512)))).toBe(false);
  });

  it('of a volume under BitLocker is refused by name', async () => {
    const bytes = sector();
    bytes.write('-FVE-FS-', 3, 'latin1');
    await expect(openBytes(bytes)).rejects.toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(/BitLocker/),
    });
  });

  it.each([
    ['sectors', 11, 500, /sectors of 256 to 4096 bytes, got 500/],
    ['clusters of three sectors', 13, 3, /got the code 3/],
    ['clusters beyond 2 MiB', 13, 256 - 13, /got the code 243/],
    ['no sectors at all', 0x28, 0, /got 0 sectors/],
    ['an MFT past its end', 0x30, 0xffff, /MFT in clusters 1 to/],
    ['records of no size', 0x40, 0x80, /MFT records of 512 to/],
  ])('with %s is an error', async (_, at, value, reason) => {
    const bytes = sector();
    bytes.writeUInt16LE(800, 0x28);
    bytes[0x30] = 4;
    bytes.writeUInt16LE(value, at);
    await expect(openBytes(bytes)).rejects.toMatchObject({
      kind: 'malformed',
      offset: at,
      message: expect.stringMatching(reason),
    });
  });
});

describeWith(ntfsTools, 'names', () => {
  const folder = temporary();
  const path = join(folder, 'names.img');
  let image: Buffer | undefined;
  const open = async () => {
    if (image === undefined) {
      mkntfs(path, { size: 8 * MiB });
      const writer = new NtfsWriter(path);
      const images = writer.folder(writer.root, 'Images');
      writer.file(images, 'Größe Ζήτα.vhdx', patterned(10, 1));
      writer.dosName(writer.file(images, 'a very long name.vhdx', patterned(20, 2)), images, 'AVERYL~1.VHD');
      // Names that differ in case alone, as POSIX programs make them.
      for (const name of ['disk', 'DISK', 'Disk'])
        writer.file(images, name, patterned(name.charCodeAt(1), 3));
      writer.file(images, 'odd \ud800 name', patterned(30, 4));
      writer.close();
      image = readFileSync(path);
    }
    return openNtfs(new BytesUnit(image));
  };

  it.each([
    ['/Images/Größe Ζήτα.vhdx', '/Images/Größe Ζήτα.vhdx'],
    ['/IMAGES/GRÖßE ζΉΤΑ.VHDX', '/Images/Größe Ζήτα.vhdx'],
    ['//images///grösse ζήτα.vhdx', null],
    ['/images/A VERY long name.VHDX', '/Images/a very long name.vhdx'],
    ['/images/averyl~1.vhd', '/Images/AVERYL~1.VHD'],
    ['/Images/disk', '/Images/disk'],
    ['/Images/Disk', '/Images/Disk'],
    ['/images/odd \ud800 name', '/Images/odd \ud800 name'],
    ['/images/odd \ud801 name', null],
  ])('%s is found without regard to case, by the table of the volume', async (asked, found) => {
    const system = await open();
    if (found === null) await expect(system.lookup(asked)).rejects.toMatchObject({ kind: 'not-found' });
    else expect((await system.lookup(asked)).path).toBe(found);
  });

  it.each([
    ['/images/dIsK', 'argument', /may mean 'Disk' and 'disk'|may mean .*'DISK'/],
    ['/images', 'argument', /it is a directory/],
    ['/', 'argument', /expected a path/],
    ['images/disk', 'argument', /expected a path/],
    ['/images/disk/x', 'not-found', /\/Images\/disk: it is no directory/],
    ['/images/none', 'not-found', /\/Images\/none: there is no such file/],
    ['/none/disk', 'not-found', /\/none: there is no such file/],
    ['/../images/disk', 'not-found', /there is no such file/],
    [`/${'x'.repeat(40_000)}`, 'argument', /at most 32767 characters/],
  ] as const)('%.40s is refused with a reason', async (asked, kind, reason) => {
    const system = await open();
    await expect(system.lookup(asked)).rejects.toMatchObject({
      kind,
      message: expect.stringMatching(reason),
    });
  });

  it('of DOS are listed for no file', async () => {
    const paths = (await listed((await open()).files())).map((entry) => entry.path);
    expect(paths).toContain('/Images/a very long name.vhdx');
    expect(paths.filter((each) => each.includes('~'))).toEqual([]);
    expect(paths.length).toBe(6);
  });

  it("of the volume's own files are found and not listed", async () => {
    const system = await open();
    const boot = await system.lookup('/$boot');
    const contents = await contentsOf(new BytesUnit(image!), boot);
    expect(contents.equals(image!.subarray(0, boot.size))).toBe(true);
    await expect(system.lookup('/$Secure')).rejects.toMatchObject({ kind: 'malformed' });
  });
});

describeWith(ntfsTools, 'a file that is not plain', () => {
  const folder = temporary();
  const symlink = Buffer.from([0, 0, 2, 0, 2, 0, 2, 0, 1, 0, 0, 0, 120, 0, 120, 0]);

  /** A volume with `big` of 10,000 bytes and `small` of 50, after something was done to them. */
  async function changed(
    edit: (writer: NtfsWriter, nodes: { big: Node; small: Node; folder: Node }) => void,
  ) {
    const path = join(folder, 'kinds.img');
    mkntfs(path, { size: 8 * MiB });
    const writer = new NtfsWriter(path);
    const nodes = {
      big: writer.file(writer.root, 'big', patterned(10_000, 1)),
      small: writer.file(writer.root, 'small', patterned(50, 2)),
      folder: writer.folder(writer.root, 'folder'),
    };
    edit(writer, nodes);
    writer.close();
    return { bytes: readFileSync(path), nodes };
  }

  /** Sets flags of a data attribute. */
  const flag = (bytes: Buffer, { number }: Node, flags: number) =>
    new NaiveNtfs(bytes).change(number, (raw, at) => void raw.writeUInt16LE(flags, at(0x80) + 12));

  it.each([
    ['compressed', 0x0001, /compressed \(LZNT1\)/],
    ['encrypted', 0x4000, /encrypted \(EFS\)/],
  ] as const)('is listed as %s and refused by name', async (kind, flags, reason) => {
    const { bytes, nodes } = await changed(() => {});
    flag(bytes, nodes.big, flags);
    const system = await openBytes(bytes);
    const entry = (await listed(system.files())).find((each) => each.path === '/big')!;
    expect([entry.kind, entry.size]).toEqual([kind, 10_000]);
    for (const each of [entry, await system.lookup('/BIG')]) {
      await expect(each.map()).rejects.toMatchObject({
        kind: 'unsupported',
        message: expect.stringMatching(reason),
      });
    }
  });

  it('only by a mark is read where its value is in its record, which is never compressed', async () => {
    const { bytes, nodes } = await changed(() => {});
    flag(bytes, nodes.small, 0x0001);
    const entry = await (await openBytes(bytes)).lookup('/small');
    expect(entry.kind).toBeUndefined();
    expect((await contentsOf(new BytesUnit(bytes), entry)).equals(patterned(50, 2))).toBe(true);
  });

  it('whose attribute has a hole without being marked as sparse is an error', async () => {
    const { bytes, nodes } = await changed((writer, { big }) => writer.write(big, patterned(10, 3), 50_000));
    expect((await (await openBytes(bytes)).lookup('/big')).kind).toBe('sparse');
    flag(bytes, nodes.big, 0);
    const entry = await (await openBytes(bytes)).lookup('/big');
    await expect(entry.map()).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/not marked as sparse/),
    });
  });

  it.each([
    [0x80000013, 'deduplicated', /Data Deduplication/],
    [0x80000017, 'compressed', /Windows Overlay Filter/],
    [0x9000001a, 'cloud', /cloud service/],
    [0x9000701a, 'cloud', /cloud service/],
    [0x80000099, 'filtered', /reparse tag 80000099/],
  ])('but has reparse tag %s is listed as %s and refused by name', async (tag, kind, reason) => {
    const { bytes } = await changed((writer, { big }) => writer.reparse(big, tag, Buffer.alloc(16)));
    const system = await openBytes(bytes);
    expect((await listed(system.files())).map((each) => [each.path, each.kind])).toEqual([
      ['/big', kind],
      ['/small', undefined],
    ]);
    const entry = await system.lookup('/big');
    await expect(entry.map()).rejects.toMatchObject({
      kind: 'unsupported',
      message: expect.stringMatching(reason),
    });
  });

  it('but a link or a socket is not listed, and a lookup says what it is', async () => {
    const { bytes, nodes } = await changed((writer, { big, small, folder: inside }) => {
      writer.file(inside, 'hidden behind the link', patterned(9, 9));
      writer.reparse(big, 0xa000000c, symlink);
      writer.reparse(small, 0x80000099);
    });
    new NaiveNtfs(bytes).change(nodes.small.number, (raw, at) => {
      raw.writeUInt32LE(0x80000023, at(0xc0) + raw.readUInt16LE(at(0xc0) + 20));
    });
    const system = await openBytes(bytes);
    expect((await listed(system.files())).map((each) => each.path)).toEqual([
      '/folder/hidden behind the link',
    ]);
    for (const [path, what] of [
      ['/big', /a symbolic link, which is not followed/],
      ['/small', /a socket/],
      ['/big/x', /a symbolic link/],
    ] as const) {
      await expect(system.lookup(path)).rejects.toMatchObject({
        kind: 'argument',
        message: expect.stringMatching(what),
      });
    }
  });
});

describeWith(ntfsTools, 'a volume', () => {
  const folder = temporary();
  const make = () => {
    const path = join(folder, 'state.img');
    mkntfs(path, { size: 8 * MiB });
    const writer = new NtfsWriter(path);
    const images = writer.folder(writer.root, 'images');
    const nodes = {
      file: writer.file(images, 'disk', patterned(9000, 1)),
      other: writer.file(images, 'other'),
    };
    writer.close();
    return { bytes: readFileSync(path), ...nodes };
  };

  /** A restart page with one client in use or none, as Windows leaves it. */
  function restartPage(lsn: number, client: number, flags: number): Buffer {
    const page = Buffer.alloc(LOG_PAGE);
    page.write('RSTR', 'latin1');
    page.writeUInt16LE(30, 4);
    page.writeUInt16LE(9, 6);
    page.writeUInt32LE(LOG_PAGE, 16);
    page.writeUInt32LE(LOG_PAGE, 20);
    page.writeUInt16LE(0x30, 24);
    page.writeUInt32LE(lsn, 0x30);
    page.writeUInt16LE(client, 0x30 + 12);
    page.writeUInt16LE(flags, 0x30 + 14);
    page.writeUInt16LE(7, 30);
    for (let sector = 1; sector <= 8; sector++) page.writeUInt16LE(7, sector * 512 - 2);
    return page;
  }

  it('that is marked dirty is read with a warning', async () => {
    const { bytes } = make();
    new NaiveNtfs(bytes).change(3, (raw, at) => {
      const value = at(0x70) + raw.readUInt16LE(at(0x70) + 20);
      raw.writeUInt16LE(1, value + 10);
    });
    const { warnings } = await openBytes(bytes);
    expect(warnings).toEqual([expect.stringMatching(/marked dirty.*chkdsk/)]);
  });

  it.each([
    ['used by nobody', [5, 0xffff, 0], [4, 0, 0], 0],
    ['unmounted', [5, 0, 2], [4, 0, 0], 0],
    ['in use', [5, 0, 0], [4, 0xffff, 2], 1],
    ['in use by its second page, which is newer', [4, 0xffff, 2], [5, 0, 0], 1],
  ] as const)('whose log is %s has its warning, or none', async (_, first, second, count) => {
    const { bytes } = make();
    const [[log]] = new NaiveNtfs(bytes).rangesOf(2, 0x80) as [[number, number]];
    bytes.set(restartPage(...(first as [number, number, number])), log);
    bytes.set(restartPage(...(second as [number, number, number])), log + LOG_PAGE);
    const { warnings } = await openBytes(bytes);
    expect(warnings.length).toBe(count);
    if (count === 1) expect(warnings[0]).toMatch(/its log was not replayed/);
    // One torn page leaves the other to say; two leave nobody.
    bytes[log + 511]! ^= 1;
    expect((await openBytes(bytes)).warnings.length).toBe(second[1] === 0 && second[2] === 0 ? 1 : 0);
    bytes[log + LOG_PAGE + 511]! ^= 1;
    expect((await openBytes(bytes)).warnings).toEqual([
      expect.stringMatching(/log of the volume cannot be read/),
    ]);
  });

  it('that is cut short is read as far as it goes', async () => {
    const { bytes } = make();
    const [[place]] = new NaiveNtfs(bytes).rangesOf(make().file.number, 0x80) as [[number, number]];
    const system = await openBytes(bytes.subarray(0, place + 8999));
    expect(system.warnings[0]).toMatch(/the unit is cut short/);
    await expect((await system.lookup('/images/disk')).map()).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/the unit is cut short/),
    });
    const whole = await openBytes(bytes.subarray(0, place + 9000));
    expect((await (await whole.lookup('/images/disk')).map()).size).toBe(9000);
  });

  it('with a name that leads to another life of its record leaves it out if it was in use, else says so', async () => {
    const { bytes, other } = make();
    const naive = new NaiveNtfs(bytes);
    naive.change(other.number, (raw) => void raw.writeUInt16LE(raw.readUInt16LE(16) + 1, 16));
    const clean = await openBytes(bytes);
    const found: string[] = [];
    const walk = async () => {
      for await (const { path } of clean.files()) found.push(path);
    };
    await expect(walk()).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/\/images\/other: the name leads to a record that is free or another/),
    });
    expect(found).toEqual(['/images/disk']);
    const [[log]] = naive.rangesOf(2, 0x80) as [[number, number]];
    bytes.set(restartPage(5, 0, 0), log);
    const used = await openBytes(bytes);
    expect((await listed(used.files())).map(({ path }) => path)).toEqual(['/images/disk']);
    await expect(used.lookup('/images/other')).rejects.toMatchObject({
      message: expect.stringMatching(/was in use/),
    });
  });
});
