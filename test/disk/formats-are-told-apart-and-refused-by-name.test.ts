import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { openDisk } from '../../src/disk/open.ts';
import { BytesUnit, corpus, describeWith, readAll, temporaryFolder } from './images.ts';
import { buildQcow2, dataEntry } from './qcow2-builder.ts';

const folder = temporaryFolder();
const cluster = buildQcow2({ entries: [[dataEntry(0)]], dataClusters: 1 });

function file(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

function starting(bytes: string, at = 0, size = 65536): Uint8Array {
  const image = new Uint8Array(size);
  for (let i = 0; i < bytes.length; i++) image[at + i] = bytes.charCodeAt(i);
  return image;
}

describe('by its magic', () => {
  it.each([
    ['QED', starting('QED\0')],
    ['QCOW (version 1)', starting('QFI\xfb\0\0\0\x01')],
    ['Parallels', starting('WithoutFreeSpace')],
    ['Parallels (extended)', starting('WithouFreSpacExt')],
    ['LUKS', starting('LUKS\xba\xbe')],
    ['cloop', starting('#!/bin/sh\n#V2.0 Format\nmodprobe cloop')],
    ['Bochs', starting('Bochs Virtual HD Image')],
  ])('%s is refused by name, and read as raw when that is said', async (title, bytes) => {
    const path = file('image.bin', bytes);
    await expect(openDisk(path)).rejects.toMatchObject({
      kind: 'unsupported',
      path,
      message: expect.stringContaining(title),
    });
    const disk = await openDisk(path, { format: 'raw' });
    expect(Buffer.from(await readAll(disk)).equals(bytes)).toBe(true);
    expect(disk.warnings).toEqual([]);
    await disk.close();
  });

  it.each([
    ['vhd', starting('conectix')],
    ['vhdx', starting('vhdxfile')],
    ['vdi', starting('\x7f\x10\xda\xbe', 64)],
    ['vmdk', starting('KDMV')],
    ['vmdk', starting('COWD')],
    ['vmdk', starting('\xbe\xba\xfe\xca\0\0\0\0')],
    ['vmdk', starting('# Disk DescriptorFile\nversion=1\n')],
    ['vmdk', starting('# a comment\n\nversion=3\nCID=1\n')],
  ])('%s is read as that, with a warning where its name does not confirm it', async (format, bytes) => {
    // Nothing but its magic is there: the parser of that format says so.
    const damage = {
      kind: expect.stringMatching(/malformed|unsupported/),
      message: expect.stringMatching(/V(HD|DI|MDK)|descriptor|sector|grain|extent|version/),
    };
    await expect(openDisk(file('image.bin', bytes))).rejects.toMatchObject(damage);
    const disk = await openDisk(file('image.bin', bytes), { format: 'raw' });
    expect(disk.warnings).toEqual([]);
    await disk.close();
    await expect(openDisk(file(`image.${format}`, starting('nothing of the kind')))).rejects.toMatchObject({
      kind: 'malformed',
      message: expect.stringMatching(/named like a .* image, and is none/),
    });
  });

  it('VHD (fixed) keeps its mark at the end: looked for where the name says so, else a warning', async () => {
    const bytes = starting('conectix', 65536 - 512);
    await expect(openDisk(file('image.vhd', bytes))).rejects.toMatchObject({ kind: 'malformed' });
    const disk = await openDisk(file('image.raw', bytes));
    expect(disk).toMatchObject({ format: 'raw', warnings: [expect.stringContaining('VHD (fixed)')] });
    await disk.close();
  });

  it.each([['Apple DMG', 'koly', '.dmg']])(
    '%s keeps its mark at the end: refused by that name, raw with a warning by another',
    async (title, mark, extension) => {
      const bytes = starting(mark, 65536 - 512);
      const named = file(`image${extension}`, bytes);
      await expect(openDisk(named)).rejects.toMatchObject({
        kind: 'unsupported',
        message: expect.stringContaining(title),
      });
      const disk = await openDisk(file('image.raw', bytes));
      expect(disk.format).toBe('raw');
      expect(disk.warnings).toHaveLength(1);
      expect(disk.warnings[0]).toContain(title);
      await disk.close();
    },
  );

  it.each([
    ['an empty file', new Uint8Array(0)],
    ['a short file', new Uint8Array(3)],
    ['a boot sector', starting('\x55\xaa', 510)],
    ['text', starting('version=4\nhello\n')],
  ])('%s is raw, without a warning', async (_, bytes) => {
    const disk = await openDisk(file('disk.raw', bytes));
    expect(disk).toMatchObject({ format: 'raw', size: bytes.length, warnings: [] });
    expect(Buffer.from(await readAll(disk)).equals(bytes)).toBe(true);
    await disk.close();
  });
});

describe('a guess of qcow2', () => {
  it.each(['disk.qcow2', 'DISK.QCOW2', 'disk.qcow'])('is not remarked on in %s', async (name) => {
    const disk = await openDisk(file(name, cluster));
    expect(disk).toMatchObject({ format: 'qcow2', warnings: [] });
    await disk.close();
  });

  it.each(['disk.img', 'disk.raw', 'disk', 'qcow2'])('is told in %s', async (name) => {
    const disk = await openDisk(file(name, cluster));
    expect(disk.format).toBe('qcow2');
    expect(disk.warnings).toHaveLength(1);
    expect(disk.warnings[0]).toMatch(
      /guessed from contents that a guest can write; state the format qcow2 .--production-format/,
    );
    await disk.close();
    const stated = await openDisk(join(folder, name), { format: 'qcow2' });
    expect(stated.warnings).toEqual([]);
    await stated.close();
  });

  it('is told of a unit without a file name', async () => {
    expect((await openDisk(new BytesUnit(cluster))).warnings).toHaveLength(1);
  });
});

describe('a stated format', () => {
  it.each(['qcow', 'qed', 'luks'])('%s is known and not read', async (format) => {
    await expect(openDisk(file('x', cluster), { format })).rejects.toMatchObject({ kind: 'unsupported' });
  });
  it('unknown is the caller’s mistake', async () => {
    await expect(openDisk(file('x', cluster), { format: 'qcow3' })).rejects.toMatchObject({
      kind: 'argument',
      message: expect.stringMatching(/expected raw, qcow2, vhd, vhdx, vdi, vmdk/),
    });
  });
  it('of a file that is not there', async () => {
    await expect(openDisk(join(folder, 'absent'))).rejects.toMatchObject({ kind: 'not-found' });
    await expect(openDisk(folder)).rejects.toMatchObject({ kind: 'argument' });
  });
});

describeWith('corpus', 'samples of other formats', () => {
  const samples = readdirSync(corpus === null ? folder : join(corpus, 'generated/other')).filter((name) =>
    name.endsWith('.gz'),
  );

  it.each(samples)('%s', async (name) => {
    const path = file(name.slice(0, -3), gunzipSync(readFileSync(join(corpus!, 'generated/other', name))));
    await expect(openDisk(path)).rejects.toMatchObject({ kind: 'unsupported', path });
  });
});
