import { statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { loadVhd } from '../../src/disk/formats/vhd.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { BytesUnit, temporaryFolder } from './images.ts';
import { buildVhd, utf16, type VhdSpec } from './vhd-builder.ts';
import { load, parentOf, refusalOf } from './vhd-loading.ts';

const size = 64 * 1024;
const blockSize = 32 * 1024;
const blocks = [null, null];
const utf8 = (text: string) => new TextEncoder().encode(text);

function child(parent: VhdSpec['parent']): BytesUnit {
  return new BytesUnit(buildVhd({ type: 4, size, blockSize, blocks, parent: parent! }), { name: 'child' });
}

async function nameIn(parent: VhdSpec['parent']): Promise<string> {
  return parentOf(await load(loadVhd, child(parent))).name;
}

describe('the name of the parent', () => {
  const relative = { platform: 'W2ru', bytes: utf16('.\\sub\\base.vhd') };
  const absolute = { platform: 'W2ku', bytes: utf16('C:\\disks\\base 2.vhd') };
  const url = { platform: 'MacX', bytes: utf8('file://./xen%20base.vhd') };

  it('relative, with the separators of this machine, before all others', async () => {
    expect(await nameIn({ uuid: 2, locators: [url, absolute, relative] })).toBe('sub/base.vhd');
  });
  it('from a URL, relative as Xen writes it', async () => {
    expect(await nameIn({ uuid: 2, locators: [absolute, url] })).toBe('xen base.vhd');
  });
  it('from a URL that is absolute', async () => {
    const bytes = utf8('file://localhost/disks/base.vhd');
    expect(await nameIn({ uuid: 2, locators: [{ platform: 'MacX', bytes }] })).toBe('/disks/base.vhd');
  });
  it('of an absolute Windows path the last part: beside the image', async () => {
    expect(await nameIn({ uuid: 2, locators: [absolute] })).toBe('base 2.vhd');
  });
  it('from the header where there is no locator', async () => {
    expect(await nameIn({ uuid: 2, unicodeName: 'D:\\x\\héader.vhd' })).toBe('héader.vhd');
  });
  it('without the zeros that some writers count in', async () => {
    const bytes = utf16('base.vhd\0');
    expect(await nameIn({ uuid: 2, locators: [{ platform: 'W2ru', bytes }] })).toBe('base.vhd');
  });
  it('is the format of a VHD, and raw where the image names no UUID, as Xen does', async () => {
    const named = parentOf(await load(loadVhd, child({ uuid: 2, locators: [relative] })));
    expect(named.format).toBe('vpc');
    const unnamed = parentOf(await load(loadVhd, child({ uuid: 0, locators: [relative] })));
    expect(unnamed.format).toBe('raw');
  });

  it.each([
    ['no name at all', { uuid: 2 }, /does not name its parent/],
    ['half a character', { uuid: 2, locators: [{ platform: 'W2ru', bytes: Uint8Array.of(65) }] }, /utf-16le/],
    [
      'half a surrogate pair',
      { uuid: 2, locators: [{ platform: 'W2ru', bytes: Uint8Array.of(0, 0xd8) }] },
      /utf-16le/,
    ],
    ['a zero inside', { uuid: 2, locators: [{ platform: 'W2ru', bytes: utf16('a\0b') }] }, /without zeros/],
    ['nothing', { uuid: 2, locators: [{ platform: 'W2ru', bytes: new Uint8Array(0) }] }, /1 to 65536 bytes/],
    ['not a file', { uuid: 2, locators: [{ platform: 'MacX', bytes: utf8('http://x/y') }] }, /file: URL/],
    ['a bad escape', { uuid: 2, locators: [{ platform: 'MacX', bytes: utf8('file://./%zz') }] }, /file: URL/],
  ])('%s is an error', async (_, parent, reason) => {
    const error = await refusalOf(loadVhd, child(parent));
    expect(error.kind).toBe('malformed');
    expect(error.message).toMatch(reason);
  });

  it('longer than any path, or past the end of the file, is an error', async () => {
    const make = (patchHeader: (header: DataView) => void) =>
      new BytesUnit(
        buildVhd({
          type: 4,
          size,
          blockSize,
          blocks,
          parent: { uuid: 2, locators: [relative] },
          patchHeader,
        }),
      );
    const long = await refusalOf(
      loadVhd,
      make((header) => header.setUint32(584, 65538)),
    );
    expect(long.message).toMatch(/1 to 65536 bytes, got 65538/);
    const past = await refusalOf(
      loadVhd,
      make((header) => header.setBigUint64(592, 2n ** 63n)),
    );
    expect(past.message).toMatch(/past the end of the file/);
  });
});

describe('the parent that was found', () => {
  const folder = temporaryFolder();
  const locators = [{ platform: 'W2ru', bytes: utf16('base.vhd') }];

  /** Checks a base file with a UUID and footer time against a child that wants others; gives the warnings. */
  async function check(base: VhdSpec, wanted: { uuid: number; timestamp?: number }, time?: number) {
    const path = join(folder, 'base.vhd');
    writeFileSync(path, buildVhd(base));
    if (time !== undefined) utimesSync(path, time, time);
    const unit = openFileUnit(path);
    try {
      const { warnings, backing } = await load(loadVhd, child({ ...wanted, locators }));
      await backing!.check!(unit);
      return warnings;
    } finally {
      unit.close();
    }
  }

  const base: VhdSpec = { type: 3, size, blockSize, blocks, uuid: 7, timestamp: 500 };

  it('with another UUID is refused', async () => {
    await expect(check(base, { uuid: 8 })).rejects.toMatchObject({
      kind: 'mismatch',
      path: 'child',
      message: expect.stringMatching(/(08){16}.*base\.vhd with (07){16}/),
    });
  });
  it('that is no VHD is refused', async () => {
    const { backing } = await load(loadVhd, child({ uuid: 7, locators }));
    const raw = new BytesUnit(new Uint8Array(size), { name: 'raw' });
    await expect(Promise.resolve(backing!.check!(raw))).rejects.toMatchObject({
      kind: 'malformed',
      path: 'raw',
    });
  });
  it('with the UUID and the time that the image knows is taken without a word', async () => {
    expect(await check(base, { uuid: 7, timestamp: 86400 }, 946684800 + 86401)).toEqual([]);
    expect(await check(base, { uuid: 7, timestamp: 500 })).toEqual([]);
    expect(await check(base, { uuid: 7 })).toEqual([]);
  });
  it('with the UUID and another time is taken with a warning that tells both times', async () => {
    const warnings = await check(base, { uuid: 7, timestamp: 86400 }, 946684800 + 2 * 86400);
    expect(statSync(join(folder, 'base.vhd')).mtimeMs).toBe((946684800 + 2 * 86400) * 1000);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/modified at 2000-01-03.*over the one of 2000-01-02/);
  });
  it('without a UUID has to be raw: a VHD there is refused', async () => {
    await expect(check(base, { uuid: 0 })).rejects.toMatchObject({
      kind: 'mismatch',
      message: expect.stringMatching(/lies over a raw disk, and .*base\.vhd is a VHD/),
    });
    const { backing, warnings } = await load(loadVhd, child({ uuid: 0, locators }));
    await backing!.check!(new BytesUnit(new Uint8Array(size), { name: 'raw' }));
    expect(warnings).toEqual([]);
  });
});
