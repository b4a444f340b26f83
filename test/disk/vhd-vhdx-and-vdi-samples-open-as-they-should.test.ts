import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { DriftmapError } from '../../src/base/errors.ts';
import { openDisk } from '../../src/disk/open.ts';
import { scan } from '../../src/scan/scan.ts';
import { corpus, describeWith, gunzip, temporary } from '../tools.ts';
import { readAll, sha256 } from './images.ts';

const folder = temporary();
const sample = (...parts: string[]) => {
  const path = join(folder, parts.at(-1)!.replace(/\.gz$/, ''));
  writeFileSync(path, gunzip(join(corpus!, ...parts)));
  return path;
};
const list = (...parts: string[]) => (corpus === null ? [] : readdirSync(join(corpus, ...parts)));

describeWith(['corpus'], 'samples made by qemu-img', () => {
  const images = ['vhd', 'vhdx', 'vdi'].flatMap((kind) =>
    list('generated', kind).map((name) => [kind, name] as const),
  );
  const manifest = JSON.parse(readFileSync(join(corpus!, 'MANIFEST.json'), 'utf8'));

  it.each(images)('%s/%s has the contents that its manifest says', async (kind, name) => {
    const disk = await openDisk(sample('generated', kind, name));
    expect(disk).toMatchObject({ format: kind, warnings: [] });
    const { sha256_guest, virtual_size } = manifest[`generated/${kind}/${name}`];
    expect(disk.size).toBe(virtual_size);
    expect(sha256(await readAll(disk))).toBe(sha256_guest);
    await disk.close();
  });

  it('of one disk compare equal whatever their formats, and show exactly the drift of another', async () => {
    const paths = [
      ['vhd', 'dynamic.vhd.gz'],
      ['vhdx', 'dyn-1M.vhdx.gz'],
      ['vdi', 'dynamic.vdi.gz'],
      ['qcow2', 'zlib.qcow2.gz'],
    ];
    const disks = await Promise.all(paths.map(([kind, name]) => openDisk(sample('generated', kind!, name!))));
    const drifted = await openDisk(sample('generated', 'base-drift.raw.gz'), { format: 'raw' });
    const base = await openDisk(sample('generated', 'base.raw.gz'), { format: 'raw' });
    const truth = (await scan({ production: base, replica: drifted, workers: 1, blockSize: 4096 })).ranges;
    expect(truth.length).toBeGreaterThan(30);
    for (const [i, production] of disks.entries()) {
      const replica = disks[(i + 1) % disks.length]!;
      expect((await scan({ production, replica, workers: 1 })).markedBlocks).toBe(0);
      expect((await scan({ production, replica: drifted, workers: 1, blockSize: 4096 })).ranges).toEqual(
        truth,
      );
    }
    for (const disk of [...disks, drifted, base]) await disk.close();
  });
});

describeWith(['corpus'], 'damaged samples', () => {
  const expected = JSON.parse(readFileSync(join(corpus!, 'malformed', 'EXPECT.json'), 'utf8'));
  const names = Object.keys(expected).filter((name) => /^[hix]-|^b\.(vhd|vhdx|vdi)$/.test(name));

  it.each(names)('%s is refused, or read within bounds', async (name) => {
    const begun = performance.now();
    const outcome = await openDisk(sample('malformed', `${name}.gz`)).then(
      async (disk) => readAll(disk),
      (error: unknown) => error,
    );
    expect(performance.now() - begun).toBeLessThan(2000);
    if (expected[name].expect === 'ok') expect(outcome).toBeInstanceOf(Uint8Array);
    if (expected[name].expect === 'reject') expect(outcome).toBeInstanceOf(DriftmapError);
    if (outcome instanceof Error) {
      expect(outcome).toMatchObject({ name: 'DriftmapError', path: expect.stringContaining(name) });
      expect((outcome as DriftmapError).kind).not.toBe('internal');
    }
  });
});
