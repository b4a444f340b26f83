import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { attachDisk } from '../../src/disk/attach.ts';
import { openDisk } from '../../src/disk/open.ts';
import { openFileUnit } from '../../src/lu/file-unit.ts';
import { BytesUnit, readAll, temporaryFolder } from './images.ts';
import { buildQcow2, dataEntry } from './qcow2-builder.ts';

const folder = temporaryFolder();
const raw = { type: 0xe2792aca, data: new TextEncoder().encode('raw') };
let count = 0;

/** An image over a raw file. */
function chain(): { image: string; base: string } {
  const place = join(folder, String(count++));
  mkdirSync(place);
  const base = join(place, 'base.raw');
  const image = join(place, 'image.qcow2');
  writeFileSync(
    base,
    Uint8Array.from({ length: 100_000 }, (_, i) => i),
  );
  const entries: [bigint][] = [[0n], [dataEntry(0)], [0n]];
  writeFileSync(image, buildQcow2({ entries, dataClusters: 1, backing: 'base.raw', extensions: [raw] }));
  return { image, base };
}

const openFiles = () => readdirSync('/proc/self/fd').length;

describe('attached from a handle', () => {
  it('reads the same and closes nothing', async () => {
    const disk = await openDisk(chain().image);
    const attached = attachDisk(structuredClone(disk.handle()));
    expect(attached).toMatchObject({
      name: disk.name,
      format: 'qcow2',
      size: disk.size,
      identity: disk.identity,
    });
    expect(attached.generation()).toBe(disk.generation());
    const want = await readAll(disk);
    expect(want[1]).toBe(1);
    expect(Buffer.from(await readAll(attached)).equals(want)).toBe(true);
    await attached.close();
    expect(Buffer.from(await readAll(disk)).equals(want)).toBe(true);
    await disk.close();
  });
});

describe('identity and generation', () => {
  it('identity survives writing and renaming; another disk has another', async () => {
    const { image, base } = chain();
    const before = await openDisk(image);
    const fd = openSync(base, 'r+');
    writeSync(fd, Uint8Array.of(99), 0, 1, 50);
    closeSync(fd);
    const moved = image.replace('image', 'moved');
    renameSync(image, moved);
    const after = await openDisk(moved);
    expect(after.identity).toBe(before.identity);
    const other = await openDisk(chain().image);
    expect(other.identity).not.toBe(before.identity);
    const bottom = await openDisk(base);
    expect(bottom.identity).not.toBe(before.identity);
    for (const disk of [before, after, other, bottom]) await disk.close();
  });

  it('identity tells a resized disk from what it was', async () => {
    const { base } = chain();
    const before = await openDisk(base);
    truncateSync(base, 200_000);
    const after = await openDisk(base);
    expect(after.identity).not.toBe(before.identity);
    for (const disk of [before, after]) await disk.close();
  });

  it.each(['image', 'base'] as const)('generation changes when the %s is written', async (which) => {
    const paths = chain();
    const disk = await openDisk(paths.image);
    const before = disk.generation();
    expect(disk.generation()).toBe(before);
    utimesSync(paths[which], 1, 1);
    expect(disk.generation()).not.toBe(before);
    await disk.close();
  });
});

describe('what a disk opens', () => {
  it('it closes, also when opening fails half way, and twice is once', async () => {
    const { image, base } = chain();
    const before = openFiles();
    const disk = await openDisk(image);
    expect(openFiles()).toBe(before + 2);
    await disk.close();
    await disk.close();
    expect(openFiles()).toBe(before);
    truncateSync(image, 200_000);
    await expect(openDisk(image)).rejects.toMatchObject({ kind: 'malformed' });
    renameSync(base, `${base}.gone`);
    await expect(openDisk(image)).rejects.toMatchObject({ kind: 'not-found' });
    expect(openFiles()).toBe(before);
  });

  it('a unit that was given stays open', async () => {
    const unit = new BytesUnit(new Uint8Array(1000));
    await (await openDisk(unit)).close();
    expect(unit.closed).toBe(false);
  });

  it('a file unit that was given finds its backing file beside it', async () => {
    const unit = openFileUnit(chain().image);
    const disk = await openDisk(unit);
    expect((await readAll(disk))[77]).toBe(77);
    await disk.close();
    expect(unit.read(0, new Uint8Array(1))).toBeUndefined();
    unit.close();
  });

  it('units that answer later serve as well', async () => {
    const bytes = buildQcow2({ entries: [[dataEntry(0)], [0n], [dataEntry(1)]], dataClusters: 2 });
    const now = await openDisk(new BytesUnit(bytes), { format: 'qcow2' });
    const later = await openDisk(new BytesUnit(bytes, { wait: true }), { format: 'qcow2' });
    expect(now.read(0, new Uint8Array(5))).toBeUndefined();
    expect(later.read(0, new Uint8Array(5))).toBeInstanceOf(Promise);
    expect(Buffer.from(await readAll(later)).equals(await readAll(now))).toBe(true);
  });
});
