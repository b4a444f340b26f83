import { mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { MAX_CHAIN_DEPTH } from '../../src/base/limits.ts';
import { parseAddress } from '../../src/disk/address.ts';
import { openDisk } from '../../src/disk/open.ts';
import type { LogicalUnit } from '../../src/lu/logical-unit.ts';
import { scan } from '../../src/scan/scan.ts';
import { thrown } from '../tools.ts';
import { readAll, temporaryFolder } from './images.ts';
import { buildQcow2, dataEntry } from './qcow2-builder.ts';
import { toyImage } from './toy-file-system.ts';

vi.mock('../../src/disk/containers/file-system-types.ts', async () => {
  const { toyTypes } = await import('./toy-file-system.ts');
  return { fileSystemTypes: toyTypes };
});

const folder = temporaryFolder();
const raw = { type: 0xe2792aca, data: new TextEncoder().encode('raw') };
const qcow2 = { type: 0xe2792aca, data: new TextEncoder().encode('qcow2') };
const sevens = new Uint8Array(65536).fill(7);
const over = (backing: string, format = raw) =>
  buildQcow2({ entries: [[0n]], backing, extensions: [format] });

/** A unit with these files; what a host's file of the same name must never be taken for lies beside it. */
function unitWith(name: string, files: Parameters<typeof toyImage>[0], options = {}): string {
  const path = join(folder, name);
  writeFileSync(path, toyImage(files, options));
  return path;
}
mkdirSync(join(folder, 'vm'));
writeFileSync(join(folder, 'base.raw'), new Uint8Array(65536).fill(9));

async function contents(address: string, options = {}): Promise<Uint8Array> {
  const disk = await openDisk(address, options);
  try {
    return await readAll(disk);
  } finally {
    await disk.close();
  }
}

it('reads a chain whose base lies in the same file system, as one map over the unit', async () => {
  const unit = unitWith(
    'chain.img',
    {
      '/vm/base.raw': sevens,
      '/vm/middle.qcow2': over('base.raw'),
      '/vm/top.qcow2': over('middle.qcow2', qcow2),
    },
    { piece: 4096, scatter: true },
  );
  const disk = await openDisk(`${unit}:ext4:/vm/top.qcow2`);
  expect(disk.warnings).toEqual([]);
  expect(disk.format).toBe('qcow2');
  expect(await readAll(disk)).toEqual(sevens);
  expect(new Set([...disk.map.extents()].map((extent) => disk.units[extent.unit]!.name))).toEqual(
    new Set([unit]),
  );
  // Sixteen scattered pieces.
  expect(disk.map.count).toBe(16);
  expect([...disk.map.extents()].every((extent) => extent.depth === 2)).toBe(true);
  await disk.close();
});

it('takes a file for what its name and contents say together, as on the host', async () => {
  const image = buildQcow2({ entries: [[dataEntry(0)]], dataClusters: 1 });
  const unit = unitWith('names.img', {
    '/a.qcow2': image,
    '/b.raw': sevens,
    '/c.img': image,
    '/bad.qcow2': sevens,
  });
  expect((await contents(`${unit}:ext4:/a.qcow2`))[0]).toBe(1);
  expect((await contents(`${unit}:ext4:/b.raw`))[0]).toBe(7);
  expect((await contents(`${unit}:ext2:/c.img`, { format: 'raw' }))[0]).toBe(0x51);
  const guessed = await openDisk(`${unit}:ext3:/c.img`);
  expect(guessed.warnings.join()).toMatch(/guessed from contents that a guest can write/);
  await guessed.close();
  await expect(openDisk(`${unit}:ext4:/bad.qcow2`)).rejects.toMatchObject({ kind: 'malformed' });
});

it('never looks at files of the host', async () => {
  const absolute = join(folder, 'base.raw');
  const unit = unitWith('host.img', {
    '/vm/relative.qcow2': over('base.raw'),
    '/vm/absolute.qcow2': over(absolute),
    '/vm/data.qcow2': buildQcow2({
      entries: [[1n << 63n]],
      incompatible: 4n,
      extensions: [{ type: 0x44415441, data: new TextEncoder().encode(absolute) }],
    }),
  });
  await expect(openDisk(`${unit}:ext4:/vm/relative.qcow2`)).rejects.toMatchObject({
    kind: 'not-found',
    path: `${unit}:ext4:/vm/relative.qcow2`,
  });
  for (const name of ['absolute', 'data']) {
    await expect(openDisk(`${unit}:ext4:/vm/${name}.qcow2`)).rejects.toMatchObject({ kind: 'policy' });
    // Allowed to leave its folder it is still within its file system.
    await expect(openDisk(`${unit}:ext4:/vm/${name}.qcow2`, { allowOutside: true })).rejects.toMatchObject({
      kind: 'not-found',
    });
  }
});

it.each(['../base.raw', '/base.raw', 'link-out', 'sub/../../base.raw', 'file:../base.raw'])(
  'a name that leads out of the folder: %s, only when allowed',
  async (name) => {
    const unit = unitWith('out.img', {
      '/base.raw': sevens,
      '/vm/link-out': { link: '../base.raw' },
      '/vm/top.qcow2': over(name),
    });
    const address = `${unit}:ext4:/vm/top.qcow2`;
    await expect(openDisk(address)).rejects.toMatchObject({
      kind: 'policy',
      path: address,
      message: expect.stringMatching(/leads outside the image's folder .*:ext4:\/vm: use --allow-outside/),
    });
    expect(await contents(address, { allowOutside: true })).toEqual(sevens);
  },
);

it('a name that leads out is told alike, whether something is there or not', async () => {
  const unit = unitWith('tell.img', {
    '/secret.raw': sevens,
    '/vm/a.qcow2': over('../secret.raw'),
    '/vm/b.qcow2': over('../absent.raw'),
  });
  const message = (name: string) =>
    openDisk(`${unit}:ext4:/vm/${name}`).catch((error: Error) => error.message.replaceAll(name, ''));
  expect(String(await message('b.qcow2')).replace('absent', 'secret')).toBe(await message('a.qcow2'));
});

it.each(['nbd://127.0.0.1/x', 'json:{}', 'host_device:/dev/sda'])('a protocol, never: %s', async (name) => {
  const unit = unitWith('protocol.img', { '/vm/top.qcow2': over(name) });
  for (const allowOutside of [false, true]) {
    await expect(openDisk(`${unit}:ext4:/vm/top.qcow2`, { allowOutside })).rejects.toMatchObject({
      kind: 'policy',
      message: expect.stringMatching(/not a file name but the protocol/),
    });
  }
});

it('loops and endless chains end in an error that names the address', async () => {
  const files: Record<string, Uint8Array> = {
    '/self.qcow2': over('self.qcow2', qcow2),
    '/a.qcow2': over('b.qcow2', qcow2),
    '/b.qcow2': over('a.qcow2', qcow2),
  };
  for (let i = 0; i <= MAX_CHAIN_DEPTH + 1; i++)
    files[`/deep-${i}.qcow2`] = over(`deep-${i - 1}.qcow2`, qcow2);
  const unit = unitWith('loops.img', files);
  for (const name of ['self', 'a']) {
    await expect(openDisk(`${unit}:ext4:/${name}.qcow2`)).rejects.toMatchObject({
      kind: 'malformed',
      path: expect.stringContaining(`${unit}:ext4:/`),
      message: expect.stringMatching(/the chain is a loop/),
    });
  }
  await expect(openDisk(`${unit}:ext4:/deep-${MAX_CHAIN_DEPTH + 1}.qcow2`)).rejects.toMatchObject({
    kind: 'limit',
    message: expect.stringMatching(/at most 64 backing files/),
  });
});

it('says what is there where the word in the address is wrong', async () => {
  const unit = unitWith('kind.img', { '/a.raw': sevens });
  await expect(openDisk(`${unit}:xfs:/a.raw`)).rejects.toMatchObject({
    kind: 'not-found',
    message: expect.stringMatching(/no xfs file system: there is ext4/),
  });
  await expect(openDisk(`${unit}:ext4:/gone.raw`)).rejects.toMatchObject({ kind: 'not-found' });
  writeFileSync(join(folder, 'blank.img'), new Uint8Array(1 << 20));
  await expect(openDisk(`${join(folder, 'blank.img')}:ext4:/a.raw`)).rejects.toMatchObject({
    kind: 'not-found',
    message: expect.stringMatching(/nothing that driftmap knows/),
  });
});

it('a map that leads out of the unit names the address', async () => {
  const image = toyImage({ '/a.raw': sevens });
  writeFileSync(join(folder, 'cut.img'), image.subarray(0, image.length - 4096));
  await expect(openDisk(`${join(folder, 'cut.img')}:ext4:/a.raw`)).rejects.toMatchObject({
    kind: 'malformed',
    path: `${join(folder, 'cut.img')}:ext4:/a.raw`,
  });
});

it('a unit that was written since is noticed: while it is opened, and before it is scanned', async () => {
  const unit = unitWith('live.img', { '/a.raw': sevens, '/b.raw': sevens });
  const address = `${unit}:ext4:/a.raw`;
  const { openPlace } = await import('../../src/disk/places.ts');
  const owned: LogicalUnit[] = [];
  const place = await openPlace(parseAddress(address)!, owned, []);
  place.checkUnchanged();
  const disks = [await openDisk(address), await openDisk(`${unit}:ext4:/b.raw`)] as const;
  utimesSync(unit, 1, 1);
  expect(thrown(() => place.checkUnchanged())).toMatchObject({
    kind: 'io',
    path: unit,
    message: expect.stringMatching(/changed while its tables were read/),
  });
  const [production, replica] = disks;
  await expect(scan({ production, replica, workers: 1 })).rejects.toMatchObject({
    kind: 'mismatch',
    path: address,
    message: expect.stringMatching(/changed since it was opened/),
  });
  for (const each of [...disks, ...owned]) await each.close();
});
